import logging
import os
import socket
import struct
from pathlib import Path

import pytest

from protoserve import rarelog
from protoserve.server import (
    BaseRequestHandler,
    DatagramRequestHandler,
    StreamRequestHandler,
    TCPServer,
    ThreadingUDPServer,
    UDPServer,
    UnixDatagramServer,
    UnixStreamServer,
)

ADDRESS = ("127.0.0.1", 0)


class Echo(StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.read())


class Keeping(BaseRequestHandler):
    def handle(self):
        self.server.got.append((self.request[0], self.client_address))


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 loopback")


def test_server_address(short_path):
    """server_address is host and port for internet protocols, a path for Unix."""
    with TCPServer(ADDRESS, Echo) as server:
        assert server.server_address == server.socket.getsockname()
        host, port = server.server_address
        assert host == "127.0.0.1"
        assert port > 0
    with UnixStreamServer(short_path, Echo) as server:
        assert server.server_address == short_path


@needs_ipv6
def test_ipv6(serve, kit):
    """A subclass serves IPv6 by its address_family."""

    class Server(TCPServer):
        address_family = socket.AF_INET6

    server = Server(("::1", 0), Echo)
    assert server.socket.family == socket.AF_INET6
    serve(server)
    assert kit.ask(server, b"six") == b"six"


@needs_ipv6
def test_udp_ipv6(serve, kit):
    """Datagrams over IPv6 are answered."""

    class Server(UDPServer):
        address_family = socket.AF_INET6

    class Handler(DatagramRequestHandler):
        def handle(self):
            self.wfile.write(self.packet)

    server = Server(("::1", 0), Handler)
    serve(server)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.settimeout(kit.patience)
        client.sendto(b"six", server.server_address)
        assert client.recv(10) == b"six"


def option(server, name):
    return bool(server.socket.getsockopt(socket.SOL_SOCKET, name))


@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("base", [TCPServer, UDPServer])
def test_reuse(base, wanted):
    """The two class variables set the socket's options, off by default."""

    class Server(base):
        if wanted:
            allow_reuse_address = True
            allow_reuse_port = True

    with Server(ADDRESS, Echo) as server:
        assert option(server, socket.SO_REUSEADDR) is wanted
        assert option(server, socket.SO_REUSEPORT) is wanted


def test_reuse_port_of_a_path(short_path):
    """allow_reuse_port is for internet protocols; a Unix server ignores it."""

    class Server(UnixStreamServer):
        allow_reuse_port = True

    with Server(short_path, Echo) as server:
        assert not option(server, socket.SO_REUSEPORT)


@pytest.mark.parametrize("size", [0, 3, 5])
def test_queue_of_waiting_clients(size, short_path):
    """request_queue_size clients wait for their turn; further ones are refused."""

    class Server(UnixStreamServer):
        request_queue_size = size

    clients = []
    with Server(short_path, Echo):
        try:
            while len(clients) <= size + 1:
                client = socket.socket(socket.AF_UNIX)
                clients.append(client)
                client.setblocking(False)
                client.connect(short_path)
        except BlockingIOError:
            clients.pop().close()
        for client in clients:
            client.close()
    # Linux compares with "more than", so it lets one more in than listen() says.
    assert len(clients) == size + 1


def test_queue_size_reaches_listen():
    """The kernel knows the queue length of a TCP server, 5 unless changed."""

    class Longer(TCPServer):
        request_queue_size = 9

    for server_class, size in ((TCPServer, 5), (Longer, 9)):
        with server_class(ADDRESS, Echo) as server:
            info = server.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            # tcpi_sacked of a listening socket is the limit of its queue.
            assert struct.unpack_from("=I", info, 28) == (size,)


def test_constructor_steps():
    """The constructor binds, then activates."""
    steps = []

    class Server(TCPServer):
        def server_bind(self):
            steps.append("bind")
            super().server_bind()

        def server_activate(self):
            steps.append("activate")
            super().server_activate()

    Server(ADDRESS, Echo).server_close()
    assert steps == ["bind", "activate"]


def test_bind_later(serve, kit):
    """With bind_and_activate=False the caller binds and activates."""
    server = TCPServer(ADDRESS, Echo, bind_and_activate=False)
    assert server.socket.getsockname()[1] == 0
    server.server_bind()
    server.server_activate()
    serve(server)
    assert kit.ask(server, b"late") == b"late"


