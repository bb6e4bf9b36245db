"""
A service whose datagrams are received many at a time.
"""

import asyncio
import socket
import threading
import time
import types
from collections.abc import Iterator

import attrs
import pytest
from construct import Computed, Int8ub, this

from protoserve import (
    LengthField,
    Limits,
    Message,
    Protocol,
    Service,
    Session,
    blocks,
    on_error,
    route,
    wire,
)
from protoserve.server import (
    BatchMixIn,
    EventLoopMixIn,
    UDPServer,
    UnixDatagramServer,
)
from protoserve.server.batch import Block
from tests.service.kit import PATIENCE, Header, Ping, Pong, Text, connect, spoken, until


class BatchUDPServer(BatchMixIn, UDPServer):
    pass


class LoopUDPServer(EventLoopMixIn, UDPServer):
    pass


class BatchUnixServer(BatchMixIn, UnixDatagramServer):
    pass


def served(service, server_class=BatchUDPServer, address=("127.0.0.1", 0), **options):
    """
    Make a server whose loop does not run yet, so that datagrams gather.
    """
    made = type("Server", (server_class,), options)
    return made(address, service.RequestHandlerClass)


class loop_of:
    """
    Run a server's loop in a thread.
    """

    def __init__(self, server):
        self.server = server
        self.thread = threading.Thread(target=server.serve_forever, args=(0.02,))

    def __enter__(self):
        self.thread.start()
        return self.server

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        self.server.server_close()


@pytest.fixture
def run():
    """
    Begin to serve what has been sent to it; everything ends with the test.
    """
    running = []

    def begin(server, service):
        loop = loop_of(server)
        loop.__enter__()
        running.append((loop, service))
        return server

    yield begin
    for loop, service in running:
        loop.__exit__()
        service.close()


def client_of(server):
    return connect(server.server_address, socket.SOCK_DGRAM)


class Station:
    @route
    def ping(self, message: Ping) -> Pong:
        return Pong((message.value + 1) % 256)

    @route
    def text(self, message: Text) -> Iterator[Text]:
        for word in message.text.split():
            yield Text(word)


