"""
``protoserve run`` as people run it: a process, its signals, its lines.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import protoserve.cli
from protoserve.cli import commands
from protoserve.serve import MODES
from tests.cli.kit import ROOT, in_mode
from tests.running import ran
from tests.service.kit import PATIENCE, Ping, Pong, Text, until

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SOON = 30.0
"""Seconds in which an end that waits for nothing comes, on a busy machine."""
PATIENT = ("--drain", str(2 * SOON))
"""What a run is told that has nothing to wait for, so that it shows if it waits."""


def failed(*arguments, cwd=ROOT):
    """
    Run a command that cannot work; give its one line.
    """
    done = subprocess.run(
        [sys.executable, "-m", "protoserve", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (2, "") == (done.returncode, done.stdout), done.stderr
    assert 1 == len(done.stderr.splitlines()), done.stderr
    return done.stderr.rstrip("\n")


# Serving -------------------------------------------------------------------


def lifespans(mode):
    """
    Give the lines that the lifespan prints in a mode, sorted.
    """
    count = 2 if mode == "prefork" else 1
    return ["closed"] * count + ["opened"] * count


def every_url(folder):
    return ("tcp://127.0.0.1:0", "udp://127.0.0.1:0", "tcp://[::1]:0", "udp://[::1]:0",
            f"unix://{folder}/a", f"unixgram://{folder}/b")  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_every_transport(run, folder, mode):
    """Every address is served in every mode, and told in the order given."""
    urls = every_url(folder)
    process = run(*urls, options=in_mode(mode, *PATIENT))
    for url, bound in zip(urls, process.bound, strict=True):
        assert re.fullmatch(re.escape(url).replace(":0", r":[1-9]\d*"), str(bound))
    for which in range(len(urls)):
        with process.client(which) as client:
            assert Pong(3) == client.call(Ping(3))
    code, seconds, printed = process.stop()
    assert (0, lifespans(mode)) == (code, sorted(printed.split()))
    assert seconds < SOON
    assert [f"listening on {address}" for address in process.bound] == process.lines
    assert [] == list(folder.iterdir())
    assert process.is_gone


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("mode", MODES)
def test_busy_and_idle(run, mode, number):
    """A signal lets the requests at hand finish, and ends idle connections."""
    process = run(options=in_mode(mode, *PATIENT))
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(process.client())
            for _ in range(1 if mode == "single" else 3)
        ]
        for client in clients:
            assert Pong(1) == client.call(Ping(1))
        clients[0].send(Ping(50), Ping(2))
        time.sleep(0.1)
        code, seconds, printed = process.stop(number)
        assert (0, lifespans(mode)) == (code, sorted(printed.split()))
        assert seconds < SOON
        assert [Pong(50), Pong(2), None] == [clients[0].receive() for _ in range(3)]
        for client in clients[1:]:
            assert None is client.receive()
    assert process.is_gone


@pytest.mark.parametrize("urls", [1, 2])
@pytest.mark.parametrize("message", [Ping(255), Text(b"for ever")])
@pytest.mark.parametrize("mode", MODES)
def test_stuck_handler(run, mode, message, urls):
    """A handler that does not end holds up the end no longer than --drain says."""
    process = run(
        *["tcp://127.0.0.1:0"] * urls, options=in_mode(mode, "--drain", "0.3")
    )
    with process.client() as client:
        client.send(message)
        if isinstance(message, Text):
            assert Text(b"tick") == client.receive()
        else:
            until(lambda: "begun" in process.lines)
        code, seconds, _ = process.stop()
        assert 0 == code
        assert 0.25 < seconds < SOON
    assert "1 requests were not done after 0.3 s" in "\n".join(process.lines)
    until(lambda: process.is_gone)


@pytest.mark.parametrize("value", [254, 255])
def test_stuck_coroutine(run, value):
    """A coroutine that sleeps or blocks does not hold up the end either."""
    process = run(target="tests.cli.station:later", options=("--drain", "0.3"))
    with process.client() as client:
        client.send(Ping(value))
        until(lambda: "begun" in process.lines)
        code, seconds, _ = process.stop()
        assert 0 == code
        assert seconds < SOON


@pytest.mark.parametrize("urls", [1, 2])
@pytest.mark.parametrize("mode", ["threads", "fork"])
def test_stuck_datagram(run, mode, urls):
    """A datagram's handler is bounded too."""
    listen = ["udp://127.0.0.1:0", "tcp://127.0.0.1:0"][:urls]
    process = run(*listen, options=in_mode(mode, "--drain", "0.3"))
    with process.client() as client:
        client.send(Ping(255))
        until(lambda: "begun" in process.lines)
        code, seconds, _ = process.stop()
        assert 0 == code
        assert seconds < SOON


