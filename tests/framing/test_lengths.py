"""
LengthPrefixed and LengthField: what is special to lengths.
"""

from __future__ import annotations

import pytest
from construct import (
    BitsInteger,
    Bitwise,
    Bytes,
    BytesInteger,
    Default,
    ExprAdapter,
    Float32b,
    GreedyBytes,
    Int8ub,
    Int16sb,
    Int16ub,
    Int16ul,
    Int24ul,
    Int32sb,
    Int32ub,
    Int32ul,
    Int64ub,
    VarInt,
    this,
)

from protoserve.errors import (
    CorruptedFrameError,
    DeclarationError,
    FrameTooLongError,
    InvalidMessageError,
)
from protoserve.framing import DEFAULT_MAX_SIZE, LengthField, LengthPrefixed
from tests.framing.trial import PAYLOAD, bytewise, run


@pytest.mark.parametrize(
    ("prefix", "wire"),
    [
        (Int16ub * "size", "000c"),
        ("size" / Int24ul, "0c0000"),
        (BytesInteger(5), "000000000c"),
        (BytesInteger(5, swapped=True, signed=True), "0c00000000"),
        (Int64ub, "000000000000000c"),
        (Int16sb, "000c"),
        (Bitwise(BitsInteger(24)), "00000c"),
        (Default(Int16ub, 0), "000c"),
        (ExprAdapter(Int16ub, lambda n, _: n // 8, lambda n, _: n * 8), "0060"),
    ],
)
def test_any_number_of_constructs(prefix, wire):
    """Whatever Construct has for a number of fixed size is a prefix."""
    framing = LengthPrefixed(prefix)
    assert bytes.fromhex(wire) + PAYLOAD == framing.encode(PAYLOAD)
    assert run(framing.framer(), [framing.encode(PAYLOAD) * 2]) == [PAYLOAD] * 2


@pytest.mark.parametrize(
    "prefix",
    [
        2,
        "Int16ub",
        Float32b,
        Bytes(2),
        GreedyBytes,
        BytesInteger(this.n),
        BitsInteger(4),
        None,
    ],
)
def test_what_is_not_a_number_is_refused(prefix):
    """The declaration fails, naming the field and the value."""
    with pytest.raises(DeclarationError, match=r"LengthPrefixed\.prefix: expected"):
        LengthPrefixed(prefix)
    with pytest.raises(DeclarationError, match=r"LengthField\.length: expected"):
        LengthField(prefix)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_size", 0),
        ("max_size", None),
        ("max_size", True),
        ("max_size", 1.5),
        ("adjustment", "1"),
        ("inclusive", 1),
        ("offset", -1),
    ],
)
def test_wrong_options_are_refused(field, value):
    """The error names field, expectation and value."""
    with pytest.raises(DeclarationError) as caught:
        LengthField(Int16ub, **{field: value})
    assert f"LengthField.{field}: expected" in str(caught.value)
    assert repr(value) in str(caught.value)


def test_default_maximum():
    """There is always a maximum."""
    assert DEFAULT_MAX_SIZE == LengthPrefixed(Int32ub).max_size == 1 << 20


@pytest.mark.parametrize(
    ("data", "guess"),
    [
        (b"GET / HTTP/1.1\r\n", "an HTTP request"),
        (b"PRI * HTTP/2.0\r\n\r\n", "the HTTP/2 preface"),
        (b"HTTP/1.1 200 OK\r\n", "an HTTP response"),
        (b"SSH-2.0-OpenSSH_9\r\n", "an SSH banner"),
        (bytes.fromhex("16030100f8010000f40303"), "a TLS hello"),
        (b"PROXY TCP4 10.0.0.1\r\n", "a PROXY protocol header"),
        (b"hello there\r\n", "text"),
    ],
)
@pytest.mark.parametrize(
    "framing",
    [
        LengthPrefixed(Int32ub, max_size=4096),
        LengthPrefixed(Int16ub, max_size=4096),
        LengthField(Int32ub, max_size=4096),
    ],
)
def test_guesses(framing, data, guess):
    """Another protocol at this port is named, with the bytes that show it."""
    framer = framing.framer()
    framer.feed(data)
    with pytest.raises(FrameTooLongError) as caught:
        framer.decode()
    error = caught.value
    size = 2 if framing == LengthPrefixed(Int16ub, max_size=4096) else 4
    assert int.from_bytes(data[:size], "big") == error.size
    assert error.offset == 0
    assert data[:16] == error.found
    assert f"these bytes look like {guess}" == error.guess
    assert str(error.size) in str(error)
    assert data[:16].hex(" ") in str(error)
    assert str(error).endswith(f"; these bytes look like {guess}")


@pytest.mark.parametrize(
    ("framing", "data"),
    [
        (LengthPrefixed(Int32ub), b"\x0c\0\0\0HELLO"),
        (LengthPrefixed(Int32ul), b"\0\0\0\x0cHELLO"),
        (LengthPrefixed(Int16ub, max_size=100), b"\x0c\0HELLO"),
        (LengthPrefixed(Int24ul, max_size=4096), b"\0\0\x0cHELLO"),
        (LengthPrefixed(Int32ul, max_size=12), b"\0\0\0\x0cHELLO"),
        (LengthField(Int32ub, offset=1), b"\xca\x0c\0\0\0HELLO"),
        (LengthField(Int32ub, offset=1, inclusive=True), b"\xca\x0c\0\0\0HELLO"),
    ],
)
def test_other_byte_order(framing, data):
    """A length that is sane in the other byte order is told."""
    framer = framing.framer()
    framer.feed(data)
    with pytest.raises(FrameTooLongError) as caught:
        framer.decode()
    assert caught.value.guess == "the length is sane in the other byte order (12)"


