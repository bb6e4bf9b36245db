"""
The examples: each can be imported, run by itself and run by ``protoserve run``.
"""

import importlib
import inspect
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from protoserve import Service
from protoserve.urls import Address
from tests.running import ROOT, bound, ended, started

EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("[a-z]*.py"))


def imported(name):
    return importlib.import_module(f"examples.{name}")


SERVED = [name for name in EXAMPLES if hasattr(imported(name), "app")]
RUNNABLE = [name for name in EXAMPLES if name in SERVED or name == "demo"]


def test_there_are_some():
    """The examples are found."""
    assert {"demo", "sensor_station"} <= set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_main(name):
    """Each has a docstring, and a main with at most one argument."""
    module = imported(name)
    assert module.__doc__
    assert len(inspect.signature(module.main).parameters) <= 1


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize(("word", "status"), [("--help", 0), ("nope", 2), ("70000", 2)])
def test_argument(name, word, status):
    """Each says what it takes, and a wrong argument is one line behind the usage."""
    if (name, word) == ("demo", "70000"):
        pytest.skip("these are seconds")
    command = [sys.executable, "-m", f"examples.{name}", word]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert ran.returncode == status
    assert ran.stderr.count("\n") == (2 if status else 0)


@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize("mode", ["threads", "fork", "single"])
def test_run(name, mode):
    """``protoserve run`` serves it wherever its protocol can be spoken."""
    app = imported(name).app
    assert isinstance(app, Service)
    urls = ["udp://127.0.0.1:0"]
    if app.protocol.framing is not None:
        urls.append("tcp://127.0.0.1:0")
    words = [word for url in urls for word in ("--listen", url)]
    command = [sys.executable, "-m", "protoserve", "run", f"examples.{name}:app"]
    with started([*command, *words, "--mode", mode]) as process:
        for url in bound(process, len(urls)):
            address = Address.parse(url)
            kind = socket.SOCK_STREAM if address.is_stream else socket.SOCK_DGRAM
            with socket.socket(type=kind) as sock:
                sock.connect((address.host, address.port))
                sock.sendall(b"\xff" * 3)
        code, _ = ended(process)
        assert 0 == code


@pytest.mark.parametrize("name", SERVED)
def test_by_itself(name):
    """Run as a module it takes a port, and ends at Ctrl-C."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with started([sys.executable, "-m", f"examples.{name}", port]) as process:
        while not is_bound(port):
            assert None is process.poll()
        process.send_signal(signal.SIGINT)
        process.communicate()
    # By the signal, unless it catches it.
    assert process.returncode in (0, -signal.SIGINT, 128 + signal.SIGINT)


def is_bound(port):
    """
    Say whether anybody listens at a port, without taking it or talking to it.
    """
    tables = (Path("/proc/net", name) for name in ("tcp", "tcp6", "udp", "udp6"))
    return any(
        re.search(rf":{port:04X} [0-9A-F]+:0000 (?:0A|07) ", table.read_text())
        for table in tables
        if table.exists()
    )


@pytest.mark.parametrize("ends", ["by itself", signal.SIGINT, signal.SIGTERM])
def test_demo(ends):
    """The demo shows each message, stops when it is told to, and leaves nothing."""
    seconds = 1.5 if ends == "by itself" else 100
    with started([sys.executable, "-m", "examples.demo", seconds]) as process:
        seen = []
        while not (
            any(re.search(r"tcp .*--> Reading .*celsius=", line) for line in seen)
            and any(re.search(r"udp .*<-- Ack .*device=", line) for line in seen)
        ):
            line = process.stdout.readline()
            assert line, "".join(seen)
            seen.append(line)
        if ends != "by itself":
            process.send_signal(ends)
        rest = process.stdout.read()
        assert 0 == process.wait()
    assert "Traceback" not in "".join(seen) + rest
    assert re.search(r"\d+ readings in .* the station is closed", rest)
