"""
The port of a log: entries in order, kept until every group of readers has had them.

The spool on the local disk is one, and so are the brokers. What an entry holds is the
writer's and the reader's business. A log delivers at least once: an id says what has been
delivered before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs

from protoserve.errors import ProtoserveError

__all__ = ["Consumer", "Entry", "Log", "LogUnavailableError"]


class LogUnavailableError(ProtoserveError):
    """
    The log cannot be reached, or is full: the same may work later.
    """


@attrs.frozen
class Entry:
    """
    One entry of a log.
    """

    sequence: int
    """Its number in the log; numbers grow, and may have gaps."""
    id: str
    """What it is known by, whichever log it passes through."""
    key: str
    """Entries of one key are delivered in order: the exporter's address."""
    time: float
    """When it was appended: seconds since the epoch."""
    payload: bytes
    """What was appended, as one piece."""
    count: int = 1
    """How many datagrams it stands for; 1 where the log keeps no such number."""


class Consumer(Protocol):
    """
    One reader of a group: what it is given nobody else of the group is, for a time.
    """

    def take(self, most: int, timeout: float) -> list[Entry]:
        """
        Give the next entries, at most so many; none if none came within `timeout` s.

        Raises:
            LogUnavailableError: it cannot be reached.
        """

    def ack(self, entries: Sequence[Entry]) -> None:
        """
        Say that entries are dealt with for good.
        """

    def seek(self, *, sequence: int | None = None, time: float | None = None) -> None:
        """
        Have the group go on from an entry, or from a moment (seconds since the epoch).
        """

    def lag(self) -> int:
        """
        Say how many entries the group has yet to deal with.
        """

    def close(self) -> None:
        """
        Leave the group; what was not acknowledged is given to others.
        """


class Log(Protocol):
    """
    A log. Any thread may use it.
    """

    def append(self, key: str, payload: bytes, id: str) -> object:  # noqa: A002 - the port's word
        """
        Append an entry; it is safe when `flush` has returned.

        Raises:
            LogUnavailableError: it cannot be appended now.
        """

    def flush(self) -> None:
        """
        Wait until all that was appended is safe.

        Raises:
            LogUnavailableError: some of it may not be: append that again, by its id.
        """

    def consume(self, group: str) -> Consumer:
        """
        Read as a member of a group.
        """

    def close(self) -> None:
        """
        Let go of it.
        """
