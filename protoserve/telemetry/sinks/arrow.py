"""
Arrow IPC: a folder of stream files, the fastest of all sinks.

A table is a folder, and a segment of it a file ``TIME-WRITER-NUMBER.arrows``, which any
Arrow library reads up to its last whole batch while it is written to. A segment ends when
it is long or old enough, when the schema changes, and when the sink is closed.

Each store's messages are made apart and appended, not written by one writer to the file:
that cannot go on behind a write that failed. Dictionaries of text stay, and are written
anew each time, which the format allows. What counts as stored is what the journal says
(`Commits`): a file that is longer than it says is cut when the folder is next opened.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pyarrow as pa

from protoserve.telemetry.packing import stream_of
from protoserve.telemetry.sinks import files
from protoserve.telemetry.sinks.base import Sink
from protoserve.telemetry.sinks.commits import Commits
from protoserve.telemetry.sinks.direct import Appender, open_direct
from protoserve.telemetry.sinks.options import one_of, seconds, size, split
from protoserve.telemetry.sinks.schema import already_stored, conform, evolve, plain

__all__ = ["ArrowSink"]

_OPTIONS: dict[str, Callable[[str], Any]] = {
    "segment_size": size,
    "segment_age": seconds,
    "compression": one_of("none", "lz4", "zstd"),
}
_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""What ends a stream: a message of no length."""


@attrs.define
class _Segment:
    """
    The file that a table is being written to.
    """

    path: Path
    handle: int
    schema: pa.Schema
    began: float
    length: int = 0
    head: int = 0
    """How long its beginning is, which says what the schema is."""


class ArrowSink(Sink):
    """
    A folder of Arrow stream files.

    Args:
        url: ``arrow:DIR``; the options are ``segment_size`` (bytes, 256 MiB),
            ``segment_age`` (seconds, an hour) and ``compression`` (``none``, ``lz4``
            or ``zstd``).
    """

    max_rows = 400_000

    def __init__(self, url: str) -> None:
        self.url = url
        where, options = split(url, _OPTIONS)
        self._folder = Path(where)
        self._size: int = options.get("segment_size", 256 << 20)
        self._age: float = options.get("segment_age", 3600.0)
        how = options.get("compression", "none")
        self._how = pa.ipc.IpcWriteOptions(compression=None if how == "none" else how)
        self._commits = Commits(self._folder / "_protoserve")
        self._appender = Appender()
        self._segments: dict[str, _Segment] = {}
        self._schemas: dict[str, pa.Schema] = {}
        self._made = 0

    def open(self) -> None:
        with files.system_errors(self._folder):
            self._commits.open()
            with self._commits.alone():
                for name, length in self._commits.files.items():
                    _cut(self._folder / name, length)

    def known(self, ids: Sequence[str]) -> set[str]:
        with files.system_errors(self._folder):
            return self._commits.known(ids)

    def store(self, tables: Mapping[str, pa.Table], ids: Sequence[str]) -> None:
        ready = {
            name: plain(name, rows, dictionaries=True) for name, rows in tables.items()
        }
        with files.system_errors(self._folder), self._commits.alone():
            if there := self._commits.known(ids):
                already_stored(self._folder, there, ids)
                return
            plan = {
                name: evolve(name, self._schema_of(name), rows.schema).schema
                for name, rows in ready.items()
                if rows.num_columns and rows.num_rows  # else there is no stream
            }
            lengths = {}
            try:
                for name, schema in plan.items():
                    rows = conform(name, ready[name], schema)
                    segment = self._append(name, rows)
                    lengths[self._name(segment)] = segment.length
                self._commits.commit(ids, lengths)
            except BaseException:
                self._forget()
                raise
            self._schemas.update(plan)

    def close(self) -> None:
        try:
            with files.system_errors(self._folder):
                if self._segments:
                    with self._commits.alone():
                        for name in list(self._segments):
                            self._end(name)
        finally:
            self._forget()
            self._schemas.clear()
            self._commits.close()

    def _name(self, segment: _Segment) -> str:
        return str(segment.path.relative_to(self._folder))

    def _schema_of(self, table: str) -> pa.Schema | None:
        """
        Give the schema of a table; when it is first asked, that of its newest file.
        """
        if table not in self._schemas:
            found = self._folder.joinpath(table).glob("*.arrows")
            schema = files.newest_schema(found, _read_schema)
            if schema is None:
                return None
            self._schemas[table] = schema
        return self._schemas[table]

    def _append(self, name: str, rows: pa.Table) -> _Segment:
        segment = self._segments.get(name)
        if segment is not None and (
            not segment.schema.equals(rows.schema)
            or segment.length >= self._size
            or time.monotonic() - segment.began > self._age
        ):
            self._end(name)
            segment = None
        if segment is None:
            segment = self._begin(name, rows.schema)
        messages = self._messages(rows)
        if segment.length:
            messages = _behind(messages, segment.head)
        else:
            segment.head = len(rows.schema.serialize())
        segment.length = self._appender.append(segment.handle, messages, segment.length)
        return segment

    def _messages(self, rows: pa.Table) -> list[memoryview]:
        """
        Give a stream that has some rows and no end: schema, dictionaries, batches.
        """
        return [memoryview(each) for each in stream_of(rows, self._how, ended=False)]

    def _begin(self, name: str, schema: pa.Schema) -> _Segment:
        folder = self._folder / name
        files.make_folder(folder)
        self._made += 1
        path = folder / f"{time.time_ns()}-{os.getpid()}-{self._made}.arrows"
        # After a crash whatever is in it beyond that is known to be nothing.
        self._commits.commit([], {f"{name}/{path.name}": 0})
        handle = open_direct(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        files.sync_folder(folder)
        segment = _Segment(path, handle, schema, time.monotonic())
        self._segments[name] = segment
        return segment

    def _end(self, name: str) -> None:
        segment = self._segments.pop(name)
        try:
            end = memoryview(_END)
            segment.length = self._appender.append(
                segment.handle, [end], segment.length
            )
            self._commits.commit([], {self._name(segment): segment.length})
        finally:
            os.close(segment.handle)

    def _forget(self) -> None:
        """
        Let go of the segments, and cut what was not committed of them.
        """
        while self._segments:
            _, segment = self._segments.popitem()
            os.close(segment.handle)
            _cut(segment.path, self._commits.files.get(self._name(segment), 0))


def _behind(buffers: list[memoryview], size: int) -> list[memoryview]:
    """
    Leave out the first bytes of some buffers.
    """
    left = list(buffers)
    while left and size >= left[0].nbytes:
        size -= left.pop(0).nbytes
    if size and left:  # without rows there is nothing at all
        left[0] = left[0].cast("B")[size:]
    return left


def _read_schema(path: Path) -> pa.Schema:
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
        return stream.schema


def _cut(path: Path, length: int) -> None:
    """
    Cut a file to what is committed of it; without anything it goes.
    """
    try:
        if not length:
            path.unlink()
        elif path.stat().st_size > length:
            os.truncate(path, length)
    except FileNotFoundError:
        return
