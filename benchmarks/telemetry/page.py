"""
Write ``docs/performance-telemetry.md``: nothing in it is typed by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from benchmarks.codec.rows import Row
from benchmarks.server import report
from benchmarks.server.processes import ROOT

PAGE = ROOT / "docs" / "performance-telemetry.md"


@attrs.frozen
class Section:
    """
    One thing that was measured.
    """

    title: str
    seen: str
    """What a reader sees in the table."""
    lines: Sequence[str]


def write(
    about: Mapping[str, Any],
    rows: Sequence[Row],
    sections: Sequence[Section],
    *,
    has_peer: bool,
) -> None:
    """
    Write the page.
    """
    text = "\n".join(lines(about, rows, sections, has_peer=has_peer))
    PAGE.write_text(text + "\n", encoding="utf-8")


def lines(
    about: Mapping[str, Any],
    rows: Sequence[Row],
    sections: Sequence[Section],
    *,
    has_peer: bool,
) -> Iterator[str]:
    """
    Give the page's lines.
    """
    versions = ", ".join(f"{name} {v}" for name, v in about["versions"].items())
    yield "# Performance of collectors"
    yield ""
    yield "<!-- Written by `make bench`; do not edit. -->"
    yield ""
    yield f"`{about['command']}`, {about['date']}."
    yield (
        f"{about['cores']} cores ({about['processor']}), "
        f"{about['memory'] / 2**30:.0f} GiB of memory, {about['system']}, load "
        f"{about['load']} at the start; {about['python']}; {versions}."
    )
    yield ""
    yield from _method()
    if not has_peer:
        yield ""
        yield "nfcapd is not installed, so nothing is compared with it (Debian: nfdump)."
    met = sum(bool(row.met()) for row in rows)
    wanted = sum(row.reach is not None for row in rows)
    yield from ("", "## Figures", "")
    yield f"What is to be reached, and whether it is: {met} of {wanted} are met."
    yield ""
    yield from report.figures(rows)
    for section in sections:
        yield from ("", f"## {section.title}", "", section.seen, "", *section.lines)


def _method() -> Iterator[str]:
    yield (
        "Receivers have one core and the sender, which is written in C, another; all "
        "runs over the loopback. All receivers of a table are there at a time and are "
        "loaded in turns, each socket asking for a buffer of 32 MiB (for readings: 4). "
        "Processor time is "
        "the program's own, user and system, all threads and children, from before a "
        "load until everything of it is where it belongs; what the kernel does in the "
        "sender's name is in nobody's. What was not kept is what the kernel says that "
        "it dropped at the socket; what each program says that it has kept is compared "
        "with that at its end, flow by flow. Ratios are medians over the rounds, with "
        "the quartiles. nfcapd decodes flows and writes them to its files, not synced."
    )
