"""
Batches: many messages of one kind as columns.

What fills a batch is kept in the form in which it came. Where the bytes of a message's
frames have a fixed layout, or are a fixed head with records behind it, they are kept as
bytes, and a column is a view of them: no object is made for a record. Otherwise the
messages are kept, as generated code has parsed them, and a column takes one field out
of each. Either way a column is made when it is first asked for.

NumPy is imported when it is used.
"""

from __future__ import annotations

import enum
import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import attrs

from protoserve.codec.columns import Columns, Repeating
from protoserve.codec.record import Record
from protoserve.errors import DeclarationError
from protoserve.messages import Message
from protoserve.protocol import Direction, Protocol
from protoserve.session import Peer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Batch", "Chunk", "Layout", "layout_of"]

MessageT = TypeVar("MessageT", bound=Message)


@attrs.frozen(eq=False)
class Layout:
    """
    Where the columns of one message's frames are.

    A frame is header, message and trailer, of `size` bytes together; with `records`
    the message's records come behind them, up to the end.
    """

    protocol: Protocol
    message: type[Message]
    dtype: np.dtype[Any]
    """Of header, message (without records) and trailer."""
    parts: Mapping[str, Columns]
    """The columns of each part: ``header``, ``message`` and ``trailer``."""
    records: Repeating | None
    is_checked: bool
    """Whether `matches` refuses all that parsing would."""
    places: Mapping[str, tuple[str | None, str]]
    """Where a column is: in which part, `None` for the records, by which name there."""

    @property
    def size(self) -> int:
        """
        Bytes of a frame, without its records.
        """
        return self.dtype.itemsize

    @property
    def has_checks(self) -> bool:
        """
        Whether any value is malformed at all.
        """
        return any(columns.has_checks for columns in self.parts.values())

    def counts(self, heads: NDArray[Any]) -> NDArray[np.int64] | None:
        """
        Say how many records frames claim to have; `None` if they do not say.
        """
        import numpy as np

        assert self.records is not None
        count = self.records.count
        if count is None:
            return None
        found: Any = count(_Numbers(heads["message"])) if callable(count) else count
        return np.broadcast_to(found, len(heads)).astype("i8")

    def matches(self, heads: NDArray[Any]) -> NDArray[np.bool_]:
        """
        Say which frames' fixed parts parsing would take, as far as their values go.
        """
        import numpy as np

        good = np.ones(len(heads), np.bool_)
        for part, columns in self.parts.items():
            good &= columns.matches(heads[part])
        return good


def layout_of(protocol: Protocol, message: type[Message]) -> Layout | None:
    """
    Find the layout of a message's frames.

    Returns:
        `None` if it varies in other ways than by records at the end.
    """
    import numpy as np

    from protoserve.codec.dtype import columns_of, repeating_of

    records: Repeating | None = None
    parts: dict[str, Columns] = {}
    try:
        if protocol.header is not None:
            parts["header"] = columns_of(protocol.header)
        try:
            parts["message"] = columns_of(message)
        except DeclarationError:
            records = repeating_of(message)
            parts["message"] = records.head
        if protocol.trailer is not None:
            if records is not None:
                return None  # it is behind the records
            parts["trailer"] = columns_of(protocol.trailer)
    except DeclarationError:
        return None
    layout = Layout(
        protocol,
        message,
        np.dtype([(part, columns.dtype) for part, columns in parts.items()]),
        parts,
        records,
        _is_checked(protocol, records),
        _places(parts, records),
    )
    if records is not None:
        try:
            layout.counts(np.zeros(2, layout.dtype))
        except Exception:  # the count is an expression that arrays do not know
            return None
    return layout


