"""
What routes and hooks answer, and what follows trouble.
"""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Iterator

import attrs
import pytest

import protoserve
from protoserve import (
    Frame,
    FrameTooLongError,
    Message,
    PeerTimeoutError,
    RemoteProtocolError,
    Session,
    UnknownMessageError,
    on_error,
    route,
)
from protoserve.server import ThreadingTCPServer, UDPServer
from tests.service.kit import PATIENCE, Header, Ping, Pong, Text, spoken, until

# Kinds of answers ----------------------------------------------------------


class Kinds:
    @route
    def ping(self, message: Ping):
        return getattr(self, f"kind{message.value}")()

    def kind0(self) -> Pong:
        return Pong(0)

    def kind1(self) -> list[Pong]:
        return [Pong(0), Pong(1)]

    def kind2(self) -> Iterator[Pong]:
        yield Pong(0)
        yield Pong(1)
        yield Pong(2)

    async def kind3(self) -> Pong:
        await asyncio.sleep(0)
        return Pong(3)

    async def kind4(self) -> AsyncIterator[Pong]:
        for value in range(2):
            await asyncio.sleep(0)
            yield Pong(value)

    async def kind5(self) -> Iterator[Pong]:
        return iter([Pong(5)])

    def kind6(self) -> Awaitable[AsyncIterator[Pong]]:
        async def soon():
            return self.kind4()

        return soon()

    def kind7(self) -> None:
        return None


@pytest.mark.parametrize("server_class", [ThreadingTCPServer, UDPServer])
def test_kinds_of_answers(serve, server_class):
    """A route gives a message, several, none, at once or later."""
    expected = [[0], [0, 1], [0, 1, 2], [3], [0, 1], [5], [0, 1], []]
    with serve(Kinds(), server_class).client() as client:
        for kind, values in enumerate(expected):
            client.send(Ping(kind))
            for value in values:
                assert Pong(value) == client.receive()
        assert Pong(0) == client.call(Ping(0))


def test_coroutine_routes_run_together(serve):
    """One loop runs the coroutines of all connections at the same time."""

    class Meeting:
        def __init__(self):
            self.both = None

        @route
        async def ping(self, message: Ping) -> Pong:
            if self.both is None:
                self.both = asyncio.Event()
                await asyncio.wait_for(self.both.wait(), PATIENCE)
            self.both.set()
            return Pong(message.value)

    running = serve(Meeting())
    with running.client() as first, running.client() as second:
        first.send(Ping(1))
        second.send(Ping(2))
        assert Pong(1) == first.receive()
        assert Pong(2) == second.receive()


def test_header_of_the_answer(serve):
    """An answer's header is the request's, as the route leaves it."""

    class Station:
        @route
        def ping(self, message: Ping, head: Header) -> Iterator[Pong]:
            yield Pong()
            head.sequence += 100
            yield Pong()

    with serve(Station()).client() as client:
        client.sock.sendall(bytes.fromhex("0004 01 0007 00"))
        expected = bytes.fromhex("0004 02 0007 00 0004 02 006b 00")
        with client.sock.makefile("rb") as answers:
            assert expected == answers.read(12)


# Trouble -------------------------------------------------------------------


class Odd(Exception):
    pass


class Failing:
    """
    Fails as it is told to; afterwards it can still answer.
    """

    @route
    def ping(self, message: Ping):
        return getattr(self, f"kind{message.value}", lambda: Pong(99))()

    def kind0(self):
        raise ValueError("told to")

    def kind1(self):
        raise ConnectionRefusedError("not the peer's")

    def kind2(self):
        raise TimeoutError("not the peer's")

    def kind3(self):
        raise SystemExit(3)

    def kind4(self):
        return 5

    def kind5(self):
        return [Pong(1), "text"]

    def kind6(self):
        yield Pong(1)
        raise Odd

    def kind7(self):
        return Ping()

    def kind8(self):
        return Pong(1000)

    def kind9(self):
        raise RecursionError

    async def kind10(self):
        raise SystemExit(3)

    async def kind11(self):
        raise asyncio.CancelledError

    async def kind12(self):
        yield Pong(1)
        raise Odd

    def kind13(self):
        raise BaseExceptionGroup("several", [ValueError(), SystemExit()])

    def kind14(self):
        raise StopIteration

    def kind15(self):
        return self.kind0

    def kind16(self):
        raise BrokenPipeError("to a printer")


PARTIAL = {5, 6, 12}
"""Kinds that answer once before they fail."""


@pytest.mark.parametrize("kind", [k for k in range(17) if k != 13])
def test_failures_on_streams(serve, kind, logged):
    """A failing route costs its own connection, and is logged with its traceback."""
    running = serve(Failing())
    with running.client() as client:
        client.send(Ping(kind))
        if kind in PARTIAL:
            assert Pong(1) == client.receive()
        assert None is client.receive()
    assert "ping() failed for tcp://127.0.0.1:" in logged()
    with running.client() as client:
        assert Pong(99) == client.call(Ping(99))


