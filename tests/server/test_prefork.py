import atexit
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import protoserve.server as servers
from protoserve import Service
from protoserve.server import (
    BaseRequestHandler,
    DatagramRequestHandler,
    EventLoopMixIn,
    ForkingMixIn,
    PoolMixIn,
    PreforkMixIn,
    StreamRequestHandler,
    TCPServer,
    ThreadingMixIn,
    UDPServer,
    UnixDatagramServer,
    UnixStreamServer,
)
from protoserve.server._supervise import (
    Supervisor,
    WorkerError,
    end_children,
    worker_count,
)
from tests.forking import forked
from tests.service.kit import Client, Ping, Pong, connect, spoken
from tests.service.test_drain import Station

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

ADDRESS = ("127.0.0.1", 0)


class StreamEcho(StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"%d %s" % (os.getpid(), self.rfile.readline()))


class DatagramEcho(DatagramRequestHandler):
    def handle(self):
        self.wfile.write(b"%d %s" % (os.getpid(), self.packet))


class Two(PreforkMixIn):
    workers = 2


class Plain(Two, TCPServer):
    pass


class Threads(Two, ThreadingMixIn, TCPServer):
    pass


class AtPath(Two, UnixStreamServer):
    unlink_on_close = True


class Datagrams(Two, UDPServer):
    pass


class DatagramsAtPath(Two, UnixDatagramServer):
    pass


def pid_of(answer, text):
    pid, _, rest = answer.partition(b" ")
    assert text == rest
    return int(pid)


def serving(serve, kit, server):
    """
    Run a server; wait until its workers are ready.
    """
    thread = serve(server)
    kit.until(lambda: (s := server._PreforkMixIn__supervisor) and s._started)
    return thread


@pytest.mark.parametrize("server_class", [Plain, Threads, AtPath])
def test_streams(server_class, serve, kit, short_path):
    """Streams are served by workers, one socket for all of them."""
    unix = server_class.address_family == socket.AF_UNIX
    server = server_class(short_path if unix else ADDRESS, StreamEcho)
    serving(serve, kit, server)
    for number in range(5):
        text = b"%d\n" % number
        assert pid_of(kit.ask(server, text), text) in server.active_children
    server.shutdown()
    assert set() == server.active_children
    assert unix == Path(short_path).exists()
    server.server_close()
    assert not Path(short_path).exists()


@pytest.mark.parametrize("server_class", [Datagrams, DatagramsAtPath])
def test_datagrams(server_class, serve, kit, short_path):
    """All that one peer sends is handled by one worker, and peers are spread."""
    unix = server_class.address_family == socket.AF_UNIX
    server = server_class(short_path if unix else ADDRESS, DatagramEcho)
    serving(serve, kit, server)
    found = set()
    for number in range(40):
        with socket.socket(server.address_family, socket.SOCK_DGRAM) as client:
            client.settimeout(kit.patience)
            client.bind(f"{short_path}{number}" if unix else ADDRESS)
            client.connect(server.server_address)
            handlers = set()
            for _ in range(3):
                client.send(b"packet")
                handlers.add(pid_of(client.recv(100), b"packet"))
            assert unix or 1 == len(handlers)
            found |= handlers
    assert found <= server.active_children
    assert unix or found == server.active_children


def test_event_loop(serve, kit):
    """An event loop runs in each worker, and drains when it ends."""

    class Server(Two, EventLoopMixIn, TCPServer):
        pass

    service = Service(spoken, Station())
    server = Server(ADDRESS, service.RequestHandlerClass)
    serving(serve, kit, server)
    with Client(kit.connect(server), stream=True) as client:
        assert Pong() == client.call(Ping())
        server.shutdown()
        assert None is client.receive()


@pytest.mark.parametrize("name", ["EventLoopMixIn", "BatchMixIn"])
def test_datagrams_of_a_service(name, serve, kit):
    """Workers answer datagrams by whichever loop comes next."""
    mixin = getattr(servers, name)
    service = Service(spoken, Station())
    server_class = type("Server", (Two, mixin, UDPServer), {})
    server = server_class(ADDRESS, service.RequestHandlerClass)
    server.drain_timeout = kit.patience
    serving(serve, kit, server)
    for _ in range(20):
        with connect(server.server_address, socket.SOCK_DGRAM) as client:
            assert Pong() == client.call(Ping())
    started = time.monotonic()
    server.shutdown()
    assert time.monotonic() - started < server.drain_timeout / 2


