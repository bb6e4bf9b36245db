"""
Gaps in what exporters say they have sent, by their own numbers.

A number that is higher than expected tells how much is missing; one that is lower belongs
to a datagram that came late, and is missing no more, or came twice. A number that is far
off is a counter that began anew, and so are many in a row that had all come before: an
exporter that was started again may have sent few until then. Counters are 16 or 32 bits
wide, mostly, and begin anew at zero.

Exporters are told apart by address and by counter. Anyone can send from as many made-up
addresses as they like, so a counter is on probation until it is heard of again a while
later. Places are few for those on probation and many for the others, and whoever has one
gives it up only after a silence: a storm of made-up senders neither pushes out a counter
that is followed nor makes any work. A counter for which there is no place is not followed.
"""

from __future__ import annotations

import itertools
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import attrs
import numpy as np

from protoserve.session import Peer
from protoserve.telemetry.tables import Sequences

__all__ = ["Gaps", "Stream"]

_Key: TypeAlias = tuple[Peer, int]
_MOST, _MOST_ON_PROBATION = 50_000, 5_000
"""Counters that are followed."""
_PROBATION = 1.0
"""Seconds after which a counter that is heard of again is no stranger's."""
_SILENCE, _SILENCE_ON_PROBATION = 600.0, 30.0
"""Seconds of silence after which others may have a counter's place."""
_FAR = 100_000
"""Datagrams beyond which a difference means that a counter has begun anew."""
_RECENT = 32
"""Holes, and late numbers, that are remembered, to tell those that came twice."""
_AGAIN = 32
"""Datagrams that seem to come twice, in a row, of a counter that has begun anew."""


