"""
Adapters of the user's own: generated code calls them as Construct does.
"""

from __future__ import annotations

import construct as c
import pytest
from construct import this

from protoserve import InvalidMessageError, MalformedMessageError, Message, wire


class Tenths(c.Adapter):
    """Looks at nothing but the value."""

    def _decode(self, obj, context, path):
        return obj / 10

    def _encode(self, obj, context, path):
        return round(obj * 10)


class Scaled(c.Adapter):
    """Looks at another field."""

    def _decode(self, obj, context, path):
        return obj * 10**context.scale

    def _encode(self, obj, context, path):
        return obj // 10**context.scale


class Placed(c.Adapter):
    """Looks at where it stands, which only Construct knows."""

    def _decode(self, obj, context, path):
        return obj, context._io.tell()

    def _encode(self, obj, context, path):
        return obj[0]


class Odd(c.Validator):
    def _validate(self, obj, context, path):
        return obj % 2 == 1


class Chosen(c.Adapter):
    """Raises an error of its own for what it does not like."""

    def _decode(self, obj, context, path):
        if obj not in b"ab":
            raise c.ValidationError(f"{obj} is not to be had", path=path)
        return chr(obj)

    def _encode(self, obj, context, path):
        return ord(obj)


class Sample(Message):
    scale: int = wire(c.Int8ub)
    tenths: float = wire(Tenths(c.Int16sb))
    scaled: int = wire(Scaled(c.Int8ub))
    hexed: str = wire(
        c.ExprAdapter(
            c.Bytes(this.scale),
            lambda data, context: data.hex(),
            lambda text, context: bytes.fromhex(text),
        )
    )
    pairs: list[tuple[int, int]] = wire(
        c.Array(2, c.ExprAdapter(c.Int8ub, _pair := lambda v, ctx: v, _pair))
    )
    odd: int = wire(Odd(c.Int8ub))
    chosen: str = wire(Chosen(c.Int8ub))


DATA = bytes.fromhex("02 ff f1 07 ab cd 01 02 05 61")
SAMPLE = Sample(2, -1.5, 700, "abcd", [1, 2], 5, "a")


def test_both_ways(codec):
    """What an adapter makes is what it takes."""
    assert SAMPLE == codec.parse(Sample, DATA)
    assert DATA == codec.build(SAMPLE)


def test_errors(codec):
    """An adapter's own reason, or Construct's, is told with the place."""
    with pytest.raises(
        MalformedMessageError, match=r"Sample.odd at offset 8: .*found 4"
    ):
        codec.parse(Sample, DATA[:8] + b"\4a")
    with pytest.raises(MalformedMessageError, match=r"Sample.chosen .* not to be had"):
        codec.parse(Sample, DATA[:-1] + b"z")
    with pytest.raises(InvalidMessageError, match=r"Sample.odd"):
        codec.build(Sample(2, -1.5, 700, "abcd", [1, 2], 4, "a"))
    with pytest.raises(InvalidMessageError, match=r"Sample.hexed"):
        codec.build(Sample(2, -1.5, 700, "abcdef", [1, 2], 5, "a"))


def test_position(codec):
    """An adapter may look at the stream, behind other parts that Construct reads."""

    class Mixed(Message):
        first: int = wire(c.Aligned(4, c.Int8ub))
        scale: int = wire(c.Int8ub)
        scaled: int = wire(Scaled(c.Int8ub))
        placed: tuple[int, int] = wire(Placed(c.Int16ub))

    message = Mixed(1, 1, 30, (4, 8))
    data = bytes.fromhex("01 00 00 00 01 03 00 04")
    assert message == codec.parse(Mixed, data)
    assert data == codec.build(message)
