"""
Measure servers: ``python -m benchmarks.server``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmarks.codec.rows import Row
from benchmarks.server import figures, growth, measure, page, profiles, report
from benchmarks.server.build import BuildError, build
from benchmarks.server.loads import LOADS, Load
from benchmarks.server.measure import Bench, Found
from benchmarks.server.processes import FailedError, end_all, prepare
from benchmarks.server.servers import Server, all_servers

PEERLESS = ("limit", "hand", "ours")
_NEEDED = {"ThreadingTCPServer", "UDPServer"}
"""Servers of other sides that figures are about."""


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.server",
        description="Measure servers: ours, by hand, others', and the limit in C.",
    )
    names = [load.key for load in LOADS]
    names += [f"growth-{axis.key}" for axis in growth.AXES]
    parser.add_argument("--quick", action="store_true", help="fewer, shorter rounds")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        default=[],
        help=f"some loads ({', '.join(names)}) or some servers, by name",
    )
    parser.add_argument(
        "--no-peers", action="store_true", help="leave out others' servers"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of a start")
    parser.add_argument(
        "--check",
        action="store_true",
        help="compare only with the same by hand; exit with 1 on a regression",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all numbers")
    parser.add_argument(
        "--write-docs",
        action="store_true",
        help="measure growth and the codec too, and write docs/performance.md",
    )
    found = parser.parse_args(arguments)
    if found.rounds is not None and found.rounds < 1:
        parser.error(f"--rounds: expected 1 or more, not {found.rounds}")
    names += [server.name for server in all_servers()]
    if unknown := [name for name in found.only if name not in names]:
        parser.error(
            f"--only: there is no {', '.join(map(repr, unknown))}; there are "
            f"{', '.join(dict.fromkeys(names))}"
        )
    return found


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
    results: dict[str, list[Found]] = attrs.field(factory=dict)
    missing: dict[str, str] = attrs.field(factory=dict)
    """What is not installed, by package."""

    def servers(self, load: Load) -> list[Server]:
        """
        Choose the servers for a load.
        """
        options = self.options
        found = [server for server in all_servers() if load.key in server.loads]
        if options.check:
            judged = [f for f in figures.CHECKS if f.load == load.key]
            wanted = {n for f in judged for n in (*f.ours, f.against)}
            found = [server for server in found if server.name in wanted]
        elif options.no_peers:
            found = [s for s in found if s.side in PEERLESS or s.name in _NEEDED]
        if {server.name for server in all_servers()}.intersection(options.only):
            found = [server for server in found if server.name in options.only]
        for server in found:
            if not server.installed:
                package = server.package or server.module
                self.missing[package] = f"{package} is not installed: pip install it"
        return [server for server in found if server.installed]

    def loads(self) -> list[Load]:
        """
        Choose the loads.
        """
        only = self.options.only
        if any(name.startswith("growth-") for name in only):
            return [load for load in LOADS if load.key in only]
        return [load for load in LOADS if load.key in only] or list(LOADS)

    def axes(self) -> list[growth.Axis]:
        """
        Choose what is let grow.
        """
        if self.options.write_docs and not self.options.only:
            return list(growth.AXES)
        return [a for a in growth.AXES if f"growth-{a.key}" in self.options.only]

    def measure_loads(self) -> None:
        """
        Measure and show all loads.
        """
        for load in self.loads():
            servers = self.servers(load)
            if not servers:
                continue
            self.results[load.key] = found = self.bench.run(load, servers)
            _progress("")
            _show("", f"## {load.key}: {load.title}", "", load.seen, "")
            _show(*report.table(load, found))

    def measure_growth(self) -> list[tuple[growth.Axis, list[growth.Point]]]:
        """
        Measure and show what grows.
        """
        found = []
        streams = [server for server in all_servers() if "tcp-64x1" in server.loads]
        named = {server.name: server for server in streams}
        ours, hand = named["protoserve, loop"], named["by hand, uvloop"]
        if not hand.installed:
            hand = named["by hand, asyncio"]
        effort = growth.QUICK if self.options.quick else growth.FULL
        bench = attrs.evolve(self.bench, effort=effort)
        for axis in self.axes():
            points = growth.measure(bench, ours, hand, axis)
            _progress("")
            _show("", f"## {axis.title}", "", axis.seen, "")
            _show(*growth.table(axis, points))
            found.append((axis, points))
        return found

    def profiles(self, rows: Sequence[Row]) -> list[Any]:
        """
        Profile our servers where they do not reach a figure.
        """
        found: dict[tuple[str, str], Any] = {}
        loads = {load.key: load for load in LOADS}
        for row in rows:
            name, load = row.name.partition(" / ")[0], loads[row.group]
            if row.met() or (name, load.key) in found:
                continue
            named = {one.server.name: one.server for one in self.results[load.key]}
            if name not in named:
                continue
            server = named[name]
            _progress(f"{load.key}: profile of {name}")
            try:
                lines = profiles.profile(self.bench, server, load)
            except FailedError as error:
                print(f"no profile of {name}, {load.key}: {error}", file=sys.stderr)
                continue
            found[name, load.key] = (name, load, lines)
        return list(found.values())


def _show(*lines: str) -> None:
    print("\n".join(lines), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Measure, show, and judge.

    Returns:
        The exit status: 1 for a regression, 2 if it could not start.
    """
    options = _arguments(arguments)
    words = ["--quick"] * options.quick + ["--write-docs"] * options.write_docs
    words += ["--rounds", str(options.rounds)] if options.rounds else []
    words += ["--no-peers"] * options.no_peers
    words += ["--only", *options.only] if options.only else []
    command = shlex.join(["python", "-m", "benchmarks.server", *words])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    prepare()
    effort = measure.QUICK if options.quick else measure.FULL
    if options.rounds:
        effort = attrs.evolve(effort, rounds=options.rounds)
    try:
        with tempfile.TemporaryDirectory() as name:
            build(Path(name))
            run = Run(options, Bench(Path(name), effort, _progress))
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
    options = run.options
    packages = ["protoserve", "construct", "attrs"]
    packages += sorted(
        {s.package or s.module for s in all_servers() if s.installed and s.module}
    )
    about = report.circumstances(packages, command)
    codec = ""
    if options.write_docs:
        _progress("the codec")
        codec = page.codec_report(["--quick"] if options.quick else [])
        _progress("")
        _show(codec)
    _show("# Servers, measured", "", *report.introduction(about, run.bench.effort))
    run.measure_loads()
    grown = run.measure_growth()
    rows = list(figures.judge(figures.FIGURES, run.results))
    _show("", "## Figures", "", *report.figures(rows))
    missing = list(run.missing.values())
    _show("", *(f"- left out: {line}" for line in missing))
    if options.json is not None:
        _write_json(options.json, about, rows, run, missing)
    if options.write_docs:
        found = run.profiles(rows)
        loads = {load.key: load for load in LOADS}
        shown = [(loads[key], found) for key, found in run.results.items()]
        page.write(
            page.Content(
                about, run.bench.effort, rows, shown, found, grown, codec, missing
            )
        )
        _show(f"written: {page.PAGE.relative_to(page.ROOT)}")
    return 0


