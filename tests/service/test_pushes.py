"""
What is sent beside the answers: it leaves at once, and holds up nobody else.
"""

import asyncio
import contextlib
import socket
import threading
import time

import pytest
from construct import GreedyBytes

from protoserve import (
    Delimited,
    Limits,
    Message,
    Protocol,
    Service,
    Session,
    route,
    wire,
)
from protoserve.errors import ProtoserveError
from protoserve.server import EventLoopMixIn, PoolMixIn, TCPServer, ThreadingTCPServer
from tests.service.kit import PATIENCE, Ping, Pong, Text, until

LARGE = bytes(15_000)
GONE = (ProtoserveError, OSError)


class PoolTCPServer(PoolMixIn, TCPServer):
    threads = 2


class LoopTCPServer(EventLoopMixIn, TCPServer):
    pass


BLOCKING = [ThreadingTCPServer, PoolTCPServer]


class Slow:
    """
    Works until `leave` is set.
    """

    def __init__(self):
        self.leave = threading.Event()

    def wait(self):
        assert self.leave.wait(PATIENCE)


class Waiting(Slow):
    @route
    def ping(self, message: Ping) -> Pong:
        if message.value == 2:
            self.wait()
        return Pong(message.value)


class Pushing(Slow):
    @route
    def text(self, message: Text, session: Session) -> Text:
        session.send(Text(b"begun"))
        self.wait()
        return Text(b"done")


@pytest.mark.parametrize("server_class", BLOCKING)
def test_an_answer_does_not_wait_for_the_next(serve, server_class):
    """The answer to the first request leaves before the second is answered."""
    handler = Waiting()
    running = serve(handler, server_class)
    with running.client() as client:
        client.send(Ping(1), Ping(2))
        assert Pong(1) == client.receive()
        handler.leave.set()
        assert Pong(2) == client.receive()


@pytest.mark.parametrize("server_class", BLOCKING)
def test_a_push_leaves_before_the_answer(serve, server_class):
    """What a route sends arrives while it still works."""
    handler = Pushing()
    running = serve(handler, server_class)
    with running.client() as client:
        client.send(Text(b"go"))
        assert Text(b"begun") == client.receive()
        handler.leave.set()
        assert Text(b"done") == client.receive()


class Flooding:
    """
    Pushes without end to whoever asks for it, from a thread or a coroutine.
    """

    @route
    async def text(self, message: Text, session: Session) -> None:
        if message.text == b"thread":
            threading.Thread(target=self.push, args=(session,), daemon=True).start()
        else:
            self.task = asyncio.get_running_loop().create_task(self.push_too(session))

    def push(self, session):
        with contextlib.suppress(*GONE):
            while True:
                session.send(Text(LARGE))

    async def push_too(self, session):
        with contextlib.suppress(*GONE):
            while True:
                session.send(Text(LARGE))
                await asyncio.sleep(0)

    @route
    async def ping(self, message: Ping) -> Pong:
        await asyncio.sleep(0)
        return Pong(message.value)


@pytest.mark.parametrize("how", [b"thread", b"task"])
@pytest.mark.parametrize("server_class", [*BLOCKING, LoopTCPServer])
def test_who_does_not_read_holds_up_nobody(serve, server_class, how):
    """Pushes to two peers that read nothing do not delay the answers to a third."""
    limits = Limits(write=3.0, write_buffer=16 << 20)
    running = serve(Flooding(), server_class, limits=limits)
    with running.client() as one, running.client() as two, running.client() as good:
        for deaf in (one, two):
            deaf.send(Text(how))
        began = time.monotonic()
        answered = 0
        while not running.service.refused:
            assert Pong(7) == good.call(Ping(7))
            answered += 1
            assert time.monotonic() - began < PATIENCE
        # Held up, one would be answered when a limit of the others ends them.
        assert answered > 1
        until(lambda: sum(running.service.refused.values()) == 2)
        assert Pong(8) == good.call(Ping(8))


class Patient(Slow):
    @route
    async def ping(self, message: Ping) -> Pong:
        while not self.leave.is_set():  # noqa: ASYNC110 - a test sets it
            await asyncio.sleep(0.001)
        return Pong(message.value)


def test_nothing_is_answered_after_the_end(serve):
    """After a bad frame what is under way is finished, and nothing more begins."""
    handler = Patient()
    running = serve(handler, LoopTCPServer)
    with running.client() as client:
        client.send(Ping(1))
        client.sock.sendall(bytes.fromhex("0003 01 0000"))  # a Ping without its value
        until(lambda: any(c._over for c in list(running.service._connections)))
        client.send(Ping(2))
        handler.leave.set()
        assert Pong(1) == client.receive()
        assert client.receive() is None


class Huge:
    @route
    def text(self, message: Text):
        for _ in range(200):
            yield Text(LARGE)


@pytest.mark.parametrize("server_class", [*BLOCKING, LoopTCPServer])
def test_a_slow_reader_is_not_cut(serve, server_class):
    """Who reads slowly, but reads, gets all of it beyond the write limit's time."""
    running = serve(Huge(), server_class, limits=Limits(write=0.4))
    with running.client() as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        client.send(Text(b"go"))
        for number in range(200):
            assert Text(LARGE) == client.receive()
            if number % 4 == 0:
                time.sleep(0.02)
    assert not running.service.refused


class Ask(Message):
    data: bytes = wire(GreedyBytes)


class Much(Message):
    data: bytes = wire(GreedyBytes)


lines = Protocol(
    "lines",
    framing=Delimited(b"\n", max_size=1 << 20),
    requests=Ask,
    responses=Much,
)


@pytest.mark.parametrize("server_class", BLOCKING)
def test_no_more_is_answered_than_is_taken(start, server_class):
    """Frames that no length cuts wait as well while the peer reads nothing."""
    calls = []

    class Generous:
        @route
        def ask(self, message: Ask) -> Much:
            calls.append(message)
            return Much(b"x" * 200_000)

    running = start(server_class, Service(lines, Generous(), limits=Limits(write=0.5)))
    with socket.create_connection(running.server.server_address) as sock:
        sock.sendall(b"a\n" * 3000)
        until(lambda: running.service.refused["write"] == 1)
    assert len(calls) < 300
