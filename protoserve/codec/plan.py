"""
What a message's bytes are, in few kinds of nodes.

`plan_of` walks a Construct tree once and gives the plan that everything else
reads: the generators of parsing and building code, and whoever shows or exports a
format. Construct's many classes come down to numbers, raw bytes, text, groups,
repetitions, windows and choices. What does not is `Opaque`: it stays a Construct
object, which parses and builds that part as it always did.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import attrs
import construct
from construct import core

from protoserve.codec.computed import Computed
from protoserve.codec.enums import EnumField
from protoserve.codec.guard import bits_of_record
from protoserve.codec.record import Record

__all__ = [
    "BitPart",
    "Bits",
    "Chosen",
    "Constant",
    "Derived",
    "Group",
    "Item",
    "Mapped",
    "Node",
    "Number",
    "Opaque",
    "OptionalPart",
    "Padding",
    "Raw",
    "Recursive",
    "Repeated",
    "Size",
    "Stripped",
    "Terminated",
    "Text",
    "VarNumber",
    "Window",
    "has_rule",
    "plan_of",
    "size_of",
]

Size: TypeAlias = int | Callable[[Any], Any] | None
"""A constant, a function of the context, or `None`: all that is left."""


@attrs.frozen
class Number:
    """
    A number of fixed size.
    """

    size: int
    order: str
    """``>`` or ``<``."""
    code: str
    """The struct module's letter; empty for integers of 3, 5, 6, 7 … bytes."""
    signed: bool


@attrs.frozen
class VarNumber:
    """
    An integer of variable size: 7 bits a byte, least significant first.
    """

    zigzag: bool


@attrs.frozen
class Raw:
    """
    Bytes as they are.
    """

    size: Size


@attrs.frozen
class Padding:
    """
    Bytes that say nothing.
    """

    size: Size
    pattern: bytes


@attrs.frozen
class Text:
    """
    Bytes as text.
    """

    inner: Node
    encoding: str


@attrs.frozen
class Stripped:
    """
    Bytes without the padding at their end; inside a `Window`.
    """

    pad: bytes


@attrs.frozen
class Terminated:
    """
    Bytes up to a terminator of one byte.
    """

    term: bytes


@attrs.frozen
class Constant:
    """
    Something that has one value only.
    """

    inner: Node
    value: Any


@attrs.frozen
class Mapped:
    """
    A number that stands for something else.
    """

    inner: Node
    decode: Mapping[Any, Any]
    """Wire value to message value."""
    missing: Callable[[Any], Any] | None
    """Makes a message value for others, or `None`: others are malformed."""
    source: Any
    """The construct that says so."""


@attrs.frozen
class BitPart:
    """
    Some of the bits of a run.
    """

    name: str | None
    shift: int
    width: int
    signed: bool
    flag: bool
    mapped: Mapped | None
    computed: Computed | None = None
    hidden: bool = False
    doc: str = ""
    unit: str = ""


@attrs.frozen
class Bits:
    """
    Whole bytes that are told apart by bits, the most significant first.
    """

    size: int
    parts: tuple[BitPart, ...]
    container: bool
    """Whether it is one value, a Construct `Container`, or fields of the message."""


@attrs.frozen
class Item:
    """
    A part of a group.
    """

    name: str | None
    node: Node
    computed: Computed | None = None
    hidden: bool = False
    doc: str = ""
    unit: str = ""


@attrs.frozen
class Group:
    """
    Parts one after the other: a message, or a plain structure.
    """

    items: tuple[Item, ...]
    record: Record | None


@attrs.frozen
class Recursive:
    """
    A message that is being planned already, or is defined later.
    """

    target: Callable[[], Any]


@attrs.frozen
class Repeated:
    """
    The same thing several times.
    """

    element: Node
    count: Size
    """`None`: as often as there is data."""
    counter: Node | None = None
    """The number in front that says how often, if there is one."""


@attrs.frozen
class Window:
    """
    Something inside a stated number of bytes.
    """

    inner: Node
    size: Size
    prefix: Node | None
    """The number in front that says how many bytes, if there is one."""
    inclusive: bool
    """Whether that number counts itself."""


@attrs.frozen
class Chosen:
    """
    One of several, by a value that was read before.
    """

    key: Callable[[Any], Any]
    cases: tuple[tuple[Any, Node | None], ...]
    """`None` takes no bytes and has no value."""
    default: Node | None
    truth: bool
    """Whether the key's truth decides, as in ``If``."""


@attrs.frozen
class OptionalPart:
    """
    Something of fixed size that may be missing at the end.
    """

    inner: Node


