"""
Write the function that answers the frames of a session in one pass.

What a good engineer would write by hand: take a frame from the buffer, make the
message, call the method that answers it, pack the answer, go on with the next. The
loop, the header and the lookup by tag are one function for the protocol; what follows
is one *turn* for each message, made when its tag is first seen.

Nothing here decides anything. Wherever that would be needed the function stops, and
says how far it came: before a frame that is not whole or that it does not know what to
make of, or behind one that was answered in a way that takes more steps. A method is
never called twice for one message: what goes wrong before it was called leaves the
frame where it is, and what goes wrong afterwards is handed on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from protoserve.codec.caps import Caps
from protoserve.codec.compiled import compile_function, tell_failure
from protoserve.codec.emit import Untranslatable
from protoserve.codec.frame import FrameCodec, LengthHead
from protoserve.codec.generate_build import build_globals
from protoserve.codec.generate_frame import (
    body_globals,
    emit_body,
    emit_frame,
    emit_parts,
    fixed_size,
    tag_source,
)
from protoserve.codec.generate_parse import ParseWriter
from protoserve.codec.record import Record
from protoserve.codec.running import parse_globals

__all__ = ["Pump", "Turn", "make_pump", "make_turns"]

_AT_A_TIME = 64
"""Frames that are answered before the answers are sent: they may be long."""

Pump = Callable[[bytes, int, int, Any, Callable[[bytes], object]], tuple[int, Any]]
"""
Answers the frames in a buffer; takes buffer, start, end, session, and what takes each
answer (that may give what has to be done next). Gives where it stopped, and True or
what is left to do. A buffer that is one frame is left with -1.
"""

Find = Callable[[Any], tuple[Record, Caps, "Turn"] | None]
"""Gives a tag's message and how it is answered; `None` leaves it to others."""


@attrs.frozen
class Turn:
    """
    How one kind of message is answered.
    """

    method: Callable[..., Any]
    arguments: tuple[str, ...]
    """What the method takes, of ``message``, ``session``, ``header`` and ``frame``."""
    answers: tuple[tuple[Record, Mapping[str, int]], ...]
    """What it may return, and the header's fields that are its tag."""
    failed: Callable[..., Any]
    """Is given session, header, message, frame and the exception."""
    rest: Callable[..., Any]
    """Is given session, header, message, frame and what the method returned."""


@attrs.frozen
class _Whole:
    """
    What all turns of a pump have in common.
    """

    codec: FrameCodec
    trailer: Any
    head: LengthHead | None
    encode: Callable[[bytes], bytes] | None

    def framed(self, frame: str) -> str:
        """
        Write what makes a frame ready to be sent.
        """
        return frame if self.encode is None else f"ENCODE({frame})"


def make_pump(
    codec: FrameCodec,
    tag: str | tuple[str, ...] | Callable[[Any], Any] | None,
    find: Find,
    most: int,
    *,
    trailer: Any,
    cut: LengthHead | None,
    head: LengthHead | None,
    encode: Callable[[bytes], bytes] | None,
) -> Pump | None:
    """
    Make the function that answers the frames of a session.

    Args:
        codec: header and trailer.
        tag: what in the header says which message follows.
        find: gives a tag's message and how it is answered.
        most: the largest frame, in bytes.
        trailer: the trailer of each answer.
        cut: how the buffer is cut into frames; `None` if it is one frame.
        head: how answers are made ready to be sent, if that is by their length.
        encode: does so otherwise; `None` if nothing has to be done.

    Returns:
        `None` if there is no such function for this protocol.
    """
    size = fixed_size(codec.header)
    known = all(not given or given.code for given in (cut, head))
    if size is None or not known:
        return None
    whole = _Whole(codec, trailer, head, encode)
    try:
        return _make_pump(whole, tag, find, most, cut, size)
    except Exception as exc:
        tell_failure(codec.name, exc)
        return None


