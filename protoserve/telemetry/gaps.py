"""
Gaps in what exporters say they have sent, by their own numbers.

A number that is higher than expected tells how much is missing; one that is lower belongs
to a datagram that came late, and is missing no more, or came twice. A number that is far
off is a counter that began anew. Counters are 16 or 32 bits wide, mostly, and begin anew
at zero.

Exporters are told apart by address and by counter; those that were silent longest are
forgotten when there are too many.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence

import attrs
import numpy as np

from protoserve.session import Peer
from protoserve.telemetry.tables import Sequences

__all__ = ["Gaps", "Stream"]

_MOST_STREAMS = 50_000
_FAR = 100_000
"""Datagrams beyond which a difference means that a counter has begun anew."""
_RECENT = 64
"""Late numbers that are remembered, to tell those that came twice."""


@attrs.define(eq=False)
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
    _holes: deque[tuple[int, int]] | None = None
    """Where something is missing: the number expected then, and how far it is."""
    _filled: deque[int] | None = None
    """Numbers that came late. Both are made when they are needed: seldom."""

    def follow(self, number: int, step: int, modulus: int) -> None:
        """
        Take note of one datagram's number.
        """
        ahead = (number - self.expected) % modulus
        if ahead == 0:
            self.expected = (number + step) % modulus
            return
        behind = modulus - ahead
        far = min(_FAR * max(1, step), modulus // 4)
        if ahead <= far:
            self.missing += ahead
            self._holes = self._holes or deque(maxlen=_RECENT)
            self._holes.append((self.expected, ahead))
            self.expected = (number + step) % modulus
        elif behind <= far:
            self._filled = self._filled or deque(maxlen=_RECENT)
            is_new = number not in self._filled and self._is_hole(number, modulus)
            self._filled.append(number)
            if is_new:
                self.reordered += 1
                self.missing = max(0, self.missing - step)
            else:
                self.duplicates += 1
        else:
            self.restarts += 1
            self._holes = self._filled = None
            self.expected = (number + step) % modulus

    def _is_hole(self, number: int, modulus: int) -> bool:
        """
        Say whether a number is one that was missing.
        """
        holes = self._holes or ()
        return any((number - hole) % modulus < size for hole, size in holes)


class Gaps:
    """
    Follows the counters of all exporters.
    """

    def __init__(self) -> None:
        self._streams: OrderedDict[tuple[Peer, int], Stream] = OrderedDict()
        self.missing = self.duplicates = self.reordered = self.restarts = 0
        """Sums over all exporters, those that were forgotten included."""

    def __len__(self) -> int:
        return len(self._streams)

    def streams(self) -> Iterator[tuple[Peer, int, Stream]]:
        """
        Give all counters that are known: whose, which of theirs, and what is known of it.
        """
        for (peer, number), stream in list(self._streams.items()):
            yield peer, number, stream

    def follow(self, sequences: Sequences, exporters: Sequence[Peer]) -> None:
        """
        Take note of the numbers of many datagrams, in the order in which they came.
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
            stream = self._streams.get(key)
            if stream is None:
                stream = self._streams[key] = Stream(int(numbers[start]))
                if len(self._streams) > _MOST_STREAMS:
                    self._streams.popitem(last=False)
            else:
                self._streams.move_to_end(key)
            is_whole = stream.expected == int(numbers[start]) and bool(
                (numbers[start + 1 : stop] == following[start : stop - 1]).all()
            )
            if is_whole:
                stream.expected = int(following[stop - 1])
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


def _is_counted(attribute: attrs.Attribute[int], _value: object) -> bool:
    return attribute.name in {"missing", "duplicates", "reordered", "restarts"}
