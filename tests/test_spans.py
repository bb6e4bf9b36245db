"""
Spans: where the fields of a frame are, and what they hold.
"""

import enum
import re

import construct as c
import pytest
from construct import this
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocols import dns, modbus, ntp
from protoserve import (
    Direction,
    MalformedMessageError,
    Message,
    Protocol,
    UnknownMessageError,
    checksum_of,
    checksums,
    count_of,
    length_of,
    wire,
)
from protoserve.codec.annotated import annotated_text, rows_of
from protoserve.codec.spans import message_spans, spans
from protoserve.testing import from_protocol

PROTOCOLS = [dns.dns, modbus.modbus, ntp.ntp]
WAYS = list(Direction)

relaxed = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def value_at(parsed, span):
    """
    Follow a span's path through what `Protocol.parse` has given.
    """
    value = getattr(parsed, {"body": "message"}.get(span.part, span.part))
    for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", span.path):
        value = value[int(index)] if index else getattr(value, name)
    return value


def bits_of(span):
    """
    Give the first and the last bit, counted from the start of the frame.
    """
    first, last = span.bits or (0, 8 * (span.stop - span.start) - 1)
    return 8 * span.start + first, 8 * span.start + last


def check_whole(found, size):
    """
    Each bit of a frame belongs to one span, and they are in order.
    """
    at = 0
    for span in found:
        first, last = bits_of(span)
        assert (at, span.path) == (first, span.path)
        at = last + 1
    assert 8 * size == at


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.value)
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.name)
def test_protocols(protocol, way):
    """
    Frames of the protocols are covered without gaps, by the values that a parse gives.
    """

    @relaxed
    @given(from_protocol(protocol, way))
    def check(example):
        found = spans(protocol, example.frame, way)
        parsed = protocol.parse(example.frame, way)

        assert found.error is None
        check_whole(found, len(example.frame))
        for span in found:
            is_prefix = span.refers == span.path.rpartition(".")[2]
            if not is_prefix and span.kind != "padding":
                expected = value_at(parsed, span)
                assert (span.path, expected) == (span.path, span.value)

    check()


def kinds(found):
    """
    Give kinds and what they refer to by the fields' names.
    """
    return {s.name: (s.kind, s.refers) if s.refers else s.kind for s in found}


def test_kinds_of_dns():
    """
    A query's counts, its tag and its enums are told.
    """
    frame = dns.dns.build(dns.Query([dns.Question("a.test")]), Direction.REQUEST)

    found = kinds(spans(dns.dns, frame, Direction.REQUEST))

    assert "tag" == found["response"]
    assert "enum" == found["opcode"]
    assert ("count", "questions") == found["question_count"]
    assert "text" == found["questions[0].name"]
    assert "enum" == found["questions[0].type"]


def test_kinds_of_modbus():
    """
    The tag is found where a function reads it; a length names all that it is of.
    """
    message = modbus.HoldingRegisters([1, 2])
    frame = modbus.modbus.build(message, Direction.RESPONSE)

    found = kinds(spans(modbus.modbus, frame, Direction.RESPONSE))

    assert "tag" == found["function"]
    assert "constant" == found["protocol"]
    assert ("length", "unit to body") == found["length"]
    assert ("length", "values") == found["byte_count"]


class Colour(enum.IntEnum):
    RED = 1
    BLUE = 2


class Point(Message):
    x: int = wire(c.Int16sb, unit="mm")
    y: int = wire(c.Int8ub)


class Flags(Message, bits=True):
    low: int = wire(c.BitsInteger(3))
    wide: int = wire(c.BitsInteger(12), doc="across two bytes")
    high: bool = wire(c.Flag)


class Square(c.Adapter):
    def _decode(self, obj, context, path):
        return obj.a * obj.b

    def _encode(self, obj, context, path):
        return {"a": obj, "b": 1}


class Head(Message):
    magic: bytes = wire(c.Const(b"PS"), init=False)
    kind: int = wire(c.Int8ub)
    size: int = wire(c.Int16ub, value=length_of("body"))


class Tail(Message):
    check: int = wire(
        c.Int16ub, value=checksum_of("header", "body", using=checksums.crc16_x25)
    )


