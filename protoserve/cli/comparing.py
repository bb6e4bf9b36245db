"""
``protoserve snapshot`` and ``protoserve compat``: take a protocol's wire layout, and
say what breaks between two of them.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from protoserve.cli.files import read_text, write_text
from protoserve.cli.shown import write_entry
from protoserve.cli.targets import CommandError, load
from protoserve.compat import Break, Verdict, compare
from protoserve.protocol import Protocol
from protoserve.snapshots import Snapshot, SnapshotError, read_snapshot, snapshot_of

__all__ = ["show_verdict", "take_snapshot"]

_EXAMPLE = "protocols.dns:dns"


def take_snapshot(place: str, path: str | None, *, as_json: bool = False) -> None:
    """
    Write a protocol's snapshot.

    Args:
        place: the protocol, as ``MODULE:NAME``.
        path: the file; `None` or ``-`` is standard output.
        as_json: write one line of JSON: what was written into the file, or without one
            the snapshot itself.

    Raises:
        CommandError: there is no such protocol, or the file cannot be written.
    """
    plain = snapshot_of(load(place, Protocol, _EXAMPLE))
    if as_json and path in (None, "-"):
        write_entry(plain)
        return
    text = json.dumps(plain, indent=1, ensure_ascii=False) + "\n"
    write_text(text, path)
    if as_json:
        write_entry({"protocol": place, "file": path, "written": True})


def show_verdict(old: str, new: str, *, as_json: bool) -> bool:
    """
    Compare two versions and say what breaks.

    Args:
        old: a snapshot's file, or a protocol as ``MODULE:NAME``.
        new: the same.
        as_json: write one JSON object.

    Returns:
        Whether they are compatible both ways.

    Raises:
        CommandError: one of them cannot be had.
    """
    versions = _version(old), _version(new)
    try:
        verdict = compare(*versions)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as exc:
        files = [what for what, v in zip((old, new), versions, strict=True)
                 if not isinstance(v, Protocol)]  # fmt: skip
        if not files:
            raise
        raise CommandError(
            f"{' or '.join(files)} is no whole snapshot; take it again"
        ) from exc
    if as_json:
        text = json.dumps(verdict.as_plain(), indent=2, ensure_ascii=False)
    else:
        text = "\n".join(_lines(verdict))
    sys.stdout.write(text + "\n")
    return verdict.compatible


def _version(what: str) -> Snapshot | Protocol:
    is_place = re.fullmatch(r"[\w.]+:[\w.]+", what)
    if is_place and not Path(what).exists():
        return load(what, Protocol, _EXAMPLE)
    try:
        return read_snapshot(read_text(what))
    except SnapshotError as exc:
        raise CommandError(f"{what}: {exc}") from exc


def _lines(verdict: Verdict) -> list[str]:
    lines = []
    for title, breaks in (
        ("old clients with new servers", verdict.old_clients),
        ("new clients with old servers", verdict.new_clients),
    ):
        if not breaks:
            lines.append(f"{title}: compatible")
            continue
        count = "1 break" if len(breaks) == 1 else f"{len(breaks)} breaks"
        lines += [f"{title}: {count}", *map(_line, breaks)]
    if verdict.notes:
        lines += ["what breaks nothing:", *(f"  {note}" for note in verdict.notes)]
    return lines


def _line(each: Break) -> str:
    return f"  {each.where}: {each.what} ({each.sender} to {each.reader})"
