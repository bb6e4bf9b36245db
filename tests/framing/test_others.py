"""
Fixed sizes, decimal lengths, size functions and datagrams.
"""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import construct
import pytest
from construct import Int8ub, Int16ub

import protoserve.checksums
import protoserve.framing
from protoserve.checksums import crc16_xmodem
from protoserve.errors import (
    CorruptedFrameError,
    DeclarationError,
    FrameTooLongError,
    IncompleteFrameError,
    InvalidMessageError,
)
from protoserve.framing import (
    AtLeast,
    BufferedFramer,
    Datagram,
    Delimited,
    FixedSize,
    Framing,
    LengthField,
    LengthPrefixed,
    Netstring,
    OctetCounted,
    SelfDelimiting,
    SyncWord,
)
from tests.framing.trial import (
    DATAGRAMS,
    PAYLOAD,
    SYNC,
    bytewise,
    counted,
    run,
    two_parts,
)


def test_fixed_size():
    """Only frames of the one size are sent."""
    assert FixedSize(12).max_size == 12
    for size in (11, 13):
        with pytest.raises(InvalidMessageError, match="expected 12 bytes"):
            FixedSize(12).encode(bytes(size))
    with pytest.raises(DeclarationError, match=r"FixedSize\.size: expected"):
        FixedSize(0)
    with pytest.raises(FrameTooLongError):
        FixedSize(12).split(bytes(13))


@pytest.mark.parametrize(
    ("framing", "stream", "reason"),
    [
        (Netstring(), b"05:hello,", "starts with a 0"),
        (Netstring(), b"5:hello;", "expected b','"),
        (Netstring(), b":hello,", "expected a length"),
        (Netstring(), b"-1:,", "expected a length"),
        (Netstring(), b"5 hello", "expected a length"),
        (Netstring(), b"GET / HTTP/1.1", "these bytes look like an HTTP request"),
        (OctetCounted(), b"0 ", "its length is 0"),
        (OctetCounted(), b"<34>1 x", "these bytes look like text"),
        (OctetCounted(), b" 5 hello", "expected a length"),
    ],
)
def test_decimal_lengths_that_are_none(framing, stream, reason):
    """A stream that is out of step is told so."""
    framer = framing.framer()
    framer.feed(stream)
    with pytest.raises(CorruptedFrameError, match=reason) as caught:
        framer.decode()
    assert stream[:16] == caught.value.found
    with pytest.raises(CorruptedFrameError):
        run(framing.framer(), bytewise(stream))


@pytest.mark.parametrize("framing", [Netstring(max_size=99), OctetCounted(max_size=99)])
def test_decimal_lengths_that_are_too_long(framing):
    """Digits are read no further than to see that there are too many."""
    framer = framing.framer()
    framer.feed(b"100")
    with pytest.raises(FrameTooLongError) as caught:
        framer.decode()
    assert (caught.value.size, caught.value.limit, caught.value.offset) == (100, 99, 0)
    framer = framing.framer()
    framer.feed(b"1" * 10_000)
    with pytest.raises(FrameTooLongError):
        framer.decode()


def test_empty_frames():
    """A netstring can be empty, a counted frame cannot."""
    assert Netstring().encode(b"") == b"0:,"
    assert run(Netstring().framer(), [b"0:,1:a,"]) == [b"", b"a"]
    with pytest.raises(InvalidMessageError):
        OctetCounted().encode(b"")


def test_size_function_is_called_sparingly():
    """A size that has not arrived, or a hint, is not asked for again."""
    calls = []

    def size(buffer):
        calls.append(len(buffer))
        return two_parts(buffer)

    framing = SelfDelimiting(size)
    wire = b"\x20" + bytes(32) + b"\x40" + bytes(64)
    framer = framing.framer()
    assert run(framer, bytewise(wire * 3)) == [wire] * 3
    assert calls == [1, 34] * 3


def test_size_function_sees_the_frame_first():
    """What is passed starts with the frame, whatever came before."""
    seen = []

    def size(buffer):
        seen.append(bytes(buffer))
        return counted(buffer)

    framer = SelfDelimiting(size).framer()
    assert run(framer, [b"\1a\2bc\3d"]) == [b"\1a", b"\2bc"]
    assert seen == [b"\1a\2bc\3d", b"\2bc\3d", b"\3d"]


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (lambda buffer: 0, FrameTooLongError, "the function gave 0 and 1 is"),
        (lambda buffer: -3, FrameTooLongError, "the function gave -3 and 1 is"),
        (lambda buffer: 21, FrameTooLongError, "frame length 21"),
        (lambda buffer: AtLeast(40), FrameTooLongError, "frame length 40"),
        (lambda buffer: "x", CorruptedFrameError, "the function gave 'x'"),
        (lambda buffer: buffer[99], CorruptedFrameError, "IndexError"),
        (lambda buffer: None, FrameTooLongError, "frame length 24"),
    ],
)
def test_size_functions_that_make_no_sense(function, error, words):
    """Whatever the function does, the error is ours, and stays."""
    framer = SelfDelimiting(function, max_size=20).framer()
    framer.feed(b"GET /index.html HTTP/1.1")
    with pytest.raises(error, match=words) as caught:
        framer.decode()
    assert "these bytes look like an HTTP request" in str(caught.value)
    framer.feed(b"more")
    with pytest.raises(error) as again:
        framer.decode()
    assert caught.value is again.value


def test_size_function_may_raise_an_error_of_ours():
    """It goes out as it is."""
    mine = CorruptedFrameError("not a command", 0, b"x")

    def size(buffer):
        raise mine

    framer = SelfDelimiting(size).framer()
    framer.feed(b"x")
    with pytest.raises(CorruptedFrameError) as caught:
        framer.decode()
    assert mine is caught.value