@pytest.mark.parametrize("bases", [(ThreadingMixIn,), (PoolMixIn,), ()])
def test_idle_connections_of_a_service_end(bases, serve, kit):
    """A worker that blocks in an idle connection of a service ends it when asked."""
    server_class = type("Server", (Two, *bases, TCPServer), {})
    server = server_class(ADDRESS, Service(spoken, Station()).RequestHandlerClass)
    server.drain_timeout = kit.patience
    serving(serve, kit, server)
    with Client(kit.connect(server), stream=True) as client:
        assert Pong() == client.call(Ping())
        started = time.monotonic()
        server.shutdown()
        assert time.monotonic() - started < server.drain_timeout / 2
        assert None is client.receive()


@pytest.mark.parametrize("name", ["PoolMixIn", "BatchMixIn"])
def test_order_with_other_mixins(name):
    """The mix-in goes before the others that have a loop, not after them."""
    mixin = getattr(servers, name)
    base = UDPServer if name == "BatchMixIn" else TCPServer
    type("Right", (PreforkMixIn, mixin, base), {})
    with pytest.raises(TypeError, match=f"goes first, before {name}"):
        type("Wrong", (mixin, PreforkMixIn, base), {})


@pytest.mark.parametrize(
    ("bases", "words"),
    [
        ((PreforkMixIn, ForkingMixIn, TCPServer), "ForkingMixIn do not combine"),
        ((ForkingMixIn, PreforkMixIn, TCPServer), "ForkingMixIn do not combine"),
        ((ThreadingMixIn, PreforkMixIn, TCPServer), "first, before ThreadingMixIn"),
        ((EventLoopMixIn, Two, TCPServer), "first, before EventLoopMixIn"),
        ((TCPServer, PreforkMixIn), "first, before TCPServer"),
        ((PreforkMixIn, socketserver.TCPServer), "needs a server of protoserve.server"),
    ],
)
def test_wrong_combinations(bases, words):
    """What would not do what it says is refused by name when the class is made."""
    with pytest.raises(TypeError, match=f"^Wrong: .*{words}"):
        type("Wrong", bases, {})


def test_own_steps_may_come_first():
    """A mix-in of the user's may extend the steps from before."""

    class Counting:
        def process_request(self, request, client_address):
            super().process_request(request, client_address)

    type("Server", (Counting, PreforkMixIn, TCPServer), {})


@pytest.mark.parametrize("workers", [0, -1, 1.5, "four", True])
def test_number_of_workers(workers):
    """A number of workers that cannot be is refused when the server is made."""
    server_class = type("Server", (PreforkMixIn, TCPServer), {"workers": workers})
    with pytest.raises(ValueError, match="above 0 or auto, not"):
        server_class(ADDRESS, StreamEcho)


@pytest.mark.parametrize("workers", [None, "auto"])
def test_a_worker_for_each_cpu(workers):
    """By default there is one for each CPU that the process may use."""
    assert len(os.sched_getaffinity(0)) == worker_count(workers)


def test_dead_worker(serve, kit, caplog):
    """A worker that is killed is replaced at once, and what waits is served."""
    server = Plain(ADDRESS, StreamEcho)
    serving(serve, kit, server)
    before = server.active_children
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert b"x\n" in kit.ask(server, b"x\n")
    kit.until(lambda: len(server.active_children) == 2)
    assert not before & server.active_children
    assert "was ended by SIGKILL; a new one starts at once" in caplog.text


class Crashing(PreforkMixIn, TCPServer):
    workers = 1

    def service_actions(self):
        os.write(self.starts, b"x")
        raise SystemExit(3)


