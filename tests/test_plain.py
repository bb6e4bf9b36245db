"""
Messages as plain values and back.
"""

import datetime as dt
import decimal
import enum
import ipaddress
import json
import math
import re
import uuid
from typing import Annotated, Any

import attrs
import construct
import pytest
from construct import (
    Array,
    BitsInteger,
    BitStruct,
    Bytes,
    Const,
    Enum,
    ExprAdapter,
    Flag,
    FlagsEnum,
    Float64b,
    GreedyBytes,
    Hex,
    If,
    Int8ub,
    Int16ub,
    Int32ub,
    LazyBound,
    Mapping,
    PascalString,
    PrefixedArray,
    RawCopy,
    RepeatUntil,
    Select,
    Sequence,
    Struct,
    Switch,
    Union,
    this,
)
from hypothesis import given, settings

from protocols.dns import dns
from protocols.modbus import modbus
from protocols.ntp import ntp
from protoserve import Direction, InvalidMessageError, Message, count_of, wire
from protoserve.plain import PlainError, assign, from_plain, read_value, to_plain
from protoserve.testing import from_protocol


def there_and_back(message, **options):
    text = json.dumps(to_plain(message), allow_nan=False)
    return from_plain(type(message), json.loads(text), **options)


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("protocol", [dns, modbus, ntp], ids=lambda p: p.name)
def test_every_message_survives(protocol, direction):
    """Whatever a protocol's message holds, JSON holds, and gives back."""

    @settings(max_examples=20, deadline=None, derandomize=True, database=None)
    @given(from_protocol(protocol, direction))
    def check(example):
        parsed = protocol.parse(example.frame, direction)
        for message in (example.message, parsed.message, parsed.header):
            assert message == there_and_back(message)

    check()


class Colour(enum.IntEnum):
    RED = 1
    GREEN = 2


class Access(enum.IntFlag):
    READ = 1
    WRITE = 2
    RUN = 4


class Word(enum.Enum):
    YES = b"\x01"
    NO = b"\x02"


class Point(Message):
    x: int = wire(Int8ub)
    y: int = wire(Int8ub, default=0)


class Circle(Message):
    centre: Point = wire(Point)
    radius: float = wire(Float64b, default=1.0)


class Label(Message):
    text: str = wire(PascalString(Int8ub, "utf8"))


class Many(Message):
    """One field of each kind."""

    colour: Colour | int = wire(Int8ub, enum=Colour, default=Colour.RED)
    access: Access = wire(Int8ub, enum=Access, default=Access(0))
    word: Word = wire(Bytes(1), enum=Word, strict=True, default=Word.YES)
    kind: object = wire(Enum(Int8ub, small=1, large=2), default="small")
    flags: object = wire(FlagsEnum(Int8ub, a=1, b=2, c=4), factory=dict)
    number: float = wire(Float64b, default=0.0)
    data: bytes = wire(Bytes(2), default=b"\0\0")
    shapes: list = wire(Array(2, Circle.construct), factory=list)
    address: ipaddress.IPv4Address = wire(
        ExprAdapter(
            Bytes(4),
            lambda obj, _: ipaddress.IPv4Address(obj),
            lambda obj, _: obj.packed,
        ),
        default=ipaddress.IPv4Address("192.0.2.1"),
    )
    time: dt.datetime = wire(
        ExprAdapter(
            Int32ub,
            lambda obj, _: dt.datetime.fromtimestamp(obj, dt.UTC),
            lambda obj, _: int(obj.timestamp()),
        ),
        default=dt.datetime(2024, 2, 29, tzinfo=dt.UTC),
    )
    pair: tuple[int, int] = wire(Array(2, Int16ub), default=(1, 2), converter=tuple)
    inner: object = wire(Struct("a" / Int8ub, "b" / Bytes(1)), factory=dict)
    always: int = wire(Const(7, Int8ub), init=False)


SHAPES = [Circle(Point(1, 2), 2.5), Circle(Point(3))]


