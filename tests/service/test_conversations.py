"""
What is kept for a conversation, and when it begins and ends.
"""

import gc
import socket
import threading

import attrs
import pytest

import protoserve.server
from protoserve import Limits, Protocol, Service, Session, route
from protoserve.server import (
    ThreadingTCPServer,
    ThreadingUDPServer,
    ThreadingUnixStreamServer,
    UDPServer,
    UnixDatagramServer,
)
from tests.service.kit import (
    PATIENCE,
    Client,
    Header,
    Ping,
    Pong,
    Text,
    descriptors,
    spoken,
    until,
)


@attrs.define
class Counter:
    """
    Counts the messages of each conversation.
    """

    told: list = attrs.field(factory=list)

    @route
    def ping(self, message: Ping, session: Session) -> Pong:
        session.state += 1
        return Pong(session.state)

    def connected(self, session: Session) -> None:
        session.state = 100
        self.told.append(("connected", session.peer.transport))

    def disconnected(self, session: Session) -> None:
        self.told.append(("disconnected", session.state))


@pytest.mark.parametrize(
    "server_class",
    [ThreadingTCPServer, ThreadingUnixStreamServer, UDPServer, ThreadingUDPServer],
)
def test_state(serve, server_class):
    """Each peer has a state of its own, with datagrams too."""
    handler = Counter()
    running = serve(handler, server_class)
    with running.client() as first, running.client() as second:
        assert [101, 102] == [first.call(Ping()).value for _ in range(2)]
        assert 101 == second.call(Ping()).value
        assert 103 == first.call(Ping()).value
    if server_class in (UDPServer, ThreadingUDPServer):
        running.service.close()
    until(lambda: len(handler.told) == 4)
    assert [101, 103] == sorted(n for what, n in handler.told if what[0] == "d")


def test_full_table(serve):
    """The peer that was silent for longest makes room, and is told of."""
    handler = Counter()
    running = serve(handler, UDPServer, limits=Limits(peers=2))
    clients = [running.client() for _ in range(3)]
    for client in clients:
        assert 101 == client.call(Ping()).value
    assert 102 == clients[2].call(Ping()).value
    assert 101 == clients[0].call(Ping()).value
    assert [("disconnected", 101)] * 2 == [
        t for t in handler.told if t[0] != "connected"
    ]
    for client in clients:
        client.sock.close()


def test_silent_peers_are_forgotten(serve):
    """A datagram peer's state expires."""
    handler = Counter()
    running = serve(handler, UDPServer, limits=Limits(peer_idle=0.05))
    with running.client() as client, running.client() as other:
        assert 101 == client.call(Ping()).value
        until(lambda: other.call(Ping()) and ("disconnected", 101) in handler.told)
        assert 101 == client.call(Ping()).value


def test_sessions_of_two_servers_are_apart(start):
    """A peer that talks to two servers of a service has two conversations."""
    service = Service(spoken, Counter())
    servers = [start(UDPServer, service) for _ in range(2)]
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        client = Client(sock, stream=False)
        for running in servers * 2:
            sock.connect(running.server.server_address)
            value = client.call(Ping()).value
            assert value in (101, 102)
        assert 102 == value


def test_forgotten_datagram_session_is_closed(serve):
    """Nothing can be sent to a datagram peer that was forgotten."""
    sessions = []

    class Station:
        @route
        def ping(self, message: Ping, session: Session) -> Pong:
            sessions.append(session)
            return Pong()

    running = serve(Station(), UDPServer)
    with running.client() as client:
        client.call(Ping())
        sessions[0].send(Text(b"pushed"), header=Header(0))
        assert Text(b"pushed") == client.receive()
        running.service.close()
        with pytest.raises(ConnectionError):
            sessions[0].send(Text(), header=Header(0))


@pytest.mark.parametrize("by", ["route", "thread"])
def test_closed_datagram_session(serve, by):
    """After a session is closed, the peer's next datagram begins a new one."""
    sessions = []

    class Station(Counter):
        @route
        def text(self, message: Text, session: Session) -> None:
            sessions.append(session)
            if by == "route":
                session.close()

    running = serve(Station(), UDPServer)
    with running.client() as client:
        assert 101 == client.call(Ping()).value
        client.send(Text())
        until(lambda: sessions)
        if by == "thread":
            sessions[0].close()
        assert 101 == client.call(Ping()).value


