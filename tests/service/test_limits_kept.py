"""
How a service keeps its limits: the size of a frame, queues, buffers, and its counts.
"""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator

import attrs
import pytest
from construct import Int8ub, Int16ub, VarInt

import protoserve.connections
import protoserve.loops
import protoserve.service
from protoserve import (
    DeclarationError,
    FrameTooLongError,
    LengthPrefixed,
    Limits,
    Message,
    Peer,
    Protocol,
    Service,
    Session,
    framing,
    route,
    wire,
)
from protoserve.loops import LoopConnection
from protoserve.rarelog import RareLog
from protoserve.server import PoolMixIn, TCPServer, UDPServer
from protoserve.server.pool import FULL_POLICIES
from protoserve.tally import Tally
from tests.cli.station import datagrams
from tests.forking import forked
from tests.service.kit import PATIENCE, Ping, Pong, Text, connect, spoken, until
from tests.service.test_drain import client_of, running


class Station:
    def __init__(self):
        self.malformed_by = []
        self.release = threading.Event()

    @route
    def ping(self, message: Ping) -> Pong:
        return Pong(message.value)

    @route
    def text(self, message: Text, session: Session):
        for _ in range(300):
            yield Text(bytes(15_000))

    def malformed(self, error: FrameTooLongError) -> None:
        self.malformed_by.append(error)


class Byte(Message):
    value: int = wire(Int8ub)


class Bytewise:
    @route
    def byte(self, message: Byte) -> None: ...


# The size of a frame ---------------------------------------------------------


def test_too_long_is_told(serve, logged):
    """The log and the hook are told of the limit and of the size."""
    handler = Station()
    running = serve(handler, limits=Limits(frame_size=100))
    with running.client() as client:
        client.sock.sendall(bytes.fromhex("0065 01"))
        assert b"" == client.rest()
    assert "frame length 101 read at stream offset 0 is outside 0..100" in logged()
    (error,) = handler.malformed_by
    assert (101, 100) == (error.size, error.limit)
    assert {"frame_size": 1} == dict(running.service.refused)


@pytest.mark.parametrize(
    "declared",
    [
        LengthPrefixed(Int16ub),
        LengthPrefixed(VarInt),
        framing.LengthField(Int16ub, offset=1),
        framing.Delimited(b"\n"),
        framing.Netstring(),
        framing.OctetCounted(),
        framing.Cobs(),
        framing.Slip(),
        framing.Hdlc(),
        framing.Datagram(LengthPrefixed(Int8ub)),
        framing.SelfDelimiting(lambda data: data[0]),
        framing.SyncWord(b"\xaa\x55", Int16ub, offset=2),
    ],
    ids=lambda declared: type(declared).__name__,
)
def test_every_framing(declared):
    """The smaller of the limit and the framing's own counts, whatever the framing."""
    protocol = Protocol("bytes", framing=declared, messages=Byte)
    for limit, most in (
        (50, 50),
        (None, declared.max_size),
        (1 << 30, declared.max_size),
    ):
        service = Service(protocol, Bytewise(), limits=Limits(frame_size=limit))
        assert most == service.framing.max_size
        assert type(declared) is type(service.framing)
    assert declared is protocol.framing is service.framing


def test_no_frame_is_as_small():
    """A limit that no frame can keep to is refused when it is set."""
    protocol = Protocol("fixed", framing=framing.FixedSize(12), messages=Byte)
    service = Service(protocol, Bytewise(), limits=Limits(frame_size=12))
    with pytest.raises(DeclarationError, match="limit frame_size: FixedSize.*11 bytes"):
        service.limits = Limits(frame_size=11)
    assert 12 == service.limits.frame_size


def test_datagrams_without_framing(start):
    """Where a datagram is the frame, its size is limited as well."""
    service = Service(datagrams, Station(), limits=Limits(frame_size=20))
    server = start(UDPServer, service)
    with server.client() as client:
        client.sock.send(client.session.encode(Text(bytes(18))))
        assert Pong(1) == client.call(Ping(1))
    assert 1 == service.refused["frame_size"]
    assert 21 == service.handler.malformed_by[0].size


# The queue of the pool -------------------------------------------------------


class Holding(Station):
    @route
    def ping(self, message: Ping) -> Pong:
        self.release.wait(PATIENCE)
        return Pong(message.value)


