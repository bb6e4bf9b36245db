"""
What a stream connection has to do by when.
"""

from __future__ import annotations

import math

from protoserve.limits import Limits

__all__ = ["GOODBYE", "GOOD_PART", "MOST_PUSHED", "Deadlines"]

GOODBYE = 0.5
"""Seconds that a peer has to close its side after we have closed ours."""
GOOD_PART = 32 * 1024
"""Bytes that a peer has to take within the write limit, if that much waits."""
MOST_PUSHED = 16
"""How many times the write buffer may wait for a peer, if coroutines push ever more:
they cannot be made to wait."""


class Deadlines:
    """
    The moments that a connection's limits count from, in monotonic seconds.

    Args:
        now: when the connection was made.
    """

    __slots__ = ("_frame_started_at", "_frames", "_last_frame_at", "_opened_at")

    def __init__(self, now: float) -> None:
        self._opened_at = self._last_frame_at = now
        self._frame_started_at: float | None = None
        self._frames = 0

    def after_read(self, frames: int, buffered: int, now: float) -> None:
        """
        Take note of what came, when all whole frames have been handled.

        Args:
            frames: how many there have been in all.
            buffered: bytes of an unfinished one; its time is not renewed by them.
            now: the present.
        """
        if frames != self._frames:
            self._frames = frames
            self._frame_started_at = None
        if not buffered:
            self._frame_started_at = None
            self._last_frame_at = now
        elif self._frame_started_at is None:
            self._frame_started_at = now

    def next(self, limits: Limits) -> tuple[str, float, float | None]:
        """
        Find what ends the wait for bytes first.

        Returns:
            The limit's name, since when it counts, and its seconds; `None` if nothing
            ends it.
        """
        if self._frame_started_at is not None:
            running = [("frame", self._frame_started_at, limits.frame)]
        else:
            running = [("idle", self._last_frame_at, limits.idle)]
        if not self._frames:
            running.insert(0, ("first_frame", self._opened_at, limits.first_frame))
        return min(running, key=lambda r: math.inf if r[2] is None else r[1] + r[2])