def test_crash_loop(serve, kit, caplog):
    """Workers that do not live long are started ever more rarely, and told of."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    server = Crashing(ADDRESS, StreamEcho)
    server.starts = writer
    serve(server, poll_interval=0)
    kit.until(lambda: "starts in 0.4 s" in caplog.text)
    starts = len(os.read(reader, 1000))
    server.shutdown()
    assert 4 == starts
    os.close(reader)
    os.close(writer)
    assert "ended with exit code 3; a new one starts at once" in caplog.text
    assert len(caplog.records) <= 4


def test_request_at_hand_is_finished(serve, kit):
    """shutdown returns when the workers have done what they had begun."""

    class Slow(BaseRequestHandler):
        def handle(self):
            self.request.sendall(b"begun ")
            time.sleep(0.3)
            self.request.sendall(b"done")

    server = Threads(ADDRESS, Slow)
    serving(serve, kit, server)
    with kit.connect(server) as client:
        assert b"begun " == client.recv(100)
        server.shutdown()
        assert set() == server.active_children
        assert b"done" == client.recv(100)
        assert b"" == client.recv(100)


def test_stuck_worker(serve, kit, caplog):
    """A worker that does not end in time is killed, and told of."""

    class Stuck(BaseRequestHandler):
        def handle(self):
            self.request.sendall(b"begun")
            time.sleep(1000)

    server = Plain(ADDRESS, Stuck)
    server.drain_timeout = 0.5
    serving(serve, kit, server)
    with kit.connect(server) as client:
        assert b"begun" == client.recv(100)
        started = time.monotonic()
        server.shutdown()
        assert time.monotonic() - started < kit.patience / 2
    assert "workers had not ended" in caplog.text


def test_replacement(serve, kit):
    """All workers are replaced, and there is always one that serves."""
    server = Plain(ADDRESS, StreamEcho)
    serving(serve, kit, server)
    before = server.active_children
    server.replace_workers()
    while server.active_children & before:
        assert b"x\n" in kit.ask(server, b"x\n")
    kit.until(lambda: len(server.active_children) == 2)
    assert not before & server.active_children


def test_replacement_that_cannot_start(serve, kit, caplog):
    """Where no new worker can be had, the old ones stay."""

    server = Plain(ADDRESS, StreamEcho)
    serving(serve, kit, server)
    before = server.active_children
    fork, os.fork = os.fork, lambda: (_ for _ in ()).throw(BlockingIOError("no more"))
    try:
        server.replace_workers()
        kit.until(lambda: "cannot start a worker: no more" in caplog.text)
    finally:
        os.fork = fork
    assert before == server.active_children
    assert b"x\n" in kit.ask(server, b"x\n")


class Supervised:
    """
    A supervisor whose workers do nothing, and cannot start while `ill` exists.
    """

    def __init__(self, ill):
        self.ill = ill
        self.ready = threading.Event()
        self.stopping = threading.Event()
        self.failure = None
        self.supervisor = Supervisor(self.work, 2, stop=self.stop, drain=5)
        self.thread = threading.Thread(target=self.run)

    def work(self, number, ready):
        if self.ill.exists():
            raise RuntimeError("feeling unwell at 100%")
        ready()
        self.stopping.wait()

    def stop(self):
        self.stopping.set()

    def run(self):
        try:
            self.supervisor.run(self.stopping.is_set, self.ready.set)
        except WorkerError as error:
            self.failure = error
        finally:
            self.supervisor.end()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.supervisor.wake()
        self.thread.join(60)
        assert not self.thread.is_alive()
        assert set() == self.supervisor.pids


def test_failure_at_the_first_start(tmp_path, kit):
    """A worker that cannot start at first ends it all, and says why."""
    (tmp_path / "ill").touch()
    with Supervised(tmp_path / "ill") as supervised:
        supervised.thread.join(kit.patience)
        assert "feeling unwell at 100%" == str(supervised.failure)
        assert not supervised.ready.is_set()


def test_failure_of_a_successor(tmp_path, kit, caplog):
    """Old workers end only when the new ones are ready, and stay if they never are."""
    ill = tmp_path / "ill"
    with Supervised(ill) as supervised:
        assert supervised.ready.wait(kit.patience)
        before = supervised.supervisor.pids
        ill.touch()
        supervised.supervisor.replace()
        kit.until(lambda: "unwell at 100%; the old ones stay" in caplog.text)
        assert before == supervised.supervisor.pids
        ill.unlink()
        supervised.supervisor.replace()
        kit.until(lambda: not before & supervised.supervisor.pids)
        assert 2 == len(supervised.supervisor.pids)


def test_failure_later_on(tmp_path, kit, caplog):
    """A worker that cannot start later is tried again until it can."""
    ill = tmp_path / "ill"
    with Supervised(ill) as supervised:
        assert supervised.ready.wait(kit.patience)
        ill.touch()
        os.kill(min(supervised.supervisor.pids), signal.SIGKILL)
        kit.until(lambda: "unwell at 100%; a new one" in caplog.text)
        ill.unlink()
        caplog.clear()
        kit.until(lambda: 2 == len(supervised.supervisor.pids))


def test_address_cannot_be_shared():
    """A second server cannot take a share of the datagrams unnoticed."""
    with (
        Datagrams(ADDRESS, DatagramEcho) as server,
        pytest.raises(OSError, match="in use"),
    ):
        Datagrams(server.server_address, DatagramEcho)


def test_own_sockets_for_streams(serve, kit):
    """With a socket for each worker, what waits for a dead one is not lost."""

    class Server(Plain):
        socket_per_worker = True

    server = Server(ADDRESS, StreamEcho)
    serving(serve, kit, server)
    before = kit.descriptors()
    found = {pid_of(kit.ask(server, b"\n"), b"\n") for _ in range(40)}
    assert found == server.active_children
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    assert b"\n" in kit.ask(server, b"\n")
    kit.until(lambda: len(kit.descriptors()) <= len(before) + 1)
    server.shutdown()


def test_exit_functions(serve, kit, tmp_path):
    """The parent's exit functions do not run in a worker; its own do."""
    told = tmp_path / "told"

    class Server(Plain):
        workers = 1

        def service_actions(self):
            if not told.exists():
                told.write_text("")
                atexit.register(told.write_text, "worker")

    def parent():
        told.write_text("parent")

    atexit.register(parent)
    try:
        server = Server(ADDRESS, StreamEcho)
        serve(server, poll_interval=0.01)
        kit.until(told.exists)
        kit.until(lambda: kit.ask(server, b"x\n"))
        server.shutdown()
    finally:
        atexit.unregister(parent)
    assert "worker" == told.read_text()


