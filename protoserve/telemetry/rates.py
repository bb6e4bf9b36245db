"""
How much one exporter may send.

Each has a bucket of tokens, one a datagram, that fills at the rate and holds a second's
worth. What exceeds it is dropped before it costs anything more. Exporters that are silent
for a while have a full bucket, so they need not be remembered; a flood of them is not.
"""

from __future__ import annotations

import numpy as np

from protoserve.telemetry.tables import Frames

__all__ = ["Rates"]

_MOST = 100_000


class Rates:
    """
    Keeps exporters to a rate.

    Args:
        per_second: datagrams.
    """

    def __init__(self, per_second: float) -> None:
        self._rate = per_second
        self._most = max(1.0, per_second)
        self._buckets: dict[str, tuple[float, float]] = {}
        """By exporter: tokens, and when that was."""

    def keep(self, frames: Frames, now: float) -> Frames | None:
        """
        Take out what is too much.

        Args:
            frames: what has come.
            now: seconds, on any clock that does not go back.

        Returns:
            What may stay; `None` if all may.
        """
        counts = np.bincount(frames.senders, minlength=len(frames.exporters))
        allowed = counts.copy()
        for place, peer in enumerate(frames.exporters):
            tokens, before = self._buckets.pop(peer.host, (self._most, now))
            tokens = min(self._most, tokens + (now - before) * self._rate)
            taken = min(int(counts[place]), int(tokens))
            self._buckets[peer.host] = tokens - taken, now
            allowed[place] = taken
        while len(self._buckets) > _MOST:
            del self._buckets[next(iter(self._buckets))]
        if (allowed == counts).all():
            return None
        # Which of its exporter's datagrams each is, counted from 0.
        order = np.argsort(frames.senders, kind="stable")
        firsts = np.cumsum(counts) - counts
        ranks = np.empty(len(frames), "i8")
        ranks[order] = np.arange(len(frames)) - firsts[frames.senders[order]]
        kept = ranks < allowed[frames.senders]
        return Frames(
            frames.data,
            frames.starts[kept],
            frames.lengths[kept],
            frames.times[kept],
            frames.senders[kept],
            frames.exporters,
        )
