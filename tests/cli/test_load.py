"""
``protoserve load`` as people run it; what it measures is tested with the generator.
"""

import json
import os
import pty
import subprocess
import sys

import pytest

from protoserve import Service
from protoserve.server import server_context
from tests.certificates import Authority
from tests.cli.commanding import serving
from tests.cli.kit import ROOT
from tests.service.kit import PATIENCE, spoken
from tests.test_loadgen import Begged, tiny
from tests.test_replaying import Echo

pytest.importorskip("hdrh")

SPOKEN = "tests.service.kit:spoken"
SHORT = ("--duration", "200ms", "--warm-up", "0s")


@pytest.fixture
def url():
    with serving(Service(spoken, Echo())) as served:
        yield served


def test_table(command, url):
    """The figures are a table, and exit code 0."""
    options = ("--connections", "2", "--pipeline", "3", *SHORT)
    code, printed, errors = command("load", SPOKEN, url, "Ping", "value=7", *options)
    assert (0, "") == (code, errors)
    title, *rows = printed.splitlines()
    assert (
        f"spoken Ping to {url}: 2 connections, at most 3 outstanding on each, "
        "closed loop"
    ) == title
    shown = dict(row.split(None, 1) for row in rows if row.strip())
    assert shown["sent"] == shown["answered"]
    assert "none" == shown["errors"].strip()
    assert {"rate", "fastest", "mean", "50", "99", "99.9", "slowest"} <= shown.keys()


def test_json(command, url):
    """The same as one JSON object; an open loop sends what is due."""
    options = ("--rate", "500", "--pipeline", "50", "--json", *SHORT)
    words = ("Text", "text=hex:{n:04x}")
    code, printed, _ = command("load", SPOKEN, url, *words, *options)
    found = json.loads(printed)
    assert 0 == code
    assert 100 == pytest.approx(found["sent"], abs=15)
    assert found["sent"] == found["answered"]
    assert ({}, 0, 0) == (found["errors"], found["unsent"], found["late"])
    assert found["latency"]["min"] <= found["latency"]["p99.9"]
    assert found["seconds"] == pytest.approx(0.2, abs=0.1)


def test_errors(command, tmp_path):
    """Error responses are told, and exit code 1; values may come from a file."""
    (tmp_path / "values").write_text("1\n2\n")
    with serving(Service(tiny, Begged())) as url:
        target = ("tests.test_loadgen:tiny", url, "Beg", f"value=@{tmp_path}/values")
        code, printed, _ = command("load", *target, *SHORT)
        assert 1 == code
        assert "error response" in printed
        code, printed, _ = command("load", *target, *SHORT, "--header", "kind=1")
        assert 1 == code


def test_tls(command, tmp_path):
    """A server at tls:// is loaded as well, once its certificate is trusted."""
    authority = Authority(tmp_path)
    context = server_context(*authority.issue("127.0.0.1"))
    with serving(Service(spoken, Echo()), "tls", context) as url:
        load = ("load", SPOKEN, url, "Ping", "--pipeline", "50", "--json", *SHORT)
        code, printed, _ = command(*load, "--tls-ca", authority.ca_file)
        assert 0 == code, printed
        assert json.loads(printed)["answered"] > 10
        code, _, line = command(*load)
    assert (2, True) == (code, line.startswith("protoserve: cannot connect to tls://"))


def test_plot(command, url, tmp_path):
    """A picture is written where one is asked for."""
    pytest.importorskip("matplotlib")
    path = tmp_path / "made.svg"
    assert 0 == command("load", SPOKEN, url, "Ping", *SHORT, "--plot", path)[0]
    assert "Latency by percentile" in path.read_text()
    nowhere = tmp_path / "nowhere" / "made.svg"
    code, _, line = command("load", SPOKEN, url, "Ping", *SHORT, "--plot", nowhere)
    assert (2, 1) == (code, line.count("\n"))
    assert f"cannot write {nowhere}: No such file" in line


def test_terminal(url):
    """On a terminal a line shows how it goes, and is gone at the end."""
    ours, theirs = pty.openpty()
    arguments = ("load", SPOKEN, url, "Ping", "--duration", "300ms", "--warm-up", "0s")
    with os.fdopen(theirs, "wb") as end:
        ran = subprocess.run(
            [sys.executable, "-m", "protoserve", *arguments],
            stdout=subprocess.PIPE,
            stderr=end,
            cwd=ROOT,
            timeout=PATIENCE,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        )
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert 0 == ran.returncode
    assert "warming up" in shown
    assert "0/0.3 s" in shown
    assert shown.endswith("\r\x1b[K")


HERE = "tcp://127.0.0.1:1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((SPOKEN, HERE, "Pnig"), "did you mean Ping?"),
        ((SPOKEN, HERE, "Pong"), "Pong is a response of spoken"),
        ((SPOKEN, HERE, "Ping", "valeu=7"), "did you mean value?"),
        ((SPOKEN, HERE, "Ping", "value"), "expected FIELD=VALUE"),
        ((SPOKEN, HERE, "Ping", "value=700"), "Ping.value"),
        ((SPOKEN, HERE, "Ping", "value=@/no/where"), "cannot read /no/where: No such"),
        ((SPOKEN, HERE, "Ping", "--header", "knid=7"), "did you mean kind?"),
        ((SPOKEN, HERE, "Ping", "--rate", "0"), "expected a number above 0"),
        ((SPOKEN, HERE, "Ping", "--connections", "0"), "--connections"),
        ((SPOKEN, HERE, "Ping", "--duration", "soon"), "expected a time such as 10s"),
        ((SPOKEN, HERE, "Ping", "--duration", "0"), "duration: expected a number"),
        ((SPOKEN, HERE, "Ping", "--plot", "a.png"), "expected the name of an .svg"),
        ((SPOKEN, HERE, "Ping", "--insecure"), "are for tls://HOST:PORT"),
        ((SPOKEN, HERE, "Ping"), "cannot connect to tcp://127.0.0.1:1: Connection ref"),
        ((SPOKEN, "tpc://127.0.0.1:1", "Ping"), "did you mean tcp?"),
        (("tests.service.kit:spokn", HERE, "Ping"), "did you mean spoken?"),
    ],
)
def test_refused(refused, arguments, words):
    """What the user can put right is one line, and exit code 2."""
    assert words in refused("load", *arguments)


def test_values_beyond_the_first(refused, tmp_path):
    """A value that only a later request would have is refused as well."""
    (tmp_path / "values").write_text("1\n700\n")
    line = refused("load", SPOKEN, HERE, "Ping", f"value=@{tmp_path}/values")
    assert "Ping.value" in line


@pytest.mark.parametrize(
    ("missing", "options", "extra"),
    [("hdrh", (), "load"), ("matplotlib", ("--plot", "a.svg"), "plot")],
)
def test_without_extras(refused, monkeypatch, missing, options, extra):
    """Where an extra is missing, that is told before anything is sent."""
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "hdrh.histogram", raising=False)
    line = refused("load", SPOKEN, HERE, "Ping", *options)
    assert f"pip install 'protoserve[{extra}]'" in line