def test_other_children_are_left_alone(serve, kit):
    """Children that are somebody else's are not waited for."""
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"]) as other:
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        server = Plain(ADDRESS, StreamEcho)
        serving(serve, kit, server)
        kit.ask(server, b"x\n")
        server.shutdown()
        assert 7 == other.wait()


def test_terminal_signals_are_the_parents(serve, kit):
    """Ctrl-C and a hang-up, which workers get too, do not end them."""
    server = Plain(ADDRESS, StreamEcho)
    serving(serve, kit, server)
    before = server.active_children
    assert b"x\n" in kit.ask(server, b"x\n")
    for pid in before:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGHUP)
    for _ in range(10):
        assert pid_of(kit.ask(server, b"x\n"), b"x\n") in before
    assert before == server.active_children


def test_serves_again(serve, kit):
    """After shutdown the same server can serve again, and leaks nothing."""
    server = Plain(ADDRESS, StreamEcho)
    before = kit.descriptors()
    for _ in range(3):
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        assert b"x\n" in kit.ask(server, b"x\n")
        server.shutdown()
        thread.join(kit.patience)
    assert kit.descriptors() <= before
    server.server_close()


def test_close_while_serving(serve, kit):
    """A server that is closed ends its workers."""
    server = Plain(ADDRESS, StreamEcho)
    thread = serving(serve, kit, server)
    server.server_close()
    thread.join(kit.patience)
    assert set() == server.active_children


def test_children_that_ignore_are_killed():
    """A child that does not end when asked is killed and waited for."""
    reader, writer = os.pipe()

    def work():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(writer, b"x")
        time.sleep(1000)

    pid = forked(work)
    os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    assert 1 == end_children([pid], 0.1)
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)
