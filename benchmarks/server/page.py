"""
Write ``docs/performance.md``: nothing in it is typed by hand.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmarks.codec.rows import Row
from benchmarks.server import growth, profiles, report
from benchmarks.server.loads import Load
from benchmarks.server.measure import Effort, Found
from benchmarks.server.processes import ROOT, FailedError, python

PAGE = ROOT / "docs" / "performance.md"
PLOTS = ROOT / "docs" / "performance"


@attrs.frozen
class Content:
    """
    All that the page shows.
    """

    about: Mapping[str, Any]
    effort: Effort
    figures: Sequence[Row]
    loads: Sequence[tuple[Load, Sequence[Found]]]
    profiles: Sequence[tuple[str, Load, Sequence[profiles.Line]]]
    """The name of a server, the load that it was under, and its profile."""
    growth: Sequence[tuple[growth.Axis, Sequence[growth.Point]]]
    codec: str
    """The codec's own report."""
    missing: Sequence[str]


def codec_report(arguments: Sequence[str]) -> str:
    """
    Run the codec's benchmark and give what it prints.

    Raises:
        FailedError: it did not work.
    """
    done = subprocess.run(
        python("benchmarks.codec", *arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip() or "it said nothing").split("\n")[-1]
        raise FailedError(f"benchmarks.codec ended with {done.returncode}: {last}")
    return done.stdout


def write(content: Content, page: Path = PAGE, plots: Path = PLOTS) -> None:
    """
    Write the page and its plots.
    """
    plots.mkdir(parents=True, exist_ok=True)
    for axis, points in content.growth:
        growth.plot(axis, points, plots / f"{axis.key}.svg")
    page.write_text("\n".join(lines(content)) + "\n", encoding="utf-8")


def lines(content: Content) -> Iterator[str]:
    """
    Give the page's lines.
    """
    yield "# Performance"
    yield ""
    yield "<!-- Written by `make bench`; do not edit. -->"
    yield ""
    yield from report.introduction(content.about, content.effort)
    yield ""
    yield "To repeat it: `make bench`."
    yield ""
    yield from _method()
    yield from _figures(content)
    yield ""
    yield "## Servers"
    for load, found in content.loads:
        yield from ("", f"### {load.title}", "", load.seen, "")
        yield from report.table(load, found)
    if content.missing:
        yield from ("", "Left out:", "", *(f"- {line}" for line in content.missing))
    if content.growth:
        yield from ("", "## How cost grows")
    for axis, points in content.growth:
        yield from ("", f"### {axis.title}", "", axis.seen, "")
        yield f"![{axis.title}](performance/{axis.key}.svg)"
        yield ""
        yield from growth.table(axis, points)
    yield ""
    yield from _codec(content.codec)


def _method() -> Iterator[str]:
    yield (
        "A server has one core and the load, which is written in C, another. What "
        "counts is the work that a server does in a second of its processor time, "
        "user and system, children included: that changes little with what else the "
        "machine does. Servers are measured in turns; a ratio is the median of the "
        "ratios of all rounds, with the quartiles in brackets. Every reply is "
        "compared byte by byte with what it has to be, and a server that gives a "
        "wrong one has failed. Everything runs over the loopback."
    )
    yield ""
    yield (
        "*By hand* is the same work as a declared service does, written with struct: "
        "each frame becomes an attrs object, a method is called with it, its reply is "
        "packed. All other servers do the least that they can: they unpack the header "
        "and give the bytes back. The declared services, in bold, have messages, "
        "routes and the usual limits."
    )


def _figures(content: Content) -> Iterator[str]:
    met = sum(bool(row.met()) for row in content.figures)
    yield from ("", "## Figures", "")
    yield (
        "What a declared service is to reach, against which server, and whether it "
        f"does: {met} of {len(content.figures)} are met."
    )
    yield ""
    yield from report.figures(content.figures)
    if content.profiles:
        yield from ("", "### Where it goes when a figure is not met", "")
        yield (
            "The functions of our server by the time spent in them, those that they "
            "call excluded, while it is under the load; waiting is left out. What the "
            "profiler cannot see counts for the function that calls it: uvloop's "
            "writes and the kernel's part in them, the system calls made by ctypes. "
            "Small functions look dearer than they are. For memory it is the lines that "
            "have allocated what idle connections hold."
        )
    for name, load, found in content.profiles:
        yield from ("", f"#### {name}: {load.title}", "")
        yield from profiles.table(found, load)


def _codec(text: str) -> Iterator[str]:
    if not text:
        return
    yield "## Codec"
    yield ""
    yield (
        "How long parsing and building take compared with code written by hand: each "
        "table is one kind of message, each row a way to read or write it, and a ratio "
        "below 1 is faster than by hand."
    )
    fenced = False
    for line in text.rstrip().split("\n")[1:]:
        fenced ^= line.startswith("```")
        yield f"#{line}" if line.startswith("#") and not fenced else line
