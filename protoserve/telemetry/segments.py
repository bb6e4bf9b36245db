"""
The files of a spool, and the frames in them.

A segment is a file of frames and nothing else. What is to be known of it stands in its
name, which no damage to the file can reach: its number, the sequence of its first
entry, and its mark, eight random bytes with which each of its frames begins::

    0        8     12     16    18   20         28     36       44      48
    +--------+-----+------+-----+----+----------+------+--------+-------+-----+----+---------+
    | mark   | CRC | size | key | id | sequence | time | before | count | key | id | payload |
    +--------+-----+------+-----+----+----------+------+--------+-------+-----+----+---------+

Numbers are little-endian. `size`, and the first `key` and `id`, are lengths; `time` is
in nanoseconds since the epoch; `before` is the sum of all counts before this one, so
that a gap says how many datagrams are missing. The CRC-32 is of the payload, followed by
everything from `size` to the id: the payload's part is taken before the entry has a
sequence.

- The mark is random and no peer knows it: behind damage, when the next frame is looked
  for, a datagram cannot hold what looks like one.
- An entry that was given no id is known by its mark and sequence. The mark is new
  each time that a writer starts: a number that was used before the power went, and of
  which nothing is left on the disk, does not make an id that a store knows already.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import struct
from collections.abc import Sequence
from pathlib import Path

import attrs

try:
    from isal.isal_zlib import crc32  # the same, many times as fast
except ImportError:
    from zlib import crc32

__all__ = [
    "CHECKED",
    "HEADER",
    "HEADER_SIZE",
    "LONGEST",
    "Segment",
    "crc32",
    "frame_head",
    "list_segments",
    "move_aside",
    "payload_crc",
    "remove",
]

logger = logging.getLogger("protoserve")

HEADER = struct.Struct("<8sIIHHQqQI")
HEADER_SIZE = HEADER.size
CHECKED = 12
"""Where in the header that begins which the CRC covers."""
LONGEST = 1 << 31
"""Bytes of a payload; a write of more is cut short by Linux."""
_SUFFIX = ".frames"
_NAME = re.compile(r"(\d{10})-(\d{16})-([0-9a-f]{16})\.frames")
_KEPT_ASIDE = 8
"""Files; what is moved aside has to have a bound too."""


@attrs.frozen
class Segment:
    """
    One file of a spool, as its name tells.
    """

    folder: Path
    number: int
    """Files are numbered in the order in which they were made."""
    first: int
    """The sequence of its first entry."""
    mark: bytes

    @classmethod
    def new(cls, folder: Path, number: int, first: int) -> Segment:
        """
        Name one, with a mark of its own.
        """
        return cls(folder, number, first, secrets.token_bytes(8))

    @property
    def path(self) -> Path:
        """
        Its file.
        """
        name = f"{self.number:010d}-{self.first:016d}-{self.mark.hex()}{_SUFFIX}"
        return self.folder / name

    def size(self) -> int:
        """
        Say how many bytes it has; 0 if it is no more.
        """
        try:
            return self.path.stat().st_size
        except OSError:
            return 0


def list_segments(folder: Path) -> list[Segment]:
    """
    Give a folder's segments in order; what cannot be one is moved aside.
    """
    found = []
    with os.scandir(folder) as items:
        for item in items:
            if not item.name.endswith(_SUFFIX):
                continue
            if (name := _NAME.fullmatch(item.name)) and item.is_file():
                mark = bytes.fromhex(name[3])
                found.append(Segment(folder, int(name[1]), int(name[2]), mark))
            else:
                move_aside(folder / item.name, "no segment of a spool")
    return sorted(found, key=lambda segment: segment.number)


def move_aside(path: Path, why: object) -> None:
    """
    Put what cannot be used where it is not in the way; at most a few are kept.
    """
    aside = path.parent / "aside"
    try:
        aside.mkdir(exist_ok=True)
        path.rename(aside / f"{path.name}.{secrets.token_hex(3)}")
        files = [each for each in aside.iterdir() if each.is_file()]
        for old in sorted(files, key=os.path.getmtime)[:-_KEPT_ASIDE]:
            old.unlink()
    except FileNotFoundError:
        return  # somebody else has done it
    except OSError as error:
        logger.warning("spool: %s cannot be moved aside: %s", path, error)
        return
    logger.warning("spool: %s is moved to %s: %s", path, aside, why)


def payload_crc(buffers: Sequence[memoryview]) -> int:
    """
    Begin the CRC of a frame.
    """
    crc = 0
    for buffer in buffers:
        crc = crc32(buffer, crc)
    return crc


def frame_head(
    mark: bytes,
    crc: int,
    size: int,
    key: bytes,
    name: bytes,
    place: tuple[int, int, int, int],
) -> bytes:
    """
    Give what stands before the payload in a frame.

    Args:
        mark: the segment's.
        crc: what `payload_crc` gave.
        size: bytes of payload.
        key: the entry's.
        name: the entry's id; empty for one by mark and sequence.
        place: sequence, time, before and count.
    """
    head = HEADER.pack(mark, 0, size, len(key), len(name), *place) + key + name
    crc = crc32(memoryview(head)[CHECKED:], crc)
    return b"".join((mark, crc.to_bytes(4, "little"), head[CHECKED:]))


def remove(segment: Segment) -> int:
    """
    Delete a segment, and free its bytes though somebody reads it; say how many.
    """
    try:
        file = os.open(segment.path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        size = os.fstat(file).st_size
        segment.path.unlink(missing_ok=True)
        os.ftruncate(file, 0)
    finally:
        os.close(file)
    return size
