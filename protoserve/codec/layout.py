"""
Where each field of a message stands, in words: the plan, as people read it.

What a message is made of is told once, by its plan; this only puts it into words and
counts bytes. A place is a constant as far as sizes are; behind a field of variable
size it is counted from that field's end. Inside a repeated part it is counted from
each element's start. Messages in messages are named, not repeated: each has a layout
of its own, so that recursive ones need no special care.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import construct
from construct import expr

from protoserve.codec.enums import EnumField
from protoserve.codec.fault import describe
from protoserve.codec.nodes import children
from protoserve.codec.plan import (
    BitPart,
    Bits,
    Chosen,
    Constant,
    Derived,
    Group,
    Item,
    Mapped,
    Node,
    Number,
    Opaque,
    OptionalPart,
    Padding,
    Raw,
    Recursive,
    Repeated,
    Stripped,
    Terminated,
    Text,
    VarNumber,
    Window,
    plan_of,
    size_of,
)
from protoserve.codec.record import Record

__all__ = ["Part", "in_words", "kind_in_words", "layout_of", "messages_in"]


@attrs.frozen(kw_only=True)
class Part:
    """
    One field of a message, or something that a field consists of.
    """

    name: str
    """Empty for parts that carry no value."""
    after: str = ""
    """The part of variable size that the place is counted from; empty: the start."""
    offset: int
    """Bytes from there to the part's first byte."""
    size: int | None
    """Bytes; `None` if it varies. Of bits: those of the word that they are in."""
    extent: str = ""
    """What a size that varies follows from."""
    bits: tuple[int, int] | None = None
    """The highest and the lowest bit in a word of `size` bytes, big-endian."""
    type: str
    unit: str = ""
    doc: str = ""
    values: tuple[tuple[str, Any], ...] = ()
    """Names for values, with what is on the wire for each."""
    computed: str = ""
    """What its value follows from."""
    condition: str = ""
    """When it is there; empty: always."""
    messages: tuple[str, ...] = ()
    """The message classes that its value may be, or may contain."""
    parts: tuple[Part, ...] = ()


@attrs.define
class _Place:
    """
    Where the next part begins.
    """

    after: str = ""
    offset: int = 0

    def skip(self, part: Part) -> None:
        """
        Go on behind a part.
        """
        if part.size is None:
            self.after, self.offset = part.name or "what varies", 0
        else:
            self.offset += part.size


def layout_of(record: Record) -> tuple[Part, ...]:
    """
    Lay a message out.

    Args:
        record: the message's Construct form.
    """
    plan = plan_of(record)
    if isinstance(plan, Group):
        return _group(plan, _Place())
    return (_part(Item(record.record_name, plan), _Place()),)


def messages_in(record: Record) -> list[Record]:
    """
    Give a message and those inside it, each once, in the order of the wire.
    """
    found = {record.owner: record}
    waiting: list[Any] = [field.construct for field in record.fields]
    seen = set()
    while waiting:
        subcon = waiting.pop(0)
        if id(subcon) in seen:
            continue
        seen.add(id(subcon))
        if isinstance(subcon, construct.LazyBound):
            waiting.insert(0, subcon.subconfunc())
            continue
        if isinstance(subcon, Record):
            found.setdefault(subcon.owner, subcon)
        waiting[:0] = children(subcon)
    return list(found.values())


def in_words(expression: Any) -> str:
    """
    Write one of Construct's expressions, or a function, for people.

    >>> from construct import this
    >>> in_words(this.header.count * 2)
    'header.count * 2'
    """
    if not callable(expression):
        return repr(expression)
    if isinstance(expression, expr.ExprMixin):
        text = repr(expression)
        if text.startswith("(") and text.endswith(")"):
            text = text[1:-1]
        text = re.sub(r"(?:this|obj_)((?:\['\w+'\])+)", _path, text)
        return text.replace("len_(", "len(")
    name = getattr(expression, "__name__", "")
    return f"{name}()" if name.isidentifier() else "a function"


