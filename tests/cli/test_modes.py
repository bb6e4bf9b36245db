"""
What every mode promises: nothing accepted is lost, nothing spins, the dead are replaced.

A frame counts as accepted once all its bytes were acknowledged before the signal. Its
reply has to come before the connection ends, and that has to end in order.
"""

import contextlib
import itertools
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from protoserve.serve import MODES
from tests.cli import nursery
from tests.cli.kit import ROOT, in_mode
from tests.service.kit import PATIENCE, Ping, Pong, connect, unacknowledged, until

RESTARTS = 20
QUICK = 200
"""A value that is answered without delay."""


# Restarts under load -------------------------------------------------------


class Nursery:
    """
    Runs that follow each other at the same ports.
    """

    def __init__(self, process):
        self.process = process
        self.ports = (0, 0)

    def start(self):
        """
        Start a run and wait until it is ready.
        """
        self.process.stdin.write(f"{self.ports[0]} {self.ports[1]}\n")
        self.process.stdin.flush()
        words = self.process.stdout.readline().split()
        assert 3 == len(words), (words, self.process.poll())
        self.pid, *self.ports = map(int, words)

    def stop(self):
        """
        Ask the run to end; give its exit code and the seconds that it took.
        """
        started = time.monotonic()
        os.kill(self.pid, signal.SIGTERM)
        code = int(self.process.stdout.readline())
        return code, time.monotonic() - started

    def tcp(self):
        return connect(("127.0.0.1", self.ports[0]))

    def udp(self):
        return connect(("127.0.0.1", self.ports[1]), socket.SOCK_DGRAM)


@pytest.fixture
def runs():
    """
    Give a nursery for a mode; nothing of it is left afterwards.
    """
    with contextlib.ExitStack() as stack:

        def begin(mode, drain=PATIENCE):
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", nursery.__name__, mode, str(drain)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=ROOT,
                    start_new_session=True,
                )
            )

            def end():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

            stack.callback(end)
            return Nursery(process)

        yield begin


class Load:
    """
    A client that asks and is answered, over and over.

    `finish` lets it send some last frames. It reads to the end of the stream.
    """

    def __init__(self, client):
        self.client = client
        self.sent = self.answered = 0
        self.sent_all = threading.Event()
        self.failure = None
        self._finishing = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        try:
            while not self._finishing.is_set():
                self._send(2)
                while self.answered < self.sent:
                    if not self._receive():
                        return
            self._send(5)
            self.sent_all.set()
            while self._receive():
                pass
        except Exception as error:
            self.failure = error
        finally:
            self.sent_all.set()
            self.client.sock.close()

    def _send(self, count):
        self.client.send(*[Ping(QUICK + self.sent % 20 + n) for n in range(count)])
        self.sent += count

    def _receive(self):
        if self.client.receive() is None:
            return False
        self.answered += 1
        return True

    def finish(self):
        self._finishing.set()

    def join(self):
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def check(self):
        """
        All that was sent is answered, and the stream has ended in order.
        """
        self.join()
        assert (None, self.sent) == (self.failure, self.answered)


@pytest.mark.parametrize("mode", MODES)
def test_restarts_lose_nothing(runs, mode):
    """However often it is restarted under load, each accepted frame is answered."""
    run = runs(mode)
    for _ in range(RESTARTS):
        run.start()
        restart_under_load(run, 1 if mode == "single" else 4)


def restart_under_load(run, count):
    """
    End a run while clients are served; check that each gets what it was promised.

    In mode single one connection at a time is served; the others wait to be accepted.
    """
    loads = [Load(run.tcp()) for _ in range(count)]
    until(lambda: all(load.answered >= 4 for load in loads))
    for load in loads:
        load.finish()
    for load in loads:
        assert load.sent_all.wait(PATIENCE)
    datagrams = run.udp()
    datagrams.send(Ping(QUICK))
    late = [run.tcp() for _ in range(3)]
    for client in late:
        client.send(Ping(QUICK), Ping(QUICK + 1))
    socks = [client.sock for client in (*late, *(load.client for load in loads))]
    until(lambda: not any(map(unacknowledged, socks)))
    outcome = []
    ending = threading.Thread(target=lambda: outcome.extend(run.stop()))
    ending.start()
    for load in loads:
        load.check()
    for client in late:
        with client:
            expected = [Pong(QUICK), Pong(QUICK + 1), None]
            assert expected == [client.receive() for _ in range(3)]
    with datagrams:
        assert Pong(QUICK) == datagrams.receive()
    ending.join(PATIENCE)
    code, seconds = outcome
    assert 0 == code
    assert seconds < PATIENCE


@pytest.mark.parametrize("mode", MODES)
def test_end_under_load(runs, mode):
    """Peers that go on sending do not hold up the end beyond the drain."""
    run = runs(mode, drain=2.0)
    run.start()
    stopping = threading.Event()
    served = threading.Event()

    def send_on(client):
        flood = b"".join(client.session.encode(Ping(QUICK)) for _ in range(50))
        client.sock.settimeout(0.1)
        while not stopping.is_set():
            try:
                client.sock.sendall(flood)
                if not client.sock.recv(100_000):
                    return
                served.set()
            except TimeoutError:
                continue
            except OSError:
                return

    clients = [run.tcp() for _ in range(4)]
    threads = [threading.Thread(target=send_on, args=(each,)) for each in clients]
    for thread in threads:
        thread.start()
    assert served.wait(PATIENCE)
    code, seconds = run.stop()
    stopping.set()
    for thread, client in zip(threads, clients, strict=True):
        thread.join(PATIENCE)
        client.sock.close()
    assert 0 == code
    assert seconds < PATIENCE / 2