bare = Protocol(
    "bare",
    header=Header,
    tag="kind",
    requests={1: Ping},
    responses={2: Pong},
    messages={3: Text},
)


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("number", [1, 5, 100])
def test_many_peers(number, portable, run):
    """Each peer's requests of one batch are answered in order, to that peer."""
    service = Service(spoken, Station())
    server = served(service, _loop_portable=portable)
    clients = [client_of(server) for _ in range(number)]
    for value in range(200 // number):
        for client in clients:
            client.send(Ping(value))
    run(server, service)
    for client in clients:
        with client:
            for value in range(200 // number):
                assert Pong(value + 1) == client.receive()


def test_several_answers(run):
    """Routes with several answers stand between others, in order."""
    service = Service(spoken, Station())
    server = served(service)
    with client_of(server) as client:
        for message in (Ping(1), Text(b"a b"), Ping(2), Text(b""), Text(b"c")):
            client.sock.send(client.session.encode(message))
        run(server, service)
        received = [client.receive() for _ in range(5)]
    assert [Pong(2), Text(b"a"), Text(b"b"), Pong(3), Text(b"c")] == received


def test_datagrams_of_several_frames(run):
    """A datagram that holds several frames gets an answer to each."""

    class Piece(Message):
        size: int = wire(Int8ub)
        value: int = wire(Int8ub, default=0)

    pieces = Protocol(
        "pieces",
        framing=LengthField(Int8ub, offset=0),
        messages=Piece,
    )

    class Back:
        @route
        def piece(self, message: Piece) -> Piece:
            return Piece(message.size, message.value + 1)

    service = Service(pieces, Back())
    server = served(service)
    with client_of(server) as client:
        for data in ("01 05 01 06", "01", "01 07"):
            client.sock.send(bytes.fromhex(data))
        run(server, service)
        received = [client.sock.recv(9).hex(" ") for _ in range(3)]
    assert ["01 06", "01 07", "01 08"] == received


def test_malformed_between_others(run, logged):
    """A malformed datagram costs itself only, wherever in the batch it stands."""
    service = Service(spoken, Station())
    server = served(service, max_packet_size=65_535)
    with client_of(server) as client:
        for number in range(40):
            if number % 3 == 0:
                client.sock.send(b"\xff" * (number % 5))
            client.send(Ping(number))
        client.sock.send(b"\3\0\0" + b"long " * 4000)  # longer than a frame may be
        client.send(Ping(40))
        run(server, service)
        assert [Pong(n + 1) for n in range(41)] == [client.receive() for _ in range(41)]
    assert "sent what it may not" in logged()


def test_malformed_and_failed_hooks(run):
    """Hooks answer malformed messages and failures, in the order of arrival."""

    class Hooks:
        @route
        def ping(self, message: Ping) -> Pong:
            return Pong(100 // message.value)

        @on_error(ZeroDivisionError)
        def failed(self, message: Ping) -> Pong:
            return Pong(200)

        def malformed(self) -> Text:
            return Text(b"what?")

    service = Service(spoken, Hooks())
    server = served(service)
    with client_of(server) as client:
        client.send(Ping(1))
        client.send(Ping(0))
        client.sock.send(b"\1")
        client.send(Ping(2))
        run(server, service)
        received = [client.receive() for _ in range(4)]
    assert [Pong(100), Pong(200), Text(b"what?"), Pong(50)] == received


@attrs.define
class Counter:
    """
    Counts a conversation's messages, and ends it at the third.
    """

    told: list = attrs.field(factory=list)

    @route
    def ping(self, message: Ping, session: Session) -> Pong:
        session.state += 1
        if session.state == 3:
            session.close()
            return None
        return Pong(session.state)

    def connected(self, session: Session) -> None:
        session.state = 0
        self.told.append("connected")

    def disconnected(self, session: Session) -> None:
        self.told.append("disconnected")


@pytest.mark.parametrize("protocol", [spoken, bare])
def test_conversation_that_ends_in_a_batch(protocol, run):
    """What follows the end of a conversation in the same batch begins the next one."""
    service = Service(protocol, Counter())
    server = served(service)
    with client_of(server) as client:
        for _ in range(40):
            client.send(Ping())
        run(server, service)
        answers = [client.receive().value for _ in range(27)]
    assert [1, 2] * 13 + [1] == answers
    until(lambda: 27 == len(service.handler.told))
    assert ["connected", "disconnected"] * 13 == service.handler.told[:26]


def test_refused_conversations(run):
    """A `connected` hook that closes the session refuses one datagram at a time."""
    refused = []

    class Gate(Station):
        def connected(self, session: Session) -> None:
            if len(refused) < 2:
                refused.append(session)
                session.close()

    service = Service(spoken, Gate())
    server = served(service)
    with client_of(server) as client:
        for value in range(4):
            client.send(Ping(value))
        run(server, service)
        assert [Pong(3), Pong(4)] == [client.receive() for _ in range(2)]
    assert 2 == len(refused)


def test_session_that_formats_refer_to(run):
    """A format that looks at the session sees what the datagram before has left."""

    class Note(Message):
        value: int = wire(Int8ub)
        before: int = wire(Computed(this._.session.state))

    noted = Protocol("noted", header=Header, tag="kind", messages={1: Note})
    seen = []

    class Notes:
        @route
        def note(self, message: Note, session: Session) -> None:
            seen.append(message.before)
            session.state = message.value

    service = Service(noted, Notes())
    server = served(service)
    with client_of(server) as client:
        for value in range(1, 6):
            client.sock.send(bytes([1, 0, 0, value]))
        run(server, service)
        until(lambda: 5 == len(seen))
    assert [None, 1, 2, 3, 4] == seen


def test_peers_without_a_name(folder, run):
    """Unix peers without a name each have a conversation of their own."""
    service = Service(spoken, Counter())
    server = served(service, BatchUnixServer, str(folder / "s"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.connect(server.server_address)
        for _ in range(4):
            client.send(bytes.fromhex("01 00 00 07"))
        run(server, service)
        until(lambda: 8 == len(service.handler.told))
    assert ["connected", "disconnected"] * 4 == service.handler.told


class Slow:
    """
    Answers when it is allowed to.
    """

    def __init__(self):
        self.entered = []
        self.release = None
        self.loop = None

    async def _released(self):
        self.loop = asyncio.get_running_loop()
        if self.release is None:
            self.release = asyncio.Event()
        await self.release.wait()

    @route
    async def ping(self, message: Ping) -> Pong:
        self.entered.append(message.value)
        await self._released()
        return Pong(message.value)

    @route
    def text(self, message: Text) -> Text:
        return message

    def let_go(self):
        until(lambda: self.release is not None)
        self.loop.call_soon_threadsafe(self.release.set)


def test_slow_coroutines_do_not_stop_others(run):
    """While coroutines wait, other requests of the same and of other peers are answered."""
    service = Service(spoken, Slow())
    server = served(service)
    with client_of(server) as one, client_of(server) as two:
        one.send(Ping(1))
        one.send(Ping(2))
        one.send(Text(b"fast"))
        run(server, service)
        assert Text(b"fast") == one.receive()
        assert Text(b"other") == two.call(Text(b"other"))
        service.handler.let_go()
        assert {1, 2} == {one.receive().value for _ in range(2)}


@pytest.mark.parametrize("mode", ["batch", "loop"])
def test_requests_in_flight(run, logged, mode):
    """A peer may have so many in flight; more is dropped and counted, others are served."""
    service = Service(spoken, Slow(), limits=Limits(requests=3))
    server_class = {"batch": BatchUDPServer, "loop": LoopUDPServer}[mode]
    server = served(service, server_class)
    run(server, service)
    with client_of(server) as one, client_of(server) as two:
        for value in range(3):
            one.send(Ping(value))
        until(lambda: 3 == len(service.handler.entered))
        for _ in range(5):
            one.send(Ping(99))
        until(lambda: 5 == service.refused["requests"])
        assert Text(b"other") == two.call(Text(b"other"))
        service.handler.let_go()
        assert {0, 1, 2} == {one.receive().value for _ in range(3)}
        until(lambda: Text(b"again") == one.call(Text(b"again")))
    assert "has 3 requests in flight" in logged()


def test_burst_of_coroutines(run):
    """Of one batch, what is beyond the limit waits; all of it is answered."""
    service = Service(spoken, Slow(), limits=Limits(requests=3))
    server = served(service)
    with client_of(server) as client:
        for value in range(8):
            client.send(Ping(value))
        run(server, service)
        until(lambda: 3 <= len(service.handler.entered))
        service.handler.let_go()
        answered = {client.receive().value for _ in range(3)}
    assert {0, 1, 2} <= answered


def test_bound_of_all_coroutines(run, monkeypatch):
    """When there are too many coroutines in all, nothing is received for a while."""
    monkeypatch.setattr(blocks, "_MOST_TASKS", 2)
    service = Service(spoken, Slow())
    server = served(service)
    sides, waiting = [], []
    make_side = service.RequestHandlerClass.batch_side

    def note_side(server):
        sides.append(make_side(server))
        return sides[0]

    monkeypatch.setattr(service.RequestHandlerClass, "batch_side", note_side)
    run(server, service)
    with client_of(server) as one, client_of(server) as two:
        for client in (one, two):
            client.send(Ping(1))
        until(lambda: 2 == len(service.handler.entered))
        side = sides[0]
        side._some_finished.clear()
        waits = side._some_finished.wait
        side._some_finished.wait = lambda timeout: waiting.append(1) or waits(timeout)
        two.send(Text(b"waits"))
        until(lambda: waiting)
        service.handler.let_go()
        assert Pong(1) == one.receive()
        assert [Pong(1), Text(b"waits")] == [two.receive(), two.receive()]


def test_asynchronous_beginning(run):
    """While a `connected` hook waits, the peer's datagrams wait, and others are served."""
    order = []

    class Gate(Slow):
        async def connected(self, session: Session) -> None:
            order.append("begin")
            if len(order) == 1:
                await self._released()
            order.append("begun")

        @route
        def text(self, message: Text) -> Text:
            order.append(message.text)
            return message

    service = Service(spoken, Gate())
    server = served(service)
    with client_of(server) as one, client_of(server) as two:
        one.send(Text(b"1"))
        one.send(Text(b"2"))
        run(server, service)
        until(lambda: service.handler.release is not None)
        assert Text(b"other") == two.call(Text(b"other"))
        service.handler.let_go()
        assert [Text(b"1"), Text(b"2")] == [one.receive() for _ in range(2)]
    assert ["begun", b"1", b"2"] == order[-3:]


def test_failing_coroutine(run, logged):
    """A coroutine that fails costs its own request only, and is logged."""

    class Fails(Station):
        @route
        async def ping(self, message: Ping) -> Pong:
            await asyncio.sleep(0)
            return Pong(100 // message.value)

    service = Service(spoken, Fails())
    server = served(service)
    with client_of(server) as client:
        client.send(Ping(0))
        client.send(Ping(2))
        run(server, service)
        assert Pong(50) == client.receive()
    until(lambda: "ping() failed" in logged())


def test_coroutines_are_waited_for():
    """`shutdown` lets coroutines end that have begun."""
    service = Service(spoken, Slow())
    server = served(service)
    with client_of(server) as client, loop_of(server):
        client.send(Ping(7))
        until(lambda: service.handler.entered)
        stopping = threading.Thread(target=server.shutdown)
        stopping.start()
        service.handler.let_go()
        assert Pong(7) == client.receive()
        stopping.join(PATIENCE)
    service.close()


def test_coroutines_that_take_too_long_are_ended():
    """After `drain_timeout` coroutines are cancelled."""
    ended = threading.Event()

    class Stuck(Station):
        entered = threading.Event()

        @route
        async def ping(self, message: Ping) -> None:
            self.entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    service = Service(spoken, Stuck())
    server = served(service, drain_timeout=0.01)
    with client_of(server) as client, loop_of(server):
        client.send(Ping(7))
        assert Stuck.entered.wait(PATIENCE)
    assert ended.wait(PATIENCE)
    service.close()


def test_slow_routes_do_not_hold_back_answers(run):
    """An answer does not wait until routes that take long are all through."""
    release = threading.Event()
    in_time = []

    class Blocks(Station):
        @route
        def ping(self, message: Ping) -> Pong:
            if message.value == 16:
                time.sleep(2 * blocks._PATIENCE)
            if message.value == 32:
                in_time.append(release.wait(PATIENCE / 4))
            return Pong(message.value)

    service = Service(bare, Blocks())
    server = served(service)
    with client_of(server) as client:
        for value in range(33):
            client.send(Ping(value))
        run(server, service)
        assert Pong(0) == client.receive()
        release.set()
        until(lambda: in_time)
    assert [True] == in_time


def test_pushing_from_another_thread(run):
    """What another thread sends at any time arrives."""
    sessions = []

    class Push(Station):
        @route
        def text(self, message: Text, session: Session) -> None:
            sessions.append(session)

    service = Service(spoken, Push())
    server = served(service)
    run(server, service)
    with client_of(server) as client:
        client.send(Text(b"subscribe"))
        until(lambda: sessions)
        for value in range(3):
            sessions[0].send(Text(b"%d" % value))
        assert [Text(b"0"), Text(b"1"), Text(b"2")] == [
            client.receive() for _ in range(3)
        ]


def test_busy_peer_keeps_its_session(monkeypatch):
    """A peer that keeps on sending is not taken for a silent one."""
    now = [0.0]

    def clock():
        return now[0]

    fake = types.SimpleNamespace(monotonic=clock, time=clock)
    monkeypatch.setattr(blocks, "time", fake)
    told = []

    class Told(Station):
        def connected(self, session: Session) -> None:
            told.append("connected")

        def disconnected(self, session: Session) -> None:
            told.append("disconnected")

    service = Service(spoken, Told(), limits=Limits(peer_idle=10))
    server = served(service)
    side = service.RequestHandlerClass.batch_side(server)
    block = Block(server.socket, 64, 100)
    address = ("192.0.2.1", 9)
    first = service.conversation(server, server.socket, address)  # makes the table
    service.forget(server, address, first)
    service._tables[server].clock = clock
    with server, client_of(server) as client, client_of(server) as silent:
        silent.send(Ping())
        for second in range(40):
            now[0] = float(second)
            client.send(Ping(second))
            block.receive(server.socket)
            side.batch(block)
            assert Pong(second + 1) == client.receive()
    assert ["connected", "connected", "disconnected"] == told
    service.close()


def test_draining(logged):
    """What has arrived when a run is stopped is answered."""
    service = Service(spoken, Station())
    server = served(service, batch_size=64)
    with client_of(server) as client:
        for value in range(150):
            client.send(Ping(value))
        server.shutdown()  # of the loop that begins now
        server.serve_forever()
        assert [Pong(n + 1) for n in range(150)] == [
            client.receive() for _ in range(150)
        ]
    server.server_close()
    service.close()
    assert not [r for r in logged().splitlines() if "failed" in r]
