"""
Show what was found as Markdown.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.codec import report as codec_report
from benchmarks.codec.rows import Row
from benchmarks.server.loads import Load
from benchmarks.server.measure import Effort, Found


def circumstances(packages: Iterable[str], command: str) -> dict[str, Any]:
    """
    Say on what, with what and when it was measured.
    """
    about = codec_report.circumstances(filter(_is_distributed, packages))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {**about, "command": command, "memory": memory}


def _is_distributed(package: str) -> bool:
    """
    Say whether a version is known; a checkout that is only on the path has none.
    """
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def introduction(about: Mapping[str, Any], effort: Effort) -> Iterator[str]:
    """
    Write what was measured on, and how.
    """
    versions = ", ".join(f"{name} {v}" for name, v in about["versions"].items())
    yield f"`{about['command']}`, {about['date']}."
    yield (
        f"{about['cores']} cores ({about['processor']}), "
        f"{about['memory'] / 2**30:.0f} GiB of memory, {about['system']}, load "
        f"{about['load']} at the start; {about['python']}; {versions}."
    )
    yield (
        f"Starts of every server: {effort.generations}; rounds in each: "
        f"{effort.rounds}, of {effort.slice:g} s; datagrams queued for a drain: "
        f"{effort.datagrams:,}."
    )


def table(load: Load, found: Sequence[Found]) -> Iterator[str]:
    """
    Write what one load's servers did.
    """
    if load.kind == "idle":
        yield from _memory_table(found)
        return
    named = {one.server.name: one for one in found}
    references = [named[name] for name in load.references if name in named]
    heads = ["server", _unit(load), *(f"/ {one.server.name}" for one in references)]
    times = () if load.kind == "ingest" else ("p50", "p99")
    heads += [f"{name} µs" for name in times]
    yield f"| {' | '.join(heads)} |"
    yield "|---|" + "---:|" * (len(heads) - 1)
    for one in found:
        cells = [_name(one), _number(one)]
        cells += [_ratio(one, other) for other in references]
        cells += [_time(one, name) for name in times]
        yield f"| {' | '.join(cells)} |"
    yield from _failures(found)


def _memory_table(found: Sequence[Found]) -> Iterator[str]:
    yield "| server | bytes each | |"
    yield "|---|---:|---|"
    for one in found:
        each = "" if one.each is None else f"{one.each:,.0f}"
        yield f"| {_name(one)} | {each} | {one.note} |"
    yield from _failures(found)


def _failures(found: Sequence[Found]) -> Iterator[str]:
    failed = [one for one in found if one.failure]
    if failed:
        yield ""
    for one in failed:
        yield f"- {one.server.name} failed: {one.failure}"


def _unit(load: Load) -> str:
    return f"thousand {load.unit} per CPU-second"


def _name(one: Found) -> str:
    return f"**{one.server.name}**" if one.server.side == "ours" else one.server.name


def _number(one: Found) -> str:
    if one.failure:
        return "failed"
    rate = one.rate
    return "" if rate is None else f"{rate / 1e3:,.1f}"


def _ratio(one: Found, other: Found) -> str:
    ratio = None if one.failure else one.against(other)
    if ratio is None:
        return ""
    if one is other:
        return "1"
    return f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"


def _time(one: Found, name: str) -> str:
    value = one.median(lambda found: getattr(found, name))
    return f"{value:,.0f}" if value and not one.failure else ""


def figures(rows: Sequence[Row]) -> Iterator[str]:
    """
    Write which figures are met.
    """
    yield "| load | | | found | quartiles | reach | |"
    yield "|---|---|---|---:|---:|---:|---|"
    for row in rows:
        between = "" if row.low is None else f"{row.low:.2f}-{row.high:.2f}"
        shown = "" if math.isnan(row.number) else f"{row.number:,.2f}"
        if row.unit == "bytes":
            shown = f"{row.number:,.0f} bytes"
        yield (
            f"| {row.group} | {row.aspect} | {row.name} | {shown} | {between} | "
            f"{row.reach} | {row.verdict()} {row.note} |"
        )


def as_json(found: Found) -> dict[str, Any]:
    """
    Give everything about a server under a load, for a file.
    """
    return {
        "load": found.load.key,
        "server": found.server.name,
        "rate": found.rate,
        "p50": found.p50 or None,
        "bytes": found.each,
        "rounds": [
            {"work": one.work, "cpu": one.cpu, "seconds": one.seconds, "p50": one.p50}
            for one in found.slices
        ],
        "failure": found.failure or None,
    }


def row_as_json(row: Row) -> dict[str, Any]:
    """
    Give a figure for a file; what there is no number for is null.
    """
    found = row.as_json()
    if math.isnan(row.number):
        found["number"] = None
    return found
