"""
A bounded number of threads, and connections that need none while they wait.
"""

import asyncio
import select
import socket
import threading
import time

import pytest

from protoserve.server import (
    DatagramRequestHandler,
    PoolMixIn,
    StreamRequestHandler,
    TCPServer,
    UDPServer,
)

ADDRESS = ("127.0.0.1", 0)


class PoolTCPServer(PoolMixIn, TCPServer):
    request_queue_size = 64


class Holding(PoolTCPServer):
    """Each request is held until `leave` is set."""

    threads = 2

    def __init__(self):
        self.entered = threading.Semaphore(0)
        self.leave = threading.Event()
        self.used = set()
        self.at_once = self.most = 0
        self.lock = threading.Lock()
        super().__init__(ADDRESS, self.handle)

    def handle(self, request, client_address, server):
        with self.lock:
            self.used.add(threading.current_thread())
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        self.entered.release()
        assert self.leave.wait(60)
        with self.lock:
            self.at_once -= 1
        request.sendall(b"done")


class Upper(StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line.upper())


def test_classic_handlers(serve, kit):
    """Any handler of the classic kind is served, more clients than threads too."""
    server = type("Small", (PoolTCPServer,), {"threads": 2})(ADDRESS, Upper)
    serve(server)
    for number in range(20):
        text = f"line {number}\n".encode()
        assert text.upper() == kit.ask(server, text)


def test_bounded(serve, kit):
    """No more threads than `threads` handle requests; the rest wait their turn."""
    server = Holding()
    serve(server)
    clients = [kit.connect(server) for _ in range(8)]
    for _ in range(2):
        assert server.entered.acquire(timeout=kit.patience)
    assert not server.entered.acquire(timeout=0.05)
    server.leave.set()
    assert [b"done"] * 8 == [client.recv(100) for client in clients]
    assert (2, 2) == (server.most, len(server.used))
    for client in clients:
        client.close()


@pytest.mark.parametrize("policy", ["wait", "refuse"])
def test_full_queue(serve, kit, policy):
    """A full queue leaves newcomers to the kernel, or closes them and counts it."""
    server = Holding()
    server.threads, server.queue_size, server.when_full = 1, 2, policy
    serve(server)
    clients = [kit.connect(server)]
    assert server.entered.acquire(timeout=kit.patience)
    clients += [kit.connect(server) for _ in range(5)]
    if policy == "refuse":
        kit.until(lambda: server.refused_requests == 3)
    server.leave.set()
    answers = [client.recv(100) for client in clients]
    expected = [b"done"] * 6 if policy == "wait" else [b"done"] * 3 + [b""] * 3
    assert expected == answers
    assert (3 if policy == "refuse" else 0) == server.refused_requests
    for client in clients:
        client.close()


@pytest.mark.parametrize("error", [ValueError, SystemExit, asyncio.CancelledError])
def test_a_failure_costs_no_thread(serve, kit, error, capsys):
    """A thread goes on after a handler that failed."""

    class Failing(Upper):
        def handle(self):
            super().handle()
            raise error

    server = type("Single", (PoolTCPServer,), {"threads": 1})(ADDRESS, Failing)
    serve(server)
    for _ in range(3):
        assert b"TEXT\n" == kit.ask(server, b"text\n")
    kit.until(lambda: not server._PoolMixIn__open)
    assert (3 if error is ValueError else 0) == capsys.readouterr().out.count("Traceb")


def test_a_failing_hook_costs_no_thread(serve, kit, caplog):
    """A thread goes on when handle_error or shutdown_request fail too."""

    class Failing(Upper):
        def handle(self):
            super().handle()
            raise ValueError

    class Single(PoolTCPServer):
        threads = 1

        def handle_error(self, request, client_address):
            raise RuntimeError("the hook")

        def shutdown_request(self, request):
            super().shutdown_request(request)
            raise RuntimeError("the end")

    server = Single(ADDRESS, Failing)
    serve(server)
    for _ in range(3):
        assert b"TEXT\n" == kit.ask(server, b"text\n")
    kit.until(lambda: caplog.text.count("shutdown_request failed") == 3)
    assert 3 == caplog.text.count("handle_error failed")


def test_no_more_threads(serve, kit, monkeypatch, capsys):
    """When the system has no thread, the request is closed and later ones are served."""
    server = type("Single", (PoolTCPServer,), {"threads": 1})(ADDRESS, Upper)
    serve(server)
    start = threading.Thread.start
    failures = [RuntimeError("can't start new thread")]

    def failing(thread):
        if failures:
            raise failures.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", failing)
    with kit.connect(server) as client:
        assert b"" == client.recv(100)
    assert b"A\n" == kit.ask(server, b"a\n")
    assert "can't start new thread" in capsys.readouterr().out


def test_shutdown_by_a_request(kit):
    """A handler may stop the loop; it does not wait for itself."""
    server = PoolTCPServer(ADDRESS, lambda _r, _a, server: server.shutdown())
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    kit.connect(server).close()
    thread.join(kit.patience)
    assert not thread.is_alive()
    server.server_close()


def test_datagrams(serve, kit):
    """Datagrams are handled in the pool too."""

    class Echo(DatagramRequestHandler):
        def handle(self):
            self.wfile.write(self.rfile.read().upper())

    server = type("Datagrams", (PoolMixIn, UDPServer), {})(ADDRESS, Echo)
    serve(server)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(kit.patience)
        client.connect(server.server_address)
        for word in (b"one", b"two"):
            client.send(word)
            assert word.upper() == client.recv(100)


