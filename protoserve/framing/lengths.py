"""
Numbers that say how long a frame is: how they are read, and what they count.

Construct is how a number is declared, not how it is read: its own integers
become one precompiled `struct.Struct`, and only an unknown kind of fixed size
is left to Construct.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import attrs
import construct

from protoserve.codec.frame import LengthHead
from protoserve.framing.checks import refuse, unfit

__all__ = [
    "FixedNumber",
    "Layout",
    "Number",
    "VariableNumber",
    "head_of",
    "number_of",
]

_Buffer: TypeAlias = bytes | bytearray
_Unpack: TypeAlias = Callable[[_Buffer, int], tuple[Any, ...]]

_MAX_VARINT = 10
"""Bytes; a 64-bit number takes as many, and Protocol Buffers allow no more."""


@attrs.frozen(eq=False)
class FixedNumber:
    """
    A number that always takes as many bytes.
    """

    size: int
    unpack: _Unpack
    """Read at an offset; gives a tuple of one, as `struct` does."""
    pack: Callable[[int], bytes]
    unpack_swapped: _Unpack | None = None
    """The same in the other byte order, where there is one."""
    code: str = ""
    """The struct module's byte order and letter, where it knows such a number."""

    def read(
        self,
        data: _Buffer,
        at: int,
        most: int | None = None,  # noqa: ARG002 - for VariableNumber
    ) -> tuple[int, int] | None:
        """
        Give the number and its size in bytes, or None for more bytes.
        """
        if len(data) < at + self.size:
            return None
        return self.unpack(data, at)[0], self.size

    def swapped(self, data: _Buffer, at: int) -> int | None:
        """
        Give the number in the other byte order.
        """
        if self.unpack_swapped is None:
            return None
        return cast("int", self.unpack_swapped(data, at)[0])


@attrs.frozen(eq=False)
class VariableNumber:
    """
    Construct's VarInt: seven bits a byte, the lowest first, the top bit for more.
    """

    def read(
        self, data: _Buffer, at: int, most: int | None = None
    ) -> tuple[int, int] | None:
        """
        Give the number and its size in bytes, or None for more bytes.

        Args:
            data: what holds the number.
            at: where it starts.
            most: once the number exceeds this it is returned unfinished.

        Raises:
            OverflowError: the number does not end where it has to.
        """
        number = 0
        for size, byte in enumerate(data[at : at + _MAX_VARINT], 1):
            number |= (byte & 0x7F) << 7 * (size - 1)
            if byte < 0x80 or (most is not None and number > most):
                return number, size
        if len(data) >= at + _MAX_VARINT:
            raise OverflowError(f"its length does not end within {_MAX_VARINT} bytes")
        return None

    def pack(self, number: int) -> bytes:
        """
        Write the number in as few bytes as it takes.
        """
        packed = bytearray()
        while number > 0x7F:
            packed.append(number & 0x7F | 0x80)
            number >>= 7
        packed.append(number)
        return bytes(packed)

    def swapped(self, data: _Buffer, at: int) -> int | None:  # noqa: ARG002
        """
        There is no other byte order.
        """
        return None


Number: TypeAlias = FixedNumber | VariableNumber


def _struct_number(code: str) -> FixedNumber:
    fixed = struct.Struct(code)
    order = {">": "<", "<": ">"}.get(code[0])
    swapped = None
    if order is not None and fixed.size > 1:
        swapped = struct.Struct(order + code[1:]).unpack_from
    return FixedNumber(fixed.size, fixed.unpack_from, fixed.pack, swapped, code)


def _bytes_number(size: int, *, little: bool, signed: bool) -> FixedNumber:
    def reader(*, little: bool) -> _Unpack:
        order: Any = "little" if little else "big"

        def unpack(data: _Buffer, at: int) -> tuple[int]:
            return (int.from_bytes(data[at : at + size], order, signed=signed),)

        return unpack

    order: Any = "little" if little else "big"
    return FixedNumber(
        size,
        reader(little=little),
        lambda number: number.to_bytes(size, order, signed=signed),
        reader(little=not little) if size > 1 else None,
    )


