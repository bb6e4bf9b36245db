"""
Rows of batch routes, taken out of a block of datagrams without looking at each.

The fixed parts of all frames that may be the route's message are copied to one array, and
the records behind them to another, wherever they were. Which of them are well-formed is
found a column at a time, and the block is free for the next receive; the others are left to
be handled one by one, which also tells what is wrong with them.

That is done where columns alone tell what parsing would refuse, and where nobody asks to
be told of single peers or messages (hooks for connections, a state table).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from protoserve.batch import Chunk, Layout
from protoserve.framing.base import Framing
from protoserve.pieces import gathered, runs
from protoserve.protocol import Direction, Protocol
from protoserve.session import Peer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from protoserve.gathering import Gathering
    from protoserve.server.batch import Block
    from protoserve.service import Service

__all__ = ["Datagrams", "Picked", "Picker", "RowsTakers", "datagrams_of", "picker_of"]


class RowsTakers:
    """
    Takes the rows of all batch routes of a service.
    """

    def __init__(self, service: Service) -> None:
        made = [_taker(service, each) for each in service.gatherings.values()]
        self._takers = [taker for taker in made if taker is not None]

    def take(self, block: Block) -> list[bool] | None:
        """
        Take what is for the routes; say which datagrams are left, `None` if none is.
        """
        left = None
        if block.is_internet and self._takers:
            found = datagrams_of(block)
            for taker in self._takers:
                taken = taker.take(block, found)
                if taken is None:
                    return None
                left = ~taken if left is None else left & ~taken
        return [True] * block.total if left is None else left.tolist()


class Datagrams(NamedTuple):
    """
    Where the datagrams of a block are.
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    rows: NDArray[np.int64]
    """The row of each: the kernel may have put many into one."""
    names: NDArray[Any]
    """By row: the sender's raw address."""
    moments: NDArray[np.int64]
    """By row: when it came, in nanoseconds since the epoch."""


