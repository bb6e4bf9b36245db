"""
Time candidates against a baseline, so that a busy machine changes little.

In each round every candidate is timed right after the baseline, and the ratio of the
two is what counts; the result is the median of these ratios. The cost of an empty
call is taken off both.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

Call = Callable[[], Any]


@attrs.frozen
class Effort:
    """
    How long to measure.
    """

    rounds: int
    slice: float
    """Seconds that one candidate is timed for in one round."""
    repeats: int
    """How often a round times the candidates that have a figure to reach."""


FULL = Effort(rounds=41, slice=0.0015, repeats=3)
QUICK = Effort(rounds=11, slice=0.001, repeats=5)


@attrs.frozen
class Timing:
    """
    One candidate's result.
    """

    ratio: float
    """The median of candidate / baseline."""
    low: float
    high: float
    """The quartiles."""
    seconds: float
    """The least that one call took."""


def timed(call: Call, number: int) -> float:
    """
    Give the seconds that one call takes.
    """
    times = range(number)
    start = time.perf_counter()
    for _ in times:
        call()
    return (time.perf_counter() - start) / number


def measure(
    calls: Mapping[str, Call], baseline: str, judged: Sequence[str], effort: Effort
) -> dict[str, Timing]:
    """
    Time candidates in interleaved rounds.

    Args:
        calls: the candidates by name, the baseline among them.
        baseline: what the others are compared to.
        judged: those to be timed more often.
        effort: how long.
    """
    numbers = {name: _number(call, effort.slice) for name, call in calls.items()}
    empty = min(timed(_nothing, 20_000) for _ in range(15))
    again = [name for name in judged if name in calls]
    order = [*calls, *again * (effort.repeats - 1)]
    ratios: dict[str, list[float]] = {name: [] for name in calls}
    least = dict.fromkeys(calls, float("inf"))

    def once(name: str) -> float:
        seconds = max(timed(calls[name], numbers[name]) - empty, 1e-10)
        least[name] = min(least[name], seconds)
        return seconds

    gc.collect()
    gc.disable()
    try:
        for _ in range(effort.rounds):
            for name in order:
                base = once(baseline)
                ratios[name].append(once(name) / base)
    finally:
        gc.enable()
    return {name: _summary(ratios[name], least[name]) for name in calls}


def _nothing() -> None:
    """
    Do nothing: what a call costs by itself.
    """


def _number(call: Call, seconds: float) -> int:
    call()
    one = min(timed(call, 3) for _ in range(3))
    return max(1, int(seconds / max(one, 5e-8)))


def _summary(ratios: list[float], least: float) -> Timing:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Timing(middle, low, high, least)


def call_each(
    function: Callable[..., Any], items: Sequence[Any], *extra: Any, **options: Any
) -> Call:
    """
    Make a call without arguments that calls a function with each of some items.

    It is written out, so that no loop and no unpacking is timed along.
    """
    names = [f"item{i}" for i in range(len(items))]
    more = [f"extra{i}" for i in range(len(extra))]
    named = [f"{name}={name}" for name in options]
    calls = [f"function({', '.join([name, *more, *named])})" for name in names]
    body = calls[0] if len(calls) == 1 else f"({', '.join(calls)})"
    parameters = ", ".join(["function", *names, *more, *options])
    make = eval(f"lambda {parameters}: lambda: {body}")
    made: Call = make(function, *items, *extra, *options.values())
    return made
