"""
The fault proxy between real peers: what a client gets, byte by byte, and when.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
import time

import attrs
import pytest

from protoserve import DeclarationError, Direction, Role, Service, Session, route
from protoserve.events import NEED_DATA, MessageReceived
from protoserve.rarelog import RareLog
from protoserve.testing import FaultPlan, fault_proxy, live
from protoserve.testing import proxy as proxies
from protoserve.testing.proxy import FaultProxy
from protoserve.urls import Address
from tests.certificates import Authority
from tests.service.kit import PATIENCE, descriptors, until
from tests.testing.faulty import Ack, Fetch, Header, Reading, Samples, Tick, plain


@attrs.define
class Station:
    """
    Answers, and knows what it was asked.
    """

    asked: list = attrs.field(factory=list)

    @route
    def reading(self, message: Reading) -> Ack:
        self.asked.append(message.device)
        return Ack(message.device)

    @route
    def fetch(self, message: Fetch) -> Samples:
        return Samples([7] * message.count)

    @route
    def tick(self, message: Tick, session: Session) -> Tick:
        session.send(Tick(message.number + 1))
        return Tick(message.number + 2)


class Peer:
    """
    A client over a socket of its own.
    """

    def __init__(self, url, **options):
        address = Address.parse(url)
        kind = socket.SOCK_STREAM if address.is_stream else socket.SOCK_DGRAM
        family = socket.AF_INET if address.port is not None else socket.AF_UNIX
        self.sock = socket.socket(family, kind)
        self.sock.settimeout(PATIENCE)
        if family == socket.AF_UNIX and not address.is_stream:
            self.sock.bind("")
        where = address.host if address.port is None else (address.host, address.port)
        try:
            self.sock.connect(where)
        except OSError:
            self.sock.close()
            raise
        self.session = Session(plain, Role.CLIENT, stream=address.is_stream)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, *messages):
        for message in messages:
            self.sock.send(self.session.encode(message))

    def events(self, count):
        found = []
        while len(found) < count:
            event = self.session.next_event()
            if event is NEED_DATA:
                data = self.sock.recv(65_536)
                if not data:
                    break
                self.session.receive_data(data)
            else:
                found.append(event)
        return found

    def receive(self, count=1):
        return [event.message for event in self.events(count)]

    def silent(self):
        """
        Say whether nothing comes; an echo is awaited first, so nothing is on its way.
        """
        self.sock.settimeout(0.0)
        try:
            return not self.sock.recv(1)
        except BlockingIOError:
            return True
        finally:
            self.sock.settimeout(PATIENCE)


@pytest.fixture
def station():
    return Station()


@pytest.fixture
def proxied(station):
    """
    Give a function that puts the station behind a proxy, and connects to that.
    """
    with contextlib.ExitStack() as stack:

        def start(*faults, transport="tcp", protocol=plain, **options):
            server = stack.enter_context(
                live(Service(protocol, station), mode="loop", transport=transport)
            )
            proxy = stack.enter_context(
                fault_proxy(protocol, server.url, *faults, **options)
            )
            return proxy, stack.enter_context(Peer(proxy.url))

        yield start


# Streams ---------------------------------------------------------------------------


def test_nothing_wrong(proxied, station):
    """Without faults it is as if there were no proxy."""
    proxy, peer = proxied()
    peer.send(Reading(7), Reading(8), Fetch(3))
    assert [Ack(7), Ack(8), Samples([7, 7, 7])] == peer.receive(3)
    assert {"request": 3, "response": 3} == dict(proxy.carried)


def test_drop(proxied):
    """The dropped message does not come; the others do."""
    proxy, peer = proxied("drop@Ack")
    peer.send(Reading(7), Fetch(1))
    assert [Samples([7])] == peer.receive()
    assert proxy.counts == {"drop": 1}


def test_duplicate(proxied):
    """The message comes twice."""
    _, peer = proxied("duplicate@Ack")
    peer.send(Reading(7), Fetch(1))
    assert [Ack(7), Ack(7), Samples([7])] == peer.receive(3)


def test_delay(proxied):
    """The message comes after a while."""
    _, peer = proxied("delay=60ms±10")
    started = time.monotonic()
    peer.send(Reading(7))
    assert [Ack(7)] == peer.receive()
    assert time.monotonic() - started >= 0.05


def test_reorder(proxied):
    """The message comes after the next one."""
    _, peer = proxied("reorder=20s@Ack")
    peer.send(Reading(7), Fetch(1))
    assert [Samples([7]), Ack(7)] == peer.receive(2)


def test_truncate(proxied):
    """A part comes, and then the end."""
    _, peer = proxied("truncate")
    peer.send(Reading(7))
    data = b"".join(iter(lambda: peer.sock.recv(100), b""))
    header = Header(kind=1, sequence=0)
    whole = plain.framing.encode(plain.build(Ack(7), Direction.RESPONSE, header=header))
    assert 0 < len(data) < len(whole)
    assert whole.startswith(data)


def test_wrong_id(proxied):
    """The answer's key is another one than the request's."""
    _, peer = proxied("wrong-id")
    peer.send(Reading(7))
    (event,) = peer.events(1)
    assert isinstance(event, MessageReceived)
    assert (event.message, event.request) == (Ack(7), None)
    assert event.header.sequence != 0


def test_split_every_byte(proxied):
    """Each byte is a segment of its own."""
    _, peer = proxied("split-every-byte")
    peer.send(Fetch(20))
    assert [Samples([7] * 20)] == peer.receive()
    # tcpi_data_segs_in of struct tcp_info, in linux/tcp.h; a busy machine may put
    # some bytes together.
    info = peer.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
    assert struct.unpack_from("I", info, 152)[0] > 25


def test_coalesce(proxied):
    """Messages that came one after the other arrive in one piece."""
    proxy, peer = proxied("coalesce=20s")
    for n in (1, 2):
        peer.send(Reading(n))
        until(lambda n=n: proxy.carried["response"] == n)
    peer.sock.shutdown(socket.SHUT_WR)
    assert [Ack(1), Ack(2)] == peer.receive(2)
    info = peer.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
    assert struct.unpack_from("I", info, 152)[0] == 1


def test_slow_loris(proxied):
    """The message takes its time."""
    _, peer = proxied("slow-loris=5ms")
    started = time.monotonic()
    peer.send(Reading(7))
    assert [Ack(7)] == peer.receive()
    assert time.monotonic() - started >= 0.005 * 12


def test_reset(proxied):
    """The connection is reset."""
    _, peer = proxied("reset")
    peer.send(Reading(7))
    with pytest.raises(ConnectionResetError):
        peer.receive()


def test_corrupt_checksum(station):
    """The checksum is refused."""
    from tests.testing.faulty import checked

    with (
        live(Service(checked, station)) as server,
        fault_proxy(checked, server.url, "corrupt-checksum") as proxy,
        Peer(proxy.url) as peer,
    ):
        peer.session = Session(checked, Role.CLIENT)
        peer.send(Reading(7))
        (event,) = peer.events(1)
        assert event.error.path.endswith("crc")


def test_requests(proxied, station):
    """Faults may happen to requests in place of answers."""
    _, peer = proxied("drop@Reading", direction="request")
    peer.send(Reading(7), Fetch(1))
    assert [Samples([7])] == peer.receive()
    assert [] == station.asked


def test_both_directions(proxied, station):
    """Or to both."""
    proxy, peer = proxied("duplicate@Tick", direction="both")
    peer.send(Tick(1))
    assert 8 == len(peer.receive(8))
    assert {"duplicate": 5} == dict(proxy.counts)


def test_what_is_not_understood_passes():
    """Unknown messages, malformed ones and nonsense come as the bytes that they are."""
    unknown = b"\0\4\x77\1\0\0"
    malformed = b"\0\7\1\1\0\0\0\6x"
    nonsense = b"\xff\xffGET / HTTP/1.1\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with (
            fault_proxy(
                plain, f"tcp://127.0.0.1:{port}", "drop@Ack,Reading", direction="both"
            ) as proxy,
            Peer(proxy.url) as peer,
        ):
            sock, _ = listener.accept()
            with sock:
                for one, other in ((sock, peer.sock), (peer.sock, sock)):
                    one.sendall(unknown + malformed + nonsense)
                    one.shutdown(socket.SHUT_WR)
                    came = b"".join(iter(lambda s=other: s.recv(1000), b""))
                    assert unknown + malformed + nonsense == came


def test_half_close(proxied):
    """Who ends his sending still gets his answers, also late ones."""
    _, peer = proxied("delay=50ms")
    peer.send(Reading(7), Reading(8))
    peer.sock.shutdown(socket.SHUT_WR)
    assert [Ack(7), Ack(8)] == peer.receive(2)
    assert b"" == peer.sock.recv(1)


def test_server_that_resets():
    """A reset of the server's reaches the client."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        with fault_proxy(plain, url) as proxy, Peer(proxy.url) as peer:
            sock, _ = listener.accept()
            sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            sock.close()
            with pytest.raises(ConnectionResetError):
                peer.sock.recv(1)


