"""
An account of every datagram: ``received = delivered + dropped + in flight``.

Each process that receives has a slot of its own, in memory that all of them share since
before they were forked. So nobody waits for anybody, the sum can be read at any time, and
what a process has counted outlives it: when one is killed, what it had in hand is known,
and counted as dropped.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Mapping

import attrs

__all__ = ["REASONS", "Account", "Balance"]

REASONS = (
    "kernel",
    "truncated",
    "malformed",
    "template",
    "queue",
    "rate",
    "sink",
    "killed",
)
"""
Why datagrams are dropped: the kernel's queue was full; it was longer than what is taken;
it is no message; its template never came; a queue of ours was full; its sender exceeded a
limit; no store took it; the process that had it was killed.
"""

_NAMES = ("received", "delivered", "handed_over", *REASONS)
_WIDTH = len(_NAMES)
_PLACES = {name: place for place, name in enumerate(_NAMES)}


@attrs.frozen
class Balance:
    """
    The account at one moment, in datagrams.
    """

    received: int
    """All that came, those included that the kernel dropped."""
    delivered: int
    """Those whose rows are where they should go."""
    dropped: Mapping[str, int]
    """By reason; all of `REASONS` are there."""

    @property
    def in_flight(self) -> int:
        """
        Those that are neither delivered nor dropped yet.
        """
        return self.received - self.delivered - sum(self.dropped.values())


class Account:
    """
    Counts datagrams, in any number of processes.

    Args:
        slots: how many processes count at most.
    """

    def __init__(self, slots: int = 1) -> None:
        self._slots = slots
        # Shared with all processes that are forked from now on; it needs no descriptor.
        self._memory = mmap.mmap(-1, slots * _WIDTH * 8)
        self._counts = memoryview(self._memory).cast("q")
        self.use(0)

    def __repr__(self) -> str:
        return f"<Account {self.balance()}>"

    def use(self, slot: int) -> None:
        """
        Count in a slot, which is nobody else's from now on.
        """
        if not 0 <= slot < self._slots:
            raise IndexError(
                f"there are {self._slots} slots, and none is number {slot}"
            )
        self._base = slot * _WIDTH
        self._lock = threading.Lock()

    def _add(self, name: str, number: int) -> None:
        with self._lock:
            self._counts[self._base + _PLACES[name]] += number

    def receive(self, number: int = 1) -> None:
        """
        Count datagrams that have come.
        """
        self._add("received", number)

    def deliver(self, number: int = 1) -> None:
        """
        Count datagrams that are where they should go.
        """
        self._add("delivered", number)

    def drop(self, reason: str, number: int = 1) -> None:
        """
        Count datagrams that were received and are dropped, for one of `REASONS`.
        """
        self._add(reason, number)

    def lose(self, reason: str, number: int = 1) -> None:
        """
        Count datagrams that were dropped before they could be received.
        """
        with self._lock:
            self._counts[self._base] += number
            self._counts[self._base + _PLACES[reason]] += number

    def hand_over(self, number: int = 1) -> None:
        """
        Count datagrams that another process has now, or the disk.
        """
        self._add("handed_over", number)

    def bury(self, slot: int) -> int:
        """
        Count as dropped what a process had in hand when it was killed.

        Returns:
            How many those were.
        """
        base = slot * _WIDTH
        counts = self._counts[base : base + _WIDTH].tolist()
        lost: int = counts[0] - sum(counts[1:])
        if lost > 0:
            self._counts[base + _PLACES["killed"]] += lost
        return max(0, lost)

    def balance(self) -> Balance:
        """
        Give the sums over all processes.
        """
        # What is received is read last, so that nothing is delivered before it came.
        sums = {
            name: sum(self._counts[place::_WIDTH])
            for name, place in reversed(_PLACES.items())
        }
        dropped = {reason: sums[reason] for reason in REASONS}
        return Balance(sums["received"], sums["delivered"], dropped)
