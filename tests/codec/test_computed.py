"""
Lengths, counts and checksums: filled in, checked, whatever they speak of.
"""

from __future__ import annotations

import zlib

import construct as c
import pytest
from construct import this

from protoserve import (
    DeclarationError,
    InvalidMessageError,
    MalformedMessageError,
    Message,
    checksum_of,
    checksums,
    count_of,
    length_of,
    wire,
)


def hexed(codec, message):
    return codec.build(message).hex(" ")


def both_ways(codec, message, expected):
    """The message has these bytes, and the bytes are this message."""
    assert expected == hexed(codec, message)
    again = codec.parse(type(message), bytes.fromhex(expected))
    assert message == again
    assert repr(message) == repr(again)
    return again


def refused(codec, cls, data):
    with pytest.raises(MalformedMessageError) as caught:
        codec.parse(cls, bytes.fromhex(data))
    return caught.value


class Blob(Message):
    size: int = wire(c.Int16ub, value=length_of("data"))
    data: bytes = wire(c.Bytes(this.size))


def test_length(codec):
    """A length is filled in and checked."""
    again = both_ways(codec, Blob(b"abc"), "00 03 61 62 63")
    assert 3 == again.size


def test_length_of_what_is_not_built_yet():
    """A computed field can be read before the message was ever built."""
    assert 3 == Blob(b"abc").size
    message = Blob(b"abc")
    message.data = b"abcdef"
    assert 6 == message.size


def test_length_follows_changes(codec):
    """What was parsed and then changed builds to the new length."""
    message = codec.parse(Blob, b"\0\1x")
    message.data = b"abcd"
    assert b"\0\4abcd" == codec.build(message)


def test_length_that_does_not_fit(codec):
    """A length that its field cannot hold is refused."""

    class Short(Message):
        size: int = wire(c.Int8ub, value=length_of("data"))
        data: bytes = wire(c.Bytes(this.size))

    assert b"\xff" + bytes(255) == codec.build(Short(bytes(255)))
    with pytest.raises(InvalidMessageError) as caught:
        codec.build(Short(bytes(256)))
    assert "Short.size" == caught.value.path
    assert "0..255" in caught.value.expected


def test_length_of_a_span_with_itself(codec):
    """A length may count itself, what is before it and something else."""

    class Packet(Message):
        kind: int = wire(c.Int8ub)
        length: int = wire(c.Int16ul, value=length_of("kind", "body", plus=4))
        body: bytes = wire(c.Bytes(this.length - 7))

    both_ways(codec, Packet(9, b"xy"), "09 09 00 78 79")
    assert "Packet" in refused(codec, Packet, "09 0a 00 78 79").path
    assert "0 or more" in refused(codec, Packet, "09 00 00").expected or True


def test_length_less_something(codec):
    """A length may leave bytes out."""

    class Packet(Message):
        length: int = wire(c.Int8ub, value=length_of("body", plus=-1))
        body: bytes = wire(c.Bytes(this.length + 1))

    both_ways(codec, Packet(b"x"), "00 78")
    with pytest.raises(InvalidMessageError, match="length"):
        codec.build(Packet(b""))


def test_length_in_words(codec):
    """A length may count words."""

    class Options(Message):
        words: int = wire(c.Int8ub, value=length_of("words", "data", unit=4, plus=4))
        data: bytes = wire(c.Bytes(this.words * 4 - 5))

    both_ways(codec, Options(b"abc"), "02 61 62 63")
    with pytest.raises(InvalidMessageError) as caught:
        codec.build(Options(b"abcd"))
    assert "Options.words" == caught.value.path
    assert "units of 4 bytes" in caught.value.expected
    assert "5 bytes" in caught.value.found


def test_a_length_that_nothing_obeys_is_checked(codec):
    """A length is compared with its span even where nothing is sized by it."""

    class Packet(Message):
        length: int = wire(c.Int8ub, value=length_of("a", "b"))
        a: int = wire(c.Int16ub)
        b: str = wire(c.CString("ascii"))

    both_ways(codec, Packet(1, "x"), "04 00 01 78 00")
    error = refused(codec, Packet, "05 00 01 78 00")
    assert ("Packet.length", 0) == (error.path, error.offset)
    assert error.expected.startswith("4 (")
    assert "the length of a to b" in error.expected
    assert "5" == error.found


