"""
A service is tested in memory as it would run in production.
"""

from __future__ import annotations

import asyncio
import threading

import attrs
import pytest
from construct import Int8ub, Int16ub

from examples import dns_server, modbus_station, ntp_server, sensor_station
from protocols import dns, modbus, ntp
from protoserve import (
    DeclarationError,
    ErrorResponse,
    LengthPrefixed,
    Limits,
    LocalProtocolError,
    MalformedMessageError,
    Message,
    Peer,
    PeerTimeoutError,
    Protocol,
    Request,
    Role,
    Service,
    Session,
    SessionClosedError,
    on_error,
    route,
    wire,
)
from protoserve.journal import Journal, read_journal
from protoserve.peers import PeerTable
from protoserve.session import TLSFacts
from protoserve.testing import Clock, TestClient, byte_by_byte
from tests.service.kit import Ping, Pong, Text, spoken


def served(**methods):
    """A service of `spoken` whose handler has these methods."""
    return Service(spoken, type("Handler", (), methods)())


@route
def pong(self, message: Ping) -> Pong:
    return Pong(message.value + 1)


@route
async def slow_pong(self, message: Ping) -> Pong:
    await asyncio.sleep(0.002 * (5 - message.value))
    return Pong(message.value + 1)


@pytest.mark.parametrize("transport", ["stream", "datagram"])
@pytest.mark.parametrize("answer", [pong, slow_pong], ids=["plain", "async"])
def test_calls_are_answered(transport, answer):
    """Plain and async routes answer over both kinds of transport."""
    with TestClient(served(ping=answer), transport=transport) as client:
        assert Pong(4) == client.call(Ping(3))
        answers = client.call_many([Ping(n) for n in range(5)], window=5)
        assert [Pong(n + 1) for n in range(5)] == list(answers)


def test_readme_station():
    """The first example of all is tested in a few lines."""
    with TestClient(sensor_station.app) as client:
        ack = client.call(sensor_station.Reading(7, 21.5, samples=[1, 2]))
    assert sensor_station.Ack(7) == ack
    assert 21.5 == sensor_station.app.handler.last[7]


@pytest.mark.parametrize("transport", ["stream", "datagram"])
def test_dns(transport):
    """The example's zone answers a query."""
    with TestClient(dns_server.app, transport=transport) as client:
        query = dns.Query(questions=[dns.Question("www.example.test")])
        response = client.call(query)
    assert ["CNAME", "A"] == [record.type.name for record in response.answers]


def test_modbus():
    """Registers are read as they were written; an exception is an `ErrorResponse`."""
    app = Service(modbus.modbus, modbus_station.Station())
    with TestClient(app) as client:
        header = modbus.Mbap(unit=1)
        client.call(modbus.WriteSingleRegister(5, 77), header=header)
        found = client.call(modbus.ReadHoldingRegisters(5, 1), header=header)
        assert [77] == found.values
        with pytest.raises(ErrorResponse) as caught:
            client.call(modbus.ReadHoldingRegisters(5_000, 1), header=header)
    assert "ILLEGAL_DATA_ADDRESS" in str(caught.value.response)


def test_ntp():
    """A client of a datagram protocol needs no choice of transport."""
    clock = Clock(1_700_000_000.25)
    with TestClient(ntp_server.app, clock=clock) as client:
        event = client.ask(ntp.ClientRequest(), header=ntp.Header(mode=ntp.Mode.CLIENT))
    assert ntp.Mode.SERVER is event.header.mode
    received = event.message.receive_timestamp
    assert 1_700_000_000.25 == pytest.approx(ntp.to_unix(received), abs=1e-6)


# Streams ---------------------------------------------------------------------


def pieces_of(seed, split=True):
    """What the reads of a handler's stream were, on one client."""
    seen = []

    class Handler:
        @route
        def text(self, message: Text) -> Text:
            return message

    app = Service(spoken, Handler())
    client = TestClient(app, seed=seed, split=split)
    with client:
        client._link.feed = seen.append
        client.send(Text(b"x" * 40))
    return seen


