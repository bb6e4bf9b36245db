"""
Every failure is one kind of error, which says what is wrong and where.
"""

from __future__ import annotations

import copy
import pickle
import struct

import construct as c
import pytest
from construct import this

from protoserve import InvalidMessageError, MalformedMessageError, Message, wire
from protoserve.codec.explain import guess, hexdump


class Sample(Message):
    kind: int = wire(c.Int8ub)
    value: int = wire(c.Int16ub)


class Reading(Message):
    device: int = wire(c.Int32ub)
    count: int = wire(c.Int8ub)
    samples: list[Sample] = wire(c.Array(this.count, Sample.construct))


def refused(codec, cls, data):
    with pytest.raises(MalformedMessageError) as caught:
        codec.parse(cls, bytes.fromhex(data) if isinstance(data, str) else data)
    return caught.value


def one(construct):
    """A message of one field behind two bytes."""

    class Holder(Message):
        before: int = wire(c.Int16ub)
        field: object = wire(construct, kw_only=True)

    return Holder


def test_path_has_the_index(codec):
    """An element of an array is named by its number."""
    error = refused(codec, Reading, "00000007 03 01 0001 02 0002 03 00")
    assert "Reading.samples[2].value" == error.path
    assert 12 == error.offset


def test_expected_and_found(codec):
    """What is missing is said in bytes."""
    error = refused(codec, Reading, "00000007 03 01 0001 02 0002 03 00")
    assert "2 bytes" in error.expected
    assert "1 byte" == error.found


def test_excerpt_has_a_caret(codec):
    """The excerpt points to the byte."""
    error = refused(codec, Reading, "00000007 03 01 0001 02 0002 03 00")
    *_, bytes_line, caret_line = error.excerpt.splitlines()
    assert "00 00 00 07 03 01 00 01  02 00 02 03 00" in bytes_line
    assert bytes_line.index("03 00 ") + 3 == caret_line.index("^")


def test_sentence(codec):
    """The text says all of it."""
    error = refused(codec, Reading, "00000007 01 01")
    assert str(error).startswith("Reading.samples[0].value at offset 6: expected ")
    assert error.excerpt in str(error)


@pytest.mark.parametrize("cut", range(11))
def test_cut_anywhere(codec, cut):
    """A message that ends early is refused wherever it ends."""
    whole = bytes.fromhex("00000007 02 01 0001 02 0002")
    error = refused(codec, Reading, whole[:cut])
    assert 0 <= error.offset <= cut


def test_more_bytes(codec):
    """What is left over is refused, where it starts."""
    error = refused(codec, Reading, "00000007 00 ff ff")
    assert ("Reading", 5) == (error.path, error.offset)
    assert "2 more bytes" == error.found


def test_guess(codec):
    """Another protocol's bytes are told as such."""
    error = refused(codec, Sample, b"GET / HTTP/1.1\r\n\r\n")
    assert "an HTTP request" == error.guess
    assert "look like an HTTP request" in str(error)


INNER = c.Struct("a" / c.Int8ub, "b" / c.Const(b"\x07"))


@pytest.mark.parametrize(
    ("construct", "data", "offset", "path"),
    [
        (INNER, "0000 01 08", 3, "field.b"),
        (c.Prefixed(c.Int8ub, INNER), "0000 02 01 08", 4, "field.b"),
        (c.Prefixed(c.Int8ub, c.GreedyRange(INNER)), "0000 04 0107 0108", 6, "field[1].b"),
        (c.FixedSized(2, INNER), "0000 01 08", 3, "field.b"),
        (c.Prefixed(c.Int8ub, c.Prefixed(c.Int8ub, INNER)), "0000 03 02 01 08", 5, "field.b"),
        (c.BitStruct("a" / c.BitsInteger(12), "b" / c.Const(1, c.Nibble)), "0000 0000", 3, "field.b"),
        # Swapped bytes have no offset of their own; the field's start is told.
        (c.ByteSwapped(INNER), "0000 08 01", 2, "field.b"),
        (c.NullTerminated(INNER), "0000 01 08 00", 3, "field.b"),
        (c.Array(3, INNER), "0000 0107 0107 0108", 7, "field[2].b"),
        (c.PrefixedArray(c.Int8ub, INNER), "0000 02 0107 0108", 6, "field[1].b"),
        (c.Sequence(c.Int8ub, INNER), "0000 00 01 08", 4, "field"),
        (c.RepeatUntil(lambda v, _l, _c: v.a == 0, INNER), "0000 0107 0009", 5, "field[1].b"),
        (c.Switch(this.before, {0: INNER}), "0000 01 08", 3, "field.b"),
        (c.If(this.before == 0, INNER), "0000 01 08", 3, "field.b"),
        (c.LazyBound(lambda: INNER), "0000 01 08", 3, "field.b"),
        (c.Compressed(c.Struct("x" / c.Int64ub, "y" / c.Int64ub), "zlib"), "0000 789c030000000001", 2, "field"),
    ],
)  # fmt: skip
def test_offsets_count_from_the_start(codec, construct, data, offset, path):
    """Offsets are absolute, inside whatever the field is."""
    error = refused(codec, one(construct), data)
    assert error.path.startswith(f"Holder.{path}")
    assert offset == error.offset


