"""
Parsing and building, against code written by hand and against others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.codec.case import COMPILED, HAND, INTERPRETED, OURS, Candidate, Case
from benchmarks.codec.messages import choice, fixed, frames, many, netflow, variable
from benchmarks.codec.rows import Reach, Row
from benchmarks.codec.timing import Call, Effort, Timing, measure

CASES: tuple[Callable[[], Case], ...] = (
    fixed.case,
    variable.case,
    choice.case,
    netflow.case,
    frames.case,
    frames.reply_case,
    many.case,
    many.text_case,
)

_OWN = {"parse": 1.1, "build": 1.2}
_PROMISED = {
    **{(key, "parse"): Reach(1.1) for key in "ABCD"},
    **{(key, "build"): Reach(1.2) for key in "ABCD"},
    ("E", "parse"): Reach(1.15),
}
_TIMES = {INTERPRETED: 30.0, COMPILED: 5.0}
_KEYS = ("A", "B", "C", "D")
"""The messages that the figures against Construct are about."""
GROUPS = ("A", "B", "C", "D", "E", "F")


def rows_of(case: Case, peers: list[Candidate], effort: Effort) -> Iterator[Row]:
    """
    Measure one case.

    Raises:
        AssertionError: some candidate's values or bytes are not the right ones.
    """
    calls: dict[str, dict[str, Call]] = {"parse": {}, "build": {}}
    for candidate in (*case.candidates, *peers):
        for aspect, call in case.calls(candidate).items():
            calls[aspect][candidate.name] = call
    for aspect, found in calls.items():
        if found:
            timings = measure(found, HAND, [OURS], effort)
            yield from _against_hand(case, aspect, timings)
            yield from _against_construct(case, aspect, timings)


def _against_hand(case: Case, aspect: str, timings: dict[str, Timing]) -> Iterator[Row]:
    kept = Reach(_OWN[aspect], ours=True)
    for name, timing in sorted(timings.items(), key=lambda pair: pair[1].ratio):
        reach = _PROMISED.get((case.key, aspect), kept) if name == OURS else None
        yield Row(
            case.key,
            aspect,
            name,
            timing.ratio,
            "ratio",
            timing.low,
            timing.high,
            timing.seconds,
            reach,
        )


def _against_construct(
    case: Case, aspect: str, timings: dict[str, Timing]
) -> Iterator[Row]:
    for name, times in _TIMES.items():
        if name in timings:
            number = timings[name].ratio / timings[OURS].ratio
            reach = Reach(times, most=False) if case.key in _KEYS else None
            shown = f"protoserve against {name}"
            yield Row(case.key, aspect, shown, number, "times", reach=reach)