def datagrams_of(block: Block) -> Datagrams:
    """
    Find the datagrams of a block whose senders all have addresses of one length.

    What is given does not change with the next receive, but for the bytes.
    """
    count = block.count
    rows = np.arange(count)
    starts = np.asarray(block.starts)[:count]
    lengths = np.asarray(block.lengths)[:count].astype("i8")
    if block.gro:
        whole, room = starts, lengths
        each = np.asarray(block.segments)[:count].astype("i8")
        each = np.where(each, each, np.maximum(lengths, 1))
        counts = np.maximum(-(-lengths // each), 1)
        rows = np.repeat(rows, counts)
        before = np.cumsum(counts) - counts
        offsets = (np.arange(len(rows)) - before[rows]) * each[rows]
        starts = whole[rows] + offsets
        lengths = np.minimum(each[rows], room[rows] - offsets)
    names: Any = np.frombuffer(
        bytes(block.names[: count * block.name_stride]), f"V{block.name_stride}"
    )
    moments = np.asarray(block.seconds)[:count] * 1_000_000_000
    moments += np.asarray(block.nanoseconds)[:count]
    return Datagrams(starts, lengths, rows, names, moments)


def _taker(service: Service, gathering: Gathering) -> _RowsTaker | None:
    """
    Make what takes the rows of a batch route; `None` where each has to be looked at.
    """
    routes = service._routes
    if routes.connected or routes.disconnected or service.journal is not None:
        return None
    picker = picker_of(service.protocol, service.framing, gathering.layout)
    return None if picker is None else _RowsTaker(gathering, picker)


def picker_of(
    protocol: Protocol, framing: Framing | None, layout: Layout | None
) -> Picker | None:
    """
    Make what finds a message's frames; `None` where columns alone do not tell them.

    Args:
        protocol: what is spoken.
        framing: what cuts it; each datagram is a frame without one.
        layout: the message's.
    """
    if layout is None or not layout.is_checked or protocol.states is not None:
        return None
    if framing is not None and framing.in_frame:
        return None
    tags: list[tuple[str, Any]] = []
    if protocol.tag is not None:
        names = (protocol.tag,) if isinstance(protocol.tag, str) else protocol.tag
        found = protocol.tag_of(layout.message, Direction.REQUEST)
        values = found if isinstance(found, tuple) else (found,)
        if not isinstance(names, tuple) or not all(type(v) is int for v in values):
            return None
        if not set(names) <= set(layout.parts["header"].names):
            return None
        tags = list(zip(names, values, strict=True))
    longest = np.iinfo("u4").max if framing is None else framing.max_size
    if layout.size > longest:
        return None
    return Picker(layout, tags, longest)


class Picked(NamedTuple):
    """
    The well-formed frames of one message among others, copied.
    """

    heads: NDArray[Any]
    rows: NDArray[Any] | None
    counts: NDArray[Any] | None
    places: NDArray[Any]
    """Where they were."""


class Picker:
    """
    Finds the frames of one message among many.

    Args:
        layout: where the columns are in a frame.
        tags: the header's columns that say which message it is, and their values.
        longest: bytes of the longest frame.
    """

    def __init__(
        self, layout: Layout, tags: list[tuple[str, Any]], longest: int
    ) -> None:
        self.layout = layout
        self._tags = tags
        self._longest = longest
        self._record = None if layout.records is None else layout.records.rows.dtype
        self._is_judged = bool(tags or layout.has_checks or layout.records)
        """Whether it takes more than the right length to be one."""

    def pick(
        self, data: Any, starts: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> Picked | None:
        """
        Pick the message's frames.

        Args:
            data: contiguous memory that all frames are in.
            starts: where each begins.
            lengths: bytes of each.

        Returns:
            `None` if there are none.
        """
        if self._record is None:
            good = lengths == self.layout.size  # and that is not too long
        else:
            good = (lengths >= self.layout.size) & (lengths <= self._longest)
        places = np.flatnonzero(good)
        if not len(places):
            return None
        heads = gathered(data, starts[places], self.layout.dtype)
        rows = counts = None
        if self._is_judged:
            fits = self.layout.matches(heads)
            for name, value in self._tags:
                header = self.layout.parts["header"]
                fits &= header.column(heads["header"], name) == value
            if self._record is not None:
                starts, lengths = starts[places], lengths[places]
                rows, counts = self._records(data, starts, lengths, heads, fits)
            if not fits.all():
                heads, places = heads[fits], places[fits]
        return Picked(heads, rows, counts, places)

    def _records(
        self,
        data: Any,
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        heads: NDArray[Any],
        fits: NDArray[np.bool_],
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """
        Copy the records of all frames that are well-formed; `fits` then says which.
        """
        record, size = self._record, self.layout.size
        assert record is not None
        assert self.layout.records is not None
        counts, rest = np.divmod(lengths - size, record.itemsize)
        fits &= rest == 0
        claimed = self.layout.counts(heads)
        if claimed is not None:
            fits &= claimed == counts
        while True:
            taken = counts[fits]
            rows = runs(data, starts[fits] + size, taken, record)
            good = self.layout.records.rows.matches(rows)
            if good.all():
                return rows, taken
            # A frame with one bad record is malformed altogether.
            owners = np.repeat(np.flatnonzero(fits), taken)
            fits[owners[~good]] = False


class _RowsTaker:
    """
    Takes the rows of one batch route.

    Args:
        gathering: where they go.
        picker: finds the message's frames.
    """

    def __init__(self, gathering: Gathering, picker: Picker) -> None:
        self._gathering = gathering
        self._picker = picker

    def take(self, block: Block, found: Datagrams) -> NDArray[np.bool_] | None:
        """
        Take what is for the route; say which datagrams that were, `None` if all were.
        """
        picked = self._picker.pick(block.data, found.starts, found.lengths)
        mask = np.zeros(len(found.starts), np.bool_)
        if picked is None:
            return mask
        heads, rows, counts, places = picked
        mask[places] = True
        if counts is not None and not counts.all():  # one without records is no row
            some = counts > 0
            heads, counts, places = heads[some], counts[some], places[some]
        if len(heads):
            self._give(block, found, Picked(heads, rows, counts, places))
        return None if mask.all() else mask

    def _give(self, block: Block, found: Datagrams, picked: Picked) -> None:
        heads, rows, counts, places = picked
        origins = found.rows[places]
        plain = block.addresses.plain
        chunk = Chunk(
            heads,
            rows,
            counts,
            found.moments[origins],
            found.names[origins],
            lambda sender: Peer("udp", plain(sender)),
            len(heads),
        )
        self._gathering.complete(self._gathering.add_chunk(chunk))