def test_streams_are_cut_at_random():
    """The places are the same for one seed, and others for another one."""
    first = pieces_of(0)
    assert len(first) > 2
    assert pieces_of(0) == first
    assert pieces_of(1) != first
    assert {45} == {sum(map(len, pieces_of(seed))) for seed in range(20)}


def test_splitters():
    """Streams are left whole, or cut as one likes."""
    assert [45] == [len(piece) for piece in pieces_of(0, split=False)]
    assert [1] * 45 == [len(piece) for piece in pieces_of(0, split=byte_by_byte)]
    halves = pieces_of(0, split=lambda data: (data[:20], data[20:]))
    assert [20, 25] == [len(piece) for piece in halves]


def test_seed_is_told():
    """Who looks at a failed test sees by which seed it fails."""
    with (
        pytest.raises(ZeroDivisionError) as caught,
        TestClient(served(ping=pong), seed=41) as client,
        client.another(),
    ):
        1 / 0  # noqa: B018
    assert ["streams were cut as they are with TestClient(seed=41)"] == (
        caught.value.__notes__
    )


def test_answers_are_cut_too():
    """The client's own stream comes in pieces, messages of one send included."""

    @route
    def several(self, message: Ping):
        yield from (Text(bytes([n]) * n) for n in range(message.value))

    pieces = []
    with TestClient(served(ping=several), split=byte_by_byte) as client:
        receive = client._calls.receive
        client._calls.receive = lambda data: (pieces.append(data), receive(data))
        client.send(Ping(30))
        texts = [message.text for message in client.messages()]
    assert {1} == {len(piece) for piece in pieces}
    assert [bytes([n]) * n for n in range(30)] == texts


def test_bytes_as_they_are():
    """What no session would send is sent by hand, in parts too."""
    with TestClient(served(ping=pong)) as client:
        data = client.session.encode(Ping(1))
        client.send_bytes(data[:3])
        with pytest.raises(PeerTimeoutError):
            client.receive()
        client.send_bytes(data[3:])
        assert Pong(2) == client.receive()


# Sessions --------------------------------------------------------------------


def test_sessions_are_apart():
    """Each client has a session of its own, and a peer address."""

    @attrs.define
    class Room:
        there: dict = attrs.field(factory=dict)

        def connected(self, session: Session):
            self.there[str(session.peer)] = session

        def disconnected(self, session: Session):
            del self.there[str(session.peer)]

        @route
        def text(self, message: Text):
            for session in self.there.values():
                session.send(message)

    room = Room()
    with TestClient(Service(spoken, room)) as first:
        with first.another() as second, second.another() as third:
            assert 3 == len(room.there)
            third.send(Text(b"hello"))
            for client in (first, second, third):
                assert Text(b"hello") == client.receive()
        assert [str(first.peer)] == list(room.there)
    assert {} == room.there


def test_peer_is_injected():
    """The service takes the client for whom the test says."""
    seen = []

    @route
    def text(self, message: Text, session: Session):
        seen.append(session.peer)

    peer = Peer(
        "tls",
        ("192.0.2.7", 7),
        certificate={"subject": ((("commonName", "sensor"),),)},
        tls=TLSFacts("TLSv1.3", "TLS_AES_128_GCM_SHA256", server_name="station"),
    )
    with TestClient(served(text=text), peer=peer) as client:
        client.send(Text())
    assert peer is seen[0]


@pytest.mark.parametrize("transport", ["udp", "unixgram"])
def test_datagram_peer_is_injected(transport):
    """That is so for datagrams, too."""
    seen = []

    @route
    def ping(self, message: Ping, session: Session) -> Pong:
        seen.append(session.peer)
        return Pong()

    peer = Peer(transport, "/run/x" if transport == "unixgram" else ("192.0.2.7", 7))
    with TestClient(served(ping=ping), peer=peer) as client:
        client.call(Ping())
        with client.another() as other:
            other.call(Ping())
    assert peer is seen[0]
    assert seen[1] not in (None, peer)


