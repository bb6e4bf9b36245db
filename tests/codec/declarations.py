"""
Random declarations, and Construct's own opinion of them.

A `Shape` makes the same format twice: as a user would write it, for protoserve,
and as the reference, for Construct itself. In the reference a message is a plain
`Struct`, and `Witness` notes where protoserve means to be stricter than
Construct (see `protoserve.codec.nodes`): a greedy range that an error ended, and
a prefix whose content did not use it up.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import attrs
import construct as c
from construct import obj_, this
from hypothesis import strategies as st

from protoserve import Message, wire
from protoserve.codec.record import Record

STRICTER: list[str] = []
"""What `Witness` has noted since it was cleared."""

MOST_VARINT = 10
MOST_ELEMENTS = 65_536


class Witness(c.Subconstruct):
    """Notes that a part has left bytes which protoserve does not allow it to leave."""

    def __init__(self, subcon, what):
        super().__init__(subcon)
        self.what = what

    def _parse(self, stream, context, path):
        value = self.subcon._parsereport(stream, context, path)
        if not c.core.stream_iseof(stream):
            STRICTER.append(self.what)
        return value


class WitnessedVarInt(c.Construct):
    """Notes a VarInt that is longer than the cap."""

    def __init__(self, subcon):
        super().__init__()
        self.subcon = subcon

    def _parse(self, stream, context, path):
        start = stream.tell()
        value = self.subcon._parsereport(stream, context, path)
        if stream.tell() - start > MOST_VARINT:
            STRICTER.append("varint")
        return value

    def _build(self, obj, stream, context, path):
        return self.subcon._build(obj, stream, context, path)


@attrs.frozen
class Shape:
    """A format, for protoserve (``make(False)``) and for Construct (``make(True)``)."""

    make: Callable[[bool], Any]
    greedy: bool = False
    empty: bool = False
    """Whether it may take no bytes at all."""


def plain(construct: Any, **traits: bool) -> Shape:
    """A format that is the same for both."""
    return Shape(lambda _: construct, **traits)


def witness(reference: bool, construct: Any, what: str) -> Any:
    return Witness(construct, what) if reference else construct


INTEGERS = [
    c.Int8ub, c.Int8sb, c.Int16ub, c.Int16sl, c.Int32ul, c.Int32sb, c.Int64ub,
    c.Int24ub, c.Int24sl, c.BytesInteger(5, signed=True), c.BytesInteger(6, swapped=True),
    c.ByteSwapped(c.Int24ub), c.ByteSwapped(c.Int32ub),
]  # fmt: skip
ENCODINGS = ["ascii", "latin-1", "utf-8", "utf-16-le", "utf-16", "utf-32-be", "cp437"]
PADDED_ENCODINGS = ["ascii", "utf8", "utf16", "utf-16-le", "utf32"]

integers = st.sampled_from(INTEGERS).map(plain)
lengths = st.integers(0, 5)


def double(value, _context):
    return value * 2


def halve(value, _context):
    return value // 2


LEAVES = [
    integers,
    st.sampled_from([c.Float16b, c.Float32l, c.Float64b]).map(plain),
    st.sampled_from([
        c.Flag,
        c.Hex(c.Int16ub),
        c.OneOf(c.Int8ub, [0, 1, 2, 3]),
        c.NoneOf(c.Int8ub, [0, 255]),
        c.ExprAdapter(c.Int8ub, double, halve),
        c.Mapping(c.Int8ub, {"off": 0, "on": 1, "odd": 3}),
        c.Enum(c.Int8ub, zero=0, one=1, many=200),
        c.Enum(c.Int16ul, zero=0, one=1),
        c.FlagsEnum(c.Int8ub, a=1, b=2, c=4, high=128),
        c.FlagsEnum(c.Int16ub, a=1, wide=0x300),
        c.Const(b"\x01"),
        c.Const(1, c.Int8ub),
        c.Const(513, c.Int16ub),
        c.Bytes(0),
        c.Bytes(3),
        c.Padding(2),
        c.Default(c.Int8ub, 7),
        c.Bitwise(c.Array(8, c.Bit)),
        c.BitStruct("a" / c.BitsInteger(3), "b" / c.Flag, "c" / c.BitsInteger(12)),
        c.BitStruct("a" / c.Nibble, c.Padding(3), "e" / c.Enum(c.Bit, no=0, yes=1)),
        c.BitStruct("s" / c.BitsInteger(11, signed=True), "o" / c.BitsInteger(5)),
        c.ByteSwapped(c.BitStruct("a" / c.BitsInteger(5), "b" / c.BitsInteger(11))),
        c.NullTerminated(c.GreedyBytes),
        c.NullTerminated(c.GreedyBytes, term=b"\x01\x00"),
        c.NullTerminated(c.GreedyBytes, include=True),
        c.NullTerminated(c.GreedyBytes, consume=False),
        c.RepeatUntil(obj_ == 0, c.Int8ub),
        c.RepeatUntil(lambda value, values, _: value > 9 or len(values) > 3, c.Int8ub),
        c.RawCopy(c.Int16ub),
        c.Sequence(c.Int8ub, c.Const(b"\x00"), "named" / c.Int16ub),
        c.FocusedSeq("b", "a" / c.Const(b"\x02"), "b" / c.Int16ul),
        c.Struct("n" / c.Rebuild(c.Int8ub, c.len_(this.v)), "v" / c.Int8ub[this.n]),
        c.Struct("n" / c.Int8ub, "twice" / c.Computed(this.n * 2)),
        c.Struct("n" / c.Int8ub, c.Check(this.n < 100)),
        c.Struct("n" / c.Int8ub, c.StopIf(this.n == 0), "m" / c.Int8ub),
        c.Struct("n" / c.Int8ub, "div" / c.Computed(100 // this.n)),
    ]).map(plain),
    st.sampled_from([c.VarInt, c.ZigZag]).map(
        lambda v: Shape(lambda reference: WitnessedVarInt(v) if reference else v)
    ),
    st.builds(
        lambda prefix, encoding: plain(c.PascalString(prefix, encoding)),
        st.sampled_from([c.Int8ub, c.Int16ul, c.VarInt]),
        st.sampled_from(ENCODINGS),
    ),
    st.sampled_from(PADDED_ENCODINGS).map(lambda e: plain(c.CString(e))),
    st.builds(
        lambda size, encoding: plain(c.PaddedString(size, encoding)),
        st.integers(1, 8),
        st.sampled_from(PADDED_ENCODINGS),
    ),
]  # fmt: skip

GREEDY = [
    st.just(plain(c.GreedyBytes, greedy=True, empty=True)),
    st.just(plain(c.ProcessXor(3, c.GreedyBytes), greedy=True, empty=True)),
    st.just(plain(c.NullStripped(c.GreedyBytes), greedy=True, empty=True)),
    st.sampled_from(["utf-8", "latin-1", "utf-16-be"]).map(
        lambda e: plain(c.GreedyString(e), greedy=True, empty=True)
    ),
]

leaves = st.one_of(LEAVES)


@functools.cache
def nested(depth: int) -> st.SearchStrategy[Shape]:
    """A part that knows its own end."""
    if depth == 0:
        return leaves
    inner = nested(depth - 1)
    return st.one_of(
        leaves,
        leaves,
        st.builds(_array, lengths, inner),
        st.builds(_prefixed_array, inner),
        st.builds(_aligned, st.sampled_from([2, 4]), inner),
        st.builds(_padded, st.integers(0, 12), inner),
        st.builds(_select, inner, inner),
        st.builds(_prefixed, st.booleans(), open_ended(depth - 1)),
        st.builds(_fixed_sized, st.integers(0, 9), open_ended(depth - 1)),
        structures(depth - 1).map(_struct),
        structures(depth - 1).map(_message),
        st.builds(_lazy, inner),
    )


@functools.cache
def open_ended(depth: int) -> st.SearchStrategy[Shape]:
    """A part that may go on to the end of the data."""
    return st.one_of(
        nested(depth),
        *GREEDY,
        st.builds(_range, nested(depth)),
        structures(depth, tail=True).map(_struct),
    )


def _array(count: int, inner: Shape) -> Shape:
    return Shape(lambda r: c.Array(count, inner.make(r)), empty=inner.empty)


def _prefixed_array(inner: Shape) -> Shape:
    return Shape(lambda r: c.PrefixedArray(c.Int8ub, inner.make(r)))


def _aligned(modulus: int, inner: Shape) -> Shape:
    return Shape(lambda r: c.Aligned(modulus, inner.make(r)), empty=inner.empty)


def _padded(size: int, inner: Shape) -> Shape:
    return Shape(lambda r: c.Padded(size, inner.make(r)))


def _select(one: Shape, other: Shape) -> Shape:
    return Shape(lambda r: c.Select(one.make(r), other.make(r)))


def _optional(inner: Shape) -> Shape:
    return Shape(lambda r: c.Optional(inner.make(r)), empty=True)


def _prefixed(inclusive: bool, inner: Shape) -> Shape:
    return Shape(
        lambda r: c.Prefixed(
            c.Int8ub, witness(r, inner.make(r), "prefix"), includelength=inclusive
        )
    )


def _fixed_sized(size: int, inner: Shape) -> Shape:
    return Shape(lambda r: c.FixedSized(size, inner.make(r)))


def _range(inner: Shape) -> Shape:
    return Shape(
        lambda r: witness(r, c.GreedyRange(inner.make(r)), "range"),
        greedy=True,
        empty=True,
    )


def _lazy(inner: Shape) -> Shape:
    def make(reference: bool) -> Any:
        made = inner.make(reference)
        return c.LazyBound(lambda: made)

    return Shape(make, empty=inner.empty)


@attrs.frozen(repr=False)
class Structure:
    """Names and formats, in order."""

    fields: tuple[tuple[str, Shape], ...]

    def __repr__(self) -> str:
        return f"Struct({', '.join(map(shown, self.parts(False)))})"

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        printer.text(repr(self))

    def parts(self, reference: bool) -> list[Any]:
        return [name / shape.make(reference) for name, shape in self.fields]

    def message(self, name: str = "Drawn") -> type[Message]:
        namespace = {"__annotations__": {}, "__module__": __name__}
        for field, shape in self.fields:
            namespace[field] = wire(shape.make(False), kw_only=True)
            namespace["__annotations__"][field] = Any
        return type(Message)(name, (Message,), namespace)


def _struct(structure: Structure) -> Shape:
    return Shape(
        lambda r: c.Struct(*structure.parts(r)),
        greedy=any(shape.greedy for _, shape in structure.fields),
    )


def _message(structure: Structure) -> Shape:
    cls = structure.message("Inner")
    return Shape(lambda r: c.Struct(*structure.parts(True)) if r else cls.construct)


@functools.cache
def structures(depth: int, *, tail: bool = False) -> st.SearchStrategy[Structure]:
    """Fields, some of which depend on others; greedy and optional ones at the end."""
    return _structures(depth, tail)


@st.composite
def _structures(draw: st.DrawFn, depth: int, tail: bool) -> Structure:
    fields: list[tuple[str, Shape]] = []
    numbers: list[str] = []
    for i in range(draw(st.integers(1, 4))):
        name = f"f{i}"
        kind = draw(st.integers(0, 6)) if numbers else 0
        inner = draw(nested(depth))
        if kind == 6:
            fields.append(
                (name, _dependent(draw, draw(st.sampled_from(numbers)), inner))
            )
        elif kind == 5:
            fields.append((name, _optional(draw(nested(depth)))))
        elif draw(st.integers(0, 3)) == 0:
            fields.append((name, plain(c.Int8ub)))
            numbers.append(name)
        else:
            fields.append((name, inner))
    if tail and draw(st.booleans()):
        fields.append(("tail", draw(open_ended(max(0, depth - 1)))))
    return Structure(tuple(fields))


def _dependent(draw: st.DrawFn, number: str, inner: Shape) -> Shape:
    path = getattr(this, number)
    other = draw(leaves)
    return draw(
        st.sampled_from([
            Shape(lambda r: c.Array(path, inner.make(r))),
            Shape(lambda r: c.Array(path % 4, inner.make(r))),
            plain(c.Bytes(path)),
            plain(c.Bytes(path - 1)),
            Shape(lambda r: c.FixedSized(path, inner.make(r))),
            Shape(lambda r: c.Padded(path, inner.make(r))),
            Shape(lambda r: c.If(path > 2, inner.make(r))),
            Shape(lambda r: c.IfThenElse(path == 0, inner.make(r), other.make(r))),
            Shape(lambda r: c.Switch(path, {0: inner.make(r), 1: other.make(r)})),
            Shape(
                lambda r: c.Switch(path, {1: inner.make(r)}, default=c.Error)
            ),
            Shape(lambda r: c.Struct("up" / c.Bytes(getattr(this._, number)))),
            Shape(lambda r: c.Struct("root" / c.Computed(this._._root is not None))),
        ])
    )  # fmt: skip


def shown(node: Any) -> str:
    """Write a construct with all that it is made of."""
    if isinstance(node, c.Renamed):
        return f"{node.name!r} / {shown(node.subcon)}"
    if isinstance(node, Record):
        parts = [f"{f.name!r} / {shown(f.construct)}" for f in node.fields]
        return f"Message({', '.join(parts)})"
    if isinstance(node, c.LazyBound):
        return f"LazyBound({shown(node.subconfunc())})"
    inner = []
    for name, value in vars(node).items():
        if isinstance(value, c.Construct):
            inner.append(shown(value))
        elif isinstance(value, list | tuple):
            inner += [
                shown(v) if isinstance(v, c.Construct) else repr(v) for v in value
            ]
        elif isinstance(value, dict) and name in ("cases", "decmapping", "flags"):
            parts = [
                f"{k}: {shown(v) if isinstance(v, c.Construct) else v!r}"
                for k, v in value.items()
            ]
            inner.append(f"{{{', '.join(parts)}}}")
        elif name[0] != "_" and name not in ("name", "docs", "parsed", "flagbuildnone"):
            inner.append(f"{name}={value!r}")
    return f"{type(node).__name__}({', '.join(inner)})"


def normal(value: Any) -> Any:
    """Bring values of both sides to what can be compared."""
    if isinstance(value, dict) and "offset1" in value:
        value = {"data": value["data"], "value": value["value"]}  # a RawCopy
    if isinstance(value, Message):
        names = [f.name for f in type(value).construct.fields if not f.hidden]
        return {name: normal(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {str(k): normal(v) for k, v in value.items() if str(k)[0] != "_"}
    if isinstance(value, list):
        return [normal(v) for v in value]
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    return value
