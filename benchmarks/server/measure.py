"""
Run servers under a load in turns, so that a busy machine changes little.

All servers of a load are there at a time, each with its own load generator and its
connections made; in each round every one is loaded for a moment while the others are
idle. What a server did is divided by the processor time that it used between two
moments at which nothing was outstanding, so start-up and warm-up do not count. A
*generation* is one start of all processes: addresses and hashes differ from one to the
next, and so does speed, a little.
"""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmarks.server.loads import Load
from benchmarks.server.peers.running import enlarge
from benchmarks.server.processes import Cores, FailedError, Program, free_port
from benchmarks.server.servers import Server

_BUFFER = 128 << 20
_DATAGRAM_COST = 1024
"""Bytes of a socket's buffer that a small datagram takes, at most."""
_PROCESSES = 300
"""Idle connections of a server that has a process for each."""
_LONGEST = 90.0
"""Seconds for connections to be made."""
PATIENCE = 30.0
"""Seconds for a program to start, or to report more than was asked of it."""


@attrs.frozen
class Effort:
    """
    How long to measure.
    """

    generations: int
    rounds: int
    slice: float
    """Seconds that one server is loaded for in one round."""
    datagrams: int
    """How many are queued for one drain."""
    connections: int
    """How many idle ones are made."""
    warmup: float = 0.2


FULL = Effort(3, 4, 0.25, 40_000, 10_000)
QUICK = Effort(1, 9, 0.1, 10_000, 1_000, 0.1)


@attrs.frozen
class Slice:
    """
    What a server did in one round.
    """

    round: int
    work: int
    cpu: float
    """Seconds of processor time."""
    seconds: float
    p50: float
    """Microseconds."""
    p99: float

    @property
    def rate(self) -> float:
        """
        Work for each second of processor time.
        """
        return self.work / max(self.cpu, 1e-9)


def _rate(one: Slice) -> float:
    return one.rate


def _p50(one: Slice) -> float:
    return one.p50