class Everything(Message):
    colour: Colour = wire(c.Int8ub, enum=Colour, default=Colour.BLUE)
    flags: Flags = wire(Flags, default=Flags(1, 2, True))
    name: str = wire(c.PascalString(c.Int8ub, "utf8"), default="žluť")
    fixed: str = wire(c.PaddedString(6, "ascii"), default="ab")
    until: str = wire(c.CString("ascii"), default="xyz")
    points: list[Point] = wire(
        c.PrefixedArray(c.VarInt, Point.construct), factory=lambda: [Point(-1, 2)]
    )
    _gap: None = wire(c.Padding(2))
    inner: Point = wire(c.Prefixed(c.Int16ub, Point.construct), default=Point(3, 4))
    roomy: Point = wire(c.FixedSized(5, Point.construct), default=Point(5, 6))
    area: int = wire(Square(c.Struct("a" / c.Int8ub, "b" / c.Int8ub)), default=7)
    packed: bytes = wire(
        c.Prefixed(c.Int8ub, c.Compressed(c.GreedyBytes, "zlib")), default=b"z" * 9
    )
    swapped: int = wire(c.ByteSwapped(c.Int24ub), default=0x010203)
    chosen: object = wire(
        c.Switch(this.colour, {Colour.BLUE: Point.construct}, default=c.Int8ub),
        default=Point(7, 8),
    )
    missing: object = wire(c.If(this.colour == Colour.RED, c.Int32ub), default=None)
    either: object = wire(
        c.Select(c.Const(b"\1\2\3\4"), c.Struct("l" / c.Int8ub, "r" / c.Int8ub)),
        default={"l": 9, "r": 10},
    )
    peeked: object = wire(c.Peek(c.Int8ub), init=False)
    count: int = wire(c.Int8ub, value=count_of("rest"))
    rest: list[int] = wire(
        c.Array(this.count, c.Int16ul), factory=lambda: [1, 2], unit="V"
    )
    more: int | None = wire(c.Optional(c.Int32ub), default=None)


whole = Protocol(
    "whole", header=Head, tag="kind", trailer=Tail, messages={5: Everything}
)
EXPECTED = """
0-2    header  constant      magic      b'PS'
2-3    header  tag           kind       5
3-5    header  length        size       BODY
5-6    body    enum          colour     2
6-7    body    number        flags.low  1              0-2
6-8    body    number        flags.wide 2              3-14
7-8    body    number        flags.high True           7-7
8-9    body    length        name       6
9-15   body    text          name       'žluť'
15-21  body    text          fixed      'ab'
21-25  body    text          until      'xyz'
25-26  body    count         points     1
26-28  body    number        points[0].x -1
28-29  body    number        points[0].y 2
29-31  body    padding       _gap       b'\\x00\\x00'
31-33  body    length        inner      3
33-35  body    number        inner.x    3
35-36  body    number        inner.y    4
36-38  body    number        roomy.x    5
38-39  body    number        roomy.y    6
39-41  body    padding       roomy      b'\\x00\\x00'
41-43  body    number        area       7
"""


def test_everything():
    """
    Each sort of format has its bytes, with the value that the message has.
    """
    frame = whole.build(Everything(), Direction.REQUEST)
    found = spans(whole, frame, Direction.REQUEST)

    assert found.error is None
    check_whole(found, len(frame))
    shown = [
        f"{s.start}-{s.stop} {s.part} {s.kind} {s.name} {s.value!r}"
        + (f" {s.bits[0]}-{s.bits[1]}" if s.bits else "")
        for s in found
    ]
    expected = EXPECTED.replace("BODY", str(len(frame) - 7)).strip().splitlines()
    got = [line.replace("<Colour.BLUE: 2>", "2") for line in shown]
    assert [" ".join(line.split()) for line in expected] == got[: len(expected)]
    tail = kinds(found[len(expected) :])
    assert {
        "packed": "bytes",
        "swapped": "number",
        "chosen.x": "number",
        "chosen.y": "number",
        "either.l": "number",
        "either.r": "number",
        "count": ("count", "rest"),
        "rest[0]": "number",
        "rest[1]": "number",
        "check": ("checksum", "header to body"),
    } == tail


def test_declared():
    """
    Units and docs come with the spans, also of elements and of parts.
    """
    frame = whole.build(Everything(), Direction.REQUEST)
    found = {span.name: span for span in spans(whole, frame, Direction.REQUEST)}

    assert ("mm", "mm") == (found["points[0].x"].unit, found["inner.x"].unit)
    assert "V" == found["rest[1]"].unit
    assert "across two bytes" == found["flags.wide"].doc


class TestErrors:
    def test_what_was_parsed_is_kept(self):
        """
        A frame that ends early has the fields before its end.
        """
        frame = modbus.modbus.build(modbus.HoldingRegisters([1, 2]), Direction.RESPONSE)
        found = spans(
            modbus.modbus, frame[:5] + b"\x06" + frame[6:-1], Direction.RESPONSE
        )

        assert isinstance(found.error, MalformedMessageError)
        assert "HoldingRegisters.values[1]" == found.error.path
        assert "HoldingRegisters.values[0]" == found[-1].path
        check_whole(found, found.error.offset)

    def test_unknown(self):
        """
        A frame whose tag nobody knows has its header's fields.
        """
        frame = bytes.fromhex("0001 0000 0002 01 63")
        found = spans(modbus.modbus, frame, Direction.REQUEST)

        assert isinstance(found.error, UnknownMessageError)
        assert {"header"} == {span.part for span in found}
        check_whole(found, len(frame))

    def test_same_error(self):
        """
        The error is the one that a parse raises.
        """
        data = b"\0" * 9
        with pytest.raises(MalformedMessageError) as caught:
            dns.dns.parse(data, Direction.REQUEST)

        found = spans(dns.dns, data, Direction.REQUEST)
        assert str(caught.value) == str(found.error)

    def test_every_cut(self):
        """
        Wherever a frame is cut, what is shown lies in the bytes that there are.
        """
        frame = whole.build(Everything(), Direction.REQUEST)
        for size in range(len(frame)):
            found = spans(whole, frame[:size], Direction.REQUEST)
            assert found.error is not None
            assert all(0 <= s.start < s.stop <= size for s in found)


