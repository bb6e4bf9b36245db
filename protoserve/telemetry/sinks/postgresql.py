"""
PostgreSQL and TimescaleDB: binary COPY, in one transaction with the entries' ids.

Tables and columns are made from the first rows and grow with what comes, in the same
transaction as the rows that need them. The catalogue is asked each time: another worker,
or a person, may have changed it, and it costs one question a batch.

The ids go first. Another worker's transaction that holds the same one makes ours wait,
and when it has been committed, ours has nothing to do: no entry is stored twice, whoever
delivers it. That one is there and its neighbour is not means that they were joined in
another way before; nothing is stored then, and who asks `known` again can leave it out.

Traps: libpq waits for ever for a server that is stopped and not dead, so a timer shuts the
connection down. Names are cut at 63 bytes, silently, and would never be found again.
What a person can put right (a right that is missing, a server that only reads) is worth
another try; only rows that cannot be stored are refused.
"""

from __future__ import annotations

import binascii
import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import errors, sql

from protoserve.errors import DeclarationError
from protoserve.telemetry.sinks import _pgcopy
from protoserve.telemetry.sinks._network import CONNECT_TIMEOUT, TIMEOUT, NetworkSink
from protoserve.telemetry.sinks.base import SinkRefusedError, SinkUnavailableError
from protoserve.telemetry.sinks.schema import (
    ENTRIES,
    KEEP_IDS,
    KEEP_SECONDS,
    Dialect,
    already_stored,
    comment_of,
    evolve,
    plain,
)

__all__ = ["PostgreSQLSink"]

logger = logging.getLogger(__name__)

DIALECT = Dialect(
    {
        "bool": "boolean",
        "int8": "smallint",
        "uint8": "smallint",
        "int16": "smallint",
        "uint16": "integer",
        "int32": "integer",
        "uint32": "bigint",
        "int64": "bigint",
        "uint64": "numeric",
        "decimal": "numeric",
        "float32": "real",
        "float64": "double precision",
        "string": "text",
        "binary": "bytea",
        "timestamp": "timestamp without time zone",
        "timestamp_utc": "timestamp with time zone",
        "date": "date",
        "time": "time without time zone",
        "nested": "jsonb",
    }
)
_NAME = 63
"""Bytes of a name, NAMEDATALEN - 1."""
_PRUNE = 600.0
"""Seconds between removals of old ids."""
_LOCK = 0x70736272
"""Workers make and change tables one after the other."""

_RETRY = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.InternalError,
    errors.InsufficientPrivilege,
    errors.InvalidSchemaName,
    errors.UndefinedColumn,
    errors.UndefinedTable,
)

Cursor = psycopg.Cursor[tuple[Any, ...]]