def kind_in_words(node: Node) -> str:
    """
    Say what a node is, and what its size follows from.

    >>> from construct import Array, Int16ub, this
    >>> kind_in_words(plan_of(Array(this.count, Int16ub)))
    'list of uint16, big-endian: 2 * (count) bytes'
    """
    extent = "" if size_of(node) is not None else _extent(node)
    return f"{_type(node)}: {extent}" if extent else _type(node)


def _path(match: re.Match[str]) -> str:
    return ".".join(re.findall(r"\w+", match[1]))


def _group(node: Group, place: _Place) -> tuple[Part, ...]:
    found: list[Part] = []
    for item in node.items:
        if isinstance(item.node, Bits) and not item.node.container:
            found += _bits(item.node, place)
            place.offset += item.node.size
        else:
            part = _part(item, place)
            found.append(part)
            place.skip(part)
    return tuple(found)


def _bits(node: Bits, place: _Place) -> Iterator[Part]:
    for part in node.parts:
        high = part.shift + part.width - 1
        yield Part(
            name=_shown(part),
            after=place.after,
            offset=place.offset,
            size=node.size,
            bits=(high, part.shift),
            type=_bit_type(part),
            unit=part.unit,
            doc=part.doc,
            values=() if part.mapped is None else _values(part.mapped),
            computed=str(part.computed or ""),
        )


def _shown(part: Item | BitPart) -> str:
    return "" if part.hidden or part.name is None else part.name


def _bit_type(part: BitPart) -> str:
    if part.name is None:
        return "padding"
    if part.flag:
        return "flag"
    return f"{'' if part.signed else 'u'}int{part.width}"


def _part(item: Item, place: _Place) -> Part:
    """
    Describe a part of a group that is no run of bits.
    """
    node, condition = item.node, ""
    if isinstance(node, Chosen) and node.truth and None in (_then(node), node.default):
        negated = _then(node) is None
        condition = in_words(node.key)
        condition = f"not ({condition})" if negated else condition
        node = (node.default if negated else _then(node)) or Derived(None)
    if isinstance(node, OptionalPart):
        condition = "if there are bytes left"
    size = None if condition else size_of(node)
    computed = str(item.computed or "")
    if isinstance(node, Derived):
        computed = in_words(node.value)
    return Part(
        name=_shown(item),
        after=place.after,
        offset=place.offset,
        size=size,
        extent="" if size is not None else _extent(node),
        type=_type(node),
        unit=item.unit,
        doc=item.doc,
        values=_values(node),
        computed=computed,
        condition=condition,
        messages=tuple(_messages(node)),
        parts=_inside(node, place),
    )


def _then(node: Chosen) -> Node | None:
    return node.cases[0][1]


_FLOATS = {"e": "float16", "f": "float32", "d": "float64"}


def _number(node: Number) -> str:
    if node.code == "?":
        return "flag"
    sign = "" if node.signed else "u"
    name = _FLOATS.get(node.code, f"{sign}int{8 * node.size}")
    if node.size == 1:
        return name
    return f"{name}, {'big' if node.order == '>' else 'little'}-endian"


def _constant(node: Constant) -> str:
    value = node.value
    shown = f"hex {value.hex(' ')}" if isinstance(value, bytes) else repr(value)
    return f"{_type(node.inner)}, always {shown}"


def _window(node: Window) -> str:
    if isinstance(node.inner, Stripped):
        return f"{_type(node.inner)} in {_count(node.size)} bytes"
    if node.prefix is None:
        return f"{_type(node.inner)}, bounded"
    counted = " that counts itself" if node.inclusive else ""
    return f"{_type(node.inner)} behind its length{counted} ({_type(node.prefix)})"


def _repeated(node: Repeated) -> str:
    counter = f" behind its count ({_type(node.counter)})" if node.counter else ""
    return f"list of {_type(node.element)}{counter}"


def _opaque(node: Opaque) -> str:
    subcon = node.construct
    while isinstance(subcon, construct.Renamed):
        subcon = subcon.subcon
    if isinstance(subcon, construct.Adapter) and not isinstance(
        subcon, construct.Tunnel
    ):
        return f"{_type(plan_of(subcon.subcon))} ({describe(subcon)})"
    return describe(subcon)


def _count(size: Any) -> str:
    return str(size) if isinstance(size, int) else in_words(size)


