"""
Flow tables: datagrams of NetFlow v5, v9 and IPFIX to columns, thousands at a time.

The sets of all datagrams of a call are found first (`walk`), then the templates among
them are taken down, in their order (`resolving`). Data sets are grouped by layout, not
by exporter: all records of one layout, whoever sent them, are copied out of the datagrams
in one step and become columns (`rows`). So the work in Python is per template, not per
flow. Only records with variable fields are stepped through one by one, to find where
they are; what is fixed in them is copied as all else.

A datagram in which anything is malformed gives no rows; templates in it are kept if all
its template sets are good. A template that changes applies to what comes behind it,
within the same datagram too. Where only some of a datagram's templates are known, those
records are in the tables at once, and the others are held.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np

from protocols.netflow import version5
from protocols.netflow.cache import TemplateCache, TemplateLimits, template_key
from protocols.netflow.counting import Counters
from protocols.netflow.held import Held, HeldLimits, Key, Waiting
from protocols.netflow.prefacing import template_datagrams
from protocols.netflow.resolving import Templates, streams_of
from protocols.netflow.rows import Part, RowTables, joined, located
from protocols.netflow.templates import IPFIX
from protocols.netflow.walk import HEADS, V5, Sets, walk
from protoserve import Peer
from protoserve.telemetry.tables import Frames, Origins, Refused, Tables

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

__all__ = ["NetFlowTabulator"]

_NO_ROOM = "its template has not come, and there is no room to wait for it"


@attrs.define(eq=False)
class _Block:
    """
    The frames of one call, and what is made of them.
    """

    frames: Frames
    refused: dict[int, str]
    parts: list[Part]
    records: NDArray[np.int64]
    """How many records each frame has."""
    unknown: dict[int, dict[Key, list[tuple[int, int]]]]
    """For frames with data sets whose template is not known: where the sets are."""
    arrived: list[Key]
    """Templates that are new or have changed."""
    versions: NDArray[np.int64]
    domains: NDArray[np.int64]


class NetFlowTabulator:
    """
    Makes tables of NetFlow v5, v9 and IPFIX: ``flows`` and ``options``.

    Args:
        folder: where templates are kept across restarts; `None`: nowhere.
        templates: how many are kept, and how long.
        held: how much data is held for a template that has not come.
        numeric: whether IPv4 addresses are numbers instead of text.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        templates: TemplateLimits | None = None,
        held: HeldLimits | None = None,
        numeric: bool = False,
    ) -> None:
        self.cache = TemplateCache(templates or TemplateLimits(), folder)
        self.held = Held(held or HeldLimits())
        self._rows = RowTables(numeric=numeric)
        self._counters = Counters()
        self._now = 0.0
        """The time of what came last."""

    def tables(self, frames: Frames) -> Tables:
        """
        Make tables of frames.
        """
        found = Tables()
        if not len(frames):
            return found
        self._now = float(frames.times.max()) / 1e9
        block = self._looked_at(frames)
        waiting, no_room = self._hold(block)
        tables: dict[str, list[pa.Table]] = {}
        try:
            self._add(block, tables)
        except BaseException:
            self.held.forget(waiting)  # whoever tries again brings it again
            raise
        malformed = dict(block.refused)
        taken = [each for key in block.arrived for each in self.held.take(key)]
        if taken:
            self._release(taken, waiting, tables, found, malformed)
        refused = [Refused(i, "malformed", why) for i, why in malformed.items()]
        refused += [Refused(i, "template", _NO_ROOM) for i in no_room]
        found.refused = sorted(refused, key=lambda each: each.index)
        found.held = len(waiting)
        found.tables = {name: joined(each) for name, each in tables.items()}
        found.sequences = self._counters.follow(
            frames, block.versions, block.domains, block.records, block.unknown
        )
        return found

    def tick(self, now: float) -> Tables:
        """
        Give up what has waited too long; `now` is seconds since the epoch.
        """
        self._now = now
        self.cache.tick(now)
        return Tables(expired=self.held.expire(now))

    def preface(self, peer: Peer) -> list[bytes]:
        """
        Give datagrams with all templates of an exporter.
        """
        known = self.cache.known(peer.host, self._now)
        return template_datagrams(known, self._now)

    def close(self) -> Tables:
        """
        Give up what is held, and keep the templates for the next time.
        """
        expired = self.held.expire(math.inf)
        self.cache.close(self._now)
        return Tables(expired=expired)

    def _looked_at(self, frames: Frames) -> _Block:
        """
        Find the records of frames, and what cannot be found.
        """
        walked = walk(frames)
        streams = streams_of(frames, walked.versions)
        templates = Templates(self.cache, streams, self._now)
        templates.learn(walked, frames)
        sets = walked.sets
        is_data = (sets.ids >= 256) & (walked.versions[sets.frames] > 0)
        parts, unknown = [], {}
        fives = np.flatnonzero(walked.versions == V5)
        if len(fives):
            starts = frames.starts[fives]
            whole = Sets(
                fives,
                np.zeros_like(fives),
                starts + HEADS[V5],
                starts + frames.lengths[fives],
            )
            parts.append(located(version5.LAYOUT, whole, frames.data, walked.refused))
        for layout, places in templates.layouts(sets, np.flatnonzero(is_data)):
            these = sets.where(places)
            if layout is None:
                unknown = _by_frame(these, streams.of_frame, streams.streams)
            else:
                parts.append(located(layout, these, frames.data, walked.refused))
        bad = np.zeros(len(frames), np.bool_)
        bad[list(walked.refused)] = True
        if walked.refused:
            walked.versions[bad] = 0
            parts = [part.without(bad) for part in parts]
            unknown = {f: each for f, each in unknown.items() if not bad[f]}
        records = np.zeros(len(frames), np.int64)
        for part in parts:
            np.add.at(records, part.frames, part.counts)
        return _Block(
            frames,
            walked.refused,
            parts,
            records,
            unknown,
            list(templates.arrived()),
            walked.versions,
            streams.domains,
        )

    def _hold(self, block: _Block) -> tuple[dict[Waiting, int], list[int]]:
        """
        Hold what waits for a template, if there is room.

        Returns:
            What is held now, with its frames' places; and the frames without room.
        """
        waiting: dict[Waiting, int] = {}
        no_room = []
        frames = block.frames
        for frame, sets in block.unknown.items():
            head = _head(frames, frame, int(block.versions[frame]))
            messages = {
                key: [_message(frames, head, *each) for each in found]
                for key, found in sets.items()
            }
            sender, time = int(frames.senders[frame]), int(frames.times[frame])
            one = Waiting(frames.exporters[sender], time, messages)
            if self.held.hold(one):
                waiting[one] = frame
            else:
                no_room.append(frame)
        if no_room:
            bad = np.zeros(len(frames), np.bool_)
            bad[no_room] = True
            block.parts = [part.without(bad) for part in block.parts]
        return waiting, no_room

    def _release(
        self,
        taken: list[tuple[Waiting, list[bytes], bool]],
        waiting: dict[Waiting, int],
        tables: dict[str, list[pa.Table]],
        found: Tables,
        malformed: dict[int, str],
    ) -> None:
        """
        Make rows of what has waited for a template.
        """
        owners = [one for one, messages, _ in taken for _ in messages]
        made: dict[str, list[pa.Table]] = {}
        try:
            block = self._looked_at(
                _frames_of([m for _, messages, _ in taken for m in messages], owners)
            )
            self._add(block, made)
        except Exception as exc:  # it has been taken, so nobody can try again
            wrong = dict.fromkeys(owners, f"{type(exc).__name__}: {exc}")
        else:
            for name, each in made.items():
                tables.setdefault(name, []).extend(each)
            wrong = {owners[place]: why for place, why in block.refused.items()}
            # There are so many new templates that this one is forgotten again.
            wrong |= {owners[place]: _NO_ROOM for place in block.unknown}
        for one, _, is_all in taken:
            frame = waiting.pop(one, None) if is_all else waiting.get(one)
            if one in wrong and frame is not None:
                malformed[frame] = wrong[one]
            elif is_all and frame is None:
                if one in wrong:
                    found.expired += 1
                else:
                    found.released += 1

    def _add(self, block: _Block, tables: dict[str, list[pa.Table]]) -> None:
        origins = Origins(block.frames)
        for part in block.parts:
            if len(part):
                table = self._rows.table(part, block.frames, origins)
                tables.setdefault(part.layout.table, []).append(table)