@attrs.frozen
class Derived:
    """
    A value that takes no bytes.
    """

    value: Any


@attrs.frozen
class Opaque:
    """
    What only Construct knows.
    """

    construct: Any


Node: TypeAlias = (
    Number
    | VarNumber
    | Raw
    | Padding
    | Text
    | Stripped
    | Terminated
    | Constant
    | Mapped
    | Bits
    | Group
    | Recursive
    | Repeated
    | Window
    | Chosen
    | OptionalPart
    | Derived
    | Opaque
)


def plan_of(subcon: Any) -> Node:
    """
    Make the plan of a Construct object or of a message's record.
    """
    return _plan(subcon, ())


def has_rule(subcon: Any) -> bool:
    """
    Whether some forms of a Construct object's class have a plan.
    """
    return type(subcon) in _RULES or isinstance(subcon, Record)


def size_of(node: Node | None) -> int | None:
    """
    Give the size of something in bytes; `None` if it varies.
    """
    match node:
        case None | Derived():
            return 0
        case Number() | Bits():
            return node.size
        case Raw() | Padding() | Window(prefix=None):
            return node.size if isinstance(node.size, int) else None
        case Text() | Constant() | Mapped():
            return size_of(node.inner)
        case Group():
            sizes = [size_of(item.node) for item in node.items]
            known = [size for size in sizes if size is not None]
            return sum(known) if len(known) == len(sizes) else None
        case Repeated(count=int(), counter=None):
            size = size_of(node.element)
            return None if size is None else node.count * size  # type: ignore[operator]
        case Chosen():
            found = {size_of(case) for _, case in node.cases} | {size_of(node.default)}
            return found.pop() if len(found) == 1 else None
        case Opaque():
            try:
                return int(node.construct.sizeof())
            except Exception:  # it varies, or only its user knows
                return None
        case _:
            return None


def _plan(subcon: Any, inside: tuple[Record, ...]) -> Node:
    while isinstance(subcon, construct.Renamed):
        if subcon.parsed is not None:
            return Opaque(subcon)
        subcon = subcon.subcon
    if subcon.parsed is not None:
        return Opaque(subcon)
    if isinstance(subcon, Record):
        if subcon in inside:
            return Recursive(lambda: subcon)
        return _record(subcon, (*inside, subcon))
    rule = _RULES.get(type(subcon))
    found = None if rule is None else rule(subcon, inside)
    return Opaque(subcon) if found is None else found


def _record(record: Record, inside: tuple[Record, ...]) -> Node:
    items: list[Item] = []
    for member in record.runs():
        fields, bits = member
        if bits:
            run = _bits([(f.name, f.construct, f) for f in fields], container=False)
            if run is None:
                return Opaque(record)
            items.append(Item(None, run))
            continue
        field = fields[0]
        node = _plan(field.construct, inside)
        items.append(
            Item(field.name, node, field.computed, field.hidden, field.doc, field.unit)
        )
    return Group(tuple(items), record)


def _format_field(subcon: Any, _: Any) -> Node | None:
    order, code = subcon.fmtstr
    if order == "=":
        order = "<" if sys.byteorder == "little" else ">"
    return Number(subcon.length, order, code, code.islower())


def _bytes_integer(subcon: Any, _: Any) -> Node | None:
    swapped = subcon.swapped
    if callable(subcon.length) or callable(swapped) or subcon.length < 1:
        return None
    codes = {1: "b", 2: "h", 4: "i", 8: "q"}
    code = codes.get(subcon.length, "")
    code = code if subcon.signed else code.upper()
    return Number(subcon.length, "<" if swapped else ">", code, bool(subcon.signed))


def _bytes(subcon: Any, _: Any) -> Node | None:
    return Raw(subcon.length)


def _padded(subcon: Any, _inside: Any) -> Node | None:
    size = subcon.length
    if _is_pass(subcon.subcon) and (callable(size) or size >= 0):
        return Padding(size, subcon.pattern)
    return None


def _is_pass(subcon: Any) -> bool:
    return subcon is construct.Pass


def _const(subcon: Any, inside: Any) -> Node | None:
    inner = _plan(subcon.subcon, inside)
    if isinstance(inner, Number | Raw):
        return Constant(inner, subcon.value)
    return None


def _enum_field(subcon: Any, inside: Any) -> Node | None:
    inner = _plan(subcon.subcon, inside)
    if isinstance(inner, Opaque | Group | Repeated):
        return None
    missing: Callable[[Any], Any] | None
    if issubclass(subcon.members, enum.Flag):
        flags = subcon.members

        def tolerant(value: Any) -> Any:
            try:
                return flags(value)
            except ValueError:
                return value

        if subcon.strict:
            return _strict_flags(subcon, inner)
        missing = tolerant
    else:
        missing = None if subcon.strict else _same
    return Mapped(inner, subcon.table, missing, subcon)


