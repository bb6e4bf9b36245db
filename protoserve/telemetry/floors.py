"""
How far the groups of a spool have come, and what may be deleted therefore.

Each group has a small file: two lines that are written in turn, each with a CRC, so that
one of them is whole whatever happens. It holds the group's floor, the sequence of the
first entry that is yet to be dealt with, the sum of all counts before that, of those how
many were lost, and how many are known to be lost behind it. Where it cannot be read the
group begins anew, and ids tell what has been delivered.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import time
import urllib.parse
import zlib
from pathlib import Path

from protoserve.telemetry.locks import FileLock
from protoserve.telemetry.segments import list_segments, remove

__all__ = ["Bookmark", "clean", "progress", "read_floors"]

logger = logging.getLogger("protoserve")


class Bookmark:
    """
    How far a group has come, in a file.
    """

    _LINE = 5 * 21 + 9

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._writes, self.floor, self.before, self.lost, self.ahead = self._read()

    def _read(self) -> tuple[int, int, int, int, int]:
        data = os.pread(self._file, 2 * self._LINE, 0)
        best = (0, 0, 0, 0, 0)
        for at in (0, self._LINE):
            text, _, crc = data[at : at + self._LINE].rpartition(b" ")
            with contextlib.suppress(ValueError):
                if int(crc, 16) == zlib.crc32(text):
                    writes, floor, before, lost, ahead = map(int, text.split())
                    best = max(best, (writes, floor, before, lost, ahead))
        return best

    def save(self, floor: int, before: int, lost: int, ahead: int) -> None:
        """
        Keep how far it is; a process that is killed right after has kept it.
        """
        self._writes += 1
        self.floor, self.before, self.lost, self.ahead = floor, before, lost, ahead
        numbers = (self._writes, floor, before, lost, ahead)
        text = b"%020d %020d %020d %020d %020d" % numbers
        line = b"%s %08x\n" % (text, zlib.crc32(text))
        os.pwrite(self._file, line, self._writes % 2 * self._LINE)

    def sync(self) -> None:
        """
        Have it on the disk.
        """
        os.fdatasync(self._file)

    def close(self) -> None:
        """
        Close the file.
        """
        os.close(self._file)


def read_floors(
    folder: Path, forget_after: float, *, sync: bool = False
) -> list[tuple[int, int]]:
    """
    Give the floor of each group, with the sum of all counts before it.

    Groups that were not seen for so many seconds are forgotten.
    """
    floors = []
    for path in (folder / "groups").glob("*.floor"):
        # Somebody else may forget it at the same time.
        with contextlib.suppress(FileNotFoundError):
            old = time.time() - path.stat().st_mtime > forget_after
            if old and _forget(path, forget_after):
                continue
            with contextlib.closing(Bookmark(path)) as bookmark:
                if sync:
                    bookmark.sync()
                floors.append((bookmark.floor, bookmark.before))
    return floors


def progress(folder: Path, group: str) -> tuple[int, int]:
    """
    Say how far a group is: the sum of the counts of all entries that it is done with, and
    of those that it has never had and never will.
    """
    path = folder / "groups" / f"{urllib.parse.quote(group, safe='')}.floor"
    if not path.exists():
        return 0, 0
    with contextlib.closing(Bookmark(path)) as bookmark:
        ahead = bookmark.ahead
        return bookmark.before + ahead, bookmark.lost + ahead


def _forget(path: Path, seconds: float) -> bool:
    """
    Forget a group, unless somebody reads for it: its sink may be away for long.
    """
    try:
        held = FileLock(path.with_suffix(".lock"))
    except OSError:
        return False
    try:
        path.unlink()
    finally:
        held.close()
    group = urllib.parse.unquote(path.stem)
    text = "spool %s: group %s was not seen for %.0f s and is forgotten"
    logger.warning(text, path.parents[1], group, seconds)
    return True


def clean(folder: Path, forget_after: float) -> None:
    """
    Delete the segments with which all groups are done; the newest is kept.
    """
    segments = list_segments(folder)
    floors = read_floors(folder, forget_after)
    if not floors:
        return
    floor = min(floors)[0]
    done = [old for old, new in itertools.pairwise(segments) if new.first <= floor]
    if done:
        # Were a floor lost with the power, what is deleted now would count as lost.
        read_floors(folder, forget_after, sync=True)
    for segment in done:
        remove(segment)