def test_message():
    """
    A message by itself has spans as well.
    """
    found = message_spans(Point, b"\xff\xff\x02")

    assert [("Point.x", -1), ("Point.y", 2)] == [(s.path, s.value) for s in found]
    short = message_spans(Point, b"\xff\xff")
    assert ["Point.x"] == [s.path for s in short]
    assert "Point.y" == short.error.path


class Tree(Message):
    value: int = wire(c.Int8ub)
    left: object = wire(c.If(this.value > 1, c.LazyBound(lambda: Tree.construct)))


def test_recursive():
    """
    A message inside itself is followed.
    """
    found = message_spans(Tree, b"\3\2\1")

    assert ["value", "left.value", "left.left.value"] == [s.name for s in found]


def test_parsing_is_as_before():
    """
    Spans leave nothing behind in the form that messages are parsed with.
    """
    frame = whole.build(Everything(), Direction.REQUEST)
    before = whole.parse(frame, Direction.REQUEST)
    spans(whole, frame, Direction.REQUEST)

    assert before == whole.parse(frame, Direction.REQUEST)
    assert before.message == whole._parse_slowly(frame, Direction.REQUEST, None).message


class TestAnnotated:
    def test_lines(self):
        """
        Each field has a line with its bytes or bits, its name and its value.
        """
        frame = whole.build(Everything(), Direction.REQUEST)
        lines = annotated_text(spans(whole, frame, Direction.REQUEST), frame).split(
            "\n"
        )

        assert "Head" == lines[0]
        assert "0000  50 53                    magic        PS" == lines[1]
        assert "0002  05                       kind         5 (tag)" == lines[2]
        assert lines[3].endswith(f"{len(frame) - 7} (length of body)")
        assert "Everything" == lines[4]
        assert "0005  02                       colour       BLUE (2)" == lines[5]
        assert "0006  001. ....                flags.low    1" == lines[6]
        assert "0006  ...0 0000 0000 010.      flags.wide   2" == lines[7]
        assert "0007  .... ...1                flags.high   True" == lines[8]
        assert "001a  ff ff                    points[0].x  -1 mm" in lines
        assert "001d  00 00                    _gap         (padding)" in lines
        assert lines[-1].startswith(f"{len(frame) - 2:04x}  ")
        assert lines[-1].endswith("(checksum of header to body)")

    def test_fault(self):
        """
        The byte at which the parse ended is marked, and what follows has no names.
        """
        frame = bytes.fromhex("0001 0000 0006 01 03 0000 0000")
        found = spans(modbus.modbus, frame, Direction.REQUEST)

        *_, before, marks, reason = annotated_text(found, frame).split("\n")
        assert before == "000a  00 00                    count        0"
        assert marks == "      ^^"
        assert reason.startswith("ReadHoldingRegisters.count at offset 10: expected")

    def test_fault_at_the_end(self):
        """
        Where bytes are missing, the place behind the last one is marked.
        """
        text = annotated_text(message_spans(Point, b"\1\2"), b"\1\2")

        assert [
            "Point",
            "0000  01 02                    x  258 mm",
            "0002                              (the end)",
            "      ^^",
            "Point.y at offset 2: expected 1 byte (Int8ub), found 0 bytes",
        ] == text.split("\n")

    def test_long_fields(self):
        """
        Of a long field so many lines are shown, and how much more there is.
        """

        class Blob(Message):
            data: bytes = wire(c.GreedyBytes)

        lines = annotated_text(message_spans(Blob, bytes(5000)), bytes(5000)).split(
            "\n"
        )

        assert 34 == len(lines)
        assert "0100  … 4744 more bytes" == lines[-1]

    def test_unknown(self):
        """
        What follows a tag that nobody knows is shown without names.
        """
        frame = bytes.fromhex("0001 0000 0004 01 63 aabb")
        lines = annotated_text(
            spans(modbus.modbus, frame, Direction.REQUEST), frame
        ).split("\n")

        assert "0008  aa bb                                 (not parsed)" == lines[-2]
        assert "modbus: no message has tag 0x63" in lines[-1]

    @relaxed
    @given(from_protocol(dns.dns, Direction.RESPONSE), st.data())
    def test_all_bytes(self, example, drawn):
        """
        Each byte of a frame is shown, whatever is wrong with it.
        """
        frame = bytearray(example.frame)
        for _ in range(drawn.draw(st.integers(0, 3))):
            at = drawn.draw(st.integers(0, len(frame) - 1))
            frame[at] = drawn.draw(st.integers(0, 255))
        frame = bytes(frame)
        shown = set()
        for row in rows_of(spans(dns.dns, frame, Direction.RESPONSE), frame):
            if row.offset is None:
                continue
            size = 2 if "." in row.bytes else len(row.bytes.split())
            if row.bytes.startswith("…"):
                size = int(row.bytes.split()[1])
            shown.update(range(row.offset, row.offset + size))
        assert shown >= set(range(len(frame)))
