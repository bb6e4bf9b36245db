"""
What can be wrong with one frame, one thing at a time.

Where a field is, the declaration's own parse tells (`protoserve.codec.spans`). A field
is given the values at which programs go wrong: 0, 1, all ones, the sign bit, one more
and one less. Checksums that cover a changed byte are put right again, unless they are
what is broken: otherwise every server would look no further. What delimits frames on a
stream has no declaration, so the bytes that the framing adds are tried like a number.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Self

import attrs

from protoserve.codec.spans import Span, spans
from protoserve.errors import MalformedMessageError, RemoteProtocolError
from protoserve.protocol import Direction, Protocol

__all__ = [
    "FIELDS",
    "Broken",
    "Field",
    "broken_fields",
    "broken_framing",
    "mutated",
    "repaired",
    "truncated",
]

FIELDS = ("length", "count", "checksum", "tag", "enum", "constant", "number")
"""Kinds of fields that are broken, and the classes of cases that makes."""

_MOST_REPAIRS = 4
"""Checksums of one frame that are put right."""


@attrs.frozen
class Broken:
    """
    A frame that something was done to.
    """

    kind: str
    what: str
    data: bytes
    """The frame; of `broken_framing` what goes over the wire."""


def truncated(frame: bytes) -> Iterator[Broken]:
    """
    Cut a frame off at every byte.
    """
    for size in range(len(frame)):
        text = f"the first {size} of {len(frame)} bytes"
        yield Broken("truncated", text, frame[:size])


def broken_fields(protocol: Protocol, frame: bytes, kind: str) -> Iterator[Broken]:
    """
    Break each number of a frame that means something, with every boundary value.

    Args:
        protocol: the protocol.
        frame: a valid frame.
        kind: which fields, one of `FIELDS`.
    """
    found = spans(protocol, frame, Direction.REQUEST)
    checked = any(span.kind == "checksum" for span in found)
    for span in found:
        if span.kind != kind:
            continue
        field = Field.of(span)
        if field.width > 64:
            continue
        number = field.read(frame)
        for value in _boundaries(number, field.width, len(frame)):
            data = field.write(frame, value)
            if checked and kind != "checksum":
                data = repaired(protocol, data, span.path)
            yield Broken(kind, f"{span.path} = {value} in place of {number}", data)


@attrs.frozen
class Field:
    """
    A run of bits as a number.
    """

    span: Span
    first: int
    width: int

    @classmethod
    def of(cls, span: Span) -> Self:
        """
        Give a field as a number.
        """
        first, last = span.bits or (0, 8 * (span.stop - span.start) - 1)
        return cls(span, first, last - first + 1)

    def read(self, frame: bytes) -> int:
        """
        Read it in a frame.
        """
        whole = int.from_bytes(
            frame[self.span.start : self.span.stop], self.order(frame)
        )
        return whole >> self._shift & (1 << self.width) - 1

    def write(self, frame: bytes, value: int) -> bytes:
        """
        Put another number into a frame.
        """
        start, stop = self.span.start, self.span.stop
        order = self.order(frame)
        mask = (1 << self.width) - 1 << self._shift
        whole = int.from_bytes(frame[start:stop], order) & ~mask
        whole |= value << self._shift & mask
        return frame[:start] + whole.to_bytes(stop - start, order) + frame[stop:]

    @property
    def _shift(self) -> int:
        if self.span.bits is None:
            return 0
        return 8 * (self.span.stop - self.span.start) - self.first - self.width

    def order(self, frame: bytes) -> Literal["big", "little"]:
        """
        Tell the byte order by the value that the message has.
        """
        raw = frame[self.span.start : self.span.stop]
        value = self.span.value
        if self.span.bits is None and isinstance(value, int):
            little = int.from_bytes(raw, "little", signed=value < 0)
            if little == value != int.from_bytes(raw, "big", signed=value < 0):
                return "little"
        return "big"


def _boundaries(number: int, width: int, size: int) -> list[int]:
    """
    Give the values at which programs go wrong, without the right one.
    """
    top = 1 << width
    wanted = (
        0,
        1,
        number + 1,
        number - 1,
        top - 1,
        top - 2,
        top >> 1,
        (top >> 1) - 1,
        size,
        number + size,
        2 * number,
    )
    return list(dict.fromkeys(v for v in wanted if 0 <= v < top and v != number))


def repaired(protocol: Protocol, frame: bytes, broken: str) -> bytes:
    """
    Put right the checksums of a frame, as far as the parse gets to them.

    Args:
        protocol: the protocol.
        frame: the frame.
        broken: the path of what is broken on purpose, which stays so.
    """
    for _ in range(_MOST_REPAIRS):
        try:
            protocol.parse(frame, Direction.REQUEST)
        except MalformedMessageError as error:
            if error.path == broken or not error.expected.split(" ")[0].isdigit():
                return frame
            known = {
                span.path: span
                for span in spans(protocol, frame, Direction.REQUEST)
                if span.kind == "checksum"
            }
            span = known.get(error.path)
            if span is None:
                return frame
            frame = Field.of(span).write(frame, int(error.expected.split(" ")[0]))
        except RemoteProtocolError:
            return frame
        else:
            return frame
    return frame


def broken_framing(frame: bytes, wire: bytes) -> Iterator[Broken]:
    """
    Break what cuts the stream, in whatever way the protocol has.

    Args:
        frame: a valid frame.
        wire: what goes over the wire for it.
    """
    at = wire.find(frame)
    if at == 0 and len(wire) == len(frame):
        return  # it is a part of the frame, where it is broken as a field
    before = at if at > 0 else min(2, len(wire))
    behind = len(wire) - at - len(frame) if at >= 0 else min(2, len(wire))
    for size in (n for n in (1, 2, 4, 8) if n <= before):
        number = int.from_bytes(wire[:size], "big")
        for value in _boundaries(number, 8 * size, len(wire)):
            data = value.to_bytes(size, "big") + wire[size:]
            yield Broken("framing", f"it begins with {data[:size].hex(' ')}", data)
    for n in range(1, behind + 1):
        yield Broken("framing", f"without its last {n} bytes", wire[:-n])
    if behind:
        yield Broken("framing", "its end is sent twice", wire + wire[-behind:])
        middle = len(wire) // 2
        cut = wire[:middle] + wire[-behind:] + wire[middle:]
        yield Broken("framing", "its end comes in the middle, too", cut)
    if before:
        yield Broken("framing", "its start is sent twice", wire[:before] + wire)
        yield Broken("framing", "its start is missing", wire[before:])


Mutation = Callable[[bytearray, random.Random, Sequence[bytes]], str]


def mutated(
    frame: bytes, chance: random.Random, others: Sequence[bytes]
) -> tuple[str, bytes]:
    """
    Do one to three random things to a frame.

    Args:
        frame: what they are done to.
        chance: what is drawn from.
        others: frames that pieces are taken from.

    Returns:
        What was done, and the frame.
    """
    data = bytearray(frame)
    done = [
        chance.choice(_MUTATIONS)(data, chance, others)
        for _ in range(chance.choice((1, 1, 2, 3)))
    ]
    return " and ".join(done), bytes(data)


def _flip(data: bytearray, chance: random.Random, _others: Sequence[bytes]) -> str:
    if not data:
        return "nothing"
    at, bit = chance.randrange(len(data)), chance.randrange(8)
    data[at] ^= 1 << bit
    return f"bit {bit} of byte {at} flipped"


def _overwrite(data: bytearray, chance: random.Random, _others: Sequence[bytes]) -> str:
    size = chance.choice((1, 2, 4))
    at = chance.randrange(len(data) + 1)
    byte = chance.choice((0x00, 0x7F, 0x80, 0xFF))
    data[at : at + size] = bytes([byte]) * size
    return f"{size} bytes of {byte:#04x} at {at}"


def _delete(data: bytearray, chance: random.Random, _others: Sequence[bytes]) -> str:
    at, size = chance.randrange(len(data) + 1), chance.randint(1, 8)
    del data[at : at + size]
    return f"{size} bytes left out at {at}"


def _insert(data: bytearray, chance: random.Random, _others: Sequence[bytes]) -> str:
    at, size = chance.randrange(len(data) + 1), chance.randint(1, 8)
    data[at:at] = chance.randbytes(size)
    return f"{size} bytes put in at {at}"


def _repeat(data: bytearray, chance: random.Random, _others: Sequence[bytes]) -> str:
    at, size = chance.randrange(len(data) + 1), chance.randint(1, 16)
    times = chance.choice((1, 2, 8, 64))
    data[at:at] = bytes(data[at : at + size]) * times
    return f"{size} bytes at {at} repeated {times} times"


def _splice(data: bytearray, chance: random.Random, others: Sequence[bytes]) -> str:
    other = chance.choice(others) if others else b""
    at = chance.randrange(len(data) + 1)
    data[at:] = other[chance.randrange(len(other) + 1) :]
    return f"another frame's end from byte {at} on"


_MUTATIONS: tuple[Mutation, ...] = (
    _flip,
    _flip,
    _overwrite,
    _delete,
    _insert,
    _repeat,
    _splice,
)
