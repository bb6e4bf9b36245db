"""
Show rows as Markdown.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.codec.rows import Row

_HEADS = {
    "start": "Before the first message",
    "memory": "Memory of a parsed message, its values included",
}


def circumstances(packages: Iterable[str]) -> dict[str, Any]:
    """
    Say on what, with what and when it was measured.
    """
    processor = platform.machine()
    found = Path("/proc/cpuinfo")
    if found.exists():
        names = [
            x for x in found.read_text().splitlines() if x.startswith("model name")
        ]
        processor = names[0].partition(":")[2].strip() if names else processor
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(" ", "minutes"),
        "command": shlex.join(["python", "-m", "benchmarks.codec", *sys.argv[1:]]),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()}",
        "processor": processor,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "versions": versions,
    }


def introduction(about: Mapping[str, Any]) -> Iterator[str]:
    """
    Write what was measured on.
    """
    versions = ", ".join(
        f"{name} {number}" for name, number in about["versions"].items()
    )
    yield "# The codec, measured"
    yield ""
    yield f"`{about['command']}`, {about['date']}."
    yield (
        f"{about['python']}, {about['system']}, {about['cores']} cores "
        f"({about['processor']}), load {about['load']} at the start; {versions}."
    )
    yield (
        "Ratios are to code written by hand in the same round, lower is faster: the "
        "median and the quartiles. Figures in brackets are the benchmark's own."
    )


def tables(rows: Iterable[Row], titles: Mapping[str, str]) -> Iterator[str]:
    """
    Write one table for each group and aspect.
    """
    for group, together in groupby(rows, key=lambda row: row.group):
        yield ""
        if group in _HEADS:
            yield f"## {_HEADS[group]}"
            yield from _plain_table(together)
            continue
        yield f"## {group}: {titles[group]}"
        for aspect, found in groupby(together, key=lambda row: row.aspect):
            yield from _speed_table(aspect, found)


def _speed_table(aspect: str, rows: Iterable[Row]) -> Iterator[str]:
    yield ""
    yield f"| {aspect} | ratio | quartiles | µs | reach | |"
    yield "|---|---:|---:|---:|---:|---|"
    for row in rows:
        number, between, least = f"{row.number:.3g}", "", ""
        if row.unit == "times":
            number = f"{row.number:.3g} times faster"
        elif row.low is not None and row.seconds is not None:
            number = f"{row.number:.2f}"
            between = f"{row.low:.2f}-{row.high:.2f}"
            least = f"{row.seconds * 1e6:.3g}"
        name = f"**{row.name}**" if row.reach else row.name
        yield (
            f"| {name} | {number} | {between} | {least} | {_reach(row)} | "
            f"{row.verdict()} |"
        )


def _plain_table(rows: Iterable[Row]) -> Iterator[str]:
    yield ""
    yield "| | | | reach | | |"
    yield "|---|---|---:|---:|---|---|"
    for row in rows:
        unit = "" if row.unit in ("ratio", "count") else f" {row.unit}"
        digits = {"bytes": ".0f", "ms": ".3g"}.get(row.unit, ".3g")
        yield (
            f"| {row.aspect} | {row.name} | {row.number:{digits}}{unit} | "
            f"{_reach(row)} | {row.verdict()} | {row.note} |"
        )


def _reach(row: Row) -> str:
    if row.reach is None:
        return ""
    return f"({row.reach})" if row.reach.ours else str(row.reach)


def summary(rows: Iterable[Row]) -> Iterator[str]:
    """
    Write which figures are met, and by how much the others are not.
    """
    judged = [row for row in rows if row.reach is not None and not row.reach.ours]
    missed = [row for row in judged if not row.met()]
    yield ""
    yield "## Figures"
    yield ""
    yield f"{len(judged) - len(missed)} of {len(judged)} are met."
    for row in missed:
        yield (
            f"- not met: {row.group}, {row.aspect}, {row.name}: {row.number:.3g} "
            f"({_reach(row)})"
        )