def _strict_flags(subcon: EnumField, inner: Node) -> Node:
    def known(value: Any) -> Any:
        member = subcon.member(value)
        if member is None:
            raise ValueError(value)
        return member

    return Mapped(inner, subcon.table, known, subcon)


def _same(value: Any) -> Any:
    return value


def _construct_enum(subcon: Any, inside: Any) -> Node | None:
    inner = _plan(subcon.subcon, inside)
    if not isinstance(inner, Number):
        return None
    return Mapped(inner, subcon.decmapping, core.EnumInteger, subcon)


def _mapping(subcon: Any, inside: Any) -> Node | None:
    inner = _plan(subcon.subcon, inside)
    if not isinstance(inner, Number):
        return None
    return Mapped(inner, subcon.decmapping, None, subcon)


def _string(subcon: Any, inside: Any) -> Node | None:
    inner = _plan(subcon.subcon, inside)
    return None if isinstance(inner, Opaque) else Text(inner, subcon.encoding)


def _struct(subcon: Any, inside: Any) -> Node | None:
    items = []
    for part in subcon.subcons:
        node = _plan(part, inside)
        if part.name is None and not isinstance(node, Padding | Constant):
            return None
        if part.name is not None and part.name.startswith("_"):
            return None
        items.append(Item(part.name, node, doc=part.docs))
    return Group(tuple(items), None)


def _array(subcon: Any, inside: Any) -> Node | None:
    if getattr(subcon, "discard", False):  # a LazyArray never does
        return None
    return Repeated(_plan(subcon.subcon, inside), subcon.count)


def _greedy_range(subcon: Any, inside: Any) -> Node | None:
    return None if subcon.discard else Repeated(_plan(subcon.subcon, inside), None)


def _focused(subcon: Any, inside: Any) -> Node | None:
    """
    Know a `PrefixedArray`, the usual use of `FocusedSeq`, by its parts.
    """
    if subcon.parsebuildfrom != "items" or len(subcon.subcons) != 2:
        return None
    counter, items = subcon.subcons
    if counter.name != "count" or items.name != "items":
        return None
    rebuild, array = counter.subcon, items.subcon
    if not isinstance(rebuild, construct.Rebuild) or type(array) is not construct.Array:
        return None
    if repr(array.count) != "this['count']" or "len_(this['items'])" not in repr(
        rebuild.func
    ):
        return None
    number = _plan(rebuild.subcon, inside)
    if not isinstance(number, Number | VarNumber) or array.discard:
        return None
    return Repeated(_plan(array.subcon, inside), array.count, number)


def _prefixed(subcon: Any, inside: Any) -> Node | None:
    prefix = _plan(subcon.lengthfield, inside)
    if not isinstance(prefix, Number | VarNumber):
        return None
    if isinstance(prefix, VarNumber) and subcon.includelength:
        return None
    inner = _plan(subcon.subcon, inside)
    return Window(inner, None, prefix, bool(subcon.includelength))


def _fixed_sized(subcon: Any, inside: Any) -> Node | None:
    return Window(_plan(subcon.subcon, inside), subcon.length, None, False)


def _stripped(subcon: Any, _: Any) -> Node | None:
    if len(subcon.pad) == 1 and isinstance(subcon.subcon, type(construct.GreedyBytes)):
        return Stripped(subcon.pad)
    return None


def _terminated(subcon: Any, _: Any) -> Node | None:
    plain = subcon.consume and subcon.require and not subcon.include
    if (
        plain
        and len(subcon.term) == 1
        and isinstance(subcon.subcon, type(construct.GreedyBytes))
    ):
        return Terminated(subcon.term)
    return None


def _switch(subcon: Any, inside: Any) -> Node | None:
    if not callable(subcon.keyfunc) or len(subcon.cases) > 32:
        return None
    cases = tuple((key, _branch(sc, inside)) for key, sc in subcon.cases.items())
    return Chosen(subcon.keyfunc, cases, _branch(subcon.default, inside), False)


def _branch(subcon: Any, inside: Any) -> Node | None:
    return None if _is_pass(subcon) else _plan(subcon, inside)


def _if(subcon: Any, inside: Any) -> Node | None:
    if not callable(subcon.condfunc):
        return None
    then = _branch(subcon.thensubcon, inside)
    other = _branch(subcon.elsesubcon, inside)
    return Chosen(subcon.condfunc, ((True, then),), other, True)