@pytest.mark.parametrize(
    ("construct", "data", "expected", "found"),
    [
        (c.Const(b"MA"), "0000 4d42", "b'MA'", "b'MB'"),
        (c.Const(5, c.Int8ub), "0000 06", "5", "6"),
        (c.Bytes(4), "0000 01", "4 bytes", "1 byte"),
        (c.Int24ub, "0000 01", "3 bytes (Int24ub)", "1 byte"),
        (c.OneOf(c.Int8ub, [1]), "0000 09", "declared check", "9"),
        (c.Mapping(c.Int8ub, {"a": 1}), "0000 09", "Mapping", "9"),
        (c.PascalString(c.Int8ub, "utf8"), "0000 01 ff", "utf8", "ff"),
        (c.CString("ascii"), "0000 41", "terminator", "1 other byte"),
        (c.Prefixed(c.Int8ub, c.Int8ub), "0000 02 01 01", "prefix", "1 more byte"),
        (c.Prefixed(c.Int8ub, c.GreedyBytes), "0000 09 01", "9 bytes", "1 byte"),
        (c.Array(c.this.before - 1, c.Int8ub), "0000", "0 or more elements", "-1"),
        (c.Struct(c.Check(False)), "0000", "check", "fails"),
        (c.Struct("t" / c.Terminated), "0000 01", "end", "more"),
    ],
)
def test_what_was_expected(codec, construct, data, expected, found):
    """What should have been there, and what was."""
    error = refused(codec, one(construct), data)
    assert expected in error.expected
    assert found in error.found.replace("\\x", "")


def _raises(error):
    def function(*_):
        raise error

    return function


