"""
What generated functions call, and the names that they know it by.
"""

from __future__ import annotations

import io
import struct
from typing import Any

from construct import core

from protoserve.codec.plan import Mapped
from protoserve.codec.record import enclosing_context

__all__ = [
    "Lookup",
    "Mismatch",
    "Structs",
    "parse_globals",
    "parse_opaque",
    "read_varint",
]


class Mismatch(Exception):  # noqa: N818 - told to nobody, it ends the fast path
    """
    The bytes are not what a generated function knows.
    """


class Structs(dict[int, struct.Struct]):
    """
    Structs for arrays of one kind of number, by count.
    """

    def __init__(self, order: str, code: str) -> None:
        super().__init__()
        self.order, self.code = order, code

    def __missing__(self, count: int) -> struct.Struct:
        made = struct.Struct(f"{self.order}{count}{self.code}")
        if len(self) < 1024:
            self[count] = made
        return made


def read_varint(buf: bytes, pos: int, end: int, most: int) -> tuple[int, int]:
    """
    Read a variable-length integer; give it and the place behind it.
    """
    number = shift = 0
    limit = min(end, pos + most)
    while pos < limit:
        byte = buf[pos]
        pos += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, pos
        shift += 7
    raise Mismatch


def parse_opaque(
    node: Any, buf: bytes, pos: int, end: int, context: Any, base: int
) -> tuple[Any, int]:
    """
    Let Construct parse a part; give its value and the place behind it.
    """
    if end == len(buf) and not base:
        stream = io.BytesIO(buf)
        stream.seek(pos)
    else:
        whole = io.BytesIO(buf)
        stream = core.BytesIOWithOffsets(buf[base:end], whole, base)
        stream.seek(pos)
    context["_io"] = stream
    return node._parsereport(stream, context, ""), stream.tell()


class Lookup(dict[Any, Any]):
    """
    A table of what numbers stand for, which makes what it does not have.
    """

    def __init__(self, node: Mapped) -> None:
        super().__init__(node.decode)
        self.make = node.missing

    def __missing__(self, value: Any) -> Any:
        if self.make is None:
            raise Mismatch
        made = self.make(value)
        if made is not value and len(self) < 1024:
            self[value] = made
        return made


def parse_globals() -> dict[str, Any]:
    """
    Give the names that all generated parsing functions use.
    """
    return {
        "Mismatch": Mismatch,
        "Container": core.Container,
        "enclosing_context": enclosing_context,
        "from_bytes": int.from_bytes,
        "new": object.__new__,
        "parse_opaque": parse_opaque,
        "put": object.__setattr__,
        "read_varint": read_varint,
    }
