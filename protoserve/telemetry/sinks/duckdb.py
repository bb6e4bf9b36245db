"""
DuckDB: one file, one process that writes to it.

Rows go in as they are, by ``INSERT … SELECT`` from Arrow, all tables and the entries' ids
in one transaction. DuckDB says itself what it calls Arrow's types, and what types its
tables have, so there is no list of them here.

Traps:

- Rows that fill no whole row group (122,880) are written twice, to the log and then to
  their place. So rows are gathered for longer by default, where there are many.
- A file is open to one process. Another one, even if it only reads, is told who has it.
- DuckDB knows points in time to the microsecond; its nanosecond types have hardly any
  functions. So times are stored as ``TIMESTAMPTZ``.
- After an error in the middle of a transaction, and always after a full disk, the
  connection may be good for nothing: it is made anew.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import duckdb
import pyarrow as pa
from pyarrow import types

from protoserve.errors import ProtoserveError
from protoserve.telemetry.sinks.base import Sink, SinkRefusedError, SinkUnavailableError
from protoserve.telemetry.sinks.files import identity_of
from protoserve.telemetry.sinks.options import count, one_of, split
from protoserve.telemetry.sinks.schema import (
    ENTRIES,
    KEEP_IDS,
    KEEP_SECONDS,
    already_stored,
    comment_of,
    evolve,
    plain,
    quoted,
)

__all__ = ["DuckDBSink"]

_PRUNE_EVERY = 600.0
"""Seconds between removals of old ids."""
_OPTIONS: dict[str, Callable[[str], Any]] = {
    "hold": one_of("yes", "no"),
    "threads": count,
    "memory_limit": str,
    "checkpoint_threshold": str,
    "storage_compatibility_version": str,
}


class DuckDBSink(Sink):
    """
    A DuckDB database.

    Args:
        url: ``duckdb:FILE``; ``hold=no`` lets go of the file between stores; the options
            ``threads``, ``memory_limit``, ``checkpoint_threshold`` and
            ``storage_compatibility_version`` are DuckDB's.
    """

    max_rows = 400_000

    def __init__(self, url: str) -> None:
        self.url = url
        self._path, self._config = split(url, _OPTIONS)
        self._config.setdefault("threads", 1)
        self._hold = self._config.pop("hold", "yes") == "yes"
        self._connection: Any = None
        self._file: tuple[int, int] | None = None
        self._fits: dict[str, pa.Schema] = {}
        self._pruned = 0.0

    def open(self) -> None:
        with self._errors():
            self._connect()

    def known(self, ids: Sequence[str]) -> set[str]:
        with self._errors():
            return self._known(self._connect(), ids)

    def _known(self, connection: Any, ids: Sequence[str]) -> set[str]:
        query = f"select id from {ENTRIES} where id in (select unnest(?::varchar[]))"
        return {row[0] for row in _run(connection, query, [[*ids]])}

    def store(self, tables: Mapping[str, pa.Table], ids: Sequence[str]) -> None:
        ready = {
            name: _for_duckdb(plain(name, rows, dictionaries=True))
            for name, rows in tables.items()
        }
        with self._errors():
            connection = self._connect()
            connection.begin()
            if ids and (there := self._known(connection, ids)):
                connection.rollback()
                already_stored(self._path, there, ids)
                return
            self._add_ids(connection, ids)
            for name, rows in ready.items():
                if rows.num_columns:
                    self._insert(connection, name, rows)
            connection.commit()

    def close(self) -> None:
        self._fits.clear()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> Any:
        if self._connection is not None and identity_of(self._path) != self._file:
            self.close()  # what is stored in it nobody would find
        if self._connection is None:
            self._connection = duckdb.connect(self._path, config=self._config)
            _run(self._connection, "set TimeZone = 'UTC'")
            _run(
                self._connection,
                f"create table if not exists {ENTRIES}"
                '(id varchar primary key, "at" timestamptz)',
            )
            self._file = identity_of(self._path)
        return self._connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """
        Raise what a sink may raise; after an error nothing is stored.
        """
        try:
            yield
            if not self._hold:
                self.close()
        except ProtoserveError:
            self._fits.clear()
            if self._connection is not None:
                with suppress(duckdb.Error):
                    self._connection.rollback()
            raise
        except duckdb.Error as exc:
            self.close()
            said = " ".join(str(exc).split())
            raise _kind_of(exc, said)(f"{self._path}: {said[:500]}") from exc
        except BaseException:
            self.close()
            raise

    def _add_ids(self, connection: Any, ids: Sequence[str]) -> None:
        if ids:
            _run(
                connection,
                f"insert into {ENTRIES} select unnest(?::varchar[]), now()",
                [[*dict.fromkeys(ids)]],
            )
        if time.monotonic() - self._pruned > _PRUNE_EVERY:
            _run(
                connection,
                f"""delete from {ENTRIES} where "at" < now() - to_seconds(?) or "at" <
                (select "at" from {ENTRIES} order by "at" desc limit 1 offset ?)""",
                [KEEP_SECONDS, KEEP_IDS],
            )
            self._pruned = time.monotonic()

    def _insert(self, connection: Any, name: str, rows: pa.Table) -> None:
        if self._fits.get(name) != rows.schema:
            self._fit(connection, name, rows.schema)
        connection.register("_protoserve_rows", rows)
        try:
            _run(
                connection,
                f"insert into {quoted(name)} by name select * from _protoserve_rows",
            )
        finally:
            connection.unregister("_protoserve_rows")

    def _fit(self, connection: Any, name: str, schema: pa.Schema) -> None:
        """
        Make a table, its columns, or make them wider.
        """
        table = quoted(name)
        have = self._schema_of(connection, name)
        change = evolve(name, have, schema)
        names = self._types(connection, change.schema)
        if have is None:
            columns = ", ".join(f"{quoted(each)} {names[each]}" for each in names)
            _run(connection, f"create table {table} ({columns})")
        else:
            for field in change.added:
                column = f"{quoted(field.name)} {names[field.name]}"
                _run(connection, f"alter table {table} add column {column}")
            had = self._types(connection, have)
            for field in change.widened:
                if had[field.name] != names[field.name]:
                    _run(
                        connection,
                        f"alter table {table} alter column {quoted(field.name)} "
                        f"set data type {names[field.name]}",
                    )
        for field in change.added:
            if comment := comment_of(field):
                text = comment.replace("'", "''")
                column = f"{table}.{quoted(field.name)}"
                _run(connection, f"comment on column {column} is '{text}'")
        self._fits[name] = schema

    def _schema_of(self, connection: Any, name: str) -> pa.Schema | None:
        found = _run(
            connection,
            "select 1 from duckdb_tables() where table_name = ? and schema_name = "
            "current_schema() and database_name = current_database()",
            [name],
        )
        if not found:
            return None
        relation = connection.sql(f"select * from {quoted(name)} limit 0")
        return relation.to_arrow_table().schema

    def _types(self, connection: Any, schema: pa.Schema) -> dict[str, str]:
        """
        Ask what columns of Arrow's types are in SQL.
        """
        connection.register("_protoserve_types", schema.empty_table())
        try:
            query = "select column_name, column_type from (describe _protoserve_types)"
            return dict(_run(connection, query))
        finally:
            connection.unregister("_protoserve_types")


def _run(connection: Any, query: str, values: Sequence[Any] = ()) -> list[Any]:
    """
    Execute a statement and take all that it gives: else it is not over.
    """
    rows: list[Any] = connection.execute(query, [*values]).fetchall()
    return rows


def _kind_of(exc: duckdb.Error, said: str) -> type[Exception]:
    """
    Tell what may pass from what will not.
    """
    lasting = (
        "not a valid DuckDB database|Is a directory|newer version|older version|orrupt"
        "|not recognized|checksum"
    )
    if isinstance(exc, duckdb.IOException | duckdb.OperationalError):
        return SinkRefusedError if re.search(lasting, said) else SinkUnavailableError
    passing = (
        duckdb.TransactionException | duckdb.FatalException | duckdb.InternalException
    )
    if isinstance(exc, passing | duckdb.OutOfMemoryException):
        return SinkUnavailableError
    return SinkRefusedError


def _for_duckdb(rows: pa.Table) -> pa.Table:
    """
    Bring times to microseconds.
    """
    fields = [field.with_type(_micros(field.type)) for field in rows.schema]
    if all(new.type == old.type for new, old in zip(fields, rows.schema, strict=True)):
        return rows
    columns = [
        column.cast(field.type, safe=False)
        for field, column in zip(fields, rows.columns, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _micros(kind: pa.DataType) -> pa.DataType:
    if types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz and "UTC")
    if types.is_time(kind):
        return pa.time64("us")
    return kind
