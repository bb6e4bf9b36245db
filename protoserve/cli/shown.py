"""
Messages on the terminal: a tree with units and names, or one JSON object a line.

What came from a peer never reaches the terminal as it is: whatever is not printable
is escaped, and nothing is taken for markup.
"""

from __future__ import annotations

import enum
import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from protoserve.codec.record import Record
from protoserve.errors import (
    CorruptedFrameError,
    FrameTooLongError,
    IncompleteFrameError,
    MalformedMessageError,
    UnknownMessageError,
)
from protoserve.plain import to_plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.tree import Tree

__all__ = [
    "as_entry",
    "console_for",
    "error_as_plain",
    "header_line",
    "tree",
    "write_entry",
]

_MOST_NUMBERS = 64
"""Numbers of a list that a tree shows; JSON has all."""
_MOST_ELEMENTS = 200
_MOST_TEXT = 200
_NARROWEST = 100


def console_for() -> Console:
    """
    Make the console for results.
    """
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _NARROWEST)
    return console


# As JSON -----------------------------------------------------------------------


def error_as_plain(error: BaseException | None, name: str) -> dict[str, Any] | None:
    """
    Give an error in terms of JSON: path, offset, expected and found.

    Args:
        error: what is wrong.
        name: the path of what is wrong with the whole of a frame, or with a stream.
    """
    path: str = name
    offset: int | None = None
    match error:
        case None:
            return None
        case MalformedMessageError():
            path, offset = error.path, error.offset
            expected, found = error.expected, error.found
        case UnknownMessageError():
            expected, found = f"a known tag ({error.known})", repr(error.tag)
        case FrameTooLongError():
            offset = error.offset
            expected = f"a frame length of 0 to {error.limit}"
            found = str(error.size)
        case CorruptedFrameError():
            offset, expected, found = error.offset, "an intact frame", error.reason
        case IncompleteFrameError():
            expected = "the rest of a frame"
            found = f"the end of the stream, {error.buffered} bytes into the frame"
        case _:
            expected = "what the protocol allows"
            found = str(error).partition("\n")[0]
    return {"path": path, "offset": offset, "expected": expected, "found": found}


def as_entry(
    number: int,
    *,
    time: float,
    transport: str,
    src: str | None,
    dst: str | None,
    direction: str,
    protocol: str,
    message: Any = None,
    header: Any = None,
    raw: bytes = b"",
    error: BaseException | None = None,
) -> dict[str, Any]:
    """
    Give one message in terms of JSON, with the keys that all commands use.

    Args:
        number: counts from 1.
        time: seconds since the epoch.
        transport: ``tcp`` and so on.
        src: who sent it.
        dst: whom it was for; `None` where that is not known.
        direction: ``request``, ``response`` or ``message``.
        protocol: the name of what is spoken.
        message: what it was; `None` if it could not be parsed.
        header: its header.
        raw: its frame.
        error: why it could not be parsed.
    """
    return {
        "n": number,
        "time": time,
        "transport": transport,
        "src": src,
        "dst": dst,
        "direction": direction,
        "message": None if message is None else type(message).__name__,
        "header": to_plain(header),
        "fields": to_plain(message),
        "raw": raw.hex(),
        "error": error_as_plain(error, protocol),
    }


def write_entry(entry: Mapping[str, Any]) -> None:
    """
    Write one object as a line, at once.
    """
    sys.stdout.write(json.dumps(entry) + "\n")
    sys.stdout.flush()


# As a tree ---------------------------------------------------------------------


def tree(
    message: Any, note: str = "", *, header: Any = None, style: str = "bold"
) -> Tree:
    """
    Show a message as a tree.

    Args:
        message: the message.
        note: what stands behind its name.
        header: its header; shown where it says more than its defaults do.
        style: of its name.
    """
    from rich.text import Text
    from rich.tree import Tree

    label = Text(type(message).__name__, style)
    if note:
        label.append(f"  {note}", "dim")
    made = Tree(label, guide_style="dim")
    line = header_line(header)
    if line:
        made.add(Text.assemble((f"{type(header).__name__} ", "dim"), line))
    _add_fields(made, message)
    return made