def test_length_in_the_middle_and_behind(codec):
    """A length may stand anywhere."""

    class Packet(Message):
        data: bytes = wire(c.Prefixed(c.Int8ub, c.GreedyBytes))
        length: int = wire(c.Int8ub, value=length_of("data"))
        more: int = wire(c.Int8ub)

    both_ways(codec, Packet(b"ab", 7), "02 61 62 03 07")
    assert "Packet.length" == refused(codec, Packet, "02 61 62 02 07").path


def test_fixed_sized_by_a_length(codec):
    """What is limited by a pending length takes its natural size."""

    class Packet(Message):
        length: int = wire(c.Int8ub, value=length_of("parts"))
        parts: list[int] = wire(c.FixedSized(this.length, c.GreedyRange(c.Int16ub)))
        last: int = wire(c.Int8ub)

    both_ways(codec, Packet([1, 2], 9), "04 00 01 00 02 09")
    assert "Packet.parts" in refused(codec, Packet, "03 00 01 00 09").path


def test_nested_lengths(codec):
    """Messages inside others have lengths of their own."""

    class Outer(Message):
        total: int = wire(c.Int8ub, value=length_of("count", "blobs"))
        count: int = wire(c.Int8ub, value=count_of("blobs"))
        blobs: list[Blob] = wire(c.Array(this.count, Blob.construct))

    both_ways(codec, Outer([Blob(b"a"), Blob(b"")]), "06 02 00 01 61 00 00")
    error = refused(codec, Outer, "05 02 00 01 61 00 00")
    assert "Outer.total" == error.path


def test_length_of_a_sibling_in_what_encloses(codec):
    """A nested message may be sized by what encloses it."""

    class Inner(Message):
        data: bytes = wire(c.Bytes(this._.size - 1))
        kind: int = wire(c.Int8ub)

    class Outer(Message):
        size: int = wire(c.Int8ub, value=length_of("inner"))
        inner: Inner = wire(Inner)

    both_ways(codec, Outer(Inner(b"ab", 3)), "03 61 62 03")


def test_length_of_what_is_in_front(codec):
    """Behind its span a length is a number like any other."""

    class Attribute(Message):
        size: int = wire(c.Int8ub, value=length_of("data"))
        data: bytes = wire(c.Bytes(this.size))
        padding: None = wire(c.Padding(-this.size % 4))
        flag: int | None = wire(c.If(this.size > 4, c.Int8ub))
        end: int = wire(c.Int8ub)

    both_ways(codec, Attribute(b"", None, 7), "00 07")
    both_ways(codec, Attribute(b"abc", None, 7), "03 61 62 63 00 07")
    both_ways(codec, Attribute(b"abcde", 1, 7), "05 61 62 63 64 65 00 00 00 01 07")

    class Counted(Message):
        total: int = wire(c.Int8ub, value=length_of("total", "data", unit=2))
        data: bytes = wire(c.Bytes(this.total * 2 - 1))
        padding: None = wire(c.Padding(-this.total % 4))

    both_ways(codec, Counted(b"a"), "01 61 00 00 00")

    class Varying(Message):
        size: int = wire(c.VarInt, value=length_of("data"))
        data: bytes = wire(c.Bytes(this.size))
        padding: None = wire(c.Padding(-this.size % 4))

    both_ways(codec, Varying(bytes(129)), "81 01 " + "00 " * 131 + "00")


def test_length_of_a_varint_length(codec):
    """A length over one of variable size is known behind it, as that one is."""

    class Packet(Message):
        total: int = wire(c.Int16ub, value=length_of("size", "data"))
        size: int = wire(c.VarInt, value=length_of("data"))
        data: bytes = wire(c.Bytes(this.size))
        padding: None = wire(c.Padding(-this.total % 4))
        flag: int | None = wire(c.If(this.total > 129, c.Int8ub))
        end: int = wire(c.Int8ub)

    both_ways(codec, Packet(b"a", None, 7), "00 02 01 61 00 00 07")
    long = "00 83 81 01 " + "00 " * 129 + "00 05 07"
    both_ways(codec, Packet(bytes(129), 5, 7), long)


