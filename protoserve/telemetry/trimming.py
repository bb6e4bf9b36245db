"""
Giving memory back that is free.

What waits in queues during a burst leaves holes between what is there to stay. The C
library keeps these for itself, as its thresholds are about the end of a heap only, so a
collector would stay as large as it was in its worst second: of 267 MiB after a storm, 60
were free. Looking for them takes some milliseconds, so it is done now and then.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

__all__ = ["give_back"]


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
