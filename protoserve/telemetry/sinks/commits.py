"""
Commits of sinks that write files: what is stored, and as which entries.

Several files cannot be appended to or renamed at once. So what counts as stored is what a
journal says: one line for each `Sink.store`, with the entries' ids and the files, appended
when the files themselves are safe. A file is then as long as the journal says; what is
beyond that, after a crash, never counted and is cut off. A file that is renamed into place
is renamed after its line is written, and after a crash when the journal is next opened.

Several processes may write to one place: who commits has the lock, and has read what
others have committed. The kernel takes the lock back from a process that dies.

The journal is cut into segments, and the oldest are deleted, so neither it nor what is
held in memory grows without bound. It may be deleted as a whole; what is delivered
again after that is stored again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from protoserve.telemetry.sinks import files
from protoserve.telemetry.sinks.base import SinkUnavailableError
from protoserve.telemetry.sinks.schema import KEEP_SECONDS

__all__ = ["KEEP_IDS", "Commits"]

logger = logging.getLogger("protoserve")

KEEP_IDS = 250_000
"""How many ids are known at most; they are held in memory."""
_PATIENCE = 30.0
"""Seconds for which the lock of another process is waited for."""
_SEGMENT_IDS = 50_000
_MOST_FILES = 10_000
"""Files whose length is known; those that were written last."""


class Commits:
    """
    The journal of a place, which is a folder of its own.

    Args:
        folder: where it is kept.
        segment_ids: how many ids a segment has.
    """

    def __init__(self, folder: Path, *, segment_ids: int = _SEGMENT_IDS) -> None:
        self.folder = folder
        self.files: dict[str, int] = {}
        """The files that were written last, with their lengths in bytes."""
        self._segment_ids = segment_ids
        self._ids: dict[str, None] = {}
        self._segments: dict[int, int] = {}
        self._number = 0
        self._offset = 0
        self._lock = -1

    def open(self) -> None:
        """
        Read it, or begin it.
        """
        files.make_folder(self.folder)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._lock = os.open(self.folder / "lock", flags, 0o666)
        self.files, self._ids, self._segments = {}, {}, {}
        self._number = self._offset = 0

    def close(self) -> None:
        """
        Let go of it.
        """
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """
        Keep other processes from committing; what they have committed is known then.

        Raises:
            SinkUnavailableError: another process does not let go of it.
        """
        until = time.monotonic() + _PATIENCE
        while not self._locked():
            if time.monotonic() > until:
                raise SinkUnavailableError(
                    f"{self.folder}: another process holds the lock"
                )
            time.sleep(0.005)
        try:
            self._read(cut=True)
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _locked(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            if exc.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            raise
        return True

    def known(self, ids: Sequence[str]) -> set[str]:
        """
        Say which entries are committed, by whichever process.
        """
        self._read()
        return {each for each in ids if each in self._ids}

    def commit(self, ids: Sequence[str], lengths: Mapping[str, int]) -> None:
        """
        Commit entries; the caller is alone, and their files are safe.

        Args:
            ids: the entries'.
            lengths: how long the files are that they are in, by path.
        """
        if self._segments.get(self._number, 0) >= self._segment_ids:
            self._begin_segment()
        record = {"at": round(time.time(), 3), "ids": [*ids], "files": {**lengths}}
        self._append(record)
        self._take(record)

    def _append(self, record: Mapping[str, Any]) -> None:
        if not self._number:
            self._number = 1
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        path = self._path(self._number)
        begins = not self._offset
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        handle = os.open(path, flags, 0o666)
        try:
            self._offset = files.append(handle, [memoryview(line)], self._offset)
        finally:
            os.close(handle)
        if begins:
            files.sync_folder(self.folder)

    def _begin_segment(self) -> None:
        """
        Begin a segment, with what is known of files, and delete what is too old.
        """
        self._number, self._offset = self._number + 1, 0
        self._append({"at": round(time.time(), 3), "ids": [], "files": self.files})
        newer = 0
        for number in sorted(self._segments, reverse=True):
            path = self._path(number)
            with contextlib.suppress(FileNotFoundError):
                age = time.time() - path.stat().st_mtime
                if newer >= KEEP_IDS or age > KEEP_SECONDS:
                    path.unlink()
            newer += self._segments[number]

    def _path(self, number: int) -> Path:
        return self.folder / f"entries-{number:08}.jsonl"

    def _read(self, *, cut: bool = False) -> None:
        """
        Read what is new; who is alone cuts an unfinished line off.
        """
        names = [path.stem for path in self.folder.glob("entries-*.jsonl")]
        numbers = sorted(int(name[8:]) for name in names if name[8:].isdigit())
        for number in numbers:
            if number < self._number:
                continue
            offset = self._offset if number == self._number else 0
            last = number == numbers[-1]
            try:
                self._read_segment(number, offset, cut=cut and last)
            except FileNotFoundError:
                continue

    def _read_segment(self, number: int, offset: int, *, cut: bool) -> None:
        handle = os.open(self._path(number), os.O_RDWR | os.O_CLOEXEC)
        try:
            size = os.fstat(handle).st_size
            self._number, self._offset = number, offset
            self._segments.setdefault(number, 0)
            if size <= offset:
                return
            if cut:
                size = files.cut_line(handle)
            data = os.pread(handle, size - offset, offset)
        finally:
            os.close(handle)
        whole = data.rfind(b"\n") + 1
        self._offset = offset + whole
        for line in data[:whole].splitlines():
            try:
                self._take(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError):
                logger.warning("%s: a line is damaged, skipped", self._path(number))

    def _take(self, record: Mapping[str, Any]) -> None:
        ids, lengths = list(record["ids"]), dict(record["files"])
        self._segments[self._number] = self._segments.get(self._number, 0) + len(ids)
        _newest(self._ids, dict.fromkeys(ids), KEEP_IDS)
        _newest(self.files, lengths, _MOST_FILES)


def _newest(kept: dict[str, Any], new: Mapping[str, Any], most: int) -> None:
    """
    Add to a dict at its end, and drop from its beginning what is too much.
    """
    for key, value in new.items():
        kept.pop(key, None)
        kept[key] = value
    while len(kept) > most:
        del kept[next(iter(kept))]