def test_varint_lengths_that_change_size(codec):
    """A length of a length settles, however its own size changes."""

    class Packet(Message):
        total: int = wire(c.VarInt, value=length_of("total", "data"))
        size: int = wire(c.VarInt, value=length_of("data"))
        data: bytes = wire(c.Bytes(this.size))

    for size in (0, 1, 124, 125, 126, 127, 128, 129, 130, 16_380, 16_384, 70_000):
        message = Packet(bytes(size))
        data = codec.build(message)
        again = codec.parse(Packet, data)
        assert message == again
        assert (len(data), size) == (again.total, again.size)


def test_lengths_of_each_other(codec):
    """Spans may overlap."""

    class Packet(Message):
        first: int = wire(c.VarInt, value=length_of("first", "second"))
        second: int = wire(c.VarInt, value=length_of("first", "data"))
        data: bytes = wire(c.GreedyBytes)

    for size in (0, 125, 126, 127, 300):
        message = Packet(bytes(size))
        again = codec.parse(Packet, codec.build(message))
        assert message == again
        assert size == again.second - again.first


def test_length_in_a_bit_field(codec):
    """IPv4's header length is half a byte."""

    class Header(Message):
        version: int = wire(c.Nibble, default=4)
        words: int = wire(c.Nibble, value=length_of("version", "options", unit=4))
        rest: bytes = wire(c.Bytes(3), default=bytes(3), kw_only=True)
        options: bytes = wire(c.Bytes(this.words * 4 - 4), default=b"", kw_only=True)

    both_ways(codec, Header(options=b"abcd"), "42 00 00 00 61 62 63 64")
    with pytest.raises(InvalidMessageError, match=r"Header\.words"):
        codec.build(Header(options=bytes(60)))
    assert "Header" in refused(codec, Header, "43 000000 61626364").path


class Counted(Message):
    count: int = wire(c.Int8ub, value=count_of("items"))
    flags: int = wire(c.Int8ub, default=0)
    items: list[int] = wire(c.Array(this.count, c.Int16ub), kw_only=True)


def test_count(codec):
    """A count is filled in, wherever the list is."""
    both_ways(codec, Counted(items=[1, 2]), "02 00 00 01 00 02")
    both_ways(codec, Counted(items=[]), "00 00")
    with pytest.raises(InvalidMessageError, match=r"Counted\.count"):
        codec.build(Counted(items=[0] * 256))


def test_count_that_nothing_obeys_is_checked(codec):
    """A count is compared even where the list ends by itself."""

    class Packet(Message):
        count: int = wire(c.Int8ub, value=count_of("items"))
        items: list[int] = wire(c.GreedyRange(c.Int8ub))

    both_ways(codec, Packet([7, 8]), "02 07 08")
    error = refused(codec, Packet, "03 07 08")
    assert ("Packet.count", "3") == (error.path, error.found)
    assert error.expected.startswith("2 (the number of elements of items")


def test_counts_of_several_lists(codec):
    """As in DNS: the counts first, then the lists."""

    class Lists(Message):
        a_count: int = wire(c.Int8ub, value=count_of("a"))
        b_count: int = wire(c.Int8ub, value=count_of("b"))
        a: list[int] = wire(c.Array(this.a_count, c.Int8ub), factory=list)
        b: list[Blob] = wire(c.Array(this.b_count, Blob.construct), factory=list)

    both_ways(codec, Lists([1], [Blob(b"x")]), "01 01 01 00 01 78")
    both_ways(codec, Lists(), "00 00")


def test_count_in_a_condition(codec):
    """Other fields may depend on a count."""

    class Packet(Message):
        count: int = wire(c.Int8ub, value=count_of("items"))
        extra: int | None = wire(c.If(this.count > 1, c.Int8ub), default=None)
        items: list[int] = wire(c.Array(this.count, c.Int8ub), factory=list)

    both_ways(codec, Packet(9, [1, 2]), "02 09 01 02")
    both_ways(codec, Packet(None, [1]), "01 01")


def test_count_of_nothing(codec):
    """A count of what is no list is refused."""
    with pytest.raises(InvalidMessageError):
        codec.build(Counted(items=None))