@pytest.mark.parametrize("step", ["server_bind", "server_activate"])
def test_failed_constructor(step, kit):
    """A constructor that fails leaves no descriptor open."""

    def fail(self):
        raise RuntimeError

    server_class = type("Server", (TCPServer,), {step: fail})
    before = kit.descriptors()
    with pytest.raises(RuntimeError):
        server_class(ADDRESS, Echo)
    assert kit.descriptors() <= before  # what others have left may go meanwhile


def test_address_in_use(kit):
    """A second server at an address fails, and leaves no descriptor open."""
    with TCPServer(ADDRESS, Echo) as server:
        before = kit.descriptors()
        with pytest.raises(OSError, match="in use"):
            TCPServer(server.server_address, Echo)
        assert kit.descriptors() <= before


def test_end_of_stream_for_shared_connections(kit):
    """shutdown_request ends the stream though another process holds it."""
    with TCPServer(ADDRESS, Echo) as server, kit.connect(server) as client:
        request, _ = server.get_request()
        with request.dup():
            server.shutdown_request(request)
            assert client.recv(1) == b""
    assert request.fileno() == -1


def test_close_request_keeps_the_stream(kit):
    """close_request closes only this process's end."""
    with TCPServer(ADDRESS, Echo) as server, kit.connect(server) as client:
        request, _ = server.get_request()
        with request.dup() as other:
            server.close_request(request)
            other.sendall(b"still here")
            assert client.recv(20) == b"still here"


def test_get_request_of_a_stream(kit):
    """get_request gives a new socket and the client's address."""
    with TCPServer(ADDRESS, Echo) as server, kit.connect(server) as client:
        request, address = server.get_request()
        with request:
            assert request is not server.socket
            assert address == client.getsockname()


