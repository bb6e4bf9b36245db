"""
What stores call the types of their columns.

A store with types of its own says in a `Dialect` what it calls each kind. `Dialect.stored`
is what Arrow would read back; evolution compares that, so a difference that the store does
not see is none.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import pyarrow as pa
from pyarrow import types

from protoserve.telemetry.sinks.widening import UINT64_DIGITS

__all__ = ["Dialect"]


@attrs.frozen
class Dialect:
    """
    What a store calls the types of its columns.

    Args:
        names: a name for each kind: ``bool``, ``int8`` to ``uint64``, ``float32``,
            ``float64``, ``decimal``, ``string``, ``binary``, ``timestamp``,
            ``timestamp_utc``, ``date``, ``time``, ``nested``. Where several share one,
            the last of them is what the store's column can hold.
    """

    names: Mapping[str, str]

    def sql(self, kind: pa.DataType) -> str:
        """
        Give the store's name of a plain type.
        """
        return self.names[_kind_of(kind)]

    def arrow(self, name: str) -> pa.DataType:
        """
        Give the type of what a column of the store holds; `null` if it is alien.

        >>> Dialect({"int16": "SMALLINT", "int32": "INTEGER"}).arrow("integer")
        DataType(int32)
        """
        held = {sql.upper(): kind for kind, sql in self.names.items()}
        return _KINDS.get(held.get(name.upper(), ""), pa.null())

    def stored(self, schema: pa.Schema) -> pa.Schema:
        """
        Give the schema that rows have once they are in the store.
        """
        return pa.schema(
            [field.with_type(self.arrow(self.sql(field.type))) for field in schema]
        )


_KINDS: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    **{f"int{bits}": getattr(pa, f"int{bits}")() for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": getattr(pa, f"uint{bits}")() for bits in (8, 16, 32, 64)},
    "float32": pa.float32(),
    "float64": pa.float64(),
    "decimal": pa.decimal128(UINT64_DIGITS, 0),
    "string": pa.string(),
    "binary": pa.binary(),
    "timestamp": pa.timestamp("ns"),
    "timestamp_utc": pa.timestamp("ns", "UTC"),
    "date": pa.date32(),
    "time": pa.time64("ns"),
    "nested": pa.struct([]),
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def _kind_of(kind: pa.DataType) -> str:
    if name := _NAMES.get(kind):
        return name
    if types.is_timestamp(kind):
        return "timestamp" if kind.tz is None else "timestamp_utc"
    if types.is_time(kind):
        return "time"
    if types.is_decimal(kind):
        return "decimal"
    if types.is_fixed_size_binary(kind):
        return "binary"
    return "nested"
