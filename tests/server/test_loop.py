import logging
import os
import select
import signal
import socket
import threading
import time

import pytest

from protoserve.server import BaseServer, StreamRequestHandler, TCPServer, UDPServer

ADDRESS = ("127.0.0.1", 0)


class Echo(StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.read())


class PipeServer(BaseServer):
    """A server whose requests are the bytes of a pipe."""

    def __init__(self):
        super().__init__("a pipe", self.handle)
        self.reader, self.writer = os.pipe()
        self.handled = []

    def fileno(self):
        return self.reader

    def get_request(self):
        return os.read(self.reader, 1), "somebody"

    def handle(self, request, client_address, server):
        self.handled.append((request, client_address))
        if request == b"!":
            server.shutdown()

    def server_close(self):
        super().server_close()
        os.close(self.reader)
        os.close(self.writer)


def test_no_socket_needed():
    """A BaseServer serves what is no socket at all."""
    with PipeServer() as server:
        os.write(server.writer, b"ab!")
        server.serve_forever(3600)
        assert (server.handled) == [
            (b"a", "somebody"),
            (b"b", "somebody"),
            (b"!", "somebody"),
        ]


def test_handle_request_needs_no_socket():
    """handle_request of a BaseServer waits for the class's own timeout."""
    with PipeServer() as server:
        server.timeout = 0
        server.handle_request()
        os.write(server.writer, b"a")
        server.handle_request()
        assert server.handled == [(b"a", "somebody")]


class Recording(TCPServer):
    """Records the steps of each request, and the thread's end of things."""

    def __init__(self, handler=Echo, **options):
        self.steps = []
        super().__init__(ADDRESS, handler, **options)

    def get_request(self):
        self.steps.append("get")
        return super().get_request()

    def verify_request(self, request, client_address):
        self.steps.append("verify")
        return super().verify_request(request, client_address)

    def process_request(self, request, client_address):
        self.steps.append("process")
        super().process_request(request, client_address)

    def finish_request(self, request, client_address):
        self.steps.append("finish")
        super().finish_request(request, client_address)

    def shutdown_request(self, request):
        self.steps.append("shutdown")
        super().shutdown_request(request)

    def close_request(self, request):
        self.steps.append("close")
        super().close_request(request)

    def handle_timeout(self):
        self.steps.append("timeout")

    def handle_error(self, request, client_address):
        self.steps.append("error")

    def handle_disconnect(self, request, client_address):
        self.steps.append("disconnect")

    def service_actions(self):
        self.steps.append("actions")
        super().service_actions()


SERVED = ["get", "verify", "process", "finish", "shutdown", "close"]


def test_steps_of_handle_request(kit):
    """handle_request takes, verifies and processes one request, in this order."""
    with Recording() as server, kit.connect(server) as client:
        client.shutdown(socket.SHUT_WR)
        server.handle_request()
        assert server.steps == SERVED


def test_steps_of_serve_forever(serve, kit):
    """Each turn of the loop handles a request, then runs service_actions."""
    server = Recording()
    serve(server)
    assert kit.ask(server, b"x") == b"x"
    kit.until(lambda: "actions" in server.steps)
    assert [*SERVED, "actions"] == server.steps


def test_service_actions_without_requests(serve, kit):
    """service_actions is called each poll interval."""
    server = Recording()
    serve(server, poll_interval=0.001)
    kit.until(lambda: server.steps.count("actions") > 3)
    assert "get" not in server.steps


def test_failure_in_handler(kit):
    """When the handler raises, handle_error is called, and the request is closed."""

    def fail(*args):
        raise ValueError

    with Recording(fail) as server, kit.connect(server) as client:
        server.handle_request()
        expected = ["get", "verify", "process", "finish", "error", "shutdown", "close"]
        assert expected == server.steps
        assert client.recv(1) == b""


