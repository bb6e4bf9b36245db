"""
A message's plan in terms of JSON, with all that its bytes depend on.

The plan's nodes are attrs classes, so they are written field by field without knowing
one from another, and a new kind of node is written as well. What people read of a
field (doc, unit) is left out: it changes no byte. A message inside another is named.
Functions are written by name with the constants and names that they use: that is as
much as can be compared between two versions of a program.
"""

from __future__ import annotations

import contextlib
import enum
import functools
from collections.abc import Mapping
from typing import Any

import attrs
import construct
from construct import expr

from protoserve.codec.enums import EnumField
from protoserve.codec.fault import describe
from protoserve.codec.layout import in_words, messages_in
from protoserve.codec.plan import (
    BitPart,
    Group,
    Item,
    Mapped,
    Opaque,
    OptionalPart,
    Recursive,
    plan_of,
)
from protoserve.codec.record import Record
from protoserve.messages import Message
from protoserve.protocol import Protocol

__all__ = ["Formats", "names_of"]

_FOR_PEOPLE = {"doc", "unit", "hidden"}
_TOLD_OTHERWISE = {"record", "source", "decode", "missing"}
_TRANSPARENT = (construct.Default, construct.Hex, construct.HexDump, construct.Rebuild)
"""Constructs that change no byte of what they are around, and refuse none."""
_NOT_WIRE = {"name", "docs", "parsed", "flagbuildnone"}
_DEEPEST = 8
"""References to what is defined later that are followed inside one another."""
_DEEP = 4
"""Functions inside functions that are looked at."""


def names_of(protocol: Protocol) -> dict[type[Message], str]:
    """
    Name all message classes of a protocol, those inside others included.

    Namesakes are numbered.
    """
    found: dict[type[Message], str] = {}
    used: dict[str, int] = {}
    for part in (protocol.header, *protocol.classes(), protocol.trailer):
        for record in messages_in(part._record) if part is not None else ():
            if record.owner not in found:
                name = record.record_name
                used[name] = used.get(name, 0) + 1
                found[record.owner] = (
                    name if used[name] == 1 else f"{name}#{used[name]}"
                )
    return found


def _shown(value: Any) -> str:
    """
    Write an object by its own words, unless these are where it is in memory.
    """
    text = repr(value)
    return type(value).__name__ if " at 0x" in text else text


class Formats:
    """
    Writes plans.

    Args:
        names: what messages are called.
    """

    def __init__(self, names: Mapping[type[Message], str]) -> None:
        self.names = names
        self._inside: list[Any] = []

    def of(self, record: Record) -> list[dict[str, Any]]:
        """
        Write what a message consists of, in the order of the wire.
        """
        plan = plan_of(record)
        items = plan.items if isinstance(plan, Group) else (Item(None, plan),)
        return [self._node(item) for item in items]

    def _named(self, record: Record) -> dict[str, Any]:
        name = self.names.get(record.owner, record.record_name)
        return {"kind": "message", "message": name}

    def _node(self, node: Any) -> Any:
        match node:
            case Group(record=Record() as record):
                return self._named(record)
            case Recursive():
                target = node.target()
                if isinstance(target, Record):
                    return self._named(target)
                return self._within(target)
            case Opaque(construct=Record() as record):
                return self._named(record)
            case Opaque():
                return self._construct(node.construct)
        found: dict[str, Any] = {}
        if not isinstance(node, Item):
            found["kind"] = type(node).__name__.lower()
        part = isinstance(node, Item | BitPart)
        left_out = _FOR_PEOPLE if part else _TOLD_OTHERWISE
        for field in attrs.fields(type(node)):
            if field.name not in left_out and field.init:
                found[field.name] = self.value(getattr(node, field.name))
        if part and node.hidden:
            found["name"] = None
        if isinstance(node, Mapped):
            found |= self._mapped(node)
        return found

    def _within(self, subcon: Any) -> Any:
        """
        Write what is only known when it is needed, unless it is inside itself.
        """
        if subcon in self._inside or len(self._inside) >= _DEEPEST:
            return {"kind": "recursive", "construct": describe(subcon)}
        self._inside.append(subcon)
        try:
            return self._node(plan_of(subcon))
        finally:
            self._inside.pop()

    def _mapped(self, node: Mapped) -> dict[str, Any]:
        """
        Write what numbers stand for, and whether others are taken.
        """
        source = node.source
        if isinstance(source, EnumField):
            return {
                "values": [[m.name, self.value(m.value)] for m in source.members],
                "open": not source.strict,
                "flags": source.flags,
            }
        values = [[str(name), self.value(wire)] for wire, name in node.decode.items()]
        return {"values": values, "open": node.missing is not None, "flags": False}

    def _construct(self, subcon: Any) -> dict[str, Any]:
        """
        Write what only Construct knows, by the attributes of its object.
        """
        while isinstance(subcon, construct.Renamed):
            subcon = subcon.subcon
        if type(subcon) in _TRANSPARENT:
            return self._node(plan_of(subcon.subcon))  # type: ignore[no-any-return]
        if isinstance(subcon, construct.Select) and len(subcon.subcons) == 2:
            first, last = subcon.subcons
            if last is construct.Pass:  # an Optional
                return self._node(OptionalPart(plan_of(first)))  # type: ignore[no-any-return]
        attributes = {
            name: self.value(value)
            for name, value in sorted(vars(subcon).items())
            if name not in _NOT_WIRE and (name[0] != "_" or callable(value))
        }
        return {"kind": "construct", "construct": describe(subcon), **attributes}

    def value(self, value: Any, depth: int = 0) -> Any:
        """
        Write whatever a declaration holds.
        """
        if isinstance(value, enum.Enum):
            return self.value(value.value)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float | str):
            return str(value)
        if isinstance(value, bytes | bytearray):
            return f"hex {bytes(value).hex()}"
        if isinstance(value, construct.Construct):
            return self._node(plan_of(value))
        if isinstance(value, expr.ExprMixin):
            return in_words(value)
        if isinstance(value, Mapping):
            return [[self.value(k), self.value(v)] for k, v in value.items()]
        if isinstance(value, tuple | list | set | frozenset):
            return [self.value(each) for each in value]
        if callable(value):
            return self._function(value, depth)
        if attrs.has(type(value)):
            return self._node(value)
        return _shown(value)

    def _function(self, function: Any, depth: int) -> str:
        """
        Write a function by its name and by what it uses.
        """
        if isinstance(function, functools.partial):
            inner = [function.func, *function.args, *function.keywords.items()]
            return f"partial({', '.join(str(self.value(each)) for each in inner)})"
        name = getattr(function, "__qualname__", None) or _shown(function)
        code = getattr(function, "__code__", None)
        if code is None or depth > _DEEP:
            return name
        constants = [
            c for c in code.co_consts if isinstance(c, int | str | bytes | float)
        ]
        if constants and constants[0] == function.__doc__:
            del constants[0]
        inner = []
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # it was not filled in yet
                if not isinstance(cell.cell_contents, construct.Construct):
                    inner.append(self.value(cell.cell_contents, depth + 1))
        names = [self._used(name, function) for name in code.co_names]
        uses = [*map(repr, constants), *names, *map(str, inner)]
        return f"{name}({', '.join(uses)})"

    def _used(self, name: str, function: Any) -> str:
        """
        Write a name that a function uses; of a constant its value too.
        """
        value = function.__globals__.get(name)
        known = isinstance(value, int | float | str | bytes)
        return f"{name}={value!r}" if known else name
