"""
Several spools read as one log: those of several processes that receive.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

from protoserve.telemetry.logs.base import Consumer, Entry, Log

__all__ = ["Together"]

_LOOK = 0.02


class Together:
    """
    Several logs, for readers.

    Args:
        logs: at least one.
    """

    def __init__(self, logs: Sequence[Log]) -> None:
        self._logs = logs

    def append(self, key: str, payload: bytes, id: str) -> None:  # noqa: A002
        """
        Each log has a writer of its own.
        """
        raise NotImplementedError

    def flush(self) -> None:
        """
        Wait until all that was appended here is safe.
        """
        for log in self._logs:
            log.flush()

    def consume(self, group: str) -> Consumer:
        """
        Read all logs as a member of a group.
        """
        consumers: list[Consumer] = []
        try:
            consumers += [log.consume(group) for log in self._logs]
        except BaseException:
            for consumer in consumers:
                consumer.close()
            raise
        return _Consumer(consumers)

    def close(self) -> None:
        """
        Let go of all logs.
        """
        for log in self._logs:
            log.close()


class _Consumer:
    """
    Reads several logs by turns.
    """

    def __init__(self, consumers: Sequence[Consumer]) -> None:
        self._consumers = consumers
        self._sources: dict[str, Consumer] = {}
        """Where each entry came from that is not acknowledged, by its id."""
        self._turn = 0

    def take(self, most: int, timeout: float) -> list[Entry]:
        """
        Give the next entries of whichever log has any.
        """
        deadline = time.monotonic() + timeout
        count = len(self._consumers)
        while True:
            found: list[Entry] = []
            for step in range(count):
                consumer = self._consumers[(self._turn + step) % count]
                if len(found) < most:
                    entries = consumer.take(most - len(found), 0.0)
                    self._sources.update(
                        dict.fromkeys((e.id for e in entries), consumer)
                    )
                    found += entries
            self._turn = (self._turn + 1) % count
            left = deadline - time.monotonic()
            if found or left <= 0:
                return found
            time.sleep(min(left, _LOOK))

    def ack(self, entries: Sequence[Entry]) -> None:
        """
        Acknowledge each entry to the log that it came from.
        """
        by_source: dict[Consumer, list[Entry]] = defaultdict(list)
        for entry in entries:
            source = self._sources.pop(entry.id, None)
            if source is not None:
                by_source[source].append(entry)
        for source, own in by_source.items():
            source.ack(own)

    def seek(self, *, sequence: int | None = None, time: float | None = None) -> None:
        """
        Go on from a moment; a sequence would be another one in each log.
        """
        for consumer in self._consumers:
            consumer.seek(sequence=sequence, time=time)

    def lag(self) -> int:
        """
        Say how many entries of all logs are to be dealt with.
        """
        return sum(consumer.lag() for consumer in self._consumers)

    def close(self) -> None:
        """
        Leave the group, in all logs.
        """
        for consumer in self._consumers:
            consumer.close()