@attrs.define(eq=False, weakref_slot=False)
class Stream:
    """
    One counter of one exporter.
    """

    expected: int
    """The next number."""
    missing: int = 0
    """What was counted by the exporter and has not come, in the units of its counter."""
    duplicates: int = 0
    """Datagrams that came twice."""
    reordered: int = 0
    """Datagrams that came late."""
    restarts: int = 0
    """How often the counter began anew."""
    since: float = 0.0
    """When it was heard of first, in seconds."""
    seen: float = 0.0
    """When it was heard of last."""
    _holes: array[int] | None = None
    """Where something is missing: by turns the number expected then, and how far it is."""
    _filled: array[int] | None = None
    """Numbers that came late. Both are made when they are needed: seldom."""
    _again: int = 0
    """The number behind the last one that came twice."""
    _run: int = 0
    """How many have come twice in a row."""

    def advance(self, expected: int) -> None:
        """
        Take note of what has come as expected.
        """
        self.expected = expected
        self._run = 0

    def follow(self, number: int, step: int, modulus: int) -> None:
        """
        Take note of one datagram's number.
        """
        ahead = (number - self.expected) % modulus
        following = (number + step) % modulus
        if ahead == 0:
            self.advance(following)
            return
        behind = modulus - ahead
        far = min(_FAR * max(1, step), modulus // 4)
        if ahead <= far:
            self.missing += ahead
            self._holes = self._holes or array("Q")
            self._holes.extend((self.expected, ahead))
            del self._holes[: -2 * _RECENT]
            self.advance(following)
        elif behind <= far:
            self._filled = self._filled or array("Q")
            is_new = number not in self._filled and self._is_hole(number, modulus)
            self._filled.append(number)
            del self._filled[:-_RECENT]
            if is_new:
                self.reordered += 1
                self.missing = max(0, self.missing - step)
                self._run = 0
                return
            self.duplicates += 1
            self._run = self._run + 1 if number == self._again else 1
            self._again = following
            if self._run == _AGAIN:  # they stay counted: these are counts that grow
                self._restart(following)
        else:
            self._restart(following)

    def _restart(self, expected: int) -> None:
        self.restarts += 1
        self._holes = self._filled = None
        self.advance(expected)

    def _is_hole(self, number: int, modulus: int) -> bool:
        """
        Say whether a number is one that was missing.
        """
        holes = iter(self._holes or ())
        return any(
            (number - hole) % modulus < size
            for hole, size in zip(holes, holes, strict=True)
        )


class Gaps:
    """
    Follows the counters of all exporters.
    """

    def __init__(self) -> None:
        self._streams: OrderedDict[_Key, Stream] = OrderedDict()
        self._strangers: OrderedDict[_Key, Stream] = OrderedDict()
        """Both in the order in which they were heard of last."""
        self.missing = self.duplicates = self.reordered = self.restarts = 0
        """Sums over all exporters, those that were forgotten included."""

    def __len__(self) -> int:
        return len(self._streams) + len(self._strangers)

    def streams(self) -> Iterator[tuple[Peer, int, Stream]]:
        """
        Give all counters that are known: whose, which of theirs, and what is known of it.
        """
        for streams in (self._streams, self._strangers):
            for (peer, number), stream in list(streams.items()):
                yield peer, number, stream

    def follow(
        self, sequences: Sequences, exporters: Sequence[Peer], now: float
    ) -> None:
        """
        Take note of the numbers of many datagrams, in the order in which they came.

        Args:
            sequences: the numbers.
            exporters: whose they are, by `Sequences.senders`.
            now: seconds, on any clock that does not go back.
        """
        count = len(sequences.numbers)
        if not count:
            return
        order = np.lexsort((np.arange(count), sequences.streams, sequences.senders))
        senders, streams = sequences.senders[order], sequences.streams[order]
        new = (senders[1:] != senders[:-1]) | (streams[1:] != streams[:-1])
        edges = [0, *(np.flatnonzero(new) + 1).tolist(), count]
        modulus = 1 << sequences.bits
        numbers, steps = sequences.numbers[order], sequences.steps[order]
        following = (numbers + steps) & (modulus - 1)
        for start, stop in itertools.pairwise(edges):
            key = exporters[int(senders[start])], int(streams[start])
            stream = self._stream(key, int(numbers[start]), now)
            if stream is None:
                continue
            is_whole = stream.expected == int(numbers[start]) and bool(
                (numbers[start + 1 : stop] == following[start : stop - 1]).all()
            )
            if is_whole:
                stream.advance(int(following[stop - 1]))
                continue
            before = attrs.astuple(stream, filter=_is_counted)
            pairs = zip(
                numbers[start:stop].tolist(), steps[start:stop].tolist(), strict=True
            )
            for number, step in pairs:
                stream.follow(number, step, modulus)
            after = attrs.astuple(stream, filter=_is_counted)
            self.missing += after[0] - before[0]
            self.duplicates += after[1] - before[1]
            self.reordered += after[2] - before[2]
            self.restarts += after[3] - before[3]

    def _stream(self, key: _Key, number: int, now: float) -> Stream | None:
        """
        Give a counter that has been heard of; `None` if there is no place for it.
        """
        stream = self._streams.get(key)
        if stream is not None:
            self._streams.move_to_end(key)
            stream.seen = now
            return stream
        strangers = self._strangers
        stream = strangers.pop(key, None)
        if stream is None:
            if not _has_place(
                strangers, _MOST_ON_PROBATION, now - _SILENCE_ON_PROBATION
            ):
                return None
            stream = Stream(number, since=now)
        stream.seen = now
        is_known = now - stream.since >= _PROBATION
        if is_known and _has_place(self._streams, _MOST, now - _SILENCE):
            self._streams[key] = stream
        else:
            strangers[key] = stream
        return stream


def _has_place(streams: OrderedDict[_Key, Stream], most: int, oldest: float) -> bool:
    """
    Say whether there is room for another, if need be for one that is silent for long.
    """
    if len(streams) < most:
        return True
    first = next(iter(streams))
    if streams[first].seen >= oldest:
        return False
    del streams[first]
    return True


def _is_counted(attribute: attrs.Attribute[int], _value: object) -> bool:
    return attribute.name in {"missing", "duplicates", "reordered", "restarts"}
