"""
Measure the codec: ``python -m benchmarks.codec``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.codec import memory, peers, profiles, report, speed, startup
from benchmarks.codec.rows import Row
from benchmarks.codec.timing import FULL, QUICK

SLACK = 0.15
"""How far `--check` lets a ratio be off, as a part of its figure: noise is ±5 % on a
quiet machine and 10 % on a busy one."""

KEYS = (*speed.GROUPS, "memory", "start")


def _keys(text: str) -> tuple[str, ...]:
    keys = tuple(text.split(","))
    if unknown := set(keys) - set(KEYS):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
    return keys


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.codec",
        description="Measure the codec against code written by hand and against others.",
    )
    parser.add_argument("--quick", action="store_true", help="less than a minute")
    parser.add_argument(
        "--only",
        metavar="KEY,…",
        type=_keys,
        default=KEYS,
        help=f"some of {', '.join(KEYS)}",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all numbers")
    parser.add_argument(
        "--no-peers", action="store_true", help="leave out all but Construct"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="exit with 1 if a ratio is worse than its figure and the slack",
    )
    parser.add_argument(
        "--slack", type=float, default=SLACK, help="default: %(default)s"
    )
    return parser.parse_args(arguments)


def _measured(
    options: argparse.Namespace, others: peers.Peers, titles: Any
) -> Iterator[Row]:
    effort = QUICK if options.quick else FULL
    for make in speed.CASES:
        case = make()
        titles[case.key] = case.title
        if case.key.partition(",")[0] in options.only:
            yield from speed.rows_of(case, others.candidates.get(case.key, []), effort)
    if "memory" in options.only:
        yield from memory.rows()
    if "start" in options.only:
        yield from startup.rows(quick=options.quick)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Measure, show, and judge.

    Returns:
        The exit status.
    """
    options = _arguments(arguments)
    others = peers.Peers({}, {}, []) if options.no_peers else peers.load()
    own = ("protoserve", "construct", "attrs")
    about = report.circumstances([*own, *others.versions])
    titles: dict[str, str] = {}
    rows = list(_measured(options, others, titles))
    for line in report.introduction(about):
        print(line)
    for line in others.missing:
        print(f"- {line}")
    for line in (*report.tables(rows, titles), *report.summary(rows)):
        print(line)
    if not options.check:
        for line in profiles.sections([make() for make in speed.CASES], rows):
            print(line)
    if options.json is not None:
        whole = {**about, "missing": others.missing, "slack": options.slack}
        whole["rows"] = [row.as_json() for row in rows]
        options.json.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    return _checked(rows, options.slack) if options.check else 0


def _checked(rows: Sequence[Row], slack: float) -> int:
    """
    Judge ratios by their figures and the slack; absolute times are not judged.
    """
    worse = [row for row in rows if row.checked and row.met(slack) is False]
    for row in worse:
        print(
            f"worse than {row.reach} and {slack:.0%}: {row.group}, {row.aspect}, "
            f"{row.name}: {row.number:.3g}",
            file=sys.stderr,
        )
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
