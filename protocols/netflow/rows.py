"""
Where the records of data sets are, and tables of them.

Records are copied out of the datagrams a stretch at a time: one gather for all records
of a layout, whatever datagrams they are in. Each column is then a view of the copy.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import pyarrow as pa

from protocols.netflow import version5
from protocols.netflow.arrays import array, listed, wire_type
from protocols.netflow.templates import (
    IPFIX,
    PADDING,
    V9,
    VARIABLE,
    Column,
    Layout,
    variable_length,
)
from protocols.netflow.walk import HEADS, V5, Sets
from protoserve.pieces import gathered, runs
from protoserve.telemetry.tables import Frames, Origins

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Part", "RowTables", "joined", "located"]

_MOST_UNKNOWN = 256
"""Columns that no registry names; anyone can make up any number of them."""

_HEADS: dict[int, tuple[tuple[str, int, int], ...]] = {
    V5: version5.HEAD,
    V9: (
        ("version", 0, 2),
        ("SysUptime", 4, 4),
        ("unix_secs", 8, 4),
        ("package_sequence", 12, 4),
        ("source_id", 16, 4),
    ),
    IPFIX: (
        ("version", 0, 2),
        ("exportTime", 4, 4),
        ("sequenceNumber", 8, 4),
        ("observationDomainId", 12, 4),
    ),
}
"""Columns that all records of a datagram share: name, place and bytes in its head."""


@attrs.frozen(eq=False)
class Part:
    """
    Records of one layout. What all records of a set have in common is there once a set.
    """

    layout: Layout
    frames: NDArray[np.int64]
    """The frame that each set is in."""
    ids: NDArray[np.int64]
    """The id of each set: its template's."""
    counts: NDArray[np.int64]
    """How many records each set has."""
    stretches: tuple[NDArray[np.int64], ...]
    """
    Where each stretch of fixed fields begins, record by record; with a fixed layout, where
    the first record of each set does.
    """
    variable: tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...] = ()
    """Where each variable field begins, and how long it is, record by record."""

    def __len__(self) -> int:
        return int(self.counts.sum())

    def spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """
        Repeat what each set has for its records.
        """
        counts = self.counts
        first = int(counts[0]) if len(counts) else 0
        if not (counts == first).all():
            return np.repeat(values, counts)
        # As it mostly is, and much faster.
        return np.broadcast_to(values[:, None], (len(values), first)).reshape(-1)

    def without(self, bad: NDArray[np.bool_]) -> Part:
        """
        Leave out the records of some frames.
        """
        sets = ~bad[self.frames]
        if sets.all():
            return self
        rows = sets if self.layout.is_fixed else self.spread(sets)
        return Part(
            self.layout,
            self.frames[sets],
            self.ids[sets],
            self.counts[sets],
            tuple(each[rows] for each in self.stretches),
            tuple((at[rows], size[rows]) for at, size in self.variable),
        )


def located(
    layout: Layout, sets: Sets, data: NDArray[np.uint8], refused: dict[int, str]
) -> Part:
    """
    Find the records of sets that have one layout.

    Args:
        layout: how they are read.
        sets: the sets.
        data: the bytes that the sets are in.
        refused: takes what is wrong with a frame.
    """
    if layout.is_fixed:
        (size,) = layout.stretches
        counts = (sets.ends - sets.starts) // size
        return Part(layout, sets.frames, sets.ids, counts, (sets.starts,))
    places: list[int] = []
    counts = np.zeros(len(sets), np.int64)
    width = 3 * len(layout.stretches) - 2
    view = data.data
    bounds = zip(sets.starts.tolist(), sets.ends.tolist(), strict=True)
    for i, (start, end) in enumerate(bounds):
        try:
            found = _stepped(layout, view[:end], start)
        except ValueError as exc:
            refused[int(sets.frames[i])] = f"set {sets.ids[i]}: {exc}"
            continue
        places += found
        counts[i] = len(found) // width
    table = np.array(places, np.int64).reshape(-1, width)
    fields = range(len(layout.stretches) - 1)
    return Part(
        layout,
        sets.frames,
        sets.ids,
        counts,
        tuple(table[:, 3 * k] for k in range(len(layout.stretches))),
        tuple((table[:, 3 * k + 1], table[:, 3 * k + 2]) for k in fields),
    )


