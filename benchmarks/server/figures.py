"""
Which figures a declared service has to reach, and which it may not fall below.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import attrs

from benchmarks.codec.rows import Reach, Row
from benchmarks.server.measure import Found

LOOP = ("protoserve, loop",)
POOL = ("protoserve, pool",)
COLUMNS = ("protoserve, batch, batch route", "protoserve, single, batch route")
DATAGRAMS = ("protoserve, batch", "protoserve, single", "protoserve, loop")
"""A message and a route's call for each datagram; the best of them counts."""


@attrs.frozen
class Figure:
    """
    A figure: how one of our servers does, against another or in bytes.
    """

    load: str
    ours: tuple[str, ...]
    """The best of these is meant."""
    against: str
    """The name of the other server; nothing for a number by itself."""
    reach: Reach


def _at_least(limit: float) -> Reach:
    return Reach(limit, most=False)


FIGURES = (
    Figure("udp-ingest", COLUMNS, "C, recvmmsg", _at_least(0.80)),
    Figure("udp-ingest", COLUMNS, "UDPServer", _at_least(4)),
    Figure("udp-ingest", DATAGRAMS, "UDPServer", _at_least(1.5)),
    Figure("udp-answer", DATAGRAMS, "C, recvmmsg", _at_least(0.60)),
    Figure("udp-answer", DATAGRAMS, "UDPServer", _at_least(1.6)),
    Figure("tcp-64x1", LOOP, "by hand, uvloop", _at_least(0.90)),
    Figure("tcp-64x32", LOOP, "by hand, uvloop", _at_least(0.75)),
    Figure("tcp-64x32", LOOP, "ThreadingTCPServer", _at_least(8)),
    Figure("tcp-1x1", LOOP, "by hand, uvloop", Reach(1.15)),
    Figure("churn", POOL, "ThreadingTCPServer", _at_least(3)),
    Figure("churn", LOOP, "ThreadingTCPServer", _at_least(3)),
    Figure("idle", LOOP, "", Reach(4096)),
)

CHECKS = (
    Figure("udp-ingest", COLUMNS, "by hand, recvmmsg to NumPy columns", _at_least(0.5)),
    Figure("udp-ingest", DATAGRAMS, "by hand, recvmmsg", _at_least(0.37)),
    Figure("udp-answer", DATAGRAMS, "by hand, recvmmsg", _at_least(0.45)),
    Figure("tcp-64x1", LOOP, "by hand, uvloop", _at_least(0.57)),
    Figure("tcp-64x32", LOOP, "by hand, uvloop", _at_least(0.52)),
    Figure("tcp-1x1", LOOP, "by hand, uvloop", Reach(1.4)),
    Figure("churn", LOOP, "by hand, uvloop", _at_least(0.34)),
    Figure("idle", LOOP, "", Reach(5500)),
)
"""What ``--check`` judges: regressions against the same work by hand in the same run.
The bounds of streams are a quarter or more worse than the median of runs on a busy
machine, the worst of which was 13 % off. Those of datagrams and of memory are wider:
the first rest on fewer runs, the second differs with what the heap had to spare."""

Results = Mapping[str, Sequence[Found]]
"""What was found, by the load's key."""


def judge(figures: Sequence[Figure], results: Results) -> Iterator[Row]:
    """
    Give a row for each figure whose load was measured.

    One that there is no number for is not met: the row's note says why.
    """
    for figure in figures:
        if figure.load in results:
            yield _row(figure, results[figure.load])


def _row(figure: Figure, found: Sequence[Found]) -> Row:
    named = {one.server.name: one for one in found}
    ours = [named[name] for name in figure.ours if name in named]
    other = named.get(figure.against)
    candidates = [row for one in ours if (row := _compared(figure, one, other))]
    reasons = [f"{one.server.name}: {one.failure}" for one in ours if one.failure]
    if candidates:
        pick = min if figure.reach.most else max
        best = pick(candidates, key=lambda row: row.number)
        return attrs.evolve(best, note="; ".join(reasons))
    if figure.against and other is None:
        reasons.append(f"{figure.against} was not measured")
    elif other is not None and other.failure:
        reasons.append(f"{other.server.name}: {other.failure}")
    if not ours:
        reasons.append("there is no such mode")
    return Row(
        figure.load,
        _aspect(found, figure),
        _name(figure.ours[0], figure.against),
        math.nan,
        reach=figure.reach,
        note="; ".join(reasons),
    )


def _compared(figure: Figure, one: Found, other: Found | None) -> Row | None:
    name = _name(one.server.name, figure.against)
    aspect = _aspect([one], figure)
    if one.failure:
        return None
    if not figure.against:
        each = one.each
        if each is None:
            return None
        return Row(figure.load, aspect, name, each, "bytes", reach=figure.reach)
    ratio = None if other is None else one.against(other)
    if ratio is None:
        return None
    return Row(
        figure.load,
        aspect,
        name,
        ratio.median,
        low=ratio.low,
        high=ratio.high,
        reach=figure.reach,
    )


def _aspect(found: Sequence[Found], figure: Figure) -> str:
    if not figure.against:
        return "memory each"
    by_time = any(one.load.by_time for one in found)
    return "time, p50" if by_time else "work per CPU-second"


def _name(ours: str, against: str) -> str:
    return f"{ours} / {against}" if against else ours
