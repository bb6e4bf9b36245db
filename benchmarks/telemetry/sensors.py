"""
Sensors: the highest rate of small datagrams, one message each, at which nothing is lost.

The rate is searched by halving between one at which nothing was dropped and one at which
something was. A loss may be the machine's fault, so a rate is given up when it has failed
twice. All receivers ask for the same buffer, which is much shorter than what is sent.
"""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from benchmarks.codec.rows import Reach, Row
from benchmarks.server.build import build
from benchmarks.server.loads import LOADS
from benchmarks.server.processes import FailedError
from benchmarks.server.servers import Server, all_servers
from benchmarks.telemetry.running import Bench, Load, Receiver, Running

_LIMIT, _OURS = "C, recvmmsg", "protoserve, batch, batch route"
_ASYNCIO, _STDLIB = "asyncio DatagramProtocol", "UDPServer"
_GRO = ", GRO"
NAMES = (_LIMIT, _LIMIT + _GRO, _OURS, _OURS + _GRO, _ASYNCIO, _STDLIB)
_REACH = {
    (_OURS, _LIMIT): 0.8,
    (_OURS, _ASYNCIO): 5.0,
    (_OURS, _STDLIB): 10.0,
    (_OURS + _GRO, _STDLIB): 10.0,
}
TITLE = "32-byte readings: the highest rate at which nothing is lost"
SEEN = (
    "Eight fields, one message a datagram. Nothing was dropped at the rate, and "
    "something was, twice, at the next one tried above it; where there is none, the "
    "sender could do no more. At such rates it hands 64 datagrams at a time to the "
    "kernel, which cuts them apart (UDP_SEGMENT) for all but those who take them as they "
    "are (UDP_GRO, `--gro`). From the wire they come together in this way where a network "
    "card's driver merges what one sender sent in a row; datagrams that are sent one by "
    "one over the loopback do not."
)
_LOWEST, _HIGHEST = 5_000, 30_000_000
"""Datagrams a second."""
_BUFFER = 4 << 20
"""Bytes that every socket asks for: few, so that what is too much for it soon shows."""
_EVERY = 10_000
"""After how many datagrams a receiver says how many it has taken."""
_TRIES = 4
"""How often a rate is halved at which nothing is lost otherwise."""
_READING = struct.Struct(">IHBBdqII")


@attrs.frozen
class Effort:
    """
    How long to search.
    """

    steps: int
    """How often the rate's bounds are brought together."""
    seconds: float
    """For which a rate is tried."""


FULL = Effort(9, 0.6)
QUICK = Effort(6, 0.3)


@attrs.frozen
class Found:
    """
    What a receiver can take.
    """

    name: str
    side: str
    rate: float = 0.0
    """Datagrams a second, as they were sent."""
    above: float = 0.0
    """The least rate at which something was lost; 0: the sender knows none."""
    failure: str = ""


def measure(bench: Bench, effort: Effort) -> list[Found]:
    """
    Search for all receivers.
    """
    build(bench.folder)
    chance = random.Random(1)
    made = [
        _READING.pack(n, n & 63, 3, 1, chance.random(), 1_700_000_000_000 + n, n, 2)
        for n in range(256)
    ]
    load = Load.write(bench.folder / "readings", made, offset=0, step=1)
    servers = {s.name: s for s in all_servers() if "udp-ingest" in s.loads}
    found = []
    for name in NAMES:
        side = servers[name].side
        try:
            with contextlib.ExitStack() as stack:
                running = bench.start(stack, _receiver(servers[name], bench.folder))
                rate, above = _search(bench, running, load, effort)
                _agree(bench, running, load, rate / 2, effort.seconds)
                found.append(Found(name, side, rate, above))
        except FailedError as error:
            found.append(Found(name, side, failure=str(error)))
    return found


def _receiver(server: Server, folder: Path) -> Receiver:
    (load,) = (load for load in LOADS if load.key == "udp-ingest")

    def command(own: Path, port: int) -> Sequence[str]:
        del own
        return server.command(folder, load, port, _EVERY, _BUFFER)

    return Receiver(server.name, command, side=server.side)