@pytest.mark.parametrize("frame", [b"", b"\1", b"\1ab", b"\xff" * 30])
def test_size_function_checks_what_is_sent(frame):
    """A frame that would be cut elsewhere is not sent."""
    with pytest.raises(InvalidMessageError):
        SelfDelimiting(counted, max_size=20).encode(frame)
    with pytest.raises(InvalidMessageError):
        SelfDelimiting(lambda buffer: buffer[99]).encode(b"abc")


def test_self_delimiting_declarations():
    """What could not work is refused by name."""
    with pytest.raises(DeclarationError, match=r"SelfDelimiting\.function: expected"):
        SelfDelimiting(12)
    with pytest.raises(DeclarationError, match=r"AtLeast\.size: expected"):
        AtLeast(0)


@pytest.mark.parametrize("framing", DATAGRAMS)
def test_datagrams_have_no_stream(framing):
    """The framer is refused with the reason, the rest works."""
    with pytest.raises(DeclarationError, match="has no stream framing"):
        framing.framer()
    packed = framing.pack(PAYLOAD)
    assert packed == framing.encode(PAYLOAD)
    assert framing.split(packed) == [PAYLOAD]


def test_several_messages_in_a_datagram():
    """The inner framing cuts them, and nothing is left over."""
    framing = Datagram(LengthPrefixed(Int8ub))
    assert framing.in_frame
    assert framing.split(b"\2ab\0\1c") == [b"ab", b"", b"c"]
    assert framing.split(b"") == []
    with pytest.raises(IncompleteFrameError):
        framing.split(b"\2ab\2c")
    lines = Datagram(Delimited(b"\n", accept_unterminated=True))
    assert lines.split(b"a:1|c\nb:2|g") == [b"a:1|c", b"b:2|g"]
    assert lines.split(b"a:1|c\nb:2|g\n") == [b"a:1|c", b"b:2|g"]


def test_one_message_in_a_datagram():
    """The datagram is the message, an empty one too."""
    assert not Datagram().in_frame
    assert Datagram().split(b"") == [b""]
    assert Datagram().pack(b"") == b""


def test_datagrams_have_a_maximum():
    """Both ways, for the datagram as a whole."""
    for framing in (Datagram(max_size=4), Datagram(FixedSize(5), max_size=4)):
        with pytest.raises(InvalidMessageError):
            framing.pack(b"GET /")
        with pytest.raises(FrameTooLongError, match="look like an HTTP request"):
            framing.split(b"GET /")
    assert Datagram().max_size == 65535


def test_stream_framing_on_datagrams():
    """What is in the frame cuts the datagram; what is not does not exist there."""
    assert LengthPrefixed(Int16ub).split(b"\0\2ab") == [b"\0\2ab"]
    assert LengthPrefixed(Int16ub).pack(b"ab") == b"ab"
    field = LengthField(Int16ub)
    assert field.split(b"\0\2ab\0\1c") == [b"\0\2ab", b"\0\1c"]
    assert field.pack(b"\0\0ab") == b"\0\2ab"
    with pytest.raises(FrameTooLongError):
        LengthPrefixed(Int16ub, max_size=4).split(b"12345")
    kept = Delimited(b"\n", keep=True)
    assert kept.split(b"a\nb\n") == [b"a\n", b"b\n"]


def test_damaged_datagrams():
    """What resynchronises on a stream is an error in a datagram."""
    framing = SyncWord(SYNC, Int16ub, adjustment=2, checksum=crc16_xmodem)
    wire = framing.encode(SYNC + b"\0\0abcd")
    with pytest.raises(CorruptedFrameError, match="0 damaged frames and 1 bytes"):
        framing.split(b"x" + wire)


def test_datagram_declarations():
    """What could not work is refused by name."""
    for inner in (5, Datagram(), LengthPrefixed):
        with pytest.raises(DeclarationError, match=r"Datagram\.inner: expected"):
            Datagram(inner)


def test_a_strategy_of_ones_own():
    """A framing is two methods, and the buffer is there to build on."""

    class Pairs(Framing):
        max_size = 2

        def framer(self):
            return PairFramer(self.max_size)

        def encode(self, frame):
            return frame

    class PairFramer(BufferedFramer):
        def decode(self):
            start = self._start
            if self.buffered < 2:
                return self._wait()
            self._start = start + 2
            return bytes(self._data[start : start + 2])

    assert run(Pairs().framer(), bytewise(b"aabbcc")) == [b"aa", b"bb", b"cc"]
    assert not Pairs().in_frame
    assert Pairs().split(b"aa") == [b"aa"]


def test_exports():
    """The face of the package is sorted and complete."""
    names = protoserve.framing.__all__
    assert sorted(names) == sorted(set(names))
    assert all(hasattr(protoserve.framing, name) for name in names)


def test_documentation():
    """The examples of the page on framing are true."""
    page = Path(__file__).parents[2] / "docs" / "framing.md"
    failed, tried = doctest.testfile(str(page), module_relative=False)
    assert not failed
    assert tried > 10
    text = page.read_text("utf-8")
    rows = re.findall(r"^\|[^|]+\| `([A-Z][^`]+)` \|$", text, re.MULTILINE)
    assert len(rows) > 20
    names = {
        **vars(construct),
        **vars(protoserve.checksums),
        **vars(protoserve.framing),
        "function": len,
        "size": 12,
    }
    for row in rows:
        assert isinstance(eval(row, names), Framing)