def test_no_guess():
    """Where nothing is known nothing is guessed."""
    framer = LengthPrefixed(Int32ub).framer()
    framer.feed(b"\xff\xff\xff\xff")
    with pytest.raises(FrameTooLongError) as caught:
        framer.decode()
    assert caught.value.guess is None
    assert caught.value.size == 0xFFFFFFFF
    assert caught.value.found == b"\xff\xff\xff\xff"


def test_too_long_is_told_at_the_last_byte_of_the_length():
    """Nothing is waited for that does not matter any more."""
    framer = LengthField(Int16ub, offset=2, max_size=100).framer()
    framer.feed(b"\xca\xfe\x00\x03abc\xca\xfe\x40")
    assert framer.decode() == b"\xca\xfe\x00\x03abc"
    assert framer.decode() is None
    framer.feed(b"\x01")
    with pytest.raises(FrameTooLongError) as caught:
        framer.decode()
    assert (
        caught.value.size,
        caught.value.limit,
        caught.value.offset,
    ) == (0x4001, 96, 9)
    assert caught.value.found == b"\xca\xfe\x40\x01"


@pytest.mark.parametrize(
    ("framing", "data", "size", "note"),
    [
        (LengthPrefixed(Int16ub, inclusive=True), b"\0\1ab", -1, "1 and 2 is"),
        (LengthPrefixed(Int16ub, adjustment=-3), b"\0\2ab", -1, "2 and 3 is"),
        (LengthField(Int16ub, offset=4, inclusive=True), b"abcd\0\5", -1, "5 and 6 is"),
        (LengthPrefixed(VarInt, inclusive=True), b"\0", -1, "0 and 1 is"),
    ],
)
def test_too_small(framing, data, size, note):
    """A length that does not even hold the header makes no sense."""
    framer = framing.framer()
    framer.feed(data)
    with pytest.raises(FrameTooLongError) as caught:
        framer.decode()
    assert size == caught.value.size
    assert f"the number read is {note} the smallest possible" in str(caught.value)


def test_negative():
    """A signed length below 0 makes no sense."""
    framer = LengthPrefixed(Int32sb).framer()
    framer.feed(b"\xff\xff\xff\xfb")
    with pytest.raises(FrameTooLongError, match="frame length -5 read at"):
        framer.decode()


@pytest.mark.parametrize("framing", [LengthPrefixed(VarInt), LengthField(VarInt)])
def test_varint_is_bounded(framing):
    """A VarInt is refused once it is too much, or has too many bytes."""
    for pieces in ([b"\xff" * 40], bytewise(b"\xff" * 40)):
        framer = framing.framer()
        with pytest.raises(FrameTooLongError) as caught:
            run(framer, pieces)
        assert len(pieces) == 1 or len(caught.value.found) == 3
    for pieces in ([b"\x80" * 40], bytewise(b"\x80" * 40)):
        framer = framing.framer()
        with pytest.raises(CorruptedFrameError, match="not end within 10 bytes"):
            run(framer, pieces)
        with pytest.raises(CorruptedFrameError):
            framer.decode()


@pytest.mark.parametrize("size", [0, 126, 127, 128, 129, 16380, 16383, 16384])
@pytest.mark.parametrize("inclusive", [False, True])
def test_varint_sizes(size, inclusive):
    """A VarInt may grow because it counts itself, and moves what follows it."""
    payload = bytes(size)
    prefixed = LengthPrefixed(VarInt, inclusive=inclusive)
    assert [payload] == run(prefixed.framer(), [prefixed.encode(payload)])
    field = LengthField(VarInt, offset=1, inclusive=inclusive)
    for placeholder in (b"\0", b"\x80\0", b"\xff\xff\x03"):
        wire = field.encode(b"\x30" + placeholder + payload)
        assert wire[:1] + wire[-size:] * bool(size) == b"\x30" + payload
        assert [wire] == run(field.framer(), [wire])
        assert wire is field.encode(wire)


def test_field_beyond_the_first_bytes():
    """The header may have anything before and after its length."""
    framing = LengthField(Int16ul, offset=3, adjustment=2)
    frame = bytes.fromhex("010203 ffff 0405") + PAYLOAD
    wire = framing.encode(frame)
    assert bytes.fromhex("010203 0c00 0405") + PAYLOAD == wire
    assert [wire, wire] == run(framing.framer(), [wire[:4], wire[4:] + wire])


@pytest.mark.parametrize(
    ("framing", "frame"),
    [
        (LengthPrefixed(Int8ub), bytes(256)),
        (LengthPrefixed(Int16ub, adjustment=5), bytes(4)),
        (LengthPrefixed(Int16ub, max_size=5), bytes(6)),
        (LengthField(Int16ub, offset=2), bytes(3)),
        (LengthField(Int8ub), bytes(300)),
        (LengthField(VarInt, offset=2), b"ab"),
        (LengthField(VarInt), b"\x80" * 12),
        (LengthField(Int16ub, max_size=5), bytes(6)),
    ],
)
def test_frames_that_do_not_fit(framing, frame):
    """Never a length that is cut or wrong: the frame is refused."""
    with pytest.raises(InvalidMessageError, match="frame: expected"):
        framing.encode(frame)
    with pytest.raises(ValueError, match="frame: expected"):
        framing.encode(frame)
