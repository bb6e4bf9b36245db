"""
``protoserve describe``: a protocol or one of its messages, as tables or as JSON.

All that is shown is read from the declaration: `protoserve.codec.layout` puts the
codec's own plan into words, the rest are the protocol's tables. The JSON form is that
of `protoserve.snapshots.described`. Names and docs are a user's text, so they never go
through Rich's markup.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from construct import Construct

from protoserve.cli.targets import CommandError, load
from protoserve.codec.compiled import builder_of, parser_of, source_of
from protoserve.codec.fault import describe as name_of
from protoserve.codec.fault import plural
from protoserve.codec.layout import Part, layout_of
from protoserve.messages import Message
from protoserve.protocol import Direction, Protocol
from protoserve.snapshots.described import (
    answers_of,
    doc_of,
    framing_as_plain,
    in_text,
    message_as_plain,
    messages_of,
    plain_tag_of,
    protocol_as_plain,
    size_of_parts,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["show"]

_NARROWEST = 100
"""Columns of tables that are not shown on a terminal."""
_MOST_VALUES = 12
"""Names of values that a table shows; JSON has all."""

_Plain = dict[str, Any]


def show(target: str, *, as_json: bool, code: bool) -> None:
    """
    Show what a target declares.

    Args:
        target: ``MODULE:PROTOCOL``, with ``:MESSAGE`` behind it for one message.
        as_json: write one JSON object.
        code: write the generated functions.

    Raises:
        CommandError: there is no such thing, or both forms are asked for.
    """
    if as_json and code:
        raise CommandError("--json and --code exclude each other")
    parts = target.split(":")
    name = ":".join(parts[:2])
    protocol = load(name, Protocol, "protocols.dns:dns or protocols.dns:dns:Query")
    known = messages_of(protocol)
    message = ":".join(parts[2:])
    if len(parts) > 2 and message not in known:
        raise CommandError(f"{name} has no message {message!r}{_hint(message, known)}")
    chosen = known[message] if message else None
    if code:
        _show_code(
            _protocol_code(protocol) if chosen is None else _message_code(chosen)
        )
    elif as_json:
        plain = (
            protocol_as_plain(protocol) if chosen is None else message_as_plain(chosen)
        )
        sys.stdout.write(json.dumps(plain, indent=2, ensure_ascii=False) + "\n")
    else:
        console = _console()
        shown = (
            _protocol_tables(protocol) if chosen is None else _message_tables(chosen)
        )
        for each in shown:
            console.print(each)


def _hint(name: str, known: Mapping[str, Any]) -> str:
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), by_lower, 1, 0.5)
    if close:
        return f"; did you mean {by_lower[close[0]]}?"
    return f"; it has {', '.join(known)}" if known else ""


# As tables -------------------------------------------------------------------


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _NARROWEST)
    return console


def _table(title: str, *heads: str) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(title, "bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for head in heads:
        justify: Any = "right" if head == "size" else "left"
        table.add_column(head, justify=justify, overflow="fold")
    return table


def _add(table: Any, *cells: Any) -> None:
    from rich.text import Text

    table.add_row(*(Text(str(cell)) for cell in cells))


def _text(text: str, style: str = "") -> Any:
    from rich.text import Text

    return Text(text, style)


def _protocol_tables(protocol: Protocol) -> Iterator[RenderableType]:
    doc = f": {protocol.doc}" if protocol.doc else ""
    yield _text(f"{protocol.name}{doc}\n", "bold")
    facts = _table("")
    facts.show_header = False
    facts.title = None
    framing = framing_as_plain(protocol)
    if framing is None:
        how = "none: a datagram is a frame"
    else:
        options = ", ".join(f"{k}={v}" for k, v in framing["options"].items())
        how = f"{framing['kind']}({options})"
    frame = [protocol.header, Message, protocol.trailer]
    ports = ", ".join(f"{kind} {port}" for kind, port in protocol.ports.items())
    _add(facts, "ports", ports or "none of its own")
    _add(facts, "framing", how)
    _add(facts, "frame", " · ".join(_frame_part(part) for part in frame if part))
    if protocol.tag is not None:
        _add(facts, "tag", in_text(protocol.tag))
    if protocol.correlate is not None:
        _add(facts, "answers are told by", in_text(protocol.correlate))
    yield facts
    yield _tags_table(protocol)
    if protocol.states:
        table = _table("States", "state", "message", "leads to")
        for state, moves in protocol.states.items():
            for cls, following in moves.items():
                _add(table, state, cls.__name__, following)
        yield table
    for cls in messages_of(protocol).values():
        yield from _message_tables(cls)


def _frame_part(part: type[Message]) -> str:
    return "message" if part is Message else part.__name__


def _tags_table(protocol: Protocol) -> Any:
    table = _table(
        "Messages", "tag", "direction", "message", "answered by", "what it is"
    )
    ways: dict[Any, list[str]] = {}
    for direction in Direction:
        for entry in protocol.table(direction).items():
            ways.setdefault(entry, []).append(direction.value)
    for (tag, cls), directions in ways.items():
        way = "both" if len(directions) > 1 else directions[0]
        answers = "an error" if cls.is_error else " or ".join(answers_of(cls))
        _add(table, _case(tag), way, cls.__name__, answers, _summary(doc_of(cls)))
    return table


def _case(tag: Any) -> str:
    """
    Write a tag: numbers with their names, and in hex where that is how it is said.
    """
    if tag is None:
        return ""
    if isinstance(tag, tuple):
        return ", ".join(map(_case, tag))
    name = getattr(tag, "name", None)
    plain = plain_tag_of(tag)
    text = f"{plain} (0x{plain:x})" if type(plain) is int and plain > 9 else str(plain)
    return f"{text} {name}" if name else text


def _summary(doc: str) -> str:
    return " ".join(doc.split())


def _message_tables(cls: type[Message]) -> Iterator[RenderableType]:
    parts = layout_of(cls._record)
    size = size_of_parts(parts)
    how_long = "variable size" if size is None else plural(size, "byte")
    doc = _summary(doc_of(cls))
    heads = ["offset", "size", "field", "type", "unit", "about"]
    if not any(part.unit for part in _all(parts)):
        heads.remove("unit")
    table = _table(f"{cls.__name__} ({how_long}){': ' if doc else ''}{doc}", *heads)
    for depth, part in _tree(parts):
        cells = {
            "offset": _offset(part),
            "size": _extent(part),
            "field": "  " * depth + (part.name or "-"),
            "type": part.type,
            "unit": part.unit,
            "about": _about(part),
        }
        _add(table, *(cells[head] for head in heads))
    yield table


def _tree(parts: tuple[Part, ...], depth: int = 0) -> Iterator[tuple[int, Part]]:
    for part in parts:
        yield depth, part
        yield from _tree(part.parts, depth + 1)


def _all(parts: tuple[Part, ...]) -> Iterator[Part]:
    return (part for _, part in _tree(parts))


def _offset(part: Part) -> str:
    if not part.after:
        return str(part.offset)
    return f"{part.after} +{part.offset}" if part.offset else f"behind {part.after}"


def _extent(part: Part) -> str:
    if part.bits is not None:
        high, low = part.bits
        where = str(low) if high == low else f"{high}..{low}"
        return f"bit{'' if high == low else 's'} {where}"
    return part.extent or "varies" if part.size is None else str(part.size)


def _about(part: Part) -> str:
    said = [
        part.doc,
        f"is {part.computed}" if part.computed else "",
        f"if {part.condition.removeprefix('if ')}" if part.condition else "",
    ]
    if part.values:
        shown = [f"{plain_tag_of(v)} {name}" for name, v in part.values[:_MOST_VALUES]]
        more = len(part.values) - len(shown)
        said.append(", ".join(shown) + (f" and {more} more" if more else ""))
    if part.messages and not any(name in part.type for name in part.messages):
        said.append(f"holds {', '.join(part.messages)}")
    return "; ".join(filter(None, said))


# As code ---------------------------------------------------------------------


_Function = tuple[str, Callable[..., Any] | None]
"""What a generated function does, and the function."""


def _show_code(functions: Iterator[_Function]) -> None:
    """
    Write functions, in colours on a terminal.
    """
    text = "\n\n".join("\n".join(_source(*each)) for each in functions)
    if sys.stdout.isatty():
        from rich.syntax import Syntax

        _console().print(Syntax(text, "python", background_color="default"))
    else:
        sys.stdout.write(text + "\n")


def _source(title: str, function: Callable[..., Any] | None) -> Iterator[str]:
    source = None if function is None else source_of(function)
    if function is None or source is None:
        yield f"# {title}: left to Construct"
        return
    yield f"# {title}"
    names = function.__globals__
    for name in dict.fromkeys(re.findall(r"\b[A-Z]+_\d+\b", source)):
        yield f"# {name}: {_constant(names[name])}"
    yield source


def _constant(value: Any) -> str:
    """
    Say what a name in generated code stands for.
    """
    shape = getattr(value, "__self__", None)
    if isinstance(shape, struct.Struct):
        return f"{value.__name__} of struct {shape.format!r}"
    if isinstance(value, Construct):
        return name_of(getattr(value, "original", value))
    if callable(value):
        return str(getattr(value, "__name__", type(value).__name__))
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _message_code(cls: type[Message]) -> Iterator[_Function]:
    yield f"parse a {cls.__name__}", parser_of(cls._record, cls._caps)
    yield f"build a {cls.__name__}", builder_of(cls._record)


def _protocol_code(protocol: Protocol) -> Iterator[_Function]:
    """
    Give the functions for frames: of each direction, then of each message.
    """
    from protoserve.codec.generate_frame import frame_builder

    bodies: dict[type[Message], Callable[..., Any] | None] = {}
    builders: dict[type[Message], Callable[..., Any] | None] = {}
    for direction in Direction:
        parse = protocol._made_parser(direction)
        yield f"parse the frame of a {direction.value}", parse
        made = getattr(parse, "__globals__", {}).get("BODIES", {})
        for tag, cls in protocol.table(direction).items():
            if cls not in bodies:
                with contextlib.suppress(Exception):  # a tag that only Construct knows
                    bodies[cls] = made[tag]
                build = protocol._made_sender(cls, direction).build
                # A tag that is no plain field's number is put in by the header.
                plain = frame_builder(protocol._codec, cls._record, {})
                builders[cls] = plain if build is None else build
    for cls, build in builders.items():
        yield f"parse the body of a {cls.__name__}", bodies.get(cls)
        yield f"build the frame of a {cls.__name__}", build
