"""
How much one exporter may send.

Each has a bucket of tokens, one a datagram, that fills at the rate and holds a second's
worth. What exceeds it is dropped before it costs anything more. Of a bucket it is kept
when it will be full: what is full already need not be remembered. When too many are not,
as in a flood of made-up senders, those are forgotten that are nearest to it: whoever sends
too much is remembered.
"""

from __future__ import annotations

import numpy as np

from protoserve.telemetry.tables import Frames

__all__ = ["Rates"]

_MOST = 32_768
"""Exporters that are remembered: more than can send anything within a second."""
_NEAR = 1e-6
"""Tokens that are lost to rounding."""


class Rates:
    """
    Keeps exporters to a rate.

    Args:
        per_second: datagrams.
    """

    def __init__(self, per_second: float) -> None:
        self._rate = per_second
        self._most = max(1.0, per_second)
        self._full: dict[str, float] = {}
        """By exporter: when its bucket is full."""

    def __len__(self) -> int:
        return len(self._full)

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
            full = max(now, self._full.get(peer.host, now))
            tokens = self._most - (full - now) * self._rate + _NEAR
            taken = min(int(counts[place]), int(tokens))
            self._full[peer.host] = full + taken / self._rate
            allowed[place] = taken
        if len(self._full) > _MOST:
            self._forget(now)
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

    def _forget(self, now: float) -> None:
        """
        Leave out buckets that are full, and make room for as many again.
        """
        left = [each for each in self._full.items() if each[1] > now]
        left.sort(key=lambda each: each[1])
        self._full = dict(left[-_MOST // 2 :])