# (StopFieldError and CancelParsing are how Construct ends a structure on purpose.)
ERRORS = [
    KeyError("gone"),
    ZeroDivisionError("division"),
    RecursionError("deep"),
    UnboundLocalError("x"),
    struct.error("unpack"),
    AttributeError("a"),
    IndexError("i"),
    TypeError("t"),
    ValueError("v"),
    OverflowError("o"),
    MemoryError("m"),
    AssertionError("a"),
    StopIteration("s"),
    c.ConstructError("c"),
    c.ExplicitError("e"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(
    "construct",
    [
        lambda fail: c.ExprAdapter(c.Int8ub, fail, fail),
        lambda fail: c.ExprValidator(c.Int8ub, fail),
        lambda fail: c.Array(2, c.ExprAdapter(c.Int8ub, fail, fail)),
        lambda fail: c.Prefixed(c.Int8ub, c.GreedyRange(c.ExprAdapter(c.Int8ub, fail, fail))),
    ],
)  # fmt: skip
def test_leaks_of_adapters(codec, error, construct):
    """Whatever an adapter raises is one error, with the field's path."""
    cls = one(construct(_raises(error)))
    told = refused(codec, cls, "0000 02 01 01")
    assert told.path.startswith("Holder.field")
    value = [1, 1] if "Array" in repr(construct(_raises(error))) else 1
    with pytest.raises(InvalidMessageError) as caught:
        codec.build(cls(0, field=value))
    assert caught.value.path.startswith("Holder.field")


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(
    "construct",
    [
        c.Bytes,
        lambda fail: c.Array(fail, c.Int8ub),
        lambda fail: c.Switch(fail, {0: c.Int8ub}),
        lambda fail: c.If(fail, c.Int8ub),
        lambda fail: c.FixedSized(fail, c.Int8ub),
        lambda fail: c.Padded(fail, c.Int8ub),
        lambda fail: c.Struct(c.Check(fail)),
        lambda fail: c.Optional(c.Struct("a" / c.Int8ub, "b" / c.Array(fail, c.Int8ub))),
    ],
)  # fmt: skip
def test_leaks_of_expressions(codec, error, construct):
    """Whatever an expression raises is one error, with the field's path."""
    cls = one(construct(_raises(error)))
    assert refused(codec, cls, "0000 01 01").path.startswith("Holder")
    with pytest.raises(InvalidMessageError) as caught:
        codec.build(cls(0, field=b"\0"))
    assert caught.value.path.startswith("Holder")


def test_division_by_a_field(codec):
    """A number from the wire may be any number."""
    cls = one(c.Array(6 // this.before, c.Int8ub))
    error = refused(codec, cls, "0000 01")
    assert "Holder.field" == error.path
    assert "ZeroDivisionError" in error.found


def test_a_name_that_is_not_there(codec):
    """A message that refers to its header cannot be parsed alone, and says so."""
    error = refused(codec, one(c.Bytes(this._.size)), "0000 01")
    assert "'size'" in error.expected
    assert "Protocol" in error.found


class Node(Message):
    more: int = wire(c.Int8ub)
    inner: object = wire(c.If(this.more, c.LazyBound(lambda: Node.construct)))


def test_recursion(codec):
    """Deep nesting is refused by a cap, not by the interpreter's stack."""
    error = refused(codec, Node, b"\x01" * 100_000)
    assert "levels of nesting" in error.expected


def test_building_too_deep(codec):
    """What is too deep to be built is told as such."""
    node = Node(0, inner=None)
    for _ in range(3_000):
        node = Node(1, inner=node)
    with pytest.raises(InvalidMessageError):
        codec.build(node)


@pytest.mark.parametrize(
    ("construct", "value", "expected"),
    [
        (c.Int8ub, 256, "an integer in 0..255 (Int8ub)"),
        (c.Int8sb, 128, "an integer in -128..127 (Int8sb)"),
        (c.Int16ub, -1, "an integer in 0..65535 (Int16ub)"),
        (c.Int16ub, "1", "an integer in 0..65535 (Int16ub)"),
        (c.Int16ub, None, "an integer in 0..65535 (Int16ub)"),
        (c.Int16ub, 1.5, "an integer in 0..65535 (Int16ub)"),
        (c.Float32b, "x", "a number (Float32b)"),
        (c.Int24ub, 1 << 24, "Int24ub"),
        (c.Int24ub, None, "Int24ub"),
        (c.VarInt, -1, "VarInt"),
        (c.VarInt, None, "VarInt"),
        (c.Bytes(2), b"abc", "2 bytes"),
        (c.Bytes(2), None, "2 bytes"),
        (c.Bytes(2), "ab", "2 bytes"),
        (c.GreedyBytes, None, "GreedyBytes"),
        (c.Array(2, c.Int8ub), [1], "2 elements"),
        (c.Array(2, c.Int8ub), None, "list"),
        (c.CString("ascii"), "é", "CString"),
        (c.PascalString(c.Int8ub, "utf8"), b"bytes", "text"),
        (c.PascalString(c.Int8ub, "utf8"), "x" * 300, "0..255"),
        (c.PaddedString(3, "utf8"), "long text", "3"),
        (c.Struct("a" / c.Int8ub), {}, "a value"),
        (c.Struct("a" / c.Int8ub), 7, "a mapping"),
        (Sample.construct, 7, "a Sample"),
        (c.Mapping(c.Int8ub, {"a": 1}), "b", "Mapping"),
        (c.Enum(c.Int8ub, a=1), "b", "Enum"),
        (c.OneOf(c.Int8ub, [1]), 2, "check"),
    ],
)
def test_what_can_be_built(codec, construct, value, expected):
    """A value that does not fit names its field and what would fit."""
    with pytest.raises(InvalidMessageError) as caught:
        codec.build(one(construct)(0, field=value))
    assert caught.value.path.startswith("Holder.field")
    assert isinstance(caught.value, ValueError)


def test_what_would_fit(codec):
    """The range of an integer is told, and the value."""
    with pytest.raises(InvalidMessageError) as caught:
        codec.build(Reading(7, 2, [Sample(1, 2), Sample(1, 70_000)]))
    error = caught.value
    assert "Reading.samples[1].value" == error.path
    assert "an integer in 0..65535 (Int16ub)" == error.expected
    assert "70000" == error.found


def test_missing_attribute(codec):
    """A message that lost a field is refused when it is built."""
    sample = Sample(1, 2)
    del sample.value
    with pytest.raises(InvalidMessageError, match="value"):
        codec.build(sample)


def test_interrupts_pass(codec):
    """Ctrl-C is no malformed message."""
    cls = one(c.ExprAdapter(c.Int8ub, _raises(KeyboardInterrupt()), None))
    with pytest.raises(KeyboardInterrupt):
        codec.parse(cls, b"\0\0\0")


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_can_be_parsed(codec, kind):
    """Anything with bytes in it."""
    assert Sample(1, 2) == codec.parse(Sample, kind(b"\1\0\2"))


def test_memoryview_of_words(codec):
    """A memoryview's bytes count, whatever its items are."""
    view = memoryview(b"\1\0\2\1\0\2").cast("H")
    with pytest.raises(MalformedMessageError, match="3 more bytes"):
        codec.parse(Sample, view)


@pytest.mark.parametrize("data", ["text", None, 7, [1, 2]])
def test_what_cannot_be_parsed(codec, data):
    """What has no bytes is refused, too."""
    with pytest.raises((MalformedMessageError, TypeError)):
        codec.parse(Sample, data)


def test_errors_are_values(codec):
    """An error survives a pickle and a copy, as between worker processes."""
    error = refused(codec, Reading, "00")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert str(error) == str(again)
        assert error.path == again.path


def test_hexdump():
    """The caret is under the byte, at the end of the data and in a second row."""
    data = bytes(range(40))
    assert hexdump(data, 17).splitlines() == [
        "0000  00 01 02 03 04 05 06 07  08 09 0a 0b 0c 0d 0e 0f  |................|",
        "0010  10 11 12 13 14 15 16 17  18 19 1a 1b 1c 1d 1e 1f  |................|",
        "         ^^",
    ]
    assert hexdump(b"ab", 2).splitlines()[-1] == "            ^^"
    assert hexdump(data, 39).splitlines()[0].startswith("0000")
    assert hexdump(data, 24).splitlines()[-1] == " " * 31 + "^^"


@pytest.mark.parametrize(
    ("data", "noun"),
    [
        (b"PRI * HTTP/2.0", "the HTTP/2 preface"),
        (b"HTTP/1.1 200", "an HTTP response"),
        (b"SSH-2.0-x", "an SSH banner"),
        (b"\x16\x03\x01\x00", "a TLS hello"),
        (b"PROXY TCP4", "a PROXY protocol header"),
        (b"hello", "text"),
        (b"\x00\x01", None),
        (b"", None),
    ],
)
def test_guesses(data, noun):
    """What people send by mistake."""
    assert noun == guess(data)


class Word(c.Construct):
    """A Construct class of one's own that tells the place itself."""

    def _parse(self, stream, context, path):
        start = stream.tell()
        data = stream.read()
        if b" " in data:
            at = start + data.index(b" ")
            raise MalformedMessageError(f"{path}.blank", at, "a letter", "a blank")
        return data


def test_a_construct_tells_the_place_itself(codec):
    """What a construct says of a place inside of its bytes is not changed."""
    error = refused(codec, one(Word()), b"\x00\x00ab c")
    assert "Holder.field.blank" == error.path
    assert (4, "a letter", "a blank") == (error.offset, error.expected, error.found)
    assert error.excerpt


def test_text_is_no_wonder_to_who_reads_it(codec):
    """A construct that tells the place itself knows that its bytes are text."""
    assert refused(codec, one(Word()), b"abcd efgh").guess is None
    assert "text" == refused(codec, one(c.Int16ub), b"abcd efgh").guess