@pytest.mark.parametrize("policy", FULL_POLICIES)
@pytest.mark.parametrize("most", [2, None])
def test_queue(start, policy, most):
    """As many wait as the service's limit says; who is refused is counted."""
    service = Service(spoken, Holding(), limits=Limits(queue=most))
    server_class = type("Pool", (PoolMixIn, TCPServer), {})
    server = start(server_class, service, threads=1, queue_size=1, when_full=policy)
    address = server.server.server_address
    refused = 3 if policy == "refuse" and most else 0
    clients = [connect(address)]
    clients[0].send(Ping(1))
    until(lambda: service.connections == 1)
    queue = server.server._PoolMixIn__queue
    for number in range(5):
        clients.append(connect(address))
        if policy == "refuse" or most is None or number < most:
            expected = min(number + 1, most or 9)
            until(lambda expected=expected: queue.qsize() == expected)
    until(lambda: service.refused["queue"] == refused)
    service.handler.release.set()
    for client in clients[:3] if refused else clients:
        answer = client.receive() if client is clients[0] else client.call(Ping(1))
        assert Pong(1) == answer
    for client in clients[3:] if refused else ():
        assert b"" == client.rest()
    assert refused == server.server.refused_requests == service.refused["queue"]
    for client in clients:
        client.sock.close()


@pytest.mark.parametrize(
    ("stream", "address", "told"),
    [
        (True, ("127.0.0.1", 1), "tcp://127.0.0.1:1 "),
        (False, ("127.0.0.1", 1), "udp://127.0.0.1:1 "),
        (True, "", "unix://(unnamed) "),
        (False, "/x", "unixgram:///x "),
    ],
)
def test_refused_by_the_queue(stream, address, told, logged, monkeypatch):
    """The log says who it was, whatever the transport."""
    monkeypatch.setattr(protoserve.service, "_rare", RareLog(protoserve.service.logger))
    service = Service(spoken, Station())
    request = object() if stream else (b"", None)
    service.RequestHandlerClass.queue_refused(request, address)
    assert f"{told}is closed: limit queue: 1024 requests wait" in logged()


# What waits to be sent -------------------------------------------------------

ONE_MESSAGE = 15_005


@pytest.mark.parametrize("mode", ["threads", "pool", "loop"])
def test_what_waits_is_bounded(mode, monkeypatch):
    """No more is made for a peer than the high-water mark and one message."""
    sizes = []
    if mode == "loop":
        write = LoopConnection._write

        def noted(self):
            write(self)
            sizes.append(self.transport.get_write_buffer_size())

        monkeypatch.setattr(LoopConnection, "_write", noted)
    else:
        connection = protoserve.connections.Connection
        send = connection._send

        def noted(self):
            event = send(self)
            sizes.append(len(self._unsent))
            return event

        monkeypatch.setattr(connection, "_send", noted)
    service = Service(spoken, Station(), limits=Limits(write=0.3))
    with (
        running(mode=mode, service=service) as (runner, _),
        client_of(runner) as client,
    ):
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send(Text())
        until(lambda: service.refused["write"] == 1)
    assert 65_536 < max(sizes) <= 65_536 + ONE_MESSAGE


@pytest.mark.parametrize("is_half_closed", [False, True])
@pytest.mark.parametrize("mode", ["threads", "pool", "loop"])
def test_rest_that_is_not_taken(mode, is_half_closed):
    """A peer that ends, or is idle, and does not take a last rest is closed too."""

    class Large(Station):
        @route
        def text(self, message: Text) -> list[Text]:
            return [Text(bytes(15_000))] * 400

    limits = Limits(write=0.3, idle=0.3, write_buffer=8 << 20)
    service = Service(spoken, Large(), limits=limits)
    with (
        running(mode=mode, service=service) as (runner, _),
        client_of(runner) as client,
    ):
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send(Text())
        if is_half_closed:
            client.sock.shutdown(socket.SHUT_WR)
        until(lambda: service.refused["write"] == 1)
        until(lambda: not service.connections)


def test_nothing_is_read_while_too_much_waits():
    """On an event loop a coroutine that is done does not let a stuck peer send more."""

    class Large(Station):
        @route
        async def ping(self, message: Ping) -> Pong:
            while not self.release.is_set():  # noqa: ASYNC110 - of another thread
                await asyncio.sleep(0.001)
            return Pong()

        @route
        async def text(self, message: Text) -> AsyncIterator[Text]:
            for _ in range(500):
                yield Text(bytes(15_000))

    service = Service(spoken, Large())
    with (
        running(mode="loop", service=service) as (runner, _),
        client_of(runner) as client,
    ):
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send(Ping(), Text())
        until(lambda: service.connections)
        (connection,) = runner._servers[0]._side.connections
        # A kernel that lends its socket more and more room would take what waits.
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        until(lambda: connection._stuck_since is not None)
        until(lambda: not connection.transport.is_reading())
        service.handler.release.set()
        until(lambda: connection._tasks == 1)
        assert not connection.transport.is_reading()