# Few descriptors -----------------------------------------------------------


def children(pid):
    """
    Give the children of a process.
    """
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def family(pid):
    """
    Give a process and all that descend from it.
    """
    return [pid, *(each for child in children(pid) for each in family(child))]


def is_alive(pid):
    """
    Say whether a process runs; one that nobody has waited for does not.
    """
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def cpu_seconds(pids):
    """
    Give the processor time of each of these processes that is there.
    """
    tick = os.sysconf("SC_CLK_TCK")
    spent = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            spent[pid] = (int(fields[11]) + int(fields[12])) / tick
    return spent


@pytest.mark.parametrize("mode", MODES)
def test_few_descriptors(run, mode):
    """With far more clients than descriptors it does not spin, and recovers."""
    process = run(options=in_mode(mode, "--limit", "first_frame=30"))
    for pid in family(process.process.pid):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (64, 64))
    with contextlib.ExitStack() as stack:
        for _ in range(500):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex((process.bound[0].host, process.bound[0].port))
        deadline = time.monotonic() + PATIENCE
        spent = 1.0
        # A busy machine may take its time to come to rest; what spins never does.
        while spent >= 0.3:
            assert time.monotonic() < deadline, spent
            pids = family(process.process.pid)
            before = cpu_seconds(pids)
            time.sleep(1)
            after = cpu_seconds(pids)
            spent = sum(after[pid] - before[pid] for pid in after)

    def serves():
        with contextlib.suppress(OSError), process.client() as client:
            return client.call(Ping(QUICK)) == Pong(QUICK)

    until(serves)
    assert 0 == process.stop()[0]
    assert "Traceback" not in "\n".join(process.lines)


# Workers -------------------------------------------------------------------


def workers_of(process):
    return set(children(process.process.pid))


def await_workers_other_than(process, before):
    def replaced():
        now = workers_of(process)
        return len(now) == 2 and not before & now

    until(replaced)


SUPERVISED = [("prefork", ("tcp://127.0.0.1:0",)),
              ("fork", ("tcp://127.0.0.1:0", "udp://127.0.0.1:0"))]  # fmt: skip


@pytest.mark.parametrize(("mode", "urls"), SUPERVISED)
def test_dead_workers_are_replaced(run, mode, urls):
    """A process that is killed is replaced, and told; the service goes on."""
    process = run(*urls, options=in_mode(mode))
    for _ in range(2):
        before = workers_of(process)
        assert 2 == len(before)
        for victim in before:
            os.kill(victim, signal.SIGKILL)
        await_workers_other_than(process, before)
        for which in range(len(urls)):
            with process.client(which) as client:
                assert Pong(QUICK) == client.call(Ping(QUICK))
    assert 0 == process.stop()[0]
    assert "was ended by SIGKILL; a new one starts at once" in process.lines[len(urls)]
    assert not any(map(is_alive, before))


@pytest.mark.parametrize(("mode", "urls"), SUPERVISED)
def test_orphans_end(run, mode, urls):
    """When the main process is killed, its workers end by themselves."""
    process = run(*urls, options=in_mode(mode))
    with process.client() as client:
        assert Pong(QUICK) == client.call(Ping(QUICK))
        pids = family(process.process.pid)
        process.process.kill()
        assert None is client.receive()
    until(lambda: not any(map(is_alive, pids)))


def test_replacement_loses_nothing(run):
    """SIGHUP replaces the workers while clients are served, without a gap."""
    process = run(options=in_mode("prefork"))
    first = workers_of(process)
    stop = threading.Event()
    failures = []
    connections = itertools.count()

    def ask():
        try:
            while not stop.is_set():
                with process.client() as client:
                    next(connections)
                    while not stop.is_set():
                        client.send(Ping(QUICK))
                        if client.receive() is None:
                            break
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    before = first
    for _ in range(5):
        process.process.send_signal(signal.SIGHUP)
        await_workers_other_than(process, before)
        before = workers_of(process)
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert [] == failures
    code, _, printed = process.stop()
    assert 0 == code
    assert (12, 12) == (printed.count("opened"), printed.count("closed"))
    assert next(connections) >= 5


@pytest.mark.parametrize("mode", MODES)
def test_hang_up(run, mode):
    """SIGHUP ends nothing, in any mode."""
    process = run(options=in_mode(mode))
    with process.client() as client:
        assert Pong(QUICK) == client.call(Ping(QUICK))
        process.process.send_signal(signal.SIGHUP)
        client.send(Ping(50))
        assert Pong(50) == client.receive() or mode == "prefork"
    with process.client() as client:
        assert Pong(QUICK) == client.call(Ping(QUICK))
    assert 0 == process.stop()[0]


def test_lifespan_that_fails_in_workers(run):
    """A worker that cannot start ends the run with one line."""
    ran = subprocess.run(
        [sys.executable, "-m", "protoserve", "run", "tests.cli.station:unready",
         "--listen", "tcp://127.0.0.1:0", *in_mode("prefork")],
        capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE,
    )  # fmt: skip
    expected = "protoserve: the service's lifespan failed: OSError: no database\n"
    assert (2, "", expected) == (ran.returncode, ran.stdout, ran.stderr)
