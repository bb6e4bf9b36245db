"""
Frames on lines that lose and garble bytes: a mark to look for, a length, and a
checksum that tells a real frame from one that only looks like it.

A mark can be anything by chance, so nothing is believed before the checksum
fits: after a wrong one, or a length that makes no sense, the search goes on one
byte behind the false mark. That is the only way not to lose a real frame inside
a false one, but it can mean to checksum the same bytes again for every false
mark. A peer could make that cost a multiple of what it sends. So the work done
in vain has an allowance that grows with the stream; when it is used up, a bad
frame is skipped whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import attrs
import construct

from protoserve.framing.base import Framer, Framing
from protoserve.framing.buffer import BufferedFramer
from protoserve.framing.checks import (
    check_size,
    checksum,
    checksum_size,
    flag,
    integer,
    known_size,
    natural,
    pack_checksum,
    positive,
    refuse,
    several,
    unfit,
)
from protoserve.framing.lengths import Layout, number_of
from protoserve.types import ChecksumFunction

__all__ = ["SyncWord"]

# what a 16-bit length can say. A false mark can make the framer wait for as
# many bytes, so a protocol with shorter frames should say so
_MAX_SIZE = 1 << 16

_ALLOWANCE = 16
"""Bytes checked in vain that each byte of the stream allows for."""

_HEAD = 256
"""The most bytes that a function may need to see."""

_SizeFunction: TypeAlias = Callable[[bytes], Any]


def _check_sync(owner: Any, attribute: Any, value: Any) -> None:
    for mark in value:
        if not isinstance(mark, bytes) or not mark:
            refuse(owner, attribute.name, "one byte or more", mark)
    if not value or len({len(mark) for mark in value}) > 1:
        refuse(owner, attribute.name, "sync words of one size", value)
    if len(set(value)) < len(value):
        refuse(owner, attribute.name, "different sync words", value)


def _check_verify(owner: Any, attribute: Any, value: Any) -> None:
    if value is not None and not callable(value):
        refuse(owner, attribute.name, "a callable, or None", value)
    if value is not None and owner.checksum is not None:
        refuse(owner, attribute.name, "None beside a checksum", value)


def _check_order(owner: Any, attribute: Any, value: Any) -> None:
    if value not in {"big", "little"}:
        refuse(owner, attribute.name, '"big" or "little"', value)


@attrs.frozen
class SyncWord(Framing):
    r"""
    A mark, a header with a length, and a checksum; the frame is all of it.

    ::

        SyncWord(b"\xb5\x62", Int16ub, adjustment=2, checksum=crc16_xmodem)

        frame, and stream (18 bytes)
        +--------+--------+----------------+--------+
        | 0xb562 | 0x000c | "HELLO, WORLD" | 0x5b68 |
        +--------+--------+----------------+--------+
          sync     length                    checksum

        after noise, a false sync word and a damaged frame
        +----------+--------+--------------------+---------------+
        | 0x00b5ff | 0xb562 | … checksum wrong … | a whole frame |
        +----------+--------+--------------------+---------------+
          discarded             discarded          decoded

    The length counts what follows it, the checksum included, unless `adjustment`
    or `inclusive` say otherwise. `encode` writes length and checksum.

    >>> from construct import Int16ub
    >>> from protoserve.checksums import crc16_xmodem
    >>> sync = SyncWord(b"\xb5\x62", Int16ub, adjustment=2, checksum=crc16_xmodem)
    >>> sync.encode(b"\xb5\x62\0\0HELLO, WORLD\0\0").hex(" ", -4)
    'b562000c 48454c4c 4f2c2057 4f524c44 5b68'
    """

    sync: tuple[bytes, ...] = attrs.field(converter=several, validator=_check_sync)
    """What a frame starts with: one sync word, or several of the same size."""
    length: Any
    """
    A Construct integer of fixed size, or Construct's VarInt. Or, for headers that
    no number describes, a function: it gets what has come of the frame, up to 256
    bytes, and gives the whole frame's size, or None for more bytes.
    """
    offset: int = attrs.field(kw_only=True, validator=natural)
    """Where the length stands, in bytes from the frame's first; it is just behind
    the sync word unless told otherwise."""
    adjustment: int = attrs.field(default=0, kw_only=True, validator=integer)
    """Bytes to add to the number read."""
    inclusive: bool = attrs.field(default=False, kw_only=True, validator=flag)
    """Whether the number counts the whole frame, or what follows the length."""
    checksum: ChecksumFunction | None = attrs.field(
        default=None, kw_only=True, validator=checksum
    )
    """Of what stands before it, from `checksum_start` on."""
    checksum_size: int = attrs.field(kw_only=True, validator=checksum_size("checksum"))
    """How many bytes it takes; known for those of `protoserve.checksums`."""
    checksum_order: Literal["big", "little"] = attrs.field(
        default="big", kw_only=True, validator=_check_order
    )
    """Its byte order."""
    checksum_start: int = attrs.field(default=0, kw_only=True, validator=natural)
    """The first byte it covers, counted from the frame's first."""
    trailer: int = attrs.field(default=0, kw_only=True, validator=natural)
    """Bytes of the frame that follow the checksum, such as an end mark."""
    verify: Callable[[bytes], bool] | None = attrs.field(
        default=None, kw_only=True, validator=_check_verify
    )
    """In place of a checksum: whether a frame is a real one. `encode` then sends
    the frame with the checksum that it has."""
    max_size: int = attrs.field(default=_MAX_SIZE, kw_only=True, validator=positive)
    """The longest frame allowed, sync word and checksum included, in bytes."""
    _layout: Layout | None = attrs.field(init=False, repr=False, eq=False)

    @offset.default
    def _behind_sync(self) -> int:
        # defaults are made before anything is validated
        first: Any = self.sync[0] if self.sync else None
        return len(first) if isinstance(first, bytes) else 0

    @checksum_size.default
    def _known_size(self) -> int:
        return known_size(self.checksum)

    @_layout.default
    def _make_layout(self) -> Layout | None:
        if callable(self.length) and not isinstance(self.length, construct.Construct):
            return None
        number = number_of(self, "length", self.length)
        return Layout(number, self.offset, self.adjustment, self.inclusive)

    @property
    def in_frame(self) -> bool:
        """
        True: all of it is a part of the frame.
        """
        return True

    def framer(self) -> Framer:
        """
        Make the decoder for one stream.
        """
        return _SyncWordFramer(self, self._layout)

    def encode(self, frame: bytes) -> bytes:
        """
        Write length and checksum into the frame.
        """
        if not frame.startswith(self.sync):
            marks = " or ".join(mark.hex() for mark in self.sync)
            unfit(f"the sync word {marks}", f"{frame[:16].hex()}")
        if self._layout is not None:
            frame = self._layout.patch(frame)
        check_size(len(frame), self.max_size)
        if self.checksum is None:
            return frame
        at = len(frame) - self.trailer - self.checksum_size
        if at < self.checksum_start:
            unfit("room for its checksum", f"{len(frame)} bytes")
        number = self.checksum(frame[self.checksum_start : at])
        packed = pack_checksum(number, self.checksum_size, self.checksum_order)
        return b"".join((frame[:at], packed, frame[at + len(packed) :]))

    def accepts(self, frame: bytes) -> bool:
        """
        Say whether a frame is a real one: whether its checksum fits.
        """
        if self.verify is not None:
            return bool(self.verify(frame))
        if self.checksum is None:
            return True
        at = len(frame) - self.trailer - self.checksum_size
        if at < self.checksum_start:
            return False
        found = frame[at : at + self.checksum_size]
        expected = self.checksum(frame[self.checksum_start : at])
        return int.from_bytes(found, self.checksum_order) == expected