def test_no_server(caplog, monkeypatch):
    """A client of a server that is not there is sent away, and the log says why."""
    monkeypatch.setattr(proxies, "_rare", RareLog(proxies.logger, 0.0))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with (
        fault_proxy(plain, f"tcp://127.0.0.1:{port}") as proxy,
        pytest.raises(ConnectionResetError),
        Peer(proxy.url) as peer,
    ):
        peer.sock.recv(1)
    assert f"cannot connect to tcp://127.0.0.1:{port}: " in caplog.text


def test_back_pressure():
    """A server that does not read stops the client, and loses nothing."""
    limit = 64 << 20
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        url = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        with fault_proxy(plain, url, "delay=1ms") as proxy, Peer(proxy.url) as peer:
            sock, _ = listener.accept()
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
            peer.sock.settimeout(0.5)
            sent = 0
            with pytest.raises(TimeoutError):
                while sent < limit:
                    sent += peer.sock.send(b"\xff" * 65_536)
            assert sent < limit
            peer.sock.shutdown(socket.SHUT_WR)
            with sock:
                came = sum(iter(lambda: len(sock.recv(1 << 20)), 0))
            assert sent == came


def test_many_connections(proxied):
    """Many clients are carried at a time, and their sockets are given back."""
    proxy, first = proxied("split-every-byte=0ms", "delay=10ms±10")
    first.send(Reading(1))
    assert [Ack(1)] == first.receive()  # so that all is there before the count
    before = descriptors()
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(proxy.url)) for _ in range(100)]
        for n, peer in enumerate(peers):
            peer.send(Reading(n))
        for n, peer in enumerate(peers):
            assert [Ack(n)] == peer.receive()
    until(lambda: descriptors() <= before)


