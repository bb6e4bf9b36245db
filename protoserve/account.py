"""
An account of every datagram: ``received = delivered + dropped + in flight``.

Each process that receives has a slot of its own, in memory that all of them share since
before they were forked. So nobody waits for anybody, the sum can be read at any time, and
what a process has counted outlives it: when one is killed, what it had in hand is known,
and counted as dropped.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Iterable, Mapping

import attrs

from protoserve.tally import AmongProcesses

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

_MOST_WORKERS = 64
"""Processes whose datagrams are accounted for each by itself."""
_LIVES = 4
"""How many processes of one number there may be at a time, while they are replaced."""
_FATES = ("received", "delivered", "handed_over", *REASONS)


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


class _Handling:
    """
    Some datagrams, while they are handled. Not a generator: that takes twice as long.
    """

    __slots__ = ("_account", "_number", "_outer")

    def __init__(self, account: Account, number: int) -> None:
        self._account = account
        self._number = number

    def __enter__(self) -> None:
        account = self._account
        account.receive(self._number)
        aside = account._aside
        self._outer = getattr(aside, "count", None)
        aside.count = 0

    def __exit__(self, *exc_info: object) -> None:
        account = self._account
        aside = account._aside
        left = self._number - aside.count
        aside.count = self._outer
        if left:
            account.deliver(left)


class Account:
    """
    Counts datagrams, in any number of processes.

    Args:
        others: names of whatever else is counted in the same way.
    """

    def __init__(self, others: Iterable[str] = ()) -> None:
        self._slots = slots = 1 + _MOST_WORKERS * _LIVES
        names = (*_FATES, *others)
        self._width = len(names)
        self._places = {name: place for place, name in enumerate(names)}
        # Shared with all processes that are forked from now on; it needs no descriptor.
        self._memory = mmap.mmap(-1, slots * self._width * 8)
        self._counts = memoryview(self._memory).cast("q")
        self._owners = memoryview(mmap.mmap(-1, slots * 8)).cast("q")
        """The process ids of those who count."""
        self._among = AmongProcesses()
        self._write: Callable[[int, bytes], object] | None = None
        self._use(0)

    def __repr__(self) -> str:
        return f"<Account {self.balance()}>"

    @property
    def names(self) -> tuple[str, ...]:
        """
        All that is counted, in the order of the counts.
        """
        return tuple(self._places)

    def copy_to(self, write: Callable[[int, bytes], object]) -> None:
        """
        Have all counts written somewhere else too, now and whenever some change.

        Args:
            write: takes the place, and the bytes that are there now: for each process
                that counts, its counts by `names`, as native 64-bit integers.
        """
        write(0, self._counts.tobytes())
        self._write = write

    def join(self, worker: int, handed_over: int | None = None) -> None:
        """
        Count as one of several processes, which are numbered from 0.

        The one that had the number before may still be at work.

        Args:
            worker: the process's number.
            handed_over: how many datagrams those of this number have handed over, by
                the books of whoever has them now; one that was killed may not have
                counted the last.
        """
        first = 1 + worker % _MOST_WORKERS * _LIVES
        for slot in range(first, first + _LIVES):
            if not (self._owners[slot] and _is_alive(self._owners[slot])):
                break
        was_buried = not self._owners[slot]
        if handed_over is not None:
            place = self._places["handed_over"]
            known = self._counts[
                first * self._width + place : (first + _LIVES)
                * self._width : self._width
            ]
            more = handed_over - sum(known)
            self._counts[slot * self._width + place] += more
            if was_buried:  # then they were taken for lost
                self._counts[slot * self._width + self._places["killed"]] -= more
            self._copy(slot)
        if not was_buried:
            self._bury(slot)
        self._owners[slot] = os.getpid()
        self._among = AmongProcesses()  # nobody else counts there
        self._use(slot)

    def share(self) -> None:
        """
        Have processes that are forked from now on count in the same place as this one.
        """
        self._among.share()

    def _use(self, slot: int) -> None:
        self._base = slot * self._width
        self.make_private()

    def make_private(self) -> None:
        """
        Make the lock anew, in a child: a thread that is not there may hold it.
        """
        self._lock = threading.Lock()
        self._aside = threading.local()

    def add(self, name: str, number: int = 1, also: str | None = None) -> None:
        """
        Count something by its name, and something else at the same moment.
        """
        with self._lock, self._among:
            self._counts[self._base + self._places[name]] += number
            if also is not None:
                self._counts[self._base + self._places[also]] += number
            if self._write is not None:
                self._copy(self._base // self._width)

    def _copy(self, slot: int) -> None:
        if self._write is not None:
            base = slot * self._width
            self._write(base * 8, self._counts[base : base + self._width].tobytes())

    def sum(self, name: str) -> int:
        """
        Give what all processes have counted.
        """
        return sum(self._counts[self._places[name] :: self._width])

    def handling(self, number: int = 1) -> _Handling:
        """
        Account for datagrams that are handled within: delivered, unless set aside.
        """
        return _Handling(self, number)

    def set_aside(self, number: int = 1) -> None:
        """
        Say that datagrams at hand are delivered, or dropped, some other time.
        """
        count = getattr(self._aside, "count", None)
        if count is None:  # they were handled before, as far as anybody could tell
            self.deliver(-number)
        else:
            self._aside.count = count + number

    def reject(self, reason: str, number: int = 1) -> None:
        """
        Drop datagrams that are being handled.
        """
        self.set_aside(number)
        self.drop(reason, number)

    def receive(self, number: int = 1) -> None:
        """
        Count datagrams that have come.
        """
        self.add("received", number)

    def deliver(self, number: int = 1) -> None:
        """
        Count datagrams that are where they should go.
        """
        self.add("delivered", number)

    def drop(self, reason: str, number: int = 1) -> None:
        """
        Count datagrams that were received and are dropped, for one of `REASONS`.
        """
        self.add(reason, number)

    def lose(self, reason: str, number: int = 1) -> None:
        """
        Count datagrams that were dropped before they could be received.
        """
        self.add("received", number, reason)

    def hand_over(self, number: int = 1) -> None:
        """
        Count datagrams that another process has now, or the disk.
        """
        self.add("handed_over", number)

    def settle(self) -> int:
        """
        Count as dropped what processes had in hand that are there no more.

        Returns:
            How many those were.
        """
        return sum(
            self._bury(slot)
            for slot in range(1, self._slots)
            if self._owners[slot] and not _is_alive(self._owners[slot])
        )

    def _bury(self, slot: int) -> int:
        base = slot * self._width
        counts = self._counts[base : base + len(_FATES)].tolist()
        lost: int = max(0, counts[0] - sum(counts[1:]))
        self._counts[base + self._places["killed"]] += lost
        self._owners[slot] = 0
        self._copy(slot)
        return lost

    def balance(self) -> Balance:
        """
        Give the sums over all processes.
        """
        # What is received is read last, so that nothing is delivered before it came.
        sums = {name: self.sum(name) for name in reversed(_FATES)}
        dropped = {reason: sums[reason] for reason in REASONS}
        return Balance(sums["received"], sums["delivered"], dropped)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