SUMS = {
    "crc16_modbus": (c.Int16ul, checksums.crc16_modbus),
    "crc16_xmodem": (c.Int16ub, checksums.crc16_xmodem),
    "crc16_x25": (c.Int16ul, checksums.crc16_x25),
    "crc32": (c.Int32ub, checksums.crc32),
    "crc32c": (c.Int32ub, checksums.crc32c),
    "fletcher16": (c.Int16ub, checksums.fletcher16),
    "internet": (c.Int16ub, checksums.internet),
    "xor8": (c.Int8ub, checksums.xor8),
    "sum8": (c.Int8ub, checksums.sum8),
    "zlib": (c.Int32ub, zlib.crc32),
}


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("in_front", [True, False])
def test_checksums(codec, name, in_front):
    """A checksum may stand in front of its span or behind it."""
    construct, function = SUMS[name]

    if in_front:

        class Packet(Message):
            sum: int = wire(construct, value=checksum_of("a", "b", using=function))
            a: int = wire(c.Int8ub)
            b: bytes = wire(c.GreedyBytes)

    else:

        class Packet(Message):
            a: int = wire(c.Int8ub)
            b: bytes = wire(c.Prefixed(c.Int8ub, c.GreedyBytes))
            sum: int = wire(construct, value=checksum_of("a", "b", using=function))

    message = Packet(7, b"hello")
    data = codec.build(message)
    again = codec.parse(Packet, data)
    assert message == again
    size = construct.sizeof()
    covered = data[size:] if in_front else data[:-size]
    assert function(covered) == again.sum == message.sum
    for i in range(len(data)):
        broken = bytearray(data)
        broken[i] ^= 0x10
        with pytest.raises(MalformedMessageError):
            codec.parse(Packet, bytes(broken))


def test_what_a_wrong_checksum_says(codec):
    """Both numbers, and what they are made of."""

    class Packet(Message):
        a: bytes = wire(c.Bytes(2))
        sum: int = wire(c.Int8ub, value=checksum_of("a", using=checksums.sum8))

    error = refused(codec, Packet, "01 02 04")
    assert ("Packet.sum", 2) == (error.path, error.offset)
    assert "3 (sum8 over a)" == error.expected
    assert "4" == error.found


def test_checksum_inside_its_span(codec):
    """Its own bytes count as zeros, as in RFC 1071."""

    class Header(Message):
        a: int = wire(c.Int16ub)
        sum: int = wire(
            c.Int16ub, value=checksum_of("a", "b", using=checksums.internet)
        )
        b: int = wire(c.Int16ub)

    message = Header(0x4500, 0x0014)
    data = codec.build(message)
    assert checksums.internet(b"\x45\x00\x00\x00\x00\x14") == int.from_bytes(data[2:4])
    assert message == codec.parse(Header, data)


def test_checksum_over_a_length_and_a_checksum(codec):
    """Lengths are filled in first, then checksums, the inner ones first."""

    class Packet(Message):
        outer: int = wire(
            c.Int32ub, value=checksum_of("length", "data", using=zlib.crc32)
        )
        length: int = wire(c.Int16ub, value=length_of("outer", "data"))
        inner: int = wire(
            c.Int16ub, value=checksum_of("data", using=checksums.crc16_x25)
        )
        data: bytes = wire(c.GreedyBytes)

    message = Packet(b"payload")
    data = codec.build(message)
    again = codec.parse(Packet, data)
    assert message == again
    assert len(data) == again.length
    assert zlib.crc32(data[4:]) == again.outer
    assert checksums.crc16_x25(b"payload") == again.inner


def test_checksum_over_nested_checksums(codec):
    """A nested message's checksum is there when the outer one is made."""

    class Inner(Message):
        data: bytes = wire(c.Prefixed(c.Int8ub, c.GreedyBytes))
        sum: int = wire(c.Int8ub, value=checksum_of("data", using=checksums.xor8))

    class Outer(Message):
        inner: list[Inner] = wire(c.Array(2, Inner.construct))
        sum: int = wire(c.Int8ub, value=checksum_of("inner", using=checksums.sum8))

    message = Outer([Inner(b"a"), Inner(b"bc")])
    data = codec.build(message)
    assert message == codec.parse(Outer, data)
    assert checksums.sum8(data[:-1]) == data[-1]


