"""
Which columns a protocol's tables have, as far as its declaration tells.

A name that nothing can have is a slip of the pen, and is told before anything is collected.
Where a protocol does not say what its rows are, any name may be right.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Collection, Iterator
from typing import Any

import attrs

from protoserve.batch import Source, layout_of
from protoserve.errors import DeclarationError
from protoserve.protocol import Direction, Protocol
from protoserve.telemetry.tabulate import has_rows

__all__ = ["check_columns", "columns_of"]

_ORIGIN = ("exporter", "received_at", "exporter_", "received_at_")
_NUMBERED = re.compile(r".*_(\d+|bytes)", re.DOTALL)
"""Names that tabulators make up for what no registry names."""


def columns_of(protocol: Protocol) -> Collection[str] | None:
    """
    Name all columns that a protocol's tables may have; `None` if anything may be there.
    """
    if protocol.tabulator is not None:
        names = getattr(protocol.tabulator, "columns", None)
        return None if names is None else {*names(), *_ORIGIN}
    found = set(_ORIGIN)
    for message in protocol.table(Direction.REQUEST).values():
        names = (
            _of_rows(message) if has_rows(message) else _of_message(protocol, message)
        )
        if names is None:
            return None
        found |= names
    return found


def check_columns(protocol: Protocol, wanted: Collection[str]) -> None:
    """
    Find out whether there may be such columns.

    Raises:
        DeclarationError: there is none of that name.
    """
    known = columns_of(protocol)
    if known is None:
        return
    lower = {name.lower(): name for name in known}
    for name in wanted:
        made_up = protocol.tabulator is not None and _NUMBERED.fullmatch(name)
        if name.lower() in lower or made_up:
            continue
        close = difflib.get_close_matches(name.lower(), lower, 1)
        hint = f"; did you mean {lower[close[0]]}?" if close else ""
        raise DeclarationError(
            f"filter or select: {protocol.name} has no column {name!r}{hint}"
        )


def _of_message(protocol: Protocol, message: Any) -> set[str]:
    return {*Source(protocol, message, layout_of(protocol, message)).names}


def _of_rows(message: Any) -> set[str] | None:
    """
    Name the columns of the row classes that a message's `rows` says it gives.
    """
    try:
        said = typing.get_type_hints(message.rows).get("return")
    except (NameError, TypeError):
        return None
    kinds = [*_leaves(typing.get_args(said))]
    if not kinds or not all(attrs.has(kind) for kind in kinds):
        return None
    return {field.name for kind in kinds for field in attrs.fields(kind)}


def _leaves(annotations: Collection[Any]) -> Iterator[Any]:
    for each in annotations:
        parts = typing.get_args(each)
        if parts:
            yield from _leaves(parts)
        else:
            yield each
