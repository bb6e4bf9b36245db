"""
A member of a group of readers of a topic of Kafka.

The group's coordinator gives each partition to one member, so all entries of a
key come to one member, in order. Kafka keeps one number a partition for a group, so
what is committed is where everything before has been acknowledged; what was
acknowledged behind a gap comes again after a restart. Entries are not given to others
because they take long: only a member that dies or leaves, or does not `take` for ten
minutes, loses its partitions.

An entry's sequence is ``(offset << 16 | partition) + 1``: one number for a place in all
partitions. To seek to one is to go on, in each partition, from the first entry with
that number or more; so 1 is the beginning, as in other logs.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import attrs
from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from protoserve.errors import DeclarationError
from protoserve.telemetry.logs.base import Entry, LogUnavailableError
from protoserve.telemetry.logs.options import line

if TYPE_CHECKING:
    from protoserve.telemetry.logs.kafka import KafkaLog

__all__ = ["KafkaConsumer", "Place"]

T = TypeVar("T")

HOLD = 600.0
"""Seconds without a `take` after which a member loses its partitions."""
ANSWER = 10.0
"""Seconds for an answer of a broker that is there."""
PARTITION_BITS = 16


@attrs.define
class Place:
    """
    How far a member is in a partition.
    """

    taken: deque[int] = attrs.field(factory=deque)
    """Offsets that were given out, in order, from the first not acknowledged."""
    acked: set[int] = attrs.field(factory=set)
    """Those among them that are dealt with."""
    upto: int | None = None
    """The offset to commit, if there is one that is not."""

    def ack(self, offset: int) -> None:
        """
        Note that an entry is dealt with.
        """
        self.acked.add(offset)
        while self.taken and self.taken[0] in self.acked:
            self.upto = self.taken.popleft() + 1
            self.acked.discard(self.upto - 1)


class KafkaConsumer:
    """
    A member of a group. One thread at a time uses it.
    """

    def __init__(self, log: KafkaLog, group: str) -> None:
        self._log = log
        self._group = group
        self._places: dict[int, Place] = {}
        self._trouble = ""
        wait = log.ack_wait
        told = log.settings(
            **{
                "group.id": group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
                "session.timeout.ms": int(wait * 1000),
                "heartbeat.interval.ms": int(min(wait / 3, 3.0) * 1000),
                "max.poll.interval.ms": int(max(HOLD, wait) * 1000),
                "error_cb": self._note,
            }
        )
        try:
            self._consumer = Consumer(told)
            # Answers wait behind those to fetches, which take their time; so what is
            # asked for is asked by another client, which does not join the group.
            self._asker = Consumer(told)
        except (KafkaException, ValueError, TypeError) as exc:
            raise DeclarationError(line(log.target, exc)) from exc
        self._joined = False
        self._closed = False

    def take(self, most: int, timeout: float) -> list[Entry]:
        """
        Give the next entries, at most so many; none if none came within `timeout` s.

        Raises:
            LogUnavailableError: no broker can be reached.
        """
        return self._do(lambda: self._take(most, timeout))

    def ack(self, entries: Sequence[Entry]) -> None:
        """
        Say that entries are dealt with for good.

        Where no broker can be reached, or the partition is another's by now, they are
        delivered again.
        """
        for entry in entries:
            offset, partition = _place(entry.sequence)
            if place := self._places.get(partition):
                place.ack(offset)
        self._settle(self._places)

    def seek(self, *, sequence: int | None = None, time: float | None = None) -> None:
        """
        Have the group go on from an entry, or from a moment (seconds since the epoch).

        Other members notice when they join anew: stop them before.
        """
        self._do(lambda: self._seek(sequence or 0, time))

    def lag(self) -> int:
        """
        Say how many entries the group has yet to deal with.
        """
        return self._do(self._lag)

    def close(self) -> None:
        """
        Leave the group; what was not acknowledged is given to others.
        """
        if not self._closed:
            self._closed = True
            self._settle(self._places)
            self._consumer.close()
            self._asker.close()

    def _do(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise LogUnavailableError(f"{self._group}: this member has left")
        try:
            return work()
        except KafkaException as exc:
            raise LogUnavailableError(line(self._log.target, exc)) from exc

    def _note(self, error: KafkaError) -> None:
        self._trouble = line(self._log.target, error)

    def _take(self, most: int, timeout: float) -> list[Entry]:
        if not self._joined:
            self._consumer.subscribe(
                [self._log.topic], on_revoke=self._revoked, on_lost=self._lost
            )
            self._joined = True
        deadline = time.monotonic() + timeout
        entries: list[Entry] = []
        self._trouble = ""
        while not entries:
            left = max(0.0, deadline - time.monotonic())
            found = self._consumer.consume(1, left)
            if found and most > 1:  # and what else is here already
                found += self._consumer.consume(most - 1, 0.01)
            for message in found:
                if error := message.error():
                    self._trouble = line(self._log.target, error)
                else:
                    entries.append(self._entry(message))
            if left <= 0:
                break
        if not entries and self._trouble:
            raise LogUnavailableError(self._trouble)
        return entries

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._settle([each.partition for each in partitions])
        self._lost(_, partitions)

    def _lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        for each in partitions:
            self._places.pop(each.partition, None)

    def _settle(self, partitions: Iterable[int]) -> None:
        """
        Commit what is acknowledged; what cannot be now is tried the next time.
        """
        places = {n: self._places[n] for n in partitions if n in self._places}
        upto = {n: place.upto for n, place in places.items() if place.upto is not None}
        with contextlib.suppress(KafkaException):
            self._commit(upto)
            for number in upto:
                places[number].upto = None

    def _entry(self, message: Message) -> Entry:
        offset, partition = message.offset() or 0, message.partition() or 0
        self._places.setdefault(partition, Place()).taken.append(offset)
        found = dict(message.headers() or [])
        given = found.get("id")
        where = f"{self._log.topic}:{partition}:{offset}"
        return Entry(
            sequence=(offset << PARTITION_BITS | partition) + 1,
            id=given.decode() if isinstance(given, bytes) else where,
            key=bytes(message.key() or b"").decode(errors="replace"),
            time=message.timestamp()[1] / 1000,
            payload=bytes(message.value() or b""),
        )

    def _commit(self, upto: dict[int, int]) -> None:
        if upto:
            self._consumer.commit(
                offsets=[
                    TopicPartition(self._log.topic, partition, offset)
                    for partition, offset in upto.items()
                ],
                asynchronous=False,
            )

    def _partitions(self) -> dict[int, tuple[int, int]]:
        """
        Give the first offset of each partition, and the one after the last.
        """
        topic = self._log.topic
        known = self._asker.list_topics(topic, ANSWER).topics[topic]
        if known.error is not None:
            raise KafkaException(known.error)
        return {
            number: self._asker.get_watermark_offsets(
                TopicPartition(topic, number), ANSWER
            )
            for number in known.partitions
        }

    def _seek(self, sequence: int, moment: float | None) -> None:
        topic, marks = self._log.topic, self._partitions()
        wanted, first = _place(sequence)
        upto = {
            number: min(max(low, wanted + (number < first)), high)
            for number, (low, high) in marks.items()
        }
        if moment is not None:
            asked = [TopicPartition(topic, n, int(moment * 1000)) for n in marks]
            for each in self._asker.offsets_for_times(asked, ANSWER):
                found, high = each.offset, marks[each.partition][1]
                upto[each.partition] = found if found >= 0 else high
        self._commit(upto)
        for each in self._consumer.assignment():
            self._consumer.seek(
                TopicPartition(topic, each.partition, upto[each.partition])
            )
        self._places.clear()

    def _lag(self) -> int:
        topic, marks = self._log.topic, self._partitions()
        asked = [TopicPartition(topic, number) for number in marks]
        lag = 0
        for each in self._asker.committed(asked, ANSWER):
            low, high = marks[each.partition]
            lag += high - (low if each.offset == OFFSET_INVALID else each.offset)
        return lag


def _place(sequence: int) -> tuple[int, int]:
    number = max(0, sequence - 1)
    return number >> PARTITION_BITS, number & ((1 << PARTITION_BITS) - 1)