def test_get_request_of_a_datagram():
    """get_request gives the data with the server's socket, and the address."""
    with (
        UDPServer(ADDRESS, Echo) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.sendto(b"data", server.server_address)
        (data, own), address = server.get_request()
        assert data == b"data"
        assert own is server.socket
        assert address[1] == client.getsockname()[1]


def test_datagram_request_is_not_closed():
    """Closing a datagram's request leaves the server's socket open."""
    with UDPServer(ADDRESS, Echo) as server:
        server.shutdown_request((b"", server.socket))
        server.close_request((b"", server.socket))
        assert server.fileno() >= 0


class Cutting:
    max_packet_size = 8

    def __init__(self, address):
        self.got = []
        self.cut = []
        super().__init__(address, Keeping)

    def handle_truncated(self, request, client_address):
        self.cut.append((request, client_address))


@pytest.fixture(params=["udp", "unix"])
def datagrams(request, short_path):
    """A server that keeps what it gets, and a bound client."""
    unix = request.param == "unix"
    base = UnixDatagramServer if unix else UDPServer
    server = type("Server", (Cutting, base), {})(short_path if unix else ADDRESS)
    with server, socket.socket(server.address_family, socket.SOCK_DGRAM) as client:
        client.bind(short_path + "c" if unix else ADDRESS)
        yield server, client


def test_longest_datagram(datagrams):
    """A datagram of just max_packet_size bytes is handled whole."""
    server, client = datagrams
    client.sendto(b"12345678", server.server_address)
    server.handle_request()
    assert server.got == [(b"12345678", client.getsockname())]
    assert server.cut == []


def test_truncated_datagram(datagrams):
    """A longer datagram is told to handle_truncated and reaches no handler."""
    server, client = datagrams
    client.sendto(b"123456789", server.server_address)
    client.sendto(b"next", server.server_address)
    server.handle_request()
    assert server.got == []
    assert server.cut == [((b"12345678", server.socket), client.getsockname())]
    server.handle_request()
    assert server.got == [(b"next", client.getsockname())]


def test_truncated_in_the_loop(datagrams, serve, kit):
    """The loop goes on after a truncated datagram, whatever takes the requests."""
    server, client = datagrams

    def classic():
        request, client_address = server.get_request()
        server.process_request(request, client_address)

    server.handle_request = classic
    serve(server)
    client.sendto(b"x" * 1000, server.server_address)
    client.sendto(b"next", server.server_address)
    kit.until(lambda: server.got)
    assert len(server.cut) == 1


def test_truncated_by_default(caplog):
    """The default says so in the log."""

    class Server(UDPServer):
        max_packet_size = 8

    with (
        Server(ADDRESS, None) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        for _ in range(3):
            client.sendto(b"123456789", server.server_address)
            server.handle_request()
    (record,) = caplog.records
    assert record.name == "protoserve.server"
    assert record.levelno == logging.WARNING
    assert "more than 8 bytes" in record.getMessage()


def test_failing_truncation_hook():
    """A handle_truncated that raises is told to handle_error, and survived."""
    errors = []

    class Server(ThreadingUDPServer):
        max_packet_size = 8

        def handle_truncated(self, request, client_address):
            raise ValueError

        def handle_error(self, request, client_address):
            errors.append((request[0], client_address))

    with (
        Server(ADDRESS, None) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.bind(ADDRESS)
        client.sendto(b"123456789", server.server_address)
        server.handle_request()
        assert errors == [(b"12345678", client.getsockname())]


class Replying(DatagramRequestHandler):
    def handle(self):
        self.server.got.append(self.packet)
        self.wfile.write(b"reply")


class Watching(UnixDatagramServer):
    def __init__(self, address):
        self.got = []
        self.steps = []
        super().__init__(address, Replying)

    def handle_error(self, request, client_address):
        self.steps.append("error")

    def handle_disconnect(self, request, client_address):
        self.steps.append("disconnect")


def test_reply_to_nobody(short_path):
    """A Unix peer without an address gets no reply, and that is no failure."""
    with (
        Watching(short_path) as server,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client,
    ):
        client.sendto(b"hello", short_path)
        server.handle_request()
        assert server.got == [b"hello"]
        assert server.steps == []


@pytest.mark.parametrize("unlinked", [False, True])
def test_reply_to_one_who_has_gone(unlinked, short_path):
    """A Unix peer that has closed its socket, or removed its path, has gone away."""
    with Watching(short_path) as server:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.bind(short_path + "c")
            client.sendto(b"hello", short_path)
        if unlinked:
            Path(short_path + "c").unlink()
        server.handle_request()
        assert server.steps == ["disconnect"]


@pytest.mark.parametrize("server_class", [UnixStreamServer, UnixDatagramServer])
def test_path_stays(server_class, short_path):
    """The Unix socket's path is left in place after close."""
    server_class(short_path, Echo).server_close()
    assert Path(short_path).exists()


@pytest.mark.parametrize("base", [UnixStreamServer, UnixDatagramServer])
def test_path_is_removed_on_request(base, short_path):
    """With unlink_on_close the path goes, once, with the server that made it."""

    class Server(base):
        unlink_on_close = True

    server = Server(short_path, Echo)
    server.server_close()
    assert not Path(short_path).exists()
    with Server(short_path, Echo):
        server.server_close()
        assert Path(short_path).exists()


def test_path_of_a_successor_stays(short_path):
    """unlink_on_close never removes what another has put at the path."""

    class Server(UnixStreamServer):
        unlink_on_close = True

    with pytest.raises(OSError, match="in use"), Server(short_path, Echo):
        Server(short_path, Echo)
    assert not Path(short_path).exists()
    with Server(short_path, Echo):
        Path(short_path).rename(short_path + "old")
        with UnixStreamServer(short_path, Echo):
            pass
    assert Path(short_path).exists()


def test_failed_bind_removes_nothing(short_path):
    """A server that could not bind leaves the path to whoever has it."""

    class Server(UnixStreamServer):
        unlink_on_close = True

    with UnixStreamServer(short_path, Echo):
        with pytest.raises(OSError, match="in use"):
            Server(short_path, Echo)
        assert Path(short_path).exists()


def test_abstract_address(serve, kit):
    """An abstract Unix address works, with nothing to remove."""

    class Server(UnixStreamServer):
        unlink_on_close = True

    server = Server(f"\0protoserve-test-{os.getpid()}", Echo)
    serve(server)
    assert kit.ask(server, b"x") == b"x"


def test_path_already_removed(short_path):
    """Closing after somebody else has removed the path is no failure."""

    class Server(UnixStreamServer):
        unlink_on_close = True

    with Server(short_path, Echo):
        Path(short_path).unlink()


def test_rare_log(monkeypatch, caplog):
    """Lines of one kind are a second apart, and tell how many were held back."""
    now = [100.0]
    monkeypatch.setattr(rarelog.time, "monotonic", lambda: now[0])
    log = rarelog.RareLog(logging.getLogger("protoserve.server"))
    for moment in (100.0, 100.5, 100.9, 101.0, 102.0):
        now[0] = moment
        log.log(logging.ERROR, "trouble %d", 1)
    log.log(logging.ERROR, "another kind")
    assert caplog.messages == [
        "trouble 1",
        "trouble 1 (2 more since the last such line)",
        "trouble 1",
        "another kind",
    ]
