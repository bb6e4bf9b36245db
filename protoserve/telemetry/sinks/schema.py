"""
Schemas of stored tables, in Arrow's terms, and how they grow.

A table is made from the first rows that come. Later ones may have further columns, which
are added, and wider types, to which columns are widened (`widened`). What has no type in
common is refused. Columns are never removed or narrowed.

`plain` comes first: it brings Arrow's many layouts of one and the same type (dictionaries,
views, large offsets, half floats) to one, and leaves out columns that have no value yet,
as their type is not known. So each sink deals with few types.

Stores differ in whether ``Bytes`` and ``bytes`` are one column. Names that differ by case
only are refused everywhere, so that rows can move from one store to another.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pyarrow as pa
from pyarrow import types

from protoserve.telemetry.sinks.base import SinkRefusedError, SinkUnavailableError
from protoserve.telemetry.sinks.dialects import Dialect
from protoserve.telemetry.sinks.widening import widened

__all__ = [
    "ENTRIES",
    "KEEP_IDS",
    "KEEP_SECONDS",
    "MOST_COLUMNS",
    "Dialect",
    "Evolution",
    "already_stored",
    "comment_of",
    "conform",
    "evolve",
    "plain",
    "quoted",
    "without_dictionaries",
]

ENTRIES = "_protoserve_entries"
"""The table that has the ids of what is stored: ``id``, ``at``."""
KEEP_SECONDS = 7 * 86_400.0
"""How long an id is known: longer than any log delivers again."""
KEEP_IDS = 1_000_000
"""How many are known at most."""
MOST_COLUMNS = 1000
"""
How many a table may have. Templates bring columns, and whoever sends some may make them
up; PostgreSQL takes 1600, and SQLite 2000.
"""

_WIDEST_NAME = 200


def already_stored(where: object, there: set[str], ids: Sequence[str]) -> None:
    """
    Look at entries that are to be stored and partly are: all of them is fine.

    Raises:
        SinkUnavailableError: another process has stored some since `Sink.known` was
            asked, so it has to be asked again.
    """
    if not there.issuperset(ids):
        raise SinkUnavailableError(
            f"{where}: {len(there)} of {len(ids)} entries have been stored by another "
            "process meanwhile"
        )


def quoted(name: str) -> str:
    """
    Write a name as SQL does.
    """
    return '"' + name.replace('"', '""') + '"'


def comment_of(field: pa.Field) -> str:
    """
    Say what a column is: its ``doc``, and its ``unit`` in brackets.
    """
    metadata = field.metadata or {}
    doc, unit = (metadata.get(key, b"").decode() for key in (b"doc", b"unit"))
    return " ".join(part for part in (doc, f"[{unit}]" if unit else "") if part)


def plain(name: str, table: pa.Table, *, dictionaries: bool = False) -> pa.Table:
    """
    Bring the columns of a table to plain types; those without any value are left out.

    Args:
        name: the table's.
        table: its rows.
        dictionaries: whether text and bytes may stay in dictionaries.

    Raises:
        SinkRefusedError: a name cannot be one, or a type cannot be stored.
    """
    _check_names(name, table.schema.names)
    fields, columns = [], []
    for field, column in zip(table.schema, table.columns, strict=True):
        if types.is_null(field.type):
            continue
        kind = _plain_type(name, field.name, field.type)
        if dictionaries and field.type == pa.dictionary(pa.int32(), kind):
            kind = field.type
        if types.is_dictionary(field.type) and kind != field.type:
            column = column.cast(field.type.value_type)
        if kind != column.type:
            column = _cast(name, field.name, column, kind)
        fields.append(pa.field(field.name, kind, metadata=field.metadata))
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _check_names(table: str, columns: list[str]) -> None:
    if (
        not table
        or table[0] == "."
        or table.startswith("_protoserve")
        or len(table) > _WIDEST_NAME
        or any(letter in "/\\" or ord(letter) < 32 for letter in table)
    ):
        raise SinkRefusedError(
            f"table {table!r}: expected a name of 1 to {_WIDEST_NAME} letters without "
            "slashes that does not begin with '.' or '_protoserve'"
        )
    seen: dict[str, str] = {}
    for column in columns:
        if not column or len(column) > _WIDEST_NAME or "\0" in column:
            raise SinkRefusedError(
                f"table {table}: expected columns with names of 1 to {_WIDEST_NAME} "
                f"letters, found {column[:40]!r}"
            )
        other = seen.setdefault(column.casefold(), column)
        if other is not column:
            raise SinkRefusedError(
                f"table {table}: columns {other!r} and {column!r} are one to a store"
            )


def _plain_type(table: str, column: str, kind: pa.DataType) -> pa.DataType:
    """
    Give the plain type that holds the same values.
    """

    def inner(each: pa.DataType) -> pa.DataType:
        return _plain_type(table, column, each)

    if isinstance(kind, pa.BaseExtensionType):
        return inner(kind.storage_type)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return inner(kind.value_type)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    if types.is_float16(kind):
        return pa.float32()
    if types.is_date64(kind):
        return pa.date32()
    if types.is_decimal(kind) and kind.precision <= 38:
        return pa.decimal128(kind.precision, kind.scale)
    if types.is_fixed_size_list(kind):
        return pa.list_(inner(kind.value_type), kind.list_size)
    if types.is_map(kind):
        return pa.map_(inner(kind.key_type), inner(kind.item_type))
    if _is_list(kind):
        return pa.list_(inner(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([pa.field(each.name, inner(each.type)) for each in kind])
    if (
        (
            types.is_primitive(kind)
            and not types.is_duration(kind)
            and not types.is_interval(kind)
        )
        or types.is_null(kind)
        or types.is_string(kind)
        or types.is_binary(kind)
        or types.is_fixed_size_binary(kind)
    ):
        return kind
    raise SinkRefusedError(
        f"table {table}, column {column}: expected numbers, text, bytes, times, lists, "
        f"maps or structs, found {kind}"
    )


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


@attrs.frozen
class Evolution:
    """
    What has to be done to a table so that it takes rows.
    """

    schema: pa.Schema
    """The table's, when it is done."""
    added: tuple[pa.Field, ...] = ()
    """Columns that it has not yet."""
    widened: tuple[pa.Field, ...] = ()
    """Columns whose type is too narrow, with the type that is not."""