def _places(
    parts: Mapping[str, Columns], records: Repeating | None
) -> dict[str, tuple[str | None, str]]:
    """
    Name all columns; the message's own names are the plain ones.
    """
    names: dict[str | None, Sequence[str]] = {
        part: parts[part].names if part in parts else ()
        for part in ("header", "message", "trailer")
    }
    inside = ""
    if records is not None:
        names[None], inside = records.rows.names, records.name
    found: dict[str, tuple[str | None, str]] = {}
    for part in sorted(names, key=("message", None, "header", "trailer").index):
        for name in names[part]:
            # What begins like this is a count that the format keeps to itself.
            if not name.startswith("#"):
                full = f"{part or inside}.{name}" if name in found else name
                found[full] = part, name
    order = ("header", "message", None, "trailer")
    return dict(sorted(found.items(), key=lambda item: order.index(item[1][0])))


def _is_checked(protocol: Protocol, records: Repeating | None) -> bool:
    """
    Say whether columns alone tell what parsing would refuse.
    """
    header = protocol.header
    if protocol.trailer is not None:
        return False  # checksums; and it is seldom
    if header is not None and any(f.computed for f in header._record.fields):
        return False
    if records is None:
        return True
    return records.is_checked


@attrs.define(eq=False)
class Chunk:
    """
    Some frames of a batch, in the order in which they came.
    """

    heads: Any
    """An array of the layout's dtype, or a list of pairs of header and message."""
    rows: Any
    """The records of all frames, or `None`."""
    counts: Any
    """How many records each frame has, or `None`: each is one row."""
    times: Any
    """When each frame came: nanoseconds since the epoch."""
    senders: Any
    """Who sent each frame, as a list or an array; for `peer`."""
    peer: Callable[[Any], Peer | None]
    """Makes a peer of a sender."""
    datagrams: int = 0
    """How many of the frames are datagrams; the others came on streams."""
    size: int = attrs.field(init=False)
    """How many rows there are."""

    def __attrs_post_init__(self) -> None:
        self.size = len(self.heads) if self.counts is None else len(self.rows)

    def split(self, most: int) -> tuple[Chunk, Chunk | None]:
        """
        Cut off the first frames that have at most so many rows; at least one frame.
        """
        if self.size <= most or len(self.heads) == 1:
            return self, None
        at = rows_at = most
        if self.counts is not None:
            import numpy as np

            ends = np.cumsum(self.counts)
            at = max(1, int(np.searchsorted(ends, most, side="right")))
            rows_at = int(ends[at - 1])
        # Of a mixture it is not known which frames are datagrams: the first, say.
        datagrams = min(at, self.datagrams)
        return (
            self._part(slice(0, at), slice(0, rows_at), datagrams),
            self._part(
                slice(at, None), slice(rows_at, None), self.datagrams - datagrams
            ),
        )

    def _part(self, frames: slice, rows: slice, datagrams: int) -> Chunk:
        return Chunk(
            self.heads[frames],
            None if self.rows is None else self.rows[rows],
            None if self.counts is None else self.counts[frames],
            self.times[frames],
            self.senders[frames],
            self.peer,
            datagrams,
        )


