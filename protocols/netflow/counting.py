"""
What exporters count: flows (v5), datagrams (v9) or data records (IPFIX).

How many records an IPFIX datagram has is not known before its templates are. Then it
counts for whatever the next one says: that hides a loss between just these two, and
invents none.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import numpy as np

from protocols.netflow.templates import IPFIX, V9
from protocols.netflow.walk import V5, number
from protoserve import Peer
from protoserve.telemetry.tables import Frames, Sequences

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Counters"]

_MOST_OPEN = 10_000
"""Streams whose last datagram's records could not be counted."""
_MODULUS = 1 << 32


class Counters:
    """
    Reads the sequence numbers of frames.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[Peer, int], int] = OrderedDict()
        """Numbers of datagrams with unknown records, by exporter and domain."""

    def follow(
        self,
        frames: Frames,
        versions: NDArray[np.int64],
        domains: NDArray[np.int64],
        records: NDArray[np.int64],
        unclear: Collection[int],
    ) -> list[Sequences]:
        """
        Read the numbers.

        Args:
            frames: the frames.
            versions: the version of each; 0 for those that are no use.
            domains: the domain of each.
            records: how many records each has.
            unclear: frames with records that could not be counted.
        """
        found = []
        for version in (V5, V9, IPFIX):
            places = np.flatnonzero(versions == version)
            if not len(places):
                continue
            starts = frames.starts[places]
            senders = frames.senders[places]
            offset = {V5: 16, V9: 12, IPFIX: 8}[version]
            numbers = number(frames.data, starts + offset, 4)
            streams, steps = domains[places], records[places]
            if version == V5:
                streams = number(frames.data, starts + 20, 2)
            elif version == V9:
                steps = np.ones_like(steps)
            streams = streams | version << 32  # each version has counters of its own
            if version == IPFIX and (unclear or self._open):
                peers = [frames.exporters[s] for s in senders.tolist()]
                rows = zip(
                    places.tolist(),
                    peers,
                    senders.tolist(),
                    streams.tolist(),
                    numbers.tolist(),
                    steps.tolist(),
                    strict=True,
                )
                found += self._closed(rows, unclear)
                continue
            found.append(Sequences(senders, streams, numbers, steps))
        return found

    def _closed(
        self,
        rows: Iterable[tuple[int, Peer, int, int, int, int]],
        unclear: Collection[int],
    ) -> list[Sequences]:
        """
        Let datagrams that could not be counted reach to the next ones.
        """
        made: list[tuple[int, int, int, int]] = []
        for place, peer, sender, stream, now, step in rows:
            before = self._open.pop((peer, stream), None)
            if before is not None and (now - before) % _MODULUS < _MODULUS // 2:
                made.append((sender, stream, before, (now - before) % _MODULUS))
            if place in unclear:
                self._open[peer, stream] = now
                if len(self._open) > _MOST_OPEN:
                    self._open.popitem(last=False)
            else:
                made.append((sender, stream, now, step))
        if not made:
            return []
        return [Sequences(*np.array(made, np.int64).T)]
