"""
Frames behind a number that says how long they are.
"""

from __future__ import annotations

from typing import Any

import attrs

from protoserve.codec.frame import LengthHead
from protoserve.framing.base import DEFAULT_MAX_SIZE, Framer, Framing
from protoserve.framing.checks import check_size, flag, integer, positive
from protoserve.framing.length_framer import length_framer
from protoserve.framing.lengths import Layout, head_of, number_of

__all__ = ["LengthPrefixed"]


@attrs.frozen
class LengthPrefixed(Framing):
    r"""
    A number, then as many bytes; the frame is what follows the number.

    ::

        LengthPrefixed(Int16ub)

        frame (12 bytes)            stream (14 bytes)
        +----------------+          +--------+----------------+
        | "HELLO, WORLD" |   <-->   | 0x000c | "HELLO, WORLD" |
        +----------------+          +--------+----------------+

        LengthPrefixed(Int16ub, inclusive=True)     the number counts itself

        +----------------+          +--------+----------------+
        | "HELLO, WORLD" |   <-->   | 0x000e | "HELLO, WORLD" |
        +----------------+          +--------+----------------+

        LengthPrefixed(Int16ub, adjustment=1)       it says one less

        +----------------+          +--------+----------------+
        | "HELLO, WORLD" |   <-->   | 0x000b | "HELLO, WORLD" |
        +----------------+          +--------+----------------+

    >>> from construct import Int16ub
    >>> LengthPrefixed(Int16ub, max_size=4096).encode(b"HELLO, WORLD")
    b'\x00\x0cHELLO, WORLD'
    """

    prefix: Any
    """A Construct integer of fixed size, or Construct's VarInt."""
    max_size: int = attrs.field(
        default=DEFAULT_MAX_SIZE, kw_only=True, validator=positive
    )
    """The longest frame allowed, in bytes; the prefix does not count."""
    adjustment: int = attrs.field(default=0, kw_only=True, validator=integer)
    """Bytes to add to the number read."""
    inclusive: bool = attrs.field(default=False, kw_only=True, validator=flag)
    """Whether the number counts the prefix too."""
    _layout: Layout = attrs.field(init=False, repr=False, eq=False)

    @_layout.default
    def _make_layout(self) -> Layout:
        number = number_of(self, "prefix", self.prefix)
        return Layout(number, 0, self.adjustment, self.inclusive)

    _head: LengthHead | None = attrs.field(init=False, repr=False, eq=False)

    @_head.default
    def _make_head(self) -> LengthHead | None:
        return head_of(self._layout, self.max_size, strip=True)

    @property
    def length_head(self) -> LengthHead | None:
        """
        How the number cuts the stream; `None` for a VarInt.
        """
        return self._head

    def framer(self) -> Framer:
        """
        Make the decoder for one stream.
        """
        return length_framer(self.max_size, self._layout, self._head, strip=True)

    def encode(self, frame: bytes) -> bytes:
        """
        Put the number before the frame.
        """
        size = len(frame)
        check_size(size, self.max_size)
        return self._layout.pack(size) + frame
