"""
Single bits, eight to a byte, and the bounds that the standard sets.

Coils and discrete inputs are packed with the first one in the lowest bit of the
first byte, and the last byte is filled up with zeros (Specification section
6.1). Construct's own `Bitwise` starts at the highest bit and takes a call for
each bit; 2,000 coils are one number here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from attrs import validators
from construct import Adapter, Bytes

__all__ = ["PackedBits", "amount", "between", "whole_bytes"]


class PackedBits(Adapter):  # type: ignore[misc] # construct is untyped
    """
    A list of bools, in as few bytes as hold them.

    Args:
        count: the number of bits; a function of the context, as in `this.count`.

    >>> from construct import this
    >>> PackedBits(this.n).parse(bytes.fromhex("05 01"), n=9)
    [True, False, True, False, False, False, False, False, True]
    """

    def __init__(self, count: Any) -> None:
        super().__init__(Bytes((count + 7) // 8))
        self.count = count

    def _decode(self, obj: bytes, context: Any, path: str) -> list[bool]:
        del path
        digits = f"{int.from_bytes(obj, 'little'):0{8 * len(obj)}b}"[::-1]
        return [digit == "1" for digit in digits[: self.count(context)]]

    def _encode(self, obj: Sequence[bool], context: Any, path: str) -> bytes:
        del context, path
        digits = "".join("1" if bit else "0" for bit in reversed(obj))
        return int(digits or "0", 2).to_bytes((len(obj) + 7) // 8, "little")


def whole_bytes(bits: Iterable[bool]) -> list[bool]:
    """
    Fill up a list of bits, as the wire does.

    >>> whole_bytes([True, False, True])
    [True, False, True, False, False, False, False, False]
    """
    values = [bool(bit) for bit in bits]
    return values + [False] * (-len(values) % 8)


def between(low: int, high: int) -> Callable[..., None]:
    """
    Demand a number in low..high.
    """
    return validators.and_(validators.ge(low), validators.le(high))


def amount(low: int, high: int) -> Callable[..., None]:
    """
    Demand low..high elements.
    """
    return validators.and_(validators.min_len(low), validators.max_len(high))