def evolve(table: str, have: pa.Schema | None, new: pa.Schema) -> Evolution:
    """
    Find what a table needs to take rows of another schema.

    Args:
        table: its name.
        have: its schema; `None`: there is no such table.
        new: the rows', of plain types; a dictionary is what is in it.

    Raises:
        SinkRefusedError: a column's types have nothing in common, or there are too
            many columns.
    """
    new = without_dictionaries(new)
    if have is None:
        return Evolution(_not_too_wide(table, new), added=tuple(new))
    have = without_dictionaries(have)
    known = {field.name.casefold(): field for field in have}
    added, wider = [], []
    fields = {field.name: field for field in have}
    for field in new:
        old = known.get(field.name.casefold())
        if old is None:
            added.append(field)
            fields[field.name] = field
            continue
        if old.name != field.name:
            raise SinkRefusedError(
                f"table {table}: expected column {old.name!r}, found {field.name!r}, "
                "which is the same to a store"
            )
        if old.type == field.type:
            continue
        kind = widened(old.type, field.type)
        if kind is None:
            raise SinkRefusedError(
                f"table {table}, column {field.name}: expected {old.type}, "
                f"found {field.type}"
            )
        if kind != old.type:
            fields[field.name] = old.with_type(kind)
            wider.append(fields[field.name])
    schema = pa.schema(list(fields.values()))
    if added:
        _not_too_wide(table, schema)
    return Evolution(schema, tuple(added), tuple(wider))


def _not_too_wide(table: str, schema: pa.Schema) -> pa.Schema:
    if len(schema) > MOST_COLUMNS:
        raise SinkRefusedError(
            f"table {table}: expected at most {MOST_COLUMNS} columns, "
            f"found {len(schema)}"
        )
    return schema


def without_dictionaries(schema: pa.Schema) -> pa.Schema:
    """
    Give a schema whose columns have the types of what is in their dictionaries.
    """
    return pa.schema([field.with_type(_valued(field.type)) for field in schema])


def _valued(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if types.is_dictionary(kind) else kind


def conform(name: str, table: pa.Table, schema: pa.Schema) -> pa.Table:
    """
    Give rows the columns of a schema, in its order; what they have not is null.

    Dictionaries of the right values stay.

    Raises:
        SinkRefusedError: a value does not fit, as a time does not that is too far away.
    """
    there = set(table.schema.names)
    columns = [
        _cast(name, field.name, table[field.name], field.type)
        if field.name in there
        else pa.nulls(len(table), field.type)
        for field in schema
    ]
    fields = [
        field.with_type(column.type)
        for field, column in zip(schema, columns, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _cast(
    table: str, name: str, column: pa.ChunkedArray, kind: pa.DataType
) -> pa.ChunkedArray:
    if _valued(column.type) == kind or column.type == kind:
        return column
    try:
        # A double does not hold all integers; it is the nearest that counts then.
        return column.cast(kind, safe=not _has_floats(kind))
    except pa.ArrowException as exc:
        raise SinkRefusedError(
            f"table {table}, column {name}: expected {kind}, found {column.type} that "
            f"does not fit: {str(exc).splitlines()[0]}"
        ) from exc


def _has_floats(kind: pa.DataType) -> bool:
    if types.is_floating(kind):
        return True
    inner = [kind.field(index).type for index in range(kind.num_fields)]
    return any(_has_floats(each) for each in inner)
