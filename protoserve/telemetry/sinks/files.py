"""
Files that are appended to or renamed so that a machine that stops loses nothing.

Errors of the operating system, and Arrow's, become what a sink may raise, here and nowhere else. A full
disk, a bound on files' sizes, a folder that is gone and a lock that is held are all
trouble that passes; what is no folder or no file is not.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from protoserve.telemetry.sinks.base import SinkRefusedError, SinkUnavailableError

__all__ = [
    "append",
    "cut_line",
    "identity_of",
    "make_folder",
    "newest_schema",
    "sync_folder",
    "system_errors",
    "write_all",
]

logger = logging.getLogger("protoserve")

_ALIEN = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EINVAL}
_LOOK = 1 << 16
_MOST_PARTS = 64
_MOST_TRIED = 10


@contextlib.contextmanager
def system_errors(what: object) -> Iterator[None]:
    """
    Raise what a sink may raise.

    Raises:
        SinkRefusedError: something else is there than should be.
        SinkUnavailableError: it does not work now.
    """
    try:
        yield
    except OSError as exc:
        kind = SinkRefusedError if exc.errno in _ALIEN else SinkUnavailableError
        where = exc.filename or what
        raise kind(f"{where}: {exc.strerror or exc}") from exc
    except pa.ArrowException as exc:
        raise SinkRefusedError(f"{what}: {str(exc).splitlines()[0]}") from exc


def identity_of(path: str) -> tuple[int, int] | None:
    """
    Say which file has a name, if there is one: not that of yesterday, if it was replaced.
    """
    with contextlib.suppress(OSError):
        found = Path(path).stat()
        return found.st_dev, found.st_ino
    return None


def make_folder(path: Path) -> None:
    """
    Make a folder, and those around it, durably.
    """
    if path.is_dir():
        return
    if path.parent != path:
        make_folder(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """
    Have the names in a folder reach the disk.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_all(handle: int, buffers: Sequence[memoryview]) -> None:
    """
    Write all bytes of some buffers, without joining them.
    """
    left = [view for view in buffers if view.nbytes]
    while left:
        wrote = os.writev(handle, left[:_MOST_PARTS])
        while left and wrote >= left[0].nbytes:
            wrote -= left.pop(0).nbytes
        if left and wrote:
            left[0] = left[0].cast("B")[wrote:]


def append(handle: int, buffers: Sequence[memoryview], length: int) -> int:
    """
    Append to a file, durably; if that fails, cut it to its former length.

    Args:
        handle: the file, open for appending.
        buffers: what is appended.
        length: how long it is, in bytes.

    Returns:
        How long it is now.
    """
    try:
        write_all(handle, buffers)
        os.fdatasync(handle)
    except BaseException:
        with contextlib.suppress(OSError):
            os.ftruncate(handle, length)
        raise
    return os.fstat(handle).st_size


def newest_schema(
    paths: Iterable[Path], read: Callable[[Path], pa.Schema]
) -> pa.Schema | None:
    """
    Give the schema of the newest file that can be read; names grow with time.
    """
    newest = heapq.nlargest(_MOST_TRIED, paths, key=lambda path: path.name)
    for path in newest:
        try:
            return read(path)
        except (pa.ArrowException, FileNotFoundError) as exc:
            logger.warning("%s: cannot be read: %s", path, str(exc).split("\n")[0])
    return None


def cut_line(handle: int) -> int:
    """
    Cut a last line off that does not end.

    Returns:
        How long the file is now, in bytes.
    """
    length = end = os.fstat(handle).st_size
    while end:
        start = max(0, end - _LOOK)
        found = os.pread(handle, end - start, start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < length:
        os.ftruncate(handle, end)
    return end