@pytest.mark.parametrize("mode", MODES)
def test_signals_in_a_row(run, mode):
    """Signals may come at any time and as often as they like."""
    process = run("tcp://127.0.0.1:0", "udp://127.0.0.1:0", options=in_mode(mode))
    for number in SIGNALS * 10:
        with contextlib.suppress(ProcessLookupError):
            process.process.send_signal(number)
    assert 0 == process.process.wait(PATIENCE)
    assert process.is_gone


LATE = """
import os, signal, sys, threading, time

from protoserve.cli import main

class Last:
    kill, me = os.kill, os.getpid()

    def __del__(self):  # by now the interpreter has given up its handlers
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self.kill(self.me, number)

def end():
    while signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)

last = Last()
threading.Thread(target=end).start()
sys.argv[1:] = ["run", "tests.cli.station:app", "--listen", "tcp://127.0.0.1:0"]
main()
"""


def test_signals_after_the_end():
    """Signals that come when all is done, and only the interpreter is left, change nothing."""
    done = ran(LATE, cwd=ROOT)
    assert 0 == done.returncode, done.stderr


def test_restart_at_once(run):
    """The address of a run that has ended, with connections open, is free again."""
    process = run()
    with process.client() as client:
        assert Pong(1) == client.call(Ping(1))
        url = str(process.bound[0])
        process.stop()
        with run(url).client() as other:
            assert Pong(1) == other.call(Ping(1))


def test_restart_of_unix_sockets(run, folder):
    """The path of a run that was killed is taken over."""
    urls = (f"unix://{folder}/a", f"unixgram://{folder}/b")
    run(*urls).stop(signal.SIGKILL)
    process = run(*urls)
    for which in range(2):
        with process.client(which) as client:
            assert Pong(1) == client.call(Ping(1))


def test_limits(run):
    """Limits are set by name."""
    process = run(options=("--limit", "first_frame=0.1", "--limit", "idle=none"))
    with process.client() as client:
        assert None is client.receive()
    assert 0 == process.stop()[0]
    assert "limit first_frame: exceeded 0.1 s" in "\n".join(process.lines)


@pytest.mark.parametrize("mode", ["threads", "fork"])
def test_json(run, mode):
    """With json, every line but those of the listeners is a JSON object."""
    process = run(
        "tcp://127.0.0.1:0",
        "udp://127.0.0.1:0",
        options=("--log-format", "json", "--verbose", "--mode", mode),
    )
    for which in range(2):
        with process.client(which) as client:
            client.send(Ping(254))
            if not which:
                assert None is client.receive()
        with process.client(which) as client:
            client.sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with process.client(which) as client:
            assert Pong(253) == client.call(Ping(253))
        client = process.client(which)
        client.send(Ping(1))
        client.reset()
    assert 0 == process.stop()[0]
    assert [f"listening on {b}" for b in process.bound] == process.lines[:2]
    logged = [json.loads(line) for line in process.lines[2:]]
    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, logged))
    text = "\n".join(f"{entry['level']} {entry['message']}" for entry in logged)
    assert "error ping() failed for " in text
    assert "HTTP request" in text
    assert "something is odd" in text
    (failure, *_) = [e for e in logged if "failed" in e["message"]]
    assert "RuntimeError: told to\nin two lines" in failure["traceback"]


def test_console_logs(run):
    """For people there is the time, the level, the message and the traceback."""
    process = run()
    with process.client() as client:
        client.send(Ping(254))
        assert None is client.receive()
    assert 0 == process.stop()[0]
    text = "\n".join(process.lines)
    assert re.search(
        r"^\d\d:\d\d:\d\d ERROR   ping\(\) failed for tcp://", text, re.MULTILINE
    )
    assert "RuntimeError: told to" in text


