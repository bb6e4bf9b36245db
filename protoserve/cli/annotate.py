"""
A hexdump in colours: each field's bytes, name and value in its own.

What stands on which line is `protoserve.codec.annotated`'s to say, so that the dump
reads the same without colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from protoserve.codec.annotated import rows_of

if TYPE_CHECKING:
    from rich.console import Console

    from protoserve.codec.spans import Span

__all__ = ["annotated"]

_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_cyan")
"""Of fields one after the other; red is for faults."""


def annotated(console: Console, spans: Sequence[Span], data: bytes) -> None:
    """
    Print a frame's bytes with the names and values of its fields.

    Args:
        console: where to.
        spans: from `protoserve.codec.spans`; their ``error``, if they have one, is
            shown at its byte.
        data: the frame.
    """
    from rich.text import Text

    rows = list(rows_of(spans, data))
    names = max((len(row.name) for row in rows if row.offset is not None), default=0)
    for row in rows:
        if row.offset is None:
            style = "bold" if row.name else "red"
            console.print(Text(row.name or row.value, style), soft_wrap=True)
            continue
        colour = "dim" if row.field is None else _COLOURS[row.field % len(_COLOURS)]
        line = Text()
        line.append(f"{row.offset:04x}  ", "dim")
        shown = Text(f"{row.bytes:<23}", colour)
        if row.mark is not None:
            shown.stylize("bold red reverse", 3 * row.mark, 3 * row.mark + 2)
        line.append_text(shown)
        line.append("  ")
        line.append(f"{row.name:<{names}}  ", colour)
        line.append(row.value, colour if row.name else "dim")
        line.rstrip()
        console.print(line, soft_wrap=True)
        if row.mark is not None:
            place = " " * (6 + 3 * row.mark)
            console.print(Text(f"{place}^^", "bold red"), soft_wrap=True)
