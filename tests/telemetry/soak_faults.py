"""
What goes wrong in a soak, and how it is told which process is which.

Each fault lasts a second or two and ends with everything as it was, so that whatever is
still wrong afterwards is the collector's doing.
"""

import contextlib
import os
import signal
import time
from pathlib import Path

from tests.service.kit import until

PATIENCE = 60.0
_LASTS = 1.5
"""Seconds of a fault."""


def members(session):
    """
    Give the processes of a session, by its leader's number; the dead ones not.
    """
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(int(path.parent.name))
    return sorted(found)


def resident(pid):
    """
    Say how many MiB of memory a process has; 0 if it is gone.
    """
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / (1 << 20)
    return 0.0


def holding(session, name):
    """
    Give the processes of a session that have a file of this ending open.
    """
    found = []
    for pid in members(session):
        with contextlib.suppress(OSError):
            for path in Path(f"/proc/{pid}/fd").iterdir():
                if str(path.readlink()).endswith(name):
                    found.append(pid)
                    break
    return found


def _kill(station, name):
    """
    Kill one of the processes that have a file open, and wait for its successor.
    """
    session = station.running.process.pid
    found = []

    def look():
        found[:] = [each for each in holding(session, name) if each != session]
        return found

    until(look, PATIENCE)
    victim = found[int(time.monotonic() * 1000) % len(found)]
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in members(session), PATIENCE)
    until(lambda: len(members(session)) >= 4, PATIENCE)


def kill_receiver(station):
    station.kills += 1
    _kill(station, "writer.lock")


def kill_deliverer(station):
    _kill(station, ".floor")


def kill_server(station):
    station.server.kill()
    time.sleep(_LASTS)
    station.server.start()
    assert station.server.wait(), station.server.output.read_text()


def fill_disk(station):
    """
    Leave no byte of a disk, then all.
    """
    (disk,) = station.disks
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    time.sleep(_LASTS)
    ballast.unlink()


def flood(station):
    station.load.flood(5000)


def pause(station):
    """
    Have no process run, so that the kernel has to drop.
    """
    pids = members(station.running.process.pid)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    station.load.burst(20_000)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


FAULTS = {
    "a receiving process is killed": (kill_receiver, lambda _: True),
    "the delivering process is killed": (kill_deliverer, lambda _: True),
    "a store's server is killed": (kill_server, lambda s: s.server is not None),
    "a disk is full": (fill_disk, lambda s: bool(s.disks)),
    "a flood of what is no message": (flood, lambda _: True),
    "nothing runs for a while": (pause, lambda _: True),
}
"""What may be inflicted on a station, and on which."""