@pytest.mark.parametrize("kind", [k for k in range(17) if k != 13])
@pytest.mark.parametrize("server_class", [ThreadingTCPServer, UDPServer])
def test_failures_skipped(serve, kind, server_class, logged):
    """With ``skip``, as by default for datagrams, the conversation goes on."""
    policy = None if server_class is UDPServer else "skip"
    with serve(Failing(), server_class, on_failed=policy).client() as client:
        client.send(Ping(kind))
        if kind in PARTIAL:
            assert Pong(1) == client.receive()
        assert Pong(99) == client.call(Ping(99))
    assert "ping() failed for " in logged()


def test_async_failures_leave_the_loop_alive(serve):
    """What a coroutine raises, even an exit, ends no other's."""

    class Station(Failing):
        @route
        async def text(self, message: Text) -> Text:
            return message

    with serve(Station(), on_failed="skip").client() as client:
        for kind in (10, 11, 12):
            client.send(Ping(kind))
        assert Pong(1) == client.receive()
        assert Text(b"still here") == client.call(Text(b"still here"))


@attrs.define
class Hooked:
    """
    Answers all kinds of trouble, and remembers it.
    """

    seen: list = attrs.field(factory=list)

    @route
    def ping(self, message: Ping) -> Pong:
        if message.value == 1:
            raise KeyError("one")
        if message.value == 2:
            raise TimeoutError("two")
        if message.value == 3:
            raise RuntimeError("three")
        return Pong(message.value)

    @on_error(LookupError)
    def lookup(self, error: LookupError, message: Ping | None, head: Header) -> Text:
        self.seen.append((error.args[0], message, head.sequence))
        return Text(b"lookup")

    @on_error(TimeoutError)
    async def late(self, error: TimeoutError) -> Text:
        return Text(b"late")

    @on_error(RuntimeError)
    def worse(self, error: RuntimeError) -> Text:
        raise OSError("the hook fails too")

    @protoserve.unknown
    def stranger(self, error: UnknownMessageError, head: Header, frame: Frame) -> Text:
        self.seen.append((error.tag, head.sequence, frame.data))
        return Text(b"unknown")

    @protoserve.malformed
    def garbage(self, error: RemoteProtocolError, head: Header | None) -> Text | None:
        self.seen.append((type(error).__name__, head))
        return None if head is not None and head.sequence == 0 else Text(b"malformed")


def test_hooks_answer(serve, logged):
    """A hook's answer takes the place of the policy."""
    handler = Hooked()
    with serve(handler).client() as client:
        assert Text(b"lookup") == client.call(Ping(1))
        assert Text(b"late") == client.call(Ping(2))
        client.sock.sendall(bytes.fromhex("0004 77 0009 05"))
        assert Text(b"unknown") == client.receive()
        client.sock.sendall(bytes.fromhex("0005 01 0009 0506"))
        assert Text(b"malformed") == client.receive()
        assert Pong(7) == client.call(Ping(7))
        client.send(Ping(3))
        assert None is client.receive()
    assert [
        ("one", Ping(1), 0),
        (0x77, 9, bytes.fromhex("77 0009 05")),
        ("MalformedMessageError", Header(1, 9)),
    ] == handler.seen
    assert "worse() failed for tcp" in logged()


def test_hook_that_answers_nothing(serve):
    """Then the policy holds: the stream is closed."""
    with serve(Hooked()).client() as client:
        client.sock.sendall(bytes.fromhex("0005 01 0000 0506"))
        assert None is client.receive()
    with serve(Hooked(), on_malformed="skip").client() as client:
        client.sock.sendall(bytes.fromhex("0005 01 0000 0506"))
        assert Pong(7) == client.call(Ping(7))


def test_headless(serve):
    """A frame without even a header is answered under a header of defaults."""

    class Station(Hooked):
        def garbage(self, error: RemoteProtocolError, session: Session) -> None:
            session.send(Text(b"what?"))

    with serve(Station(), on_malformed="skip").client() as client:
        client.sock.sendall(bytes.fromhex("0001 01"))
        assert Text(b"what?") == client.receive()
        assert Pong(7) == client.call(Ping(7))


def test_broken_stream(serve):
    """A stream that cannot be cut any more is answered, then closed."""
    handler = Hooked()
    with serve(handler, on_malformed="skip").client() as client:
        client.sock.sendall(b"\xff" * 100)
        assert Text(b"malformed") == client.receive()
        assert None is client.receive()
    assert [(FrameTooLongError.__name__, None)] == handler.seen


def test_half_a_frame(serve):
    """Whoever leaves in the middle of a frame is not answered."""
    handler = Hooked()
    with serve(handler).client() as client:
        client.sock.sendall(b"\0\4\1")
        client.sock.shutdown(socket.SHUT_WR)
        assert b"" == client.rest()
    assert [] == handler.seen


class Silent:
    @route
    def ping(self, message: Ping) -> Pong:
        return Pong(message.value)


