"""
The smallest type that holds the values of two.

Integers become the smallest that hold both, beyond 64 bits decimals; integers and floats
doubles; lists, maps and structs are widened by what they are made of. What would have to
be guessed, as whether text is a number, has none.
"""

from __future__ import annotations

import pyarrow as pa
from pyarrow import types

__all__ = ["UINT64_DIGITS", "widened"]

UINT64_DIGITS = 20
"""Of the largest integer of 64 bits."""
_UNITS = ("s", "ms", "us", "ns")


def widened(have: pa.DataType, new: pa.DataType) -> pa.DataType | None:
    """
    Give the smallest type that holds the values of both; `None`: there is none.

    >>> widened(pa.uint32(), pa.int8())
    DataType(int64)
    """
    if have == new or types.is_null(new):
        return have
    if types.is_null(have):
        return new
    if types.is_integer(have) and types.is_integer(new):
        return _wider_int(have, new)
    if _is_number(have) and _is_number(new):
        return _wider_number(have, new)
    if _is_bytes(have) and _is_bytes(new):
        return pa.binary()
    if types.is_timestamp(have) and types.is_timestamp(new):
        if (have.tz is None) is not (new.tz is None):
            return None
        return pa.timestamp(_finer(have.unit, new.unit), have.tz)
    if types.is_time(have) and types.is_time(new):
        unit = _finer(have.unit, new.unit)
        return pa.time64(unit) if unit in ("us", "ns") else pa.time32(unit)
    return _wider_nested(have, new)


def _wider_nested(have: pa.DataType, new: pa.DataType) -> pa.DataType | None:
    if types.is_map(have) and types.is_map(new):
        key = widened(have.key_type, new.key_type)
        item = widened(have.item_type, new.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    lists = (types.is_list, types.is_fixed_size_list)
    if all(any(is_(kind) for is_ in lists) for kind in (have, new)):
        value = widened(have.value_type, new.value_type)
        if value is None:
            return None
        sizes = {getattr(kind, "list_size", -1) for kind in (have, new)}
        return pa.list_(value, sizes.pop() if len(sizes) == 1 else -1)
    if types.is_struct(have) and types.is_struct(new):
        fields = {field.name: field.type for field in have}
        for field in new:
            kind = widened(fields.get(field.name, pa.null()), field.type)
            if kind is None:
                return None
            fields[field.name] = kind
        return pa.struct(list(fields.items()))
    return None


def _wider_int(have: pa.DataType, new: pa.DataType) -> pa.DataType:
    signed = types.is_signed_integer(have), types.is_signed_integer(new)
    if signed[0] == signed[1]:
        return max(have, new, key=lambda kind: kind.bit_width)
    plus, minus = (new, have) if signed[0] else (have, new)
    bits = max(2 * plus.bit_width, minus.bit_width)
    if bits > 64:
        return pa.decimal128(UINT64_DIGITS, 0)
    return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[bits]


def _wider_number(have: pa.DataType, new: pa.DataType) -> pa.DataType | None:
    if types.is_floating(have) or types.is_floating(new):
        return pa.float64()
    sizes = [
        (kind.precision - kind.scale, kind.scale)
        if types.is_decimal(kind)
        else (UINT64_DIGITS, 0)
        for kind in (have, new)
    ]
    whole, scale = (max(size) for size in zip(*sizes, strict=True))
    return pa.decimal128(whole + scale, scale) if whole + scale <= 38 else None


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    )


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(types.is_binary(kind) or types.is_fixed_size_binary(kind))


def _finer(one: str, other: str) -> str:
    return max(one, other, key=_UNITS.index)
