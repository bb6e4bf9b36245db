"""
E: whole frames: header with tag and length, one of two bodies, trailer with CRC-32.

By hand, a frame becomes a tuple of header, message and CRC; protoserve makes an object
of the trailer too, and one of all three. The CRC is zlib's, which is C: with a CRC in
Python nothing else would be seen.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import attrs
import construct as c
from construct import this

from benchmarks.codec.case import COMPILED, HAND, INTERPRETED, OURS, Candidate, Case
from protoserve import (
    Direction,
    Message,
    Protocol,
    checksum_of,
    checksums,
    count_of,
    length_of,
    wire,
)

SAMPLES = [17 * i for i in range(12)]
TEXT = "battery low"
VALUES = [
    (1, 2, 513, (3_000_000_001, 21.5, 7, SAMPLES)),
    (2, 0, 514, (404, TEXT)),
]


def _framed(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    data = struct.pack(">BBHH", kind, flags, sequence, len(body)) + body
    return data + struct.pack(">I", zlib.crc32(data))


BODIES = [
    struct.pack(">IfHB12H", 3_000_000_001, 21.5, 7, 12, *SAMPLES),
    struct.pack(">HB", 404, len(TEXT)) + TEXT.encode(),
]
DATA = [_framed(*VALUES[i][:3], body) for i, body in enumerate(BODIES)]
FRESH = [_framed(VALUES[i][0], 0, 0, body) for i, body in enumerate(BODIES)]


class Header(Message):
    """
    What a frame starts with.
    """

    kind: int = wire(c.Int8ub)
    flags: int = wire(c.Int8ub, default=0)
    sequence: int = wire(c.Int16ub, default=0)
    length: int = wire(c.Int16ub, value=length_of("body"))


class Trailer(Message):
    """
    What a frame ends with.
    """

    crc: int = wire(
        c.Int32ub, value=checksum_of("header", "body", using=checksums.crc32)
    )


class Reading(Message):
    """
    One body.
    """

    device: int = wire(c.Int32ub)
    celsius: float = wire(c.Float32b)
    status: int = wire(c.Int16ub)
    count: int = wire(c.Int8ub, value=count_of("samples"))
    samples: list[int] = wire(c.Array(this.count, c.Int16ub), factory=list)


class Alarm(Message):
    """
    The other body.
    """

    code: int = wire(c.Int16ub)
    text: str = wire(c.PascalString(c.Int8ub, "utf8"))


protocol = Protocol(
    "station",
    header=Header,
    tag="kind",
    messages={1: Reading, 2: Alarm},
    trailer=Trailer,
    correlate="sequence",
)


@attrs.define
class HeaderByHand:
    """
    The header, without protoserve.
    """

    kind: int
    flags: int
    sequence: int


@attrs.define
class ReadingByHand:
    """
    One body, without protoserve.
    """

    device: int
    celsius: float
    status: int
    samples: list[int]


@attrs.define
class AlarmByHand:
    """
    The other body, without protoserve.
    """

    code: int
    text: str


_HEAD = struct.Struct(">BBHH")
_TAIL = struct.Struct(">I")
_READING = struct.Struct(">IfHB")
_ALARM = struct.Struct(">HB")
_unpack_head, _pack_head = _HEAD.unpack_from, _HEAD.pack
_unpack_tail, _pack_tail = _TAIL.unpack_from, _TAIL.pack
_unpack_reading, _pack_reading = _READING.unpack_from, _READING.pack
_unpack_alarm, _pack_alarm = _ALARM.unpack_from, _ALARM.pack
_NUMBERS = [struct.Struct(f">{count}H") for count in range(256)]
_crc32 = zlib.crc32


def _parse_reading(data: bytes, stop: int) -> ReadingByHand:
    device, celsius, status, count = _unpack_reading(data, 6)
    if 17 + 2 * count != stop:
        raise ValueError(count)
    samples = list(_NUMBERS[count].unpack_from(data, 17))
    return ReadingByHand(device, celsius, status, samples)


def _parse_alarm(data: bytes, stop: int) -> AlarmByHand:
    code, length = _unpack_alarm(data, 6)
    if 9 + length != stop:
        raise ValueError(length)
    return AlarmByHand(code, data[9:stop].decode())


_PARSERS: dict[int, Any] = {1: _parse_reading, 2: _parse_alarm}


def parse(data: bytes) -> tuple[HeaderByHand, Any, int]:
    """
    Parse a frame, all of it.
    """
    stop = len(data) - 4
    kind, flags, sequence, length = _unpack_head(data)
    (crc,) = _unpack_tail(data, stop)
    if stop - 6 != length:
        raise ValueError(length)
    if _crc32(data[:stop]) != crc:
        raise ValueError(crc)
    return HeaderByHand(kind, flags, sequence), _PARSERS[kind](data, stop), crc


def _build_reading(o: ReadingByHand) -> bytes:
    samples = o.samples
    count = len(samples)
    return _pack_reading(o.device, o.celsius, o.status, count) + _NUMBERS[count].pack(
        *samples
    )


def _build_alarm(o: AlarmByHand) -> bytes:
    text = o.text.encode()
    return _pack_alarm(o.code, len(text)) + text


_BUILDERS: dict[type[Any], Any] = {
    ReadingByHand: (1, _build_reading),
    AlarmByHand: (2, _build_alarm),
}


def build(message: Any, header: HeaderByHand | None = None) -> bytes:
    """
    Build a frame under a fresh header, or under a copy of that of a request.
    """
    kind, build_body = _BUILDERS[type(message)]
    body = build_body(message)
    if header is None:
        data = _pack_head(kind, 0, 0, len(body)) + body
    else:
        data = _pack_head(kind, header.flags, header.sequence, len(body)) + body
    return data + _pack_tail(_crc32(data))


FORMAT = c.Struct(
    "frame"
    / c.RawCopy(
        c.Struct(
            "kind" / c.Int8ub,
            "flags" / c.Default(c.Int8ub, 0),
            "sequence" / c.Default(c.Int16ub, 0),
            "body"
            / c.Prefixed(
                c.Int16ub,
                c.Switch(
                    this.kind,
                    {
                        1: c.Struct(
                            "device" / c.Int32ub,
                            "celsius" / c.Float32b,
                            "status" / c.Int16ub,
                            "samples" / c.PrefixedArray(c.Int8ub, c.Int16ub),
                        ),
                        2: c.Struct(
                            "code" / c.Int16ub,
                            "text" / c.PascalString(c.Int8ub, "utf8"),
                        ),
                    },
                ),
            ),
        )
    ),
    "crc" / c.Checksum(c.Int32ub, zlib.crc32, this.frame.data),
)


def _values(header: Any, message: Any) -> tuple[Any, ...]:
    body: tuple[Any, ...]
    if header.kind == 1:
        samples = list(message.samples)
        body = message.device, message.celsius, message.status, samples
    else:
        body = message.code, message.text
    return header.kind, header.flags, header.sequence, body


def case() -> Case:
    """
    Make the case of frames under fresh headers.
    """
    parsed = [protocol.parse(data, Direction.REQUEST) for data in DATA]
    messages = [one.message for one in parsed]
    by_hand = [parse(data)[1] for data in DATA]
    plain = [_by_construct(FORMAT.parse(data)) for data in DATA]
    compiled = FORMAT.compile()
    return Case(
        "E",
        "whole frames: header, tag, body, trailer with CRC-32; 2 frames",
        DATA,
        VALUES,
        lambda o: _values(o[0], o[1]),
        [
            Candidate(HAND, parse),
            Candidate(
                OURS,
                protocol.parse,
                values=lambda o: _values(o.header, o.message),
                extra=[Direction.REQUEST],
            ),
            Candidate(INTERPRETED, FORMAT.parse, FORMAT.build, _of_copy, plain),
            Candidate(COMPILED, compiled.parse, compiled.build, _of_copy, plain),
            Candidate(HAND, build=build, objects=by_hand, data=FRESH),
            Candidate(
                OURS,
                build=protocol.build,
                objects=messages,
                data=FRESH,
                extra=[Direction.RESPONSE],
            ),
        ],
    )


def reply_case() -> Case:
    """
    Make the case of frames that answer, under the request's header.
    """
    parsed = protocol.parse(DATA[0], Direction.REQUEST)
    header, by_hand, _ = parse(DATA[0])
    return Case(
        "E, reply",
        "one frame that answers under its request's header",
        DATA[:1],
        VALUES[:1],
        lambda o: o,
        [
            Candidate(HAND, build=build, objects=[by_hand], options={"header": header}),
            Candidate(
                OURS,
                build=protocol.build,
                objects=[parsed.message],
                extra=[Direction.RESPONSE],
                options={"reply_to": parsed.header},
            ),
        ],
    )


def _of_copy(o: Any) -> tuple[Any, ...]:
    return _values(o.frame.value, o.frame.value.body)


def _by_construct(parsed: Any) -> dict[str, Any]:
    """
    Take what was parsed without its bytes, which would be written as they are.
    """
    return {"frame": {"value": parsed.frame.value}}