UNKNOWN = bytes.fromhex("0004 77 0009 05")
NO_ROUTE = bytes.fromhex("0004 03 0009 05")
MALFORMED = bytes.fromhex("0005 01 0009 0506")


@pytest.mark.parametrize(
    ("data", "option"),
    [(UNKNOWN, "on_unknown"), (NO_ROUTE, "on_unknown"), (MALFORMED, "on_malformed")],
)
def test_policies(serve, data, option, logged):
    """By default a stream is closed and a datagram skipped; options say otherwise."""
    for server_class, policy, goes_on in (
        (ThreadingTCPServer, None, False),
        (ThreadingTCPServer, "close", False),
        (ThreadingTCPServer, "skip", True),
        (UDPServer, None, True),
        (UDPServer, "close", True),
    ):
        with serve(Silent(), server_class, **{option: policy}).client() as client:
            client.sock.sendall(data if client.session.stream else data[2:])
            client.send(Ping(7))
            assert (Pong(7) if goes_on else None) == client.receive()
    assert "sent what it may not" in logged()


def test_bad_policy(serve):
    """A policy is one of the two words."""
    with pytest.raises(protoserve.DeclarationError, match="expected 'close', 'skip'"):
        serve(Silent(), on_failed="ignore")


def test_what_a_service_takes():
    """A protocol, a handler, limits, a lifespan; else it is told."""
    for arguments, options, words in (
        ((Silent, Silent()), {}, "takes a Protocol first"),
        ((spoken, Silent()), {"limits": {"idle": 5}}, "limits= takes Limits"),
    ):
        with pytest.raises(protoserve.DeclarationError, match=words):
            protoserve.Service(*arguments, **options)


def test_lines_are_rationed(serve, caplog):
    """A flood of malformed datagrams is logged a few times, not each time."""
    began = time.monotonic()
    with serve(Hooked(), UDPServer).client() as client:
        for _ in range(3000):
            client.sock.send(b"\1")
        client.sock.settimeout(0.1)
        answer = None
        while answer != Pong(7):
            with contextlib.suppress(TimeoutError):
                client.send(Ping(7))  # it may be lost in the flood
                answer = client.receive()
    lines = [r for r in caplog.records if "sent what it may not" in r.getMessage()]
    assert 1 <= len(lines) <= 1 + time.monotonic() - began  # one a second


# Sending from elsewhere ----------------------------------------------------


def test_push_from_another_thread(serve):
    """A session may be sent to at any time, from any thread."""
    sessions = []

    class Station(Silent):
        def connected(self, session: Session) -> None:
            sessions.append(session)

    running = serve(Station())
    with running.client() as client:
        until(lambda: sessions)
        threads = [
            threading.Thread(
                target=lambda i=i: [
                    sessions[0].send(Text(bytes([i]) * 5000), header=Header(0, i))
                    for _ in range(50)
                ]
            )
            for i in range(4)
        ]
        for thread in threads:
            thread.start()
        counts = [0] * 4
        for _ in range(200):
            text = client.receive().text
            assert text == text[:1] * 5000
            counts[text[0]] += 1
        assert [50] * 4 == counts
        for thread in threads:
            thread.join()
    until(lambda: not running.service.connections)
    with pytest.raises(ConnectionError):
        sessions[0].send(Text(), header=Header(0))


def test_close_by_the_route(serve):
    """What was answered before a session is closed still arrives."""

    class Station:
        @route
        def ping(self, message: Ping, session: Session) -> None:
            session.send(Pong(1), header=Header(0))
            session.close()

    with serve(Station()).client() as client:
        client.send(Ping(), Ping(), Ping())
        assert Pong(1) == client.receive()
        assert None is client.receive()


def test_generator_is_closed_when_the_peer_goes(serve):
    """A route that streams for ever ends when nobody listens any more."""
    ended = threading.Event()

    class Station:
        @route
        async def ping(self, message: Ping) -> AsyncIterator[Text]:
            try:
                while True:
                    yield Text(bytes(10_000))
                    await asyncio.sleep(0)
            finally:
                ended.set()

    running = serve(Station())
    with running.client() as client:
        client.send(Ping())
        assert isinstance(client.receive(), Message)
        client.reset()
    assert ended.wait(PATIENCE)
    until(lambda: not running.service.connections)


def test_peer_that_never_reads(serve, logged):
    """Whoever takes nothing is closed when the write limit is over."""

    class Station:
        errors = []

        @route
        def ping(self, message: Ping) -> Iterator[Text]:
            while True:
                yield Text(bytes(10_000))

        def disconnected(self, session: Session) -> None:
            self.errors.append(session.closed)

        @on_error(PeerTimeoutError)
        def late(self, error: PeerTimeoutError) -> None:
            self.errors.append(error)

    running = serve(Station(), limits=protoserve.Limits(write=0.2))
    with running.client() as lazy:
        lazy.send(Ping())
        until(lambda: running.service.refused["write"])
        until(lambda: not running.service.connections)
    assert "limit write: it did not take what was sent within 0.2 s" in logged()
    assert [True] == Station.errors
