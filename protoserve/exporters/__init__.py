"""
Exporters: from a declaration to text that other tools and people read.

One file a target. Each has a function that takes the protocol and where it was found,
and gives the whole text; whoever calls it writes the file, or compares it with one.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import TypeAlias

from protoserve.errors import ProtoserveError
from protoserve.protocol import Protocol

__all__ = ["TARGETS", "ExportError", "export", "exporter"]

Exporter: TypeAlias = Callable[[Protocol, str], str]

TARGETS = {
    "client": "protoserve.exporters.client:client_source",
}
"""What can be made, and the function (``MODULE:NAME``) that makes it."""


class ExportError(ProtoserveError):
    """
    A declaration cannot be exported; the message says what is in the way.
    """


def exporter(target: str) -> Exporter:
    """
    Find the function that makes a target.

    Raises:
        ExportError: there is no such target; it names the nearest.
    """
    if target not in TARGETS:
        close = difflib.get_close_matches(target.lower(), TARGETS, 1, 0.5)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(TARGETS)}"
        raise ExportError(f"there is no export target {target!r}; {hint}")
    module, _, name = TARGETS[target].partition(":")
    found: Exporter = getattr(importlib.import_module(module), name)
    return found


def export(target: str, protocol: Protocol, place: str) -> str:
    """
    Make the text for one target.

    Args:
        target: one of `TARGETS`.
        protocol: what is exported.
        place: where it is, as ``MODULE:NAME``.

    Returns:
        The whole text, with a newline at its end.

    Raises:
        ExportError: there is no such target, or the declaration cannot be exported.
    """
    return exporter(target)(protocol, place)