def _agree(
    bench: Bench, running: Running, load: Load, rate: float, seconds: float
) -> None:
    """
    Compare what a receiver says that it took with what it was given.

    That is done at a rate at which it loses nothing: of datagrams that came together the
    kernel counts those that it drops as one.
    """
    for _ in range(_TRIES):
        before = _said(running)
        one = bench.slice(running, load, rate, int(rate * seconds), 0)
        counted = _said(running) - before
        if one.kept == one.sent:
            break
        rate /= 2
    if one.kept != one.sent or abs(counted - one.sent) >= _EVERY:
        raise FailedError(
            f"it was sent {one.sent} datagrams, given {one.kept}, and has taken {counted}"
        )


def _said(running: Running) -> int:
    """
    Read how many datagrams a receiver says that it has taken, up to `_EVERY` fewer.
    """
    said = (running.folder / "said").read_text().splitlines()
    return int(said[-1].split()[0]) if len(said) > 1 else 0


def _search(
    bench: Bench, running: Running, load: Load, effort: Effort
) -> tuple[float, float]:
    """
    Give the highest rate without a loss, and the lowest one with any.
    """
    bench.slice(running, load, _LOWEST, _LOWEST // 4, -1)
    low, high = 0.0, 0.0  # as they were really sent
    asked_low, asked_high = float(_LOWEST), float(_HIGHEST)
    asked = 60_000.0
    for step in range(effort.steps):
        bench.progress(f"sensors: {running.name}, {asked:,.0f}/s, try {step + 1}")
        sent = _lossless(bench, running, load, asked, effort.seconds)
        if sent > 0:
            low, asked_low = max(low, sent), asked
            if sent < 0.9 * asked:
                break  # the sender is not able to do more
        else:
            high, asked_high = -sent, asked
        at_ends = asked_high == _HIGHEST or asked_low == _LOWEST
        # Far from where it is the bounds are brought together by their ratio.
        middle = (asked_low * asked_high) ** 0.5 if at_ends else None
        asked = middle or (asked_low + asked_high) / 2
    if not low:
        raise FailedError(f"something was lost at {asked_high:,.0f} datagrams/s")
    return low, high


def _lossless(
    bench: Bench, running: Running, load: Load, rate: float, seconds: float
) -> float:
    """
    Try a rate; give the one that was reached, below 0 if something was lost.
    """
    reached = 0.0
    for _ in range(2):
        one = bench.slice(running, load, rate, int(rate * seconds), 0)
        reached = one.sent / one.seconds
        if one.kept == one.sent:
            return reached
    return -reached


def table(found: Sequence[Found]) -> Iterator[str]:
    """
    Write what each can take, beside the others.
    """
    names = [one.name for one in found]
    yield f"| receiver | datagrams/s | lost above | {' | '.join(f'/ {n}' for n in names)} |"
    yield "|---|" + "---:|" * (2 + len(found))
    for one in found:
        name = f"**{one.name}**" if one.side == "ours" else one.name
        if one.failure:
            yield f"| {name} | failed |" + " |" * (1 + len(found))
            continue
        ratios = [f"{one.rate / o.rate:.2f}" if o.rate else "" for o in found]
        above = f"{one.above:,.0f}" if one.above else "not found"
        yield f"| {name} | {one.rate:,.0f} | {above} | {' | '.join(ratios)} |"
    yield from (f"- {one.name} failed: {one.failure}" for one in found if one.failure)


def judge(found: Sequence[Found]) -> Iterator[Row]:
    """
    Compare with the figures to reach.
    """
    named: Mapping[str, Found] = {one.name: one for one in found}
    for (name, other_name), least in _REACH.items():
        one, other = named[name], named[other_name]
        note = one.failure or other.failure
        ratio = one.rate / other.rate if not note else float("nan")
        reach = Reach(least, most=False)
        shown = f"{name} / {other_name}"
        yield Row("sensors", "lossless rate", shown, ratio, reach=reach, note=note)