@pytest.mark.parametrize(
    ("values", "name", "plain"),
    [
        ({}, "colour", "RED"),
        ({"colour": 9}, "colour", 9),
        ({"access": Access.READ | Access.RUN}, "access", "READ|RUN"),
        ({"access": Access(0)}, "access", 0),
        ({"access": Access(9)}, "access", "READ|8"),
        ({"word": Word.NO}, "word", "NO"),
        ({"kind": "large"}, "kind", "large"),
        ({"kind": 77}, "kind", 77),
        ({"flags": {"b": True}}, "flags", {"a": False, "b": True, "c": False}),
        ({"number": math.inf}, "number", "Infinity"),
        ({"number": -math.inf}, "number", "-Infinity"),
        ({"data": b"\x0a\x0b"}, "data", "0a0b"),
        (
            {},
            "shapes",
            [
                {"centre": {"x": 1, "y": 2}, "radius": 2.5},
                {"centre": {"x": 3, "y": 0}, "radius": 1.0},
            ],
        ),
        ({}, "address", "192.0.2.1"),
        ({}, "time", "2024-02-29T00:00:00+00:00"),
        ({}, "pair", [1, 2]),
        ({"inner": {"a": 1, "b": b"\xff"}}, "inner", {"a": 1, "b": "ff"}),
        ({}, "always", 7),
    ],
)
def test_kinds_of_values(values, name, plain):
    """Each kind of value has a plain form that is read back, from the wire too."""
    values = {"inner": {"a": 0, "b": b"\0"}, "shapes": SHAPES, **values}
    message = Many.parse(bytes(Many(**values)))
    assert plain == to_plain(message)[name]
    again = there_and_back(message)
    assert message == again
    for field in attrs.fields(Many):
        value = getattr(message, field.name)
        if field.name != "shapes":  # Construct has a list class of its own
            assert type(value) is type(getattr(again, field.name))


def test_not_a_number():
    """Not-a-number is text in JSON, and a number again."""
    again = there_and_back(Circle(Point(1), math.nan))
    assert math.isnan(again.radius)


def test_single_values():
    """Values that no message here has are written as text or lists."""
    identity = uuid.UUID(int=5)
    values = [
        (decimal.Decimal("1.50"), "1.50"),
        (identity, str(identity)),
        ({3, 1}, [1, 3]),
        ((1, b"\1"), [1, "01"]),
        (dt.timedelta(seconds=90), 90.0),
        (bytearray(b"\2"), "02"),
        (construct.Container(_io=None, a=1), {"a": 1}),
        (Access.READ, "READ"),
        (None, None),
    ]
    assert [plain for _, plain in values] == [to_plain(value) for value, _ in values]


@pytest.mark.parametrize(
    ("plain", "expected"),
    [
        ({"data": "hex:0a0b"}, b"\x0a\x0b"),
        ({"data": "0a 0b"}, b"\x0a\x0b"),
        ({"data": "text:hi"}, b"hi"),
        ({"colour": "green"}, Colour.GREEN),
        ({"colour": 2}, Colour.GREEN),
        ({"colour": "0x2"}, Colour.GREEN),
        ({"colour": "200"}, 200),
        ({"access": "read|RUN"}, Access.READ | Access.RUN),
        ({"access": 3}, Access.READ | Access.WRITE),
        ({"word": "01"}, Word.YES),
        ({"flags": "a|c"}, {"a": True, "b": False, "c": True}),
        ({"flags": ["b"]}, {"a": False, "b": True, "c": False}),
        ({"number": 2}, 2.0),
        ({"number": "nan"}, "nan"),
    ],
)
def test_what_people_may_write(plain, expected):
    """Names go in any case, numbers in any base, bytes as hex or text."""
    (name,) = plain
    value = getattr(from_plain(Many, plain), name)
    if expected == "nan":
        value = str(value)
    assert expected == value
    assert type(value) is type(expected) or isinstance(expected, dict)


class Chosen(Message):
    """A choice by a sibling, one by the bytes alone, and one by a function."""

    kind: int = wire(Int8ub, default=0)
    by_sibling: object = wire(
        Switch(this.kind, {1: Point.construct, 2: Circle.construct}), default=None
    )
    by_bytes: object = wire(
        Select(Circle.construct, Point.construct, GreedyBytes), default=b""
    )


class Twin(Message):
    x: int = wire(Int8ub)
    y: int = wire(Int8ub, default=5)


class Twins(Message):
    kind: int = wire(Int8ub, default=1)
    one: object = wire(
        Switch(this.kind, {1: Point.construct, 2: Twin.construct}), default=None
    )
    two: object = wire(
        Switch(lambda ctx: ctx.unheard_of, {1: Point.construct, 2: Twin.construct}),
        default=None,
    )


def test_choice_by_a_sibling():
    """The class of a choice's value follows from the field that chooses."""
    for kind, cls in ((1, Point), (2, Twin)):
        message = from_plain(Twins, {"kind": kind, "one": {"x": 1}})
        assert cls is type(message.one)


