"""
``protoserve describe``: a protocol or one of its messages, as tables or as JSON.

All that is shown is read from the declaration: `protoserve.codec.layout` puts the
codec's own plan into words, the rest are the protocol's tables. The JSON form has the
same keys for every part, `null` or empty where there is nothing to say. Names and
docs are a user's text, so they never go through Rich's markup.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import json
import re
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs
from construct import Construct

from protoserve.cli.targets import CommandError, load
from protoserve.codec.compiled import builder_of, parser_of, source_of
from protoserve.codec.fault import describe as name_of
from protoserve.codec.fault import plural
from protoserve.codec.layout import Part, in_words, layout_of, messages_in
from protoserve.messages import Message, response_types
from protoserve.protocol import Direction, Protocol

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
    known = _messages_of(protocol)
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


def _messages_of(protocol: Protocol) -> dict[str, type[Message]]:
    """
    Give all message classes of a protocol by name, those inside others included.
    """
    outermost = [protocol.header, *protocol.classes(), protocol.trailer]
    found: dict[str, type[Message]] = {}
    for cls in outermost:
        for record in messages_in(cls._record) if cls is not None else ():
            found.setdefault(record.record_name, record.owner)
    return found


def _hint(name: str, known: Mapping[str, Any]) -> str:
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), by_lower, 1, 0.5)
    if close:
        return f"; did you mean {by_lower[close[0]]}?"
    return f"; it has {', '.join(known)}" if known else ""


def _doc(cls: type[Message]) -> str:
    """
    Take a class's description; a class that has none of its own has no other's.
    """
    return inspect.cleandoc(cls.__dict__.get("__doc__") or "").partition("\n\n")[0]


def _answers(cls: type[Message]) -> list[str]:
    return [
        getattr(a, "__forward_arg__", None) or a.__name__ for a in response_types(cls)
    ]


def _value(value: Any) -> str:
    """
    Write something that a protocol was declared with.
    """
    if isinstance(value, tuple):
        return ", ".join(map(_value, value))
    if isinstance(value, str):
        return value
    return in_words(value) if callable(value) else str(value)


def _tag(tag: Any) -> Any:
    """
    Bring a tag to what JSON has: the number of an enum's member, a list for a tuple.
    """
    if isinstance(tag, tuple):
        return [_tag(each) for each in tag]
    if isinstance(tag, bytes):
        return tag.hex()
    tag = getattr(tag, "value", tag)
    return tag if tag is None or isinstance(tag, bool | int | str) else str(tag)


def _framing(protocol: Protocol) -> _Plain | None:
    framing: Any = protocol.framing
    if framing is None:
        return None
    options = {}
    for field in attrs.fields(type(framing)) if attrs.has(type(framing)) else ():
        value = getattr(framing, field.name)
        if field.init and field.alias and value != field.default:
            options[field.alias] = value if isinstance(value, int) else _option(value)
    return {"kind": type(framing).__name__, "options": options}


def _option(value: Any) -> str:
    if isinstance(value, bytes):
        return f"hex {value.hex()}"
    return name_of(value) if isinstance(value, Construct) else _value(value)


# As JSON ---------------------------------------------------------------------


def part_as_plain(part: Part) -> _Plain:
    """
    Give a part in terms of JSON.
    """
    return {
        "name": part.name or None,
        "after": part.after or None,
        "offset": part.offset,
        "size": part.size,
        "extent": part.extent or None,
        "bits": None if part.bits is None else list(part.bits),
        "type": part.type,
        "unit": part.unit or None,
        "doc": part.doc or None,
        "values": {name: _tag(value) for name, value in part.values},
        "computed": part.computed or None,
        "condition": part.condition or None,
        "messages": list(part.messages),
        "parts": [part_as_plain(inner) for inner in part.parts],
    }


def message_as_plain(cls: type[Message]) -> _Plain:
    """
    Give a message in terms of JSON.
    """
    parts = layout_of(cls._record)
    return {
        "message": cls.__name__,
        "doc": _doc(cls) or None,
        "size": _size(parts),
        "error": cls.is_error,
        "answered_by": _answers(cls),
        "parts": [part_as_plain(part) for part in parts],
    }


def _size(parts: tuple[Part, ...]) -> int | None:
    """
    Give the size of a message that always has the same.
    """
    last = parts[-1] if parts else None
    if last is None:
        return 0
    if last.after or last.size is None:
        return None
    return last.offset + last.size


def protocol_as_plain(protocol: Protocol) -> _Plain:
    """
    Give a protocol in terms of JSON.
    """
    states = {
        state: {cls.__name__: following for cls, following in moves.items()}
        for state, moves in (protocol.states or {}).items()
    }
    return {
        "protocol": protocol.name,
        "doc": protocol.doc or None,
        "ports": dict(protocol.ports),
        "framing": _framing(protocol),
        "header": protocol.header.__name__ if protocol.header else None,
        "trailer": protocol.trailer.__name__ if protocol.trailer else None,
        "tag": None if protocol.tag is None else _value(protocol.tag),
        "correlate": None if protocol.correlate is None else _value(protocol.correlate),
        **{
            f"{way.value}s": [
                {"tag": _tag(tag), "message": cls.__name__}
                for tag, cls in protocol.table(way).items()
            ]
            for way in Direction
        },
        "states": states,
        "messages": [message_as_plain(c) for c in _messages_of(protocol).values()],
    }


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
    framing = _framing(protocol)
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
        _add(facts, "tag", _value(protocol.tag))
    if protocol.correlate is not None:
        _add(facts, "answers are told by", _value(protocol.correlate))
    yield facts
    yield _tags_table(protocol)
    if protocol.states:
        table = _table("States", "state", "message", "leads to")
        for state, moves in protocol.states.items():
            for cls, following in moves.items():
                _add(table, state, cls.__name__, following)
        yield table
    for cls in _messages_of(protocol).values():
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
        answers = "an error" if cls.is_error else " or ".join(_answers(cls))
        _add(table, _case(tag), way, cls.__name__, answers, _summary(_doc(cls)))
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
    plain = _tag(tag)
    text = f"{plain} (0x{plain:x})" if type(plain) is int and plain > 9 else str(plain)
    return f"{text} {name}" if name else text


def _summary(doc: str) -> str:
    return " ".join(doc.split())


def _message_tables(cls: type[Message]) -> Iterator[RenderableType]:
    parts = layout_of(cls._record)
    size = _size(parts)
    how_long = "variable size" if size is None else plural(size, "byte")
    doc = _summary(_doc(cls))
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
        shown = [f"{_tag(v)} {name}" for name, v in part.values[:_MOST_VALUES]]
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