def test_datagram_peers_come_back():
    """Who comes back from the same address goes on with the same session."""
    seen = []

    @route
    def ping(self, message: Ping, session: Session) -> Pong:
        seen.append(session)
        return Pong(message.value)

    with TestClient(served(ping=ping), transport="datagram") as client:
        client.call(Ping(1))
        client.close()
        with client.another(peer=client.peer) as again:
            assert Pong(2) == again.call(Ping(2))
    assert seen[0] is seen[1]


def test_limits_are_kept():
    """A client too many is closed, and so is one that is silent for too long."""
    clock = Clock()
    app = served(ping=pong)
    app.limits = Limits(connections=1, idle=300.0)
    with TestClient(app, clock=clock) as client:
        with client.another() as refused, pytest.raises(SessionClosedError):
            refused.receive()
        clock.advance(9.0)
        client.call(Ping())
        clock.advance(299.0)
        client.call(Ping())
        clock.advance(300.0)
        with pytest.raises(SessionClosedError):
            client.receive()
    assert {"connections": 1, "idle": 1} == dict(app.refused)


def test_datagram_peers_are_forgotten():
    """The table of peers goes by the test's clock, and the handler is told."""
    gone = []

    def disconnected(self, session: Session):
        gone.append(session.peer)

    clock = Clock()
    app = served(ping=pong, disconnected=disconnected)
    with TestClient(app, transport="datagram", clock=clock) as client:
        client.call(Ping())
        clock.advance(299.0)
        client.call(Ping())
        assert [] == gone
        clock.advance(301.0)
        client.call(Ping())
        assert [client.peer] == gone


def test_frames_have_the_time_of_the_clock():
    """What a handler is told about time is the test's."""
    clock = Clock(50.0)
    seen = []

    @route
    def ping(self, message: Ping, session: Session) -> Pong:
        seen.append(session.received_at)
        return Pong()

    with TestClient(served(ping=ping), clock=clock) as client:
        client.call(Ping())
        clock.advance(0.5)
        event = client.ask(Ping())
    assert [50.0, 50.5] == seen
    assert 50.5 == event.frame.received_at


def test_states_are_followed():
    """The client refuses to send what is not allowed yet."""

    class Hello(Message):
        version: int = wire(Int8ub, default=1)

    class Go(Message):
        pass

    class Head(Message):
        kind: int = wire(Int8ub)

    class Handler:
        @route
        def hello(self, message: Hello) -> None: ...

        @route
        def go(self, message: Go) -> None: ...

    protocol = Protocol(
        "stated",
        framing=LengthPrefixed(Int16ub),
        header=Head,
        tag="kind",
        requests={1: Hello, 2: Go},
        states={"new": {Hello: "open"}, "open": {Go: "open"}},
    )
    with TestClient(Service(protocol, Handler())) as client:
        with pytest.raises(LocalProtocolError, match="not allowed in state 'new'"):
            client.send(Go())
        client.send(Hello())
        client.send(Go())
        assert "open" == client.session.phase


def test_states_follow_answers_that_nobody_took():
    """What may be sent next depends on what was answered, received or not."""

    class Hello(Message):
        version: int = wire(Int8ub, default=1)

    class Welcome(Message):
        pass

    class Head(Message):
        kind: int = wire(Int8ub)

    class Handler:
        @route
        def hello(self, message: Hello) -> Welcome:
            return Welcome()

    protocol = Protocol(
        "stated",
        framing=LengthPrefixed(Int16ub),
        header=Head,
        tag="kind",
        requests={1: Hello},
        responses={1: Welcome},
        states={"new": {Hello: "asked"}, "asked": {Welcome: "new"}},
    )
    with TestClient(Service(protocol, Handler())) as client:
        client.send(Hello())
        client.send(Hello())
        assert [Welcome(), Welcome()] == list(client.messages())


# Lifespan and handlers -------------------------------------------------------


def test_lifespan_is_always_run():
    """It is entered before the first message, and left, in whatever way it is made."""
    said = []

    async def lifespan(service):
        said.append("opened")
        yield
        said.append("closed")

    app = Service(spoken, served(ping=pong).handler, lifespan=lifespan)
    with TestClient(app):
        assert ["opened"] == said
    assert ["opened", "closed"] == said
    with TestClient(app), pytest.raises(PeerTimeoutError):
        raise PeerTimeoutError
    assert 4 == len(said)


