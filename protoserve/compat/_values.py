"""
Numbers that stand for something.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from protoserve.compat._rows import kind_of, size_of

__all__ = ["all_numbers", "bits_number", "in_order", "some_named", "values_of"]

_Node = dict[str, Any]

_FEW = 8
"""Values that are named."""


def values_of(node: Any) -> dict[Any, str] | None:
    if kind_of(node) != "mapped":
        return None
    return {number: name for name, number in node["values"]}


def in_order(value: Any) -> tuple[str, Any]:
    return type(value).__name__, value if isinstance(value, int) else str(value)


def some_named(values: Mapping[Any, str] | None, numbers: list[Any]) -> str:
    """
    Name the first of some numbers.
    """
    known = values or {}
    said = [f"{known[n]} ({n})" if n in known else str(n) for n in numbers[:_FEW]]
    more = len(numbers) - len(said)
    return ", ".join(said) + (f" and {more} more" if more else "")


def all_numbers(node: _Node) -> set[int] | None:
    """
    Give all values of a small number; `None` if there are too many.
    """
    bits = node.get("width") or 8 * (size_of(node) or 8)
    if bits > 8:
        return None
    low = -(1 << (bits - 1)) if node.get("signed") else 0
    return set(range(low, low + (1 << bits)))


def bits_number(part: _Node) -> _Node:
    return {
        "kind": "number",
        "size": 0,
        "order": ">",
        "code": "?" if part["flag"] else "",
        "signed": part["signed"],
        "width": part["width"],
    }
