"""
Flows: who keeps how many, for how much processor time, beside nfcapd.

All receivers of a case are there at a time and are loaded in turns, so that what else the
machine does hits all of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from benchmarks.codec.rows import Reach, Row
from benchmarks.server.measure import Ratio
from benchmarks.server.processes import FailedError
from benchmarks.telemetry.receivers import FLOWS, collector, nfcapd, route
from benchmarks.telemetry.running import Bench, Load, Receiver, Running, Slice
from examples.netflow_exporter import NAMES, datagrams

RATE = 60_000
"""Datagrams a second."""
_NUMBERS = {"v5": (16, FLOWS), "v9": (12, 1), "ipfix": (8, FLOWS)}
"""Where each version numbers its datagrams, and by what."""
_SOME = 400
"""Datagrams that are sent over and over; so many are warmed up with, at least."""


@attrs.frozen
class Effort:
    """
    How long to measure.
    """

    rounds: int
    seconds: float
    """For which is sent in each round."""


FULL = Effort(3, 5.0)
QUICK = Effort(2, 3.0)


@attrs.frozen
class Case:
    """
    A rate at which receivers are loaded.
    """

    key: str
    title: str
    seen: str
    rate: int
    """Datagrams a second; 0: as many as the kernel takes."""
    receivers: Sequence[tuple[Receiver, str]]
    """And the version of NetFlow that each gets."""


def cases() -> Iterator[Case]:
    """
    Give all cases; without nfcapd there is nothing to compare with.
    """
    theirs = nfcapd()
    first = [(theirs, "v5")] if theirs else []
    yield Case(
        "paced",
        f"NetFlow v5 at {RATE:,} datagrams/s",
        f"{FLOWS} flows a datagram, {RATE * FLOWS / 1e6:g} million flows a second. "
        "The batch route receives and makes native columns of all fields, no more; "
        "the collectors also keep rows in their spool and bring them to a sink.",
        RATE,
        [
            *first,
            (route(), "v5"),
            *((collector(sink), "v5") for sink in ("arrow", "duckdb", "parquet")),
        ],
    )
    yield Case(
        "flat-out",
        "NetFlow v5 as fast as the sender can",
        "More than anybody here can take: which part is kept.",
        0,
        [*first, (route(), "v5"), (collector("arrow"), "v5")],
    )
    yield Case(
        "templates",
        f"NetFlow v5, v9 and IPFIX at {RATE // 2:,} datagrams/s",
        "The same flows to three collectors with the Arrow sink; those of v9 and IPFIX "
        "by a template, which comes again with every 20th datagram.",
        RATE // 2,
        [(collector("arrow", version), version) for version in NAMES],
    )


def loads(folder: Path) -> Mapping[str, Load]:
    """
    Write what is sent, by version.
    """
    found = {}
    for name, number in NAMES.items():
        offset, step = _NUMBERS[name]
        made = list(datagrams(number, FLOWS * _SOME))
        file = folder / f"flows-{name}"
        found[name] = Load.write(file, made, offset=offset, step=step)
    return found


def measure(
    bench: Bench, case: Case, effort: Effort, without: Collection[str] = ()
) -> list[Running]:
    """
    Measure all receivers of a case, but for some names.
    """
    ready = loads(bench.folder)
    found = []
    with contextlib.ExitStack() as stack:
        running = []
        for receiver, version in case.receivers:
            if receiver.name in without:
                continue
            one = bench.start(stack, receiver)
            found.append(one)
            running.append((one, ready[version]))
        count = int((case.rate or 4 * RATE) * effort.seconds)
        for one, load in running:  # what is done once is not measured
            with _noting(one):
                bench.slice(one, load, RATE / 4, 20 * _SOME, -1)
        for turn in range(effort.rounds):
            for one, load in running:
                if one.failure:
                    continue
                bench.progress(
                    f"{case.key}: round {turn + 1} of {effort.rounds}, {one.name}"
                )
                with _noting(one):
                    one.slices.append(bench.slice(one, load, case.rate, count, turn))
        for one, _ in running:
            with _noting(one):
                bench.end(one)
    return found


@contextlib.contextmanager
def _noting(running: Running) -> Iterator[None]:
    try:
        yield
    except FailedError as error:
        running.failure = running.failure or str(error)


def _each(one: Slice) -> float:
    return one.each


def _share(one: Slice) -> float:
    return one.share


def table(found: Sequence[Running]) -> Iterator[str]:
    """
    Write what a case's receivers did.
    """
    base = found[0]
    yield (
        "| receiver | datagrams/s sent | kept | CPU µs each | of a core | "
        f"CPU / {base.name} | peak memory |"
    )
    yield "|---|" + "---:|" * 6
    for one in found:
        name = f"**{one.name}**" if one.receiver.side == "ours" else one.name
        if not one.slices:
            yield f"| {name} | failed | | | | | |"
            continue
        sent = one.median(lambda s: s.sent / s.seconds)
        core = one.median(lambda s: s.cpu / s.seconds)
        ratio = Ratio.of(one.against(base, _each)) if base.slices else None
        shown = ""
        if ratio is not None:
            shown = f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"
        yield (
            f"| {name} | {sent:,.0f} | {one.median(_share):.3%} | "
            f"{one.median(_each):.1f} | {core:.0%} | {shown if one is not base else 1} | "
            f"{one.memory / 2**20:.0f} MiB |"
        )
    failed = [one for one in found if one.failure]
    yield from ([""] if failed else [])
    for one in failed:
        yield f"- {one.name} failed: {one.failure}"


_MOST_CPU = {"batch route": 1.0, "collect, arrow": 1.5}
_MOST_CPU |= {"collect, duckdb": 3.0, "collect, parquet": 3.0}


def judge(case: Case, found: Sequence[Running]) -> Iterator[Row]:
    """
    Compare with the figures to reach.
    """
    named = {one.name: one for one in found}
    theirs = named.get("nfcapd")
    if case.key == "templates":
        base = named["collect, v5"]
        for name in ("collect, v9", "collect, ipfix"):
            yield _row(
                case, named[name], base, "work per CPU-second", Reach(0.5, False)
            )
        return
    for one in found:
        if one is theirs:
            continue
        if case.key == "paced":
            if theirs is not None:
                most = Reach(_MOST_CPU[one.name])
                yield _row(case, one, theirs, "CPU each", most)
            yield _kept(case, one)
        elif theirs is not None and one.name == "batch route":
            # What is promised is about reception and decoding.
            least = Reach(1.0, most=False)
            yield _row(case, one, theirs, "share kept", least)


def _row(
    case: Case, one: Running, other: Running, aspect: str, reach: Reach | None
) -> Row:
    def read(found: Slice) -> float:
        if aspect == "share kept":
            return found.share
        return 1 / found.each if aspect == "work per CPU-second" else found.each

    name = f"{one.name} / {other.name}"
    ratios = one.against(other, read)
    if one.failure or not ratios:
        note = one.failure or other.failure
        return Row(case.key, aspect, name, float("nan"), reach=reach, note=note)
    ratio = Ratio.of(ratios)
    low, high = ratio.low, ratio.high
    return Row(case.key, aspect, name, ratio.median, low=low, high=high, reach=reach)


def _kept(case: Case, one: Running) -> Row:
    share = min(map(_share, one.slices), default=float("nan"))
    note = one.failure or "of the worst round"
    reach = Reach(1.0, most=False)
    return Row(case.key, "share kept", one.name, share, reach=reach, note=note)
