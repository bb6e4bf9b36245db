"""
Start programs on a core of their own, ask what they cost, and end them.

Processor time is read from the processes' own clocks, in nanoseconds, and from the
kernel's account of children that have ended, in its ticks; memory is the share of
each page that is a process's own. A program is asked for nothing.

Everything is started in a process group of its own and ended with it, children
included; should this process be killed, the kernel ends what it has started.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Self

import attrs

TICK = 1 / os.sysconf("SC_CLK_TCK")
ROOT = Path(__file__).parents[2]
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


class FailedError(Exception):
    """
    A server or a load generator did not do what it has to.
    """


@attrs.frozen
class Cores:
    """
    Where servers run, and where the load does.
    """

    server: int
    load: int

    @classmethod
    def choose(cls) -> Cores:
        """
        Take the first two cores that this process may use.
        """
        mine = sorted(os.sched_getaffinity(0))
        return cls(mine[0], mine[1] if len(mine) > 1 else mine[0])


def prepare() -> None:
    """
    Make this process one that starts servers.

    The number of open files is raised to what is allowed, also for what is started,
    and what a server leaves behind becomes a child of this process, which ends it.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 65_536 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def free_port(kind: int) -> int:
    """
    Find a port that nobody uses.
    """
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Program:
    """
    A running program that is spoken to by lines.

    Args:
        command: what to run.
        core: where; `None` for anywhere.
    """

    def __init__(self, command: Sequence[str], core: int | None = None) -> None:
        libc = ctypes.CDLL(None)

        def begin() -> None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTS)
            if core is not None:
                os.sched_setaffinity(0, {core})

        self._errors: IO[bytes] = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - `stop` closes it
        # What the process writes is to stand at the end, wherever we have read last.
        fcntl.fcntl(self._errors, fcntl.F_SETFL, os.O_APPEND)
        self._lines = b""
        # An interrupt in the middle of this would leave a process that nobody knows.
        signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)
        try:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                cwd=ROOT,
                preexec_fn=begin,  # noqa: PLW1509 - this process has one thread
                start_new_session=True,
            )
            _running.add(self)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """
        The process's number, which is its group's as well.
        """
        return self.process.pid

    def tell(self, line: str) -> None:
        """
        Write a line to its input.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            raise FailedError(self.why("has ended")) from None

    def line(self, patience: float) -> str:
        """
        Read a line of its output.

        Args:
            patience: seconds to wait for it.

        Raises:
            FailedError: there was none.
        """
        assert self.process.stdout is not None
        deadline = time.monotonic() + patience
        descriptor = self.process.stdout.fileno()
        while b"\n" not in self._lines:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise FailedError(self.why(f"said nothing for {patience:g} s"))
            data = os.read(descriptor, 4096)
            if not data:
                raise FailedError(self.why("has ended"))
            self._lines += data
        line, _, self._lines = self._lines.partition(b"\n")
        return line.decode()

    def why(self, what: str) -> str:
        """
        Say what is wrong, with the last line of its errors.
        """
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        return f"it {what}" + (f": {last.strip()}" if last else "")

    def pause(self) -> None:
        """
        Stop it and its children, until `resume`.
        """
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """
        Let it go on.
        """
        os.killpg(self.pid, signal.SIGCONT)

    def cpu(self) -> float:
        """
        Give the processor seconds that it has used, children included.
        """
        total = 0.0
        for pid in self.tree():
            with contextlib.suppress(OSError, IndexError):
                total += time.clock_gettime((~pid << 3) | 2)
                stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += (int(stat[13]) + int(stat[14])) * TICK
        return total

    def memory(self) -> int:
        """
        Give the bytes of memory that are its own, children included.

        A page that several processes have counts for each in part.
        """
        total = 0
        for pid in self.tree():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().split("\n"):
                    if line.startswith("Pss:"):
                        total += int(line.split()[1]) * 1024
        return total

    def tree(self) -> list[int]:
        """
        Give its number and those of its children, and theirs.
        """
        found = [self.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    found += map(int, (task / "children").read_text().split())
        return found

    def stop(self) -> None:
        """
        End it and its children.
        """
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        with contextlib.suppress(ChildProcessError):
            while True:  # its children, if they have become ours
                os.waitpid(-self.pid, 0)
        _running.discard(self)
        for pipe in (self.process.stdin, self.process.stdout, self._errors):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]


_running: set[Program] = set()


def end_all() -> None:
    """
    End every program that runs, whoever has started it here.
    """
    for program in list(_running):
        program.stop()


def python(*words: Any) -> list[str]:
    """
    Give the command that runs a module with this interpreter.
    """
    return [sys.executable, "-m", *map(str, words)]
