"""
Find out where the time of a codec goes whose figure is not met.
"""

from __future__ import annotations

import cProfile
import pstats
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.codec.case import OURS, Case
from benchmarks.codec.rows import Row

_RUNS = 20_000
_SHOWN = 10


def sections(cases: Sequence[Case], rows: Sequence[Row]) -> Iterator[str]:
    """
    Write a profile of each of our rows that misses its figure.
    """
    missed = [row for row in rows if row.name == OURS and row.met() is False]
    known = {case.key: case for case in cases}
    for row in missed:
        if row.group in known:
            yield from ("", f"### Where it goes: {row.group}, {row.aspect}", "")
            yield from _table(known[row.group], row.aspect)


def _table(case: Case, aspect: str) -> Iterator[str]:
    ours = [case.calls(each) for each in case.candidates if each.name == OURS]
    call = next(calls[aspect] for calls in ours if aspect in calls)
    call()
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(_RUNS):
        call()
    profile.disable()
    found = pstats.Stats(profile).get_stats_profile().func_profiles
    lines = sorted(found.items(), key=lambda item: -item[1].tottime)
    whole = sum(each.tottime for _, each in lines)
    count = _RUNS * len(case.data)
    yield "| function | own time | calls for each message |"
    yield "|---|---:|---:|"
    for name, each in lines[:_SHOWN]:
        # Generated functions have an address in the name of their file.
        file = re.sub(" [0-9a-f]{8,}", "", Path(each.file_name).name.strip("<>~"))
        shown = f"{file}: {name}" if file else name
        calls = int(str(each.ncalls).partition("/")[0]) / count
        if calls >= 0.5:
            share = each.tottime / whole
            yield f"| `{shown.strip('{}')}` | {share:.1%} | {calls:.2f} |"