def test_choice_that_only_bytes_tell():
    """Where only the bytes tell the class, it is named, and must be."""
    message = Twins(1, Point(1), Twin(2))
    assert {"message": "Twin", "x": 2, "y": 5} == to_plain(message)["two"]
    assert {"x": 1, "y": 0} == to_plain(message)["one"]
    assert message == there_and_back(message)
    with pytest.raises(PlainError, match='expected its class as "message", one of'):
        from_plain(Twins, {"one": {"x": 1}, "two": {"x": 1}})


def test_choice_by_shape():
    """What fits one alternative only is that."""
    message = from_plain(Chosen, {"by_bytes": {"centre": {"x": 1}}})
    assert Circle is type(message.by_bytes)
    assert b"\1" == from_plain(Chosen, {"by_bytes": "01"}).by_bytes
    with pytest.raises(PlainError) as caught:
        from_plain(Chosen, {"kind": 2, "by_sibling": {"centre": {"z": 1}}})
    assert "Chosen.by_sibling.centre" == caught.value.path


class Head(Message):
    kind: int = wire(Int8ub)


class Body(Message):
    value: object = wire(Switch(this._.kind, {1: Point.construct, 2: Twin.construct}))


def test_choice_by_the_header():
    """A header that is given decides, too."""
    assert Twin is type(from_plain(Body, {"value": {"x": 1}}, header=Head(2)).value)


class Counted(Message):
    count: int = wire(Int8ub, value=count_of("values"))
    values: list[int] = wire(Array(this.count, Int8ub), factory=list)
    limit: int = wire(Int8ub, default=1, validator=attrs.validators.lt(10))


def test_computed_fields_are_told_and_not_taken():
    """What is filled in on build is shown, and without effect on the way back."""
    message = Counted([1, 2, 3])
    assert {"count": 3, "values": [1, 2, 3], "limit": 1} == to_plain(message)
    assert 1 == from_plain(Counted, {"count": 9, "values": [1]}).count


@pytest.mark.parametrize(
    ("cls", "plain", "path", "expected", "found", "nearest"),
    [
        (Point, {}, "Point.x", "a value (Int8ub)", "none, and no default", None),
        (Point, {"x": 1, "Z": 2}, "Point", "a field of Point (x, y)", "'Z'", None),
        (Many, {"colur": 1}, "Many", "a field of Many", "'colur'", "colour"),
        (Many, {"colour": "gren"}, "Many.colour", "a Colour (RED,", "gren", "GREEN"),
        (Many, {"access": "READ|RU"}, "Many.access", "a Access", "'RU'", "RUN"),
        (Many, {"kind": "smal"}, "Many.kind", "one of small, large", "smal", "small"),
        (Many, {"flags": "a|x"}, "Many.flags", "one of a, b, c", "'x'", None),
        (Many, {"word": "03"}, "Many.word", "a Word (YES=", "'03'", None),
        (Many, {"data": 12}, "Many.data", "bytes, as hex:0a0b", "12", None),
        (Many, {"data": "zz"}, "Many.data", "bytes, as hex:0a0b", "'zz'", None),
        (Many, {"number": "x"}, "Many.number", "a number", "'x'", None),
        (Many, {"number": True}, "Many.number", "a number", "True", None),
        (Many, {"shapes": {}}, "Many.shapes", "a list", "{}", None),
        (Many, {"always": 8}, "Many.always", "7, always", "8", None),
        (Many, {"address": "1.2.3"}, "Many.address", "a IPv4Address", "1.2.3", None),
        (
            Many,
            {"shapes": [{"centre": {"x": "a"}}]},
            "Many.shapes[0].centre.x",
            "an integer in 0..255 (Int8ub)",
            "'a'",
            None,
        ),
        (Many, {"shapes": [3]}, "Many.shapes[0]", "the fields of a Circle", "3", None),
        (Point, {"x": 1.5}, "Point.x", "an integer in 0..255", "1.5", None),
        (Point, {"x": False}, "Point.x", "an integer in 0..255", "False", None),
        (Label, {"text": 1.5}, "Label.text", "text", "1.5", None),
        (Many, {"inner": {"c": 1}}, "Many.inner", "one of a, b", "'c'", None),
        (Counted, {"limit": 10}, "Counted.limit", "checks accept", "10", None),
    ],
)
def test_errors(cls, plain, path, expected, found, nearest):
    """What is wrong is told with its path, what was expected and what was found."""
    with pytest.raises(PlainError) as caught:
        from_plain(cls, plain)
    error = caught.value
    assert path == error.path
    assert expected in error.expected
    assert found in error.found
    assert nearest == error.nearest
    assert "\n" not in str(error)
    assert isinstance(error, InvalidMessageError)


