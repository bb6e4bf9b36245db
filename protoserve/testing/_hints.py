"""
What a declaration's expressions say about the values of its fields.

Numbers drawn at random from all that fit would make arrays of 40,000 elements and
switches that know no case. So the expressions of a declaration are read first:
a field that something is sized by gets small numbers, and a field that something is
chosen by gets those that there is a choice for. Fields go by their names alone; a
namesake elsewhere in the message only gets likelier values than it needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import construct
from construct import expr

from protoserve.codec.nodes import children
from protoserve.codec.record import Record

__all__ = ["Hints", "constants_of", "hints_of", "names_of"]

_SIZES = ("count", "length", "modulus", "offset")
"""Attributes of constructs that hold a size."""

_CHOICES = ("condfunc", "keyfunc", "predicate")
"""Attributes of constructs that hold a choice; so does a `Check`'s ``func``."""

_PLACED: tuple[type[Any], ...] = (
    construct.Checksum,
    construct.Peek,
    construct.Pointer,
    construct.RawCopy,
    construct.Seek,
    type(construct.Tell),
)
"""Constructs that look at other bytes than their own, or at where these are."""


@attrs.frozen
class Hints:
    """
    Names of fields that others depend on.
    """

    sizes: frozenset[str]
    """Fields that say how long or how many."""

    choices: dict[str, tuple[Any, ...]]
    """Fields that something is chosen by, with the values that make a difference."""

    placed: bool = False
    """Whether values depend on where in the bytes they, or others, stand."""


def hints_of(*roots: Any) -> Hints:
    """
    Read all expressions that can be reached from some constructs.
    """
    sizes: set[str] = set()
    choices: dict[str, dict[Any, None]] = {}
    seen: set[int] = set()
    placed = False
    for root in roots:
        for node in _walk(root, seen):
            found = vars(node)
            placed = placed or isinstance(node, _PLACED)
            for attribute in _SIZES:
                sizes.update(names_of(found.get(attribute)))
            for expression, values in _choices_of(node, found):
                for name in names_of(expression):
                    choices.setdefault(name, {}).update(dict.fromkeys(values))
    chosen = {name: tuple(values) for name, values in choices.items() if values}
    return Hints(frozenset(sizes), chosen, placed)


def _choices_of(node: Any, found: dict[str, Any]) -> Iterator[tuple[Any, list[Any]]]:
    for attribute in _CHOICES:
        expression = found.get(attribute)
        if expression is not None:
            yield expression, [*found.get("cases", ()), *_around(expression)]
    if isinstance(node, construct.Check):
        yield node.func, list(_around(node.func))


def _around(expression: Any) -> Iterator[Any]:
    """
    Give an expression's constants, and the numbers next to them.
    """
    for constant in constants_of(expression):
        yield constant
        if type(constant) is int:
            yield from (constant - 1, constant + 1)


def _walk(node: Any, seen: set[int]) -> Iterator[Any]:
    if id(node) in seen:
        return
    seen.add(id(node))
    yield node
    if isinstance(node, Record):
        parts: Any = [field.construct for field in node.fields]
    elif isinstance(node, construct.LazyBound):
        parts = [node.subconfunc()]
    else:
        parts = children(node)
    for part in parts:
        yield from _walk(part, seen)


def names_of(expression: Any) -> Iterator[str]:
    """
    Give the names of the fields that an expression reads.
    """
    if isinstance(expression, expr.Path):
        own = vars(expression)
        name = own["_Path__field"]
        if isinstance(name, str) and not name.startswith("_"):
            yield name
        yield from names_of(own["_Path__parent"])
    elif isinstance(expression, expr.ExprMixin):
        for part in vars(expression).values():
            yield from names_of(part)
    elif hasattr(expression, "__code__"):
        yield from expression.__code__.co_names


def constants_of(expression: Any) -> Iterator[Any]:
    """
    Give the constants that an expression mentions.
    """
    if isinstance(expression, expr.BinExpr):
        for part in (expression.lhs, expression.rhs):
            yield from constants_of(part)
    elif isinstance(expression, expr.UniExpr):
        yield from constants_of(expression.operand)
    elif isinstance(expression, expr.ExprMixin):
        return  # a path: it has every attribute that it is asked for
    elif hasattr(expression, "__code__"):
        for constant in expression.__code__.co_consts:
            parts = constant if isinstance(constant, tuple) else (constant,)
            yield from (part for part in parts if part is not None)
    elif isinstance(expression, int | str | bytes):
        yield expression
