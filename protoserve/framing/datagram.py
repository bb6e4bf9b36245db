"""
Protocols that live in datagrams only.
"""

from __future__ import annotations

from typing import Any

import attrs

from protoserve.errors import DeclarationError
from protoserve.framing.base import Framer, Framing, check_datagram, cut
from protoserve.framing.checks import check_size, positive, refuse

__all__ = ["Datagram"]

# what UDP's 16-bit length can say
_MAX_SIZE = (1 << 16) - 1


def _check_inner(owner: Any, attribute: Any, value: Any) -> None:
    if value is not None and (
        not isinstance(value, Framing) or isinstance(value, Datagram)
    ):
        refuse(owner, attribute.name, "a framing for what is inside, or None", value)


@attrs.frozen
class Datagram(Framing):
    r"""
    One message in each datagram, or several that another framing tells apart.

    ::

        Datagram()

        frame (12 bytes)            datagram (12 bytes)
        +----------------+          +----------------+
        | "HELLO, WORLD" |   <-->   | "HELLO, WORLD" |
        +----------------+          +----------------+

        Datagram(LengthPrefixed(Int8ub))

        frames                       datagram (14 bytes)
        +---------+ +---------+      +------+---------+------+---------+
        | "HELLO" | | "WORLD" | <--> | 0x05 | "HELLO" | 0x05 | "WORLD" | …
        +---------+ +---------+      +------+---------+------+---------+

    There is no way to send this on a stream: `framer` refuses. A protocol that
    has both takes its stream framing; a datagram is a frame of that by itself.

    >>> Datagram().split(b"HELLO, WORLD")
    [b'HELLO, WORLD']
    >>> from construct import Int8ub
    >>> from protoserve.framing import LengthPrefixed
    >>> Datagram(LengthPrefixed(Int8ub)).split(b"\x05HELLO\x05WORLD")
    [b'HELLO', b'WORLD']
    """

    inner: Framing | None = attrs.field(default=None, validator=_check_inner)
    """What cuts a datagram into messages; None: each is one message."""
    max_size: int = attrs.field(default=_MAX_SIZE, kw_only=True, validator=positive)
    """The longest datagram allowed, in bytes."""

    @property
    def in_frame(self) -> bool:
        """
        Whether the datagram holds what cuts it into messages.
        """
        return self.inner is not None

    def framer(self) -> Framer:
        """
        Refuse: there is nothing that cuts a stream.

        Raises:
            DeclarationError: always.
        """
        raise DeclarationError(
            f"{self!r} has no stream framing: its protocol exists on datagrams "
            "only. Declare another framing to serve it on a stream"
        )

    def encode(self, frame: bytes) -> bytes:
        """
        Make a frame ready for a datagram, as `pack` does.
        """
        packed = frame if self.inner is None else self.inner.encode(frame)
        check_size(len(packed), self.max_size)
        return packed

    def split(self, datagram: bytes) -> list[bytes]:
        """
        Cut a datagram into its messages; nothing may be left over.
        """
        whole = check_datagram(datagram, self.max_size)
        return whole if self.inner is None else cut(self.inner.framer(), datagram)

    def pack(self, frame: bytes) -> bytes:
        """
        Make a frame ready for a datagram.
        """
        return self.encode(frame)