class _SyncWordFramer(BufferedFramer):
    def __init__(self, framing: SyncWord, layout: Layout | None) -> None:
        super().__init__(framing.max_size)
        self._accepts = framing.accepts
        self._sync = framing.sync
        self._search = re.compile(b"|".join(map(re.escape, framing.sync))).search
        self._width = len(framing.sync[0])
        self._layout = layout
        self._function: _SizeFunction = framing.length
        self._synced = False
        self._total: int | None = None
        self._credit = self._most_credit = _ALLOWANCE * framing.max_size

    def decode(self) -> bytes | None:
        while True:
            if not self._synced and not self._hunt():
                return self._wait()
            if self._total is None:
                self._total = self._measure()
                if self._total is None:
                    return self._wait()
            total = self._total
            if not self._width <= total <= self.max_size:
                self._reject(1)
                continue
            start = self._start
            if len(self._data) - start < total:
                return self._wait()
            frame = bytes(self._data[start : start + total])
            try:
                good = self._accepts(frame)
            except Exception:
                # a function of the user's that does not know such a frame
                good = False
            if not good:
                self._credit -= total
                self._reject(1 if self._credit > 0 else total)
                continue
            self._credit = min(self._most_credit, self._credit + _ALLOWANCE * total)
            self._start = start + total
            self._synced = False
            self._total = None
            return frame

    def _hunt(self) -> bool:
        """
        Go on to the next sync word.
        """
        data, start = self._data, self._start
        if data.startswith(self._sync, start):
            self._synced = True
            return True
        found = self._search(data, start)
        if found is not None:
            at = found.start()
        else:
            # the last bytes may be the first ones of a sync word
            at = max(start, len(data) - self._width + 1)
            tail = bytes(data[at:])
            while not any(mark.startswith(tail) for mark in self._sync):
                tail = tail[1:]
            at = len(data) - len(tail)
        self._discard(at - start)
        self._synced = found is not None
        return self._synced

    def _measure(self) -> int | None:
        """
        Give the size of the frame, 0 for nonsense, None for more bytes.
        """
        data, start, layout = self._data, self._start, self._layout
        try:
            if layout is None:
                head = bytes(data[start : start + _HEAD])
                total = self._function(head)
                if total is None:
                    return 0 if len(head) == _HEAD else None
                return total if isinstance(total, int) else 0
            most = self.max_size - layout.adjustment
            found = layout.number.read(data, start + layout.offset, most)
        except Exception:
            # a function of the user's, or a VarInt without an end
            return 0
        if found is None:
            return None
        value, size = found
        total = layout.total(value, size)
        return total if total >= layout.offset + size else 0

    def _reject(self, skip: int) -> None:
        """
        Take the frame for a false one.
        """
        self.corrupted += 1
        self._discard(skip)
        self._synced = False
        self._total = None

    def _discard(self, size: int) -> None:
        self.discarded += size
        self._start += size
        self._credit = min(self._most_credit, self._credit + _ALLOWANCE * size)