class Batch(Generic[MessageT]):
    """
    Many messages of one kind, as columns.

    ``batch["celsius"]`` is a NumPy array with one value a row; ``len(batch)`` is how
    many rows there are. A message is a row; but one that ends in a list of records of
    fixed layout is as many rows as it has records, with the rest of it repeated beside
    each. The header's fields are columns too. Fields of nested messages have dots in
    their names; of a name that stands in header and message, the message's is the plain
    one, the other is ``header.NAME``.

    Numbers are in the byte order of the wire, enums are their numbers. Where the layout
    varies, columns of anything but plain numbers hold objects.
    """

    def __init__(self, source: Source, chunks: Sequence[Chunk]) -> None:
        self._source = source
        self._chunks = chunks
        self._columns: dict[str, NDArray[Any]] = {}
        self._size = sum(chunk.size for chunk in chunks)

    def __repr__(self) -> str:
        return f"<Batch of {self._size} rows of {self._source.message.__name__}>"

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, name: str) -> NDArray[Any]:
        found = self._columns.get(name)
        if found is None:
            source = self._source
            if name not in source.names:
                known = ", ".join(source.names)
                raise KeyError(
                    f"{source.message.__name__} has no column {name!r} (known: {known})"
                )
            found = self._columns[name] = self._spread(*source.column(self, name))
        return found

    def _spread(self, values: NDArray[Any], is_row: bool) -> NDArray[Any]:
        """
        Repeat what a frame has for each of its rows.
        """
        import numpy as np

        counts = self._counts
        return values if is_row or counts is None else np.repeat(values, counts, axis=0)

    @property
    def datagrams(self) -> int:
        """
        How many datagrams it comes from; what came on streams is not counted.
        """
        return sum(chunk.datagrams for chunk in self._chunks)

    @property
    def columns(self) -> Mapping[str, NDArray[Any]]:
        """
        All columns by name, each made when it is first looked at.
        """
        return _ByName(self)

    @functools.cached_property
    def peers(self) -> list[Peer | None]:
        """
        Who sent each row: the same object for the same peer.
        """
        known: dict[Any, Peer | None] = {}
        made: list[Peer | None] = []
        for chunk in self._chunks:
            found = []
            senders = chunk.senders
            for sender in senders.tolist() if hasattr(senders, "tolist") else senders:
                if sender not in known:
                    known[sender] = chunk.peer(sender)
                found.append(known[sender])
            if chunk.counts is None:
                made += found
            else:
                pairs = zip(found, chunk.counts.tolist(), strict=True)
                for peer, count in pairs:
                    made += [peer] * count
        return made

    @functools.cached_property
    def received_at(self) -> NDArray[np.datetime64]:
        """
        When each row came, in UTC: an array of ``datetime64[ns]``.
        """
        import numpy as np

        times = [np.asarray(chunk.times, "i8") for chunk in self._chunks]
        return self._spread(_joined(times).view("M8[ns]"), is_row=False)

    @functools.cached_property
    def messages(self) -> Sequence[MessageT]:
        """
        The messages themselves, parsed when they are looked at: one a frame, not a row.
        """
        return _Messages(self)

    def to_arrow(self) -> Any:
        """
        Give all columns as a `pyarrow.Table`; docs and units are the fields' metadata.

        This needs PyArrow, from the extra ``protoserve[arrow]``.
        """
        from protoserve.arrow import Column, table_of

        describe = self._source.describe
        return table_of(Column(n, self[n], *describe(n)) for n in self._source.names)

    @functools.cached_property
    def _heads(self) -> Any:
        return _joined([chunk.heads for chunk in self._chunks])

    @functools.cached_property
    def _rows(self) -> Any:
        return _joined([chunk.rows for chunk in self._chunks])

    @functools.cached_property
    def _counts(self) -> Any:
        if not self._chunks or self._chunks[0].counts is None:
            return None
        return _joined([chunk.counts for chunk in self._chunks])


