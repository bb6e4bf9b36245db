"""
The form of a message that notes which bytes each of its fields takes.

A record's guarded tree is copied once into a form whose nodes note where they start
and stop; the tree that messages are parsed with knows nothing of it. What a parse
notes goes to the `Trace` of the present context.

A leaf is what nothing inside of it has noted. What only wraps one leaf (an enum, a
text in a fixed size) takes its place with the value that the message has; what makes
one value of several parts, as an adapter, becomes one leaf. Bytes that were decoded
before they were parsed (compressed, encrypted) have no places inside, so they are
one leaf too. What a part has skipped is padding.
"""

from __future__ import annotations

import copy
import enum
from contextvars import ContextVar
from typing import Any

import attrs
import construct

from protoserve.codec import nodes
from protoserve.codec.computed import ChecksumOf, CountOf, LengthOf
from protoserve.codec.enums import EnumField
from protoserve.codec.record import Field, Member, Record

__all__ = ["TRACE", "Leaf", "Trace", "noting_record"]


@attrs.define
class Leaf:
    """
    A span in the making; positions are those of the stream that is being parsed.
    """

    path: str
    start: int
    stop: int
    value: Any
    kind: str
    refers: str = ""
    unit: str = ""
    doc: str = ""
    bits: tuple[int, int] | None = None
    prefix: bool = False
    """Whether it says how much of the thing at the same path follows."""
    part: str = "body"


@attrs.define
class Trace:
    """
    What one parse has found so far.
    """

    leaves: list[Leaf] = attrs.field(factory=list)
    last: Any = None
    """The value of the node that was finished last."""

    def note(
        self, original: Any, path: str, start: int, stop: int, value: Any, mark: int
    ) -> None:
        """
        Take note of a node that was parsed.

        Args:
            original: the user's object.
            path: its path.
            start: where it starts in its stream.
            stop: where it ends there.
            value: what it gave.
            mark: how many leaves there were before.
        """
        inside = self.leaves[mark:]
        if not inside:
            if stop > start:
                kind = _kind(original, value)
                self.leaves.append(Leaf(path, start, stop, value, kind))
            return
        parts = [leaf for leaf in inside if not (leaf.prefix and leaf.path == path)]
        if _is_remade(original, value, self.last):
            if parts:
                kind = _kind(original, value)
                whole = Leaf(path, parts[0].start, parts[-1].stop, value, kind)
                self.leaves[mark:] = [leaf for leaf in inside if leaf not in parts]
                self.leaves.append(whole)
        elif isinstance(original, construct.Const):
            inside[-1].kind = "constant"
        only = len(self.leaves) - mark == 1 and self.leaves[mark]
        if only and not only.prefix and only.path == path:
            only.start, only.stop = min(start, only.start), max(stop, only.stop)
        elif start <= self.leaves[-1].stop < stop:
            behind = self.leaves[-1].stop
            self.leaves.append(Leaf(path, behind, stop, None, "padding"))

    def to_bytes(self, mark: int, start: int, scale: int) -> None:
        """
        Turn positions among bits into places among bytes.

        Args:
            mark: how many leaves there were before the bits.
            start: the byte at which the bits start.
            scale: positions in one byte.
        """
        for leaf in self.leaves[mark:]:
            low, high = leaf.start, leaf.stop
            leaf.start = start + low // scale
            leaf.stop = start - -high // scale
            if low % scale or high % scale:
                leaf.bits = low % scale, low % scale + high - low - 1


TRACE: ContextVar[Trace] = ContextVar("protoserve.spans")

_NAMING = (EnumField, construct.Enum, construct.FlagsEnum, construct.Mapping)
"""Nodes that have names for values."""

_OPAQUE = (
    construct.Peek,
    construct.ProcessRotateLeft,
    construct.ProcessXor,
    construct.RestreamData,
    construct.Tunnel,
    construct.Union,
)
"""Nodes inside of which places mean nothing, or mean places that others have."""


def _is_remade(original: Any, value: Any, inside: Any) -> bool:
    """
    Say whether a node's value is its own, in place of those of what is inside.
    """
    if isinstance(original, _NAMING):
        return True
    if isinstance(original, construct.NamedTuple):  # has the same values in another way
        return False
    return isinstance(original, construct.Adapter) and value is not inside


def _kind(original: Any, value: Any) -> str:
    """
    Say what a leaf is, by its format and its value.
    """
    if isinstance(original, construct.Padded) and original.subcon is construct.Pass:
        return "padding"
    if isinstance(value, bool):
        return "number"
    if isinstance(value, enum.Enum) or isinstance(original, _NAMING):
        return "enum"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "text"
    return "bytes" if isinstance(value, bytes | bytearray) else "other"


# The tree ----------------------------------------------------------------------


class _Noting(nodes.Traced):
    """
    A guarded node that notes where it starts and stops.
    """

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        trace = TRACE.get()
        mark = len(trace.leaves)
        start = stream.tell()
        try:
            value = super()._parse(stream, context, path)
        finally:
            if self.scale:
                trace.to_bytes(mark, start, self.scale)
        trace.note(self.original, path, start, stream.tell(), value, mark)
        trace.last = value
        return value


