"""
Counts that several processes share.

Whoever serves by forking counts in its children, and wants to read the sum. So before
a process forks, its counts move to memory that it has in common with its children.
Nothing is shared, and no descriptor is needed, until then.

A child may be killed at any moment, also while it counts. The lock between processes
is therefore one that the kernel takes back, that of a file; threads of one process
have a lock of their own besides.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

try:
    import fcntl
except ImportError:  # not a Unix system, so nothing forks
    fcntl = None  # type: ignore[assignment]

__all__ = ["AmongProcesses", "Tally"]


class AmongProcesses:
    """
    A lock between processes, that the kernel takes back from one that is killed.

    It locks nothing until it is shared; without a descriptor counts may be wrong.
    """

    def __init__(self) -> None:
        self._file: int | None = None

    def share(self) -> None:
        """
        Have it in common with all processes that are forked from now on.
        """
        if self._file is not None or fcntl is None:
            return
        if hasattr(os, "memfd_create"):
            self._file = os.memfd_create("protoserve")
        else:
            with tempfile.TemporaryFile(buffering=0) as made:
                self._file = os.dup(made.fileno())

    def __enter__(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._file, fcntl.LOCK_EX)

    def __exit__(self, *exc_info: object) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._file, fcntl.LOCK_UN)

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)


class Tally(MutableMapping[str, int]):
    """
    Counts by name; what has not been counted is 0, and is not there.

    Args:
        names: everything that may be counted.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._places = {name: place for place, name in enumerate(names)}
        self._counts: Any = [0] * len(self._places)
        self._shared = False
        self._among = AmongProcesses()
        self.make_private()

    def __repr__(self) -> str:
        return f"Tally({dict(self)})"

    def make_private(self) -> None:
        """
        Make the lock anew, in a child: a thread that is not there may hold it.
        """
        self._lock = threading.Lock()

    def add(self, name: str, number: int = 1) -> None:
        """
        Count, in whichever thread and process.
        """
        with self._lock, self._among:
            self._counts[self._places[name]] += number

    def share(self) -> None:
        """
        Have the counts in common with all processes that are forked from now on.
        """
        if self._shared or fcntl is None:
            return
        with self._lock:
            self._among.share()
            shared = memoryview(mmap.mmap(-1, 8 * len(self._places))).cast("Q")
            for place, count in enumerate(self._counts):
                shared[place] = count
            self._counts, self._shared = shared, True

    def __getitem__(self, name: str) -> int:
        place = self._places.get(name)
        return 0 if place is None else int(self._counts[place])

    def __setitem__(self, name: str, count: int) -> None:
        with self._lock:
            self._counts[self._places[name]] = count

    def __delitem__(self, name: str) -> None:
        self[name] = 0

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._places if self[name])

    def __len__(self) -> int:
        return sum(1 for _ in self)