@pytest.mark.parametrize("transport", ["stream", "datagram"])
def test_journal(transport, tmp_path):
    """A service that records messages records those of a test."""
    journal = Journal(tmp_path / "journal")
    app = Service(spoken, served(ping=pong).handler, journal=journal)
    with TestClient(app, transport=transport) as client:
        client.call(Ping(3))
    journal.close()
    entries = list(read_journal(tmp_path / "journal"))
    assert ["Ping", "Pong"] == [entry.message for entry in entries]


def test_failed_lifespan():
    """What a lifespan raises is raised by the test."""

    def lifespan(service):
        raise LookupError("no database")
        yield

    app = Service(spoken, served(ping=pong).handler, lifespan=lifespan)
    with pytest.raises(LookupError, match="no database"), TestClient(app):
        pass


@pytest.mark.parametrize("kind", ["plain", "async", "generator"])
@pytest.mark.parametrize("transport", ["stream", "datagram"])
def test_exceptions_of_routes_are_raised(kind, transport):
    """They have the traceback of the route, and the test needs no answer to see it."""

    @route
    def plain(self, message: Ping) -> Pong:
        raise LookupError("oh")

    @route
    async def coroutine(self, message: Ping) -> Pong:
        raise LookupError("oh")

    @route
    async def generator(self, message: Ping):
        yield Pong()
        raise LookupError("oh")

    method = {"plain": plain, "async": coroutine, "generator": generator}[kind]
    with (
        TestClient(served(ping=method), transport=transport) as client,
        pytest.raises(LookupError, match="oh") as caught,
    ):
        client.call(Ping())
        client.receive()
    assert method.__code__.co_name in [entry.name for entry in caught.traceback]


def test_exceptions_are_raised_at_the_end():
    """Those that nobody has waited for are raised when the block is left."""

    @route
    async def ping(self, message: Ping) -> None:
        await asyncio.sleep(0.001)
        raise LookupError("late")

    with (
        pytest.raises(LookupError, match="late"),
        TestClient(served(ping=ping)) as client,
    ):
        client.send(Ping())


def test_production_deals_with_exceptions():
    """On demand an exception closes the stream, as in production."""

    @route
    def ping(self, message: Ping) -> Pong:
        raise LookupError("oh")

    with (
        TestClient(served(ping=ping), raise_errors=False) as client,
        pytest.raises(SessionClosedError),
    ):
        client.call(Ping())


def test_hooks_answer_exceptions():
    """What a hook has answered is not raised."""

    @route
    def ping(self, message: Ping) -> Pong:
        raise LookupError("oh")

    @on_error(LookupError)
    def lost(self, message: Ping) -> Pong:
        return Pong(99)

    with TestClient(served(ping=ping, lost=lost)) as client:
        assert Pong(99) == client.call(Ping())


def test_assertions_in_routes():
    """A test may assert something in its handler."""

    @route
    def ping(self, message: Ping) -> Pong:
        assert message.value < 5
        pytest.fail("not so small")

    with TestClient(served(ping=ping)) as client:
        with pytest.raises(AssertionError):
            client.call(Ping(7))
        with client.another() as other, pytest.raises(pytest.fail.Exception):
            other.call(Ping(1))


def test_service_is_as_before():
    """After the test exceptions are logged only, and the service may be tested again."""

    @route
    def ping(self, message: Ping) -> Pong:
        raise LookupError("oh")

    app = served(ping=ping)
    usual = app.dispatcher._rare
    for _ in range(2):
        with TestClient(app) as client, pytest.raises(LookupError):
            client.call(Ping())
        assert usual is app.dispatcher._rare
        assert 0 == app.connections


# Waiting ---------------------------------------------------------------------


def test_nothing_is_waited_for_in_vain():
    """Without anything under way a test is told at once, not after a timeout."""
    with TestClient(served(ping=pong), timeout=1_000.0) as client:
        with pytest.raises(PeerTimeoutError, match="nothing is under way"):
            client.receive()

        with client.another(), pytest.raises(PeerTimeoutError):
            client.receive()