def test_failure_in_hook_still_closes(kit):
    """When handle_error raises too, the request is closed all the same."""

    def fail(*args):
        raise ValueError

    class Server(TCPServer):
        def handle_error(self, request, client_address):
            raise  # noqa: PLE0704 - as CPython's own tests do

    with Server(ADDRESS, fail) as server, kit.connect(server) as client:
        with pytest.raises(ValueError):
            server.handle_request()
        assert client.recv(1) == b""


@pytest.mark.parametrize("leaving", [SystemExit, KeyboardInterrupt])
def test_leaving_passes(leaving, kit):
    """SystemExit and KeyboardInterrupt pass through after the request is closed."""

    def fail(*args):
        raise leaving

    with Recording(fail) as server, kit.connect(server) as client:
        with pytest.raises(leaving):
            server.serve_forever()
        assert client.recv(1) == b""
        assert "error" not in server.steps
        server.shutdown()  # returns: the loop has ended


def test_refused_request_is_closed(kit):
    """When verify_request returns false, the request is closed unhandled."""

    class Server(Recording):
        def verify_request(self, request, client_address):
            return False

    with Server() as server, kit.connect(server) as client:
        server.handle_request()
        assert client.recv(1) == b""
        assert server.steps == ["get", "shutdown", "close"]


def test_failing_verification(kit):
    """When verify_request raises, handle_error is called, and the request closed."""

    class Server(Recording):
        def verify_request(self, request, client_address):
            raise ValueError

    with Server() as server, kit.connect(server) as client:
        server.handle_request()
        assert client.recv(1) == b""
        assert server.steps == ["get", "error", "shutdown", "close"]


@pytest.mark.parametrize(("own", "of_socket"), [(0.02, 60), (60, 0.02), (None, 0.02)])
def test_handle_request_timeout(own, of_socket):
    """handle_request obeys the smaller timeout, then calls handle_timeout."""
    with Recording() as server:
        server.timeout = own
        server.socket.settimeout(of_socket)
        before = time.monotonic()
        server.handle_request()
        assert 0.02 <= time.monotonic() - before < 20
        assert server.steps == ["timeout"]


def test_request_in_time(kit):
    """A request that comes in time is handled without handle_timeout."""
    with Recording() as server:
        server.timeout = kit.patience
        with kit.connect(server) as client:
            client.shutdown(socket.SHUT_WR)
            server.handle_request()
        assert server.steps == SERVED


def test_several_servers_in_one_select(kit):
    """fileno() lets one process watch several servers with select."""
    with Recording() as one, Recording() as two:
        assert one.socket.fileno() == one.fileno()
        for busy in (two, one):
            with kit.connect(busy) as client:
                client.shutdown(socket.SHUT_WR)
                ready, _, _ = select.select([one, two], [], [], kit.patience)
                assert [busy] == ready
                busy.handle_request()
        assert select.select([one, two], [], [], 0) == ([], [], [])
        assert SERVED == one.steps == two.steps


def test_new_handler_for_each_request(serve, kit):
    """RequestHandlerClass is called anew with request, address and server."""
    made = []

    class Handler(Echo):
        def __init__(self, request, client_address, server):
            made.append(self)
            super().__init__(request, client_address, server)

    server = TCPServer(ADDRESS, Handler)
    assert server.RequestHandlerClass is Handler
    serve(server)
    kit.ask(server)
    kit.ask(server)
    assert len({id(handler) for handler in made}) == 2
    assert all(handler.server is server for handler in made)


def test_override_of_handle_request(serve, kit):
    """serve_forever calls an overridden handle_request for each request."""

    class Server(Recording):
        def handle_request(self):
            self.steps.append("override")
            super().handle_request()

    server = Server()
    serve(server)
    for _ in range(2):
        assert kit.ask(server, b"x") == b"x"
    kit.until(lambda: server.steps.count("actions") == 2)
    assert ["override", *SERVED, "actions"] * 2 == server.steps


def test_classic_override_of_handle_request(serve, kit):
    """An override may do the three steps itself; a failing get_request is survived."""

    class Server(Recording):
        failures = 1

        def get_request(self):
            if self.failures:
                self.failures -= 1
                raise OSError("no request after all")
            return super().get_request()

        def handle_request(self):
            request, client_address = self.get_request()
            if self.verify_request(request, client_address):
                self.process_request(request, client_address)

    server = Server()
    serve(server)
    assert kit.ask(server, b"x") == b"x"
    assert server.failures == 0