def test_unwelcome_datagram_peer(serve):
    """A peer that the connected hook turns away is turned away each time."""
    refused = []

    class Station(Counter):
        def connected(self, session: Session) -> None:
            refused.append(session)
            session.close()

    running = serve(Station(), UDPServer)
    with running.client() as client:
        for _ in range(3):
            client.send(Ping())
        until(lambda: len(refused) == 3)
        client.sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.sock.recv(1)


@pytest.mark.parametrize("how", ["close", "raise"])
def test_unwelcome_connection(serve, how):
    """The connected hook may turn a peer away."""
    ended = []

    class Station(Counter):
        def connected(self, session: Session) -> None:
            if how == "raise":
                raise OSError("not you")
            session.close()

        def disconnected(self, session: Session) -> None:
            ended.append(session)

    running = serve(Station())
    with running.client() as client:
        assert None is client.receive()
    until(lambda: ended)


def test_greeting(serve):
    """The connected hook may speak first."""

    class Station:
        @route
        def ping(self, message: Ping) -> Pong:
            return Pong()

        def connected(self, session: Session) -> Text:
            return Text(b"welcome")

    with serve(Station()).client() as client:
        assert Text(b"welcome") == client.receive()
        assert Pong() == client.call(Ping())


def test_datagrams_of_one_peer_are_handled_in_turn(serve):
    """A conversation's messages are never handled at the same time."""
    busy, most = [], []

    class Station:
        @route
        def ping(self, message: Ping, session: Session) -> Pong:
            busy.append(1)
            most.append(len(busy))
            threading.Event().wait(0.002)
            busy.pop()
            return Pong()

    with serve(Station(), ThreadingUDPServer).client() as client:
        client.sock.settimeout(PATIENCE)
        for _ in range(20):
            client.send(Ping())
        for _ in range(20):
            client.receive()
    assert 1 == max(most)


def test_unnamed_unix_peers(serve):
    """A peer without an address is heard, not answered, and forgotten at once."""
    handler = Counter()
    running = serve(handler, UnixDatagramServer)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(running.server.server_address)
        client = Client(sock, stream=False)
        for _ in range(3):
            client.send(Ping())
    until(lambda: len(handler.told) == 6)
    assert [("connected", "unixgram"), ("disconnected", 101)] * 3 == handler.told


def test_unix_peer_that_does_not_read(serve):
    """A full or vanished Unix peer does not stop the server."""
    heard = []

    class Station:
        @route
        def ping(self, message: Ping):
            heard.append(message.value)
            return [Pong(message.value)] * 100

    running = serve(Station(), UnixDatagramServer)
    with running.client() as lazy:
        for _ in range(10):
            lazy.send(Ping(1))
        with running.client() as gone:
            gone.send(Ping(2))
        until(lambda: 2 in heard)
    with running.client() as good:
        assert Pong(3) == good.call(Ping(3))


def test_large_datagrams(serve):
    """An answer that no datagram can carry is dropped and told, nothing worse."""

    class Station:
        @route
        def ping(self, message: Ping) -> Text:
            return Text(bytes(message.value * 1000))

    protocol = Protocol(
        "large",
        header=Header,
        tag="kind",
        requests={1: Ping},
        responses={2: Pong, 3: Text},
    )
    service = Service(protocol, Station())
    with (
        service,
        UDPServer(("127.0.0.1", 0), service.RequestHandlerClass) as server,
        socket.socket(type=socket.SOCK_DGRAM) as sock,
    ):
        sock.settimeout(PATIENCE)
        sock.connect(server.server_address)
        for value in (200, 3):
            sock.send(bytes((1, 0, 0, value)))
            server.handle_request()
        assert 3003 == len(sock.recv(65_536))


def test_services_can_be_forgotten():
    """Services that nobody holds any more hold no descriptors."""
    gc.collect()
    before = descriptors()
    for _ in range(200):
        Service(spoken, Counter())
    gc.collect()
    assert before >= descriptors()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_disconnected_in_children(serve, folder):
    """Hooks are called in the child that handles the connection, too."""
    path = folder / "told"

    class Station(Counter):
        def disconnected(self, session: Session) -> None:
            path.write_text(str(session.state))

    running = serve(Station(), protoserve.server.ForkingTCPServer)
    with running.client() as client:
        assert 101 == client.call(Ping()).value
    until(lambda: path.exists() and path.read_text() == "101")