def test_two_checksums_over_the_same(codec):
    """Checksums that do not contain each other stand side by side."""

    class Packet(Message):
        data: bytes = wire(c.Prefixed(c.Int8ub, c.GreedyBytes))
        one: int = wire(c.Int8ub, value=checksum_of("data", using=checksums.xor8))
        two: int = wire(c.Int8ub, value=checksum_of("data", using=checksums.sum8))

    message = Packet(b"abc")
    assert message == codec.parse(Packet, codec.build(message))


def test_checksums_over_each_other(codec):
    """Checksums that contain each other are refused, as they cannot be filled in."""

    def define():
        class Packet(Message):
            one: int = wire(
                c.Int8ub, value=checksum_of("two", "data", using=checksums.xor8)
            )
            two: int = wire(c.Int8ub, value=checksum_of("one", using=checksums.sum8))
            data: bytes = wire(c.GreedyBytes)

        return Packet(b"\x05")

    with pytest.raises((DeclarationError, InvalidMessageError)):
        codec.build(define())


def test_checksum_that_does_not_fit(codec):
    """A function that gives too large a number is told by the field."""

    class Packet(Message):
        data: bytes = wire(c.Bytes(1))
        sum: int = wire(c.Int8ub, value=checksum_of("data", using=lambda _: 256))

    with pytest.raises(InvalidMessageError, match=r"Packet\.sum"):
        codec.build(Packet(b"x"))


def test_checksum_function_that_fails(codec):
    """A function that raises is contained."""

    class Packet(Message):
        data: bytes = wire(c.Bytes(1))
        sum: int = wire(c.Int8ub, value=checksum_of("data", using=lambda _: 1 // 0))

    with pytest.raises(InvalidMessageError):
        codec.build(Packet(b"x"))
    with pytest.raises(MalformedMessageError):
        codec.parse(Packet, b"xy")


def test_optional_part_behind(codec):
    """A length may span an optional part, whether it is there or not."""

    class Packet(Message):
        length: int = wire(c.Int8ub, value=length_of("a", "b"))
        a: int = wire(c.Int8ub)
        b: int | None = wire(c.If(this.length > 1, c.Int8ub), default=None)

    both_ways(codec, Packet(1), "01 01")
    both_ways(codec, Packet(1, 2), "02 01 02")


def test_equality_ignores_what_is_computed(codec):
    """Built, parsed, fresh: the same message."""
    assert Blob(b"x") == codec.parse(Blob, codec.build(Blob(b"x")))
    assert "size" not in repr(Blob(b"x"))


def test_computed_fields_are_not_given():
    """They are no arguments."""
    with pytest.raises(TypeError):
        Blob(size=3, data=b"abc")


def test_deep_inside_a_prefix(codec):
    """Computed fields work in substreams, whose offsets are their own."""

    class Packet(Message):
        before: int = wire(c.Int8ub)
        blob: Blob = wire(c.Prefixed(c.Int8ub, Blob.construct))

    both_ways(codec, Packet(1, Blob(b"ab")), "01 04 00 02 61 62")

    class Summed(Message):
        data: bytes = wire(c.Prefixed(c.Int8ub, c.GreedyBytes))
        sum: int = wire(c.Int8ub, value=checksum_of("data", using=checksums.sum8))

    class Holder(Message):
        before: bytes = wire(c.Bytes(3))
        fixed: Summed = wire(c.FixedSized(6, Summed.construct))
        prefixed: Summed = wire(c.Prefixed(c.Int8ub, Summed.construct))
        folded: Summed = wire(
            c.Prefixed(c.Int8ub, c.Compressed(Summed.construct, "zlib"))
        )

    message = Holder(b"123", Summed(b"a"), Summed(b"bc"), Summed(b"def"))
    assert message == codec.parse(Holder, codec.build(message))
    data = bytearray(codec.build(message))
    data[5] ^= 1
    with pytest.raises(MalformedMessageError) as caught:
        codec.parse(Holder, bytes(data))
    assert ("Holder.fixed.sum", 5) == (caught.value.path, caught.value.offset)
