"""
What a stream connection has to do by when.
"""

from __future__ import annotations

import math

from protoserve.limits import Limits

__all__ = ["Deadlines"]


class Deadlines:
    """
    The moments that a connection's limits count from, in monotonic seconds.

    Args:
        now: when the connection was made.
    """

    __slots__ = ("_frame_started_at", "_had_frame", "_last_frame_at", "_opened_at")

    def __init__(self, now: float) -> None:
        self._opened_at = self._last_frame_at = now
        self._frame_started_at: float | None = None
        self._had_frame = False

    def frame_done(self) -> None:
        """
        Take note of a whole frame.
        """
        self._had_frame = True
        self._frame_started_at = None

    def after_read(self, buffered: int, now: float) -> None:
        """
        Take note of what is left when all whole frames have been handled.

        Args:
            buffered: bytes of an unfinished frame; its time is not renewed by them.
            now: the present.
        """
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
        if not self._had_frame:
            running.insert(0, ("first_frame", self._opened_at, limits.first_frame))
        return min(running, key=lambda r: math.inf if r[2] is None else r[1] + r[2])
