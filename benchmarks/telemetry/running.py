"""
Receivers on one core, a sender on another, and what became of what was sent.

What a receiver did not get is what the kernel says that it dropped at its socket, for
receivers in C and ours alike; what it then lost by itself it has to say at the end.
Processor time is taken between moments at which a receiver has nothing more to do: its
queue is empty, it is quiet, and a collector says that its sinks have everything.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmarks.server.measure import PATIENCE
from benchmarks.server.processes import Cores, FailedError, Program, free_port

BUFFER = 32 << 20
"""Bytes that every socket that receives flows asks for, as collectors do by default."""
_LOOK = 0.05
_QUIET = 0.15
"""Seconds of quiet after which a receiver has nothing more to do."""


@attrs.frozen
class Load:
    """
    What is sent.
    """

    file: Path
    """The datagrams, see `write`."""
    offset: int = 0
    """Where their number is, a u32."""
    step: int = 0
    """By how much that grows from one to the next; 0: not at all."""
    sources: int = 0
    """How many senders there seem to be."""
    first: int = 0x7F010000
    """The address of the first of these."""

    @classmethod
    def write(cls, file: Path, datagrams: Sequence[bytes], **options: int) -> Load:
        """
        Write datagrams for the sender.
        """
        file.write_bytes(b"".join(struct.pack("=I", len(d)) + d for d in datagrams))
        return cls(file, **options)


@attrs.frozen
class Receiver:
    """
    A program that takes datagrams.
    """

    name: str
    command: Callable[[Path, int], Sequence[str]]
    """Makes its command line, with a folder of its own and a port."""
    count: Callable[[Path], int] | None = None
    """Reads how many datagrams it says that it has kept, after its end."""
    is_done: Callable[[Path, float], bool] | None = None
    """Says whether all is where it belongs that came before a moment."""
    side: str = "ours"


@attrs.frozen
class Slice:
    """
    What a receiver did with one load.
    """

    round: int
    sent: int
    kept: int
    cpu: float
    """Seconds of processor time."""
    seconds: float
    """For which was sent."""

    @property
    def each(self) -> float:
        """
        Microseconds of processor time for each datagram that was kept.
        """
        return self.cpu / max(self.kept, 1) * 1e6

    @property
    def share(self) -> float:
        """
        Which part was kept.
        """
        return self.kept / self.sent


@attrs.define(eq=False)
class Running:
    """
    A receiver that runs, and what it has done.
    """

    receiver: Receiver
    program: Program
    port: int
    folder: Path
    sent: int = 0
    dropped: int = 0
    slices: list[Slice] = attrs.field(factory=list)
    memory: int = 0
    """The most bytes that it had."""
    failure: str = ""

    @property
    def name(self) -> str:
        return self.receiver.name

    def median(self, read: Callable[[Slice], float]) -> float:
        """
        Give the median of something over all rounds.
        """
        return statistics.median(map(read, self.slices)) if self.slices else 0.0

    def against(
        self, other: Running, read: Callable[[Slice], float]
    ) -> Sequence[float]:
        """
        Compare it with another, round by round.
        """
        theirs = {one.round: read(one) for one in other.slices}
        return [
            read(one) / theirs[one.round]
            for one in self.slices
            if theirs.get(one.round)
        ]


@attrs.define
class Bench:
    """
    Starts receivers, and sends.
    """

    folder: Path
    """Where the C programs and the loads are."""
    progress: Callable[[str], Any]
    cores: Cores = attrs.field(factory=Cores.choose)

    def start(self, stack: contextlib.ExitStack, receiver: Receiver) -> Running:
        """
        Start a receiver; `stack` ends it.

        Raises:
            FailedError: it does not begin to listen.
        """
        self.progress(f"starting {receiver.name}")
        port = free_port(socket.SOCK_DGRAM)
        folder = self.folder / f"receiver-{port}"
        folder.mkdir()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        # What it says goes to a file: nobody reads along.
        words = map(str, receiver.command(folder, port))
        command = ["sh", "-c", 'exec "$0" "$@" >' + str(folder / "said"), *words]
        program = stack.enter_context(Program(command, self.cores.server))
        running = Running(receiver, program, port, folder)
        deadline = time.monotonic() + PATIENCE
        while queue_of(port) is None:
            if program.process.poll() is not None or time.monotonic() > deadline:
                raise FailedError(program.why("does not listen"))
            time.sleep(_LOOK)
        return running

    def send(
        self, running: Running, load: Load, rate: float, count: int
    ) -> tuple[int, float]:
        """
        Send datagrams to a receiver.

        Returns:
            How many there were, and in how many seconds.

        Raises:
            FailedError: the sender did not do so.
        """
        words = [running.port, rate, count, load.file, load.offset, load.step]
        words += [load.sources, load.first]
        core = self.cores.load
        done = subprocess.run(
            [str(self.folder / "send"), *map(str, words)],
            capture_output=True,
            text=True,
            timeout=PATIENCE * 10,
            check=False,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        if done.returncode:
            raise FailedError(f"the sender failed: {done.stderr.strip()}")
        sent, seconds = done.stdout.split()
        return int(sent), float(seconds)

    def slice(
        self, running: Running, load: Load, rate: float, count: int, number: int
    ) -> Slice:
        """
        Load a receiver once.

        Raises:
            FailedError: it has ended, or does not come to rest.
        """
        before = self._dropped(running)
        began = running.program.cpu()
        sent, seconds = self.send(running, load, rate, count)
        self.settle(running)
        dropped = self._dropped(running) - before
        running.sent += sent
        running.dropped += dropped
        cpu = running.program.cpu() - began
        return Slice(number, sent, sent - dropped, cpu, seconds)

    def _dropped(self, running: Running) -> int:
        found = queue_of(running.port)
        if found is None:
            raise FailedError(running.program.why("does not listen any more"))
        return found[1]

    def settle(self, running: Running) -> None:
        """
        Wait until a receiver has nothing more to do.

        Raises:
            FailedError: it always has.
        """
        since, deadline = time.time(), time.monotonic() + 4 * PATIENCE
        quiet_since = time.monotonic()
        seen = running.program.cpu()
        is_done = running.receiver.is_done or (lambda *_: True)
        while time.monotonic() - quiet_since < _QUIET or not is_done(
            running.folder, since
        ):
            time.sleep(_LOOK)
            found, cpu = queue_of(running.port), running.program.cpu()
            # Looking after its clocks takes a receiver less than this.
            if found is None or found[0] or cpu - seen > 0.1 * _LOOK:
                quiet_since = time.monotonic()
            seen = cpu
            if time.monotonic() > deadline:
                raise FailedError(running.program.why("does not come to rest"))

    def end(self, running: Running) -> None:
        """
        End a receiver, and compare what it says with what it was given.

        Raises:
            FailedError: they are not the same.
        """
        running.memory = peak(running.program)
        process = running.program.process
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(2 * PATIENCE)
        except subprocess.TimeoutExpired:
            raise FailedError("it does not end") from None
        if running.receiver.count is None:
            return
        kept = running.receiver.count(running.folder)
        given = running.sent - running.dropped
        if kept != given:
            raise FailedError(f"it was given {given} datagrams, and has kept {kept}")


def queue_of(port: int) -> tuple[int, int] | None:
    """
    Give the bytes in the queue of a socket, and what the kernel has dropped there.
    """
    wanted = f":{port:04X}"
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        words = line.split()
        if words[1].endswith(wanted):
            return int(words[4].partition(":")[2], 16), int(words[-1])
    return None


def peak(program: Program) -> int:
    """
    Give the most bytes of memory that a program had.
    """
    return _status(program, "VmHWM")


def resident(program: Program) -> int:
    """
    Give the bytes of memory that a program has.
    """
    return _status(program, "VmRSS")


def _status(program: Program, name: str) -> int:
    for line in Path(f"/proc/{program.pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0
