"""
Starts servers with small limits, each in a process of its own that is a fork of this
one, and tells what they have refused once they end.

An interpreter with everything imported starts a server in a few milliseconds. A line
of JSON says what to serve; the socket that comes with it is how the server answers:
with its process id and ports once it is ready, with its counts when it has ended.

Usage: python -m tests.service.limited DESCRIPTOR
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

import attrs

import protoserve.service
from protoserve import Limits, ProtoserveError, Service, Session, route
from protoserve.serve import Runner
from protoserve.urls import Address
from tests.service.kit import PATIENCE, Client, Ping, Pong, Text, connect, spoken, until

ROOT = Path(__file__).parents[2]
LARGE = bytes(15_000)
GONE = (ConnectionError, TimeoutError, ProtoserveError)
"""What a push raises when the peer is not there any more."""


class Station:
    """
    Answers at once, or with far more than was asked for.
    """

    @route
    def ping(self, message: Ping) -> Pong:
        return Pong(message.value)

    @route
    def text(self, message: Text, session: Session):
        what = message.text.decode().strip()
        return getattr(self, what)(session)

    def stream(self, session):
        """
        Answer by more messages than anybody takes.
        """
        return (Text(LARGE) for _ in range(100_000))

    def thread(self, session):
        """
        Push from another thread for as long as that is possible.
        """

        def push():
            with contextlib.suppress(*GONE):
                while True:
                    session.send(Text(LARGE))

        threading.Thread(target=push, daemon=True).start()

    def push(self, session):
        """
        Push from the loop itself, or what there is instead.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.thread(session)
            return

        async def push():
            with contextlib.suppress(*GONE):
                while True:
                    session.send(Text(LARGE))
                    await asyncio.sleep(0.001)

        # Kept, as the loop does not keep it.
        session.state = loop.create_task(push())

    def size(self, session):
        return Text(LARGE)


class Waiting(Station):
    """
    Answers by coroutines, and knows how many are at work in this process. Those from
    200 on take half a second.
    """

    def __init__(self):
        self.at_work = 0

    @route
    async def ping(self, message: Ping) -> Text:
        self.at_work += 1
        most = self.at_work
        for _ in range(50 if message.value >= 200 else 3):
            await asyncio.sleep(0.01)
            most = max(most, self.at_work)
        self.at_work -= 1
        return Text(b"%d %d" % (message.value, most))


HANDLERS = {cls.__name__: cls for cls in (Station, Waiting)}


def serve(channel, mode, limits, handler="Station", workers=2, strangers=False):
    """
    Serve until SIGTERM.
    """
    if strangers:
        protoserve.service.is_loopback = lambda _: False
    service = Service(spoken, HANDLERS[handler](), limits=Limits(**limits))
    addresses = [Address(transport, "127.0.0.1", 0) for transport in ("tcp", "udp")]
    if mode == "fork":  # so that there is one process fewer
        del addresses[1]
    runner = Runner(
        service, addresses, mode, 2.0, workers if mode == "prefork" else None
    )
    runner.bind()
    signal.signal(signal.SIGTERM, lambda *_: runner.stop())
    ready = {"pid": os.getpid(), "ports": [address.port for address in runner.bound]}
    runner.serve(lambda: channel.sendall(json.dumps(ready).encode() + b"\n"))
    service.close()
    channel.sendall(json.dumps(dict(service.refused)).encode() + b"\n")


def main():
    """
    Do what comes in at a socket.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as orders:
        while True:
            line, descriptors, _, _ = socket.recv_fds(orders, 4096, 1)
            if not line:
                return
            with socket.socket(fileno=descriptors[0]) as channel:
                if os.fork():
                    continue
                orders.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                status = 1
                try:
                    serve(channel, **json.loads(line))
                    status = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stderr.flush()
                    os._exit(status)


@attrs.define
class Limited:
    """
    A server in a process of its own.
    """

    lines: object
    pid: int
    ports: list[int]
    processes: int = 0
    refused: dict[str, int] | None = None

    @property
    def address(self):
        return ("127.0.0.1", self.ports[0])

    def client(self) -> Client:
        return connect(self.address)

    def datagrams(self) -> Client:
        return connect(("127.0.0.1", self.ports[1]), socket.SOCK_DGRAM)

    def stop(self):
        """
        End it; give how often it has refused what.
        """
        if self.refused is None:
            os.kill(self.pid, signal.SIGTERM)
            line = self.lines.readline()
            assert line, "it died"
            self.refused = json.loads(line)
        return self.refused

    def family(self):
        """
        Give its process ids, its children's included.
        """
        found = [self.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    children = (task / "children").read_text().split()
                    found += map(int, children)
        return found

    def memory(self):
        """
        Give the memory of its largest process that is no file's, in bytes.
        """
        sizes = [0]
        for pid in self.family():
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                own = [line for line in lines if line.startswith("RssAnon:")]
                sizes += [1024 * int(line.split()[1]) for line in own]
        return max(sizes)

    def descriptors(self):
        """
        Count the descriptors that all its processes have open.

        Those of ``/dev/null`` do not count: libuv opens one at the first connection.
        """
        count = 0
        for pid in self.family():
            with contextlib.suppress(OSError):
                for entry in Path(f"/proc/{pid}/fd").iterdir():
                    with contextlib.suppress(OSError):  # closed just now
                        count += str(entry.readlink()) != os.devnull
        return count

    def sockets(self):
        """
        Give the connections that it has open, as the kernel tells: for each the
        peer's port, and the bytes that were not read yet.
        """
        found = {}
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, ours, theirs, state, queues, *_ = words = line.split()
            if int(ours.partition(":")[2], 16) != self.ports[0] or state == "0A":
                continue
            if words[9] != "0":  # somebody has a descriptor of it
                port = int(theirs.partition(":")[2], 16)
                found[port] = int(queues.partition(":")[2], 16)
        return found

    def rest(self):
        """
        Wait until it handles nothing; give how many descriptors it has then.
        """
        until(lambda: not self.sockets() and len(self.family()) <= self.processes)
        return self.descriptors()


@contextlib.contextmanager
def nursery():
    """
    Give what starts servers.
    """
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.service.limited", str(theirs.fileno())],
            cwd=ROOT,
            pass_fds=[theirs.fileno()],
            stderr=printed,
            start_new_session=True,
        )
        theirs.close()
        try:
            with ours:
                yield lambda **order: _start(ours, order)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            printed.seek(0)
            text = printed.read().decode()
            assert "Traceback" not in text, text


@contextlib.contextmanager
def _start(orders, order):
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)
    with ours, ours.makefile("rb") as lines:
        with theirs:
            socket.send_fds(orders, [json.dumps(order).encode()], [theirs.fileno()])
        line = lines.readline()
        assert line, "it did not start"
        started = Limited(lines, **json.loads(line))
        started.processes = len(started.family())
        yield started
        started.stop()


if __name__ == "__main__":
    main()
