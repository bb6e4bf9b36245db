import threading

import pytest

from protoserve.server import (
    StreamRequestHandler,
    TCPServer,
    ThreadingMixIn,
    ThreadingTCPServer,
)

ADDRESS = ("127.0.0.1", 0)


class Holding(ThreadingTCPServer):
    """Each request is held until `leave` is set."""

    def __init__(self):
        self.entered = threading.Semaphore(0)
        self.leave = threading.Event()
        self.threads = []
        self.done = []
        super().__init__(ADDRESS, self.handle)

    def handle(self, request, client_address, server):
        self.threads.append(threading.current_thread())
        self.entered.release()
        assert self.leave.wait(60)
        self.done.append(client_address)


def test_requests_run_side_by_side(serve, kit):
    """Two requests are handled at the same time."""
    server = Holding()
    serve(server)
    with kit.connect(server), kit.connect(server):
        for _ in range(2):
            assert server.entered.acquire(timeout=kit.patience)
        assert len(set(server.threads)) == 2
        kit.until(lambda: len(server._threads) == 2)
        server.leave.set()


@pytest.mark.parametrize("daemon", [False, True])
def test_daemon_threads(daemon, kit):
    """daemon_threads decides what the threads are, and daemons are not waited for."""
    server = Holding()
    server.daemon_threads = daemon
    with server, kit.connect(server):
        server.handle_request()
        assert server.entered.acquire(timeout=kit.patience)
        (thread,) = server.threads
        assert thread.daemon is daemon
        assert len(server._threads) == (not daemon)
        if daemon:
            server.server_close()
            assert thread.is_alive()
        server.leave.set()
        thread.join()


def test_close_waits(kit):
    """server_close returns when the requests are done."""
    server = Holding()
    with kit.connect(server):
        server.handle_request()
        assert server.entered.acquire(timeout=kit.patience)
        closer = threading.Thread(target=server.server_close)
        closer.start()
        closer.join(0.1)
        assert closer.is_alive()
        server.leave.set()
        closer.join(kit.patience)
        assert not closer.is_alive()
    assert len(server.done) == 1
    assert not any(thread.is_alive() for thread in server.threads)
    assert len(server._threads) == 0


def test_close_without_waiting(kit):
    """With block_on_close false, server_close does not wait."""
    server = Holding()
    server.block_on_close = False
    with kit.connect(server):
        server.handle_request()
        server.server_close()
        assert server.done == []
        assert len(server._threads) == 0
        server.leave.set()
        assert server.entered.acquire(timeout=kit.patience)
        server.threads[0].join()


def test_close_before_any_request():
    """A server that has had no request can be closed."""
    ThreadingTCPServer(ADDRESS, None).server_close()


def test_close_by_a_request(kit):
    """A request's own thread may close the server: it does not wait for itself."""
    closed = threading.Event()

    def handle(request, client_address, server):
        server.server_close()
        closed.set()

    with ThreadingTCPServer(ADDRESS, handle) as server, kit.connect(server):
        server.handle_request()
        assert closed.wait(kit.patience)


def test_shutdown_by_a_request(serve, kit):
    """A request's thread may stop the loop, and waits until it has stopped."""
    states = []

    def handle(request, client_address, server):
        server.shutdown()
        states.append(server._BaseServer__is_shut_down.is_set())

    server = ThreadingTCPServer(ADDRESS, handle)
    thread = serve(server)
    with kit.connect(server) as client:
        assert client.recv(1) == b""
    thread.join(kit.patience)
    assert not thread.is_alive()
    assert states == [True]


def test_finished_threads_are_forgotten(serve, kit):
    """The collection of threads does not grow with the number of requests."""
    server = ThreadingTCPServer(ADDRESS, lambda *args: None)
    serve(server)
    for _ in range(60):
        with kit.connect(server) as client:
            assert client.recv(1) == b""
    kit.until(lambda: len(server._threads) == 0)
    assert len(server._threads._started) == 0


def test_finished_threads_are_forgotten_unasked(kit):
    """The finished threads are let go of although nobody asks for the number."""
    server = ThreadingTCPServer(ADDRESS, lambda *args: None)
    with server:
        for _ in range(100):
            with kit.connect(server) as client:
                server.handle_request()
                assert client.recv(1) == b""
        assert len(server._threads._started) < 50


def test_only_the_finished_are_forgotten(kit):
    """Threads at work are kept, however many there are."""
    server = Holding()
    clients = []
    try:
        for _ in range(30):
            clients.append(kit.connect(server))
            server.handle_request()
        assert len(server._threads) == 30
        assert all(thread.is_alive() for thread in server._threads)
    finally:
        server.leave.set()
        server.server_close()
        for client in clients:
            client.close()
    assert len(server.done) == 30


class Reporting(ThreadingTCPServer):
    def __init__(self, handler):
        self.steps = []
        self.closed = threading.Event()
        super().__init__(ADDRESS, handler)

    def handle_error(self, request, client_address):
        self.steps.append("error")

    def handle_disconnect(self, request, client_address):
        self.steps.append("disconnect")

    def shutdown_request(self, request):
        super().shutdown_request(request)
        self.steps.append("closed")
        self.closed.set()


@pytest.mark.parametrize(
    ("error", "hook"), [(ValueError, "error"), (ConnectionResetError, "disconnect")]
)
def test_failure_in_a_thread(error, hook, kit):
    """A failure in a thread is told to its hook, then the request is closed."""

    def fail(*args):
        raise error

    with Reporting(fail) as server, kit.connect(server):
        server.handle_request()
        assert server.closed.wait(kit.patience)
        assert server.steps == [hook, "closed"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_leaving_a_thread(kit):
    """SystemExit ends the thread after the request is closed, with no hook called."""

    def fail(*args):
        raise SystemExit

    with Reporting(fail) as server, kit.connect(server):
        server.handle_request()
        assert server.closed.wait(kit.patience)
        assert server.steps == ["closed"]


def test_no_thread_to_be_had(kit, monkeypatch):
    """When no thread can be started, the request is closed and the server goes on."""

    def fail(self):
        raise RuntimeError("can't start new thread")

    with Reporting(lambda *args: None) as server:
        with kit.connect(server) as client:
            monkeypatch.setattr(threading.Thread, "start", fail)
            server.handle_request()
            monkeypatch.undo()
            assert client.recv(1) == b""
        assert server.steps == ["error", "closed"]
        assert len(server._threads) == 0


def test_override_of_the_thread(serve, kit):
    """process_request_thread is what runs in the thread."""
    seen = []

    class Server(ThreadingTCPServer):
        def process_request_thread(self, request, client_address):
            seen.append((threading.get_ident(), client_address))
            super().process_request_thread(request, client_address)

    server = Server(ADDRESS, lambda *args: None)
    loop = serve(server)
    with kit.connect(server) as client:
        assert client.recv(1) == b""
        ((thread, address),) = seen
        assert thread != loop.ident
        assert address == client.getsockname()


def test_constructor_that_passes_the_mixin_by(serve, kit):
    """A subclass may call only the server class's __init__."""

    class Echo(StreamRequestHandler):
        def handle(self):
            self.wfile.write(self.rfile.read())

    class Server(ThreadingMixIn, TCPServer):
        def __init__(self):
            TCPServer.__init__(self, ADDRESS, Echo)

    server = Server()
    serve(server)
    assert kit.ask(server, b"x") == b"x"
