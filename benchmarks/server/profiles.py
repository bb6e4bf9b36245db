"""
Find out where one of our servers' time goes under a load, or its memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator, Sequence

import attrs

from benchmarks.server.loads import Load
from benchmarks.server.measure import PATIENCE, Bench
from benchmarks.server.processes import Program
from benchmarks.server.servers import Server

SHOWN = 14
SLICES = 3
SECONDS = 0.5
FEW, MANY = 20, 500
"""Idle connections: before the first look, and between the two."""
_WAITS = ("SimpleQueue", "'acquire' of", "'poll' of", "'control' of", "time.sleep")
"""What is called while there is nothing to do, by a part of its name."""


@attrs.frozen
class Line:
    """
    One function, or one line of a program.
    """

    name: str
    count: float
    """Calls or blocks of memory, for each unit of work."""
    amount: float
    """Own seconds or bytes, for each unit of work."""
    share: float
    """Part of the whole; of the time that was not spent waiting."""


def profile(bench: Bench, server: Server, load: Load) -> tuple[Line, ...]:
    """
    Run a server under a load with a profiler; give the functions by their own time.

    Under the load of idle connections it is the lines that hold memory.

    Raises:
        FailedError: that did not work.
    """
    idle = load.kind == "idle"
    with contextlib.ExitStack() as stack:
        options = ["--profile", "memory" if idle else "time"]
        running, client = bench.start(stack, server, load, options)
        if idle:
            bench.connect(client, FEW)
        before = _told(running)
        if idle:
            work = bench.connect(client, FEW + MANY) - FEW
        else:
            slices = (
                bench.slice(load, running, client, number, SECONDS)
                for number in range(SLICES)
            )
            work = sum(one.work for one in slices)
        after = _told(running)
    lines = []
    for name, (count, amount) in after.items():
        count_before, amount_before = before.get(name, (0, 0.0))
        if not _waits(name):
            lines.append((amount - amount_before, count - count_before, name))
    whole = sum(amount for amount, _, _ in lines) or 1.0
    lines.sort(reverse=True)
    return tuple(
        Line(name, count / work, amount / work, amount / whole)
        for amount, count, name in lines[:SHOWN]
    )


def _told(running: Program) -> dict[str, tuple[int, float]]:
    """
    Ask a server with a profiler for count and amount of each function or line.
    """
    os.kill(running.pid, signal.SIGUSR1)
    found: dict[str, tuple[int, float]] = json.loads(running.line(PATIENCE))
    return found


def _waits(function: str) -> bool:
    return any(wait in function for wait in _WAITS)


def table(lines: Sequence[Line], load: Load) -> Iterator[str]:
    """
    Write a profile as Markdown.
    """
    if load.kind == "idle":
        yield f"| line | bytes for each of the {load.unit} | blocks |"
        yield "|---|---:|---:|"
        for line in lines:
            yield f"| `{line.name}` | {line.amount:,.0f} | {line.count:.2f} |"
        return
    yield f"| function | own time | calls for each of the {load.unit} |"
    yield "|---|---:|---:|"
    for line in lines:
        yield f"| `{line.name}` | {line.share:.1%} | {line.count:.2f} |"
