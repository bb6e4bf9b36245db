"""
ClickHouse: Arrow over HTTP, one insert a table and batch.

ClickHouse has no transaction over several tables, so a batch is written ahead:

1. its entries' ids, with a number of the batch and its tables, as begun;
2. the rows, each with the number in the column ``_protoserve_batch``;
3. the ids once more, as done: that is the commit.

Only what is done is known. An entry that comes again, while the batch in which it was
begun is not done, comes because whoever stored it is gone; so what there is of that batch
is deleted before the entry is stored anew. Until then it can be seen by who reads.

Traps: replicated tables drop a block whose content they have had before, even if it was
deleted meanwhile. Telemetry may well repeat itself, and a batch may be stored anew: the
number, never used twice, makes every block another one. So no ``insert_deduplication_token``
is needed, and one made of the entries' ids would lose what was deleted and comes again.
Strings are bytes there, so bytes are strings; what is nested is JSON text.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver.exceptions import ClickHouseError
from pyarrow import types
from urllib3.exceptions import HTTPError

from protoserve.telemetry.sinks._network import CONNECT_TIMEOUT, TIMEOUT, NetworkSink
from protoserve.telemetry.sinks.base import SinkRefusedError, SinkUnavailableError
from protoserve.telemetry.sinks.schema import (
    ENTRIES,
    KEEP_SECONDS,
    Dialect,
    already_stored,
    comment_of,
    evolve,
    plain,
)
from protoserve.telemetry.sinks.values import json_able, listed

__all__ = ["ClickHouseSink"]

BATCH = "_protoserve_batch"
"""The column that says in which batch a row was stored."""
DIALECT = Dialect(
    {
        "bool": "Bool",
        **{f"int{bits}": f"Int{bits}" for bits in (8, 16, 32, 64)},
        **{f"uint{bits}": f"UInt{bits}" for bits in (8, 16, 32, 64)},
        "float32": "Float32",
        "float64": "Float64",
        "decimal": "Decimal(20, 0)",
        "binary": "String",
        "nested": "String",
        "time": "String",
        "string": "String",
        "timestamp": "DateTime64(9, 'UTC')",
        "timestamp_utc": "DateTime64(9, 'UTC')",
        "date": "Date32",
    }
)
_AT_ONCE = 1_000
"""Ids in one question."""
_REFUSED = {6, 26, 27, 32, 38, 41, 44, 53, 69, 70, 117, 131, 321, 349, 407, 469}
"""Codes of errors that are about values: CANNOT_PARSE_TEXT and so on."""

_inside = threading.local()


def _is_of_others(record: logging.LogRecord) -> bool:
    """
    Let a line of log through, unless it warns of what is raised here besides.
    """
    return record.levelno >= logging.ERROR or not getattr(_inside, "is_here", False)


logging.getLogger("urllib3.connectionpool").addFilter(_is_of_others)
_theirs = logging.getLogger("clickhouse_connect")
if _theirs.level == logging.NOTSET:
    _theirs.setLevel(logging.ERROR)


class ClickHouseSink(NetworkSink):
    """
    A database of a ClickHouse server.

    Args:
        url: ``clickhouse://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE]``, its HTTP port, or
            ``clickhouses://`` with TLS; the option ``order_by`` names the columns by
            which new tables are sorted, with commas between them.
    """

    def __init__(self, url: str) -> None:
        secure = url.startswith("clickhouses:")
        super().__init__(url, port=8443 if secure else 8123, options=("order_by",))
        target = self._target
        self._order = target.options.get("order_by", "received_at").split(",")
        ((host, port), *_) = target.hosts
        self._made: dict[str, Any] = {
            "interface": "https" if secure else "http",
            "host": host,
            "port": port,
            "username": target.user or None,
            "password": target.password,
            "database": target.path or "default",
            "connect_timeout": CONNECT_TIMEOUT,
            "send_receive_timeout": TIMEOUT,
            "query_retries": 0,
            # Sessions may not be used twice at once, and nothing here needs one.
            "autogenerate_session_id": False,
            "client_name": "protoserve",
        }
        self._client: Any = None

    def open(self) -> None:
        with self._mapped():
            self._connected()

    def known(self, ids: Sequence[str]) -> set[str]:
        with self._mapped():
            return self._begun(ids)[0]

    def store(self, tables: Mapping[str, pa.Table], ids: Sequence[str]) -> None:
        ready = {name: _ready(plain(name, rows)) for name, rows in tables.items()}
        ready = {name: rows for name, rows in ready.items() if rows.num_columns}
        with self._mapped():
            done, left = self._begun(ids)
            if done:
                already_stored(self.url, done, ids)
                return
            for batch, names in left.items():
                self._forget(batch, names)
            for name, rows in ready.items():
                self._fit(name, rows.schema)
            batch = uuid.uuid4().int >> 65
            self._note(ids, batch, list(ready), done=False)
            try:
                for name, rows in ready.items():
                    numbers = pa.array([batch] * len(rows), pa.uint64())
                    self._insert(name, rows.append_column(BATCH, numbers))
            except ClickHouseError as exc:
                if _is_refused(exc):
                    self._forget(batch, list(ready))
                raise
            self._note(ids, batch, [], done=True)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _connected(self) -> Any:
        if self._client is None:
            self._client = clickhouse_connect.get_client(**self._made)
            self._client.command(
                f"CREATE TABLE IF NOT EXISTS {ENTRIES} (id String, batch UInt64, "
                "tables Array(String), done Bool, at DateTime DEFAULT now()) "
                "ENGINE = MergeTree ORDER BY id "
                f"TTL at + INTERVAL {KEEP_SECONDS:.0f} SECOND"
            )
        return self._client

    def _ask(self, query: str) -> list[list[Any]]:
        raw = self._connected().raw_query(query, fmt="JSONCompactEachRow")
        return [json.loads(line) for line in raw.splitlines()]

    def _begun(self, ids: Sequence[str]) -> tuple[set[str], dict[int, list[str]]]:
        """
        Give those entries that are done, and the batches of others, with their tables.
        """
        done: set[str] = set()
        left: dict[int, list[str]] = {}
        for start in range(0, len(ids), _AT_ONCE):
            some = ", ".join(_text(each) for each in ids[start : start + _AT_ONCE])
            for each, batch, tables, is_done in self._ask(
                "SELECT id, toString(batch), max(tables), max(done) "
                f"FROM {ENTRIES} WHERE id IN ({some}) GROUP BY id, batch"
            ):
                if is_done:
                    done.add(each)
                else:
                    left[int(batch)] = tables
        return done, left

    def _forget(self, batch: int, tables: Sequence[str]) -> None:
        """
        Delete what there is of a batch that will never be done.
        """
        for name in tables:
            if self._columns(name) is not None:
                self._connected().command(
                    f"DELETE FROM {_name(name)} WHERE {BATCH} = {batch}"
                )
        self._connected().command(f"DELETE FROM {ENTRIES} WHERE batch = {batch}")

    def _note(
        self, ids: Sequence[str], batch: int, tables: list[str], *, done: bool
    ) -> None:
        ids = list(dict.fromkeys(ids))
        rows = pa.table(
            {
                "id": ids,
                "batch": pa.array([batch] * len(ids), pa.uint64()),
                "tables": pa.array([tables] * len(ids), pa.list_(pa.string())),
                "done": [done] * len(ids),
            }
        )
        if ids:
            self._insert(ENTRIES, rows)

    def _insert(self, name: str, rows: pa.Table) -> None:
        self._connected().insert_arrow(
            _name(name),
            rows,
            settings={
                "async_insert": 0,
                "input_format_null_as_default": 1,
                # One block, so that it is there as a whole, or not.
                "max_insert_block_size": 10_000_000,
                "min_insert_block_size_rows": 10_000_000,
            },
        )

    def _fit(self, name: str, schema: pa.Schema) -> None:
        """
        Make a table and its columns, or make them wider.
        """
        wanted = DIALECT.stored(schema)
        have = self._columns(name)
        there = None
        if have is not None:
            there = pa.schema(
                [(each, DIALECT.arrow(kind)) for each, kind in have.items()]
            )
            for field in wanted:
                if field.name in have and types.is_null(there.field(field.name).type):
                    raise SinkRefusedError(
                        f"table {name}, column {field.name}: expected "
                        f"{DIALECT.sql(field.type)}, the store has {have[field.name]}"
                    )
        evolution = evolve(name, there, wanted)
        key = [each for each in self._order if each in wanted.names]
        if have is None:
            columns = [
                _column(field, nullable=field.name not in key)
                for field in evolution.added
            ]
            self._connected().command(
                f"CREATE TABLE IF NOT EXISTS {_name(name)} "
                f"({', '.join([*columns, f'{BATCH} UInt64'])}) ENGINE = MergeTree "
                f"ORDER BY ({', '.join(map(_name, key))})"
            )
            return
        changes = [f"ADD COLUMN IF NOT EXISTS {_column(f)}" for f in evolution.added]
        changes += [f"MODIFY COLUMN {_column(field)}" for field in evolution.widened]
        for change in changes:
            self._connected().command(f"ALTER TABLE {_name(name)} {change}")

    def _columns(self, name: str) -> dict[str, str] | None:
        """
        Give the columns of a table with their types; `None` if there is none.
        """
        rows = self._ask(
            "SELECT name, type FROM system.columns "
            f"WHERE database = currentDatabase() AND table = {_text(name)}"
        )
        return {
            column: kind.removeprefix("Nullable(").removesuffix(")")
            if kind.startswith("Nullable(")
            else kind
            for column, kind in rows
        } or None

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        _inside.is_here = True
        try:
            yield
        except (ClickHouseError, HTTPError, OSError) as exc:
            self.close()
            kind = SinkRefusedError if _is_refused(exc) else SinkUnavailableError
            raise kind(self._line(_cause(exc))) from None
        finally:
            _inside.is_here = False


def _cause(exc: Exception) -> BaseException | str:
    """
    Give what the system said of a connection, instead of all that wraps it.
    """
    found: BaseException | None = exc
    while found is not None:
        if isinstance(found, OSError) and found.strerror:
            return found.strerror
        found = found.__cause__ or found.__context__
    return exc


def _is_refused(exc: Exception) -> bool:
    return getattr(exc, "code", None) in _REFUSED


def _text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _name(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"


def _column(field: pa.Field, *, nullable: bool = True) -> str:
    kind = DIALECT.sql(field.type)
    said = comment_of(field)
    return (
        f"{_name(field.name)} {f'Nullable({kind})' if nullable else kind}"
        f"{f' COMMENT {_text(said)}' if said else ''}"
    )


def _ready(rows: pa.Table) -> pa.Table:
    """
    Make text of what has no type there.
    """
    for index, field in enumerate(rows.schema):
        if types.is_nested(field.type):
            values = listed(rows.column(index))
            texts = [None if v is None else json.dumps(json_able(v)) for v in values]
            column = pa.array(texts, pa.string())
        elif types.is_time(field.type):
            column = rows.column(index).cast(pa.string())
        else:
            continue
        rows = rows.set_column(index, field.with_type(pa.string()), column)
    return rows
