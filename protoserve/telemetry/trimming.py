"""
Giving memory back that is free.

What waits in queues during a burst leaves holes between what is there to stay. The C
library keeps these for itself, as its thresholds are about the end of a heap only, so a
collector would stay as large as it was in its worst second: of 267 MiB after a storm, 60
were free. Arrow has a pool of its own, and each thread's part of it. Looking for what is
free takes some milliseconds, so it is done now and then.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable

__all__ = ["Trimmer", "give_back"]

_IDLE = 1.0
_BUSY = 10.0
"""Seconds between two times, while there is nothing to do and while there is."""


def _trim() -> Callable[[int], object]:
    """
    Find the function of glibc's; others have none.
    """
    try:
        found: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return bool
    return found


_trimmed = _trim()


def give_back() -> None:
    """
    Give the system what is free; other threads go on meanwhile.
    """
    _trimmed(0)
    if "pyarrow" in sys.modules:
        import pyarrow as pa  # waits, if another thread is at it

        pa.default_memory_pool().release_unused()


class Trimmer:
    """
    Gives memory back behind a thread's work.
    """

    def __init__(self) -> None:
        self._is_used = False
        self._last = time.monotonic()

    def after(self, *, worked: bool) -> None:
        """
        Give back what is free, now and then, if there was work since the last time.

        Args:
            worked: whether there was just now; else more is not expected soon.
        """
        self._is_used = self._is_used or worked
        now = time.monotonic()
        if self._is_used and now - self._last >= (_BUSY if worked else _IDLE):
            self._is_used, self._last = False, now
            give_back()
