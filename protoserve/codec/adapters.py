"""
Adapters, the user's own among them, as generated code calls them.

An adapter turns one value into another, and what it does so with is its own business.
What it adapts has a plan like anything else; so only the two functions stay as they
are. They are given a context, which takes time to make: not where they do not look at it.
"""

from __future__ import annotations

import dis
from typing import Any

import construct

from protoserve.codec.plan import (
    Mapped,
    Node,
    Number,
    Opaque,
    Raw,
    Repeated,
    Stripped,
    Terminated,
    Text,
    VarNumber,
    Window,
    plan_of,
)

__all__ = ["adapted", "looks_at_context"]

_ADAPTERS = (
    construct.ExprAdapter,
    construct.ExprSymmetricAdapter,
    construct.ExprValidator,
)
_SIMPLE = (Number, VarNumber, Raw, Text, Stripped, Terminated, Mapped)


def adapted(node: Opaque) -> tuple[Any, Node] | None:
    """
    Give an adapter, the user's own among them, and the plan of what it adapts.

    Returns:
        `None` if it is none, or one that does more than to turn a simple value into
        another.
    """
    subcon = node.construct
    while isinstance(subcon, construct.Renamed) and subcon.parsed is None:
        subcon = subcon.subcon
    kind = type(subcon)
    if (
        not isinstance(subcon, construct.Adapter)
        or subcon.parsed is not None
        or kind._parse is not construct.Adapter._parse
        or kind._build is not construct.Adapter._build
        or (kind.__module__ == construct.Adapter.__module__ and kind not in _ADAPTERS)
    ):
        return None
    inner = plan_of(subcon.subcon)
    simple = inner
    while isinstance(simple, Window | Repeated):
        simple = simple.inner if isinstance(simple, Window) else simple.element
    return (subcon, inner) if isinstance(simple, _SIMPLE) else None


def looks_at_context(adapter: Any, way: str) -> bool:
    """
    Whether an adapter looks at the context that it is given.

    Args:
        adapter: what `adapted` has found.
        way: ``decode`` or ``encode``.
    """
    function, place = getattr(adapter, f"_{way}"), 2
    if type(adapter) in _ADAPTERS:  # it only passes on what it is given
        cells = dict(
            zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        )
        if (own := cells.get(f"{way}r")) is None:
            return True
        function, place = own.cell_contents, 1
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if code is None or code.co_argcount <= place:
        return True  # who knows
    name = code.co_varnames[place]
    used = [step.argval for step in dis.get_instructions(code)]
    return name in code.co_cellvars or any(
        name == each or (isinstance(each, tuple) and name in each) for each in used
    )
