"""
Fields of every kind, as they stand in messages.
"""

from __future__ import annotations

import enum

import construct as c
import pytest
from construct import this

from protoserve import (
    Direction,
    InvalidMessageError,
    MalformedMessageError,
    Message,
    Protocol,
    Role,
    Session,
    length_of,
    wire,
)


def both_ways(codec, message, expected):
    """The message has these bytes, and the bytes are this message."""
    assert expected == codec.build(message).hex(" ")
    again = codec.parse(type(message), bytes.fromhex(expected))
    assert message == again
    return again


def refused(codec, cls, data):
    with pytest.raises(MalformedMessageError) as caught:
        codec.parse(cls, bytes.fromhex(data))
    return caught.value


def one(construct):
    """A message of one field."""

    class Holder(Message):
        field: object = wire(construct, kw_only=True)

    return Holder


# Numbers and texts -------------------------------------------------------


@pytest.mark.parametrize(
    ("construct", "value", "data"),
    [
        (c.Int24ub, 0x010203, "01 02 03"),
        (c.Int24ul, 0x010203, "03 02 01"),
        (c.Int24sb, -2, "ff ff fe"),
        (c.Int24sl, -2, "fe ff ff"),
        (c.BytesInteger(6), 1, "00 00 00 00 00 01"),
        (c.BytesInteger(5, signed=True, swapped=True), -1, "ff ff ff ff ff"),
        (c.Int64ul, 1 << 63, "00 00 00 00 00 00 00 80"),
        (c.Float16b, 1.5, "3e 00"),
        (c.Float32l, -2.0, "00 00 00 c0"),
        (c.Float64b, 0.5, "3f e0 00 00 00 00 00 00"),
        (c.VarInt, 300, "ac 02"),
        (c.VarInt, 0, "00"),
        (c.ZigZag, -1, "01"),
        (c.ZigZag, 1, "02"),
        (c.ZigZag, -(1 << 62), "ff ff ff ff ff ff ff ff 7f"),
        (c.Flag, True, "01"),
        (c.PascalString(c.Int8ub, "utf-8"), "žluť", "06 c5 be 6c 75 c5 a5"),
        (c.PascalString(c.VarInt, "cp1250"), "žluť", "04 9e 6c 75 9d"),
        (c.PascalString(c.Int8ub, "shift_jis"), "日本", "04 93 fa 96 7b"),
        (c.PascalString(c.Int16ul, "utf-16-le"), "až", "04 00 61 00 7e 01"),
        (c.CString("utf16"), "a", "ff fe 61 00 00 00"),
        (c.CString("utf32"), "", "00 00 00 00"),
        (c.PaddedString(4, "utf8"), "ab", "61 62 00 00"),
        (c.PaddedString(6, "utf-16-be"), "a", "00 61 00 00 00 00"),
        (c.GreedyString("utf8"), "rest", "72 65 73 74"),
        (c.Prefixed(c.Int8ub, c.GreedyString("koi8-r")), "да", "02 c4 c1"),
        (c.Bytes(3), b"abc", "61 62 63"),
        (c.Hex(c.Int16ub), 0x102, "01 02"),
    ],
)  # fmt: skip
def test_values(codec, construct, value, data):
    """Numbers of all widths, texts in all encodings."""
    both_ways(codec, one(construct)(field=value), data)


def test_cstring_in_two_bytes(codec):
    """The end of a text is looked for at whole characters."""
    cls = one(c.CString("utf-16-le"))
    both_ways(codec, cls(field="a\u0100\u6100"), "61 00 00 01 00 61 00 00")
    assert "terminator" in refused(codec, cls, "61 00 00 01 00").expected


@pytest.mark.parametrize(
    ("construct", "value", "data"),
    [
        (c.Bytes(0), b"", ""),
        (c.Array(0, c.Int8ub), [], ""),
        (c.Array(2, c.Bytes(0)), [b"", b""], ""),
        (c.Array(2, c.Padding(1)), [None, None], "00 00"),
        (c.PrefixedArray(c.Int8ub, c.Padding(2)), [None], "01 00 00"),
        (c.GreedyRange(c.Padding(2)), [None], "00 00"),
        (c.Array(2, c.Const(b"x")), [b"x", b"x"], "78 78"),
        (c.Struct(), {}, ""),
        (c.Pass, None, ""),
    ],
)  # fmt: skip
def test_values_of_no_bytes_and_bytes_of_no_value(codec, construct, value, data):
    """What takes no bytes has its value all the same, and padding is an element."""
    both_ways(codec, one(construct)(field=value), data)

    class Framed(Message):
        before: int = wire(c.Int8ub)
        field: object = wire(c.Prefixed(c.Int8ub, construct), kw_only=True)
        after: int = wire(c.Int8ub, kw_only=True)

    message = Framed(1, field=value, after=2)
    again = codec.parse(Framed, codec.build(message))
    assert (value, 2) == (again.field, again.after)