def _write_json(
    file: Path, about: Any, rows: Sequence[Row], run: Run, missing: Sequence[str]
) -> None:
    found = [report.as_json(one) for all_of in run.results.values() for one in all_of]
    whole = {**about, "missing": missing, "servers": found}
    whole["rows"] = [report.row_as_json(row) for row in rows]
    file.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")


def _check(run: Run) -> int:
    """
    Judge by the same work by hand; what is not reached is measured once more.
    """
    names = {server.name for server in all_servers()}
    checks = [check for check in figures.CHECKS if names.intersection(check.ours)]
    run.measure_loads()
    rows = list(figures.judge(checks, run.results))
    doubtful = [row.group for row in rows if not row.met()]
    if doubtful:
        effort = run.bench.effort
        run.bench.effort = attrs.evolve(effort, rounds=2 * effort.rounds)
        run.options.only = doubtful
        run.measure_loads()
        rows = list(figures.judge(checks, run.results))
    _show("", "## Checks", "", *report.figures(rows))
    worse = [row for row in rows if not row.met()]
    for row in worse:
        print(
            f"worse than {row.reach}: {row.group}, {row.name}: {row.number:.2f} "
            f"{row.note}",
            file=sys.stderr,
        )
    failed = [
        one
        for found in run.results.values()
        for one in found
        if one.failure and one.server.side == "ours"
    ]
    for one in failed:
        print(f"{one.load.key}, {one.server.name}: {one.failure}", file=sys.stderr)
    return 1 if worse or failed else 0


if __name__ == "__main__":
    sys.exit(main())