def test_what_waits_is_sent_at_the_end(station):
    """A proxy that is stopped sends what is on its way first."""
    with live(Service(plain, station)) as server:
        with fault_proxy(plain, server.url, "delay=300ms") as proxy:
            peer = Peer(proxy.url)
            peer.send(Reading(7))
            until(lambda: proxy.counts["delay"])
        with peer:
            assert [Ack(7)] == peer.receive()
            assert b"" == peer.sock.recv(1)


def test_idle_connections_end(proxied):
    """A proxy that is stopped does not wait for who says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        with fault_proxy(plain, url) as proxy:
            peer = Peer(proxy.url)
            sock, _ = listener.accept()
        with peer, sock:
            assert b"" == peer.sock.recv(1)
            assert b"" == sock.recv(1)


# Datagrams -------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["udp", "unixgram"])
def test_datagrams(proxied, transport, tmp_path):
    """Datagrams of several peers find their way, and back."""
    listen = f"unixgram://{tmp_path}/p" if transport == "unixgram" else None
    proxy, peer = proxied("delay=5ms", transport=transport, listen=listen)
    with Peer(proxy.url) as other:
        for n in range(5):
            peer.send(Reading(n))
            other.send(Reading(n + 100))
            assert [Ack(n)] == peer.receive()
            assert [Ack(n + 100)] == other.receive()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("drop@Ack", [Samples([7])]),
        ("duplicate@Ack", [Ack(7), Ack(7), Samples([7])]),
        ("reorder=20s@Ack", [Samples([7]), Ack(7)]),
        ("delay=300ms@Ack", [Samples([7]), Ack(7)]),
    ],
)
def test_faults_of_datagrams(proxied, fault, expected):
    """What is dropped, comes twice or late does so datagram by datagram."""
    _, peer = proxied(fault, transport="udp")
    peer.send(Reading(7), Fetch(1))
    assert expected == peer.receive(len(expected))


def test_truncated_datagram(proxied):
    """A datagram is cut."""
    _, peer = proxied("truncate", transport="udp")
    peer.send(Reading(7))
    assert 0 < len(peer.sock.recv(100)) < 11


def test_wrong_id_of_a_datagram(proxied):
    """Its key is another one."""
    _, peer = proxied("wrong-id", transport="udp")
    peer.send(Reading(7))
    (event,) = peer.events(1)
    assert (event.message, event.request) == (Ack(7), None)


def test_no_server_of_datagrams():
    """Where nobody listens, nothing comes, and the proxy is not hurt."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        url = "udp://{}:{}".format(*sock.getsockname())
    with fault_proxy(plain, url) as proxy, Peer(proxy.url) as peer:
        for _ in range(3):
            peer.send(Reading(7))
        until(lambda: proxy.carried["request"] == 3)
        assert peer.silent()


