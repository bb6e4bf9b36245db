"""
Parquet: a folder of files, partitioned by the hour in which the rows were received.

What is stored at a time is one file for each table and hour,
``TABLE/date=YYYY-MM-DD/hour=HH/TIME-WRITER-NUMBER.parquet``, in the manner of Hive, which
DuckDB, Spark and pandas know. Several processes may write to one folder, and anybody may
read it meanwhile: a file is complete or not there.

Files are written under another name, in ``_protoserve/temporary``, and made safe; then
the journal says that they count (`Commits`), then they get their names. A crash before
leaves files that nobody sees, which are deleted when they are old; after one in between,
`open` gives them their names.

Arrow would make dictionaries of all columns. That takes three times as long and saves
nothing for counters and ports, so only text and bytes have them. What comes in
dictionaries is written from these, without a look at each value; so nothing is said of
their least and greatest, and what the file says of its schema is said here: readers find
plain text. Times are stored as differences, as they grow.

A file a second is a lot of files, so rows are gathered for 10 s by default.
"""

from __future__ import annotations

import base64
import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from protoserve.telemetry.sinks import files
from protoserve.telemetry.sinks.base import Sink
from protoserve.telemetry.sinks.commits import Commits
from protoserve.telemetry.sinks.options import one_of, split
from protoserve.telemetry.sinks.schema import (
    already_stored,
    conform,
    evolve,
    plain,
    without_dictionaries,
)

__all__ = ["ParquetSink"]

_OPTIONS: dict[str, Callable[[str], Any]] = {
    "compression": one_of("zstd", "snappy", "lz4", "gzip", "none"),
}
_HOUR = 3600 * 10**9
_SCHEMA = b"ARROW:schema"
"""Where Arrow looks for the schema, with the docs and units of columns."""
_ABANDONED = 3600.0
"""Seconds after which a temporary file is nobody's: no `store` takes so long."""