@attrs.frozen
class Ratio:
    """
    How two servers compare: the median of the rounds, and the quartiles.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Ratio:
        """
        Sum rounds up.
        """
        if len(ratios) < 2:
            return cls(ratios[0], ratios[0], ratios[0])
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return cls(middle, low, high)


@attrs.define(eq=False)
class Found:
    """
    All that was measured of a server under a load.
    """

    server: Server
    load: Load
    slices: list[Slice] = attrs.field(factory=list)
    memory: list[float] = attrs.field(factory=list)
    """Bytes for each idle connection."""
    failure: str = ""
    """Why there is nothing, or nothing more."""
    note: str = ""

    @contextlib.contextmanager
    def noting_failure(self) -> Iterator[None]:
        """
        Do a step that may fail.
        """
        try:
            yield
        except FailedError as error:
            self.failure = str(error)

    def median(self, read: Callable[[Slice], float]) -> float | None:
        """
        Give the median of something over all rounds.
        """
        return statistics.median(map(read, self.slices)) if self.slices else None

    @property
    def rate(self) -> float | None:
        """
        Work for each second of processor time.
        """
        return self.median(_rate)

    @property
    def p50(self) -> float | None:
        """
        Microseconds from a request to its reply.
        """
        return self.median(_p50)

    @property
    def each(self) -> float | None:
        """
        Bytes for each idle connection.
        """
        return statistics.median(self.memory) if self.memory else None

    def against(self, other: Found) -> Ratio | None:
        """
        Compare it with another server, round by round.

        The ratio is of the work done; of the median times where those are looked at.
        """
        read = _p50 if self.load.by_time else _rate
        theirs = {one.round: read(one) for one in other.slices}
        ratios = [
            read(one) / theirs[one.round]
            for one in self.slices
            if theirs.get(one.round)
        ]
        if self.each and other.each:
            ratios = [self.each / other.each]
        return Ratio.of(ratios) if ratios else None


@attrs.define
class Bench:
    """
    Measures; tells somebody how far it is.
    """

    folder: Path
    """Where the C programs are."""
    effort: Effort
    progress: Callable[[str], Any]
    cores: Cores = attrs.field(factory=Cores.choose)
    buffer: int = _BUFFER
    """What datagram sockets ask for, in bytes."""

    def __attrs_post_init__(self) -> None:
        room = queue_room(self.buffer)
        if room < self.effort.datagrams:
            self.effort = attrs.evolve(self.effort, datagrams=room)

    def run(self, load: Load, servers: Sequence[Server]) -> list[Found]:
        """
        Measure all servers under a load.
        """
        return self.run_all([Found(server, load) for server in servers])

    def run_all(self, found: list[Found]) -> list[Found]:
        """
        Measure servers that may each have a load of their own.

        What fails is not measured any further, and says why.
        """
        for generation in range(self.effort.generations):
            good = [one for one in found if not one.failure]
            for one in good:
                if one.load.kind == "idle" and not generation:  # it hardly varies
                    self.progress(f"{one.load.key}: {one.server.name}")
                    with one.noting_failure():
                        self._idle(one)
            together = [one for one in good if one.load.kind != "idle"]
            self._generation(generation, together)
        return found

    def _generation(self, generation: int, found: Sequence[Found]) -> None:
        last = self.effort.generations * self.effort.rounds
        with contextlib.ExitStack() as stack:
            running = []
            for one in found:
                self.progress(f"{one.load.key}: starting {one.server.name}")
                with one.noting_failure():
                    running.append((one, *self.start(stack, one.server, one.load)))
            for turn in range(self.effort.rounds):
                number = generation * self.effort.rounds + turn
                for one, server, client in running:
                    if one.failure:
                        continue
                    self.progress(
                        f"{one.load.key}: round {number + 1} of {last}, "
                        f"{one.server.name}"
                    )
                    with one.noting_failure():
                        one.slices.append(self.slice(one.load, server, client, number))

    def start(
        self,
        stack: contextlib.ExitStack,
        server_of: Server,
        load: Load,
        extra: Sequence[str] = (),
    ) -> tuple[Program, Program]:
        """
        Start a server and its load, and let both warm up.

        Args:
            stack: what ends them.
            server_of: which server.
            load: which load.
            extra: further arguments of the server's program.

        Raises:
            FailedError: one of them does not work.
        """
        kind = socket.SOCK_DGRAM
        if load.kind in ("stream", "idle"):
            kind = socket.SOCK_STREAM
        port = free_port(kind)
        every = self.effort.datagrams if load.kind == "ingest" else 0
        command = server_of.command(self.folder, load, port, every, self.buffer)
        server = stack.enter_context(Program([*command, *extra], self.cores.server))
        _expect_ready(server, "the server")
        name, *words = load.command(port)
        client = stack.enter_context(
            Program([str(self.folder / name), *words], self.cores.load)
        )
        _expect_ready(client, "the load")
        if load.kind != "idle":
            self._warm_up(load, server, client)
        return server, client

    def _warm_up(self, load: Load, server: Program, client: Program) -> None:
        """
        Let a server see each message type at least once from each connection.
        """
        deadline = time.monotonic() + PATIENCE
        work = 0
        while work < load.warm and time.monotonic() < deadline:
            work += self.slice(load, server, client, -1, self.effort.warmup).work

    def slice(
        self,
        load: Load,
        server: Program,
        client: Program,
        number: int,
        seconds: float | None = None,
    ) -> Slice:
        """
        Load a server for a moment.

        Raises:
            FailedError: a reply was wrong, or did not come.
        """
        if load.kind == "ingest":
            return self._drain(server, client, number)
        seconds = self.effort.slice if seconds is None else seconds
        before = server.cpu()
        report = _measured(client, seconds)
        return Slice(
            number,
            report["work"],
            server.cpu() - before,
            report["seconds"],
            report["p50"],
            report["p99"],
        )

    def _drain(self, server: Program, client: Program, number: int) -> Slice:
        """
        Fill the queue of a server that is stopped, and let it empty that.
        """
        server.pause()
        try:
            _measured(client, self.effort.datagrams)
            before = server.cpu()
        finally:
            server.resume()
        start = time.monotonic()
        taken, last = map(int, server.line(PATIENCE).split())
        seconds, cpu = time.monotonic() - start, server.cpu() - before
        if taken % self.effort.datagrams or last != taken - 1:
            raise FailedError(f"of {taken} datagrams the last was number {last}")
        return Slice(number, self.effort.datagrams, cpu, seconds, 0.0, 0.0)

    def _idle(self, found: Found) -> None:
        with contextlib.ExitStack() as stack:
            server, client = self.start(stack, found.server, found.load)
            few = self.connect(client, 8)
            before = server.memory()
            asked = wanted = self.effort.connections
            if found.server.forks:
                asked = min(asked, _PROCESSES)
            many = self.connect(client, asked)
            if many < few + 10:
                raise FailedError(f"only {many} connections were made")
            if many < wanted:
                found.note = f"only {many} connections"
            found.memory.append((server.memory() - before) / (many - few))

    def connect(self, client: Program, wanted: int) -> int:
        """
        Let the load of idle connections have so many of them; say how many it has.

        Raises:
            FailedError: a reply was wrong.
        """
        made: int = _measured(client, wanted, _LONGEST, keeps=True)["work"]
        return made


def queue_room(buffer: int) -> int:
    """
    Say how many datagrams a socket can hold that asks for a buffer.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        enlarge(probe, buffer)
        granted = probe.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    return max(100, granted // _DATAGRAM_COST)


def _expect_ready(program: Program, name: str) -> None:
    line = program.line(PATIENCE)
    if line != "ready":
        raise FailedError(f"{name} said {line!r}")


def _measured(
    client: Program, amount: float, patience: float = PATIENCE, *, keeps: bool = False
) -> dict[str, Any]:
    """
    Let a load generator do something, and read its report.

    Args:
        client: the generator.
        amount: seconds, or how many datagrams or connections.
        patience: seconds that it may take.
        keeps: whether less than that is a result as well.

    Raises:
        FailedError: a reply was wrong, or did not come.
    """
    client.tell(str(amount))
    report: dict[str, Any] = json.loads(client.line(patience))
    if report["bad"]:
        raise FailedError(f"{report['bad']} of {report['work']} replies were wrong")
    if report["lost"] and not keeps:
        raise FailedError(f"{report['lost']} requests were not answered")
    return report
