r"""
Arrow columns as PostgreSQL's binary COPY, built by NumPy: no Python object a value.

A row is a 16-bit count of fields, and of each field a 32-bit length and that many bytes;
-1 is NULL. Where all fields have one width, rows are one structured array. Text, bytes
and columns with NULLs vary, so a row is cut into segments instead: what has a fixed width
(counts, lengths, numbers) and what has not take turns. The segments' lengths say of each
byte of the body to which segment it belongs, and since a segment's own bytes are in the
order of the rows, one masked assignment a segment puts them where they go::

    fixed 0        variable 0   fixed 1          fixed 0     …
    00 02 00000003 'a' 'b' 'c'  00000004 000007  00 02 …

Widths come from `CODECS`, by the type of the column in the store.

Traps: the text type takes no NUL, so one hostile byte would cost a whole batch: it becomes
U+FFFD. PostgreSQL counts microseconds from 2000-01-01; what is finer is cut. Numeric is
digits to the base of 10,000, of which zeros in front are allowed.

Source: PostgreSQL's documentation, COPY, "Binary Format"; the types' ``…recv`` functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from protoserve.telemetry.sinks.values import json_able, listed

__all__ = ["CODECS", "END", "HEADER", "bodies"]

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
"""The signature; no flags, no extension."""
END = b"\xff\xff"
CHUNK = 16_384
"""Rows that are built at once: the masks stay within the processor's cache."""
_EPOCH_DAYS = 10_957
_EPOCH_US = _EPOCH_DAYS * 86_400_000_000
"""From 1970 to 2000."""


@attrs.frozen(eq=False)
class _Values:
    """
    The bytes of a column's values that are not NULL, one behind the other.
    """

    data: NDArray[Any]
    """One big-endian value a row; or, with `lengths`, bytes."""
    lengths: NDArray[np.int64] | None = None


Codec = Callable[[pa.Array], _Values]


def bodies(table: pa.Table, kinds: Sequence[str]) -> Iterator[bytes]:
    """
    Build the rows of a table, some thousand at a time.

    Args:
        table: the rows, of plain types (see `schema.plain`).
        kinds: the type of each column in the store, of `CODECS`.
    """
    for start in range(0, table.num_rows, CHUNK):
        part = table.slice(start, CHUNK)
        columns = [
            column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
            for column in part.columns
        ]
        yield _body(columns, kinds, part.num_rows)


@attrs.define(eq=False)
class _Segment:
    """
    What stands in each row between two things of varying length.
    """

    fields: list[NDArray[Any] | int] = attrs.field(factory=list)
    """Arrays of a value a row; a number is the same length in all of them."""

    def join(self, rows: int) -> NDArray[Any]:
        kinds = [
            (f"f{n}", each.dtype if isinstance(each, np.ndarray) else ">i4")
            for n, each in enumerate(self.fields)
        ]
        joined = np.empty(rows, np.dtype(kinds))
        for (name, _), values in zip(kinds, self.fields, strict=True):
            joined[name] = values
        return joined


def _body(columns: Sequence[pa.Array], kinds: Sequence[str], rows: int) -> bytes:
    fixed = _Segment([np.full(rows, len(columns), ">i2")])
    segments: list[tuple[NDArray[np.uint8], NDArray[np.int64] | int]] = []

    def cut(lengths: NDArray[np.int64], data: NDArray[np.uint8]) -> None:
        nonlocal fixed
        joined = fixed.join(rows)
        segments.append((joined.view(np.uint8), joined.itemsize))
        segments.append((data, lengths))
        fixed = _Segment()

    for column, kind in zip(columns, kinds, strict=True):
        valid = None
        if column.null_count:
            valid = column.is_valid().to_numpy(zero_copy_only=False)
            column = column.drop_null()
        values = CODECS[kind](column)
        if values.lengths is None and valid is None:
            fixed.fields += [values.data.dtype.itemsize, values.data]
            continue
        lengths = values.lengths
        if lengths is None:
            lengths = np.full(len(column), values.data.dtype.itemsize)
        prefix = lengths
        if valid is not None:
            lengths, short = np.zeros(rows, np.int64), lengths
            lengths[valid] = short
            prefix = np.where(valid, lengths, -1)
        fixed.fields.append(prefix.astype(">i4"))
        cut(lengths, np.ascontiguousarray(values.data).view(np.uint8))
    if not segments:
        return fixed.join(rows).tobytes()
    if fixed.fields:
        joined = fixed.join(rows)
        segments.append((joined.view(np.uint8), joined.itemsize))
    lengths = np.empty((rows, len(segments)), np.int64)
    for place, (_, length) in enumerate(segments):
        lengths[:, place] = length
    turns = np.tile(np.arange(len(segments), dtype=np.uint16), rows)
    belongs = np.repeat(turns, lengths.ravel())
    body = np.empty(len(belongs), np.uint8)
    for place, (data, _) in enumerate(segments):
        body[belongs == place] = data
    return body.tobytes()


def _number(kind: str) -> Codec:
    def codec(array: pa.Array) -> _Values:
        if pa.types.is_decimal(array.type):
            array = array.cast(pa.float64())
        return _Values(array.to_numpy(zero_copy_only=False).astype(kind))

    return codec