class ParquetSink(Sink):
    """
    A folder of Parquet files.

    Args:
        url: ``parquet:DIR``; the option ``compression`` is ``zstd`` (the default),
            ``snappy``, ``lz4``, ``gzip`` or ``none``.
    """

    max_rows = 500_000
    max_age = 10.0

    def __init__(self, url: str) -> None:
        self.url = url
        where, options = split(url, _OPTIONS)
        self._folder = Path(where)
        self._temporary = self._folder / "_protoserve" / "temporary"
        self._compression: str = options.get("compression", "zstd")
        self._commits = Commits(self._folder / "_protoserve")
        self._schemas: dict[str, pa.Schema] = {}
        self._made = 0

    def open(self) -> None:
        with files.system_errors(self._folder):
            self._commits.open()
            files.make_folder(self._temporary)
            with self._commits.alone():
                there = {path.name for path in self._temporary.iterdir()}
                for name in self._commits.files:
                    if self._unfinished(name).name in there:
                        self._put(name)
            for path in self._temporary.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > _ABANDONED:
                        path.unlink()

    def known(self, ids: Sequence[str]) -> set[str]:
        with files.system_errors(self._folder):
            return self._commits.known(ids)

    def store(self, tables: Mapping[str, pa.Table], ids: Sequence[str]) -> None:
        ready = {
            name: plain(name, rows, dictionaries=True) for name, rows in tables.items()
        }
        lengths: dict[str, int] = {}
        with files.system_errors(self._folder):
            plan = {
                name: evolve(name, self._schema_of(name), rows.schema).schema
                for name, rows in ready.items()
                if rows.num_columns
            }
            try:
                for name, schema in plan.items():
                    rows = conform(name, ready[name], schema)
                    for hour, part in _by_hour(rows):
                        path = self._path(name, hour)
                        lengths[path] = self._write(path, part)
                with self._commits.alone():
                    if there := self._commits.known(ids):
                        already_stored(self._folder, there, ids)
                        self._discard(lengths)
                        return
                    self._commits.commit(ids, lengths)
            except BaseException:
                self._discard(lengths)
                raise
            self._schemas.update(plan)
            for name in lengths:
                self._put(name)

    def close(self) -> None:
        self._schemas.clear()
        self._commits.close()

    def _schema_of(self, table: str) -> pa.Schema | None:
        """
        Give the schema of a table; when it is first asked, that of its newest file.
        """
        if table not in self._schemas:
            found = self._folder.joinpath(table).rglob("*.parquet")
            schema = files.newest_schema(found, pq.read_schema)
            if schema is None:
                return None
            self._schemas[table] = schema
        return self._schemas[table]

    def _path(self, table: str, hour: int) -> str:
        self._made += 1
        moment = datetime.fromtimestamp(hour * 3600, UTC)
        return (
            f"{table}/date={moment:%Y-%m-%d}/hour={moment:%H}/"
            f"{time.time_ns()}-{os.getpid()}-{self._made}.parquet"
        )

    def _write(self, name: str, rows: pa.Table) -> int:
        """
        Write a file under its temporary name, durably; make the folder that it goes to.
        """
        path = self._unfinished(name)
        try:
            with path.open("xb") as file:
                self._write_rows(file, rows)
                file.flush()
                os.fsync(file.fileno())
                length = file.tell()
            files.sync_folder(self._temporary)
            files.make_folder(self._folder.joinpath(name).parent)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return length

    def _write_rows(self, file: BinaryIO, rows: pa.Table) -> None:
        # Else only the first chunk's is used.
        rows = _without_null_words(rows).unify_dictionaries()
        schema = without_dictionaries(rows.schema)
        with pq.ParquetWriter(
            file,
            rows.schema,
            compression=self._compression,
            use_dictionary=_named(schema, _repeats),
            column_encoding=dict.fromkeys(
                _named(schema, types.is_timestamp), "DELTA_BINARY_PACKED"
            ),
            write_statistics=_named(rows.schema, lambda kind: not _is_coded(kind)),
            store_schema=False,
        ) as writer:
            writer.write_table(rows)
            said = base64.b64encode(schema.serialize())
            writer.add_key_value_metadata({_SCHEMA: said})

    def _unfinished(self, name: str) -> Path:
        """
        Give a file's temporary name; ``*.parquet`` does not match it.
        """
        return self._temporary / (Path(name).name + ".part")

    def _put(self, name: str) -> None:
        """
        Give a file its name; another process that opened the folder may have done so.
        """
        path = self._folder / name
        with contextlib.suppress(FileNotFoundError):
            self._unfinished(name).rename(path)

    def _discard(self, names: Mapping[str, int]) -> None:
        for name in names:
            with contextlib.suppress(OSError):
                self._unfinished(name).unlink()


def _named(schema: pa.Schema, suits: Callable[[pa.DataType], bool]) -> list[str]:
    return [field.name for field in schema if suits(field.type)]


def _repeats(kind: pa.DataType) -> bool:
    """
    Say whether a dictionary of a column's values is worth its while: not of numbers.
    """
    return bool(types.is_string(kind) or types.is_binary(kind))


def _is_coded(kind: pa.DataType) -> bool:
    return bool(types.is_dictionary(kind))


def _without_null_words(rows: pa.Table) -> pa.Table:
    """
    Take columns out of dictionaries that have a null in them: Arrow does not unify these.
    """
    for index, (field, column) in enumerate(
        zip(rows.schema, rows.columns, strict=True)
    ):
        if _is_coded(field.type) and any(
            chunk.dictionary.null_count for chunk in column.chunks
        ):
            kind = field.type.value_type
            rows = rows.set_column(index, field.with_type(kind), column.cast(kind))
    return rows


def _by_hour(rows: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """
    Part rows by the hour in which they were received; now, if they do not say.
    """
    now = time.time_ns() // _HOUR
    index = rows.schema.get_field_index("received_at")
    if index < 0 or not types.is_timestamp(rows.schema.field(index).type):
        yield now, rows
        return
    times = rows.column(index).cast(pa.timestamp("ns", "UTC")).cast(pa.int64())
    hours = times.fill_null(now * _HOUR).to_numpy() // _HOUR
    found = np.unique(hours).tolist()
    for hour in found:
        yield hour, rows if len(found) == 1 else rows.filter(pa.array(hours == hour))
