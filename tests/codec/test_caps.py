"""
Four bytes may not ask for a gigabyte.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import time
import tracemalloc
import zlib

import construct as c
import pytest
from construct import this

from protoserve import Caps, MalformedMessageError, Message, wire


def refused(codec, cls, data):
    with pytest.raises(MalformedMessageError) as caught:
        codec.parse(cls, data)
    return caught.value


class Nothing(Message):
    """A message of no bytes."""


class Many(Message):
    count: int = wire(c.Int32ub)
    items: list[object] = wire(c.Array(this.count, c.Pass))


class ManyStructs(Message):
    items: list[object] = wire(c.PrefixedArray(c.Int32ub, c.Struct()))


class ManyMessages(Message):
    items: list[object] = wire(c.PrefixedArray(c.Int32ub, Nothing.construct))


class ManyNested(Message):
    count: int = wire(c.Int32ub)
    items: list[object] = wire(c.Array(256, c.Array(this.count, c.Pass)))


class Endless(Message):
    items: list[object] = wire(c.RepeatUntil(lambda *_: False, c.Pass))


class EndlessRange(Message):
    items: list[object] = wire(c.GreedyRange(c.Pass))


@pytest.mark.parametrize(
    ("cls", "data", "path"),
    [
        (Many, b"\x00\x10\x00\x00", "Many.items"),
        (Many, b"\xff\xff\xff\xff", "Many.items"),
        (ManyStructs, b"\x00\x10\x00\x00", "ManyStructs.items"),
        (ManyMessages, b"\x00\x10\x00\x00", "ManyMessages.items"),
        (ManyNested, b"\x00\x00\xff\xff", "ManyNested.items"),
        (Endless, b"", "Endless.items"),
        (EndlessRange, b"\x00", "EndlessRange.items"),
    ],
)
def test_elements(codec, cls, data, path):
    """Elements are counted before they are made."""
    codec.parse(Nothing, b"")  # the codec itself is made at first use
    with pytest.raises(MalformedMessageError):
        codec.parse(cls, data)
    tracemalloc.start()
    try:
        error = refused(codec, cls, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert error.path.startswith(path)
    assert peak < 16 << 20


def test_elements_can_be_allowed(codec):
    """The cap is the class's own, and exact."""

    class Few(Message, caps=Caps(elements=3)):
        items: list[int] = wire(c.GreedyRange(c.Int8ub))

    assert [1, 2, 3] == codec.parse(Few, b"\1\2\3").items
    error = refused(codec, Few, b"\1\2\3\4")
    assert "at most 3 elements" in error.expected


def test_elements_of_all_arrays_count_together(codec):
    """Two arrays share one allowance."""

    class Two(Message, caps=Caps(elements=5)):
        first: list[int] = wire(c.Array(3, c.Int8ub))
        second: list[int] = wire(c.PrefixedArray(c.Int8ub, c.Int8ub))

    assert [9, 9] == codec.parse(Two, b"\1\2\3\2\x09\x09").second
    assert "Two.second" == refused(codec, Two, b"\1\2\3\3\x09\x09\x09").path


class Tree(Message):
    children: list[object] = wire(
        c.PrefixedArray(c.Int8ub, c.LazyBound(lambda: Tree.construct))
    )


def test_depth(codec):
    """50 levels are allowed, no more."""
    depth = Caps().depth
    codec.parse(Tree, b"\x01" * (depth - 1) + b"\x00")
    error = refused(codec, Tree, b"\x01" * depth + b"\x00")
    assert f"at most {depth} levels" in error.expected


def test_depth_is_left_again(codec):
    """Neighbours do not add up."""

    class Wide(Message):
        trees: list[Tree] = wire(c.Array(200, Tree.construct))

    assert 200 == len(codec.parse(Wide, bytes(200)).trees)


def test_depth_of_alternatives(codec):
    """An alternative that failed gives its levels back."""

    class Part(Message):
        kind: int = wire(c.Const(1, c.Int8ub))

    class Picky(Message):
        parts: list[object] = wire(c.GreedyRange(c.Select(Part.construct, c.Int8ub)))

    assert 200 == len(codec.parse(Picky, b"\x02" * 200).parts)


def test_depth_of_plain_structures(codec):
    """References between plain structures count, too."""
    node = c.Struct(
        "more" / c.Int8ub, "next" / c.If(this.more, c.LazyBound(lambda: node))
    )

    class Chain(Message):
        first: object = wire(node)

    error = refused(codec, Chain, b"\x01" * 60)
    assert "levels" in error.expected