class _Attempt(construct.Subconstruct):  # type: ignore[misc] # construct is untyped
    """
    One of several alternatives: when it fails, what it has noted is forgotten.
    """

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        trace = TRACE.get()
        mark = len(trace.leaves)
        try:
            return self.subcon._parsereport(stream, context, path)
        except Exception:
            del trace.leaves[mark:]
            raise


class _Prefix(construct.Subconstruct):  # type: ignore[misc] # construct is untyped
    """
    The number in front of something that says how much of it there is.
    """

    kind = "length"

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        trace = TRACE.get()
        mark = len(trace.leaves)
        value = self.subcon._parsereport(stream, context, path)
        if self.kind == "count":  # a field of its own to Construct
            path = path.removesuffix(".count")
        for leaf in trace.leaves[mark:]:
            leaf.path, leaf.kind, leaf.prefix = path, self.kind, True
            leaf.refers = path.rpartition(".")[2]
        return value


class _Counter(_Prefix):
    kind = "count"


class _Marked(construct.Subconstruct):  # type: ignore[misc] # construct is untyped
    """
    A message's field, or a run of bit fields: tells what was declared of them.
    """

    def __init__(self, member: Member) -> None:
        super().__init__(_noting(member.construct))
        self.member = member

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        trace = TRACE.get()
        mark = len(trace.leaves)
        try:
            return self.subcon._parsereport(stream, context, path)
        finally:
            fields = self.member.fields
            of_run = {f"{path}.{field.name}": field for field in fields}
            for leaf in trace.leaves[mark:]:
                if not self.member.bits:
                    _declare(leaf, fields[0], leaf.path == path)
                elif leaf.path in of_run:
                    _declare(leaf, of_run[leaf.path], own=True)


def _declare(leaf: Leaf, field: Field, own: bool) -> None:
    leaf.unit = leaf.unit or field.unit
    leaf.doc = leaf.doc or field.doc
    if not own:
        return
    if field.hidden and leaf.kind != "constant":
        leaf.kind = "padding"
    if field.computed is not None and not leaf.prefix:
        leaf.kind = _COMPUTED[type(field.computed)]
        leaf.refers = " to ".join(field.computed.names)


_COMPUTED: dict[type[Any], str] = {
    ChecksumOf: "checksum",
    CountOf: "count",
    LengthOf: "length",
}


class _NotingRecord(Record):
    """
    A message whose parts note where they are.
    """

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        value = super()._parse(stream, context, path)
        TRACE.get().last = value
        return value

    def made(self, values: dict[str, Any], spans: Any, path: str) -> Any:
        """
        Make the message; what its class has made of the values is told.
        """
        message = super().made(values, spans, path)
        names = {f"{path}.{f.name}": f.name for f in self.fields if not f.hidden}
        for leaf in reversed(TRACE.get().leaves):
            if not leaf.path.startswith(path):
                break
            if leaf.path in names and not leaf.prefix and leaf.kind != "padding":
                leaf.value = getattr(message, names[leaf.path])
        return message


def noting_record(record: Record) -> Record:
    """
    Give the noting form of a message; it is made once.
    """
    if record.noting is None:
        made = copy.copy(record)
        made.__class__ = _NotingRecord
        made._members = tuple(
            attrs.evolve(member, construct=_Marked(member)) for member in record.members
        )
        record.noting = made  # whole, as other threads may look for it
    noting: Record = record.noting
    return noting


def _noting(node: Any) -> Any:
    """
    Copy a guarded node into a form that notes.
    """
    if isinstance(node, Record):
        return _Late(node)
    if isinstance(node, nodes.Traced):
        copied = copy.copy(node)
        copied.__class__ = _Noting
        if not isinstance(node.original, _OPAQUE) and node.scale != 0:
            copied.inner = _parts(node.inner)
        return copied
    return _parts(node)


def _parts(node: Any) -> Any:
    """
    Copy what does a node's work, with its parts in the form that notes.
    """
    copied = copy.copy(node)
    if isinstance(node, nodes.CappedLazyBound):
        copied._guarded = None
        copied.guard = lambda subcon: _noting(node.guard(subcon))
        return copied
    for name, value in vars(copied).items():
        if isinstance(value, construct.Construct):
            setattr(copied, name, _noting(value))
        elif name == "subcons":
            copied.subcons = [_noting(part) for part in value]
        elif name == "cases":
            copied.cases = {key: _noting(part) for key, part in value.items()}
    if isinstance(node, construct.Prefixed):
        copied.lengthfield = _Prefix(copied.lengthfield)
    elif isinstance(node, construct.Select):
        copied.subcons = [_Attempt(part) for part in copied.subcons]
    elif isinstance(node, construct.FocusedSeq) and _is_counted(node):
        copied.subcons[0] = _named(_Counter(copied.subcons[0]), "count")
    return copied


def _is_counted(node: Any) -> bool:
    """
    Know a `PrefixedArray` by its parts.
    """
    names = [part.name for part in node.subcons]
    return node.parsebuildfrom == "items" and names == ["count", "items"]


def _named(node: Any, name: str) -> Any:
    node.name = name
    return node


class _Late(construct.Construct):  # type: ignore[misc] # construct is untyped
    """
    A message inside another: its noting form is made when it is met.

    A switch may have many messages of which a frame has few.
    """

    is_guarded = True

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        return noting_record(self.record)._parsereport(stream, context, path)
