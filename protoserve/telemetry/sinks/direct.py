"""
Appending to large files past the kernel's page cache.

What a collector stores is hardly read by itself, and soon more than any cache holds. To
copy it into fresh pages of the kernel's costs more processor time than all else that is
done to store it, many times more on a virtual machine whose memory comes from the host as
it is first used. So it is brought to a buffer that is always the same, and from there to
the disk (O_DIRECT), in whole blocks: the block in which the file ends is read, and
written again with what is appended. Behind the file's end that leaves zeros for a moment,
until it is cut.

Where the file's system knows nothing of that, the same writes go through the cache.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["Appender", "open_direct"]

_BLOCK = 4096
"""Bytes; what disks and file systems want multiples of."""
_ROOM = 2 << 20
_DIRECT = getattr(os, "O_DIRECT", 0)


def open_direct(path: Path, flags: int) -> int:
    """
    Open a file to be written past the cache, if its system allows that.
    """
    try:
        return os.open(path, flags | os.O_CLOEXEC | _DIRECT, 0o666)
    except OSError as error:
        if error.errno != errno.EINVAL or not _DIRECT:
            raise
    # It may have been made before that was refused.
    return os.open(path, (flags & ~os.O_EXCL) | os.O_CLOEXEC, 0o666)


class Appender:
    """
    Appends to files, one at a time, by way of one buffer.
    """

    def __init__(self) -> None:
        # Of a map the kernel gives whole pages, as the disk wants them.
        self._room = memoryview(mmap.mmap(-1, _ROOM))

    def append(self, handle: int, buffers: Iterable[memoryview], length: int) -> int:
        """
        Append to a file, durably; if that fails, cut it to its former length.

        Args:
            handle: the file, open for reading and writing, not for appending.
            buffers: what is appended.
            length: how long it is, in bytes.

        Returns:
            How long it is now.

        Raises:
            OSError: it cannot be written.
        """
        try:
            end = self._write(handle, buffers, length)
            os.ftruncate(handle, end)
            os.fdatasync(handle)
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(handle, length)
            raise
        return end

    def _write(self, handle: int, buffers: Iterable[memoryview], length: int) -> int:
        room = self._room
        filled = length % _BLOCK
        start = length - filled
        if filled and os.preadv(handle, [room[:_BLOCK]], start) < filled:
            raise OSError(errno.EIO, f"expected {length} bytes, found less")
        for buffer in buffers:
            left = buffer.cast("B")
            while left:
                part = left[: _ROOM - filled]
                room[filled : filled + len(part)] = part
                filled += len(part)
                left = left[len(part) :]
                if filled == _ROOM:
                    _write_all(handle, room, start)
                    start += _ROOM
                    filled = 0
        padding = -filled % _BLOCK
        room[filled : filled + padding] = bytes(padding)
        _write_all(handle, room[: filled + padding], start)
        return start + filled


def _write_all(handle: int, blocks: memoryview, start: int) -> None:
    while blocks:
        try:
            wrote = os.pwrite(handle, blocks, start)
        except OSError as error:
            flags = fcntl.fcntl(handle, fcntl.F_GETFL)
            if error.errno != errno.EINVAL or not flags & _DIRECT:
                raise
            # Its blocks are larger than ours, or it can only be opened like this.
            fcntl.fcntl(handle, fcntl.F_SETFL, flags & ~_DIRECT)
            continue
        start += wrote
        blocks = blocks[wrote:]
