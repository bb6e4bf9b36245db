"""
Which layout each data set of a block has, when templates change in the midst of it.

Template sets are few and are read one by one, in their order. Each that changes anything
is noted with its place; a data set then has the template that was last noted before it.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs
import numpy as np

from protocols.netflow.cache import TemplateCache, template_key
from protocols.netflow.templates import (
    IPFIX,
    V9,
    Layout,
    Template,
    Withdrawal,
    read_templates,
)
from protocols.netflow.walk import Sets, Walked, number
from protoserve.telemetry.tables import Frames
from protoserve.urls import DATAGRAMS

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Streams", "Templates", "streams_of"]

_DOMAINS = {V9: 16, IPFIX: 12}
"""Where the domain is in the head."""


@attrs.frozen(eq=False)
class Streams:
    """
    Who counts templates of their own: exporters, by address, with version and domain.
    """

    of_frame: NDArray[np.int64]
    """For each frame the place of its stream; -1 for those without templates."""
    streams: list[tuple[str, int, int]]
    """Address, version and domain of each."""
    domains: NDArray[np.int64]
    """For each frame."""
    connected: frozenset[str]
    """Addresses of those that have sent something over a connection."""


def streams_of(frames: Frames, versions: NDArray[np.int64]) -> Streams:
    """
    Find the streams of frames.
    """
    domains = np.zeros(len(frames), np.int64)
    for version, offset in _DOMAINS.items():
        places = np.flatnonzero(versions == version)
        domains[places] = number(frames.data, frames.starts[places] + offset, 4)
    hosts: dict[str, int] = {}
    senders, inverse = np.unique(frames.senders, return_inverse=True)
    host_of = np.array(
        [
            hosts.setdefault(frames.exporters[s].host, len(hosts))
            for s in senders.tolist()
        ],
        np.int64,
    )[inverse]
    of_frame = np.full(len(frames), -1, np.int64)
    places = np.flatnonzero((versions == V9) | (versions == IPFIX))
    keys = (host_of[places] << 4 | versions[places]) << 32 | domains[places]
    found, of_frame[places] = np.unique(keys, return_inverse=True)
    names = list(hosts)
    streams = [
        (names[key >> 36], key >> 32 & 15, key & 0xFFFFFFFF) for key in found.tolist()
    ]
    peers = map(frames.exporters.__getitem__, senders.tolist())
    connected = frozenset(p.host for p in peers if p.transport not in DATAGRAMS)
    return Streams(of_frame, streams, domains, connected)


@attrs.define(eq=False)
class Templates:
    """
    The templates of one block, on top of those that are known.

    Args:
        cache: those that are known.
        streams: who has sent what.
        now: seconds since the epoch.
    """

    cache: TemplateCache
    streams: Streams
    now: float
    _changes: dict[tuple[int, int], list[tuple[int, Template | None]]] = attrs.field(
        init=False, factory=dict
    )
    """By stream and id: from which set on there is another template."""

    def learn(self, walked: Walked, frames: Frames) -> None:
        """
        Read the template sets; a frame with a bad one is refused.
        """
        for host in self.streams.connected:
            self.cache.hear(host, self.now)
        sets = walked.sets
        versions = walked.versions[sets.frames]
        is_template = (sets.ids < 2) & (versions == V9)
        is_template |= (sets.ids >= 2) & (sets.ids < 4) & (versions == IPFIX)
        places = np.flatnonzero(is_template).tolist()
        data = frames.data
        for frame, group in itertools.groupby(places, sets.frames.__getitem__):
            version = int(walked.versions[frame])
            found = []
            try:
                for i in group:
                    content = data[sets.starts[i] : sets.ends[i]].tobytes()
                    each = read_templates(content, version, int(sets.ids[i]))
                    found += [(i, template) for template in each]
            except ValueError as exc:
                walked.refuse(int(frame), str(exc))
                continue
            for i, template in found:
                self._take(int(self.streams.of_frame[frame]), i, template)

    def _take(self, stream: int, place: int, said: Template | Withdrawal) -> None:
        host, version, domain = self.streams.streams[stream]
        if isinstance(said, Withdrawal):
            for gone in self.cache.withdraw(host, version, domain, said):
                self._note(stream, place, gone.id, gone, None)
            return
        key = template_key(version, domain, said.id)
        before = self.cache.find(host, key, self.now)
        if self.cache.learn(host, domain, said, self.now):
            self._note(stream, place, said.id, before, said)

    def _note(
        self,
        stream: int,
        place: int,
        template_id: int,
        before: Template | None,
        after: Template | None,
    ) -> None:
        changes = self._changes.setdefault((stream, template_id), [(-1, before)])
        changes.append((place, after))

    def layouts(
        self, sets: Sets, places: NDArray[np.int64]
    ) -> Iterator[tuple[Layout | None, NDArray[np.int64]]]:
        """
        Group data sets by layout.

        Args:
            sets: all sets of the block.
            places: those that are data sets.

        Returns:
            Layouts with the places of their sets; `None`: the template is not known.
        """
        if not len(places):
            return
        streams = self.streams.of_frame[sets.frames[places]]
        keys, inverse = np.unique(streams << 16 | sets.ids[places], return_inverse=True)
        chosen: dict[Layout | None, int] = {None: 0}
        of_key = np.zeros(len(keys), np.int64)
        changed: list[tuple[int, list[tuple[int, Template | None]]]] = []
        for k, key in enumerate(keys.tolist()):
            stream, template_id = key >> 16, key & 0xFFFF
            changes = self._changes.get((stream, template_id))
            if changes is not None:
                changed.append((k, changes))
                continue
            host, version, domain = self.streams.streams[stream]
            known = self.cache.use(
                host, template_key(version, domain, template_id), self.now
            )
            layout = None if known is None else known.layout
            of_key[k] = chosen.setdefault(layout, len(chosen))
        of_set = of_key[inverse]
        if changed:
            by_key = np.argsort(inverse, kind="stable")
            edges = np.searchsorted(inverse[by_key], np.arange(len(keys) + 1)).tolist()
        for k, changes in changed:
            steps = [place for place, _ in changes]
            numbers = [
                chosen.setdefault(None if t is None else t.layout, len(chosen))
                for _, t in changes
            ]
            for i in by_key[edges[k] : edges[k + 1]].tolist():
                of_set[i] = numbers[bisect.bisect_left(steps, places[i]) - 1]
        order = np.argsort(of_set, kind="stable")
        edges = np.searchsorted(of_set[order], np.arange(len(chosen) + 1))
        for layout, n in chosen.items():
            those = order[edges[n] : edges[n + 1]]
            if len(those):
                yield layout, places[those]

    def arrived(self) -> Iterator[tuple[str, int]]:
        """
        Give the exporters and template keys of templates that are new, or other ones.
        """
        for (stream, _), changes in self._changes.items():
            template = changes[-1][1]
            if template is not None:
                host, version, domain = self.streams.streams[stream]
                yield host, template_key(version, domain, template.id)