def test_override_on_the_instance(serve, kit):
    """handle_request may be replaced on the instance as well."""
    server = Recording()
    called = []

    def replacement():
        called.append(True)
        server._handle_request_noblock()

    server.handle_request = replacement
    serve(server)
    assert kit.ask(server, b"x") == b"x"
    assert called


def test_override_is_woken_by_shutdown(serve, kit):
    """An override that waits for a request which has gone ends with shutdown."""
    waits = threading.Event()

    class Server(Recording):
        def handle_request(self):
            super()._handle_request_noblock()
            waits.set()
            super().handle_request()

    server = Server()
    thread = serve(server)
    kit.ask(server, b"x")
    assert waits.wait(kit.patience)
    server.shutdown()
    thread.join(kit.patience)
    assert not thread.is_alive()


def test_noblock_is_a_hook(serve, kit):
    """The loop handles each request through _handle_request_noblock."""

    class Server(Recording):
        def _handle_request_noblock(self):
            self.steps.append("noblock")
            super()._handle_request_noblock()

    server = Server()
    serve(server)
    kit.ask(server)
    assert server.steps[0] == "noblock"


def test_failing_get_request(serve, kit, caplog):
    """An OSError out of get_request does not end the loop, nor call a hook."""

    class Server(Recording):
        failures = 3

        def get_request(self):
            request = super().get_request()
            if self.failures:
                self.failures -= 1
                request[0].close()
                raise OSError("bad handshake")
            return request

    server = Server()
    serve(server)
    for _ in range(3):
        with kit.connect(server) as client:
            assert client.recv(1) == b""
    assert kit.ask(server, b"x") == b"x"
    assert "error" not in server.steps
    assert not [r for r in caplog.records if r.levelno > logging.DEBUG]


def test_shutdown_wakes_the_loop(serve, kit):
    """shutdown() does not wait for the poll interval."""
    server = Recording()
    thread = serve(server, poll_interval=3600)
    kit.until(lambda: not server._BaseServer__is_shut_down.is_set())
    before = time.monotonic()
    server.shutdown()
    assert time.monotonic() - before < 20
    thread.join(kit.patience)
    assert not thread.is_alive()


def test_shutdown_without_poll_interval(serve, kit):
    """A poll interval of None waits for requests and shutdown alone."""
    server = Recording()
    serve(server, poll_interval=None)
    assert kit.ask(server, b"x") == b"x"
    server.shutdown()


def test_shutdown_waits_for_the_loop(serve, kit):
    """shutdown() returns after the request at hand is done."""
    entered, leave, done = threading.Event(), threading.Event(), []

    def handle(request, client_address, server):
        entered.set()
        assert leave.wait(kit.patience)
        done.append("handled")

    server = TCPServer(ADDRESS, handle)
    serve(server)
    with kit.connect(server):
        assert entered.wait(kit.patience)
        stopper = threading.Thread(
            target=lambda: (server.shutdown(), done.append("stopped"))
        )
        stopper.start()
        kit.until(lambda: server._BaseServer__shutdown_request)
        leave.set()
        stopper.join(kit.patience)
    assert done == ["handled", "stopped"]


def test_shutdown_in_the_serving_thread(kit):
    """A handler may call shutdown() in the thread that serves."""

    def handle(request, client_address, server):
        server.shutdown()
        server.shutdown()

    with TCPServer(ADDRESS, handle) as server, kit.connect(server):
        server.serve_forever(3600)
        assert server._BaseServer__is_shut_down.is_set()


def test_shutdown_in_a_signal_handler(kit):
    """A signal handler may call shutdown() while the main thread serves."""
    with TCPServer(ADDRESS, Echo) as server:
        before = signal.signal(signal.SIGUSR1, lambda *_: server.shutdown())
        main = threading.main_thread().ident

        def interrupt():
            kit.until(lambda: not server._BaseServer__is_shut_down.is_set())
            signal.pthread_kill(main, signal.SIGUSR1)

        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            server.serve_forever(3600)
        finally:
            thread.join()
            signal.signal(signal.SIGUSR1, before)


