"""
Rebuild a Construct tree so that it is safe on bytes from a network.

The user's objects are never changed. `guard` copies the tree and puts the
classes of `protoserve.codec.nodes` in place of Construct's own where these
cannot be trusted; all others are copied with their parts guarded, so that they
keep their meaning. What may not stand in a message at all is refused before, by
`protoserve.codec.refuse`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import construct
from construct import core

from protoserve.codec import nodes
from protoserve.codec.nodes import Traced
from protoserve.codec.refuse import greedy_part

__all__ = ["bits_of_record", "guard"]


def guard(subcon: Any) -> Any:
    """
    Make the guarded form of a Construct object.

    Args:
        subcon: any Construct object; it is left as it is.

    Returns:
        A Construct object that gives the same values for good data, and raises
        `Fault` for bad data.
    """
    if isinstance(subcon, nodes.Traced) or getattr(subcon, "is_guarded", False):
        return subcon
    for kind in type(subcon).__mro__:
        rule = _RULES.get(kind)
        if rule is not None:
            return rule(subcon)
    return Traced(subcon, subcon)  # a class of the user's own, taken as it is


def _copied(subcon: Any, kind: type[Any] | None = None) -> Any:
    """
    Copy one node with its parts guarded, as another class if one is given.
    """
    copied = copy.copy(subcon)
    for name, value in vars(copied).items():
        if isinstance(value, construct.Construct):
            setattr(copied, name, guard(value))
        elif name == "subcons":
            copied.subcons = [guard(v) for v in value]
        elif name == "cases":
            copied.cases = {k: guard(v) for k, v in value.items()}
    if hasattr(copied, "subcons") and "_subcons" in vars(copied):
        named = ((sc.name, sc) for sc in copied.subcons if sc.name)
        copied._subcons = construct.Container(named)
    if kind is not None:
        copied.__class__ = kind
    return copied


def _as(
    kind: type[Any] | None = None, scale: int | None = None
) -> Callable[[Any], Any]:
    return lambda subcon: Traced(_copied(subcon, kind), subcon, scale)


def _renamed(subcon: Any) -> Any:
    inner = guard(subcon.subcon)
    if subcon.name is None:  # only documentation or a hook were added
        named = copy.copy(subcon)
        named.subcon = inner
        named.__class__ = construct.Subconstruct
        return named
    named = nodes.NamedField(inner, newname=subcon.name, newdocs=subcon.docs)
    named.parsed = subcon.parsed
    return named


def _focused(subcon: Any) -> Any:
    """
    Keep the focus of a `FocusedSeq` out of paths: it has no name of its own there.
    """
    copied = _copied(subcon)
    for i, part in enumerate(copied.subcons):
        if isinstance(part, nodes.NamedField) and part.name == subcon.parsebuildfrom:
            unnamed = copy.copy(part)
            unnamed.__class__ = _Unnamed
            copied.subcons[i] = unnamed
    return Traced(copied, subcon)


class _Unnamed(construct.Renamed):  # type: ignore[misc] # construct is untyped
    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        return self.subcon._parsereport(stream, context, path)

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> Any:
        return self.subcon._build(obj, stream, context, path)


_SCALES = {core.bytes2bits: 8, core.swapbitsinbytes: 1}
"""Positions inside that make one byte outside, by how bytes are transformed."""


def _transformed(subcon: Any) -> Any:
    record = bits_of_record(subcon)
    if record is not None:
        return record
    return Traced(_copied(subcon), subcon, _SCALES.get(subcon.decodefunc, 0))


def _restreamed(subcon: Any) -> Any:
    record = bits_of_record(subcon)
    if record is not None:
        return record
    scale = _SCALES.get(subcon.decoder, 0)
    kind = nodes.GreedyRestreamed if greedy_part(subcon.subcon) is not None else None
    return Traced(_copied(subcon, kind), subcon, scale)


def bits_of_record(subcon: Any) -> Any:
    """
    Know ``Bitwise(X.construct)``: the message's fields as bits. Else give `None`.
    """
    decoder = getattr(subcon, "decodefunc", None) or getattr(subcon, "decoder", None)
    inner = subcon.subcon
    while isinstance(inner, construct.Renamed):
        inner = inner.subcon
    if decoder is core.bytes2bits and getattr(inner, "is_guarded", False):
        return inner.as_bits()
    return None


def _lazy_struct(subcon: Any) -> Any:
    eager = construct.Struct(*subcon.subcons)
    eager.name, eager.docs, eager.parsed = subcon.name, subcon.docs, subcon.parsed
    return guard(eager)


def _lazy_array(subcon: Any) -> Any:
    eager = construct.Array(subcon.count, subcon.subcon)
    eager.name, eager.docs, eager.parsed = subcon.name, subcon.docs, subcon.parsed
    return guard(eager)


def _tunnel(subcon: Any) -> Any:
    return Traced(nodes.Unfolding(subcon, guard(subcon.subcon)), subcon, scale=0)


def _named_tuple(subcon: Any) -> Any:
    """
    Keep the class of a `NamedTuple`'s content, which it asks for.
    """
    copied = copy.copy(subcon)
    copied.subcon = _copied(subcon.subcon)
    return Traced(copied, subcon)


def _lazy_bound(subcon: Any) -> Any:
    return Traced(nodes.CappedLazyBound(subcon.subconfunc, guard), subcon)


_RULES: dict[type[Any], Callable[[Any], Any]] = {
    construct.Array: _as(nodes.CappedArray),
    construct.Bytes: _as(nodes.FreeBytes),
    construct.FixedSized: _as(nodes.FreeFixedSized),
    construct.FocusedSeq: _focused,
    construct.GreedyRange: _as(nodes.StrictRange),
    construct.IfThenElse: _as(nodes.SkippedIf),
    construct.LazyArray: _lazy_array,
    construct.LazyBound: _lazy_bound,
    construct.LazyStruct: _lazy_struct,
    construct.NamedTuple: _named_tuple,
    construct.NullTerminated: _as(nodes.TerminatedSearch),
    construct.Padded: _as(nodes.FreePadded),
    construct.Peek: _as(nodes.HonestPeek),
    construct.Prefixed: _as(nodes.StrictPrefixed),
    construct.Renamed: _renamed,
    construct.RepeatUntil: _as(nodes.StrictRepeat),
    construct.RestreamData: _as(scale=0),
    construct.Restreamed: _restreamed,
    construct.Select: _as(nodes.HonestSelect),
    construct.Sequence: _as(),
    construct.Struct: _as(nodes.PlainStruct),
    construct.Subconstruct: _as(),
    construct.Switch: _as(),
    construct.Transformed: _transformed,
    construct.Tunnel: _tunnel,
    construct.Union: _as(),
    type(construct.VarInt): lambda sc: Traced(nodes.CappedVarInt(), sc),
    type(construct.ZigZag): lambda sc: Traced(nodes.CappedZigZag(), sc),
    construct.Checksum: _as(),
}
