"""
What differs on the wire is told field by field.
"""

from __future__ import annotations

import math

import pytest
from construct import Bytes, Float32b, Int8ub, Int16ub, Nibble, this

from protocols import dns, modbus
from protoserve import DeclarationError, Direction, Message, count_of, wire
from protoserve.testing import on_wire
from protoserve.testing._wire import explain


class Sample(Message):
    count: int = wire(Int8ub, value=count_of("values"))
    high: int = wire(Nibble, default=0)
    low: int = wire(Nibble, default=0)
    level: float = wire(Float32b, default=0.0, unit="°C")
    values: list[int] = wire(Int16ub[this.count], factory=list)


FEWER = (
    "Sample.count at offset 0: expected 2 (count of values), found 1 (count of values)"
)


def differences(left, right):
    """The lines about fields, without the hexdumps."""
    lines = explain(left, right)[1:]
    return lines[: lines.index("expected:")] if "expected:" in lines else lines


def test_equal_by_their_bytes():
    """What is on the wire equals the same bytes, whatever they are made of."""
    sample = Sample(values=[1, 2])
    data = bytes(sample)
    assert data == on_wire(Sample, data) == on_wire(sample) == sample
    assert on_wire(Sample, data) != data[:-1]
    assert on_wire(Sample, data) != 5
    assert 1 == len({on_wire(sample), on_wire(Sample, data)})
    assert data == bytes(on_wire(Sample, bytearray(data)))


def test_fields_that_differ():
    """Path, offset, what is expected and what was found; what is equal is left out."""
    left, right = Sample(1, 2, 3.5, [1, 2]), Sample(1, 3, 3.0, [1, 5])
    assert [
        "Sample.low at offset 1: expected 2, found 3",
        "Sample.level at offset 2: expected 3.5 °C, found 3.0 °C",
        "Sample.values[1] at offset 8: expected 2, found 5",
    ] == differences(left, right)
    assert differences(left, right) == differences(on_wire(left), bytes(right))
    assert differences(left, right) == differences(bytes(left), on_wire(right))


def test_both_hexdumps():
    """All fields are shown, those that differ are marked."""
    lines = explain(Sample(level=1.0, values=[7]), Sample(level=2.0, values=[7]))
    assert """\
expected:
  Sample
  0000  01                       count      1 (count of values)
  0001  0000 ....                high       0
  0001  .... 0000                low        0
> 0002  3f 80 00 00              level      1.0 °C
  0006  00 07                    values[0]  7
found:
  Sample
  0000  01                       count      1 (count of values)
  0001  0000 ....                high       0
  0001  .... 0000                low        0
> 0002  40 00 00 00              level      2.0 °C
  0006  00 07                    values[0]  7""" == "\n".join(lines[2:])


def test_what_is_missing():
    """A field that only one side has is told as such; so is one that was cut off."""
    assert [
        FEWER,
        "Sample.values[1] at offset 8: expected 9, not found",
        "10 bytes are expected, 8 were found",
    ] == differences(Sample(values=[8, 9]), Sample(values=[8]))
    found = differences(Sample(values=[8]), Sample(values=[8, 9]))
    assert "Sample.values[1] at offset 8: not expected, found 9" in found
    cut = differences(on_wire(Sample(values=[8])), bytes(Sample(values=[8]))[:-1])
    assert any("what is found does not parse: Sample.values[0]" in line for line in cut)


def test_nan_equals_itself():
    """Bytes are compared, not numbers."""
    left, right = Sample(level=math.nan, values=[1]), Sample(level=math.nan, values=[2])
    assert ["Sample.values[0] at offset 6: expected 1, found 2"] == (
        differences(left, right)
    )


def test_same_bytes():
    """Messages whose bytes are equal differ in what they are made of."""
    found = differences(Sample(level=0.1), Sample(level=0.10000000149011612))
    assert "their bytes are the same, but not what they are made of" == found[0]
    assert "Sample.level: expected 0.1, found 0.10000000149011612" == found[1]


def test_messages_that_do_not_build():
    """Those that refer to their header are compared by their attributes."""

    class Body(Message):
        data: bytes = wire(Bytes(this._.length))
        inner: list[Sample] = wire(Sample.construct[1])

    left = Body(b"abc", [Sample(1)])
    assert [
        "Body.data: expected b'abc', found b'xbc'",
        "Body.inner[0].high: expected 1, found 2",
    ] == differences(left, Body(b"xbc", [Sample(2)]))


def test_frames():
    """Of a frame the header is shown, too."""
    one, other = (
        modbus.modbus.build(
            modbus.ReadCoils(1, count), Direction.REQUEST, header=modbus.Mbap(unit=unit)
        )
        for unit, count in ((1, 5), (2, 6))
    )
    assert [
        "Mbap.unit at offset 6: expected 1, found 2",
        "ReadCoils.count at offset 10: expected 5, found 6",
    ] == [
        line.replace("quantity", "count")
        for line in differences(on_wire(modbus.modbus, one), other)
    ]


def test_dns_responses():
    """Deep fields of a real protocol have their paths."""
    left, right = (
        dns.dns.build(
            dns.Response([dns.Question("a.test")], [dns.record("a.test", dns.A(ip))]),
            Direction.RESPONSE,
        )
        for ip in ("192.0.2.1", "192.0.2.9")
    )
    (line,) = differences(on_wire(dns.dns, left, Direction.RESPONSE), right)
    assert line.startswith("Response.answers[0]")


def test_lists():
    """Of lists of messages the first that differs is told."""
    lines = explain([Sample(1), Sample(2)], [Sample(1), Sample(3)])
    assert lines[0].startswith("at index 1: Sample(")
    assert "Sample.high at offset 1: expected 2, found 3" == lines[1]


def test_nothing_to_add():
    """pytest's own words do for everything else."""
    for left, right in (
        (1, 2),
        (b"a", b"b"),
        (Sample(), modbus.ReadCoils(1, 1)),
        ([1], [2]),
        ([Sample()], [Sample(), Sample()]),
        (on_wire(Sample()), "text"),
    ):
        assert explain(left, right) is None


def test_wrong_use():
    """One line says what is wrong."""
    with pytest.raises(DeclarationError, match="takes a message class or a Protocol"):
        on_wire(b"abc")
    with pytest.raises(DeclarationError, match="the bytes after the class"):
        on_wire(Sample)
