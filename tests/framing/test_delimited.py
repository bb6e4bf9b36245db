"""
Delimited: what is special to delimiters.
"""

from __future__ import annotations

import pytest

from protoserve.errors import (
    DeclarationError,
    FrameTooLongError,
    IncompleteFrameError,
    InvalidMessageError,
)
from protoserve.framing import Delimited
from tests.framing.trial import bytewise, run

LINES = (b"\r\n", b"\n")


@pytest.mark.parametrize(
    ("framing", "stream", "frames"),
    [
        (Delimited(b"\r\n"), b"a\r\n\r\nb\nc\r\r\n", [b"a", b"", b"b\nc\r"]),
        (Delimited(LINES), b"a\r\nb\n\rc\n\n", [b"a", b"b", b"\rc", b""]),
        (Delimited(LINES, keep=True), b"a\r\nb\n\n", [b"a\r\n", b"b\n", b"\n"]),
        (Delimited([b"\r", b"\n"]), b"a\r\nb\r", [b"a", b"", b"b"]),
        (Delimited(b"ab"), b"aab\0abab", [b"a", b"\0", b""]),
        (Delimited((b"abc", b"bc")), b"xabcxbc", [b"x", b"x"]),
        (
            Delimited(b",", escape=b"\\"),
            b"a\\,b,\\\\,c\\\\\\,d,\\x,",
            [b"a,b", b"\\", b"c\\,d", b"x"],
        ),
        (
            Delimited(b",", escape=b"\\", keep=True),
            b"a\\,b,c,",
            [b"a,b,", b"c,"],
        ),
        (Delimited(b"aa", escape=b"^"), b"^aaaa^aaa", [b"a", b"a", b"a"][:0] or None),
    ],
)
def test_frames(framing, stream, frames):
    """The delimiter that is complete first ends the frame, however it is split."""
    whole = run(framing.framer(), [stream])
    assert whole == run(framing.framer(), bytewise(stream))
    if frames is not None:
        assert frames == whole


@pytest.mark.parametrize(
    ("framing", "frame"),
    [
        (Delimited(b"\r\n"), b"a\r\nb"),
        (Delimited((b"\n", b"\r\n")), b"a\r"),
        (Delimited(b"aa"), b"xa"),
        (Delimited(LINES), b"a\nb"),
        (Delimited(LINES, keep=True), b"a"),
        (Delimited(LINES, keep=True), b""),
        (Delimited(LINES, keep=True), b"a\nb\n"),
        (Delimited(LINES, max_size=3), b"abcd"),
    ],
)
def test_frames_that_would_be_cut_elsewhere(framing, frame):
    """A frame that would not come back is not sent."""
    with pytest.raises(InvalidMessageError):
        framing.encode(frame)


def test_escapes():
    """Delimiters and escapes inside are escaped, and nothing else."""
    framing = Delimited((b";", b"\r\n"), escape=b"?")
    wire = framing.encode(b"a;b?c\r\nd\ne")
    assert wire.hex(" ") == "61 3f 3b 62 3f 3f 63 3f 0d 0a 64 0a 65 3b"
    assert run(framing.framer(), [wire]) == [b"a;b?c\r\nd\ne"]


def test_end_of_stream():
    """A last piece is an error, or a frame where that is declared."""
    framer = Delimited(b"\n").framer()
    assert run(framer, [b"a\nbc"]) == [b"a"]
    with pytest.raises(IncompleteFrameError) as caught:
        framer.end()
    assert (caught.value.buffered, caught.value.found) == (2, b"bc")

    framer = Delimited(b"\n", accept_unterminated=True).framer()
    assert run(framer, [b"a\n"]) == [b"a"]
    assert framer.end() is None
    framer.feed(b"bc")
    assert framer.decode() is None
    assert framer.end() == b"bc"
    assert framer.buffered == 0
    assert framer.end() is None


def test_end_of_stream_with_escapes():
    """An escape that escapes nothing leaves the frame incomplete."""
    framing = Delimited(b",", escape=b"\\", accept_unterminated=True)
    framer = framing.framer()
    assert run(framer, [b"a\\,b"]) == []
    assert framer.end() == b"a,b"
    framer = framing.framer()
    assert run(framer, [b"a\\\\\\"]) == []
    with pytest.raises(IncompleteFrameError):
        framer.end()


@pytest.mark.parametrize(
    ("stream", "fine"),
    [(b"abcd", True), (b"a\\,bc\\\\", True), (b"abcde", False), (b"\\a" * 5, False)],
)
def test_last_piece_has_a_maximum_too(stream, fine):
    """A frame that the end of the stream delimits is not longer than others."""
    framer = Delimited(
        b",", escape=b"\\", accept_unterminated=True, max_size=5 if fine else 4
    ).framer()
    if fine:
        assert run(framer, [stream]) == []
        assert framer.end() is not None
        return
    with pytest.raises(FrameTooLongError):
        run(framer, [stream])
        framer.end()


def test_last_piece_may_look_like_a_delimiter():
    """What was kept for a delimiter counts when none has come."""
    framing = Delimited(b"\r\n", accept_unterminated=True, max_size=3)
    framer = framing.framer()
    assert run(framer, [b"abc\r"]) == []
    with pytest.raises(FrameTooLongError):
        framer.end()


def test_guess():
    """What is too long for a line is looked at."""
    framer = Delimited(b"\0", max_size=20).framer()
    framer.feed(b"GET /index.html HTTP/1.1\r\n")
    with pytest.raises(FrameTooLongError, match="look like an HTTP request") as caught:
        framer.decode()
    assert caught.value.size == 26
    assert caught.value.limit == 20


@pytest.mark.parametrize(
    ("field", "arguments", "options"),
    [
        ("delimiter", [b""], {}),
        ("delimiter", ["\n"], {}),
        ("delimiter", [()], {}),
        ("delimiter", [10], {}),
        ("delimiter", [(b"\n", "\r")], {}),
        ("delimiter", [(b"\n", b"\n")], {}),
        ("delimiter", [(b"\n", b"\n\r")], {}),
        ("delimiter", [(b"b", b"abc")], {}),
        ("escape", [b"\n"], {"escape": b"\\\\"}),
        ("escape", [b"\n"], {"escape": "\\"}),
        ("escape", [b"\r\n"], {"escape": b"\n"}),
        ("keep", [b"\n"], {"keep": None}),
        ("accept_unterminated", [b"\n"], {"accept_unterminated": 1}),
        ("max_size", [b"\n"], {"max_size": 0}),
    ],
)
def test_declarations(field, arguments, options):
    """What could not work is refused by name."""
    with pytest.raises(DeclarationError, match=rf"Delimited\.{field}: expected"):
        Delimited(*arguments, **options)


def test_long_runs_of_escapes_are_refused():
    """Escapes alone cannot fill the memory."""
    for pieces in ([b"\\" * 50], bytewise(b"\\" * 50)):
        framer = Delimited(b",", escape=b"\\", max_size=10).framer()
        with pytest.raises(FrameTooLongError):
            run(framer, pieces)
