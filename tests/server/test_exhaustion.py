import errno
import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from protoserve.server import BaseServer, TCPServer, UDPServer
from protoserve.server._waiting import Waiter, Waker

ADDRESS = ("127.0.0.1", 0)
SOURCE = Path(__file__).resolve().parents[2]

SCRIPT = textwrap.dedent(
    """
    import json, logging, os, resource, socket, sys, threading, time
    from protoserve.server import StreamRequestHandler, TCPServer

    logging.basicConfig(stream=sys.stderr, format="%(name)s|%(levelname)s|%(message)s")

    class Echo(StreamRequestHandler):
        def handle(self):
            self.wfile.write(self.rfile.readline())

    class Server(TCPServer):
        def handle_accept_error(self, error):
            errors.append((error.errno, time.monotonic(), time.process_time()))
            super().handle_accept_error(error)

        def service_actions(self):
            turns.append(True)

    def until(condition):
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    errors = []
    turns = []
    server = Server(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever, args=(3600,), daemon=True)
    thread.start()
    client = socket.socket()
    client.settimeout(30)
    with socket.create_connection(server.server_address) as first:
        first.sendall(b"first\\n")
        first.recv(10)
        until(lambda: turns)  # its descriptor has been given back
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        pass
    client.connect(server.server_address)
    client.sendall(b"hello\\n")
    until(lambda: len(errors) >= 6)
    report = {
        "errnos": sorted({error[0] for error in errors}),
        "wall": errors[5][1] - errors[0][1],
        "cpu": errors[5][2] - errors[0][2],
    }
    if sys.argv[1:] != ["stop"]:
        for fd in taken:
            os.close(fd)
        report["answer"] = client.recv(10).decode()
    before = time.monotonic()
    server.shutdown()
    report["shutdown"] = time.monotonic() - before
    thread.join()
    print(json.dumps(report))
    client.close()
    server.server_close()
    """
)


def exhausted(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=SOURCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr.splitlines()


def test_out_of_descriptors():
    """Without descriptors the loop idles, tells its hook, and serves when it can."""
    report, log = exhausted()
    assert report["errnos"] == [errno.EMFILE]
    assert report["wall"] > 0.4
    assert report["cpu"] < report["wall"] / 4
    assert report["answer"] == "hello\n"
    assert log[0].startswith("protoserve.server|ERROR|cannot accept at ('127.0.0.1'")
    # At most one line a second, though there were ten failures in each.
    assert len(log) <= 2 + report["wall"]


def test_shutdown_while_out_of_descriptors():
    """The pause does not keep shutdown waiting."""
    report, _ = exhausted("stop")
    assert report["shutdown"] < 10


KINDS = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM]


class Failing:
    """Fails to take a request a few times."""

    failures = 1
    kind = errno.EMFILE

    def __init__(self, *args):
        self.steps = []
        super().__init__(*args)

    def get_request(self):
        if self.failures:
            self.failures -= 1
            raise OSError(self.kind, os.strerror(self.kind))
        self.steps.append("get")
        return super().get_request()

    def handle_accept_error(self, error):
        self.steps.append(errno.errorcode[error.errno])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", [TCPServer, UDPServer])
def test_kinds_of_exhaustion(base, kind, serve, kit):
    """Each kind of exhaustion is told once, paused after, and recovered from."""
    server = type("Server", (Failing, base), {"kind": kind})(ADDRESS, lambda *_: None)
    server.failures = 2
    serve(server)
    before = time.monotonic()
    with kit.connect(server) if base is TCPServer else waker_of(server):
        kit.until(lambda: "get" in server.steps)
    assert server.steps == [errno.errorcode[kind]] * 2 + ["get"]
    assert time.monotonic() - before >= 0.19


def waker_of(server):
    import socket

    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.sendto(b"x", server.server_address)
    return client


def test_pause_of_handle_request(kit):
    """A loop of the caller's over handle_request does not spin either."""
    server = type("Server", (Failing, TCPServer), {})(ADDRESS, lambda *_: None)
    server.failures = 3
    calls = 0
    with server, kit.connect(server):
        server.timeout = kit.patience
        while "get" not in server.steps:
            server.handle_request()
            calls += 1
    assert calls == 4


def test_timeout_during_the_pause(kit):
    """The pause counts as waiting for handle_request's timeout."""
    server = type("Server", (Failing, TCPServer), {})(ADDRESS, lambda *_: None)
    timeouts = []
    server.handle_timeout = lambda: timeouts.append(True)
    with server, kit.connect(server):
        server.handle_request()
        server.timeout = 0
        server.handle_request()
        assert timeouts == [True]
        assert server.steps == ["EMFILE"]


def test_loop_goes_on_during_the_pause(serve, kit):
    """service_actions is called while nothing is accepted."""

    class Server(Failing, TCPServer):
        failures = 10**9

        def service_actions(self):
            self.steps.append("actions")

    server = Server(ADDRESS, None)
    serve(server, poll_interval=0.001)
    with kit.connect(server):
        kit.until(lambda: server.steps.count("EMFILE") == 3)
    assert server.steps.count("actions") > 20


def test_log_line(kit, caplog):
    """The default hook logs one error line a second, with address and reason."""
    server = TCPServer(ADDRESS, None)
    with server:
        for _ in range(5):
            server.handle_accept_error(OSError(errno.ENFILE, "Too many open files"))
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("protoserve.server", logging.ERROR)
    assert str(server.server_address) in record.getMessage()
    assert "Too many open files" in record.getMessage()


def test_extended_by_mixins(serve, kit):
    """A mix-in may hold requests off until a descriptor of its own is readable."""
    waker = Waker()

    class Server(TCPServer):
        held = True
        housekept = 0

        def _loop_accept_delay(self):
            return float("inf") if self.held else super()._loop_accept_delay()

        def _loop_wake_descriptors(self):
            return (waker.fileno(), *super()._loop_wake_descriptors())

        def _loop_housekeep(self):
            super()._loop_housekeep()
            self.housekept += 1
            self.held = False
            waker.drain()

    handled = threading.Event()
    server = Server(ADDRESS, lambda *_: handled.set())
    serve(server, poll_interval=None)
    with kit.connect(server):
        assert not handled.wait(0.05)
        waker.wake()
        assert handled.wait(kit.patience)
    assert server.housekept == 1


def test_waker_keeps_its_descriptors(kit):
    """A waker that is still held can be woken, and is closed when it is dropped."""
    before = kit.descriptors()
    waker = Waker()
    waiter = Waiter(waker)
    for _ in range(100_000):  # more than the pipe holds
        waker.wake()
    assert waiter.wait((), 0) == set()
    while waiter._selector.select(0):
        waker.drain()
    waker.drain()
    del waiter
    waker.wake()
    del waker
    assert kit.descriptors() <= before


def test_waker_without_descriptors(monkeypatch):
    """A loop that cannot have a waker says so, and can be tried again."""

    def fail():
        raise OSError(errno.EMFILE, "Too many open files")

    server = BaseServer("nowhere", None)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pipe", fail)
        with pytest.raises(OSError, match="Too many"):
            server.serve_forever()
    server.shutdown()
    server.serve_forever()
