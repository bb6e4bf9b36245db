"""
``protoserve replay``: a journal or a capture against a server.
"""

import json
import signal
import sys

import pytest

from protoserve import Service, route
from protoserve.replaying import write_pcapng
from protoserve.server import server_context
from tests.certificates import Authority
from tests.cli.commanding import serving
from tests.running import PATIENCE, ended, started
from tests.service.kit import Ping, Pong, spoken, until
from tests.test_replaying import Doubling, Echo, calls, entry, frame
from tests.test_replaying import journal as journal  # noqa: PLC0414 - a fixture

SPOKEN = ("--protocol", "tests.service.kit:spoken")
MAX = ("--speed", "max")


@pytest.fixture
def url():
    with serving(Service(spoken, Echo())) as served:
        yield served


def test_same(command, journal, url):
    """What is as it was is told in numbers, and exit code 0."""
    code, printed, errors = command("replay", journal(*calls(3)), url, *MAX)
    assert (0, "") == (code, errors)
    shown = dict(line.rsplit(None, 1) for line in printed.splitlines())
    assert {"conversations": "1", "sent": "3", "answers as recorded": "3"} == shown


def test_different(command, journal):
    """What is different is told, and exit code 1."""
    path = journal(*calls(30))
    with serving(Service(spoken, Doubling())) as url:
        code, printed, _ = command("replay", path, url, *SPOKEN, *MAX)
        assert 1 == code
        lines = printed.splitlines()
        assert "different            29" in lines
        assert "4: expected Pong(value=1), found Pong(value=2)" in lines
        assert "… 19 more" == lines[-1]
        ignored = ("--ignore", "value")
        assert 0 == command("replay", path, url, *SPOKEN, *MAX, *ignored)[0]


def test_json(command, journal):
    """The same as one JSON object."""
    path = journal(*calls(2), *calls(2, session=5, transport="udp"))
    with serving(Service(spoken, Doubling())) as url:
        code, printed, _ = command("replay", path, url, *SPOKEN, *MAX, "--json")
    found = json.loads(printed)
    assert {
        "conversations": 1,
        "sent": 2,
        "same": 1,
        "different": 1,
        "unanswered": 0,
        "unsent": 0,
        "errors": {},
        "left_out": 4,
        "lacking": 0,
        "differences": [
            {"number": 4, "expected": "Pong(value=1)", "found": "Pong(value=2)"}
        ],
        "interrupted": False,
    } == found
    assert 1 == code


def test_interrupted(journal):
    """Ctrl-C ends it, and it says how far it has come."""
    seen = []

    class Counting(Echo):
        @route
        def ping(self, message: Ping) -> Pong:
            seen.append(message)
            return Pong(message.value)

    path = journal(*calls(3, step=3600))
    with serving(Service(spoken, Counting())) as url:
        words = (sys.executable, "-m", "protoserve", "replay", path, url)
        with started(words) as process:
            until(lambda: seen, PATIENCE)
            code, printed = ended(process, signal.SIGINT)
    assert 130 == code
    shown = [line.split() for line in printed.splitlines()]
    assert ["sent", "1"] in shown
    assert printed.rstrip().endswith(f"% of {path} was read")
    assert "Traceback" not in printed


def test_capture(command, tmp_path, url):
    """A capture is replayed; its server's port is given, or the URL's."""
    pytest.importorskip("dpkt")
    path = tmp_path / "made.pcapng"
    write_pcapng(calls(3), path)
    for options in (("--port", "7000"), ("--port", "53", "--port", "7000")):
        assert 0 == command("replay", path, url, *MAX, *options)[0]
    code, printed, line = command("replay", path, url, *MAX)
    port = url.rpartition(":")[2]
    assert (2, "") == (code, printed)
    expected = f"there is nothing that was sent to port {port}; see --port"
    assert f"protoserve: {path}: {expected}\n" == line


def test_tls(command, journal, tmp_path):
    """What a client has sent over TCP can be replayed over TLS."""
    authority = Authority(tmp_path)
    context = server_context(*authority.issue("127.0.0.1"))
    path = journal(*calls(3))
    with serving(Service(spoken, Echo()), "tls", context) as url:
        trusted = ("--tls-ca", authority.ca_file)
        assert 0 == command("replay", path, url, *MAX, *trusted)[0]
        code, printed, _ = command("replay", path, url, *MAX)
    assert 1 == code
    assert "not connected: " in printed


HERE = "tcp://127.0.0.1:1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{}/nowhere", HERE), "cannot read {}/nowhere: No such file"),
        (("{}", HERE), "cannot read {}: Is a directory"),
        (("{}/text", HERE), "{}/text: line 1: it is no JSON"),
        (("{}/good", "tpc://127.0.0.1:1"), "did you mean tcp?"),
        (("{}/good", HERE, "--speed", "fast"), "expected 1x, a multiple of it"),
        (("{}/good", HERE, "--speed", "0x"), "expected 1x, a multiple of it"),
        (("{}/good", HERE, "--timeout", "soon"), "expected a time such as 10s"),
        (("{}/good", HERE, "--ignore", "value"), "so it needs --protocol"),
        (("{}/good", HERE, "--protocol", "tests.service.kit:spokn"), "did you mean"),
        (("{}/good", "udp://127.0.0.1:1"), "there are only streams, which cannot be"),
        (("{}/good", HERE, "--insecure"), "are for tls://HOST:PORT"),
        (("{}/empty", HERE), "there is nothing that a client has sent"),
        (("{}/cut.pcap", HERE), "its header is cut"),
    ],
)
def test_refused(refused, tmp_path, arguments, words):
    """What the user can put right is one line, and exit code 2."""
    pytest.importorskip("dpkt")
    (tmp_path / "text").write_text("something else\n")
    (tmp_path / "empty").write_text("")
    (tmp_path / "cut.pcap").write_bytes(b"\xa1\xb2\xc3\xd4\0")
    (tmp_path / "good").write_text(entry(1, "in", frame(1, 0, 0)).as_json() + "\n")
    line = refused("replay", *(word.format(tmp_path) for word in arguments))
    assert words.format(tmp_path) in line


def test_nobody_there(command, journal):
    """Where nobody listens, exit code 1."""
    code, printed, _ = command("replay", journal(*calls(1)), HERE, *MAX)
    assert 1 == code
    assert "not connected: Connection refused" in printed
