"""
SQLite: a file that every language and every machine reads.

All rows of a store go in by one statement and one transaction, together with the entries'
ids. Other processes may read meanwhile, and write in turns (write-ahead log). A commit is
on the disk when it returns (``synchronous=FULL``).

SQLite has integers of 64 bits with a sign, doubles, text and bytes, whatever a column is
declared as. So nothing is ever widened. Integers above ``2**63 - 1`` are stored as the
nearest double. Times are text in ISO 8601, which SQLite's own functions read; lists, maps
and structs are JSON.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa
from pyarrow import types

from protoserve.errors import ProtoserveError
from protoserve.telemetry.sinks.base import Sink, SinkRefusedError, SinkUnavailableError
from protoserve.telemetry.sinks.files import identity_of
from protoserve.telemetry.sinks.options import seconds, split
from protoserve.telemetry.sinks.schema import (
    ENTRIES,
    KEEP_IDS,
    KEEP_SECONDS,
    Dialect,
    already_stored,
    evolve,
    plain,
    quoted,
)
from protoserve.telemetry.sinks.values import json_able, listed, text_of_times

__all__ = ["SQLiteSink"]

_PRUNE_EVERY = 600.0
"""Seconds between removals of old ids."""
_MOST = 2**63 - 1
_OPTIONS: dict[str, Callable[[str], Any]] = {"timeout": seconds}
_DIALECT = Dialect(
    {
        "bool": "BOOLEAN",
        **{f"uint{bits}": "INTEGER" for bits in (8, 16, 32, 64)},
        "decimal": "INTEGER",
        **{f"int{bits}": "INTEGER" for bits in (8, 16, 32, 64)},
        "float32": "REAL",
        "float64": "REAL",
        "string": "TEXT",
        "binary": "BLOB",
        "timestamp": "DATETIME",
        "timestamp_utc": "TIMESTAMP",
        "date": "DATE",
        "time": "TIME",
        "nested": "JSON",
    }
)
_LASTING = {
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_CONSTRAINT,
}


class SQLiteSink(Sink):
    """
    An SQLite database.

    Args:
        url: ``sqlite:FILE``; the option ``timeout`` is how long another process's lock
            is waited for, in seconds.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._path, options = split(url, _OPTIONS)
        self._timeout: float = options.get("timeout", 30.0)
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._fits: dict[str, pa.Schema] = {}
        self._pruned = 0.0

    def open(self) -> None:
        with self._errors():
            self._connect()

    def known(self, ids: Sequence[str]) -> set[str]:
        with self._errors():
            return self._known(self._connect(), ids)

    def _known(self, connection: sqlite3.Connection, ids: Sequence[str]) -> set[str]:
        query = f"select id from {ENTRIES} where id in (select value from json_each(?))"
        return {row[0] for row in connection.execute(query, [json.dumps([*ids])])}

    def store(self, tables: Mapping[str, pa.Table], ids: Sequence[str]) -> None:
        ready = {name: plain(name, rows) for name, rows in tables.items()}
        with self._errors():
            connection = self._connect()
            connection.execute("begin immediate")
            if there := self._known(connection, ids):
                connection.execute("rollback")
                already_stored(self._path, there, ids)
                return
            self._add_ids(connection, ids)
            for name, rows in ready.items():
                if rows.num_columns:
                    self._insert(connection, name, rows)
            connection.execute("commit")

    def close(self) -> None:
        self._fits.clear()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> sqlite3.Connection:
        if self._connection is not None and identity_of(self._path) != self._file:
            # What is stored in it nobody would find. Its log has to be empty, or it would
            # be taken for that of the file which has the name now.
            with suppress(sqlite3.Error):
                self._connection.execute("pragma wal_checkpoint(truncate)").fetchall()
            self.close()
        if self._connection is None:
            connection = sqlite3.connect(
                self._path,
                timeout=self._timeout,
                isolation_level=None,
                check_same_thread=False,
            )
            self._connection = connection
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = full")
            connection.execute(
                f"create table if not exists {ENTRIES}"
                "(id text primary key, at real) without rowid"
            )
            connection.execute(
                f"create index if not exists {ENTRIES}_at on {ENTRIES}(at)"
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
        except ProtoserveError:
            self._fits.clear()
            if self._connection is not None:
                with suppress(sqlite3.Error):
                    self._connection.execute("rollback")
            raise
        except sqlite3.Error as exc:
            self.close()
            code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            kind = SinkRefusedError if code in _LASTING else SinkUnavailableError
            raise kind(f"{self._path}: {exc}") from exc
        except BaseException:
            self.close()
            raise

    def _add_ids(self, connection: sqlite3.Connection, ids: Sequence[str]) -> None:
        now = time.time()
        connection.execute(
            f"insert into {ENTRIES} select distinct value, ? from json_each(?)",
            [now, json.dumps([*ids])],
        )
        if time.monotonic() - self._pruned > _PRUNE_EVERY:
            connection.execute(
                f"delete from {ENTRIES} where at < ? or at < coalesce((select at from "
                f"{ENTRIES} order by at desc limit 1 offset ?), 0)",
                [now - KEEP_SECONDS, KEEP_IDS],
            )
            self._pruned = time.monotonic()

    def _insert(
        self, connection: sqlite3.Connection, name: str, rows: pa.Table
    ) -> None:
        if self._fits.get(name) != rows.schema:
            self._fit(connection, name, rows.schema)
        columns = ", ".join(quoted(each) for each in rows.schema.names)
        marks = ", ".join("?" * rows.num_columns)
        connection.executemany(
            f"insert into {quoted(name)} ({columns}) values ({marks})",
            zip(*(_values(column) for column in rows.columns), strict=True),
        )

    def _fit(
        self, connection: sqlite3.Connection, name: str, schema: pa.Schema
    ) -> None:
        """
        Make a table, or its columns.
        """
        found = connection.execute(f"pragma table_info({quoted(name)})").fetchall()
        have = pa.schema([(each[1], _DIALECT.arrow(each[2])) for each in found])
        change = evolve(name, have if found else None, _DIALECT.stored(schema))
        columns = [
            f"{quoted(field.name)} {_DIALECT.sql(field.type)}" for field in change.added
        ]
        if not found:
            connection.execute(f"create table {quoted(name)} ({', '.join(columns)})")
        else:
            for column in columns:
                connection.execute(f"alter table {quoted(name)} add column {column}")
        self._fits[name] = schema


def _values(column: pa.ChunkedArray) -> list[Any]:
    """
    Give what SQLite stores for each value.
    """
    kind = column.type
    if types.is_timestamp(kind):
        return listed(text_of_times(column))
    values = listed(column)
    if types.is_uint64(kind) or types.is_decimal(kind):
        return [
            int(each)
            if each is not None and -_MOST <= each <= _MOST
            else _nearest(each)
            for each in values
        ]
    if types.is_nested(kind):
        return [_json(each, kind) for each in values]
    if types.is_date(kind) or types.is_time(kind):
        return [None if each is None else each.isoformat() for each in values]
    return values


def _nearest(value: Any) -> float | None:
    return None if value is None else float(value)


def _json(value: Any, kind: pa.DataType) -> str | None:
    if value is None:
        return None
    if types.is_map(kind):
        value = dict(value)
    return json.dumps(json_able(value), ensure_ascii=False, separators=(",", ":"))