def _make_pump(
    whole: _Whole,
    tag: Any,
    find: Find,
    most: int,
    cut: LengthHead | None,
    size: int,
) -> Pump:
    codec = whole.codec
    writer = ParseWriter(Caps())
    writer.out.depth = 3
    least = size + codec.trailer_size
    skip = 0
    if cut is None:
        for line in ("stop_at = end", f"if stop_at - pos > {most}: break"):
            writer.out.line(line)
    else:
        skip = cut.skip
        least = max(least + skip, cut.size)
        if skip:
            writer.take(cut.code[0], cut.code[1:], cut.size, "n")
        else:
            unpack = writer.out.constant(cut.unpack, "unpack")
            writer.out.line(f"n, = {unpack}(buf, pos + {cut.offset})")
        for line in (
            f"n += {cut.plus}",
            f"if not {least} <= n <= {min(cut.most, most)}: break",
            "stop_at = pos + n",
            "if stop_at > end: break",
        ):
            writer.after(line)
    writer.after(f"stop = stop_at - {codec.trailer_size}")
    begin = emit_parts(codec, writer, "stop_at", ("pos", skip))
    turn = "turn(buf, {}, stop, h, session, send, {}, stop_at)"
    lines = [
        "def pump(buf, pos, end, session, send):",
        f"    for _ in range({1 if cut is None else _AT_A_TIME}):",
        f"        if end - pos < {least}: break",
        "        try:",
        *writer.out.lines,
        f"            turn = TURNS[{tag_source(tag)}]",
        "        except Exception: break",
        f"        going = {turn.format(begin, f'pos + {skip}')}",
        "        if going is not True:",
        "            if going is None: break",
        "            return stop_at, going",
        "        pos = stop_at",
        *(["        return pos, True"] if cut is None else []),
        f"    return {'-1' if cut is None else 'pos'}, True",
    ]
    names: dict[str, Any] = {
        **parse_globals(),
        **writer.out.constants,
        "TURNS": _Turns(whole, find),
        "TAG": tag,
    }
    return compile_function("pump", "\n".join(lines), names, codec.name)


def make_turns(pump: Pump, tags: Iterable[Any]) -> None:
    """
    Make the functions of messages at once that a pump makes when a tag is first seen.
    """
    turns = pump.__globals__["TURNS"]
    for tag in tags:
        turns[tag]


class _Turns(dict[Any, Callable[..., Any]]):
    """
    The functions by tag, made when a tag is first seen.
    """

    def __init__(self, whole: _Whole, find: Find) -> None:
        super().__init__()
        self.whole = whole
        self.find = find

    def __missing__(self, tag: Any) -> Callable[..., Any]:
        found = self.find(tag)
        made: Callable[..., Any] = _leave
        if found is not None:
            try:
                made = _make_turn(self.whole, *found)
            except Exception as exc:
                tell_failure(found[0].record_name, exc)
        if len(self) < 4096:
            self[tag] = made
        return made


def _leave(*_: Any) -> Any:
    return None


def _make_turn(
    whole: _Whole, record: Record, caps: Caps, turn: Turn
) -> Callable[..., Any]:
    """
    Make the function for one kind of message.

    It gives True, `None` if it leaves the frame to others, or what is left to do.
    """
    writer = ParseWriter(caps)
    writer.out.depth = 2
    # What is of fixed size may be read before it is known to be all there.
    writer.bounded = fixed_size(record) is not None
    lines = emit_body(whole.codec, record, writer, "o")
    if any("parse_opaque(" in line for line in lines):
        # Construct counts places from the start of the frame, and looks about there.
        first = (
            "buf = buf[start:stop_at]",
            "pos -= start; end -= start; stop_at -= start; start = 0",
        )
        lines[:0] = ["        " + line for line in first]
    out = writer.out
    sources = {
        "message": "o",
        "session": "session",
        "header": "h",
        "frame": "buf[start:stop_at]",
    }
    arguments = ", ".join(sources[name] for name in turn.arguments)
    out.constants["TRAILER"] = whole.trailer
    answers: list[str] = []
    for answer, literals in turn.answers:
        out.lines, out.depth = [], 3
        try:
            frame = emit_frame(
                whole.codec, answer, literals, out, "r", "TRAILER", whole.head
            )
        except Untranslatable:
            continue
        owner = out.constant(answer.owner, "class")
        answers += [
            f"    if r.__class__ is {owner}:",
            "        try:",
            *out.lines,
            f"            frame = {whole.framed(frame)}",
            "        except Exception: pass",
            "        else:",
            "            left = send(frame)",
            "            return True if left is None else left",
        ]
    lines = [
        "def turn(buf, pos, end, h, session, send, start, stop_at):",
        "    try:",
        *lines,
        "    except Exception: return None",
        f"    try: r = METHOD({arguments})",
        "    except (Exception, SystemExit) as exc:",
        "        return FAILED(session, h, o, buf[start:stop_at], exc)",
        "    if session.closed:",
        "        return REST(session, h, o, buf[start:stop_at], r)",
        *answers,
        "    if r is None: return True",
        "    return REST(session, h, o, buf[start:stop_at], r)",
    ]
    names = {
        **body_globals(writer),
        **build_globals(),
        **out.constants,
        "METHOD": turn.method,
        "ENCODE": whole.encode,
        "FAILED": turn.failed,
        "REST": turn.rest,
    }
    return compile_function("turn", "\n".join(lines), names, record.record_name)
