"""
Where in its stream each part stands, for what depends on that.

`Tell` gives the position, padding and pointers reckon with it. While a message is drawn
there are no bytes yet, so the position is kept beside: structures leave it where their
last part did, and any other part is built by itself to see how long it is. What cannot
be built yet, for a length that follows later, leaves it unknown; then a `Tell` is as
undecided as such a length.

Bits count as eighths of a byte, which floats hold exactly.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import construct

from protoserve.codec.record import Record

__all__ = ["behind", "fixed", "inside", "measured"]

_THROUGH: tuple[type[Any], ...] = (
    construct.FocusedSeq,
    construct.IfThenElse,
    construct.LazyBound,
    construct.Renamed,
    construct.Sequence,
    construct.Struct,
    construct.Switch,
    Record,
)
"""Constructs that end where their last part does."""

_OWN_STREAM: tuple[type[Any], ...] = (construct.FixedSized, construct.Prefixed)
"""Constructs whose inside has a stream of its own, which begins with it."""

_UNKNOWN: tuple[type[Any], ...] = (
    construct.NullStripped,
    construct.NullTerminated,
    construct.Restreamed,
    construct.Transformed,
    construct.Tunnel,
)
"""Constructs whose inside has other positions when it is built, or none."""


def inside(start: float, node: Any) -> float | None:
    """
    Say where the inside of a construct stands that stands at `start` itself.
    """
    if isinstance(node, _OWN_STREAM):
        return 0
    return None if isinstance(node, _UNKNOWN) else start


def behind(
    start: float, last: float | None, node: Any, build: Callable[[], io.BytesIO]
) -> float | None:
    """
    Say where a construct ends.

    Args:
        start: where it stands.
        last: where its last part ends.
        node: the construct.
        build: builds its value.
    """
    if isinstance(node, _THROUGH):
        return last
    if isinstance(node, construct.Seek):
        return None
    return measured(start, node, build)


def measured(start: float, node: Any, build: Callable[[], io.BytesIO]) -> float | None:
    """
    Say where a construct ends by the length of what it builds.
    """
    try:
        return start + build().tell()
    except Exception:  # it depends on what is not known yet
        return fixed(start, node, bits=False)


def fixed(start: float, node: Any, *, bits: bool) -> float | None:
    """
    Say where a part ends whose size is always the same.
    """
    try:
        size: int = node.sizeof()
    except construct.ConstructError:
        return None
    return start + size / (8 if bits else 1)
