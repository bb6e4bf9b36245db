"""
``protoserve export``: write what an exporter makes, or compare it with a file.
"""

from __future__ import annotations

import difflib
import itertools
import sys

from protoserve.cli.files import read_text, write_text
from protoserve.cli.targets import CommandError, load
from protoserve.exporters import ExportError, export, exporter
from protoserve.protocol import Protocol

__all__ = ["export_to"]

_SHOWN = 40
"""Lines of a difference that are shown."""


def export_to(target: str, place: str, path: str | None, *, check: bool) -> bool:
    """
    Export a protocol.

    Args:
        target: one of `protoserve.exporters.TARGETS`.
        place: the protocol, as ``MODULE:NAME``.
        path: the file; `None` or ``-`` is standard output.
        check: compare with the file in place of writing it.

    Returns:
        Whether the file is as it should be.

    Raises:
        CommandError: there is nothing to export or to compare with.
    """
    if check and path in (None, "-"):
        raise CommandError("--check compares with a file; say which one with -o FILE")
    try:
        exporter(target)
        text = export(target, load(place, Protocol, "protocols.dns:dns"), place)
    except ExportError as exc:
        raise CommandError(str(exc)) from exc
    if not check:
        write_text(text, path)
        return True
    assert path is not None
    found = read_text(path)
    if found == text:
        return True
    _show_difference(found, text, path)
    return False


def _show_difference(found: str, text: str, path: str) -> None:
    """
    Write what differs to standard error, of a long difference its beginning.
    """
    lines = difflib.unified_diff(
        found.splitlines(), text.splitlines(), path, "as declared", lineterm="", n=1
    )
    shown = list(itertools.islice(lines, _SHOWN))
    more = sum(1 for _ in lines)
    if more:
        shown.append(f"… and {more} more lines")
    note = f"{path} is not what the declaration gives; export it anew"
    sys.stderr.write("\n".join([*shown, note]) + "\n")
