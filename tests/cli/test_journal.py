"""
``protoserve run --journal`` in every mode, and ``protoserve journal``.
"""

import json
import signal

import pytest

from protoserve.journal import read_journal
from protoserve.serve import MODES
from tests.cli.kit import in_mode
from tests.service.kit import Ping, Pong, until


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.jsonl"


def converse(process):
    """Speak on two connections and from two datagram sockets."""
    for which in (0, 0, 1, 1):
        with process.client(which) as client:
            for value in (101, 102):
                assert Pong(value) == client.call(Ping(value))
            client.sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            if not which:
                assert b"" == client.rest()
            else:
                assert Pong(103) == client.call(Ping(103))


@pytest.mark.parametrize("mode", MODES)
def test_every_mode(run, path, mode):
    """Whatever the mode, each message is there, in one row of numbers."""
    options = in_mode(mode, "--journal", str(path))
    process = run("tcp://127.0.0.1:0", "udp://127.0.0.1:0", options=options)
    converse(process)
    assert 0 == process.stop()[0]
    entries = list(read_journal(path))
    assert list(range(1, 25)) == [e.n for e in entries]
    assert 4 == len({e.session for e in entries})
    for which, bound in enumerate(process.bound):
        own = [e for e in entries if e.transport == bound.transport]
        assert {str(bound)} == {e.local for e in own}
        for number in {e.session for e in own}:
            said = [e for e in own if e.session == number]
            values = [101, 102, 103][: 2 + which]
            for name, direction in (("Ping", "in"), ("Pong", "out")):
                found = [e.fields["value"] for e in said if e.message == name]
                assert values == found
                assert {direction} == {e.direction for e in said if e.message == name}
            (wrong,) = [e for e in said if e.outcome != "ok"]
            assert b"GET / HTTP/1.1\r\n\r\n" == wrong.raw
            assert "HTTP request" in wrong.outcome


@pytest.mark.parametrize("mode", ["loop", "prefork"])
def test_kill(run, path, mode):
    """A server that is killed has lost no entry of what it has answered."""
    process = run(options=in_mode(mode, "--journal", str(path)))
    with process.client() as client:
        for value in range(100, 200):
            assert Pong(value) == client.call(Ping(value))
        process.stop(signal.SIGKILL)
    assert 200 == sum(1 for _ in read_journal(path))


def test_two_runs(run, path):
    """A second run goes on with the journal of the first."""
    for _ in range(2):
        process = run(options=("--journal", str(path)))
        with process.client() as client:
            assert Pong(100) == client.call(Ping(100))
        process.stop()
    assert [1, 2, 3, 4] == [e.n for e in read_journal(path)]


def test_full_disk(run):
    """A full disk does not stop the service, and is told once."""
    process = run(options=("--journal", "/dev/full"))
    with process.client() as client:
        for value in range(100, 150):
            assert Pong(value) == client.call(Ping(value))
    until(lambda: process.lines[1:])
    assert 0 == process.stop()[0]
    (line,) = [line for line in process.lines if "journal" in line]
    assert "/dev/full cannot be written to, entries are lost: No space" in line


APP = "tests.cli.station:only_datagrams"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere/at/all", "No such file or directory"),
        ("", "Is a directory"),
        ("text", "is not empty, and no journal"),
    ],
)
def test_wrong_files(refused, tmp_path, name, words):
    """A file that cannot be a journal is one line, and nothing is served."""
    (tmp_path / "text").write_text("something else\n")
    listen = ("--listen", "udp://127.0.0.1:0")
    line = refused("run", APP, *listen, "--journal", tmp_path / name)
    assert line.startswith("protoserve: --journal")
    assert words in line


# Looking at it -------------------------------------------------------------