def test_coroutines_are_waited_for():
    """Some that never end cost the timeout, and are ended with the test."""
    ended = []

    @route
    async def ping(self, message: Ping) -> Pong:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(message.value)

    with TestClient(served(ping=ping)) as client:
        with pytest.raises(PeerTimeoutError, match=r"no answer to Ping.* 0\.01 s"):
            client.call(Ping(1), timeout=0.01)
        assert [] == ended
    assert [1] == ended


def test_coroutines_end_with_the_test():
    """Also those of a service that stays open."""
    ended = []

    @route
    async def ping(self, message: Ping) -> Pong:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(message.value)

    with served(ping=ping) as app:
        with TestClient(app) as client:
            client.send(Ping(1))
        assert [1] == ended


def test_late_answers_are_known():
    """An answer that was given up is no answer to the next request."""
    go = asyncio.Event()

    @route
    async def ping(self, message: Ping) -> Pong:
        if message.value == 1:
            await go.wait()
        else:
            go.set()
        return Pong(message.value)

    with TestClient(served(ping=ping)) as client:
        with pytest.raises(PeerTimeoutError):
            client.call(Ping(1), timeout=0.01)
        assert Pong(2) == client.call(Ping(2))
        with pytest.raises(PeerTimeoutError):
            client.receive()
        assert 1 == client.stats.late


def test_pushes_arrive():
    """Threads and tasks of a handler may send at any time."""

    @route
    async def text(self, message: Text, session: Session):
        async def later():
            await asyncio.sleep(0.001)
            session.send(Text(b"task"))

        self.task = asyncio.create_task(later())

    @route
    def ping(self, message: Ping, session: Session):
        threading.Timer(0.001, session.send, [Text(b"thread")]).start()

    with TestClient(served(text=text, ping=ping)) as client:
        client.send(Text())
        assert Text(b"task") == client.receive()
        client.send(Ping())
        assert Text(b"thread") == client.receive()


def test_pushes_are_no_answers():
    """What a call was not about is for `receive`."""

    class Alarm(Message):
        pass

    class Handler:
        @route
        def ping(self, message: Ping, session: Session) -> Pong:
            session.send(Alarm())
            return Pong()

    pushing = attrs.evolve(spoken, responses={2: Pong, 4: Alarm})
    with TestClient(Service(pushing, Handler())) as client:
        assert Pong() == client.call(Ping())
        assert Alarm() == client.receive()


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_endless_streams(kind):
    """A route that never ends is stopped while nobody takes what it gives."""
    made = []

    @route
    def plain(self, message: Text):
        try:
            while True:
                made.append(1)
                yield Text(bytes(1000))
        finally:
            made.append("closed")

    @route
    async def coroutine(self, message: Text):
        for value in plain(self, message):
            yield value

    app = served(text=plain if kind == "plain" else coroutine)
    with TestClient(app) as client:
        client.send(Text())
        stream = client.messages()
        for _ in range(200):
            assert Text(bytes(1000)) == next(stream)
        assert len(made) < 500
    assert "closed" == made[-1]


def test_closing():
    """What the service closes is over for the client, after all that it has sent."""

    @route
    def ping(self, message: Ping, session: Session):
        session.send(Pong(1))
        session.close()

    with TestClient(served(ping=ping)) as client:
        client.send(Ping())
        assert Pong(1) == client.receive()
        with pytest.raises(SessionClosedError):
            client.receive()
        with pytest.raises(SessionClosedError):
            client.send(Ping())


def test_closing_from_elsewhere():
    """A thread may close a session, too."""

    @route
    def ping(self, message: Ping, session: Session):
        threading.Timer(0.001, session.close).start()

    with TestClient(served(ping=ping)) as client:
        client.send(Ping())
        with pytest.raises(SessionClosedError):
            client.receive()


def test_half_closed():
    """After its end a client still receives, and the handler is told at last."""
    gone = []

    def disconnected(self, session: Session):
        gone.append(session)

    app = served(ping=slow_pong, disconnected=disconnected)
    with TestClient(app) as client:
        client.send(Ping(4))
        client.end()
        assert Pong(5) == client.receive()
        with pytest.raises(SessionClosedError):
            client.receive()
        assert 1 == len(gone)