def _moment(array: pa.Array) -> _Values:
    micros = array.cast(pa.timestamp("us", array.type.tz), safe=False)
    since = micros.cast(pa.int64()).to_numpy(zero_copy_only=False) - _EPOCH_US
    return _Values(since.astype(">i8"))


def _date(array: pa.Array) -> _Values:
    days = array.cast(pa.int32()).to_numpy(zero_copy_only=False)
    return _Values((days - _EPOCH_DAYS).astype(">i4"))


def _time(array: pa.Array) -> _Values:
    micros = array.cast(pa.time64("us"), safe=False).cast(pa.int64())
    return _Values(micros.to_numpy(zero_copy_only=False).astype(">i8"))


def _numeric(array: pa.Array) -> _Values:
    """
    Integers and decimals: long division by 10,000, all rows at once.
    """
    scale = array.type.scale if pa.types.is_decimal(array.type) else 0
    limbs, negative = _limbs(array)
    factor = np.uint64(10 ** (-scale % 4))
    carry = np.zeros(len(array), np.uint64)
    for place in reversed(range(len(limbs))):
        raised = limbs[place] * factor + carry
        carry, limbs[place] = raised >> _HALF, raised & _LOW
    count = -(-32 * len(limbs) // 13)  # 10,000 has more than 13 bits
    data = np.zeros(
        len(array),
        [("n", ">i2"), ("weight", ">i2"), ("sign", ">u2"), ("scale", ">i2")]
        + [(f"d{place}", ">i2") for place in range(count)],
    )
    data["n"], data["scale"] = count, scale
    data["weight"] = count - 1 + -scale // 4
    data["sign"] = np.where(negative, 0x4000, 0)
    for digit in reversed(range(count)):
        rest = np.zeros(len(array), np.uint64)
        for place, limb in enumerate(limbs):
            limbs[place], rest = np.divmod(rest << _HALF | limb, np.uint64(10_000))
        data[f"d{digit}"] = rest
    return _Values(data)


_HALF, _LOW = np.uint64(32), np.uint64(0xFFFF_FFFF)


def _limbs(array: pa.Array) -> tuple[list[NDArray[np.uint64]], NDArray[np.bool_]]:
    """
    Give the size of numbers in 32-bit parts, the highest first, and which are negative.
    """
    if pa.types.is_decimal(array.type):
        raw = np.frombuffer(array.buffers()[1], "<u8").reshape(-1, 2)
        raw = raw[array.offset : array.offset + len(array)]
        low, high = raw[:, 0].copy(), raw[:, 1].copy()
        negative = high >> np.uint64(63) != 0
        low[negative] = ~low[negative] + np.uint64(1)
        high[negative] = ~high[negative] + (low[negative] == 0)
        # One more: bringing the scale to a multiple of four may need it.
        parts = [np.zeros_like(high), high >> _HALF, high & _LOW]
    else:
        numbers = array.to_numpy(zero_copy_only=False)
        negative = numbers < 0
        low = numbers.astype(np.uint64)
        low[negative] = ~low[negative] + np.uint64(1)
        parts = []
    return [*parts, low >> _HALF, low & _LOW], negative


def _bytes(array: pa.Array) -> _Values:
    kind = array.type
    if pa.types.is_fixed_size_binary(kind):
        width = kind.byte_width
        raw = np.frombuffer(array.buffers()[1], np.uint8)
        raw = raw[array.offset * width : (array.offset + len(array)) * width]
        return _Values(raw.view(f"V{width}"))
    _, offsets, data = array.buffers()
    if not len(array) or data is None:
        return _Values(np.empty(0, np.uint8), np.zeros(len(array), np.int64))
    places = np.frombuffer(offsets, np.int32)
    places = places[array.offset : array.offset + len(array) + 1].astype(np.int64)
    raw = np.frombuffer(data, np.uint8)[places[0] : places[-1]]
    return _Values(raw, np.diff(places))


def _text(array: pa.Array) -> _Values:
    values = _bytes(array)
    if len(values.data) and not values.data.all():
        values = _bytes(pc.replace_substring(array, "\0", "\ufffd"))
    return values


def _json(array: pa.Array) -> _Values:
    """
    Lists, maps and structs: the slow way, an object a value.
    """
    texts = [
        # Version 1 of jsonb's binary form is its text.
        "\x01" + _NUL.sub(r"\1\\ufffd", json.dumps(json_able(value)))
        for value in listed(array)
    ]
    return _bytes(pa.array(texts, pa.string()))


_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
"""A NUL in JSON, and what is before it that only looks like its backslash."""

CODECS: dict[str, Codec] = {
    "smallint": _number(">i2"),
    "integer": _number(">i4"),
    "bigint": _number(">i8"),
    "numeric": _numeric,
    "real": _number(">f4"),
    "double precision": _number(">f8"),
    "boolean": _number("u1"),
    "text": _text,
    "bytea": _bytes,
    "timestamp with time zone": _moment,
    "timestamp without time zone": _moment,
    "date": _date,
    "time without time zone": _time,
    "jsonb": _json,
}
"""The bytes of values, by what PostgreSQL calls the column's type."""
