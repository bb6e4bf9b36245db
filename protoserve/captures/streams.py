"""
One direction of a TCP connection, put in order.

Segments may come out of order, more than once, and overlapping; what came first is
kept. Where the capture lacks one, what is behind it waits: until it comes, or until
there is too much behind it, or it has waited too long, or the connection ends. Then
the hole is told as a `Gap`, and the stream goes on behind it.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

__all__ = ["MAX_WAITING", "Gap", "HalfStream"]

MAX_WAITING = 1 << 20
"""Bytes that wait behind a hole: more than most receivers' windows hold."""

MAX_SEGMENTS = 1024
"""Segments that wait."""

PATIENCE = 10.0
"""Seconds of the capture's own time that a hole is waited for."""

_WORD = 1 << 32


@attrs.frozen
class Gap:
    """
    Bytes that the capture does not have.
    """

    size: int


class HalfStream:
    """
    What one side of a connection has sent.
    """

    def __init__(self) -> None:
        self.started = False
        self.place = 0
        """Bytes given out so far, gaps included."""
        self.waiting = 0
        """Bytes that wait behind a hole."""
        self._next = 0
        """The sequence number that follows what was given out."""
        self._behind: dict[int, bytes] = {}
        """What waits, by how many bytes it is ahead of the stream's start."""
        self._since = 0.0
        self._end: int | None = None
        """Where the sender has said that it ends."""

    @property
    def ended(self) -> bool:
        """
        Whether all was given out that the sender has had to say.
        """
        return self._end is not None and self.place >= self._end

    def start(self, sequence: int) -> None:
        """
        Begin with the byte of this number, where that is known (SYN).
        """
        if not self.started:
            self.started = True
            self._next = sequence % _WORD

    def take(
        self, sequence: int, data: bytes, missing: int, time: float, *, last: bool
    ) -> Iterator[bytes | Gap]:
        """
        Take a segment.

        Args:
            sequence: the number of its first byte.
            data: its bytes; may be empty.
            missing: bytes behind them that the capture has cut off.
            time: when it was captured, in seconds.
            last: whether it says that the sender has finished (FIN).

        Returns:
            The bytes that are in order now, piece by piece, and gaps.
        """
        self.start(sequence)
        ahead = (sequence - self._next + _WORD // 2) % _WORD - _WORD // 2
        at = self.place + ahead
        if last:
            self._end = at + len(data) + missing
        if data or missing:
            yield from self._put(at, data, missing, time)
        if self.waiting and (
            self.waiting > MAX_WAITING
            or len(self._behind) > MAX_SEGMENTS
            or time - self._since > PATIENCE
        ):
            yield from self.give_up()

    def _put(
        self, at: int, data: bytes, missing: int, time: float
    ) -> Iterator[bytes | Gap]:
        if at > self.place:
            if not self._behind:
                self._since = time
            known = self._behind.get(at, b"")
            if len(data) > len(known):
                self._behind[at] = data
                self.waiting += len(data) - len(known)
            return
        fresh = data[self.place - at :]
        if fresh:
            yield self._given(fresh)
            yield from self._drain()
        lacking = at + len(data) + missing - self.place
        if missing and lacking > 0:
            yield self._skipped(lacking)
            yield from self._drain()

    def _given(self, data: bytes) -> bytes:
        self.place += len(data)
        self._next = (self._next + len(data)) % _WORD
        return data

    def _skipped(self, size: int) -> Gap:
        self.place += size
        self._next = (self._next + size) % _WORD
        return Gap(size)

    def _drain(self) -> Iterator[bytes]:
        """
        Give what waited for what was given just now.
        """
        while self._behind:
            at = min(self._behind)
            if at > self.place:
                return
            data = self._behind.pop(at)
            self.waiting -= len(data)
            fresh = data[self.place - at :]
            if fresh:
                yield self._given(fresh)

    def give_up(self) -> Iterator[bytes | Gap]:
        """
        Go on behind the holes that there are.
        """
        while self._behind:
            yield self._skipped(min(self._behind) - self.place)
            yield from self._drain()
