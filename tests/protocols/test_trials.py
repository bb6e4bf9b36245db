"""
The shared trials: every protocol, the same questions.
"""

from __future__ import annotations

import pytest
from construct import (
    Array,
    BitsInteger,
    GreedyBytes,
    If,
    Int8ub,
    Int16ub,
    Int32ub,
    PascalString,
    Switch,
    this,
)
from hypothesis import given
from hypothesis import strategies as st

from protoserve import (
    Cobs,
    Delimited,
    LengthField,
    LengthPrefixed,
    Message,
    Protocol,
    Request,
    checksum_of,
    checksums,
    count_of,
    length_of,
    wire,
)
from protoserve.testing import from_protocol
from tests.protocols import trials


class Ack(Message):
    device: int = wire(Int32ub)


class Reading(Request[Ack]):
    device: int = wire(Int32ub)
    count: int = wire(Int8ub, value=count_of("samples"))
    samples: list[int] = wire(Array(this.count, Int16ub))


class Start(Message):
    kind: int = wire(Int8ub)
    sequence: int = wire(Int16ub, default=0)


class Crc(Message):
    crc: int = wire(
        Int16ub, value=checksum_of("header", "body", using=checksums.crc16_modbus)
    )


sensors = Protocol(
    "sensors",
    framing=LengthPrefixed(Int16ub, max_size=4096),
    header=Start,
    tag="kind",
    requests={1: Reading},
    responses={0x81: Ack},
    trailer=Crc,
    correlate="sequence",
)


class Line(Message):
    text: bytes = wire(GreedyBytes)


chat = Protocol("chat", framing=Cobs(), messages=Line)


class Preamble(Message):
    version: int = wire(BitsInteger(3))
    answer: int = wire(BitsInteger(1))
    kind: int = wire(BitsInteger(4))
    length: int = wire(Int16ub, value=length_of("header", "body"))
    wide: int = wire(Int8ub)


class Point(Message):
    x: int | None = wire(If(this._.wide, Int32ub))
    label: str = wire(PascalString(Int8ub, "utf-8"))


class Shape(Message):
    number: int = wire(Switch(this._.version, {0: Int8ub, 7: Int32ub}, default=Int16ub))
    points: list[Point] = wire(Array(2, Int8ub))


versions = Protocol(
    "versions",
    framing=LengthField(Int16ub, offset=1, inclusive=True),
    header=Preamble,
    tag=("answer", "kind"),
    requests={(0, 1): Point, (0, 2): Shape},
    responses={(1, 1): Shape},
)

lines = Protocol("lines", framing=Delimited(b"\r\n", escape=b"\\"), messages=Line)

PROTOCOLS = {
    protocol.name: protocol for protocol in (sensors, chat, versions, lines)
} | trials.shipped()

every = pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
both_ways = pytest.mark.parametrize(
    "direction", trials.DIRECTIONS, ids=lambda way: way.value
)


def skip_without_messages(protocol, direction):
    if not protocol.table(direction):
        pytest.skip(f"{protocol.name} has no {direction.value}")


def skip_without_streams(protocol, direction):
    skip_without_messages(protocol, direction)
    if not trials.has_streams(protocol):
        pytest.skip(f"{protocol.name} is not spoken over streams")


@pytest.mark.parametrize("name", trials.shipped())
def test_a_package_has_its_protocol_under_its_own_name(name):
    """`protocols.dns:dns` is what users type."""
    protocol = trials.shipped()[name]
    assert isinstance(protocol, Protocol)
    assert name == protocol.name


@every
@both_ways
def test_frames(protocol, direction):
    """Frames come back as they were, and only they do."""
    skip_without_messages(protocol, direction)

    @trials.trial(40)
    @given(trials.examples(protocol, direction))
    def run(example):
        for trial in trials.ONE_EXAMPLE:
            trial(protocol, direction, example)

    run()


@every
@both_ways
def test_every_message(protocol, direction):
    """Each message of the table can be made, and comes back."""
    skip_without_messages(protocol, direction)
    for cls in protocol.table(direction).values():

        @trials.trial(8)
        @given(from_protocol(protocol, direction, only=cls, kinds=trials.KINDS))
        def run(example):
            trials.round_trip(protocol, direction, example)

        run()


@every
@both_ways
def test_cut_frames(protocol, direction):
    """A frame that ends early is refused wherever it ends."""
    skip_without_messages(protocol, direction)

    @trials.trial(10)
    @given(trials.examples(protocol, direction))
    def run(example):
        trials.cut_at_every_byte(protocol, direction, example)

    run()


@every
@both_ways
def test_cut_streams(protocol, direction):
    """A stream that ends in the middle of a frame says so."""
    skip_without_streams(protocol, direction)

    @trials.trial(10)
    @given(trials.examples(protocol, direction))
    def run(example):
        trials.cut_stream(protocol, direction, example)

    run()


@every
@both_ways
def test_streams(protocol, direction):
    """Frames come out of a stream whichever way its bytes come in."""
    skip_without_streams(protocol, direction)
    batches = st.lists(trials.examples(protocol, direction), max_size=4)
    cuts = st.lists(st.integers(0, 1 << 16), max_size=12)

    @trials.trial(20)
    @given(batches, cuts)
    def run(batch, cuts):
        for trial in trials.STREAMS:
            trial(protocol, direction, batch)
        trials.split(protocol, direction, batch, cuts)

    run()


@every
@both_ways
def test_nonsense(protocol, direction):
    """Bytes that mean nothing end in the errors that a caller expects."""

    @trials.trial(100)
    @given(st.binary(max_size=80))
    def run(data):
        trials.nonsense(protocol, direction, data)

    run()
