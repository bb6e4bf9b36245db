"""
Tables of objects: the rows that messages with a method `rows` give.

A row class is a plain attrs class. The types of its columns are those of its annotations,
so that a table looks the same whatever is in it; a value that does not fit one (a number
beyond 63 bits) widens it for that table.
"""

from __future__ import annotations

import datetime as dt
import types
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from protoserve.arrow import Column, legal, table_of

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["RowTable"]


class RowTable:
    """
    Makes tables of the instances of a row class.

    Args:
        kind: the class.
    """

    def __init__(self, kind: type) -> None:
        import pyarrow as pa

        hints = typing.get_type_hints(kind)
        self._fields: list[pa.Field] = []
        for field in attrs.fields(kind):
            said = {key: field.metadata.get(key) for key in ("doc", "unit")}
            metadata = {key: text for key, text in said.items() if text}
            found = arrow_type(hints.get(field.name, Any))
            self._fields.append(pa.field(field.name, found, metadata=metadata or None))

    def table(self, rows: Sequence[Any]) -> pa.Table:
        """
        Make a table of rows.
        """
        import pyarrow as pa

        arrays, fields = [], []
        for field in self._fields:
            values = [getattr(row, field.name) for row in rows]
            array = _array(field, values)
            arrays.append(array)
            fields.append(field.with_type(array.type))
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _array(field: pa.Field, values: list[Any]) -> pa.Array:
    """
    Make a column: of its type, of larger numbers, or of whatever the values are.
    """
    import pyarrow as pa

    wider = [pa.uint64()] if field.type == pa.int64() else []
    for kind in [field.type, *wider]:
        try:
            try:
                return pa.array(values, kind)
            except UnicodeEncodeError:  # seldom, so texts are not looked at before
                return pa.array([legal(value) for value in values], kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            continue
    return _inferred(field.name, values)


def _inferred(name: str, values: list[Any]) -> pa.Array:
    found = np.empty(len(values), object)
    found[:] = values
    return table_of([Column(name, found)]).column(0).combine_chunks()


def arrow_type(annotation: Any) -> pa.DataType:
    """
    Give the Arrow type for what an attribute is annotated with; null if there is none.

    Numbers are of 64 bits, moments in UTC with nanoseconds.
    """
    import pyarrow as pa

    simple: dict[Any, pa.DataType] = {
        bool: pa.bool_(),
        int: pa.int64(),
        float: pa.float64(),
        str: pa.string(),
        bytes: pa.binary(),
        dt.datetime: pa.timestamp("ns", "UTC"),
    }
    if annotation in simple:
        return simple[annotation]
    base = typing.get_origin(annotation)
    arguments = [a for a in typing.get_args(annotation) if a is not type(None)]
    if base in (types.UnionType, typing.Union) and len(arguments) == 1:
        return arrow_type(arguments[0])
    if base is list and arguments:
        return pa.list_(arrow_type(arguments[0]))
    if base is dict and len(arguments) == 2:
        return pa.map_(arrow_type(arguments[0]), arrow_type(arguments[1]))
    if isinstance(annotation, type):
        for plain, found in simple.items():
            if issubclass(annotation, plain):  # an IntEnum, for example
                return found
    return pa.null()
