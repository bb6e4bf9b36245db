"""
Measure collectors: ``python -m benchmarks.telemetry``.
"""

from __future__ import annotations

import argparse
import math
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmarks.codec.rows import Reach, Row
from benchmarks.server import report
from benchmarks.server.build import BuildError, build
from benchmarks.server.processes import FailedError, end_all, prepare
from benchmarks.telemetry import flows, memory, page, sensors, stages
from benchmarks.telemetry.page import Section
from benchmarks.telemetry.receivers import nfcapd, nfcapd_version
from benchmarks.telemetry.running import Bench

PACKAGES = ("protoserve", "construct", "attrs", "numpy", "pyarrow", "duckdb")
_SLOW = ("collect, duckdb", "collect, parquet")
"""What is not checked: sinks that wait for long until there is enough."""
_SOURCES = Path(__file__).parent / "c"
CHECKED = {
    "batch route / nfcapd": Reach(4.0, ours=True),
    "collect, arrow / nfcapd": Reach(12.0, ours=True),
    "collect, v9 / collect, v5": Reach(0.2, most=False, ours=True),
    "collect, ipfix / collect, v5": Reach(0.2, most=False, ours=True),
}
"""What `--check` judges, far from what a busy machine gives."""


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [case.key for case in flows.cases()] + ["sensors", "memory", "stages"]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.telemetry",
        description="Measure collectors of telemetry: ours, nfcapd, others'.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer, shorter rounds")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=names,
        metavar="NAME",
        default=names,
        help=f"some of {', '.join(names)}",
    )
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 on a regression"
    )
    parser.add_argument(
        "--write-docs", action="store_true", help=f"write docs/{page.PAGE.name}"
    )
    return parser.parse_args(arguments)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        end = "\n" if not text else ""
        print(f"\r\x1b[K{text[:79]}", end=end, file=sys.stderr, flush=True)


@attrs.define
class Run:
    """
    One call of the program.
    """

    options: argparse.Namespace
    bench: Bench
    rows: list[Row] = attrs.field(factory=list)
    sections: list[Section] = attrs.field(factory=list)

    def measure(self) -> None:
        """
        Measure what is wanted, and show it.
        """
        quick, only = self.options.quick, self.options.only
        effort = flows.QUICK if quick else flows.FULL
        for case in flows.cases():
            if case.key in only:
                without = _SLOW if self.options.check else ()
                found = flows.measure(self.bench, case, effort, without)
                self._add(case.title, case.seen, flows.table(found))
                self.rows += flows.judge(case, found)
        if "sensors" in only:
            speed = sensors.QUICK if quick else sensors.FULL
            rates = sensors.measure(self.bench, speed)
            self._add(sensors.TITLE, sensors.SEEN, sensors.table(rates))
            self.rows += sensors.judge(rates)
        if "memory" in only:
            sizes = memory.measure(self.bench, quick=quick)
            self._add(memory.TITLE, memory.SEEN, memory.table(sizes))
            self.rows += memory.judge(sizes)
        if "stages" in only:
            _progress("stages")
            steps = stages.measure(5 if quick else 15)
            self._add(stages.TITLE, stages.SEEN, stages.table(steps))

    def _add(self, title: str, seen: str, lines: Any) -> None:
        section = Section(title, seen, list(lines))
        self.sections.append(section)
        _progress("")
        _show("", f"## {title}", "", seen, "", *section.lines)


def _show(*lines: str) -> None:
    print("\n".join(lines), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Measure, show, and judge.

    Returns:
        The exit status: 1 for a regression, 2 if it could not start.
    """
    options = _arguments(arguments)
    given = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "-m", "benchmarks.telemetry", *given])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    prepare()
    if options.check:
        options.only = [n for n in options.only if n in ("paced", "templates")]
    try:
        with tempfile.TemporaryDirectory() as name:
            build(Path(name), _SOURCES)
            run = Run(options, Bench(Path(name), _progress))
            return _check(run) if options.check else _measure(run, command)
    except (BuildError, FailedError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; everything is ended", file=sys.stderr)
        return 130
    finally:
        end_all()


def _measure(run: Run, command: str) -> int:
    about = report.circumstances(PACKAGES, command)
    if nfcapd() is not None:
        about["versions"]["nfcapd"] = nfcapd_version()
    run.measure()
    _show("", "## Figures", "", *report.figures(run.rows))
    if run.options.write_docs:
        page.write(about, run.rows, run.sections, has_peer=nfcapd() is not None)
        _show("", f"written: docs/{page.PAGE.name}")
    return 0


def _check(run: Run) -> int:
    """
    Judge by bounds that are wide; what is not reached is measured once more.
    """
    run.measure()
    if _worse(run.rows):
        run.rows.clear()
        run.measure()
    worse = _worse(run.rows)
    for row in worse:
        limit = CHECKED.get(row.name, row.reach)
        print(
            f"worse than {limit}: {row.group}, {row.name}: {row.number:.2f} {row.note}",
            file=sys.stderr,
        )
    return 1 if worse else 0


def _worse(rows: Sequence[Row]) -> list[Row]:
    def is_worse(row: Row) -> bool:
        limit = CHECKED.get(row.name)
        if math.isnan(row.number):
            return "nfcapd" not in row.note
        return limit is not None and not limit.met(row.number)

    return [row for row in rows if is_worse(row)]


if __name__ == "__main__":
    sys.exit(main())
