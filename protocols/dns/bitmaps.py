"""
Sets of record types, as NSEC records and their kin have them.

A bitmap's bits are many for few bytes: a message is refused when its bitmaps name
more types altogether than any real one does.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import construct

from protocols.dns.codes import RRType

__all__ = ["TypeBitmaps"]

MAX_TYPES = 16_384
"""Types named by all bitmaps of one message; the registry has about 100 types."""

_MEMBERS = {member.value: member for member in RRType}


class _TypeBitmaps(construct.Construct):  # type: ignore[misc] # construct is untyped
    """
    A sorted list of record types (RFC 4034 section 4.1.2), to the end of the data.
    """

    def _parse(self, stream: Any, context: Any, _path: str) -> list[RRType | int]:
        types: list[RRType | int] = []
        previous = -1
        while window := stream.read(2):
            if len(window) < 2 or not 1 <= window[1] <= 32:
                raise ValueError("a window of types has 1 to 32 octets")
            number, length = window
            if number <= previous:
                raise ValueError(f"window {number} stands behind window {previous}")
            previous = number
            bitmap = stream.read(length)
            if len(bitmap) < length:
                raise construct.StreamError("the data ends inside a bitmap")
            _count(context, int.from_bytes(bitmap, "big").bit_count())
            types += (
                _MEMBERS.get(kind, kind)
                for i, octet in enumerate(bitmap)
                for bit in range(8)
                if octet & 0x80 >> bit
                for kind in (number << 8 | i << 3 | bit,)
            )
        return types

    def _build(self, obj: Any, stream: Any, _context: Any, _path: str) -> Any:
        kinds = sorted({int(kind) for kind in obj})
        if kinds and not 0 <= kinds[0] <= kinds[-1] <= 0xFFFF:
            raise ValueError("record types are numbers from 0 to 65535")
        for number, members in groupby(kinds, lambda kind: kind >> 8):
            bitmap = bytearray(32)
            for kind in members:
                bitmap[(kind & 0xFF) >> 3] |= 0x80 >> (kind & 7)
            packed = bytes(bitmap).rstrip(b"\0")
            stream.write(bytes((number, len(packed))) + packed)
        return obj


def _count(context: Any, types: int) -> None:
    root = context.get("_root", context)
    root["_dns_types"] = total = root.get("_dns_types", 0) + types
    if total > MAX_TYPES:
        raise ValueError(f"the bitmaps of one message name at most {MAX_TYPES} types")


TypeBitmaps = _TypeBitmaps()