# Bits --------------------------------------------------------------------


class Flags(Message):
    version: int = wire(c.BitsInteger(3))
    urgent: bool = wire(c.Mapping(c.BitsInteger(1), {False: 0, True: 1}))
    code: int = wire(c.BitsInteger(12))
    whole: int = wire(c.Int8ub)
    low: int = wire(c.Nibble)
    high: int = wire(c.Nibble)


def test_runs_of_bits(codec):
    """Neighbouring bit fields share bytes, and there may be several runs."""
    both_ways(codec, Flags(5, True, 0xABC, 7, 1, 2), "ba bc 07 12")
    error = refused(codec, Flags, "ba")
    assert "Flags" in error.path


def test_bits_that_do_not_fit(codec):
    """A bit field has the range that its bits have."""
    with pytest.raises(InvalidMessageError, match=r"Flags\.version"):
        codec.build(Flags(8, True, 0, 0, 0, 0))
    with pytest.raises(InvalidMessageError, match=r"Flags\.high"):
        codec.build(Flags(7, True, 0, 0, 0, 16))


class AllBits(Message, bits=True):
    sign: int = wire(c.BitsInteger(5, signed=True))
    flag: bool = wire(c.Flag)
    _pad: None = wire(c.Padding(2))
    byte: int = wire(c.Octet)


def test_messages_of_bits(codec):
    """A message may be bits all together."""
    both_ways(codec, AllBits(-1, True, 0x5A), "fc 5a")

    class Holder(Message):
        before: int = wire(c.Int8ub)
        bits: AllBits = wire(AllBits)

    both_ways(codec, Holder(1, AllBits(0, False, 255)), "01 00 ff")


def test_bits_with_enums_and_consts(codec):
    """What stands on bits stands among bit fields."""

    class Packet(Message):
        kind: Color | int = wire(c.BitsInteger(4), enum=Color)
        magic: int = wire(c.Const(1, c.BitsInteger(2)))
        named: object = wire(c.Enum(c.BitsInteger(2), no=0, yes=1))

    both_ways(codec, Packet(Color.GREEN, "yes"), "25")
    assert "Packet.magic" == refused(codec, Packet, "21").path


# Enums -------------------------------------------------------------------


class Color(enum.IntEnum):
    RED = 1
    GREEN = 2


class Word(enum.Enum):
    YES = 1
    NO = 0


class Text(enum.Enum):
    GET = "GET"
    PUT = "PUT"


class Access(enum.IntFlag):
    READ = 1
    WRITE = 2
    ALL = 7


class Plain(enum.Flag):
    A = 1
    B = 2


class Paint(Message):
    color: Color | int = wire(c.Int8ub, enum=Color)


class Strict(Message):
    color: Color = wire(c.Int8ub, enum=Color, strict=True)


def test_tolerant_enum(codec):
    """A known number is a member, an unknown one stays what it is."""
    assert codec.parse(Paint, b"\1").color is Color.RED
    assert codec.parse(Paint, b"\x09").color == 9
    assert not isinstance(codec.parse(Paint, b"\x09").color, Color)
    both_ways(codec, Paint(Color.GREEN), "02")
    both_ways(codec, Paint(200), "c8")
    assert b"\2" == codec.build(Paint(2))


def test_strict_enum(codec):
    """An unknown number is malformed."""
    assert codec.parse(Strict, b"\1").color is Color.RED
    error = refused(codec, Strict, "09")
    assert ("Strict.color", 0) == (error.path, error.offset)
    assert "a Color (RED=1, GREEN=2)" == error.expected
    assert "9" == error.found
    with pytest.raises(InvalidMessageError, match=r"Strict\.color"):
        codec.build(Strict(9))
    assert b"\2" == codec.build(Strict(2))


def test_plain_enum(codec):
    """Members need not be numbers themselves."""

    class Packet(Message):
        word: Word = wire(c.Int16ub, enum=Word)
        verb: Text | str = wire(c.PascalString(c.Int8ub, "ascii"), enum=Text)

    both_ways(codec, Packet(Word.YES, Text.GET), "00 01 03 47 45 54")
    again = codec.parse(Packet, bytes.fromhex("0000 01 58"))
    assert again.word is Word.NO
    assert "X" == again.verb
    with pytest.raises(InvalidMessageError, match=r"Packet\.word"):
        codec.build(Packet("YES", Text.GET))