def test_varint(codec):
    """A VarInt ends within 10 bytes."""

    class Number(Message):
        value: int = wire(c.VarInt)

    class Signed(Message):
        value: int = wire(c.ZigZag)

    assert (1 << 63) == codec.parse(Number, b"\x80" * 9 + b"\x01").value
    assert "at most 10 bytes" in refused(codec, Number, b"\x80" * 10 + b"\x01").expected
    assert "at most 10 bytes" in refused(codec, Signed, b"\x80" * 10 + b"\x01").expected
    start = time.thread_time()
    refused(codec, Number, b"\xff" * 1_000_000)
    assert time.thread_time() - start < 1


def test_varint_cap_of_the_class(codec):
    """The cap is the class's own."""

    class Long(Message, caps=Caps(varint=2)):
        value: int = wire(c.VarInt)

    assert 16383 == codec.parse(Long, b"\xff\x7f").value
    assert "at most 2 bytes" in refused(codec, Long, b"\xff\xff\x01").expected


def test_varint_prefix(codec):
    """A VarInt in front of something is held to it, too."""

    class Blob(Message):
        data: bytes = wire(c.Prefixed(c.VarInt, c.GreedyBytes))

    assert b"x" == codec.parse(Blob, b"\x01x").data
    assert "VarInt" in refused(codec, Blob, b"\xff" * 64).expected
    assert refused(codec, Blob, b"\xff" * 9 + b"\x01").path == "Blob.data"


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("zlib", zlib.compress),
        ("gzip", gzip.compress),
        ("bzip2", bz2.compress),
        ("lzma", lzma.compress),
    ],
)
def test_decompressed(codec, encoding, compress):
    """What unfolds is held to its cap, whatever it was folded with."""

    class Packed(Message, caps=Caps(decompressed=1_000)):
        data: bytes = wire(c.Compressed(c.GreedyBytes, encoding))

    assert bytes(1_000) == codec.parse(Packed, compress(bytes(1_000))).data
    error = refused(codec, Packed, compress(bytes(1_001)))
    assert "at most 1000 bytes of decompressed data" in error.expected
    bomb = compress(bytes(50_000_000))
    tracemalloc.start()
    try:
        refused(codec, Packed, bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 24 << 20
    part = compress(bytes(range(256)))[:-9]
    assert "a whole" in refused(codec, Packed, part).expected


def test_compressed_round_trip(codec):
    """What was built unfolds again."""

    class Packed(Message):
        data: object = wire(
            c.Prefixed(c.Int16ub, c.Compressed(c.Array(3, c.Int8ub), "zlib"))
        )

    message = Packed([1, 2, 3])
    assert message == codec.parse(Packed, codec.build(message))


def test_size(codec):
    """More bytes than the cap are not looked at."""

    class Small(Message, caps=Caps(size=4)):
        data: bytes = wire(c.GreedyBytes)

    assert b"1234" == codec.parse(Small, b"1234").data
    error = refused(codec, Small, b"12345")
    assert "at most 4 bytes" in error.expected
    assert "5" == error.found


def test_lengths_that_lie(codec):
    """A length that is not there costs nothing."""

    class Blob(Message):
        size: int = wire(c.Int32ub)
        data: bytes = wire(c.Bytes(this.size))

    class Text(Message):
        text: str = wire(c.PascalString(c.Int32ub, "utf8"))

    for cls in (Blob, Text):
        refused(codec, cls, b"\xff\xff\xff\xff1")
        tracemalloc.start()
        try:
            refused(codec, cls, b"\xff\xff\xff\xff1")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 1 << 16


def test_terminated_text_is_linear(codec):
    """A long text without an end is refused at once."""

    class Text(Message):
        text: str = wire(c.CString("utf8"))

    start = time.thread_time()
    refused(codec, Text, b"x" * 2_000_000)
    assert time.thread_time() - start < 1
    assert "x" * 100_000 == codec.parse(Text, b"x" * 100_000 + b"\0").text


@pytest.mark.parametrize(
    "option", ["size", "elements", "depth", "decompressed", "varint"]
)
@pytest.mark.parametrize("value", [0, -1, 1.5, None, "1"])
def test_caps_are_checked(option, value):
    """A cap is a positive number."""
    with pytest.raises((TypeError, ValueError)):
        Caps(**{option: value})
