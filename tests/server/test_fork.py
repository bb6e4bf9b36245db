import contextlib
import os
import socket
import socketserver
import subprocess
import sys
import textwrap
import threading

import pytest

from protoserve.server import ForkingMixIn, ForkingTCPServer, StreamRequestHandler
from tests.forking import forked

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

ADDRESS = ("127.0.0.1", 0)


class Holding(StreamRequestHandler):
    """Sends its process id, then stays until the client ends the stream."""

    def handle(self):
        self.wfile.write(b"%d\n" % os.getpid())
        self.rfile.read()


class Counting(ForkingTCPServer):
    max_children = 2

    def __init__(self, handler=Holding):
        self.turns = 0
        super().__init__(ADDRESS, handler)

    def service_actions(self):
        super().service_actions()
        self.turns += 1


def pid_from(client):
    answer = b""
    while not answer.endswith(b"\n"):
        answer += client.recv(20)
    return int(answer)


def leave(client):
    # Closing is not enough: the children have inherited the client's socket.
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)
    client.close()


@pytest.fixture
def clients(kit):
    """Return a function that connects a client, which leaves when the test ends."""
    with contextlib.ExitStack() as stack:

        def connect(server):
            client = kit.connect(server)
            stack.callback(leave, client)
            return client

        yield connect


@pytest.fixture(params=["descriptors", "polling"])
def noticing(request, monkeypatch):
    """Both ways to notice that a child has ended."""
    if request.param == "polling":
        monkeypatch.delattr(os, "pidfd_open")
    elif not hasattr(os, "pidfd_open"):
        pytest.skip("there are no process descriptors here")
    return request.param


def test_children(serve, kit, clients):
    """active_children is None, then the ids of the children, then empty."""
    server = Counting()
    assert server.active_children is None
    serve(server)
    client = clients(server)
    pid = pid_from(client)
    kit.until(lambda: server.active_children == {pid})
    leave(client)
    server.shutdown()
    server.server_close()
    assert server.active_children == set()


def test_child_is_collected_promptly(serve, kit, clients):
    """A child that ends is collected without another request or turn."""
    server = Counting()
    serve(server, poll_interval=3600)
    client = clients(server)
    pid_from(client)
    leave(client)
    kit.until(lambda: server.active_children == set())


def test_child_is_collected_without_descriptors(serve, kit, clients, monkeypatch):
    """Where processes have no descriptors, a child is collected at a turn."""
    monkeypatch.delattr(os, "pidfd_open")
    server = Counting()
    serve(server, poll_interval=0.01)
    client = clients(server)
    pid_from(client)
    leave(client)
    kit.until(lambda: server.active_children == set())


def test_full_loop_lives(serve, kit, clients):
    """At max_children no request is taken, while the loop goes on turning."""
    server = Counting()
    thread = serve(server, poll_interval=0.001)
    for _ in range(2):
        pid_from(clients(server))
    third = clients(server)
    seen = server.turns
    kit.until(lambda: server.turns > seen + 20)
    assert len(server.active_children) == 2
    third.setblocking(False)
    with pytest.raises(BlockingIOError):
        third.recv(1)
    server.shutdown()
    thread.join(kit.patience)
    assert not thread.is_alive()


def test_full_loop_can_be_stopped(serve, kit, clients):
    """At max_children shutdown stops the loop at once."""
    server = Counting()
    thread = serve(server, poll_interval=3600)
    for _ in range(2):
        pid_from(clients(server))
    clients(server)
    server.shutdown()
    thread.join(kit.patience)
    assert not thread.is_alive()


def test_full_loop_does_not_spin(serve, kit, clients):
    """At max_children the loop waits, though requests wait too."""
    server = Counting()
    serve(server, poll_interval=3600)
    for _ in range(2):
        pid_from(clients(server))
    clients(server)
    turns = server.turns
    threading.Event().wait(0.1)
    assert server.turns <= turns + 2


def test_free_slot_is_used(serve, kit, clients, noticing):
    """The next request is taken as soon as a child has ended."""
    server = Counting()
    serve(server, poll_interval=3600)
    first, second = clients(server), clients(server)
    pids = {pid_from(first), pid_from(second)}
    third = clients(server)
    leave(first)
    assert pid_from(third) not in pids
    kit.until(lambda: len(server.active_children) == 2)


