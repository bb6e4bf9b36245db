"""
Tables and frames as bytes, for a log's entries.

Nothing is copied that need not be: packing gives a list of buffers, among them those in
which the data is, and what is unpacked are views of the entry's payload.

Tables are Arrow IPC streams, each behind its name. Much of a datagram's head, who sent
it, and when, is the same for many rows, so columns of few runs are run-end encoded there:
half of what flows take otherwise. Arrow does not check all that it reads, so tables are
unpacked of what this machine has written, as in the spool; what came over a network is
frames.

Frames are columns. A column of numbers is its least value, and what each is more than
that in as few bytes as the greatest needs: none at all where all are equal, as lengths
often are::

    "PSF1" | datagrams, exporters' bytes, data's bytes: u32, u32, u64
    lengths, times, senders: least i64, width u8, padding; values
    exporters as JSON | data
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from protoserve.errors import DeclarationError, ProtoserveError
from protoserve.session import Peer
from protoserve.telemetry.tables import Frames

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

__all__ = [
    "UnpackError",
    "pack_frames",
    "pack_tables",
    "stream_of",
    "unpack_frames",
    "unpack_tables",
]

Buffers: TypeAlias = list[Any]
"""Bytes-like objects that belong behind each other."""

_TABLES = b"PST1"
_FRAMES = b"PSF1"
_TABLE = struct.Struct("<IQ")
_HEAD = struct.Struct("<4sIIQ")
_COLUMN = struct.Struct("<qB7x")
_WIDTHS = {1: "<u1", 2: "<u2", 4: "<u4", 8: "<u8"}
_TRANSPORTS = ("udp", "tcp", "tls", "unix", "unixgram")
_MOST = 1 << 22
"""Frames; a column of equal numbers takes no bytes, so its length needs a bound."""
_ALIGN = 8
"""Arrow reads without a copy what begins at such a multiple."""
_SAMPLE = 1024
"""Rows by which a column is told that has no runs; smaller tables are left as they are."""
_RUN = 8
"""Rows that the runs of a column have to have, by and large, for encoding to pay."""


class UnpackError(ProtoserveError):
    """
    A payload is not what it should be.
    """


def pack_tables(tables: Mapping[str, pa.Table], *, lz4: bool = False) -> Buffers:
    """
    Make buffers of tables.

    Args:
        tables: by name.
        lz4: compress columns; that costs more processor time than the disk it saves.
    """
    pa = _pyarrow()
    options = pa.ipc.IpcWriteOptions(compression="lz4" if lz4 else None)
    packed: Buffers = [_TABLES.ljust(_ALIGN, b"\0")]
    for name, table in tables.items():
        body = stream_of(_shortened(table), options)
        size = sum(memoryview(each).nbytes for each in body)
        text = name.encode()
        head = _TABLE.pack(len(text), size) + text
        packed += [_padded(head), *body, bytes(-size % _ALIGN)]
    return packed


def stream_of(
    table: pa.Table, options: pa.ipc.IpcWriteOptions, *, ended: bool = True
) -> Buffers:
    """
    Make an Arrow IPC stream of a table, whose columns are not copied.

    Args:
        table: the rows.
        options: how they are written.
        ended: whether the stream's end is behind them.
    """
    pa = _pyarrow()
    body = _Buffers()
    writer = pa.ipc.new_stream(
        pa.PythonFile(body, mode="w"), table.schema, options=options
    )
    writer.write_table(table)
    if ended:
        writer.close()
    return body.buffers


def unpack_tables(payload: bytes) -> dict[str, pa.Table]:
    """
    Give the tables of a payload; they are views of it, but for columns of few runs.

    Raises:
        UnpackError: there are none.
    """
    pa = _pyarrow()
    whole = pa.py_buffer(payload)
    if payload[: len(_TABLES)] != _TABLES:
        raise UnpackError(f"expected tables, found {bytes(payload[:8])!r}")
    tables = {}
    at = _ALIGN
    try:
        while at < len(payload):
            length, size = _TABLE.unpack_from(payload, at)
            start = at + _TABLE.size
            name = bytes(payload[start : start + length]).decode()
            at = start + length + -(_TABLE.size + length) % _ALIGN
            if at + size > len(payload):
                raise UnpackError(f"table {name}: expected {size} bytes at {at}")
            with pa.ipc.open_stream(whole.slice(at, size)) as reader:
                table = reader.read_all()
            table.validate()
            tables[name] = _lengthened(table)
            at += size + -size % _ALIGN
    except (struct.error, UnicodeDecodeError, pa.ArrowException, OSError) as error:
        raise UnpackError(f"tables at byte {at}: {error}") from error
    return tables


def pack_frames(frames: Frames) -> Buffers:
    """
    Make buffers of frames, with their times and senders.
    """
    np = _numpy()
    # Only the senders of these frames: the table they point into grows with time.
    used, senders = np.unique(frames.senders, return_inverse=True)
    exporters = [frames.exporters[index] for index in used.tolist()]
    peers = [[peer.transport, _plain(peer.address)] for peer in exporters]
    text = json.dumps(peers, separators=(",", ":")).encode()
    head = _HEAD.pack(_FRAMES, len(frames), len(text), int(frames.lengths.sum()))
    columns = (frames.lengths, frames.times, senders.astype(np.int64))
    packed: Buffers = [head]
    for column in columns:
        packed += _pack_column(column)
    return [*packed, text, *_data(frames)]


def unpack_frames(payload: bytes) -> Frames:
    """
    Give the frames of a payload; they are views of it.

    Raises:
        UnpackError: there are none.
    """
    np = _numpy()
    try:
        magic, count, text, size = _HEAD.unpack_from(payload)
        if magic != _FRAMES:
            raise UnpackError(f"expected frames, found {magic!r}")
        at = _HEAD.size
        columns = []
        for _ in range(3):
            column, at = _unpack_column(payload, at, count)
            columns.append(column)
        exporters = _exporters(bytes(payload[at : at + text]))
        lengths, times, senders = columns
        data = np.frombuffer(payload, np.uint8, size, at + text)
    except UnpackError:
        raise
    except (
        struct.error,
        ValueError,
        TypeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise UnpackError(f"frames: {error}") from error
    ends = np.cumsum(lengths)
    if count and (
        lengths.min() < 0
        or lengths.max() > size
        or ends[-1] != size
        or senders.min() < 0
        or senders.max() >= len(exporters)
    ):
        raise UnpackError(f"frames: expected {size} bytes in {count} datagrams")
    return Frames(data, ends - lengths, lengths, times, senders, exporters)


def _shortened(table: pa.Table) -> pa.Table:
    """
    Run-end encode the columns that have few runs.
    """
    if len(table) < _SAMPLE:
        return table
    for place, column in enumerate(table.columns):
        if (numbers := _numbers(column)) is None:
            continue
        some = numbers[:_SAMPLE]
        if _RUN * int((some[1:] != some[:-1]).sum()) > _SAMPLE:
            continue
        (changes,) = (numbers[1:] != numbers[:-1]).nonzero()
        if _RUN * (len(changes) + 1) <= len(numbers):
            table = _replaced(table, place, _runs(column.chunk(0), changes))
    return table


def _numbers(column: pa.ChunkedArray) -> NDArray[Any] | None:
    """
    Give numbers that are equal where a column's values are; `None` for what has others.
    """
    np, types = _numpy(), _pyarrow().types
    if column.num_chunks != 1 or column.null_count:
        return None
    array = column.chunk(0)
    if types.is_dictionary(array.type):
        array = array.indices
    if not types.is_primitive(array.type):
        return None
    width = array.type.bit_width // 8
    if width not in _WIDTHS:
        return None
    # Bits, of floats too: NaN is equal to itself there, and -0.0 is not 0.0.
    values, kind = array.buffers()[1], _WIDTHS[width]
    found: NDArray[Any] = np.frombuffer(values, kind, len(array), array.offset * width)
    return found


def _runs(array: pa.Array, changes: NDArray[np.int64]) -> pa.Array:
    """
    Encode an array; each run but the last ends at one of `changes`.
    """
    np, pa = _numpy(), _pyarrow()
    last = np.append(changes, len(array) - 1)
    ends = pa.array((last + 1).astype(np.int32))
    return pa.RunEndEncodedArray.from_arrays(ends, array.take(pa.array(last)))


def _lengthened(table: pa.Table) -> pa.Table:
    """
    Undo `_shortened`.
    """
    pa = _pyarrow()
    for place, column in enumerate(table.columns):
        if pa.types.is_run_end_encoded(column.type):
            chunks = [_repeated(chunk) for chunk in column.chunks]
            kind = column.type.value_type
            table = _replaced(table, place, pa.chunked_array(chunks, kind))
    return table


def _repeated(array: pa.Array) -> pa.Array:
    pa = _pyarrow()
    if not pa.types.is_dictionary(array.values.type):
        return pa.compute.run_end_decode(array)
    places, texts = array.values.indices, array.values.dictionary
    runs = pa.RunEndEncodedArray.from_arrays(array.run_ends, places)
    # They were in a dictionary before.
    is_ordered = array.values.type.ordered
    return pa.DictionaryArray.from_arrays(
        pa.compute.run_end_decode(runs), texts, ordered=is_ordered, safe=False
    )


def _replaced(table: pa.Table, place: int, column: Any) -> pa.Table:
    field = table.schema.field(place).with_type(column.type)
    return table.set_column(place, field, column)


class _Buffers:
    """
    A file that keeps the buffers that are written to it.
    """

    closed = False

    def __init__(self) -> None:
        self.buffers: Buffers = []

    def write(self, data: Any) -> int:
        self.buffers.append(data)
        return memoryview(data).nbytes

    def flush(self) -> None: ...

    def close(self) -> None: ...


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGN)


def _pack_column(values: NDArray[np.int64]) -> Buffers:
    least = int(values.min()) if len(values) else 0
    most = int(values.max()) - least if len(values) else 0
    width = next((w for w in (1, 2, 4) if most < 1 << 8 * w), 8) if most else 0
    head = _COLUMN.pack(least, width)
    if not width:
        return [head]
    # As unsigned numbers, a difference that does not fit the sign is right too.
    return [head, (values - least).astype(_WIDTHS[width]).data]


def _unpack_column(payload: bytes, at: int, count: int) -> tuple[Any, int]:
    np = _numpy()
    least, width = _COLUMN.unpack_from(payload, at)
    at += _COLUMN.size
    if not width:
        if count > _MOST:
            raise UnpackError(f"frames: expected at most {_MOST}, found {count}")
        return np.full(count, least, np.int64), at
    if width not in _WIDTHS:
        raise UnpackError(f"frames: expected a width of 1, 2, 4 or 8, found {width}")
    values = np.frombuffer(payload, _WIDTHS[width], count, at).astype(np.int64)
    return values + least, at + count * width


def _data(frames: Frames) -> Buffers:
    """
    Give the frames' bytes, without what is between them.
    """
    starts, lengths = frames.starts, frames.lengths
    if not len(starts):
        return []
    if bool((starts[1:] == starts[:-1] + lengths[:-1]).all()):
        return [frames.data[int(starts[0]) : int(starts[-1] + lengths[-1])].data]
    view = frames.data.data
    pairs = zip(starts.tolist(), lengths.tolist(), strict=True)
    return [b"".join([view[start : start + length] for start, length in pairs])]


def _plain(address: Any) -> Any:
    """
    Bring an address to what JSON knows; a name of a Unix socket may be bytes.
    """
    return {"bytes": address.hex()} if isinstance(address, bytes) else address


@functools.lru_cache(maxsize=256)
def _exporters(text: bytes) -> Sequence[Peer]:
    """
    Give exporters; the same object for the same one, as long as it is remembered.
    """
    return tuple(_peer(json.dumps(peer)) for peer in json.loads(text))


@functools.lru_cache(maxsize=1 << 16)
def _peer(text: str) -> Peer:
    transport, address = json.loads(text)
    match address:
        case str() | None:
            pass
        case {"bytes": str(digits)}:
            address = bytes.fromhex(digits)
        case [str(), int(), *_]:
            address = tuple(address)
        case _:
            raise UnpackError(f"expected an address, found {address!r}")
    if transport not in _TRANSPORTS:
        raise UnpackError(f"expected a transport, found {transport!r}")
    return Peer(transport, address)


def _numpy() -> Any:
    try:
        import numpy as np
    except ImportError:
        raise DeclarationError(
            "telemetry needs NumPy: pip install 'protoserve[arrow]'"
        ) from None
    return np


def _pyarrow() -> Any:
    try:
        import pyarrow as pa
        import pyarrow.compute
        import pyarrow.ipc
    except ImportError:
        raise DeclarationError(
            "telemetry needs Arrow: pip install 'protoserve[arrow]'"
        ) from None
    return pa