def test_datagrams_wait_while_too_many_coroutines_run(monkeypatch):
    """When there are too many coroutines, an event loop leaves datagrams in the kernel."""
    monkeypatch.setattr(protoserve.loops, "_MOST_TASKS", 2)

    class Slow(Station):
        @route
        async def ping(self, message: Ping) -> Pong:
            entered.append(message.value)
            while not self.release.is_set():  # noqa: ASYNC110 - of another thread
                await asyncio.sleep(0.001)
            return Pong(message.value)

    entered = []
    service = Service(spoken, Slow())
    with (
        running("udp://127.0.0.1:0", mode="loop", service=service) as (runner, _),
        client_of(runner) as client,
    ):
        for value in range(8):
            client.send(Ping(value))
        until(lambda: len(entered) == 2)
        (side,) = (server._side for server in runner._servers)
        turned = threading.Event()
        side.loop.call_soon_threadsafe(side.loop.call_later, 0.05, turned.set)
        assert turned.wait(PATIENCE)
        assert [0, 1] == entered
        service.handler.release.set()
        assert {*range(8)} == {client.receive().value for _ in range(8)}


# Counts ----------------------------------------------------------------------


def test_tally():
    """What was not counted is 0, and is not there."""
    tally = Tally(["a", "b"])
    tally.add("a")
    tally["a"] += 2
    assert (3, 0, 0) == (tally["a"], tally["b"], tally["c"])
    assert ({"a": 3}, 1, "Tally({'a': 3})") == (dict(tally), len(tally), repr(tally))
    del tally["a"]
    assert {} == dict(tally)
    with pytest.raises(KeyError):
        tally.add("c")


def count(tally, number):
    for _ in range(number):
        tally.add("b")


def test_tally_of_threads_and_processes():
    """Whatever counts at the same time is counted, exactly."""
    tally = Tally(["a", "b"])
    tally.add("b")
    tally.share()

    def work():
        tally.make_private()
        threads = [threading.Thread(target=count, args=(tally, 500)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    children = [forked(work) for _ in range(4)]
    count(tally, 1000)
    for pid in children:
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert {"b": 5001} == dict(tally)


def test_tally_of_the_killed():
    """A process that dies while it counts leaves no lock behind."""
    tally = Tally(["a"])
    tally.share()
    reader, writer = os.pipe()

    def work():
        with tally._among:
            os.write(writer, b".")
            signal.pause()

    pid = forked(work)
    assert b"." == os.read(reader, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    tally.add("a")
    assert 1 == tally["a"]
    os.close(reader)
    os.close(writer)


def test_tally_without_descriptors(monkeypatch):
    """Where there is no descriptor to spare, each process counts for itself."""

    def none_left(_name):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", none_left)
    service = Service(spoken, Station())
    service.count("idle", None, "a test")
    pid = forked(lambda: service.refused["idle"])
    assert 1 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert 1 == service.refused["idle"]


def test_tally_by_a_file(monkeypatch):
    """Where the system has no nameless memory, a nameless file does."""
    monkeypatch.delattr(os, "memfd_create")
    tally = Tally(["a"])
    tally.add("a")
    tally.share()
    tally.share()

    def work():
        tally.make_private()
        tally.add("a")

    os.waitpid(forked(work), 0)
    assert {"a": 2} == dict(tally)


def test_connections_are_not_inherited():
    """A child does not take its parent's connections for its own."""
    service = Service(spoken, Station())
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ended = service.reserve(theirs, ("127.0.0.1", 1))
        assert 1 == service.connections
        pid = forked(lambda: service.connections)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        ended()
        assert 0 == service.connections


def test_names_of_limits():
    """Everything that is counted is a limit."""
    service = Service(spoken, Station())
    for name in attrs.fields_dict(Limits):
        service.count(name, Peer("tcp", ("127.0.0.1", 1)), "a test")
    assert dict.fromkeys(attrs.fields_dict(Limits), 1) == dict(service.refused)