def test_shutdown_before_the_loop():
    """shutdown() without a loop returns at once, and the next loop ends at once."""
    with Recording() as server:
        server.shutdown()
        server.shutdown()
        server.serve_forever(3600)
        assert server.steps == []


def test_shutdown_by_many(serve, kit):
    """shutdown() may be called by several threads at once, and again after."""
    server = Recording()
    thread = serve(server)
    stoppers = [threading.Thread(target=server.shutdown) for _ in range(8)]
    for stopper in stoppers:
        stopper.start()
    for stopper in stoppers:
        stopper.join(kit.patience)
        assert not stopper.is_alive()
    thread.join(kit.patience)
    server.shutdown()


def test_no_request_after_shutdown(kit):
    """A request that comes together with shutdown is left in the queue."""

    class Server(Recording):
        def _loop_accept_delay(self):
            self.shutdown()
            return super()._loop_accept_delay()

    with Server() as server, kit.connect(server):
        server.serve_forever(3600)
        assert server.steps == []


def test_serving_again(kit):
    """A loop that has been stopped can be started again."""
    with Recording() as server:
        for _ in range(3):
            thread = threading.Thread(target=server.serve_forever, args=(3600,))
            thread.start()
            assert kit.ask(server, b"x") == b"x"
            server.shutdown()
            thread.join(kit.patience)
            assert not thread.is_alive()


def test_start_races_with_shutdown(kit):
    """A loop whose shutdown comes while it starts ends all the same."""
    for _ in range(50):
        server = Recording()
        thread = threading.Thread(target=server.serve_forever, args=(3600,))
        thread.start()
        server.shutdown()
        thread.join(kit.patience)
        assert not thread.is_alive()
        server.server_close()


def test_shutdown_request_flag(serve, kit):
    """Setting _BaseServer__shutdown_request stops the loop at its next turn."""
    server = Recording()
    thread = serve(server, poll_interval=0.01)
    kit.until(lambda: "actions" in server.steps)
    server._BaseServer__shutdown_request = True
    thread.join(kit.patience)
    assert not thread.is_alive()
    assert server._BaseServer__shutdown_request is False


