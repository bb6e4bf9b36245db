"""
Frames that are wrong in one place only: another correlation key, a wrong checksum.

Both need to know what the frame means. A key is changed in the message itself, which
is then built again, so that lengths and checksums are right; a key that is worked out
by a function is changed by changing one value of header or message after the other,
until the function notices. A checksum is found by the map of the frame's bytes, and
one that belongs to the framing is made wrong by the framing itself, so that its bytes
are stuffed as they would be.

What cannot be done to a frame gives `None`: it is not understood, or has no such part.
"""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs
import construct

from protoserve.codec.computed import ChecksumOf
from protoserve.codec.nodes import children
from protoserve.codec.record import Record
from protoserve.codec.spans import Span, spans
from protoserve.framing.base import Framing
from protoserve.messages import Message
from protoserve.protocol import Direction, Parsed, Protocol

__all__ = ["corrupt_checksum", "has_checksum", "wrong_id"]


def wrong_id(
    protocol: Protocol,
    parsed: Parsed,
    direction: Direction,
    source: random.Random,
    session: Any = None,
) -> bytes | None:
    """
    Build a frame again with another correlation key.

    Args:
        protocol: what is spoken.
        parsed: what the frame holds.
        direction: which way it goes.
        source: chooses the other key.
        session: what ``this._.session`` is to the fields.
    """
    parts: tuple[Any, ...] = (parsed.header, parsed.message)
    key = protocol.key(*parts)
    width = protocol.key_width()
    if key is None:
        return None
    for i, part in enumerate(parts):
        for changed in () if part is None else _changes(part, width, source):
            both = (*parts[:i], changed, *parts[i + 1 :])
            with contextlib.suppress(Exception):  # a validator's, or the function's
                if protocol.key(*both) in (key, None):
                    continue
                made = protocol.build_under(*both, session=session)
                again = protocol.parse(made, direction, session=session)
                if (
                    type(again.message) is type(parsed.message)
                    and protocol.key(again.header, again.message) != key
                ):
                    return made
    return None


def _changes(part: Message, width: int | None, source: random.Random) -> Iterator[Any]:
    """
    Give copies of a message that differ in one value each.

    Args:
        part: the message.
        width: how many bits of a number may differ, if that is known.
        source: chooses the values.
    """
    for attribute in attrs.fields(type(part)):  # type: ignore[arg-type] # they are attrs classes
        value = getattr(part, attribute.name)
        if not attribute.init:
            continue
        if isinstance(value, Message):
            others: Iterable[Any] = _changes(value, width, source)
        else:
            others = _others(value, width, source)
        for other in others:
            changed = copy.copy(part)
            object.__setattr__(changed, attribute.name, other)
            yield changed


def _others(value: Any, width: int | None, source: random.Random) -> Iterator[Any]:
    """
    Give values that differ from one, the likeliest to fit first.
    """
    if type(value) is bool:
        yield not value
    elif type(value) is int:
        # Where the field's width is not known: as many bits as it has, or fewer.
        bytewise = max(8, 8 * ((value.bit_length() + 7) // 8))
        for bits in (width or bytewise, max(1, value.bit_length() - 1)):
            yield value ^ source.randrange(1, 1 << bits)
    elif isinstance(value, bytes) and value:
        place = source.randrange(len(value))
        wrong = value[place] ^ source.randrange(1, 256)
        yield value[:place] + bytes([wrong]) + value[place + 1 :]
    elif isinstance(value, str) and value:
        place = source.randrange(len(value))
        yield value[:place] + ("x" if value[place] != "x" else "y") + value[place + 1 :]


def has_checksum(protocol: Protocol, classes: Iterable[type[Message]]) -> bool:
    """
    Say whether frames of some messages have a checksum, as far as that is declared.
    """
    if _of_framing(protocol.framing) is not None:
        return True
    parts = [protocol.header, *classes, protocol.trailer]
    seen: set[int] = set()
    return any(_mentions(part.construct, seen) for part in parts if part is not None)


def _mentions(node: Any, seen: set[int]) -> bool:
    if id(node) in seen:
        return False
    seen.add(id(node))
    if isinstance(node, construct.Checksum):
        return True
    if isinstance(node, Record) and any(
        isinstance(field.computed, ChecksumOf) for field in node.fields
    ):
        return True
    if isinstance(node, construct.LazyBound):
        return _mentions(node.subconfunc(), seen)
    return any(_mentions(part, seen) for part in children(node))


def corrupt_checksum(
    protocol: Protocol,
    frame: bytes,
    direction: Direction,
    source: random.Random,
    encode: Callable[[Framing | None, bytes], bytes],
    session: Any = None,
) -> bytes | None:
    """
    Give the wire's bytes of a frame with one bit of a checksum changed.

    Args:
        protocol: what is spoken.
        frame: header, body and trailer.
        direction: which way it goes.
        source: chooses the checksum and the bit.
        encode: makes a frame ready for the wire, by a framing.
        session: what ``this._.session`` is to the fields.
    """
    framing = protocol.framing
    name = _of_framing(framing)
    if framing is not None and name is not None:
        right = getattr(framing, name)
        flip = 1 << source.randrange(8 * getattr(framing, f"{name}_size"))
        lying: Any = attrs.evolve(framing, **{name: lambda data: right(data) ^ flip})  # type: ignore[misc] # they are attrs classes
        wrong = encode(lying, frame)
        if wrong != encode(framing, frame):  # a datagram may go without it
            return wrong
    found = spans(protocol, frame, direction, session=session)
    places = [span for span in found if span.kind == "checksum"]
    if not places:
        return None
    return encode(framing, _with_wrong_bit(frame, source.choice(places), source))


def _of_framing(framing: Framing | None) -> str | None:
    """
    Name the framing's field that says how a checksum is worked out, if it has one.
    """
    for name in ("checksum", "crc"):
        if getattr(framing, name, None) is not None:
            return name
    return None


def _with_wrong_bit(frame: bytes, span: Span, source: random.Random) -> bytes:
    first, last = span.bits or (0, 8 * (span.stop - span.start) - 1)
    bit = source.randrange(first, last + 1)
    wrong = bytearray(frame)
    wrong[span.start + bit // 8] ^= 0x80 >> bit % 8
    return bytes(wrong)
