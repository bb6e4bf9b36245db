"""
Rows of batch routes, taken out of a block of datagrams without looking at each.

The bytes of a block lie at equal distances, so the fixed parts of all its frames are one
array, and so are the records behind them. Which of them are well-formed messages for the
route is found a column at a time. Those are copied, and the block is free for the next
receive; the others are left to be handled one by one, which also tells what is wrong with
them.

That is done where columns alone tell what parsing would refuse, and where nobody asks to
be told of single peers or messages (hooks for connections, a state table).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from protoserve.batch import Chunk, Layout
from protoserve.framing.base import Framing
from protoserve.protocol import Direction, Protocol
from protoserve.session import Peer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from protoserve.gathering import Gathering
    from protoserve.server.batch import Block
    from protoserve.service import Service

__all__ = ["Picked", "Picker", "RowsTakers", "picker_of"]


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
        if not block.gro and block.is_internet:
            for taker in self._takers:
                taken = taker.take(block)
                if taken is None:
                    return None
                left = ~taken if left is None else left & ~taken
        return [True] * block.count if left is None else left.tolist()


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
    Finds the frames of one message among many that begin at equal distances.

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
        # Copied as bytes, whatever is in them.
        self._whole = np.dtype(f"V{layout.size}")
        self._record = None if layout.records is None else layout.records.rows.dtype
        self._is_judged = bool(tags or layout.has_checks or layout.records)
        """Whether it takes more than the right length to be one."""

    def pick(self, data: Any, stride: int, lengths: NDArray[Any]) -> Picked | None:
        """
        Pick the message's frames.

        Args:
            data: the bytes of all frames, each `stride` bytes behind the one before.
            stride: bytes; no frame is longer.
            lengths: bytes of each frame.

        Returns:
            `None` if there can be none.
        """
        count = len(lengths)
        if self.layout.size > stride or not count:
            return None  # no frame is as long
        frames: Any = np.ndarray((count,), self._whole, data, 0, (stride,))
        if self._record is None:
            good = lengths == self.layout.size  # and that is not too long
        else:
            good = (lengths >= self.layout.size) & (lengths <= self._longest)
        whole = bool(good.all())
        places = np.arange(count) if whole else np.flatnonzero(good)
        heads = (frames.copy() if whole else frames[places]).view(self.layout.dtype)
        rows = counts = None
        if self._is_judged:
            fits = self.layout.matches(heads)
            for name, value in self._tags:
                header = self.layout.parts["header"]
                fits &= header.column(heads["header"], name) == value
            if self._record is not None:
                rows, counts = self._records(data, stride, lengths, heads, places, fits)
            if not fits.all():
                heads, places = heads[fits], places[fits]
        return Picked(heads, rows, counts, places)

    def _records(
        self,
        data: Any,
        stride: int,
        lengths: NDArray[Any],
        heads: NDArray[Any],
        places: NDArray[Any],
        fits: NDArray[np.bool_],
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """
        Copy the records of all frames that are well-formed; `fits` then says which.
        """
        record, size = self._record, self.layout.size
        assert record is not None
        assert self.layout.records is not None
        each = record.itemsize
        counts, rest = np.divmod(lengths[places].astype("i8") - size, each)
        fits &= rest == 0
        claimed = self.layout.counts(heads)
        if claimed is not None:
            fits &= claimed == counts
        while True:
            taken, chosen = counts[fits], places[fits]
            most = int(taken.max(initial=0))
            # Those of a frame are one piece.
            pieces: Any = np.ndarray(
                (len(lengths),), f"V{most * each}", data, size, (stride,)
            )
            found = pieces.copy() if len(chosen) == len(lengths) else pieces[chosen]
            rows = found.view(f"V{each}") if most else np.zeros(0, f"V{each}")
            if not (taken == most).all():
                table = rows.reshape(len(taken), most)
                rows = table[np.arange(most) < taken[:, None]]
            rows = rows.view(record)
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
        self._block: Block | None = None

    def take(self, block: Block) -> NDArray[np.bool_] | None:
        """
        Take what is for the route; say which datagrams that were, `None` if all were.
        """
        count = block.count
        if block is not self._block:
            self._know(block)
        picked = self._picker.pick(block.data, block.stride, self._lengths[:count])
        if picked is None:
            return np.zeros(count, np.bool_)
        heads, rows, counts, places = taken = picked
        if counts is not None and not counts.all():  # one without records is no row
            some = counts > 0
            heads, counts, places = heads[some], counts[some], places[some]
        if len(heads):
            self._give(block, heads, rows, counts, places)
        if len(taken.places) == count:
            return None
        mask = np.zeros(count, np.bool_)
        mask[taken.places] = True
        return mask

    def _know(self, block: Block) -> None:
        """
        Make the arrays that every receive fills anew.
        """
        self._block = block
        self._lengths = np.asarray(block.lengths)
        self._seconds = np.asarray(block.seconds)
        self._nanoseconds = np.asarray(block.nanoseconds)
        self._name = np.dtype(f"V{block.name_stride}")
        plain = block.addresses.plain
        self._peer = lambda sender: Peer("udp", plain(sender))

    def _give(
        self,
        block: Block,
        heads: NDArray[Any],
        rows: NDArray[Any] | None,
        counts: NDArray[Any] | None,
        places: NDArray[Any],
    ) -> None:
        count = block.count
        names: Any = np.frombuffer(
            bytes(block.names[: count * block.name_stride]), self._name
        )
        if block.is_stamped:
            times = self._seconds[places] * 1_000_000_000 + self._nanoseconds[places]
        else:  # they came together
            moment = block.seconds[0] * 1_000_000_000 + block.nanoseconds[0]
            times = np.full(len(heads), moment)
        senders = names if len(places) == count else names[places]
        chunk = Chunk(heads, rows, counts, times, senders, self._peer, len(heads))
        self._gathering.complete(self._gathering.add_chunk(chunk))