def test_own_loop(kit):
    """handle_request hands one request to the pool."""
    with PoolTCPServer(ADDRESS, Upper) as server, kit.connect(server) as client:
        server.handle_request()
        client.sendall(b"a\n")
        assert b"A\n" == client.recv(100)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("threads", 0, "threads: expected 1 or more, not 0"),
        ("queue_size", "9", "queue_size: expected 1 or more, not '9'"),
        ("when_full", "drop", "when_full: expected 'wait' or 'refuse', not 'drop'"),
    ],
)
def test_wrong_options(name, value, told):
    """A wrong option is told by name, before anything is bound."""
    wrong = type("Wrong", (PoolTCPServer,), {name: value})
    with pytest.raises(ValueError, match=told):
        wrong(ADDRESS, Upper)


# Handlers that go on in steps -------------------------------------------------


class Stepping:
    """
    Echoes in steps; ends when it is told to, or at its deadline.
    """

    ending = False

    def __init__(self, server, request):
        self.server, self.request = server, request
        self.awaits = select.POLLIN
        self.deadline = (
            None if server.limit is None else time.monotonic() + server.limit
        )
        request.setblocking(False)

    def fileno(self):
        return self.request.fileno()

    def advance(self):
        self.server.used.add(threading.current_thread())
        try:
            while data := self.request.recv(100):
                if data == b"fail":
                    raise ValueError(data)
                if data == b"stop":
                    self.server.shutdown()
                self.request.send(data)
        except BlockingIOError:
            late = self.deadline is not None and time.monotonic() >= self.deadline
            return not (self.ending or late)
        return False

    def end(self):
        self.request.shutdown(socket.SHUT_RDWR)


class Steps:
    def __init__(self, request, client_address, server):
        server.whole.append(client_address)

    @classmethod
    def parkable(cls, server, request, client_address):
        return Stepping(server, request)


class Parking(PoolTCPServer):
    threads = 2
    limit = None

    def __init__(self):
        self.used, self.whole = set(), []
        super().__init__(ADDRESS, Steps)


@pytest.fixture(params=["epoll", "poll"])
def waits(request, monkeypatch):
    """
    The two ways in which parked connections are waited for.
    """
    if request.param == "poll":
        monkeypatch.delattr(select, "epoll")


@pytest.mark.usefixtures("waits")
def test_parked(serve, kit):
    """Two threads converse with many clients that are all connected at a time."""
    server = Parking()
    serve(server)
    clients = [kit.connect(server) for _ in range(50)]
    for turn in range(3):
        for number, client in enumerate(clients):
            text = f"{turn} {number}".encode()
            client.sendall(text)
            assert text == client.recv(100)
    assert len(server.used) <= 2
    assert [] == server.whole
    for client in clients:
        client.close()
    kit.until(lambda: not server._PoolMixIn__open)


@pytest.mark.usefixtures("waits")
def test_deadlines_of_the_parked(serve, kit):
    """A parked connection goes on at its deadline."""
    server = Parking()
    server.limit = 0.05
    serve(server)
    with kit.connect(server) as client:
        assert b"" == client.recv(100)


@pytest.mark.usefixtures("waits")
def test_the_parked_end_with_the_loop(kit):
    """When the loop stops, the parked are told to end, and end."""
    server = Parking()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    clients = [kit.connect(server) for _ in range(5)]
    for client in clients:
        client.sendall(b"x")
        assert b"x" == client.recv(100)
    server.shutdown()
    thread.join(kit.patience)
    assert [b""] * 5 == [client.recv(100) for client in clients]
    server.server_close()
    for client in clients:
        client.close()


def test_closed_while_it_serves(kit):
    """server_close ends a loop that runs, and the parked with it."""
    server = Parking()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with kit.connect(server) as client:
        client.sendall(b"x")
        assert b"x" == client.recv(100)
        server.server_close()
        assert b"" == client.recv(100)
    thread.join(kit.patience)
    assert not thread.is_alive()
    assert not server._PoolMixIn__open


def test_shutdown_by_a_step(kit, capsys):
    """A step may stop the loop; its own connection ends in peace."""
    server = Parking()
    thread = threading.Thread(target=server.serve_forever)
    with kit.connect(server) as client:
        thread.start()
        client.sendall(b"stop")
        assert b"stop" == client.recv(100)
        assert b"" == client.recv(100)
        thread.join(kit.patience)
        assert not thread.is_alive()
    server.server_close()
    assert "" == capsys.readouterr().out


def test_the_stubborn_are_ended(kit):
    """Who does not end within `drain_timeout` is ended."""
    server = Parking()
    server.drain_timeout = 0.05
    thread = threading.Thread(target=server.serve_forever)
    with kit.connect(server) as client:
        thread.start()
        client.sendall(b"x")
        assert b"x" == client.recv(100)
        entry = next(iter(server._PoolMixIn__open))
        kit.until(lambda: entry.parkable is not None)
        type(entry.parkable).ending = property(
            lambda _: False, lambda _self, _value: None
        )
        try:
            server.shutdown()
            assert b"" == client.recv(100)
        finally:
            Stepping.ending = False
        thread.join(kit.patience)
        assert not thread.is_alive()
    server.server_close()


def test_failing_step(serve, kit, capsys):
    """A step that fails closes its connection and no other."""
    server = Parking()
    serve(server)
    with kit.connect(server) as good, kit.connect(server) as bad:
        bad.sendall(b"fail")
        assert b"" == bad.recv(100)
        good.sendall(b"fine")
        assert b"fine" == good.recv(100)
    assert "ValueError: b'fail'" in capsys.readouterr().out


def test_own_finish_request(serve, kit):
    """A server with a finish_request of its own has it called."""

    class Own(Parking):
        def finish_request(self, request, client_address):
            request.sendall(b"own")

    server = Own()
    serve(server)
    assert b"own" == kit.ask(server)