def test_own_loop_with_the_private_names(kit):
    """A subclass's loop that keeps the private names works with shutdown()."""

    class Server(TCPServer):
        def serve_forever(self, poll_interval=0.5):
            self._BaseServer__is_shut_down.clear()
            try:
                while not self._BaseServer__shutdown_request:
                    self.timeout = 0.01
                    self.handle_request()
            finally:
                self._BaseServer__shutdown_request = False
                self._BaseServer__is_shut_down.set()

    with Server(ADDRESS, Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        assert kit.ask(server, b"x") == b"x"
        server.shutdown()
        thread.join(kit.patience)
        assert not thread.is_alive()


def test_close_ends_the_loop(serve, kit):
    """Closing a server whose loop runs ends the loop."""
    server = Recording()
    thread = serve(server)
    kit.ask(server)
    server.server_close()
    thread.join(kit.patience)
    assert not thread.is_alive()


def test_close_races_with_the_loop(kit):
    """A socket that is closed just before the wait ends the loop quietly."""

    class Server(Recording):
        def _loop_accept_delay(self):
            self.socket.close()
            return super()._loop_accept_delay()

    server = Server()
    server.serve_forever(3600)
    assert server.steps == []


def test_bad_descriptor_is_told():
    """A descriptor that was never good is an error, not a quiet end."""

    class Server(BaseServer):
        def fileno(self):
            return -1

    with pytest.raises(ValueError):
        Server("nowhere", None).serve_forever()


def test_loop_leaves_no_descriptors(kit):
    """A loop closes what it opened, however it ends."""

    def fail(*args):
        raise KeyboardInterrupt

    before = kit.descriptors()
    with TCPServer(ADDRESS, fail) as server:
        for _ in range(3):
            server.shutdown()
            server.serve_forever()
        with kit.connect(server):
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                pass
            else:
                pytest.fail("the interrupt is lost")
    assert before == kit.descriptors()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_traceback(stream, kit, capsys):
    """handle_error prints the traceback where error_stream says, and goes on."""

    def fail(*args):
        raise ValueError("this very failure")

    class Server(TCPServer):
        error_stream = stream

    with Server(ADDRESS, fail) as server:
        for _ in range(2):
            with kit.connect(server) as client:
                server.handle_request()
                shown = capsys.readouterr()
                text = {"stdout": shown.out, "stderr": shown.err}[stream]
                assert "ValueError: this very failure" in text
                assert "Traceback (most recent call last)" in text
                assert str(client.getsockname()) in text
                assert shown.out.replace(text, "") + shown.err.replace(text, "") == ""


def test_traceback_goes_to_standard_output():
    """The default is the standard output."""
    assert BaseServer.error_stream == "stdout"


def test_traceback_is_flushed(kit, monkeypatch):
    """A traceback is not left in a buffer."""
    events = []

    class Stream:
        def write(self, text):
            events.append("write")

        def flush(self):
            events.append("flush")

    def fail(*args):
        raise ValueError

    with TCPServer(ADDRESS, fail) as server, kit.connect(server):
        monkeypatch.setattr("sys.stdout", Stream())
        server.handle_request()
    assert events == ["write", "flush"]


def test_no_standard_output(kit, monkeypatch):
    """A process without a usable standard output goes on serving."""

    class Broken:
        def write(self, text):
            raise BrokenPipeError

    class Closed:
        def write(self, text):
            raise ValueError("I/O operation on closed file")

    def fail(*args):
        raise ValueError

    with TCPServer(ADDRESS, fail) as server:
        for stream in (None, Broken(), Closed()):
            monkeypatch.setattr("sys.stdout", stream)
            with kit.connect(server) as client:
                server.handle_request()
                assert client.recv(1) == b""


@pytest.mark.parametrize(
    "error", [ConnectionResetError, BrokenPipeError, ConnectionAbortedError]
)
def test_disconnect(error, kit, capsys, caplog):
    """A peer that went away is told to handle_disconnect, at debug level."""

    def fail(*args):
        raise error("gone")

    with Recording(fail) as server, kit.connect(server):
        server.handle_request()
        assert "disconnect" in server.steps
        assert "error" not in server.steps
    caplog.set_level(logging.DEBUG, "protoserve.server")
    with TCPServer(ADDRESS, fail) as server, kit.connect(server):
        server.handle_request()
    assert capsys.readouterr() == ("", "")
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("protoserve.server", logging.DEBUG)


def test_other_connection_errors_are_errors(kit):
    """A refused connection in a handler is a failure like any other."""

    def fail(*args):
        raise ConnectionRefusedError

    with Recording(fail) as server, kit.connect(server):
        server.handle_request()
        assert "error" in server.steps
        assert "disconnect" not in server.steps


def test_reset_while_handling(serve, kit):
    """A real reset in the middle of a request is a disconnect."""
    entered, leave = threading.Event(), threading.Event()

    class Handler(StreamRequestHandler):
        def handle(self):
            self.rfile.readline()
            entered.set()
            assert leave.wait(kit.patience)
            self.rfile.read()

    server = Recording(Handler)
    serve(server)
    client = kit.connect(server)
    client.sendall(b"line\n")
    assert entered.wait(kit.patience)
    kit.reset(client)
    leave.set()
    kit.until(lambda: "actions" in server.steps)
    assert "disconnect" in server.steps
    assert "error" not in server.steps


@pytest.mark.parametrize("server_class", [TCPServer, UDPServer])
def test_context_manager(server_class):
    """Leaving the with statement closes the server."""
    with server_class(ADDRESS, Echo) as server:
        assert server.fileno() >= 0
    assert server.socket.fileno() == -1
    server.server_close()