def _by_frame(
    sets: Sets, of_frame: NDArray[np.int64], streams: list[tuple[str, int, int]]
) -> dict[int, dict[Key, list[tuple[int, int]]]]:
    found: dict[int, dict[Key, list[tuple[int, int]]]] = {}
    rows = zip(
        sets.frames.tolist(),
        sets.ids.tolist(),
        sets.starts.tolist(),
        sets.ends.tolist(),
        strict=True,
    )
    for frame, number, start, end in rows:
        host, version, domain = streams[of_frame[frame]]
        key = host, template_key(version, domain, number)
        found.setdefault(frame, {}).setdefault(key, []).append((start, end))
    return found


def _head(frames: Frames, frame: int, version: int) -> bytes:
    start = int(frames.starts[frame])
    return frames.data[start : start + HEADS[version]].tobytes()


def _message(frames: Frames, head: bytes, start: int, end: int) -> bytes:
    """
    Put one set under a datagram's head, as a datagram of its own.
    """
    body = frames.data[start - 4 : end].tobytes()
    if int.from_bytes(head[:2]) == IPFIX:
        head = head[:2] + (len(head) + len(body)).to_bytes(2) + head[4:]
    return head + body


def _frames_of(messages: list[bytes], owners: list[Waiting]) -> Frames:
    lengths = np.array([len(message) for message in messages], np.int64)
    peers = {one.peer: i for i, one in enumerate({o.peer: o for o in owners}.values())}
    return Frames(
        np.frombuffer(b"".join(messages), np.uint8),
        np.cumsum(lengths) - lengths,
        lengths,
        np.array([one.time for one in owners], np.int64),
        np.array([peers[one.peer] for one in owners], np.int64),
        list(peers),
    )
