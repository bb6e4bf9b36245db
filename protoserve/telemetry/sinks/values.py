"""
Columns as Python values, for stores that take nothing else.

A whole column is converted at a time, numbers through NumPy, which is several times as
fast as asking Arrow for value after value.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

__all__ = ["json_able", "listed", "text_of_times"]


def listed(column: pa.ChunkedArray | pa.Array) -> list[Any]:
    """
    Give a column's values, maps as dicts, times to the microsecond; `None` for null.
    """
    kind = column.type
    if (types.is_integer(kind) or types.is_floating(kind)) and not column.null_count:
        values: list[Any] = column.to_numpy().tolist()
        return values
    kind = _in_microseconds(column.type)
    if kind != column.type:
        column = column.cast(kind, safe=False)
    whole: list[Any] = column.to_pylist(maps_as_pydicts="lossy")
    return whole


def _in_microseconds(kind: pa.DataType) -> pa.DataType:
    """
    Give the type whose points in time Python has too: others would take pandas.
    """
    if types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if types.is_map(kind):
        key, item = map(_in_microseconds, (kind.key_type, kind.item_type))
        return pa.map_(key, item)
    if types.is_struct(kind):
        fields = [each.with_type(_in_microseconds(each.type)) for each in kind]
        return pa.struct(fields)
    if types.is_list(kind):
        return pa.list_(_in_microseconds(kind.value_type))
    if types.is_fixed_size_list(kind):
        return pa.list_(_in_microseconds(kind.value_type), kind.list_size)
    return kind


def text_of_times(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """
    Write points in time as ISO 8601 does, those in UTC with ``Z``.
    """
    kind = column.type
    # In UTC it is the same, and Arrow need not look at time zones, which takes long.
    text = column.cast(pa.timestamp(kind.unit)).cast(pa.string())
    text = pc.replace_substring(text, " ", "T", max_replacements=1)
    return text if kind.tz is None else pc.binary_join_element_wise(text, "Z", "")


def json_able(value: Any) -> Any:
    """
    Bring a value to what JSON knows: bytes are hex, times ISO 8601, NaN is null.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): json_able(each) for key, each in value.items()}
    if isinstance(value, list):
        return [json_able(each) for each in value]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
