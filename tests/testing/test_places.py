"""
Messages whose values depend on where they stand are made from their declaration, too.
"""

from __future__ import annotations

import construct as c
import pytest
from construct import this
from hypothesis import HealthCheck, given, settings

from protoserve import Direction, Message, Protocol, length_of, wire
from protoserve.testing import from_message, from_protocol
from protoserve.testing._drawing import Drawing
from protoserve.testing._hints import hints_of

QUICK = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def run(strategy, check):
    """Try a check on some examples; the same ones each time."""

    @QUICK
    @given(strategy)
    def trial(example):
        check(example)

    trial()


TEXT = c.CString("ascii")
TO_FOUR = c.Padding(-this.at % 4)
PLACED = {
    "tell": c.Struct("a" / TEXT, "at" / c.Tell),
    "padding": c.Struct("a" / TEXT, "at" / c.Tell, TO_FOUR, "b" / c.Int32ub),
    "difference": c.Struct(
        "from" / c.Tell, "a" / TEXT, "to" / c.Tell, "b" / c.Bytes(40 - (this.to - this["from"]))
    ),
    "computed": c.Struct("a" / TEXT, "at" / c.Tell, "size" / c.Computed(this.at - 1)),
    "elements": c.GreedyRange(c.Struct("at" / c.Tell, "v" / c.Int8ub)),
    "many": c.Struct("v" / c.Int16ub[20], "at" / c.Tell),
    "bits": c.Struct("v" / c.BitStruct("a" / c.Nibble, "b" / c.Nibble), "at" / c.Tell),
    "own stream": c.Prefixed(c.Int8ub, c.Struct("a" / TEXT, "at" / c.Tell)),
    "fixed": c.Struct("v" / c.FixedSized(9, c.Struct("a" / c.Int8ub, "at" / c.Tell))),
    "choice": c.Struct(
        "k" / c.Int8ub, "v" / c.Switch(this.k, {1: c.Int8ub, 2: TEXT}), "at" / c.Tell
    ),
    "pointer": c.Struct("p" / c.Pointer(0, c.Int8ub), "d" / c.Bytes(2)),
    "pointer by field": c.Struct(
        "o" / c.Int8ub, "d" / c.Bytes(8), "p" / c.Pointer(this.o, c.Int8ub)
    ),
    "pointer from end": c.Struct("d" / c.Bytes(8), "p" / c.Pointer(-2, c.Int16ub)),
    "pointer back": c.Struct(
        "at" / c.Tell, "d" / c.Bytes(8), "p" / c.Pointer(this.at, c.Int16ub)
    ),
    "peek": c.Struct("k" / c.Peek(c.Int8ub), "v" / c.Bytes(2)),
    "peek to choose": c.Struct(
        "k" / c.Peek(c.Int8ub),
        "v" / c.Switch(this.k, {1: c.Int16ub, 2: c.Int32ub}, c.Int8ub),
    ),
    "checksum": c.Struct(
        "f" / c.RawCopy(c.Struct("a" / c.Int8ub, "b" / c.Int16ub)),
        "c" / c.Checksum(c.Int8ub, lambda d: sum(d) & 255, this.f.data),
    ),
    "behind a seek": c.Struct("a" / c.Int8ub, c.Seek(2, 1), "at" / c.Tell),
}  # fmt: skip


@pytest.mark.parametrize("name", PLACED)
def test_messages_come_back(name):
    """What is made builds, and parses to itself."""

    class Holder(Message):
        length: int = wire(c.Int8ub, value=length_of("text"))
        high: int = wire(c.Nibble)
        low: int = wire(c.Nibble)
        text: bytes = wire(c.Bytes(this.length))
        field: object = wire(PLACED[name])

    def check(message):
        assert message == Holder.parse(bytes(message))

    run(from_message(Holder), check)


TO_TELL = c.Struct("a" / TEXT, "at" / c.Tell, "b" / c.Bytes(-this.at % 4))
RIGHT_AT_ONCE = {
    "plain": TO_TELL,
    "behind bits": c.Struct("v" / c.BitStruct("a" / c.Nibble, "b" / c.Nibble), *TO_TELL.subcons),
    "behind a choice": c.Struct(
        "k" / c.Int8ub, "v" / c.Switch(this.k, {1: c.Int8ub, 2: TEXT}), *TO_TELL.subcons
    ),
    "behind a list": c.Struct("v" / c.PrefixedArray(c.Int8ub, TEXT), *TO_TELL.subcons),
    "behind a pointer": c.Struct("v" / c.Pointer(0, c.Int8ub), *TO_TELL.subcons),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT_AT_ONCE)
def test_nothing_is_wasted(name, monkeypatch):
    """Positions are known as values are drawn, so no example has to be given up."""

    class Holder(Message):
        length: int = wire(c.Int8ub, value=length_of("text"))
        high: int = wire(c.Nibble)
        low: int = wire(c.Nibble)
        text: bytes = wire(c.Bytes(this.length))
        field: object = wire(RIGHT_AT_ONCE[name])

    def refuse(drawing, reason):
        raise AssertionError(reason)

    monkeypatch.setattr(Drawing, "refuse", refuse)
    run(from_message(Holder), lambda message: None)


def test_frames_come_back():
    """In a frame the header counts."""

    class Header(Message):
        kind: int = wire(c.Int8ub)
        name: str = wire(TEXT)

    class Body(Message):
        text: str = wire(TEXT)
        at: int = wire(c.Tell)
        pad: bytes = wire(c.Bytes(-this.at % 4))
        value: int = wire(c.Int32ub)

    protocol = Protocol("placed", header=Header, tag="kind", requests={7: Body})

    def check(example):
        parsed = protocol.parse(example.frame, Direction.REQUEST)
        assert example.message == parsed.message
        assert 0 == len(example.frame) % 4
        assert 4 + len(example.message.pad) == len(example.frame) - parsed.message.at

    run(from_protocol(protocol, Direction.REQUEST), check)


def test_only_where_it_matters():
    """Positions are kept where a declaration asks for them."""
    assert hints_of(PLACED["tell"]).placed
    assert hints_of(PLACED["peek"]).placed
    assert not hints_of(c.Struct("a" / TEXT)).placed