LINES = """\
{"n":1,"time":1.5,"transport":"tcp","local":"tcp://127.0.0.1:1","peer":"tcp://127.0.0.1:2","session":1,"role":"server","direction":"in","message":"Ping","header":{"kind":1,"sequence":7},"fields":{"value":9},"outcome":"ok","raw":"000401000709"}
{"n":2,"time":1.75,"transport":"tcp","local":"tcp://127.0.0.1:1","peer":"tcp://127.0.0.1:2","session":1,"role":"server","direction":"out","message":"Pong","header":{"kind":2,"sequence":7},"fields":{"value":9},"outcome":"ok","raw":"000402000709"}
{"n":3,"time":2,"transport":"tcp","local":"tcp://127.0.0.1:1","peer":"tcp://127.0.0.1:2","session":1,"role":"server","direction":"in","message":null,"header":null,"fields":null,"outcome":"it is wrong","raw":"0001ff"}
"""


def test_shown(command, path):
    """Each message is a line: when, who, which way, what."""
    path.write_text(LINES)
    code, printed, _ = command("journal", path)
    lines = printed.splitlines()
    assert (0, 3) == (code, len(lines))
    assert ".500000 tcp://127.0.0.1:2 → Ping" in lines[0]
    assert '← Pong {"value": 9}' in lines[1]
    assert "→ ? it is wrong [00 01 ff]" in lines[2]


def test_an_error_with_a_dump(command, path):
    """An error of several lines is shown as one: the bytes behind it are enough."""
    path.write_text(LINES.replace("it is wrong", r"it is wrong\n0000  01 ff\n  ^^"))
    _, shown, _ = command("journal", path)
    assert 3 == len(shown.splitlines())
    assert "it is wrong [00 01 ff]" in shown


def test_shown_as_json(command, path):
    """With --json it is shown as it stands there."""
    path.write_text(LINES)
    code, printed, _ = command("journal", path, "--json")
    assert 0 == code
    shown = [json.loads(line) for line in printed.splitlines()]
    assert [json.loads(line) for line in LINES.splitlines()] == shown


def test_as_capture(command, path, tmp_path):
    """A journal becomes a capture, which decodes to the same messages."""
    pytest.importorskip("dpkt")
    path.write_text(LINES)
    made = tmp_path / "made.pcapng"
    code, printed, _ = command("journal", path, "--pcapng", made)
    assert (0, f"{made}: 9 packets\n") == (code, printed)
    code, printed, _ = command(
        "decode", "tests.service.kit:spoken", made, "--port", "1", "--json"
    )
    first, second, third = map(json.loads, printed.splitlines())
    assert ({"value": 9}, {"value": 9}) == (first["fields"], second["fields"])
    assert [1.5, 1.75] == [first["time"], second["time"]]
    assert ("request", "response") == (first["direction"], second["direction"])
    assert (1, True) == (code, third["error"] is not None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("journal", "{}/nowhere"), "nowhere: No such file"),
        (("journal", "{}/nowhere", "--pcapng", "{}/x"), "nowhere: No such file"),
        (("journal", "{}/text"), "line 1: it is no JSON"),
        (("journal", "{}/text", "--pcapng", "{}/x"), "line 1: it is no JSON"),
        (("journal", "{}/good", "--pcapng", "{}/a/b"), "a/b: No such file"),
        (
            ("journal", "{}/x.pcapng"),
            "x.pcapng is a capture, no journal; see protoserve",
        ),
        (("journal", "{}/bytes"), "bytes: line 1: it is no text in UTF-8"),
    ],
)
def test_what_cannot_be_shown(command, tmp_path, arguments, words):
    """What is wrong with a file is one line."""
    (tmp_path / "text").write_text("something else\n")
    (tmp_path / "good").write_text(LINES)
    (tmp_path / "x.pcapng").write_bytes(bytes.fromhex("0a0d0d0a1c000000"))
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\0\0")
    code, _, line = command(*(word.format(tmp_path) for word in arguments))
    assert (2, 1) == (code, line.count("\n"))
    assert words in line
