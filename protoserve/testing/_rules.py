"""
One function for each kind of construct: how its value is drawn.
"""

from __future__ import annotations

import contextlib
import enum
import inspect
from typing import Any

import construct
from construct import core

from protoserve.codec.enums import EnumField
from protoserve.codec.record import Record, enclosing_context
from protoserve.codec.refuse import greedy_part
from protoserve.testing import _choices as st
from protoserve.testing import _text
from protoserve.testing._drawing import (
    FEW,
    SHORT,
    TRIES,
    Drawing,
    Rule,
    Stopped,
    Undecided,
)
from protoserve.testing._hints import constants_of
from protoserve.testing._numbers import bounds_of, float_width

__all__ = ["RULES"]


def _struct(drawing: Drawing, node: Any, context: Any, path: str) -> Any:
    """
    Draw a `Struct`.
    """
    inner = enclosing_context(context, None)
    inner["_subcons"] = node._subcons
    values = construct.Container()
    with drawing.deeper():
        try:
            for sc in node.subcons:
                value = drawing.part(sc, inner, f"{path}.{sc.name}", sc.name)
                if sc.name:
                    inner[sc.name] = values[sc.name] = value
        except Stopped:
            pass
    for name, value in values.items():
        values[name] = inner[name] = _decided(value, inner)
    return values


def _sequence(drawing: Drawing, node: Any, context: Any, path: str) -> Any:
    """
    Draw a `Sequence`.
    """
    inner = enclosing_context(context, None)
    values = construct.ListContainer()
    with drawing.deeper():
        try:
            for i, sc in enumerate(node.subcons):
                value = drawing.part(sc, inner, f"{path}[{i}]", sc.name)
                values.append(value)
                if sc.name:
                    inner[sc.name] = value
        except Stopped:
            pass
    values[:] = [_decided(value, inner) for value in values]
    return values


def _focused(drawing: Drawing, node: Any, context: Any, path: str) -> Any:
    """
    Draw a `FocusedSeq`.
    """
    inner = enclosing_context(context, None)
    chosen = None
    for sc in node.subcons:
        value = drawing.part(sc, inner, path, sc.name)
        if sc.name:
            inner[sc.name] = value
            if sc.name == core.evaluate(node.parsebuildfrom, inner):
                chosen = value
    return _decided(chosen, inner)


def elements(
    drawing: Drawing, node: Any, context: Any, path: str, count: int
) -> list[Any]:
    """
    Draw an array's elements; many are a few repeated.
    """
    values = []
    for i in range(min(count, 8)):
        context["_index"] = i
        values.append(drawing.value(node.subcon, context, f"{path}[{i}]"))
    return [values[i % 8] for i in range(count)]


def _decided(value: Any, context: Any) -> Any:
    if isinstance(value, Undecided) and value.later is not None:
        with contextlib.suppress(Exception):
            return value.later(context)
    return value


def _integer(drawing: Drawing, node: Any, context: Any, path: str) -> int:
    bounds = bounds_of(node, context)
    if bounds is None:
        drawing.refuse(f"{path}: a number of no size")
    assert bounds is not None
    return drawing.integer(*bounds)


def _format(drawing: Drawing, node: Any, context: Any, path: str) -> Any:
    width = float_width(node)
    if width is not None:
        return drawing.draw(st.floats(width))
    if node.fmtstr[-1] == "?":
        return drawing.draw(st.booleans())
    return _integer(drawing, node, context, path)


def _bytes(drawing: Drawing, node: Any, context: Any, path: str) -> bytes:
    return drawing.binary(drawing.size(node.length, context, path))


def _text_value(drawing: Drawing, node: Any, context: Any, path: str) -> str:
    room = _text.room_of(
        node.subcon, lambda parameter: drawing.size(parameter, context, path)
    )
    text = drawing.draw(_text.texts(node.encoding, room))
    if text is None:
        drawing.refuse(f"{path}: no {node.encoding} text of that size")
    return text or ""


def _enum(drawing: Drawing, node: Any, context: Any, path: str) -> Any:
    known: list[Any] = sorted(node.decmapping, key=repr)
    unknown = not known or drawing.draw(st.integers(0, 3)) == 0
    if unknown:
        number = drawing.value(node.subcon, context, path)
    else:
        number = drawing.draw(st.sampled_from(known))
    return node._decode(number, context, path)


def _flags(drawing: Drawing, node: Any, context: Any, path: str) -> Any:
    number: int = 0
    for flag in node.flags.values():
        number |= flag if drawing.draw(st.booleans()) else 0
    return node._decode(number, context, path)


def _mapping(drawing: Drawing, node: Any, _context: Any, _path: str) -> Any:
    return drawing.draw(st.sampled_from(list(node.decmapping.values())))


