import io
import socket
import threading

import pytest

from protoserve.server import (
    BaseRequestHandler,
    DatagramRequestHandler,
    StreamRequestHandler,
    TCPServer,
)

ADDRESS = ("127.0.0.1", 0)


class Steps(BaseRequestHandler):
    fail = ()

    def step(self, name):
        self.request.append(name)
        if name in self.fail:
            raise self.fail[name]

    def setup(self):
        self.step("setup")

    def handle(self):
        self.step("handle")

    def finish(self):
        self.step("finish")


def test_attributes():
    """A handler has the request, the client's address and the server."""
    handler = BaseRequestHandler("request", "address", "server")
    assert handler.request == "request"
    assert handler.client_address == "address"
    assert handler.server == "server"


def test_order():
    """setup, handle and finish run in this order while the handler is made."""
    assert Steps([], None, None).request == ["setup", "handle", "finish"]


def test_no_finish_after_failed_setup():
    """finish does not run when setup raised."""
    steps = []
    with pytest.raises(ValueError):
        type("Handler", (Steps,), {"fail": {"setup": ValueError}})(steps, None, None)
    assert steps == ["setup"]


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_finish_after_failed_handle(error):
    """finish runs whatever handle raised, and that is what comes out."""
    steps = []
    with pytest.raises(error):
        type("Handler", (Steps,), {"fail": {"handle": error}})(steps, None, None)
    assert steps == ["setup", "handle", "finish"]


def test_failure_before_disconnect():
    """What handle raised is not hidden by the peer's going away in finish."""
    failures = {"handle": ValueError, "finish": BrokenPipeError}
    with pytest.raises(ValueError):
        type("Handler", (Steps,), {"fail": failures})([], None, None)


def test_failing_finish():
    """What finish raises comes out, with the earlier failure as its context."""
    failures = {"finish": KeyError}
    with pytest.raises(KeyError):
        type("Handler", (Steps,), {"fail": failures})([], None, None)
    failures["handle"] = ValueError
    with pytest.raises(KeyError) as caught:
        type("Handler", (Steps,), {"fail": failures})([], None, None)
    assert isinstance(caught.value.__context__, ValueError)


@pytest.fixture
def pair():
    """Two connected sockets."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(60)
    with ours, theirs:
        yield ours, theirs


def run(handle, request, **attributes):
    members = {"handle": handle, **attributes}
    return type("Handler", (StreamRequestHandler,), members)(request, None, None)


def test_writes_at_once(pair):
    """What is written to wfile is there before the handler goes on."""
    ours, theirs = pair

    def handle(self):
        assert isinstance(self.wfile, io.BufferedIOBase)
        assert self.wfile.writable()
        assert self.wfile.fileno() == self.request.fileno()
        assert self.wfile.write(b"now") == 3
        assert theirs.recv(10) == b"now"

    run(handle, ours)


def test_writes_whole(pair):
    """wfile.write sends all it is given, and counts bytes, not items."""
    ours, theirs = pair
    data = memoryview(bytes(4_000_000)).cast("I")
    received = []

    def read():
        with theirs.makefile("rb") as file:
            received.append(len(file.read()))

    reader = threading.Thread(target=read)
    reader.start()

    def handle(self):
        assert self.wfile.write(data) == 4_000_000

    run(handle, ours, timeout=60)  # with a timeout, a single send() is partial
    ours.shutdown(socket.SHUT_WR)
    reader.join(60)
    assert received == [4_000_000]


def test_write_buffer(pair):
    """With a wbufsize, wfile keeps what is written until finish."""
    ours, theirs = pair

    def handle(self):
        self.wfile.write(b"later")
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.recv(10)

    handler = run(handle, ours, wbufsize=100)
    assert theirs.recv(10) == b"later"
    assert handler.wfile.closed
    assert handler.rfile.closed


def test_files_are_closed_when_the_flush_fails(pair):
    """A peer that is gone at the end is a broken pipe, and both files are closed."""
    ours, theirs = pair
    made = []

    def handle(self):
        made.append(self)
        self.wfile.write(b"too late")
        theirs.close()

    with pytest.raises(BrokenPipeError):
        run(handle, ours, wbufsize=100)
    assert made[0].rfile.closed
    assert made[0].wfile.closed


def test_read_buffer(pair):
    """rbufsize 0 makes rfile read no more than it is asked for."""
    ours, theirs = pair
    theirs.sendall(b"abc")

    def handle(self):
        assert self.rfile.read(1) == b"a"
        assert self.request.recv(10) == b"bc"

    run(handle, ours, rbufsize=0)


def test_default_read_buffer(pair):
    """By default rfile reads ahead."""
    ours, theirs = pair
    theirs.sendall(b"abc")

    def handle(self):
        assert self.rfile.read(1) == b"a"
        self.request.setblocking(False)
        with pytest.raises(BlockingIOError):
            self.request.recv(10)

    run(handle, ours)


def test_connection_timeout(pair):
    """timeout limits each operation on the connection."""

    def handle(self):
        assert self.connection is self.request
        assert self.connection.gettimeout() == 0.01
        with pytest.raises(TimeoutError):
            self.rfile.read(1)

    run(handle, pair[0], timeout=0.01)


@pytest.mark.parametrize("disable", [False, True])
def test_nagle(disable, kit):
    """disable_nagle_algorithm sets TCP_NODELAY."""
    seen = []

    class Handler(StreamRequestHandler):
        disable_nagle_algorithm = disable

        def handle(self):
            option = (socket.IPPROTO_TCP, socket.TCP_NODELAY)
            seen.append(bool(self.request.getsockopt(*option)))

    with TCPServer(ADDRESS, Handler) as server, kit.connect(server):
        server.handle_request()
    assert seen == [disable]


class FakeSocket:
    def __init__(self):
        self.sent = []

    def sendto(self, data, address):
        self.sent.append((data, address))


def test_datagram_files():
    """A datagram handler reads the packet, and its wfile is sent at the end."""

    class Handler(DatagramRequestHandler):
        def handle(self):
            assert isinstance(self.wfile, io.BytesIO)
            assert self.packet == b"abc"
            self.wfile.write(self.rfile.read(2))
            self.wfile.write(b"!")
            assert self.socket.sent == []

    sock = FakeSocket()
    Handler((b"abc", sock), "peer", None)
    assert sock.sent == [(b"ab!", "peer")]


def test_empty_reply():
    """A datagram handler that has written nothing sends an empty datagram."""
    sock = FakeSocket()
    DatagramRequestHandler((b"abc", sock), "peer", None)
    assert sock.sent == [(b"", "peer")]


@pytest.mark.parametrize("nobody", [None, "", b""])
def test_no_address(nobody):
    """Nothing is sent to a peer without an address."""
    sock = FakeSocket()
    DatagramRequestHandler((b"abc", sock), nobody, None)
    assert sock.sent == []
