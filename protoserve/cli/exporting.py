"""
``protoserve export``: write what an exporter makes, or compare it with a file.
"""

from __future__ import annotations

import difflib
import itertools
import sys
from typing import Any

from protoserve.cli.files import read_text, write_text
from protoserve.cli.shown import write_entry
from protoserve.cli.targets import CommandError, load
from protoserve.exporters import ExportError, export, exporter
from protoserve.protocol import Protocol

__all__ = ["export_to"]

_SHOWN = 40
"""Lines of a difference that are shown."""


def export_to(
    target: str, place: str, path: str | None, *, check: bool, as_json: bool = False
) -> bool:
    """
    Export a protocol.

    Args:
        target: one of `protoserve.exporters.TARGETS`.
        place: the protocol, as ``MODULE:NAME``.
        path: the file; `None` or ``-`` is standard output.
        check: compare with the file in place of writing it.
        as_json: write one JSON object that says what was done; it has the text where
            there is no file for it.

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
    file = None if path == "-" else path
    difference: list[str] = []
    if check:
        assert file is not None
        difference = _difference(read_text(file), text, file)
    elif not as_json or file is not None:
        write_text(text, file)
    if as_json:
        done: dict[str, Any] = {
            "target": target,
            "protocol": place,
            "file": file,
            "written": file is not None and not check,
            "same": not difference,
            "difference": difference,
        }
        write_entry(done if file is not None else done | {"text": text})
    elif difference:
        note = f"{file} is not what the declaration gives; export it anew"
        sys.stderr.write("\n".join([*difference, note]) + "\n")
    return not difference


def _difference(found: str, text: str, path: str) -> list[str]:
    """
    Give the lines that say what differs, of a long difference its beginning.
    """
    if found == text:
        return []
    lines = difflib.unified_diff(
        found.splitlines(), text.splitlines(), path, "as declared", lineterm="", n=1
    )
    shown = list(itertools.islice(lines, _SHOWN))
    more = sum(1 for _ in lines)
    if more:
        shown.append(f"… and {more} more lines")
    return shown or [f"{path}: the ends of its lines"]
