"""
What may follow the 48 bytes of a time packet: extension fields, then a MAC.

Neither announces the other, and nothing says how many extension fields there are:
only the number of bytes left tells (RFC 7822 section 3). As long as more than the
longest MAC is left, an extension field comes next; the rest is the MAC. Hence the
smallest sizes that RFC 7822 sets: 16 bytes for an extension field, 28 for the last
one if no MAC follows. What would be read back as something else is not built.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import construct
from construct import GreedyBytes, Int16ub, Int32ub, this

from protoserve import Message, length_of, wire

__all__ = [
    "LONGEST_MAC",
    "MAC_SIZES",
    "ExtensionField",
    "ExtensionFields",
    "FieldType",
    "Mac",
    "bytes_left",
]

MAC_SIZES = (4, 12, 20, 24)
"""
Bytes of a MAC, key included: a crypto-NAK (RFC 5905 section 9.2), DES (RFC 1305
appendix C), MD5 or AES-CMAC (RFC 8573), SHA-1.
"""

LONGEST_MAC = max(MAC_SIZES)


def bytes_left(stream: Any) -> int:
    """
    Count the bytes from here to the end of the datagram.
    """
    return int(construct.stream_size(stream) - construct.stream_tell(stream, ""))


class FieldType(enum.IntEnum):
    """
    Types of extension fields, from IANA's registry "NTP Extension Field Types".
    """

    UNIQUE_IDENTIFIER = 0x0104
    """RFC 8915 section 5.3."""
    NTS_COOKIE = 0x0204
    """RFC 8915 section 5.4."""
    NTS_COOKIE_PLACEHOLDER = 0x0304
    """RFC 8915 section 5.5."""
    NTS_AUTHENTICATOR = 0x0404
    """RFC 8915 section 5.6: it authenticates all that stands before it."""
    CHECKSUM_COMPLEMENT = 0x2005
    """RFC 7821."""


def _whole_words(_field: Any, _attribute: Any, value: bytes) -> None:
    if len(value) % 4 or not 12 <= len(value) <= 0xFFFF - 7:
        raise ValueError(
            "expected 12 to 65528 bytes, a multiple of 4 (RFC 7822 section 3), "
            f"got {len(value)}"
        )


class ExtensionField(Message):
    """
    One extension field.

    Source: RFC 5905 section 7.5, RFC 7822 section 3.
    """

    kind: FieldType | int = wire(Int16ub, enum=FieldType, doc="the field's type")
    length: int = wire(
        Int16ub, value=length_of("kind", "value"), unit="bytes", doc="of all of it"
    )
    value: bytes = wire(
        construct.Bytes(this.length - 4),
        validator=_whole_words,
        doc="its content, zeros behind it that fill up 32-bit words included",
    )


class ExtensionFields(construct.Subconstruct):  # type: ignore[misc] # construct is untyped
    """
    A list of extension fields that leaves the MAC alone.

    Args:
        subcon: the format of one field.
    """

    def _parse(self, stream: Any, context: Any, path: str) -> list[ExtensionField]:
        fields: list[ExtensionField] = []
        while bytes_left(stream) > LONGEST_MAC:
            place = f"{path}[{len(fields)}]"
            fields.append(self.subcon._parsereport(stream, context, place))  # noqa: SLF001 # construct's way to go on
        return fields

    def _build(
        self, obj: Sequence[ExtensionField], stream: Any, context: Any, path: str
    ) -> Sequence[ExtensionField]:
        for i, field in enumerate(obj):
            self.subcon._build(field, stream, context, f"{path}[{i}]")  # noqa: SLF001 # as above
        mac = context["mac"]
        behind = 0 if mac is None else 4 + len(mac.digest)
        if obj and len(obj[-1].value) + 4 + behind <= LONGEST_MAC:
            raise construct.ValidationError(
                f"the last of the extension fields must have {LONGEST_MAC + 4 - behind} "
                f"bytes or more before {behind} bytes of MAC (RFC 7822 section 3)",
                path=path,
            )
        return obj

    def _sizeof(self, context: Any, path: str) -> int:  # noqa: ARG002 # construct's signature
        raise construct.SizeofError("it depends on the datagram", path=path)


def _known_size(_mac: Any, _attribute: Any, digest: bytes) -> None:
    if len(digest) + 4 not in MAC_SIZES:
        sizes = ", ".join(str(size - 4) for size in MAC_SIZES)
        raise ValueError(f"expected {sizes} bytes, got {len(digest)}")


class Mac(Message):
    """
    A message authentication code; without a digest it is a crypto-NAK.

    Verifying it takes the key, which is not on the wire: that is the handler's.

    Source: RFC 5905 section 7.3, figure 8.
    """

    key_id: int = wire(Int32ub, default=0, doc="which shared key, 0 for a crypto-NAK")
    digest: bytes = wire(
        GreedyBytes,
        default=b"",
        validator=_known_size,
        doc="over the packet and its extension fields",
    )