def datagrams(station, seed):
    """
    Give all bytes that come for 300 requests, and how often each fault happened.
    """
    faults = ["drop=10%", "duplicate=5%", "truncate=5%", "wrong-id=10%"]
    with (
        live(Service(plain, station), mode="loop", transport="udp") as server,
        fault_proxy(plain, server.url, *faults, seed=seed) as proxy,
        Peer(proxy.url) as peer,
    ):
        came = []
        for n in range(300):
            before = proxy.counts["drop"], proxy.counts["duplicate"]
            peer.sock.send(
                plain.build(Reading(n), Direction.REQUEST, header=Header(1, sequence=n))
            )
            until(lambda n=n: proxy.carried["response"] > n)
            dropped = proxy.counts["drop"] - before[0]
            copies = 0 if dropped else 1 + proxy.counts["duplicate"] - before[1]
            came += [peer.sock.recv(100) for _ in range(copies)]
        return came, dict(proxy.counts)


def test_the_same_seed(station):
    """The same seed gives a peer the same bytes; rates are as asked for."""
    came, counts = datagrams(station, 1)
    assert (came, counts) == datagrams(station, 1)
    assert came != datagrams(station, 2)[0]
    assert 15 <= counts["drop"] <= 45
    assert 15 <= counts["wrong-id"] <= 45
    assert 5 <= counts["duplicate"] <= 28
    assert 5 <= counts["truncate"] <= 28


# Where it stands -------------------------------------------------------------------


def test_unix_sockets(proxied, tmp_path):
    """It listens at a Unix socket, in front of TCP; the path is gone afterwards."""
    path = tmp_path / "front"
    with live(Service(plain, Station())) as server:
        listen = f"unix://{path}"
        with (
            fault_proxy(plain, server.url, listen=listen) as proxy,
            Peer(proxy.url) as peer,
        ):
            peer.send(Reading(7))
            assert [Ack(7)] == peer.receive()
        assert not path.exists()


def test_tls(tmp_path, station):
    """TLS ends at the proxy and begins anew behind it; faults hit messages still."""
    authority = Authority(tmp_path)
    cert, key = authority.issue("localhost", "127.0.0.1")
    front = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    front.load_cert_chain(cert, key)

    async def run(server):
        plan = FaultPlan(plain, ["duplicate@Ack"])
        address = Address.parse("tls://127.0.0.1:0")
        proxy = FaultProxy(plan, [address], [server], front, behind)
        (bound,) = await proxy.start()
        try:
            await asyncio.to_thread(talk, bound)
        finally:
            await proxy.stop(1.0)

    def talk(bound):
        with authority.connect((bound.host, bound.port)) as sock:
            session = Session(plain, Role.CLIENT)
            sock.settimeout(PATIENCE)
            sock.sendall(session.encode(Reading(7)))
            data = b""
            while len(data) < 26:
                data += sock.recv(100)
            assert data[:13] == data[13:]

    with live(Service(plain, station), transport="tls") as server:
        behind = server.tls
        asyncio.run(run(Address.parse(server.url)))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"listen": "udp://127.0.0.1:0"}, "udp://127.0.0.1:0 is for datagrams, and so"),
        ({"direction": "up"}, "expected one of request, response, both"),
        ({"listen": "tls://127.0.0.1:0"}, "there is no certificate to show"),
    ],
)
def test_wrong_options(options, complaint):
    """What makes no sense is refused before anything is bound."""
    with (
        pytest.raises(DeclarationError, match=complaint),
        fault_proxy(plain, "tcp://127.0.0.1:1", **options),
    ):
        pass


def test_address_in_use():
    """An address that cannot be had is told, and nothing of the proxy is left."""
    threads = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = "tcp://{}:{}".format(*taken.getsockname())
        with (
            pytest.raises(OSError, match="in use"),
            fault_proxy(plain, "tcp://127.0.0.1:1", listen=listen),
        ):
            pass
    assert threads >= threading.active_count()
