"""
What a plan tells without any bytes: sizes, runs and counts.
"""

from __future__ import annotations

from typing import Any

from construct import expr

from protoserve.codec.emit import Scope, Symbol
from protoserve.codec.plan import (
    Bits,
    Constant,
    Group,
    Mapped,
    Node,
    Number,
    Padding,
    Raw,
    Repeated,
    VarNumber,
)

__all__ = ["element_run", "has_value", "largest", "same_count", "unsigned"]


def unsigned(size: Any, scope: Scope) -> bool:
    """
    Whether a size is a field that cannot be negative.
    """
    if not isinstance(size, expr.Path):
        return isinstance(size, int) and size >= 0
    try:
        symbol = size(scope)
    except Exception:
        return False
    node = symbol.node if isinstance(symbol, Symbol) else None
    if isinstance(node, VarNumber):
        return not node.zigzag
    return (
        isinstance(node, Number) and not node.signed and node.code not in tuple("efd")
    )


def largest(counter: Node | None, count: Any, scope: Scope) -> int | None:
    """
    Give the largest count that can be read; `None` if that is not known.
    """
    node = counter
    if node is None and isinstance(count, int):
        return count
    if node is None and isinstance(count, expr.Path):
        try:
            symbol = count(scope)
        except Exception:
            return None
        node = symbol.node if isinstance(symbol, Symbol) else None
    if isinstance(node, Number) and node.code not in tuple("efd") and node.size <= 2:
        return int(1 << 8 * node.size)
    return None


def element_run(node: Node) -> int | None:
    """
    Give the size of what is one run of fixed fields in one byte order, else `None`.
    """
    shape = _Shape()
    return shape.size if shape.add(node) and shape.size else None


class _Shape:
    """
    Finds out whether a node is a single run.
    """

    def __init__(self) -> None:
        self.size = 0
        self.order = ""

    def add(self, node: Node) -> bool:
        if isinstance(node, Number):
            wide = bool(node.code) and node.size > 1
            if wide and self.order not in ("", node.order):
                return False
            self.order = node.order if wide else self.order
            self.size += node.size
            return True
        if isinstance(node, Raw | Padding):
            return isinstance(node.size, int) and self._grow(node.size)
        if isinstance(node, Bits):
            wide = node.size in (2, 4, 8)
            if wide and self.order not in ("", ">"):
                return False
            self.order = ">" if wide else self.order
            return self._grow(node.size)
        if isinstance(node, Mapped | Constant):
            return self.add(node.inner)
        if isinstance(node, Group):
            plain = node.record is None or node.record.make_style == "plain"
            computed = any(i.computed is not None for i in node.items)
            return plain and not computed and all(self.add(i.node) for i in node.items)
        return False

    def _grow(self, size: int) -> bool:
        self.size += size
        return True


def has_value(node: Node) -> bool:
    """
    Whether a fixed-size node takes anything but padding.
    """
    if isinstance(node, Group):
        return any(has_value(item.node) for item in node.items)
    if isinstance(node, Raw):
        return bool(node.size)
    return not isinstance(node, Padding)


def same_count(node: Node | None, name: str) -> bool:
    """
    Whether an array's count is exactly the field that counts it.
    """
    return (
        isinstance(node, Repeated)
        and callable(node.count)
        and node.counter is None
        and repr(node.count) == f"this[{name!r}]"
    )
