"""
Memory: many exporters with many templates, and a storm of made-up ones.

First 10,000 addresses send ten templates each, twice, so that they are known. Then they
send a template and data each, over and over, and after that others send the same at the
same rate: all that differs is who sends, so what the collector has grown by is what it
remembers of strangers. First there are 50,000 of them, which is more than are remembered,
and then a million. At last those that are known send data only. A template of
theirs that was pushed out by the storm would be missing, and counted.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Iterator

import attrs

from benchmarks.codec.rows import Reach, Row
from benchmarks.server.measure import PATIENCE
from benchmarks.server.processes import FailedError
from benchmarks.telemetry.receivers import collector
from benchmarks.telemetry.running import Bench, Load, Running, peak, resident
from examples.netflow_exporter import ELEMENTS, START, TIMES, flow
from protocols.netflow import V9, Header, NetFlow9, NetFlow9Set, Template, netflow
from protoserve import Direction

TITLE = "Memory of a collector of NetFlow v9"
SEEN = (
    "Resident bytes of the whole program, two seconds after the last datagram. Each "
    "exporter is an address of its own; templates have 18 fields."
)
_EXPORTERS, _TEMPLATES = 10_000, 10
_STORM = 1_000_000
_QUICK_STORM = 100_000
_GUST = 50_000
"""Strangers that take all the places there are for such."""
_ROUNDS = 100
"""How often those that are known send as much as is sent in the storm by others."""
_TEACHING, _STORMING = 2_000, 20_000
"""Datagrams a second; of a storm, the kernel may drop what is too much."""
_MOST = 300 << 20
_KNOWN, _FIRST, _STRANGERS = 0x7F010000, 0x7F100000, 0x7F200000
"""Where their addresses begin: 127.1.0.0, 127.16.0.0 and 127.32.0.0."""
_REST = 2.0
"""Seconds of rest after which a collector has given back what is free."""
_PROBATION = 1.2
"""Seconds after which a template that comes again is proven, and a little more."""


@attrs.frozen
class Found:
    """
    Bytes at some moments, and what was lost.
    """

    storm: int
    start: int
    known: int
    busy: int
    gust: int
    after: int
    most: int
    """At any time until then."""
    taken: int
    """Datagrams of the storm that were received."""
    stored: int
    """Datagrams of known exporters whose rows are there, of `expected`."""
    expected: int
    failure: str = ""


def _datagrams() -> tuple[list[bytes], list[bytes], list[bytes]]:
    """
    Make one with ten templates, one with data, one with a template and data.
    """
    chance = random.Random(1)
    specs = ELEMENTS + TIMES[V9]
    templates = [Template.of(256 + n, specs, version=V9) for n in range(_TEMPLATES)]
    definitions = NetFlow9Set(0, b"".join(t.definition() for t in templates))
    data = NetFlow9Set(256, templates[0].encode([flow(chance, START)]))

    def made(*sets: NetFlow9Set) -> bytes:
        message = NetFlow9(len(sets), 60_000, START, 0, 0, list(sets))
        return netflow.build(message, Direction.REQUEST, header=Header(V9))

    definition = NetFlow9Set(0, templates[0].definition())
    return [made(definitions)], [made(data)], [made(definition, data)]


def measure(bench: Bench, *, quick: bool = False) -> Found:
    """
    Measure one collector.
    """
    storm = _QUICK_STORM if quick else _STORM
    first, data, both = _datagrams()
    known = {"sources": _EXPORTERS, "first": _KNOWN}
    strangers = {"sources": storm, "first": _STRANGERS}
    folder = bench.folder
    teach = Load.write(folder / "teach", first, **known)
    tell = Load.write(folder / "tell", data, **known)
    same = Load.write(folder / "same", both, **known)
    flood = Load.write(folder / "flood", both, **strangers)
    some = attrs.evolve(flood, sources=_GUST, first=_FIRST)
    start = busy = at_known = gust = after = most = taken = 0
    try:
        with contextlib.ExitStack() as stack:
            running = bench.start(stack, attrs.evolve(collector("arrow"), count=None))
            bench.settle(running)
            start = _at_rest(running)
            for turn in range(2):
                bench.progress(f"memory: templates, {turn + 1} of 2")
                bench.slice(running, teach, _TEACHING, _EXPORTERS, 0)
                time.sleep(_PROBATION)
            at_known = _at_rest(running)
            bench.progress("memory: known ones, as busy as the storm")
            bench.slice(running, same, _STORMING, _ROUNDS * _EXPORTERS, 0)
            busy = _at_rest(running)
            bench.progress("memory: some others")
            bench.slice(running, some, _STORMING, _GUST, 0)
            gust = _at_rest(running)
            bench.progress("memory: the storm")
            taken = bench.slice(running, flood, _STORMING, storm, 0).kept
            after, most = _at_rest(running), peak(running.program)
            before = _said(running)
            bench.progress("memory: data of those that are known")
            one = bench.slice(running, tell, _TEACHING, _EXPORTERS, 0)
            bench.end(running)
            stored = _said(running)["rows"] - before["rows"]
            sizes = (start, at_known, busy, gust, after, most)
            return Found(storm, *sizes, taken, stored, one.kept)
    except FailedError as error:
        sizes = (start, at_known, busy, gust, after, most)
        return Found(storm, *sizes, taken, 0, 0, str(error))


def _at_rest(running: Running) -> int:
    """
    Give the bytes of memory that a collector has when nothing comes.
    """
    time.sleep(_REST)
    return resident(running.program)


def _said(running: Running) -> dict[str, int]:
    """
    Read what a collector says each second, once that is of now.
    """
    file = running.folder / "said"
    seen = file.stat().st_size
    deadline = time.monotonic() + PATIENCE
    while running.program.process.poll() is None:
        lines = file.read_text()[seen:].split("\n")
        if len(lines) > 2:  # the first may have been begun before
            break
        if time.monotonic() > deadline:
            raise FailedError(running.program.why("says nothing more"))
        time.sleep(0.05)
    found: dict[str, int] = json.loads(
        file.read_text().rpartition("\n")[0].split("\n")[-1]
    )
    return found


def table(found: Found) -> Iterator[str]:
    """
    Write what was found.
    """
    if found.failure:
        yield f"It failed: {found.failure}"
        return
    yield "| moment | resident |"
    yield "|---|---:|"
    known = f"after {_EXPORTERS:,} exporters with {_TEMPLATES} templates each"
    busy = f"after {_ROUNDS * _EXPORTERS:,} datagrams of theirs, as fast as the storm"
    gust = f"after one datagram each of {_GUST:,} other sources"
    storm = f"after the storm: one datagram each of {found.storm:,} more"
    for name, size in (
        ("at the start", found.start),
        (known, found.known),
        (busy, found.busy),
        (gust, found.gust),
        (storm, found.after),
        ("the most, at any time until then", found.most),
    ):
        yield f"| {name} | {size / 2**20:.0f} MiB |"
    yield ""
    yield (
        f"Of the storm {found.taken:,} datagrams were received, the others dropped by "
        f"the kernel. Of {found.expected:,} datagrams that known exporters sent after that, with no "
        f"template, {found.stored:,} became rows."
    )


def judge(found: Found) -> Iterator[Row]:
    """
    Compare with the figures to reach.
    """
    nothing, note = float("nan"), found.failure

    def row(aspect: str, name: str, number: float, reach: Reach) -> Row:
        number = nothing if note else number
        return Row("memory", aspect, name, number, reach=reach, note=note)

    most = _MOST / 2**20
    yield row(
        "MiB", "10,000 exporters, 10 templates each", found.known / 2**20, Reach(most)
    )
    yield row("MiB", "after the storm", found.after / 2**20, Reach(most))
    yield row("MiB", "at any time", found.most / 2**20, Reach(most))
    for name, before, reach in (
        ("by a storm of sources", found.busy, 1.1),
        (f"by a storm, after {_GUST:,} sources", found.gust, 1.05),
    ):
        yield row("growth", name, found.after / max(before, 1), Reach(reach))
    share = found.stored / max(found.expected, 1)
    yield row("kept", "templates of known ones", share, Reach(1.0, most=False))