def _python_enum(drawing: Drawing, node: Any, context: Any, path: str) -> Any:
    if node.strict or drawing.draw(st.integers(0, 3)):
        member = drawing.draw(st.sampled_from(list(node.members)))
        if issubclass(node.members, enum.Flag):
            for other in node.members:
                member = member | other if drawing.draw(st.booleans()) else member
        with contextlib.suppress(construct.ConstructError):
            return drawing.settled(node, member, context, path)
        if node.strict:
            drawing.refuse(f"{path}: {member!r} does not fit")
    number = drawing.value(node.subcon, context, path)
    with contextlib.suppress(construct.ConstructError):
        return drawing.settled(node, number, context, path)
    return drawing.refuse(f"{path}: {number!r} does not fit")


def _const(_drawing: Drawing, node: Any, _context: Any, _path: str) -> Any:
    return node.value


def _nothing(_drawing: Drawing, _node: Any, _context: Any, _path: str) -> None:
    return None


def _computed(drawing: Drawing, node: Any, context: Any, path: str) -> Any:
    return drawing.evaluated(node.func, context, path)


def _rebuild(drawing: Drawing, node: Any, context: Any, _path: str) -> Any:
    try:
        return node.func(context) if callable(node.func) else node.func
    except Exception:
        # It follows from fields that come later, as counts in front of lists do.
        return Undecided.of(drawing, node.func)


def _tell(drawing: Drawing, _node: Any, _context: Any, _path: str) -> int:
    if drawing.position is None:
        return Undecided.of(drawing)
    return int(drawing.position)


def _check(drawing: Drawing, node: Any, context: Any, path: str) -> None:
    if not drawing.evaluated(node.func, context, path):
        drawing.refuse(f"{path}: the declared check fails")


def _error(drawing: Drawing, _node: Any, _context: Any, path: str) -> None:
    drawing.refuse(f"{path}: a declared error")


def _stop_if(drawing: Drawing, node: Any, context: Any, path: str) -> None:
    if drawing.evaluated(node.condfunc, context, path):
        raise Stopped


def _array(drawing: Drawing, node: Any, context: Any, path: str) -> Any:
    count = drawing.size(node.count, context, path)
    count = drawing.free_count() if count is None else count
    return construct.ListContainer(elements(drawing, node, context, path, count))


def _range(drawing: Drawing, node: Any, context: Any, path: str) -> Any:
    values = elements(drawing, node, context, path, drawing.free_count())
    return construct.ListContainer(values)


def _repeat(drawing: Drawing, node: Any, context: Any, path: str) -> Any:
    values = construct.ListContainer()
    ends = list(constants_of(node.predicate))
    predicate = node.predicate
    for i in range(SHORT):
        context["_index"] = i
        place = f"{path}[{i}]"
        value = drawing.value(node.subcon, context, place)
        if ends and (i >= FEW or drawing.draw(st.integers(0, 3)) == 0):
            with contextlib.suppress(construct.ConstructError):
                value = drawing.settled(
                    node.subcon, drawing.draw(st.sampled_from(ends)), context, place
                )
        values.append(value)
        if predicate(value, values, context) if callable(predicate) else predicate:
            return values
    return drawing.refuse(f"{path}: a repetition that does not end")


def _switch(drawing: Drawing, node: Any, context: Any, path: str) -> Any:
    key = drawing.evaluated(node.keyfunc, context, path)
    if isinstance(key, Undecided):
        drawing.uncertain = True
        chosen = drawing.draw(st.sampled_from([*node.cases.values(), node.default]))
    else:
        chosen = node.cases.get(key, node.default)
    return drawing.value(chosen, context, path)


def _if(drawing: Drawing, node: Any, context: Any, path: str) -> Any:
    holds = drawing.evaluated(node.condfunc, context, path)
    return drawing.value(node.thensubcon if holds else node.elsesubcon, context, path)


def _select(drawing: Drawing, node: Any, context: Any, path: str) -> Any:
    if construct.Pass not in node.subcons:
        drawing.uncertain = True  # an earlier alternative may fit as well
        return drawing.value(drawing.draw(st.sampled_from(node.subcons)), context, path)
    others = [sc for sc in node.subcons if sc is not construct.Pass]
    if len(others) != 1 or greedy_part(others[0]) is not None:
        drawing.uncertain = True  # no bytes may be a value, too
    if drawing.left_out():
        return None
    return drawing.value(drawing.draw(st.sampled_from(others)), context, path)


def _prefixed(drawing: Drawing, node: Any, context: Any, path: str) -> Any:
    bounds = bounds_of(node.lengthfield, context)
    with drawing.within(None if bounds is None else bounds[1]):
        return drawing.value(node.subcon, context, path)


def _sized(drawing: Drawing, node: Any, context: Any, path: str) -> Any:
    """
    Draw what stands in a given number of bytes, all of which greedy parts take.
    """
    size = drawing.size(node.length, context, path)

    def inside() -> Any:
        with drawing.within(size):
            return drawing.value(node.subcon, context, path)

    if size is None:
        return inside()
    if isinstance(node.subcon, type(construct.GreedyBytes)):
        return drawing.binary(size)
    return drawing.tidy(node, context, path, inside)