def header_line(header: Any) -> str:
    """
    Write what a header says beyond its defaults.
    """
    if header is None:
        return ""
    defaults = {a.name: _default(a.default) for a in attrs.fields(type(header))}
    said = []
    for field in type(header)._record.fields:
        if field.hidden or field.computed is not None:
            continue
        value = getattr(header, field.name, None)
        if value != defaults.get(field.name, attrs.NOTHING):
            said.append(f"{field.name}={_value(value)}")
    return ", ".join(said)


def _default(default: Any) -> Any:
    made = isinstance(default, attrs.Factory) and not default.takes_self  # type: ignore[arg-type]
    return default.factory() if made else default


def _add_fields(branch: Any, message: Any) -> None:
    for field in type(message)._record.fields:
        if not field.hidden:
            try:
                value = getattr(message, field.name)
            except AttributeError:
                continue
            _add(branch, field.name, value, field.unit)


def _add(branch: Any, name: str, value: Any, unit: str = "") -> None:
    """
    Add a value: on a line of its own, or with what it consists of below it.
    """
    from rich.text import Text

    if _is_message(value):
        inner = branch.add(Text.assemble((name, "cyan"), " ", (type(value).__name__, "bold")))  # fmt: skip
        _add_fields(inner, value)
    elif isinstance(value, Mapping):
        inner = branch.add(Text(name, "cyan"))
        for key, each in value.items():
            if not str(key).startswith("_"):
                _add(inner, str(key), each)
    elif isinstance(value, list | tuple) and any(map(_is_whole, value)):
        inner = branch.add(Text(name, "cyan"))
        for i, each in enumerate(value[:_MOST_ELEMENTS]):
            _add(inner, f"[{i}]", each, unit)
        if len(value) > _MOST_ELEMENTS:
            inner.add(Text(f"… {len(value) - _MOST_ELEMENTS} more", "dim"))
    else:
        line = Text.assemble((name, "cyan"), " ", _value(value))
        if unit and value is not None:
            line.append(f" {unit}", "dim")
        branch.add(line)


def _is_message(value: Any) -> bool:
    return isinstance(getattr(type(value), "_record", None), Record)


def _is_whole(value: Any) -> bool:
    return _is_message(value) or isinstance(value, Mapping | list | tuple)


def _value(value: Any) -> str:
    """
    Write a value that stands on one line.
    """
    if isinstance(value, enum.Enum):
        number = value.value
        name = to_plain(value)
        return f"{name} ({number})" if isinstance(number, int) else str(name)
    if isinstance(value, bytes | bytearray | memoryview):
        return _bytes(bytes(value))
    if isinstance(value, list | tuple):
        shown = ", ".join(_value(each) for each in value[:_MOST_NUMBERS])
        more = len(value) - _MOST_NUMBERS
        return f"[{shown}{f', … {more} more' if more > 0 else ''}]"
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "none"
    return _printable(str(value))


def _bytes(data: bytes) -> str:
    if not data:
        return "(no bytes)"
    shown = data[:_MOST_TEXT].hex()
    more = f"… {len(data)} bytes" if len(data) > _MOST_TEXT else ""
    readable = data.isascii() and len(data) > 1 and data.decode("ascii").isprintable()
    text = f'  "{data[:_MOST_TEXT].decode("ascii")}"' if readable else ""
    return f"{shown}{more}{text}"


def _printable(text: str) -> str:
    shown = "".join(
        c
        if c.isprintable()
        else c.encode("unicode_escape", "backslashreplace").decode()
        for c in text[:_MOST_TEXT]
    )
    return shown + ("…" if len(text) > _MOST_TEXT else "")