class PostgreSQLSink(NetworkSink):
    """
    A database, or one schema of it.

    Args:
        url: ``postgresql://[USER[:PASSWORD]@]HOST[:PORT][,…]/DATABASE``; options are
            ``schema``, ``hypertable`` (the column of time), and libpq's own.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url, port=5432)
        target, libpq = self._target, dict(self._target.options)
        self._schema = libpq.pop("schema", None)
        self._hypertable = libpq.pop("hypertable", None)
        said = {
            "host": ",".join(host for host, _ in target.hosts),
            "port": ",".join(str(port) for _, port in target.hosts),
            "user": target.user,
            "password": target.password,
            "dbname": target.path,
            "application_name": "protoserve",
            "connect_timeout": f"{CONNECT_TIMEOUT:.0f}",
            **libpq,
        }
        try:
            self._conninfo = psycopg.conninfo.make_conninfo(
                **{name: value for name, value in said.items() if value}
            )
        except psycopg.ProgrammingError as exc:
            raise DeclarationError(self._line(exc)) from None
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._pruned = -_PRUNE

    def open(self) -> None:
        with self._mapped():
            self._cursor()

    def known(self, ids: Sequence[str]) -> set[str]:
        with self._mapped():
            cursor = self._cursor()
            cursor.execute(f"SELECT id FROM {ENTRIES} WHERE id = ANY(%s)", [list(ids)])
            return {row[0] for row in cursor}

    def store(self, tables: Mapping[str, pa.Table], ids: Sequence[str]) -> None:
        with self._mapped():
            cursor = self._cursor()
            with cursor.connection.transaction():
                if not self._claim(cursor, sorted(set(ids))):
                    return
                # Who waits to change a table must not hold up others at another one.
                ready = [
                    (name, rows, self._fit(cursor, name, rows.schema))
                    for name, rows in _stored(tables)
                ]
                for name, rows, kinds in ready:
                    self._copy(cursor, name, rows, kinds)
            self._prune(cursor)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _cursor(self) -> Cursor:
        """
        Connect, if that is to be done.
        """
        if self._connection is None:
            # A pooler may give each statement to another server: none is prepared.
            self._connection = psycopg.connect(
                self._conninfo, autocommit=True, prepare_threshold=None
            )
            cursor = self._connection.cursor()
            with self._connection.transaction():
                self._prepare(cursor)
        return self._connection.cursor()

    def _prepare(self, cursor: Cursor) -> None:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        if self._schema is not None:
            schema = sql.Identifier(self._schema)
            cursor.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema))
            cursor.execute(sql.SQL("SET search_path TO {}, public").format(schema))
        if _columns(cursor, ENTRIES) is None:
            cursor.execute(
                f"CREATE TABLE {ENTRIES}"
                " (id text PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())"
            )
            cursor.execute(f"CREATE INDEX ON {ENTRIES} (at)")

    def _claim(self, cursor: Cursor, ids: list[str]) -> bool:
        """
        Keep the ids of entries; say whether there is something to store.
        """
        cursor.execute(
            f"INSERT INTO {ENTRIES} (id) SELECT unnest(%s::text[])"
            " ON CONFLICT DO NOTHING RETURNING id",
            [ids],
        )
        there = set(ids).difference(row[0] for row in cursor)
        if there:
            already_stored(self.url, there, ids)
        return not there

    def _copy(
        self, cursor: Cursor, name: str, rows: pa.Table, kinds: Mapping[str, str]
    ) -> None:
        if not kinds:
            return
        statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
            sql.Identifier(name), sql.SQL(", ").join(map(sql.Identifier, kinds))
        )
        with cursor.copy(statement) as copy:
            copy.write(_pgcopy.HEADER)
            for body in _pgcopy.bodies(rows, list(kinds.values())):
                copy.write(body)
            copy.write(_pgcopy.END)

    def _fit(self, cursor: Cursor, name: str, schema: pa.Schema) -> dict[str, str]:
        """
        Make what is missing; give the types of the columns in the store.
        """
        wanted = DIALECT.stored(schema)
        have = _columns(cursor, name)
        if have is None or any(
            have.get(field.name) != DIALECT.sql(field.type) for field in wanted
        ):
            # Only now, and once more, as another worker may have done the same.
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            self._grow(cursor, name, wanted)
            have = _columns(cursor, name) or {}
        return {field.name: have[field.name] for field in schema}

    def _grow(self, cursor: Cursor, name: str, wanted: pa.Schema) -> None:
        table = sql.Identifier(name)
        have = _columns(cursor, name)
        there = None
        if have is None:
            cursor.execute(sql.SQL("CREATE TABLE {} ()").format(table))
        else:
            there = pa.schema(
                [(column, DIALECT.arrow(kind)) for column, kind in have.items()]
            )
            for field in wanted:
                if field.name in have and pa.types.is_null(
                    there.field(field.name).type
                ):
                    raise SinkRefusedError(
                        f"table {name}, column {field.name}: expected "
                        f"{DIALECT.sql(field.type)}, the store has {have[field.name]}"
                    )
        evolution = evolve(name, there, wanted)
        for verb, fields in (
            ("ADD COLUMN {} {}", evolution.added),
            ("ALTER COLUMN {} TYPE {}", evolution.widened),
        ):
            for field in fields:
                kind = sql.SQL(DIALECT.sql(field.type))
                change = sql.SQL(verb).format(sql.Identifier(field.name), kind)
                cursor.execute(sql.SQL("ALTER TABLE {} {}").format(table, change))
        for field in evolution.added:
            if said := comment_of(field):
                place = sql.Identifier(name, field.name)
                cursor.execute(
                    sql.SQL("COMMENT ON COLUMN {} IS {}").format(
                        place, sql.Literal(said)
                    )
                )
        if have is None and self._hypertable in wanted.names:
            self._cut_by_time(cursor, table)

    def _cut_by_time(self, cursor: Cursor, table: sql.Identifier) -> None:
        """
        Let TimescaleDB cut a new table by time, where it is there.
        """
        cursor.execute("SELECT to_regproc('create_hypertable') IS NOT NULL")
        if (found := cursor.fetchone()) and found[0]:
            cursor.execute(
                "SELECT create_hypertable(%s::regclass, %s::name)",
                [table.as_string(cursor), self._hypertable],
            )
        else:
            logger.warning("%s: no TimescaleDB is there: a plain table", self.url)

    def _prune(self, cursor: Cursor) -> None:
        """
        Forget the ids of long ago, now and then.
        """
        if time.monotonic() - self._pruned < _PRUNE:
            return
        self._pruned = time.monotonic()
        cursor.execute(
            f"DELETE FROM {ENTRIES} WHERE at < greatest(now() - %s * interval '1 s',"
            f" (SELECT at FROM {ENTRIES} ORDER BY at DESC OFFSET %s LIMIT 1))",
            [KEEP_SECONDS, KEEP_IDS],
        )

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        """
        Say what went wrong in the port's words, and never wait for ever.
        """
        late = threading.Event()

        def stop() -> None:
            late.set()
            with contextlib.suppress(OSError, AttributeError, psycopg.Error):
                number = os.dup(self._connection.fileno())  # type: ignore[union-attr]
                with socket.socket(fileno=number) as sock:
                    sock.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(TIMEOUT, stop)
        timer.daemon = True
        timer.start()
        try:
            yield
        except psycopg.IntegrityError as exc:
            # Of a table that somebody else makes just now, or of the rows.
            if exc.diag.schema_name != "pg_catalog":
                raise SinkRefusedError(self._line(exc)) from None
            self.close()
            raise SinkUnavailableError(self._line(exc)) from None
        except _RETRY as exc:
            self.close()
            said = f"no answer within {TIMEOUT:.0f} s" if late.is_set() else exc
            raise SinkUnavailableError(self._line(said)) from None
        except psycopg.Error as exc:
            raise SinkRefusedError(self._line(exc)) from None
        finally:
            timer.cancel()
            timer.join()


def _columns(cursor: Cursor, name: str) -> dict[str, str] | None:
    """
    Give the columns of a table with their types; `None` if there is none.
    """
    # Not by `to_regclass`: it may answer from a cache that is older than the lock, and
    # finds tables in other schemas of the path.
    cursor.execute(
        "SELECT attname, format_type(atttypid, NULL) FROM pg_class AS c"
        " JOIN pg_namespace AS n ON n.oid = relnamespace LEFT JOIN pg_attribute"
        " ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped"
        " WHERE nspname = current_schema() AND relname = %s"
        " AND relkind IN ('r', 'p', 'f', 'v') ORDER BY attnum",
        [name],
    )
    rows = cursor.fetchall()
    return {name: kind for name, kind in rows if name is not None} if rows else None


def _stored(tables: Mapping[str, pa.Table]) -> Iterator[tuple[str, pa.Table]]:
    """
    Give tables as they are stored: of plain types, with names that are short enough.
    """
    for name, rows in tables.items():
        rows = plain(name, rows)
        names = [_fitting(each) for each in rows.column_names]
        yield _fitting(name), rows.rename_columns(names)


def _fitting(name: str) -> str:
    """
    Give a name that is short enough, and still one of its own.
    """
    raw = name.encode()
    if len(raw) <= _NAME:
        return name
    return f"{raw[: _NAME - 9].decode(errors='ignore')}_{binascii.crc32(raw):08x}"