def test_flood_of_malformed_datagrams(run):
    """It is logged a line a second, not a line each."""
    process = run("udp://127.0.0.1:0")
    with process.client() as client:
        for _ in range(5000):
            client.sock.send(b"\1")
        client.sock.settimeout(0.1)
        answer = None
        while answer != Pong(1):
            with contextlib.suppress(TimeoutError):
                answer = client.call(Ping(1))
    assert 0 == process.stop()[0]
    assert len(process.lines) < 100


# What cannot be run --------------------------------------------------------

APP = "tests.cli.station:app"
HERE = ("--listen", "tcp://127.0.0.1:0")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run",), "Missing argument 'MODULE:APP'"),
        (("run", APP), "Missing option '--listen'"),
        (("run", APP, "--lisen", "x"), "--listen"),
        (("run", APP, "more", *HERE), "unexpected extra argument"),
        (("rnu", APP), "'run'"),
        (("--bogus",), "No such option"),
        (("run", APP, *HERE, "--mode", "thread"), "did you mean threads?"),
        (("run", APP, *HERE, "--mode", "x"), "'x' is not one of threads, fork, single"),
        (("run", APP, *HERE, "--log-format", "jsn"), "did you mean json?"),
        (("run", APP, *HERE, "--gro"), "--gro is for datagrams in mode batch, not thr"),
        (("run", APP, *HERE, "--mode", "batch", "--gro"), "expected a --listen udp:/"),
        (("run", APP, *HERE, "--drain", "soon"), "--drain"),
        (("run", APP, *HERE, "--drain", "-1"), "--drain"),
        (("run", APP, *HERE, "--drain", "nan"), "--drain"),
        (("run", APP, *HERE, "--limit", "idel=5"), "did you mean idle?"),
        (("run", APP, *HERE, "--limit", "idle=x"), "limit idle: expected a number"),
        (("run", APP, "--listen", "tpc://127.0.0.1:0"), "did you mean tcp?"),
        (("run", APP, "--listen", "127.0.0.1:0"), "is no URL"),
        (("run", APP, "--listen", "tcp://127.0.0.1:x"), "expected HOST:PORT"),
        (("run", APP, "--listen", "tcp://192.0.2.1:0"), "cannot listen on tcp://192.0"),
        (("run", APP, "--listen", "unix:///no/such/folder/s"), "cannot listen on unix"),
        (("run", APP, "--listen", "unix:///" + "x" * 200), "cannot listen on unix"),
        (("run", "tests", *HERE), "'tests': expected MODULE:NAME"),
        (("run", "tests:", *HERE), "expected MODULE:NAME"),
        (("run", "tests.nowhere:app", *HERE), "no module 'tests.nowhere'"),
        (("run", "nowhere.at.all:app", *HERE), "no module 'nowhere'"),
        (("run", "tests/cli/station.py:app", *HERE), "write tests.cli.station"),
        (("run", ".station:app", *HERE), "cannot import .station"),
        (("run", "tests.cli.station:ap", *HERE), "has no 'ap'; did you mean app?"),
        (("run", "tests.cli.station:time", *HERE), "is a module, expected a Service"),
        (("run", "tests.cli.station:spoken", *HERE), "is a Protocol, expected a Service"),
        (("run", "tests.cli.station:only_datagrams", *HERE), "has no framing="),
        (("run", "tests.cli.station:unready", *HERE), "OSError: no database"),
    ],
)  # fmt: skip
def test_one_line(arguments, words, monkeypatch, capsys):
    """What the user can put right is one line, and exit code 2."""
    monkeypatch.setattr(sys, "argv", ["protoserve", *arguments])
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(commands.run, "set_up_logging", lambda *_args, **_options: None)
    with pytest.raises(SystemExit) as caught:
        protoserve.cli.main()
    assert 2 == caught.value.code
    line = capsys.readouterr().err
    assert (1, True) == (line.count("\n"), line.startswith("protoserve: "))
    assert words in line