def test_flags(codec):
    """Flags are taken apart by the enum itself."""

    class Packet(Message):
        access: Access | int = wire(c.Int8ub, enum=Access)

    again = both_ways(codec, Packet(Access.READ | Access.WRITE), "03")
    assert Access.READ in again.access
    assert isinstance(again.access, Access)
    both_ways(codec, Packet(Access(0)), "00")
    both_ways(codec, Packet(0x80), "80")


def test_strict_flags(codec):
    """Bits that no flag has are malformed where the field is strict."""

    class Packet(Message):
        plain: Plain = wire(c.Int8ub, enum=Plain, strict=True)

    assert codec.parse(Packet, b"\3").plain == Plain.A | Plain.B
    both_ways(codec, Packet(Plain.A), "01")
    assert "Packet.plain" == refused(codec, Packet, "04").path


def test_enums_of_construct(codec):
    """Construct's own enums work as they do there."""

    class Packet(Message):
        kind: object = wire(c.Enum(c.Int8ub, one=1, two=2))
        flags: object = wire(c.FlagsEnum(c.Int8ub, a=1, b=2))
        body: object = wire(c.Switch(this.kind, {"one": c.Int8ub, "two": c.Int16ub}))

    again = codec.parse(Packet, bytes.fromhex("02 03 0005"))
    assert "two" == again.kind
    assert 2 == int(again.kind)
    assert again.flags.a
    assert again.flags.b
    assert 5 == again.body
    assert bytes.fromhex("01 02 05") == codec.build(Packet("one", {"b": True}, body=5))
    assert 9 == codec.parse(Packet, b"\x09\0").kind


# What depends on something -----------------------------------------------


class Trailing(Message):
    kind: int = wire(c.Int8ub)
    first: int | None = wire(c.Optional(c.Int16ub), default=None)
    second: int | None = wire(c.Optional(c.Int16ub), default=None)


def test_optional_trailing_fields(codec):
    """What is not there is None, and half of it is an error."""
    both_ways(codec, Trailing(1), "01")
    both_ways(codec, Trailing(1, 2), "01 00 02")
    both_ways(codec, Trailing(1, 2, 3), "01 00 02 00 03")
    error = refused(codec, Trailing, "01 00")
    assert "Trailing.first" == error.path
    error = refused(codec, Trailing, "01 00 02 00")
    assert "Trailing.second" == error.path
    assert "Trailing" == refused(codec, Trailing, "01 0002 0003 00").path


class Leaf(Message):
    size: int = wire(c.Computed(this._.size), init=False)
    data: bytes = wire(c.Bytes(this._.size))
    top: int = wire(c.Computed(this._root.size), init=False)


class Middle(Message):
    size: int = wire(c.Int8ub)
    leaves: list[Leaf] = wire(c.Array(2, Leaf.construct))


class Top(Message):
    size: int = wire(c.Int8ub)
    middle: Middle = wire(Middle)
    above: bytes = wire(c.Struct("x" / c.Bytes(this._.size)))


def test_what_encloses(codec):
    """this._ is what encloses, this._root the outermost."""
    data = bytes.fromhex("01 02 6161 6262 7a")
    top = codec.parse(Top, data)
    assert [b"aa", b"bb"] == [leaf.data for leaf in top.middle.leaves]
    assert [1, 1] == [leaf.top for leaf in top.middle.leaves]
    assert b"z" == top.above.x
    assert data == codec.build(top)


def test_the_element_s_number(codec):
    """this._index counts an array's elements."""
    cls = one(c.Array(3, c.Bytes(this._index)))
    both_ways(codec, cls(field=[b"", b"a", b"bb"]), "61 62 62")

    class Part(Message):
        number: int = wire(c.Computed(this._index), init=False)
        value: int = wire(c.Int8ub)

    parts = codec.parse(one(c.Array(3, Part.construct)), b"\7\7\7").field
    assert [0, 1, 2] == [part.number for part in parts]


class Circle(Message):
    radius: int = wire(c.Int16ub)


class Square(Message):
    side: int = wire(c.Int8ub)


class Shape(Message):
    kind: int = wire(c.Int8ub)
    shape: object = wire(
        c.Switch(this.kind, {1: Circle.construct, 2: Square.construct}, c.GreedyBytes)
    )


def test_switch_to_messages(codec):
    """What is chosen is an instance of its class."""
    both_ways(codec, Shape(1, shape=Circle(5)), "01 00 05")
    both_ways(codec, Shape(2, shape=Square(5)), "02 05")
    both_ways(codec, Shape(3, shape=b"xy"), "03 78 79")
    assert "Shape.shape.radius" == refused(codec, Shape, "01 00").path
    with pytest.raises(InvalidMessageError) as caught:
        codec.build(Shape(1, shape=Square(5)))
    assert "Shape.shape" == caught.value.path
    assert "a Circle" == caught.value.expected