def test_free_slot_is_used_by_handle_request(kit, clients, noticing):
    """handle_request at max_children waits for a slot, then takes the request."""
    server = Counting()
    with server:
        first, second, third = (clients(server) for _ in range(3))
        server.handle_request()
        server.handle_request()
        pid_from(first)
        pid_from(second)
        server.timeout = 0.01
        server.handle_request()
        assert len(server.active_children) == 2
        server.timeout = kit.patience
        threading.Timer(0.05, leave, (first,)).start()
        server.handle_request()
        pid_from(third)
        for client in (second, third):
            leave(client)


def test_slots_on_the_standard_library(kit, clients):
    """On a loop of somebody else's, too, there are never more than max_children."""

    class Server(ForkingMixIn, socketserver.TCPServer):
        max_children = 1

        def service_actions(self):
            """Leaves the collecting to the mix-in."""

    with Server(ADDRESS, Holding) as server:
        first, second = clients(server), clients(server)
        server.handle_request()
        pid_from(first)
        threading.Timer(0.05, leave, (first,)).start()
        server.handle_request()
        pid = pid_from(second)
        assert server.active_children == {pid}
        leave(second)


def test_foreign_child_is_left_alone(serve, kit, clients):
    """A child that the server has not made is not waited for."""
    foreign = forked(lambda: 7)
    server = Counting()
    serve(server)
    for _ in range(5):
        with contextlib.closing(kit.connect(server)) as client:
            pid_from(client)
            client.shutdown(socket.SHUT_WR)
    server.shutdown()
    server.server_close()
    pid, status = os.waitpid(foreign, 0)
    assert (pid, os.waitstatus_to_exitcode(status)) == (foreign, 7)


def test_child_that_another_has_waited_for(kit, clients):
    """A child that is gone already is forgotten."""
    with Counting() as server:
        client = clients(server)
        server.handle_request()
        pid = pid_from(client)
        leave(client)
        os.waitpid(pid, 0)
        server.collect_children()
        assert server.active_children == set()


def test_collect_when_idle(kit, clients):
    """A timeout of handle_request collects the children that have ended."""
    with Counting() as server:
        client = clients(server)
        server.handle_request()
        pid_from(client)
        leave(client)
        server.timeout = 0.01

        def collected():
            server.handle_request()
            return server.active_children == set()

        kit.until(collected)


def ended_child(server, client):
    """Have a child that has ended and has not been waited for."""
    server.handle_request()
    pid = pid_from(client)
    leave(client)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert server.active_children == {pid}


@pytest.mark.parametrize("step", ["service_actions", "handle_timeout"])
def test_collecting_steps(step, clients):
    """A loop of somebody else's collects by the steps that it knows."""
    with Counting() as server:
        ended_child(server, clients(server))
        getattr(server, step)()
        assert server.active_children == set()


def test_waiting_does_not_spin(kit, clients):
    """A child that ends while handle_request waits is collected, once."""
    waits = []

    class Server(Counting):
        def _loop_wake_descriptors(self):
            waits.append(True)
            return super()._loop_wake_descriptors()

    with Server() as server:
        ended_child(server, clients(server))
        server.timeout = 0.1
        server.handle_request()
        assert len(waits) < 10
        assert server.active_children == set()


def test_collect_by_hand(kit, clients):
    """collect_children collects what has ended; blocking, it waits for all."""
    with Counting() as server:
        client = clients(server)
        server.handle_request()
        pid_from(client)
        server.collect_children()
        assert len(server.active_children) == 1
        leave(client)
        server.collect_children(blocking=True)
        assert server.active_children == set()


def test_collect_before_any_child():
    """Collecting is possible before there is a child."""
    with Counting() as server:
        server.collect_children(blocking=True)
        assert server.active_children is None


def test_close_waits(kit, clients):
    """server_close returns when the children have ended."""
    reader, writer = os.pipe()

    class Handler(Holding):
        def finish(self):
            super().finish()
            os.write(writer, b"end")

    server = Counting(Handler)
    client = clients(server)
    server.handle_request()
    pid_from(client)
    closer = threading.Thread(target=server.server_close)
    closer.start()
    closer.join(0.1)
    assert closer.is_alive()
    leave(client)
    closer.join(kit.patience)
    assert not closer.is_alive()
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert file.read() == b"end"


