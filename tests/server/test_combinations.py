import io
import os
import socket
import threading
from http.server import HTTPServer, SimpleHTTPRequestHandler
from socketserver import TCPServer

import pytest

import protoserve.server as servers

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

MODES = ("", "Threading", "Forking")
STREAMS = ("TCPServer", "UnixStreamServer")
DATAGRAMS = ("UDPServer", "UnixDatagramServer")


class StreamEcho(servers.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(b"%d %s" % (os.getpid(), line))


class DatagramEcho(servers.DatagramRequestHandler):
    def handle(self):
        self.wfile.write(b"%d %s" % (os.getpid(), self.rfile.read()))


def check_process(mode, answer, text):
    pid, _, rest = answer.partition(b" ")
    assert text == rest
    assert (mode == "Forking") == (int(pid) != os.getpid())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transport", STREAMS)
def test_streams(mode, transport, serve, kit, short_path):
    """Each combination for streams serves several clients."""
    server_class = getattr(servers, mode + transport)
    unix = server_class.address_family == socket.AF_UNIX
    server = server_class(short_path if unix else ("127.0.0.1", 0), StreamEcho)
    serve(server)
    for number in range(3):
        text = b"line %d\n" % number
        check_process(mode, kit.ask(server, text), text)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transport", DATAGRAMS)
def test_datagrams(mode, transport, serve, kit, short_path):
    """Each combination for datagrams serves several datagrams."""
    server_class = getattr(servers, mode + transport)
    unix = server_class.address_family == socket.AF_UNIX
    server = server_class(short_path if unix else ("127.0.0.1", 0), DatagramEcho)
    serve(server)
    with socket.socket(server.address_family, socket.SOCK_DGRAM) as client:
        client.settimeout(kit.patience)
        client.bind(short_path + "c" if unix else ("127.0.0.1", 0))
        for number in range(3):
            text = b"packet %d" % number
            client.sendto(text, server.server_address)
            check_process(mode, client.recv(100), text)


@pytest.mark.parametrize("mode", ["Threading", "Forking"])
@pytest.mark.parametrize("transport", STREAMS + DATAGRAMS)
def test_order(mode, transport):
    """A combination is the mix-in before the server class."""
    combined = getattr(servers, mode + transport)
    mixin = getattr(servers, mode + "MixIn")
    assert (mixin, getattr(servers, transport)) == combined.__bases__


def test_descent():
    """The classes descend from each other as the contract says."""
    assert issubclass(servers.TCPServer, servers.BaseServer)
    assert issubclass(servers.UDPServer, servers.TCPServer)
    assert issubclass(servers.UnixStreamServer, servers.TCPServer)
    assert issubclass(servers.UnixDatagramServer, servers.UDPServer)
    assert issubclass(servers.StreamRequestHandler, servers.BaseRequestHandler)
    assert issubclass(servers.DatagramRequestHandler, servers.BaseRequestHandler)
    assert not issubclass(servers.UnixStreamServer, servers.UDPServer)


def test_exports():
    """Every exported name exists, and the list is sorted."""
    assert sorted(servers.__all__) == servers.__all__
    assert all(hasattr(servers, name) for name in servers.__all__)
    names = {m + t for m in MODES for t in STREAMS + DATAGRAMS}
    assert names <= set(servers.__all__)


def test_defaults():
    """The class variables have the values of the contract."""
    tcp, udp = servers.TCPServer, servers.UDPServer
    assert tcp.allow_reuse_address is False
    assert tcp.allow_reuse_port is False
    assert tcp.request_queue_size == 5
    assert tcp.socket_type == socket.SOCK_STREAM
    assert udp.socket_type == socket.SOCK_DGRAM
    assert tcp.timeout is None
    assert udp.max_packet_size == 8192
    assert tcp.address_family == socket.AF_INET
    assert servers.UnixStreamServer.address_family == socket.AF_UNIX
    assert servers.UnixDatagramServer.address_family == socket.AF_UNIX
    assert servers.UnixDatagramServer.socket_type == socket.SOCK_DGRAM
    assert servers.ThreadingMixIn.daemon_threads is False
    assert servers.ThreadingMixIn.block_on_close is True
    assert servers.ForkingMixIn.max_children == 40
    assert servers.ForkingMixIn.timeout == 300
    assert servers.ForkingMixIn.block_on_close is True
    assert servers.ForkingMixIn.active_children is None
    assert tcp.error_stream == "stdout"
    assert servers.UnixStreamServer.unlink_on_close is False


class Reusing(servers.TCPServer):
    allow_reuse_address = True

    def server_bind(self):
        super().server_bind()
        self.bound = True


class Diamond(servers.UnixStreamServer, Reusing):
    pass


def test_diamond(serve, kit, short_path):
    """A Unix server and a class of the user's meet over the one TCPServer."""
    server = Diamond(short_path, StreamEcho)
    serve(server)
    assert server.bound
    assert kit.ask(server, b"x\n").endswith(b" x\n")


def test_explicit_parent_in_diamond():
    """Calling the Unix class's method by name passes siblings by."""
    unix = servers.UnixStreamServer
    assert unix.server_bind is servers.TCPServer.server_bind
    assert unix.server_close is servers.TCPServer.server_close


class OwnTransport:
    def fileno(self):
        return 77

    def get_request(self):
        return "request", "address"


def test_base_hides_nothing():
    """A transport that comes after BaseServer in the order is found."""

    class Server(servers.BaseServer, OwnTransport):
        pass

    server = Server("address", None)
    assert server.fileno() == 77
    assert server.get_request() == ("request", "address")


def test_names_of_subclasses():
    """Private names that a subclass is likely to choose are free."""
    likely = {
        "_closed", "_running", "_lock", "_thread", "_stop", "_stopped", "_waiter",
        "_wake", "_selector", "_log", "_logger", "_clients", "_children", "_path",
        "_send", "_full", "_ready", "_address", "_timeout", "_started", "_close",
        "_shutdown", "_serve", "_loop", "_handle", "_process", "_data", "_sock",
    }  # fmt: skip
    instance = servers.ThreadingTCPServer(("127.0.0.1", 0), StreamEcho)
    with instance:
        assert not likely & set(dir(instance))
    assert not likely & set(dir(servers.ForkingUnixDatagramServer))
    assert not likely & set(dir(servers.DatagramRequestHandler))


@pytest.mark.parametrize("mode", ["Threading", "Forking"])
def test_mixin_on_the_standard_library(mode, kit):
    """Our mix-ins work on a server of the standard library's."""
    mixin = getattr(servers, mode + "MixIn")
    server_class = type("Server", (mixin, HTTPServer), {"server_bind": lambda s: None})

    class Handler(SimpleHTTPRequestHandler):
        wbufsize = -1

        def do_GET(self):
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = server_class(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.socket.bind(("127.0.0.1", 0))
    server.server_address = server.socket.getsockname()
    server.server_activate()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        answer = kit.ask(server, b"GET / HTTP/1.0\r\n\r\n")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert io.BytesIO(answer).readline().endswith(b"204 No Content\r\n")


def test_disconnect_on_the_standard_library(kit):
    """A server that knows no handle_disconnect is told by handle_error."""
    told = threading.Event()

    def fail(*args):
        raise BrokenPipeError

    class Server(servers.ThreadingMixIn, HTTPServer):
        def server_bind(self):
            TCPServer.server_bind(self)

        def handle_error(self, request, client_address):
            told.set()

    with Server(("127.0.0.1", 0), fail) as server, kit.connect(server):
        server.handle_request()
        assert told.wait(kit.patience)


EXCLUSIVE = ("PoolMixIn", "EventLoopMixIn")


@pytest.mark.parametrize("mixin", EXCLUSIVE)
@pytest.mark.parametrize(
    "other", ["ThreadingMixIn", "ForkingMixIn", "PoolMixIn", "EventLoopMixIn"]
)
def test_exclusive(mixin, other):
    """Two mix-ins that say where requests are handled are refused by name."""
    if mixin == other:
        pytest.skip("it goes with itself")
    first, second = (getattr(servers, name) for name in (mixin, other))
    for bases in ((first, second), (second, first)):
        with pytest.raises(TypeError, match=f"Wrong: .*{mixin}") as told:
            type("Wrong", (*bases, servers.TCPServer), {})
        assert other in str(told.value)


@pytest.mark.parametrize("mixin", EXCLUSIVE)
@pytest.mark.parametrize("server", ["TCPServer", "UDPServer", "UnixStreamServer"])
def test_before_the_server(mixin, server):
    """A mix-in that comes after the server class is refused, with the right order."""
    classes = (getattr(servers, server), getattr(servers, mixin))
    expected = rf"Wrong: {mixin} goes before .* class Wrong\({mixin}, {server}\)"
    with pytest.raises(TypeError, match=expected):
        type("Wrong", classes, {})


@pytest.mark.parametrize("name", ["PoolMixIn", "BatchMixIn"])
def test_names_of_users(name):
    """A class of the user's may have the name of the one it is made of."""
    mixin = getattr(servers, name)
    own = type(name, (mixin,), {})
    server = type("UDPServer", (own, servers.UDPServer), {})
    assert (own, mixin) == server.__mro__[1:3]