def test_wrappers_of_messages(codec):
    """A message stands inside any of Construct's combinators."""

    class Holder(Message):
        array: list[Square] = wire(c.Array(2, Square.construct))
        prefixed: Square = wire(c.Prefixed(c.Int16ub, Square.construct))
        sized: Square = wire(c.FixedSized(3, Square.construct))
        maybe: Square | None = wire(
            c.If(this.prefixed.side, Square.construct), default=None
        )
        counted: list[Square] = wire(
            c.PrefixedArray(c.Int8ub, Square.construct), factory=list
        )
        tail: list[Square] = wire(c.GreedyRange(Square.construct), factory=list)

    square = Square(7)
    both_ways(
        codec,
        Holder([square, square], square, square, square, [square], [square, square]),
        "07 07 00 01 07 07 00 00 07 01 07 07 07",
    )
    both_ways(
        codec, Holder([square] * 2, Square(0), square), "07 07 00 01 00 07 00 00 00"
    )


def test_mappings_for_messages(codec):
    """A dict of the fields is as good as a message when building."""
    message = Shape(1, shape={"radius": 5})
    assert b"\1\0\5" == codec.build(message)


class Node(Message):
    value: int = wire(c.Int8ub)
    children: list[object] = wire(
        c.PrefixedArray(c.Int8ub, c.LazyBound(lambda: Node.construct)), factory=list
    )


def test_recursion(codec):
    """A message may hold messages of its own class."""
    tree = Node(1, [Node(2), Node(3, [Node(4)])])
    both_ways(codec, tree, "01 02 02 00 03 01 04 00")
    error = refused(codec, Node, "01 02 02 00 03 01 04")
    assert error.path.startswith("Node.children[1].children[0].children")


class Head(Message):
    kind: int = wire(c.Int8ub)
    width: int = wire(c.Int8ub, default=2)
    length: int = wire(c.Int8ub, value=length_of("body"))


class Body(Message):
    number: int = wire(c.BytesInteger(this._.width))
    rest: bytes = wire(c.Bytes(this._.length - this._.width - 1))
    level: int = wire(c.If(this._.session.state, c.Int8ub))


framed = Protocol("framed", header=Head, tag="kind", messages={1: Body})


STATEFUL = {"state": True}
"""What stands in for a session: expressions look its attributes up like this."""


def test_header_and_session():
    """A protocol's message sees its header and the session."""
    body = Body(number=1, rest=b"ab", level=9)
    frame = framed.build(body, Direction.REQUEST, session=STATEFUL)
    assert "01 02 05 00 01 61 62 09" == frame.hex(" ")
    parsed = framed.parse(frame, Direction.REQUEST, session=STATEFUL)
    assert body == parsed.message
    assert (1, 2, 5) == (parsed.header.kind, parsed.header.width, parsed.header.length)


def test_session_of_a_conversation():
    """this._.session is the session itself."""
    session = Session(framed, Role.SERVER, stream=False)
    session.state = 1
    session.receive_data(bytes.fromhex("01 02 05 0001 6162 09"))
    assert 9 == session.next_event().message.level


def test_offsets_in_a_frame():
    """Offsets count from the start of the frame, the header included."""
    with pytest.raises(MalformedMessageError) as caught:
        framed.parse(bytes.fromhex("01 02 05 00"), Direction.REQUEST, session=STATEFUL)
    assert caught.value.path in ("Body.number", "Head.length")
    assert caught.value.header is None or 1 == caught.value.header.kind


def test_header_alone():
    """A frame that ends in its header is malformed."""
    for data in (b"", b"\1", b"\1\2"):
        with pytest.raises(MalformedMessageError) as caught:
            framed.parse(data, Direction.REQUEST)
        assert caught.value.path.startswith("Head.")


def test_hidden_fields(codec):
    """Padding and magic numbers without a name take no attribute."""

    class Packet(Message):
        _magic: bytes = wire(c.Const(b"\xca\xfe"))
        value: int = wire(c.Int8ub)
        _pad: None = wire(c.Padding(2))
        version: int = wire(c.Const(3, c.Int8ub))

    both_ways(codec, Packet(7), "ca fe 07 00 00 03")
    assert "Packet(value=7, version=3)" == repr(Packet(7))
    assert 3 == Packet(7).version
    assert "Packet._magic" == refused(codec, Packet, "cafd 07 0000 03").path
    with pytest.raises(InvalidMessageError, match=r"Packet\.version"):
        codec.build(Packet(7, version=4))


