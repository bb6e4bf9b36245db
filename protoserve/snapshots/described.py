"""
A protocol and its messages in terms of JSON, for programs and for snapshots.

All of it is read from the declaration: `protoserve.codec.layout` puts the codec's own
plan into words, the rest are the protocol's tables. Each part has the same keys, `null`
or empty where there is nothing to say.
"""

from __future__ import annotations

import inspect
from typing import Any

import attrs
from construct import Construct

from protoserve.codec.fault import describe as name_of
from protoserve.codec.layout import Part, in_words, layout_of, messages_in
from protoserve.messages import Message, response_types
from protoserve.protocol import Direction, Protocol

__all__ = [
    "answers_of",
    "doc_of",
    "framing_as_plain",
    "in_text",
    "message_as_plain",
    "messages_of",
    "part_as_plain",
    "plain_tag_of",
    "protocol_as_plain",
    "size_of_parts",
]

_Plain = dict[str, Any]


def messages_of(protocol: Protocol) -> dict[str, type[Message]]:
    """
    Give all message classes of a protocol by name, those inside others included.
    """
    outermost = [protocol.header, *protocol.classes(), protocol.trailer]
    found: dict[str, type[Message]] = {}
    for cls in outermost:
        for record in messages_in(cls._record) if cls is not None else ():
            found.setdefault(record.record_name, record.owner)
    return found


def doc_of(cls: type[Message]) -> str:
    """
    Take a class's description; a class that has none of its own has no other's.
    """
    return inspect.cleandoc(cls.__dict__.get("__doc__") or "").partition("\n\n")[0]


def answers_of(cls: type[Message]) -> list[str]:
    """
    Name what answers a request.
    """
    return [
        getattr(a, "__forward_arg__", None) or a.__name__ for a in response_types(cls)
    ]


def in_text(value: Any) -> str:
    """
    Write something that a protocol was declared with.
    """
    if isinstance(value, tuple):
        return ", ".join(map(in_text, value))
    if isinstance(value, str):
        return value
    return in_words(value) if callable(value) else str(value)


def plain_tag_of(tag: Any) -> Any:
    """
    Bring a tag to what JSON has: the number of an enum's member, a list for a tuple.
    """
    if isinstance(tag, tuple):
        return [plain_tag_of(each) for each in tag]
    if isinstance(tag, bytes):
        return tag.hex()
    tag = getattr(tag, "value", tag)
    return tag if tag is None or isinstance(tag, bool | int | str) else str(tag)


def framing_as_plain(protocol: Protocol) -> _Plain | None:
    """
    Give how streams are cut, with the options that are not the usual ones.
    """
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
    return name_of(value) if isinstance(value, Construct) else in_text(value)


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
        "values": {name: plain_tag_of(value) for name, value in part.values},
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
        "doc": doc_of(cls) or None,
        "size": size_of_parts(parts),
        "error": cls.is_error,
        "answered_by": answers_of(cls),
        "parts": [part_as_plain(part) for part in parts],
    }


def size_of_parts(parts: tuple[Part, ...]) -> int | None:
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
        "framing": framing_as_plain(protocol),
        "header": protocol.header.__name__ if protocol.header else None,
        "trailer": protocol.trailer.__name__ if protocol.trailer else None,
        "tag": None if protocol.tag is None else in_text(protocol.tag),
        "correlate": None
        if protocol.correlate is None
        else in_text(protocol.correlate),
        **{
            f"{way.value}s": [
                {"tag": plain_tag_of(tag), "message": cls.__name__}
                for tag, cls in protocol.table(way).items()
            ]
            for way in Direction
        },
        "states": states,
        "messages": [message_as_plain(c) for c in messages_of(protocol).values()],
    }