@attrs.frozen(eq=False)
class Source:
    """
    What a batch's messages are, and how its columns are found.
    """

    protocol: Protocol
    message: type[Message]
    layout: Layout | None

    @functools.cached_property
    def names(self) -> Sequence[str]:
        """
        The columns' names.
        """
        if self.layout is not None:
            return tuple(self.layout.places)
        return tuple(self._getters)

    def column(self, batch: Batch[Any], name: str) -> tuple[NDArray[Any], bool]:
        """
        Make a column; say whether it has a value for each row, or for each frame.
        """
        layout = self.layout
        if layout is None:
            return self._collected(batch._heads, name), False
        part, inner = layout.places[name]
        if part is None:
            assert layout.records is not None
            return layout.records.rows.column(batch._rows, inner), True
        return layout.parts[part].column(batch._heads[part], inner), False

    def describe(self, name: str) -> tuple[str, str]:
        """
        Give a column's doc and unit.
        """
        part: str | None = "header" if name.startswith("header.") else "message"
        inner = name.removeprefix("header.")
        if self.layout is not None:
            part, inner = self.layout.places[name]
        elif inner not in attrs.fields_dict(self.message):  # type: ignore[arg-type]
            part = "header"
        owners = {"header": self.protocol.header, "trailer": self.protocol.trailer}
        owner: Any = owners.get(part or "", self.message)
        if part is None and self.layout is not None and self.layout.records is not None:
            owner = self.layout.records.rows.owner
        return _described(None if owner is None else owner._record, inner.split("."))

    def message_at(self, batch: Batch[Any], index: int) -> Any:
        """
        Make one of the messages.
        """
        if self.layout is None:
            return batch._heads[index][1]
        data = batch._heads[index].tobytes()
        if batch._counts is not None:
            start = int(batch._counts[:index].sum())
            data += batch._rows[start : start + int(batch._counts[index])].tobytes()
        return self.protocol.parse(data, Direction.REQUEST).message

    @functools.cached_property
    def _getters(self) -> dict[str, tuple[Callable[[Any], Any], Any]]:
        """
        For each column of messages that vary: what reads it, and the array's dtype.
        """
        from protoserve.codec.dtype import number_types

        found: dict[str, tuple[Callable[[Any], Any], Any]] = {}
        for index, cls in ((1, self.message), (0, self.protocol.header)):
            types = {} if cls is None else number_types(cls)
            for attribute in () if cls is None else attrs.fields(cls):  # type: ignore[arg-type]
                name = attribute.name
                full = f"header.{name}" if name in found else name
                kind = types.get(name)
                found[full] = _reader(index, name, kind), kind or object
        own = len(attrs.fields(self.message))  # type: ignore[arg-type]
        names = list(found)
        return {name: found[name] for name in names[own:] + names[:own]}

    def _collected(self, pairs: Sequence[Any], name: str) -> NDArray[Any]:
        import numpy as np

        read, kind = self._getters[name]
        values = np.empty(len(pairs), kind)
        values[:] = [read(pair) for pair in pairs] if pairs else []
        return values


def _described(record: Any, path: list[str]) -> tuple[str, str]:
    """
    Find what is said of a field, which may be inside of other messages.
    """
    while record is not None and not isinstance(record, Record):
        record = getattr(record, "subcon", None)
    for field in () if record is None else record.fields:
        if field.name == path[0]:
            if len(path) > 1:
                return _described(field.construct, path[1:])
            return field.doc, field.unit
    return "", ""


def _reader(index: int, name: str, kind: Any) -> Callable[[Any], Any]:
    read = operator.attrgetter(name)
    if kind is None:
        return lambda pair: read(pair[index])

    def number(pair: Any) -> Any:
        value = read(pair[index])
        if isinstance(value, str):  # of an Enum of Construct's
            return int(value)
        return value.value if isinstance(value, enum.Enum) else value

    return number


class _Numbers(dict[str, Any]):
    """
    The integers among the columns of some records, each as it is asked for.
    """

    def __init__(self, records: NDArray[Any]) -> None:
        super().__init__()
        self._records = records

    def __missing__(self, name: str) -> NDArray[np.int64]:
        values = self._records[name]
        if values.dtype.kind not in "iu":
            raise KeyError(name)
        # As wide as Python's numbers, so that nothing wraps round.
        wide: NDArray[np.int64] = values.astype("i8")
        self[name] = wide
        return wide


class _ByName(Mapping[str, Any]):
    def __init__(self, batch: Batch[Any]) -> None:
        self._batch = batch

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._batch[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._batch._source.names)

    def __len__(self) -> int:
        return len(self._batch._source.names)


class _Messages(Sequence[Any]):
    def __init__(self, batch: Batch[Any]) -> None:
        self._batch = batch

    def __len__(self) -> int:
        return len(self._batch._heads)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = operator.index(index)
        if place < 0:
            place += len(self)
        if not 0 <= place < len(self):
            raise IndexError(f"there are {len(self)} messages, and none at {index}")
        return self._batch._source.message_at(self._batch, place)


def _joined(parts: list[Any]) -> Any:
    if not parts or isinstance(parts[0], list):
        return list(itertools.chain.from_iterable(parts))
    if len(parts) == 1:
        return parts[0]
    import numpy as np

    kind = parts[0].dtype
    if not kind.itemsize:
        return np.zeros(sum(map(len, parts)), kind)
    # As bytes: to join records, NumPy would bring them to its own byte order.
    return np.concatenate([part.view(np.uint8) for part in parts]).view(kind)