def test_close_without_waiting(kit, clients):
    """With block_on_close false, server_close waits for nobody and leaks nothing."""
    before = kit.descriptors()
    server = Counting()
    server.block_on_close = False
    with kit.connect(server) as client:
        server.handle_request()
        pid = pid_from(client)
        server.server_close()
        assert server.active_children == {pid}
        client.shutdown(socket.SHUT_WR)
    assert kit.descriptors() <= before
    os.waitpid(pid, 0)


def test_no_descriptors_are_left(serve, kit, clients):
    """The descriptors of children are closed with them."""
    before = kit.descriptors()
    with Counting() as server:
        for _ in range(5):
            with kit.connect(server) as client:
                server.handle_request()
                pid_from(client)
                client.shutdown(socket.SHUT_WR)
    assert kit.descriptors() <= before


@pytest.mark.parametrize("leaving", [SystemExit, KeyboardInterrupt, ValueError])
def test_child_leaves_alone(leaving, kit):
    """A child never returns into the parent's code, however its request ends."""
    reader, writer = os.pipe()

    class Handler(StreamRequestHandler):
        def handle(self):
            raise leaving

    try:
        with Counting(Handler) as server, kit.connect(server) as client:
            server.handle_request()
            assert client.recv(1) == b""
    finally:
        os.write(writer, b"%d\n" % os.getpid())
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert file.read() == b"%d\n" % os.getpid()


@pytest.mark.parametrize(
    ("error", "hook"),
    [
        (ValueError, b"error"),
        (BrokenPipeError, b"disconnect"),
        (SystemExit, b""),
    ],
)
def test_failure_in_a_child(error, hook, kit):
    """A failure in a child is told to its hook there; the status tells of it."""
    statuses = []
    real = os.waitpid

    def fail(*args):
        raise error

    class Server(Counting):
        def handle_error(self, request, client_address):
            request.sendall(b"error")

        def handle_disconnect(self, request, client_address):
            request.sendall(b"disconnect")

    def waitpid(pid, options):
        pid, status = real(pid, options)
        statuses.append(os.waitstatus_to_exitcode(status))
        return pid, status

    with Server(fail) as server, kit.connect(server) as client:
        server.handle_request()
        assert client.recv(20) == hook
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "waitpid", waitpid)
            server.collect_children(blocking=True)
    assert statuses == [1]


def test_child_may_call_shutdown(kit):
    """shutdown() in a child returns, and leaves the parent's loop alone."""

    class Handler(StreamRequestHandler):
        def handle(self):
            self.rfile.read()  # to close with something unread is a reset
            self.server.shutdown()
            self.wfile.write(b"back")

    with Counting(Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(3600,))
        thread.start()
        for _ in range(2):
            assert kit.ask(server) == b"back"
        kit.until(lambda: server.active_children == set())
        assert thread.is_alive()
        # The pipe that wakes the loop is shared; a child's byte is one turn.
        turns = server.turns
        threading.Event().wait(0.1)
        assert server.turns <= turns + 2
        server.shutdown()
        thread.join(kit.patience)


def test_no_process_to_be_had(kit, monkeypatch):
    """When fork fails, the request is closed and the server goes on."""
    errors = []

    def fail():
        raise BlockingIOError(11, "no more processes")

    class Server(Counting):
        def handle_error(self, request, client_address):
            errors.append(sys.exc_info()[1].errno)

    with Server() as server, kit.connect(server) as client:
        monkeypatch.setattr(os, "fork", fail)
        server.handle_request()
        assert client.recv(1) == b""
    assert errors == [11]
    assert server.active_children is None


def test_output_is_written_once():
    """Buffered output is written once, whether the parent's or the child's."""
    script = textwrap.dedent(
        """
        import atexit, socket
        from protoserve.server import ForkingTCPServer

        def handle(request, client_address, server):
            print("child")

        atexit.register(print, "exit")
        print("parent")
        with ForkingTCPServer(("127.0.0.1", 0), handle) as server:
            with socket.create_connection(server.server_address):
                server.handle_request()
        """
    )
    output = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
    )
    assert output.stdout.split() == ["parent", "child", "exit"]