def _parsed_number(source: Any, size: int) -> FixedNumber:
    return FixedNumber(
        size,
        lambda data, at: (int(source.parse(bytes(data[at : at + size]))),),
        source.build,
    )


def number_of(owner: Any, field: str, source: Any) -> Number:
    """
    Make the reader for a number that is declared with Construct.

    Args:
        owner: the framing, for the error.
        field: the framing's field, for the error.
        source: a Construct integer, VarInt, or anything of Construct that has a
            fixed size and parses to an int.

    Raises:
        DeclarationError: it is nothing of the kind.
    """
    inner = source
    while isinstance(inner, construct.Renamed):
        inner = inner.subcon
    if inner is construct.VarInt:
        return VariableNumber()
    if isinstance(inner, construct.FormatField) and inner.fmtstr[-1] in "bBhHiIlLqQ":
        return _struct_number(inner.fmtstr)
    if (
        isinstance(inner, construct.BytesInteger)
        and isinstance(inner.length, int)
        and isinstance(inner.swapped, bool)
        and inner.length > 0
    ):
        return _bytes_number(inner.length, little=inner.swapped, signed=inner.signed)
    # bits only have a size among bits, and Construct counts it in bits
    bits = isinstance(inner, construct.BitsInteger)
    if isinstance(inner, construct.Construct) and not bits:
        try:
            size = inner.sizeof()
            example = inner.parse(bytes(size))
        except Exception:
            size, example = 0, None
        if size > 0 and isinstance(example, int):
            return _parsed_number(inner, size)
    return refuse(owner, field, "a Construct integer of fixed size, or VarInt", source)


@attrs.frozen
class Layout:
    """
    Where a length stands in a frame, and what it counts.
    """

    number: Number
    offset: int
    adjustment: int
    inclusive: bool

    def total(self, value: int, size: int) -> int:
        """
        Give the size of the frame from its first byte on.

        Args:
            value: the number that was read.
            size: how many bytes the number takes.
        """
        if self.inclusive:
            return value + self.adjustment
        return value + self.adjustment + self.offset + size

    def pack(self, rest: int) -> bytes:
        """
        Write the number for a frame.

        Args:
            rest: how many bytes follow the number.
        """
        size = getattr(self.number, "size", 1)
        while True:
            # a VarInt that counts itself can grow by being counted
            value = rest - self.adjustment
            if self.inclusive:
                value += self.offset + size
            if value < 0:
                unfit(f"at least {-value} bytes more", f"{rest} after the length")
            try:
                packed = self.number.pack(value)
            except Exception:
                unfit(f"a length that fits into {size} bytes", f"{value}")
            if len(packed) == size:
                return packed
            size = len(packed)

    def patch(self, frame: bytes) -> bytes:
        """
        Put the right number into a frame that has any number there.
        """
        try:
            found = self.number.read(frame, self.offset)
        except OverflowError as exc:
            unfit("a VarInt as its length", str(exc))
        if found is None:
            unfit(f"a length at offset {self.offset}", f"{len(frame)} bytes")
        size = found[1]
        after = self.offset + size
        packed = self.pack(len(frame) - after)
        if frame[self.offset : after] == packed:
            return frame
        return b"".join((frame[: self.offset], packed, frame[after:]))


def head_of(layout: Layout, max_size: int, *, strip: bool) -> LengthHead | None:
    """
    Describe a layout whose number has a fixed size; `None` for another.

    Args:
        layout: where the length stands, and what it counts.
        max_size: the longest frame handed out.
        strip: whether only what follows the length is handed out.
    """
    number = layout.number
    if isinstance(number, VariableNumber):
        return None
    skip = number.size if strip else 0
    try:
        return LengthHead(
            number.code,
            number.unpack,
            layout.offset,
            layout.offset + number.size,
            layout.total(0, number.size),
            skip,
            max_size + skip,
        )
    except TypeError:  # an option is wrong, and is just about to be refused
        return None