MODULES = {
    "unfinished": ("def f(:\n", "unfinished.py"),
    "failing": ("x = 1\nraise ValueError('two\\nlines')\n", "failing.py:2"),
    "exiting": ("import sys\nsys.exit(0)\n", "SystemExit: 0"),
    "lacking": ("import nothing_like_this\n", "No module named 'nothing_like_this'"),
    "wrong": (
        """
from construct import Int8ub
from protoserve import Message, wire
class M(Message):
    parse: int = wire(Int8ub)
""",
        "M.parse: a field of this name would shadow Message.parse",
    ),
    "unrouted": (
        """
from protoserve import Service
from tests.service.kit import spoken
app = Service(spoken, object())
""",
        "object cannot serve spoken: it has no routes",
    ),
    "nameless": ("from protoserve import Service\n", "nameless has no 'app'"),
}


@pytest.mark.parametrize("name", list(MODULES))
def test_bad_modules(tmp_path, name):
    """Whatever is wrong with a module is one line."""
    source, words = MODULES[name]
    (tmp_path / f"{name}.py").write_text(source)
    assert words in failed("run", f"{name}:app", *HERE, cwd=tmp_path)


def test_port_in_use():
    """A port that is taken is one line."""
    for kind, transport in ((socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")):
        with socket.socket(type=kind) as other:
            other.bind(("127.0.0.1", 0))
            if transport == "tcp":
                other.listen()
            url = f"{transport}://127.0.0.1:{other.getsockname()[1]}"
            line = failed("run", APP.replace("app", "later"), *HERE, "--listen", url)
            assert f"protoserve: cannot listen on {url}: Address already in use" == line


def test_one_json_line():
    """With json, that line is JSON too."""
    line = failed("run", "nowhere:app", *HERE, "--log-format", "json")
    assert "there is no module 'nowhere'" == json.loads(line)["message"]


def test_files_are_not_overwritten(tmp_path):
    """A path that is no socket is in use, and stays."""
    path = tmp_path / "precious"
    path.write_text("data")
    line = failed("run", "tests.cli.station:later", "--listen", f"unix://{path}")
    assert "Address already in use" in line
    assert "data" == path.read_text()


def test_without_typer():
    """Where the extra is missing, that is told."""
    program = """
import sys
sys.modules["typer"] = None
from protoserve.cli import main
main()
"""
    done = ran(program)
    expected = (
        "protoserve: the command line needs typer; install it with "
        "pip install 'protoserve[cli]'\n"
    )
    assert (2, expected) == (done.returncode, done.stderr)


def test_metrics_without_their_extra():
    """Where what metrics need is missing, that is told."""
    program = """
import sys
sys.modules["numpy"] = None
from protoserve.cli import main
sys.argv[1:] = ["run", "tests.cli.station:later", "--listen", "tcp://127.0.0.1:0"]
sys.argv += ["--metrics", "127.0.0.1:0"]
main()
"""
    done = ran(program)
    expected = (
        "protoserve: metrics need numpy; install it with "
        "pip install 'protoserve[prometheus]'\n"
    )
    assert (2, expected) == (done.returncode, done.stderr)


def test_version():
    """The program says which version it is, installed or not."""
    done = subprocess.run(
        [sys.executable, "-m", "protoserve", "--version"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (0, "") == (done.returncode, done.stderr)
    assert re.fullmatch(r"protoserve (\d+\.\d+.*|from a checkout, .*)\n", done.stdout)


@pytest.mark.parametrize("arguments", [(), ("--help",), ("run", "--help")])
def test_help(arguments):
    """Help is shown for the program, as for the module, and each command."""
    for program in ([sys.executable, "-m", "protoserve"], ["protoserve"]):
        if program == ["protoserve"]:
            script = Path(sys.executable).with_name("protoserve")
            if not script.exists():
                continue
            program = [str(script)]
        done = subprocess.run(
            [*program, *arguments], capture_output=True, text=True, timeout=PATIENCE
        )
        assert (0, "") == (done.returncode, done.stderr)
        expected = "run MODULE:APP" if "run" in arguments else "Usage: protoserve"
        assert expected in " ".join(done.stdout.replace("[OPTIONS] ", "").split())