def _bounded(drawing: Drawing, node: Any, context: Any, path: str) -> Any:
    """
    Draw what the construct does not change, or what it makes of it.
    """

    def inside() -> Any:
        return drawing.value(node.subcon, context, path)

    if greedy_part(node.subcon) is None:
        return inside()
    return drawing.tidy(node, context, path, inside)


def _terminated(drawing: Drawing, node: Any, context: Any, path: str) -> Any:
    term, unit = node.term, len(node.term)

    def inside() -> Any:
        value = drawing.value(node.subcon, context, path)
        if isinstance(value, bytes):
            value = value[: len(value) - len(value) % unit]
            units = [value[i : i + unit] for i in range(0, len(value), unit)]
            return b"".join(u for u in units if u != term)
        return value

    return drawing.tidy(node, context, path, inside)


def _inner(drawing: Drawing, node: Any, context: Any, path: str) -> Any:
    return drawing.value(node.subcon, context, path)


def _renamed(drawing: Drawing, node: Any, context: Any, path: str) -> Any:
    drawing.name = node.name or drawing.name
    return drawing.value(node.subcon, context, path)


def _raw_copy(drawing: Drawing, node: Any, context: Any, path: str) -> Any:
    return drawing.tidy(
        node, context, path, lambda: {"value": _inner(drawing, node, context, path)}
    )


def _lazy_bound(drawing: Drawing, node: Any, context: Any, path: str) -> Any:
    with drawing.deeper():
        return drawing.value(node.subconfunc(), context, path)


def _adapter(drawing: Drawing, node: Any, context: Any, path: str) -> Any:
    refused: Exception | None = None
    for _ in range(TRIES):
        inner = drawing.value(node.subcon, context, path)
        try:
            return node._decode(inner, context, path)
        except Exception as exc:
            refused = exc
    return drawing.refuse(f"{path}: {refused}")


def _validator(drawing: Drawing, node: Any, context: Any, path: str) -> Any:
    if isinstance(node, construct.ExprValidator):
        function = inspect.getclosurevars(node._validate).nonlocals["validator"]
        if function.__module__ == core.__name__:
            valids = inspect.getclosurevars(function).nonlocals.get("valids")
            if valids is not None:
                return drawing.draw(st.sampled_from(sorted(valids, key=repr)))
    return _adapter(drawing, node, context, path)


RULES: dict[type[Any], Rule] = {
    Record: Drawing.record,
    EnumField: _python_enum,
    construct.Adapter: _adapter,
    construct.Aligned: _bounded,
    construct.Array: _array,
    construct.BitsInteger: _integer,
    construct.Bytes: _bytes,
    construct.BytesInteger: _integer,
    construct.Check: _check,
    construct.Checksum: _nothing,
    construct.Computed: _computed,
    construct.Const: _const,
    construct.Default: _inner,
    construct.Enum: _enum,
    construct.FixedSized: _sized,
    construct.FlagsEnum: _flags,
    construct.FocusedSeq: _focused,
    construct.FormatField: _format,
    construct.GreedyRange: _range,
    construct.IfThenElse: _if,
    construct.LazyArray: _array,
    construct.LazyBound: _lazy_bound,
    construct.LazyStruct: _struct,
    construct.Mapping: _mapping,
    construct.NullStripped: _bounded,
    construct.NullTerminated: _terminated,
    construct.Padded: _sized,
    construct.Peek: _nothing,
    construct.Pointer: _inner,
    construct.Prefixed: _prefixed,
    construct.ProcessRotateLeft: _inner,
    construct.ProcessXor: _inner,
    construct.RawCopy: _raw_copy,
    construct.Rebuild: _rebuild,
    construct.Renamed: _renamed,
    construct.RepeatUntil: _repeat,
    construct.Restreamed: _inner,
    construct.Seek: _nothing,
    construct.Select: _select,
    construct.Sequence: _sequence,
    construct.StopIf: _stop_if,
    construct.StringEncoded: _text_value,
    construct.Struct: _struct,
    construct.Switch: _switch,
    construct.Transformed: _inner,
    construct.Tunnel: _inner,
    construct.Validator: _validator,
    type(construct.Error): _error,
    type(construct.Flag): lambda drawing, *_: drawing.draw(st.booleans()),
    type(construct.GreedyBytes): lambda drawing, *_: drawing.binary(),
    type(construct.Index): lambda _d, _n, context, _p: context.get("_index"),
    type(construct.Pass): _nothing,
    type(construct.Tell): _tell,
    type(construct.Terminated): _nothing,
    type(construct.VarInt): _integer,
    type(construct.ZigZag): _integer,
}
"""How to draw each kind of construct's value."""