def test_client_closes():
    """A client that closes is gone at once."""
    gone = []

    def disconnected(self, session: Session):
        gone.append(session)

    with TestClient(served(ping=pong, disconnected=disconnected)) as client:
        client.close()
        assert 1 == len(gone)
        with pytest.raises(SessionClosedError):
            client.call(Ping())


def test_draining():
    """A service that drains ends conversations which have nothing in flight."""
    app = served(ping=slow_pong)
    with TestClient(app) as client:
        client.send(Ping(1))
        app.drain()
        assert Pong(2) == client.receive()
        with pytest.raises(SessionClosedError):
            client.receive()


def test_malformed_requests():
    """The default policy closes a stream, and the client sees that."""
    with TestClient(served(ping=pong)) as client:
        client.send_bytes(b"\0\1\1")
        with pytest.raises(SessionClosedError):
            client.receive()


def test_malformed_answers():
    """What a service sends is parsed; nonsense is told with its place."""

    @route
    def ping(self, message: Ping, session: Session):
        session.deliver(b"\0\3\2\0\0")

    with TestClient(served(ping=ping)) as client:
        client.send(Ping())
        with pytest.raises(MalformedMessageError, match=r"Pong\.value"):
            client.receive()


def test_without_correlation():
    """One request at a time is answered, the next one after it."""

    class Reply(Message):
        value: int = wire(Int8ub)

    class Ask(Request[Reply]):
        value: int = wire(Int8ub)

    class Handler:
        @route
        async def ask(self, message: Ask) -> Reply:
            await asyncio.sleep(0.001 * message.value)
            return Reply(message.value)

    plain = Protocol(
        "plain", framing=LengthPrefixed(Int8ub), requests=Ask, responses=Reply
    )
    with TestClient(Service(plain, Handler())) as client:
        assert Reply(1) == client.call(Ask(1))
        asked = iter([Ask(3), Ask(0)])
        answers = client.call_many(asked)
        assert Reply(3) == next(answers)
        assert Ask(0) == next(asked)  # it was not sent yet
        assert [] == list(answers)
        client.send(Ask(2))
        client.send(Ask(1))
        assert [Reply(2), Reply(1)] == list(client.messages())


def test_streams_of_answers():
    """A request may have many answers."""

    @route
    async def ping(self, message: Ping):
        for value in range(message.value):
            yield Pong(value)

    with TestClient(served(ping=ping)) as client:
        assert [0, 1, 2] == [answer.value for answer in client.stream(Ping(3))]


# Wrong use -------------------------------------------------------------------


def test_wrong_use():
    """One line says what is wrong, and the nearest that is right."""
    app = served(ping=pong)
    with pytest.raises(DeclarationError, match="did you mean 'stream'"):
        TestClient(app, transport="streams")
    with pytest.raises(DeclarationError, match="takes a Service"):
        TestClient(spoken)
    with pytest.raises(DeclarationError, match="transport='datagram'"):
        TestClient(ntp_server.app, transport="stream")
    with pytest.raises(RuntimeError, match="with block"):
        TestClient(app).call(Ping())
    with (
        TestClient(app, transport="datagram") as client,
        pytest.raises(TypeError, match="no end"),
    ):
        client.end()


def test_clock():
    """A clock goes on when it is told to, and never back."""
    clock = Clock(10.0)
    clock.advance(1.5)
    assert 11.5 == clock() == clock.now
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="0 or more"):
            clock.advance(wrong)


def test_clock_elsewhere():
    """Sessions and tables of peers go by a clock as well."""
    clock, gone = Clock(10.0), []
    session = Session(spoken, Role.SERVER, clock=clock)
    table = PeerTable(most=None, idle=5.0, forgotten=gone.append, clock=clock)
    table.get("peer", lambda: "state")
    clock.advance(5.0)
    session.receive_data(b"")
    table.get("other", lambda: "other")
    assert 15.0 == session.received_at
    assert ["state"] == gone