_TYPES: dict[type[Any], Callable[[Any], str]] = {
    Bits: lambda _: "bits",
    Chosen: lambda node: "one of these" if node.cases else _type(node.default),
    Constant: _constant,
    Derived: lambda _: "no bytes",
    Group: lambda node: "structure" if node.record is None else node.record.record_name,
    Mapped: lambda node: _type(node.inner),
    Number: _number,
    Opaque: _opaque,
    OptionalPart: lambda node: _type(node.inner),
    Padding: lambda _: "padding",
    Raw: lambda _: "bytes",
    Recursive: lambda node: describe(node.target()),
    Repeated: _repeated,
    Stripped: lambda node: f"bytes, filled up with hex {node.pad.hex()}",
    Terminated: lambda node: f"bytes up to hex {node.term.hex()}",
    Text: lambda node: _type(node.inner).replace("bytes", f"{node.encoding} text", 1),
    VarNumber: lambda node: "zigzag varint" if node.zigzag else "varint",
    Window: _window,
}


def _type(node: Node | None) -> str:
    return "nothing" if node is None else _TYPES[type(node)](node)


def _extent(node: Node | None) -> str:
    """
    Say what a size follows from.
    """
    match node:
        case Raw(size=size) | Window(size=size, prefix=None):
            return "to the end" if size is None else f"{in_words(size)} bytes"
        case Window():
            return "its length"
        case Repeated(counter=None, count=count):
            if count is None:
                return "to the end"
            size = size_of(node.element)
            times = _count(count)
            return f"{times} elements" if size is None else f"{size} * ({times}) bytes"
        case Repeated():
            return "its count"
        case Text() | Constant() | Mapped():
            return _extent(node.inner)
        case Terminated():
            return "to its end mark"
        case Stripped():
            return "to the end"
        case _:
            return ""


def _values(node: Node | None) -> tuple[tuple[str, Any], ...]:
    """
    Name what a number stands for.
    """
    match node:
        case Mapped(source=EnumField() as source):
            return tuple((member.name, member.value) for member in source.members)
        case Mapped():
            return tuple((str(name), wire) for wire, name in node.decode.items())
        case OptionalPart() | Window():
            return _values(node.inner)
        case Repeated():
            return _values(node.element)
        case _:
            return ()


def _messages(node: Node | None) -> Iterator[str]:
    """
    Name the messages that a part is or holds, but not those inside of them.
    """
    match node:
        case Group(record=Record() as record):
            yield record.record_name
        case Recursive():
            target = node.target()
            if isinstance(target, Record):
                yield target.record_name
        case Repeated():
            yield from _messages(node.element)
        case Window() | Text() | Constant() | Mapped() | OptionalPart():
            yield from _messages(node.inner)
        case Opaque():
            yield from _records(node.construct)
        case _:
            return


def _records(subcon: Any, seen: set[int] | None = None) -> Iterator[str]:
    seen = set() if seen is None else seen
    if id(subcon) in seen:
        return
    seen.add(id(subcon))
    if isinstance(subcon, Record):
        yield subcon.record_name
        return
    for child in children(subcon):
        yield from _records(child, seen)


def _inside(node: Node | None, place: _Place) -> tuple[Part, ...]:
    """
    Describe what a part consists of, unless it is a message.
    """
    match node:
        case Bits():
            return tuple(_bits(node, place))
        case Group(record=None):
            return _group(node, attrs.evolve(place))
        case Repeated():
            return _inside(node.element, _Place())
        case Window():
            ahead = size_of(node.prefix)
            if ahead is None:  # a prefix of variable size
                return _inside(node.inner, _Place("the length"))
            return _inside(node.inner, _Place(place.after, place.offset + ahead))
        case Chosen():
            key = in_words(node.key)
            cases = [
                (key if node.truth else f"{key} == {_case(value)}", case)
                for value, case in node.cases
            ]
            cases.append(("otherwise", node.default))
            return tuple(
                attrs.evolve(_part(Item(None, case), place), condition=condition)
                for condition, case in cases
                if case is not None
            )
        case _:
            return ()


def _case(value: Any) -> str:
    return str(getattr(value, "name", None) or repr(value))