def _select(subcon: Any, inside: Any) -> Node | None:
    if len(subcon.subcons) != 2 or not _is_pass(subcon.subcons[1]):
        return None
    inner = _plan(subcon.subcons[0], inside)
    return OptionalPart(inner) if isinstance(inner, Number) else None


def _transformed(subcon: Any, inside: Any) -> Node | None:
    record = bits_of_record(subcon)
    if record is not None:
        return _plan(record, inside)
    if isinstance(subcon, construct.Restreamed):
        return None
    inner = subcon.subcon
    while isinstance(inner, construct.Renamed) and inner.parsed is None:
        inner = inner.subcon
    if subcon.decodefunc is not core.bytes2bits:
        return None
    if type(inner) is construct.Struct:
        return _bits([(sc.name, sc, None) for sc in inner.subcons], container=True)
    return None


def _bits(parts: list[tuple[str | None, Any, Any]], *, container: bool) -> Bits | None:
    known = []
    total = 0
    for name, subcon, field in parts:
        part = _bit_part(name, subcon)
        if part is None:
            return None
        if field is not None:
            part = attrs.evolve(
                part,
                computed=field.computed,
                hidden=field.hidden,
                doc=field.doc,
                unit=field.unit,
            )
        known.append(part)
        total += part.width
    if total % 8 or not total:
        return None
    placed = []
    used = 0
    for part in known:
        used += part.width
        placed.append(attrs.evolve(part, shift=total - used))
    return Bits(total // 8, tuple(placed), container)


def _bit_part(name: str | None, subcon: Any) -> BitPart | None:
    while isinstance(subcon, construct.Renamed):
        if subcon.parsed is not None:
            return None
        subcon = subcon.subcon
    if isinstance(subcon, construct.Padded):
        padding = _padded(subcon, ())
        if not isinstance(padding, Padding) or padding.pattern != b"\0":
            return None
        if not isinstance(padding.size, int):
            return None
        return BitPart(None, 0, padding.size, False, False, None, hidden=True)
    if subcon is construct.Flag:
        return BitPart(name, 0, 1, False, True, None)
    if type(subcon) is construct.BitsInteger:
        if callable(subcon.length) or subcon.swapped:
            return None
        return BitPart(name, 0, subcon.length, bool(subcon.signed), False, None)
    if type(subcon) in (EnumField, construct.Enum, construct.Mapping):
        inner = _bit_part(name, subcon.subcon)
        if inner is None or inner.mapped is not None or inner.flag:
            return None
        number = Number(8, ">", "Q", False)
        if isinstance(subcon, EnumField):
            bare = EnumField(construct.Int64ub, subcon.members, subcon.strict)
            mapped = _enum_field(bare, ())
        else:
            known = type(subcon) is construct.Enum
            missing = core.EnumInteger if known else None
            mapped = Mapped(number, subcon.decmapping, missing, subcon)
        assert isinstance(mapped, Mapped)
        return attrs.evolve(inner, mapped=mapped)
    return None


_RULES: dict[type[Any], Callable[[Any, Any], Node | None]] = {
    EnumField: _enum_field,
    construct.Array: _array,
    construct.Bytes: _bytes,
    construct.BytesInteger: _bytes_integer,
    construct.Computed: lambda sc, _: Derived(sc.func),
    construct.Const: _const,
    construct.Enum: _construct_enum,
    construct.FixedSized: _fixed_sized,
    construct.FocusedSeq: _focused,
    construct.FormatField: _format_field,
    construct.GreedyRange: _greedy_range,
    construct.IfThenElse: _if,
    construct.LazyArray: _array,
    construct.LazyBound: lambda sc, _: Recursive(sc.subconfunc),
    construct.LazyStruct: _struct,
    construct.Mapping: _mapping,
    construct.NullStripped: _stripped,
    construct.NullTerminated: _terminated,
    construct.Padded: _padded,
    construct.Prefixed: _prefixed,
    construct.Restreamed: _transformed,
    construct.Select: _select,
    construct.StringEncoded: _string,
    construct.Struct: _struct,
    construct.Switch: _switch,
    construct.Transformed: _transformed,
    type(construct.Flag): lambda _sc, _: Number(1, ">", "?", False),
    type(construct.GreedyBytes): lambda _sc, _: Raw(None),
    type(construct.Pass): lambda _sc, _: Derived(None),
    type(construct.VarInt): lambda _sc, _: VarNumber(False),
    type(construct.ZigZag): lambda _sc, _: VarNumber(True),
}