def _stepped(layout: Layout, data: memoryview, at: int) -> list[int]:
    """
    Go through the records of a set, up to the end of `data`.

    Returns:
        For each record, where each stretch begins, and between them where each
        variable field begins and how long it is.
    """
    places: list[int] = []
    end, least = len(data), layout.least
    *fixed, last = layout.stretches
    while end - at >= least:
        for size in fixed:
            begin, length = variable_length(data, at + size)
            places += (at, begin, length)
            at = begin + length
        places.append(at)
        at += last
        if at > end:
            raise ValueError("a record goes past the end of its set")
    return places


class RowTables:
    """
    Makes tables of records.

    Args:
        numeric: whether IPv4 addresses are numbers instead of text.
    """

    def __init__(self, *, numeric: bool = False) -> None:
        self._numeric = numeric
        self._unknown: set[str] = set()
        """Columns that no registry names, as far as there is one."""

    def table(self, part: Part, frames: Frames, origins: Origins) -> pa.Table:
        """
        Make a table of records: their fields, what their datagrams say, whence they are.

        Args:
            part: the records.
            frames: their datagrams.
            origins: whence those are.
        """
        layout, data = part.layout, frames.data
        found: dict[str, pa.Array] = {}
        stretches = iter(part.stretches)
        variable = iter(part.variable)
        fixed: list[Column] = []
        for column in (*layout.columns, None):
            if column is not None and column.length != VARIABLE:
                fixed.append(column)
                continue
            found |= self._fixed(fixed, next(stretches), part, data)
            fixed = []
            if column is not None:
                at, sizes = next(variable)
                if column.kind != PADDING and self._is_wanted(column):
                    pieces = _pieces(data, at, sizes)
                    if self._numeric and column.kind == "ipv4Address":
                        kind = "unsigned32"
                        pieces = [each if len(each) == 4 else b"" for each in pieces]
                    else:
                        kind = column.kind
                    found[column.name] = listed(kind, pieces)
        heads = gathered(data, frames.starts[part.frames], _head(layout.version))
        for name, _, _ in _HEADS[layout.version]:
            if name not in found:
                values = heads[name]
                found[name] = pa.array(part.spread(values.astype(values.dtype.str[1:])))
        if layout.version != V5 and "templateId" not in found:
            found["templateId"] = pa.array(part.spread(part.ids.astype("u2")))
        found |= origins.columns(part.frames, part.spread)
        return pa.table(found, schema=_described(layout.version, found))

    def _fixed(
        self,
        columns: list[Column],
        starts: NDArray[np.int64],
        part: Part,
        data: NDArray[np.uint8],
    ) -> dict[str, pa.Array]:
        wanted = [c for c in columns if c.kind != PADDING and self._is_wanted(c)]
        if not wanted:
            return {}
        dtype = _dtype(tuple(columns))
        if part.layout.is_fixed:
            rows = runs(data, starts, part.counts, dtype)
        else:
            rows = gathered(data, starts, dtype)
        found = {}
        for column in wanted:
            kind = column.kind
            if self._numeric and kind == "ipv4Address":
                kind = "unsigned32"
            found[column.name] = array(kind, rows[column.name])
        return found

    def _is_wanted(self, column: Column) -> bool:
        """
        Say whether there is a column for it: not for any number of unknown ones.
        """
        if column.is_known or column.name in self._unknown:
            return True
        if len(self._unknown) >= _MOST_UNKNOWN:
            return False
        self._unknown.add(column.name)
        return True


def joined(parts: list[pa.Table]) -> pa.Table:
    """
    Put tables together; what one of them does not have is null.
    """
    if len(parts) == 1:
        return parts[0]
    return pa.concat_tables(parts, promote_options="default")


@functools.cache
def _head(version: int) -> np.dtype[Any]:
    names, offsets, sizes = zip(*_HEADS[version], strict=True)
    return np.dtype(
        {
            "names": names,
            "formats": [f">u{size}" for size in sizes],
            "offsets": offsets,
            "itemsize": HEADS[version],
        }
    )


@functools.lru_cache(maxsize=512)
def _dtype(columns: tuple[Column, ...]) -> np.dtype[Any]:
    return np.dtype([(c.name, wire_type(c.kind, c.length)) for c in columns])


def _pieces(
    data: NDArray[np.uint8], at: NDArray[np.int64], sizes: NDArray[np.int64]
) -> list[bytes]:
    view = data.data
    places = zip(at.tolist(), sizes.tolist(), strict=True)
    return [bytes(view[begin : begin + size]) for begin, size in places]


def _described(version: int, columns: dict[str, pa.Array]) -> pa.Schema:
    """
    Give the tables' schema, with the docs and units of version 5.
    """
    said = version5.DESCRIBED if version == V5 else {}
    return pa.schema(
        pa.field(name, values.type, metadata=said.get(name))
        for name, values in columns.items()
    )
