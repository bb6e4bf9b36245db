"""
Whether a server's memory grows without an end.

A server that has just started grows: caches fill, pools come up to size, the allocator
keeps what it once had. So the first quarter of a run does not count, a step of any
size is forgiven, and only growth that goes on to the end is told.
"""

from __future__ import annotations

import itertools

import attrs

__all__ = ["Memory"]

_GROWTH = 12 << 20
"""Bytes that are no cause for concern."""
_SHARE = 0.15
"""As a part of what there was."""
_FEWEST = 6
"""Samples without which nothing is said."""


@attrs.define
class Memory:
    """
    Samples of one process's memory.
    """

    samples: list[tuple[int, int]] = attrs.field(factory=list)
    """The number of cases so far, and bytes."""

    def sample(self, cases: int, size: int | None) -> None:
        """
        Take note of a size.
        """
        if size is not None:
            self.samples.append((cases, size))

    def forget(self) -> None:
        """
        Begin anew, with another process.
        """
        self.samples.clear()

    def verdict(self) -> str | None:
        """
        Say what is wrong, if something is.
        """
        warm = self.samples[len(self.samples) // 4 :]
        if len(warm) < _FEWEST:
            return None
        (start, before), (end, after) = warm[0], warm[-1]
        grown = after - before
        if grown <= max(_GROWTH, _SHARE * before):
            return None
        # It has to go on: each third of the time takes its share.
        third = len(warm) // 3
        points = [warm[i][1] for i in (0, third, 2 * third, -1)]
        steps = [high - low for low, high in itertools.pairwise(points)]
        if min(steps) < grown / 6:
            return None
        each = grown / max(1, end - start)
        return (
            f"it grew from {before >> 20} MiB to {after >> 20} MiB in {end - start:,} "
            f"cases, {each:,.0f} bytes each"
        )
