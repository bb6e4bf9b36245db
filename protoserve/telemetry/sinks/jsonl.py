"""
JSON lines: a file, or standard output, with a line for each row.

A line is an object that begins with ``_table``, the name of the row's table, and has the
columns behind it. Bytes are hex, times ISO 8601, NaN and infinities null.

A file is appended to, and may be rotated by whoever likes to: it is looked at by its path
each time. What counts as stored is what the journal says (`Commits`), in the folder
``FILE.entries`` beside it: what is there beyond that, after a crash, is cut off. Without a
journal an unfinished last line is. Standard output, pipes and devices keep nothing, so
what is delivered again after a crash is written again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from protoserve.telemetry.sinks import files
from protoserve.telemetry.sinks.base import Sink
from protoserve.telemetry.sinks.commits import KEEP_IDS, Commits
from protoserve.telemetry.sinks.options import split
from protoserve.telemetry.sinks.schema import already_stored, plain
from protoserve.telemetry.sinks.values import json_able, listed, text_of_times

__all__ = ["JSONLinesSink"]

_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":")
).encode


class JSONLinesSink(Sink):
    """
    A file of JSON lines.

    Args:
        url: ``jsonl:FILE``; ``-`` is standard output.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        where, _ = split(url, {})
        self._path = Path(where) if where != "-" else None
        self._commits: Commits | None = None
        self._ids: dict[str, None] = {}
        self._handle = -1

    def open(self) -> None:
        with files.system_errors(self._path):
            if self._path is None:
                self._handle = os.dup(1)
                return
            if self._path.exists() and not self._path.is_file():
                self._handle = _open_stream(self._path)
                return
            beside = self._path.with_name(f"{self._path.name}.entries")
            self._commits = Commits(beside)
            self._commits.open()
            with self._commits.alone():
                self._ready(self._path, self._commits)

    def known(self, ids: Sequence[str]) -> set[str]:
        if self._commits is None:
            return {each for each in ids if each in self._ids}
        with files.system_errors(self._path):
            return self._commits.known(ids)

    def store(self, tables: Mapping[str, pa.Table], ids: Sequence[str]) -> None:
        lines = [piece for name, rows in tables.items() for piece in _lines(name, rows)]
        with files.system_errors(self._path or "standard output"):
            if self._path is None or self._commits is None:
                if there := self.known(ids):
                    already_stored(self.url, there, ids)
                    return
                files.write_all(self._handle, lines)
                self._remember(ids)
                return
            with self._commits.alone():
                if there := self._commits.known(ids):
                    already_stored(self._path, there, ids)
                    return
                length = self._ready(self._path, self._commits)
                longer = files.append(self._handle, lines, length)
                self._commits.commit(ids, {self._key(): longer})

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        if self._commits is not None:
            self._commits.close()
            self._commits = None

    def _remember(self, ids: Sequence[str]) -> None:
        self._ids.update(dict.fromkeys(ids))
        while len(self._ids) > KEEP_IDS:
            del self._ids[next(iter(self._ids))]

    def _key(self) -> str:
        """
        Name the file in the journal: one that is moved away is not the next one.
        """
        return f"inode {os.fstat(self._handle).st_ino}"

    def _ready(self, path: Path, commits: Commits) -> int:
        """
        Have the file open that the path names, as long as it is committed.
        """
        with contextlib.suppress(FileNotFoundError):
            if self._handle >= 0 and os.path.samestat(
                path.stat(), os.fstat(self._handle)
            ):
                return self._trimmed(commits)
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._handle = os.open(path, flags, 0o666)
        files.sync_folder(path.parent)
        return self._trimmed(commits)

    def _trimmed(self, commits: Commits) -> int:
        key, length = self._key(), os.fstat(self._handle).st_size
        committed = commits.files.get(key)
        if committed is None or committed > length:
            committed = files.cut_line(self._handle)
            commits.commit([], {key: committed})
        elif committed < length:
            os.ftruncate(self._handle, committed)
        return committed


def _open_stream(path: Path) -> int:
    """
    Open a pipe or a device; a pipe that nobody reads is unavailable.
    """
    handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(handle, True)
    return handle


def _lines(name: str, rows: pa.Table) -> Iterator[memoryview]:
    """
    Give the lines of a table, in pieces; they are put together without a loop over rows.
    """
    rows = plain(name, rows)
    if not rows.num_columns:
        return
    parts: list[Any] = []
    before = f'{{"_table":{_encode(name)},'
    for field, column in zip(rows.schema, rows.columns, strict=True):
        parts += [_text(f"{before}{_encode(field.name)}:"), _texts(column)]
        before = ","
    lines = pc.binary_join_element_wise(
        *parts,
        _text("}\n"),
        _text(""),
        null_handling="replace",
        null_replacement="null",
    )
    for piece in lines.chunks:
        _, offsets, data = piece.buffers()
        ends = np.frombuffer(offsets, np.int64)[piece.offset :]
        yield memoryview(data)[int(ends[0]) : int(ends[len(piece)])]


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """
    Write each value as JSON.
    """
    kind = column.type
    if types.is_integer(kind) or types.is_boolean(kind):
        return column.cast(pa.large_string())
    if types.is_timestamp(kind):
        column = text_of_times(column)
    elif not types.is_string(kind) or _needs_escapes(column):
        values = listed(column)
        texts = [None if each is None else _encode(json_able(each)) for each in values]
        return pa.chunked_array([texts], pa.large_string())
    text = column.cast(pa.large_string())
    return pc.binary_join_element_wise(_text('"'), text, _text('"'), _text(""))


def _needs_escapes(column: pa.ChunkedArray) -> bool:
    found = pc.match_substring_regex(column, r'["\\\x00-\x1f]')
    return bool(pc.any(found).as_py())


def _text(value: str) -> pa.Scalar:
    return pa.scalar(value, pa.large_string())
