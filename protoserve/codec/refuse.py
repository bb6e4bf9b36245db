"""
What may not stand in a message, told when the class is defined.

Three kinds of constructs are refused: those that run or show things
(`Pickled`, `Debugger`), those that read when the frame is long gone (`Lazy`),
and greedy ones that have something behind them, which could never be reached.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import construct
from construct import core, expr

from protoserve.codec.fault import describe
from protoserve.codec.nodes import children
from protoserve.errors import DeclarationError

__all__ = ["greedy_part", "may_take_bytes", "refuse_unknown_names", "refuse_unsafe"]

_UNSAFE: dict[type[Any], str] = {
    type(construct.Pickled): "unpickling runs whatever code the peer sent",
    construct.Debugger: "it stops the server in a debugger",
    construct.Lazy: "it would be parsed after its frame is gone and checked",
    construct.Rebuffered: "at the end of its data it reads for ever",
    construct.Probe: "it prints each message that it sees",
    core.Compiled: "compiled constructs return short data without an error",
}

_BOUNDED = (
    construct.FixedSized,
    construct.NullTerminated,
    construct.Peek,
    construct.Pointer,
    construct.Prefixed,
    construct.RestreamData,
)


_OWN_NAMES = (
    construct.FocusedSeq,
    construct.LazyStruct,
    construct.Sequence,
    construct.Struct,
    construct.Union,
)
"""Within these `this` is another structure."""


def refuse_unsafe(subcon: Any, path: str) -> None:
    """
    Refuse what is unsafe anywhere in a construct.

    Args:
        subcon: any Construct object.
        path: the field's path, for the message.

    Raises:
        DeclarationError: with the reason.
    """
    for node in _walk(subcon):
        for kind, reason in _UNSAFE.items():
            if isinstance(node, kind):
                raise DeclarationError(f"{path}: {describe(node)} is refused: {reason}")
        if isinstance(node, construct.Array | construct.LazyArray):
            _refuse_before(node.subcon, f"{path}[0]", f"{path}[1]")
        if isinstance(node, construct.RepeatUntil | construct.GreedyRange):
            _refuse_before(node.subcon, f"{path}[0]", f"{path}[1]")
        if isinstance(node, construct.Struct | construct.Sequence):
            refuse_greedy_before_others(
                [(f"{path}.{sc.name or i}", sc) for i, sc in enumerate(node.subcons)]
            )
        if isinstance(node, construct.FocusedSeq):
            refuse_greedy_before_others([(path, sc) for sc in node.subcons])


def refuse_greedy_before_others(parts: list[tuple[str, Any]]) -> None:
    """
    Refuse a greedy construct that has something of its own behind it.

    Args:
        parts: paths and constructs, in the order of the wire.

    Raises:
        DeclarationError: naming both.
    """
    greedy: str | None = None
    for path, subcon in parts:
        if greedy is not None and may_take_bytes(subcon):
            _refuse(greedy, path)
        if greedy is None and greedy_part(subcon) is not None:
            greedy = path


def _refuse_before(element: Any, path: str, next_path: str) -> None:
    if greedy_part(element) is not None:
        _refuse(path, next_path)


def _refuse(greedy: str, follower: str) -> None:
    raise DeclarationError(
        f"{greedy} takes all bytes to the end of the data, so {follower} behind it "
        "could never be reached; bound it with FixedSized, Prefixed or "
        "Bytes(this.…), or put what follows in the protocol's trailer"
    )


def _walk(subcon: Any, seen: set[int] | None = None) -> Iterator[Any]:
    seen = set() if seen is None else seen
    if id(subcon) in seen:
        return
    seen.add(id(subcon))
    yield subcon
    for child in children(subcon):
        yield from _walk(child, seen)


def refuse_unknown_names(subcon: Any, path: str, owner: str, known: list[str]) -> None:
    """
    Refuse a ``this.name`` that no field of the message has.

    Args:
        subcon: a field's construct.
        path: the field's path, for the message.
        owner: the message's name.
        known: its fields. Names that start with an underscore are Construct's own.

    Raises:
        DeclarationError: it names the field that is meant, and those that there are.
    """
    if isinstance(subcon, _OWN_NAMES) or hasattr(subcon, "record_name"):
        return
    if not type(subcon).__module__.startswith(("construct.", "protoserve.")):
        return  # a user's own class may put names of its own there
    for value in vars(subcon).values():
        for name in _names_in(value):
            if name not in known and not name.startswith("_"):
                raise DeclarationError(
                    f"{path}: this.{name} names a field that {owner} does not have "
                    f"(it has {', '.join(known)})"
                )
    for child in children(subcon):
        refuse_unknown_names(child, path, owner, known)


def _names_in(value: Any) -> Iterator[str]:
    """
    Give the fields of the same message that an expression of `this` looks at.
    """
    if isinstance(value, expr.Path):
        parent, field = value._Path__parent, value._Path__field
        if parent is not None and parent._Path__parent is None:
            if parent._Path__name == "this" and isinstance(field, str):
                yield field
        elif parent is not None:
            yield from _names_in(parent)
    elif isinstance(value, expr.ExprMixin):
        for part in vars(value).values():
            yield from _names_in(part)


def greedy_part(subcon: Any) -> Any:
    """
    Find what reads to the end of the data, if a construct ends with such a part.

    References (`LazyBound`) are not followed: what they refer to may not exist yet.

    Returns:
        The greedy construct, or `None`.
    """
    if isinstance(subcon, _BOUNDED):
        return None
    if isinstance(
        subcon,
        type(construct.GreedyBytes)
        | construct.GreedyRange
        | construct.NullStripped
        | construct.Tunnel
        | construct.ProcessXor
        | construct.ProcessRotateLeft,
    ):
        return subcon
    if isinstance(subcon, construct.Transformed) and subcon.decodeamount is not None:
        return None
    greedy_tail = getattr(subcon, "greedy_tail", None)
    if greedy_tail is not None:
        return greedy_tail()
    if isinstance(subcon, construct.Struct | construct.Sequence | construct.FocusedSeq):
        parts = subcon.subcons
    elif isinstance(subcon, construct.Construct):
        parts = list(children(subcon))
    else:
        return None
    return next((g for p in parts if (g := greedy_part(p)) is not None), None)


def may_take_bytes(subcon: Any) -> bool:
    """
    Say whether a construct can ever take a byte.
    """
    try:
        return bool(subcon.sizeof() != 0)
    except Exception:
        return not isinstance(subcon, type(construct.Terminated) | construct.StopIf)
