"""
Throw random and mutated bytes at the shipped protocols.

    python tests/fuzz/run.py --cases 200000 --seed 1 [PROTOCOL …] [--jobs 2]

Each protocol gets the cases for each direction. The exit code is 1 if anything
was found; `--save DIR` keeps the inputs, which belong into
``tests/fuzz/corpus/PROTOCOL/`` once the cause is known.
"""

from __future__ import annotations

import argparse
import importlib
import pathlib
import pkgutil
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

import attrs

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import protocols
from protoserve import Direction, Protocol
from tests.fuzz.inputs import frames, inputs
from tests.fuzz.judge import Finding, Judge

CHUNK = 5_000
"""Cases between two looks at the memory."""

GROWTH = 32 << 20
"""Bytes that a process may grow by, once it is warm."""

_STREAM_EVERY = 8
_SEEDS = 40
"""Valid frames of each message that mutations start from."""


@attrs.frozen
class Task:
    """
    Some cases for one direction of a protocol.
    """

    name: str
    direction: Direction
    cases: int
    seed: int
    number: int


@attrs.frozen
class Report:
    """
    What came of a task.
    """

    task: Task
    accepted: int
    seconds: float
    slowest: float
    findings: list[Finding]


def shipped() -> list[str]:
    """
    List the protocols in `protocols`.
    """
    return [
        info.name for info in pkgutil.iter_modules(protocols.__path__) if info.ispkg
    ]


def protocol_named(name: str) -> Protocol:
    """
    Get a protocol by its package's name.
    """
    found: Protocol = getattr(importlib.import_module(f"protocols.{name}"), name)
    return found


_seeds: dict[tuple[str, Direction, int], list[bytes]] = {}
_warm: dict[tuple[str, Direction], int] = {}


def run(task: Task) -> Report:
    """
    Do a task, in whatever process.
    """
    protocol = protocol_named(task.name)
    key = (task.name, task.direction, task.seed)
    if key not in _seeds:
        _seeds[key] = frames(protocol, task.direction, _SEEDS, task.seed)
    seeds = _seeds[key]
    chance = random.Random(f"{task.name} {task.direction} {task.seed} {task.number}")
    judge = Judge(protocol, task.direction)
    source = inputs(chance, seeds)
    findings: dict[str, Finding] = {}
    start = time.process_time()
    for i in range(task.cases):
        data = next(source)
        finding = judge.frame(data)
        if finding is None and judge.has_streams and i % _STREAM_EVERY == 0:
            finding = judge.stream(_on_stream(protocol, data, seeds, chance), chance)
        if finding is not None:
            findings.setdefault(finding.place, finding)
    seconds = time.process_time() - start
    memory = _memory(task, protocol)
    if memory is not None:
        findings[memory.place] = memory
    return Report(task, judge.accepted, seconds, judge.slowest, list(findings.values()))


def _on_stream(
    protocol: Protocol, data: bytes, seeds: list[bytes], chance: random.Random
) -> bytes:
    """
    Put an input on a stream: framed behind a good frame, or as it is.
    """
    assert protocol.framing is not None
    if chance.random() < 0.5:
        return data
    try:
        good = protocol.framing.encode(chance.choice(seeds))
        return good + protocol.framing.encode(data)
    except ValueError:
        return data


def _memory(task: Task, protocol: Protocol) -> Finding | None:
    """
    Look whether this process has grown since its first task of this kind.
    """
    size = _resident()
    before = _warm.setdefault((task.name, task.direction), size)
    if size - before <= GROWTH:
        return None
    text = f"grew from {before >> 20} to {size >> 20} MiB by chunk {task.number}"
    return Finding(protocol.name, task.direction.value, "frame", "memory", text, b"")


def _resident() -> int:
    pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096


def tasks(names: list[str], cases: int, seed: int) -> list[Task]:
    """
    Cut the work up.
    """
    found = []
    for name in names:
        for direction in Direction:
            if not protocol_named(name).table(direction):
                continue
            for number, start in enumerate(range(0, cases, CHUNK)):
                size = min(CHUNK, cases - start)
                found.append(Task(name, direction, size, seed, number))
    return found


def reports(work: list[Task], jobs: int) -> Iterator[Report]:
    """
    Do the tasks, in several processes if asked.
    """
    if jobs == 1:
        yield from map(run, work)
        return
    with ProcessPoolExecutor(jobs) as pool:
        for future in as_completed([pool.submit(run, task) for task in work]):
            yield future.result()


@attrs.define
class Totals:
    """
    The sum of some reports.
    """

    cases: int = 0
    accepted: int = 0
    seconds: float = 0.0
    slowest: float = 0.0

    def add(self, report: Report) -> None:
        """
        Add one.
        """
        self.cases += report.task.cases
        self.accepted += report.accepted
        self.seconds += report.seconds
        self.slowest = max(self.slowest, report.slowest)

    def __str__(self) -> str:
        rate = self.cases / self.seconds if self.seconds else 0
        share = self.accepted / self.cases if self.cases else 0
        return (
            f"{self.cases:>9,} cases  {share:>4.0%} accepted  {rate:>8,.0f} cases/s  "
            f"slowest {self.slowest * 1000:.1f} ms"
        )


def main(arguments: list[str] | None = None) -> int:
    """
    Run from the command line.
    """
    options = _options().parse_args(arguments)
    names = options.protocols or shipped()
    unknown = sorted(set(names) - set(shipped()))
    if unknown:
        print(f"no such protocol: {unknown[0]} (there are {', '.join(shipped())})")
        return 2
    work = tasks(names, options.cases, options.seed)
    totals: dict[str, Totals] = {}
    findings: dict[str, Finding] = {}
    done, whole = 0, sum(task.cases for task in work)
    for report in reports(work, options.jobs):
        task = report.task
        totals.setdefault(f"{task.name} {task.direction.value}", Totals()).add(report)
        findings.update({f.place: f for f in report.findings})
        done += task.cases
        if sys.stderr.isatty():
            line = f"{done:,} of {whole:,} cases, {len(findings)} findings"
            print(f"\r{line}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    for name, total in totals.items():
        print(f"{name:<20} {total}")
    for finding in findings.values():
        print(f"\n{finding.place}\n{finding.text}\n{finding.data[:256].hex()}")
        if options.save is not None:
            print(f"saved as {finding.save(options.save)}")
    print(f"{len(findings)} findings" if findings else "nothing found")
    return 1 if findings else 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("protocols", nargs="*", metavar="PROTOCOL", help="default: all")
    parser.add_argument("--cases", type=int, default=200_000, help="each direction")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--save", type=pathlib.Path, help="folder for findings")
    return parser


if __name__ == "__main__":
    sys.exit(main())
