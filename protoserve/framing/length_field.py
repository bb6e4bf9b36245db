"""
Frames with a header that says, somewhere, how long they are.
"""

from __future__ import annotations

from typing import Any

import attrs

from protoserve.codec.frame import LengthHead
from protoserve.framing.base import DEFAULT_MAX_SIZE, Framer, Framing
from protoserve.framing.checks import check_size, flag, integer, natural, positive
from protoserve.framing.length_framer import length_framer
from protoserve.framing.lengths import Layout, head_of, number_of

__all__ = ["LengthField"]


@attrs.frozen
class LengthField(Framing):
    r"""
    A header that holds the length; the frame is all of it, header included.

    ::

        LengthField(Int16ub, offset=1)          what follows the length is counted

        frame (15 bytes)                        stream (15 bytes)
        +------+--------+----------------+      +------+--------+----------------+
        | 0xca | 0x0000 | "HELLO, WORLD" | <--> | 0xca | 0x000c | "HELLO, WORLD" |
        +------+--------+----------------+      +------+--------+----------------+

        LengthField(Int16ub, offset=1, inclusive=True)          all is counted

        +------+--------+----------------+      +------+--------+----------------+
        | 0xca | 0x0000 | "HELLO, WORLD" | <--> | 0xca | 0x000f | "HELLO, WORLD" |
        +------+--------+----------------+      +------+--------+----------------+

    `encode` writes the right number, whatever stands there; frames that are
    decoded hold it. A frame never ends before its length does.

    >>> from construct import Int16ub
    >>> LengthField(Int16ub, offset=1).encode(b"\xca\x00\x00HELLO, WORLD")
    b'\xca\x00\x0cHELLO, WORLD'
    """

    length: Any
    """A Construct integer of fixed size, or Construct's VarInt."""
    offset: int = attrs.field(default=0, kw_only=True, validator=natural)
    """Where the length stands, in bytes from the frame's first."""
    adjustment: int = attrs.field(default=0, kw_only=True, validator=integer)
    """Bytes to add to the number read."""
    inclusive: bool = attrs.field(default=False, kw_only=True, validator=flag)
    """Whether the number counts the whole frame, or what follows the length."""
    max_size: int = attrs.field(
        default=DEFAULT_MAX_SIZE, kw_only=True, validator=positive
    )
    """The longest frame allowed, header included, in bytes."""
    _layout: Layout = attrs.field(init=False, repr=False, eq=False)

    @_layout.default
    def _make_layout(self) -> Layout:
        number = number_of(self, "length", self.length)
        return Layout(number, self.offset, self.adjustment, self.inclusive)

    @property
    def in_frame(self) -> bool:
        """
        True: the length is a part of the frame.
        """
        return True

    _head: LengthHead | None = attrs.field(init=False, repr=False, eq=False)

    @_head.default
    def _make_head(self) -> LengthHead | None:
        return head_of(self._layout, self.max_size, strip=False)

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
        return length_framer(self.max_size, self._layout, self._head, strip=False)

    def encode(self, frame: bytes) -> bytes:
        """
        Write the length into the frame's header.
        """
        patched = self._layout.patch(frame)
        check_size(len(patched), self.max_size)
        return patched