def test_rebuild_and_default(codec):
    """Construct's own values of fields work."""

    class Packet(Message):
        count: int = wire(c.Rebuild(c.Int8ub, c.len_(this.items)))
        kind: int = wire(c.Default(c.Int8ub, 9))
        items: list[int] = wire(c.Array(this.count, c.Int8ub))
        twice: int = wire(c.Computed(this.count * 2))

    message = Packet([1, 2])
    again = both_ways(codec, message, "02 09 01 02")
    assert (2, 9, 4) == (again.count, again.kind, again.twice)


def test_stop_if(codec):
    """Fields behind a StopIf are None."""

    class Packet(Message):
        kind: int = wire(c.Int8ub)
        _stop: None = wire(c.StopIf(this.kind == 0))
        rest: int | None = wire(c.Int16ub, default=None)

    both_ways(codec, Packet(1, 2), "01 00 02")
    both_ways(codec, Packet(0), "00")
    assert "Packet" == refused(codec, Packet, "00 00").path


def test_select(codec):
    """The first alternative that fits is taken; the furthest failure is told."""

    class Packet(Message):
        value: object = wire(
            c.Select(c.Const(b"AB"), c.Prefixed(c.Const(2, c.Int8ub), c.Int16ub))
        )

    assert b"AB" == codec.parse(Packet, b"AB").value
    assert 5 == codec.parse(Packet, b"\2\0\5").value
    assert refused(codec, Packet, "03").path.startswith("Packet.value")
    assert 1 == refused(codec, Packet, "02 00").offset


def test_peek_and_pointer(codec):
    """What looks ahead or elsewhere does not lose its place."""

    class Packet(Message):
        next: int | None = wire(c.Peek(c.Int8ub))
        value: int = wire(c.Int16ub)
        far: int = wire(c.Pointer(1, c.Int8ub))

    message = codec.parse(Packet, b"\1\2")
    assert (1, 0x102, 2) == (message.next, message.value, message.far)


def test_adapters(codec):
    """A user's adapter works, with paths."""

    class Celsius(c.Adapter):
        def _decode(self, obj, context, path):
            return obj / 10

        def _encode(self, obj, context, path):
            return round(obj * 10)

    class Packet(Message):
        celsius: float = wire(Celsius(c.Int16sb))

    both_ways(codec, Packet(-1.5), "ff f1")
    with pytest.raises(InvalidMessageError, match=r"Packet\.celsius"):
        codec.build(Packet(1e9))
    with pytest.raises(InvalidMessageError, match=r"Packet\.celsius"):
        codec.build(Packet("warm"))


def test_lazy_structures_are_eager(codec):
    """What would be parsed later is parsed at once."""

    class Packet(Message):
        lazy: object = wire(c.LazyStruct("a" / c.Int8ub, "b" / c.Const(b"x")))
        array: object = wire(c.LazyArray(2, c.Int8ub))

    message = codec.parse(Packet, b"\1x\2\3")
    assert 1 == message.lazy.a
    assert [2, 3] == list(message.array)
    assert refused(codec, Packet, "01 79 02 03").path.startswith("Packet.lazy.b")


def test_user_construct_classes(codec):
    """A Construct class of the user's own is taken as it is."""

    class Bcd(c.Construct):
        def _parse(self, stream, context, path):
            return int(stream.read(1).hex())

        def _build(self, obj, stream, context, path):
            stream.write(bytes.fromhex(f"{obj:02d}"))
            return obj

        def _sizeof(self, context, path):
            return 1

    class Packet(Message):
        value: int = wire(Bcd())
        after: int = wire(c.Int8ub)

    both_ways(codec, Packet(42, 1), "42 01")
    assert "Packet.value" == refused(codec, Packet, "4f 01").path
    assert "Packet.value" == refused(codec, Packet, "").path
    with pytest.raises(InvalidMessageError, match=r"Packet\.value"):
        codec.build(Packet("x", 1))


def test_bytes_of_a_stated_length():
    """Bytes take as many as another field says, also by an expression of it."""

    class Stated(Message):
        size: int = wire(c.Int8ub)
        plain: bytes = wire(c.Bytes(this.size))
        fewer: bytes = wire(c.Bytes(this.size - 1))
        rest: bytes = wire(c.GreedyBytes)

    data = b"\2abcdef"
    assert Stated(2, b"ab", b"c", b"def") == Stated.parse(data)
    assert data == bytes(Stated(2, b"ab", b"c", b"def"))