def test_text_is_text():
    """A whole number is text where text is wanted."""
    assert "7" == from_plain(Label, {"text": 7}).text


def test_left_out():
    """What a condition leaves out is null."""

    class Optional(Message):
        has: int = wire(Int8ub)
        value: int | None = wire(If(this.has, Int8ub), default=None)

    assert {"has": 0, "value": None} == to_plain(Optional(0))
    assert Optional(0) == there_and_back(Optional(0))
    assert Optional(1, 2) == there_and_back(Optional(1, 2))


def test_lists_of_what_only_an_adapter_knows():
    """Values without an annotation are found by their bytes."""

    class Seen(Message):
        at: object = wire(
            Array(
                1,
                ExprAdapter(
                    Bytes(4),
                    lambda obj, _: ipaddress.IPv4Address(obj),
                    lambda obj, _: obj.packed,
                ),
            )
        )
        share: object = wire(
            ExprAdapter(
                Int8ub, lambda obj, _: obj / 10, lambda obj, _: round(obj * 10)
            ),
            default=0.5,
        )

    message = Seen([ipaddress.IPv4Address("192.0.2.7")])
    assert message == there_and_back(message)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("-1.5", -1.5),
        ("true", True),
        ("null", None),
        ('"7"', "7"),
        ('{"a": [1]}', {"a": [1]}),
        ("hex:0a", "hex:0a"),
        ("0x10", "0x10"),
        ("www.example.test", "www.example.test"),
        ("NaN", "NaN"),
        ("", ""),
        ("[" * 100_000, "[" * 100_000),
        ("1" * 5000, "1" * 5000),
    ],
)
def test_read_value(text, value):
    """What is JSON is read as JSON; all else is text."""
    assert value == read_value(text)


def test_assign():
    """Dots go into messages, numbers into lists, which grow at their end."""
    fields = {}
    for path, value in [
        ("id", 1),
        ("questions.0.name", "a"),
        ("questions.0.type", "MX"),
        ("questions.1.name", "b"),
        ("values.0", 5),
        ("values.1", 6),
        ("values.0", 7),
    ]:
        assign(fields, path, value)
    questions = [{"name": "a", "type": "MX"}, {"name": "b"}]
    assert {"id": 1, "questions": questions, "values": [7, 6]} == fields


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("list.2", "list: expected the number of an element, 0 to 1, found '2'"),
        ("new.1.x", "new: expected the number of an element, 0, found '1'"),
        ("list.name", "list: expected the number of an element, 0 to 1, found 'name'"),
        ("id.x", "id: expected fields, to set 'x' in, found 1"),
        ("a..b", "a: expected names joined by single dots, found an empty name"),
        ("", "path: expected names joined by single dots, found an empty name"),
    ],
)
def test_assign_errors(path, message):
    """A path that leads nowhere is told."""
    with pytest.raises(PlainError) as caught:
        assign({"id": 1, "list": [1]}, path, 1)
    assert message == str(caught.value)


@attrs.frozen
class Pair:
    one: Colour
    two: int = attrs.field(default=0, validator=attrs.validators.ge(0))


def holding(annotation, value):
    """Make a message whose only field holds one value, known to its adapter alone."""
    known = ExprAdapter(
        Int8ub, lambda _obj, _: value, lambda obj, _: [value].index(obj)
    )
    return type(Message)(
        "Holding",
        (Message,),
        {
            "__annotations__": {"held": annotation},
            "__module__": __name__,
            "held": wire(known),
        },
    )


ANNOTATED = [
    (dict[str, Access], {"a": Access.READ}, {"a": "READ"}),
    (set[int], {1, 2}, [1, 2]),
    (frozenset[bytes], frozenset({b"\1"}), ["01"]),
    (tuple[Colour, str], (Colour.RED, "x"), ["RED", "x"]),
    (tuple[int, ...], (1, 2, 3), [1, 2, 3]),
    (list[Point], [Point(1)], [{"x": 1, "y": 0}]),
    (Pair, Pair(Colour.RED), {"one": "RED", "two": 0}),
    (Point | None, Point(1, 2), {"x": 1, "y": 2}),
    (int | Colour, Colour.GREEN, "GREEN"),
    (Annotated[bool, "a note"], True, True),
    (float, 2.5, 2.5),
    (int, 7, 7),
    (bytes, b"ab", "6162"),
    (dt.timedelta, dt.timedelta(seconds=5), 5.0),
    (decimal.Decimal, decimal.Decimal("1.5"), "1.5"),
    (object, dt.date(2024, 2, 29), "2024-02-29"),
    (Any, [b"\1\2"], ["0102"]),
]


