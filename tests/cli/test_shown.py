"""
Messages as trees, and what can be written behind their names.
"""

import enum
import io

import pytest
from construct import Array, Bytes, GreedyRange, If, Int8ub, Int16ub, Struct, this
from rich.console import Console

from protocols.dns import Query, ResourceRecord
from protocols.modbus import WriteSingleCoil
from protoserve import Message, count_of, wire
from protoserve.cli.fields import in_short, part_at, place_of, suggestions
from protoserve.cli.shown import as_entry, header_line, tree


class Level(enum.IntFlag):
    LOW = 1
    HIGH = 2


class Inner(Message):
    value: int = wire(Int8ub, default=0, unit="V")


class Outer(Message):
    level: Level = wire(Int8ub, enum=Level, default=Level.LOW)
    data: bytes = wire(Bytes(2), default=b"ab")
    count: int = wire(Int8ub, value=count_of("inner"))
    inner: list[Inner] = wire(Array(this.count, Inner.construct), factory=list)
    place: object = wire(Struct("x" / Int8ub, "z" / Int8ub), factory=dict)
    one: object = wire(If(this.count, Inner.construct), default=None)
    many: list[int] = wire(GreedyRange(Int16ub), factory=list)


def shown(message, **options):
    output = io.StringIO()
    Console(width=500, file=output, highlight=False).print(tree(message, **options))
    return [line.lstrip("│├└─ ") for line in output.getvalue().splitlines()]


def test_tree():
    """Each kind of value has its form: names, units, numbers, bytes as hex and text."""
    message = Outer(
        Level.LOW | Level.HIGH, inner=[Inner(5)], place={"x": 1, "_io": 2}, one=Inner(7)
    )
    assert [
        "Outer",
        "level LOW|HIGH (3)",
        'data 6162  "ab"',
        "count 1",
        "inner",
        "[0] Inner",
        "value 5 V",
        "place",
        "x 1",
        "one Inner",
        "value 7 V",
        "many []",
    ] == shown(message)


def test_long_values_are_cut():
    """A tree stays readable: of long lists and bytes the beginning is shown."""
    lines = shown(Outer(inner=[Inner()] * 250, many=[1] * 70, data=b"\0" * 300))
    assert "… 50 more" in lines
    assert any(line.endswith("1, … 6 more]") for line in lines)
    assert any(line.endswith("… 300 bytes") for line in lines)
    assert "one none" in lines


def test_header_line():
    """Of a header only what differs from its defaults is shown."""
    assert "" == header_line(None)
    assert "" == header_line(Outer())
    assert "level HIGH (2)".replace(" ", "=", 1) == header_line(Outer(Level.HIGH))


def test_entry_of_what_is_no_message():
    """What could not be parsed has null for what is not known."""
    entry = as_entry(
        3,
        time=1.5,
        transport="udp",
        src="a",
        dst=None,
        direction="request",
        protocol="spoken",
        raw=b"\1",
        error=ValueError("no\nmessage"),
    )
    assert None is entry["message"] is entry["header"] is entry["fields"]
    assert "01" == entry["raw"]
    assert entry["error"] == {
        "path": "spoken",
        "offset": None,
        "expected": "what the protocol allows",
        "found": "no",
    }


@pytest.mark.parametrize(
    ("cls", "word", "expected"),
    [
        (Outer, "le", ["level=LOW", "level=HIGH"]),
        (Outer, "level=h", ["level=HIGH"]),
        (Outer, "dat", ["data=hex:", "data=text:"]),
        (Outer, "inner", ["inner.0.value="]),
        (Outer, "inner.3", ["inner.3."]),
        (Outer, "inner.3.v", ["inner.3.value="]),
        (Outer, "inner.3.x", []),
        (Outer, "place.", ["place.x=", "place.z="]),
        (Outer, "nothing=", []),
        (Outer, "nothing.0", []),
        (WriteSingleCoil, "value=", ["value=true", "value=false"]),
    ],
)
def test_suggestions(cls, word, expected):
    """Names lead on to what is inside, values have their names; what is filled in is not
    suggested."""
    assert expected == [text for text, _ in suggestions(cls, word)]


def test_places():
    """Fields are found by their places, and places by their fields."""
    part = part_at(ResourceRecord, "rdata.preference")
    assert part is not None
    assert "uint16, big-endian" == in_short(part)
    assert part_at(Query, "questions[3].name") is not None
    assert part_at(Query, "questions.3.nothing") is None
    assert "questions" == part_at(Query, "questions.3").name
    assert "place.x" == place_of(Outer, "x")
    assert None is place_of(Outer, "y")