@pytest.mark.parametrize(("annotation", "value", "plain"), ANNOTATED)
def test_annotations_tell_what_adapters_keep_to_themselves(annotation, value, plain):
    """A value that only an adapter knows is read by the field's annotation."""
    cls = holding(annotation, value)
    assert plain == to_plain(cls(value))["held"]
    again = there_and_back(cls(value)).held
    assert value == again
    assert type(value) is type(again)


@pytest.mark.parametrize(
    ("annotation", "plain", "expected"),
    [
        (dict[str, int], 5, "values by name"),
        (dict[str, int], {"a": "b"}, "Holding.held.a: expected a whole number"),
        (list[int], 5, "a list"),
        (tuple[int, int], [1], "a list of 2, found one of 1"),
        (list[bool], [1], "Holding.held[0]: expected true or false"),
        (Pair, {"one": "RED", "tow": 1}, "did you mean two?"),
        (Pair, 5, "the fields of a Pair, by name"),
        (Pair, {"one": "RED", "two": -1}, "values that Pair accepts"),
        (int | Colour, "BLEU", "a whole number, found 'BLEU'"),
        (Colour, 9, "a Colour, found 9"),
        (float, "x", "a number"),
        (dt.datetime, "yesterday", "a datetime"),
        (Point, 7, "the fields of a Point"),
    ],
)
def test_annotated_errors(annotation, plain, expected):
    """What is not of the annotated type is told."""
    with pytest.raises(PlainError, match=re.escape(expected)):
        from_plain(holding(annotation, None), {"held": plain})


class Shapes(Message):
    """Fields of the rarer constructs."""

    pairs: object = wire(Sequence(Int8ub, Bytes(1)))
    copied: object = wire(RawCopy(Int16ub))
    either: object = wire(Union(0, "number" / Int16ub, "bytes" / Bytes(2)))
    later: object = wire(LazyBound(lambda: Int8ub))
    hexed: object = wire(Hex(Int16ub))
    yes: object = wire(Flag)
    half: object = wire(construct.Float16b)
    counted: object = wire(PrefixedArray(Int8ub, Point.construct))
    until: object = wire(RepeatUntil(lambda x, _lst, _ctx: x == 0, Int8ub))
    mapped: object = wire(Mapping(Int8ub, {"on": 1, "off": 0}))
    valid: object = wire(construct.OneOf(Int8ub, [1, 2]))
    summed: object = wire(construct.Rebuild(Int8ub, this.valid))
    bits: object = wire(BitStruct("a" / BitsInteger(3), "b" / BitsInteger(5)))
    zig: object = wire(construct.ZigZag)
    text: object = wire(construct.PaddedString(4, "utf8"))


def test_rarer_constructs():
    """Whatever Construct has can be written and read."""
    data = bytes.fromhex(
        "0102 0304 0506 07 0008 01 3e00 01 0102 0500 01 02 02 2a 05 61620000"
    )
    message = Shapes.parse(data)
    assert {
        "pairs": [1, "02"],
        "copied": {
            "data": "0304",
            "value": 772,
            "offset1": 2,
            "offset2": 4,
            "length": 2,
        },
        "either": {"number": 1286, "bytes": "0506"},
        "later": 7,
        "hexed": 8,
        "yes": True,
        "half": 1.5,
        "counted": [{"x": 1, "y": 2}],
        "until": [5, 0],
        "mapped": "on",
        "valid": 2,
        "summed": 2,
        "bits": {"a": 1, "b": 10},
        "zig": -3,
        "text": "ab",
    } == to_plain(message)
    again = there_and_back(message)
    assert message == again
    assert data == bytes(again)


@pytest.mark.parametrize(
    ("field", "plain", "expected"),
    [
        ("pairs", [1], "a list of 2, found one of 1"),
        ("yes", 5, "true or false"),
        ("mapped", "onn", "did you mean on?"),
        ("until", 5, "a list"),
        ("copied", 5, "the fields of a copy with its bytes, by name"),
        ("zig", "x", "a value that ZigZag can hold, found 'x'"),
        ("bits", {"c": 1}, "one of a, b"),
    ],
)
def test_rarer_errors(field, plain, expected):
    """What does not fit the rarer constructs is told."""
    values = to_plain(Shapes.parse(bytes.fromhex(
        "0102 0304 0506 07 0008 01 3e00 01 0102 0500 01 02 02 2a 05 61620000"
    )))  # fmt: skip
    with pytest.raises(PlainError, match=re.escape(expected)):
        from_plain(Shapes, {**values, field: plain})
