"""
Two things that claim the same bytes, or the same key, at the same time.

In bytes: a length, count or offset is set so that what it is for ends exactly where
another field, the frame or the next frame ends or begins, as that is where a server's
arithmetic goes wrong without the wrong number being strange in itself; a frame begins
before the one ahead of it has ended; and a whole frame stands inside of another, where
only who trusts no boundary finds it. In time: several peers ask under one and the same
key, each beginning before the others have ended, and each has to get its own answer.

What a right server makes of all this the declaration knows, so nothing is judged here.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias, TypeVar

import attrs

from protoserve.codec.spans import Span, spans
from protoserve.protocol import Direction, Protocol
from protoserve.testing.torturing.breaking import Broken, Field, repaired
from protoserve.testing.torturing.cases import Case, Pause, Send, Settle
from protoserve.testing.torturing.plans import BRIEF, Plan, Script
from protoserve.testing.torturing.seeds import shuffled

__all__ = ["overlap"]

_T = TypeVar("_T")

_KIND = "overlap"
_IN_TURN = 8
"""Cases of one request before there are some of the next."""
_MOST_NUMBERS = 4
"""Numbers of one frame that are tried; a long frame has many alike."""
_MOST_VALUES = 12
"""Values for each of them."""
_MOST_PEERS = 4
"""Peers that ask at the same time."""
_WIDEST = 32
"""Bits of a number that may be an offset or a length."""


# Cases ---------------------------------------------------------------------------


def overlap(plan: Plan, chance: random.Random) -> Iterator[Case]:
    """
    Give cases of all sorts in turn.
    """
    sorts = [_at_once(plan, chance), _of_bytes(_in_fields, plan, chance)]
    sorts.append(_of_bytes(_inside, plan, chance))
    if plan.stream and not plan.stateful:
        sorts.append(_of_bytes(_on_the_stream, plan, chance))
    while sorts:
        for sort in list(sorts):
            case = next(sort, None)
            if case is None:
                sorts.remove(sort)
            else:
                yield case


def _at_once(plan: Plan, chance: random.Random) -> Iterator[Case]:
    """
    Let several peers ask under the same key, the first to begin being the last to end.
    """
    source = shuffled(list(plan.known), chance)
    peers = min(_MOST_PEERS, plan.lanes)
    while peers > 1:
        seeds = list(itertools.islice(source, peers))
        if not seeds:
            return
        script = Script(plan, _KIND)
        key = plan.keys.take()
        ends = []
        for on, seed in enumerate(seeds):
            script.steps.append(Settle(on))  # all are there before the first asks
            script.approach(seed, on)
        for on, seed in enumerate(seeds):
            data = plan.wire(script.frame(seed, key))
            at = chance.randrange(len(data)) if plan.stream else 0
            if at:
                script.steps.append(Send(data[:at], on))
            ends.append(Send(data[at:], on))
        script.steps += [Pause(BRIEF), *reversed(ends)]
        yield script.case(f"{peers} peers ask at once, under the same key")


_Overlaps: TypeAlias = Callable[[Plan, bytes, bytes, random.Random], Iterator[Broken]]


def _of_bytes(overlaps: _Overlaps, plan: Plan, chance: random.Random) -> Iterator[Case]:
    """
    Make cases of what may be wrong with the bytes of a frame and of the next.
    """
    barren = 0
    for seed in shuffled(plan.seeds, chance):
        frame = seed.frame(plan.keys.take())
        other = chance.choice(list(plan.known) or plan.seeds)
        behind = plan.wire(other.frame(plan.keys.take()))
        some = list(overlaps(plan, frame, behind, chance))
        barren = 0 if some else barren + 1
        if barren > len(plan.seeds):
            return  # there is nothing that could overlap
        for broken in _some(some, _IN_TURN, chance):
            script = Script(plan, _KIND)
            script.approach(seed)
            script.steps.append(Send(broken.data))
            yield script.case(f"{seed.name}: {broken.what}", seed, plan.wire(frame))


def _in_fields(
    plan: Plan, frame: bytes, behind: bytes, chance: random.Random
) -> Iterator[Broken]:
    framing = plan.protocol.framing
    followed = plan.stream and not plan.stateful
    for broken in reaching(plan.protocol, frame, behind if followed else b"", chance):
        data = broken.data
        if plan.stream and framing is not None and not framing.in_frame:
            data = plan.wire(data)
        yield attrs.evolve(broken, data=data + behind if followed else data)


def _inside(
    plan: Plan, frame: bytes, behind: bytes, _chance: random.Random
) -> Iterator[Broken]:
    for broken in nested(plan.protocol, frame, behind):
        yield attrs.evolve(broken, data=plan.wire(broken.data))


def _on_the_stream(
    plan: Plan, frame: bytes, behind: bytes, chance: random.Random
) -> Iterator[Broken]:
    wire = plan.wire(frame)
    yield from shared(wire, behind, chance)
    yield from swallowing(frame, wire, behind)


# What may be wrong with bytes -----------------------------------------------------


def reaching(
    protocol: Protocol, frame: bytes, behind: bytes, chance: random.Random
) -> Iterator[Broken]:
    """
    Let what numbers delimit, or point to, end or begin at the edges of other fields.

    Args:
        protocol: the protocol.
        frame: a valid frame.
        behind: what follows it on the stream; nothing for a datagram.
        chance: what is drawn from, where there are too many.
    """
    found = spans(protocol, frame, Direction.REQUEST)
    edges = {edge for span in found for edge in (span.start, span.stop)}
    edges.add(len(frame))
    if behind:
        size = len(behind)
        edges.update(len(frame) + n for n in (1, size // 2, size - 1, size))
    numbers = [span for span in found if _may_reach(span)]
    others = [span for span in numbers if not span.refers]
    numbers = [span for span in numbers if span.refers]
    for span in (*_some(numbers, _MOST_NUMBERS, chance), *_some(others, 1, chance)):
        field = Field.of(span)
        number = field.read(frame)
        wanted = set(_values(found, span, number, sorted(edges)))
        fitting = [v for v in sorted(wanted) if 0 <= v < 1 << field.width]
        fitting = [value for value in fitting if value != number]
        for value in _some(fitting, _MOST_VALUES, chance):
            data = repaired(protocol, field.write(frame, value), span.path)
            yield Broken(_KIND, f"{span.path} = {value} in place of {number}", data)


def _may_reach(span: Span) -> bool:
    """
    Whether a field may say where something ends or begins.
    """
    known = span.kind in ("length", "count", "number")
    whole = span.bits is None or (span.bits[1] - span.bits[0] + 1) >= 8
    return known and whole and 8 * (span.stop - span.start) <= _WIDEST


def _values(
    found: Sequence[Span], span: Span, number: int, edges: Sequence[int]
) -> Iterator[int]:
    """
    Give the values with which a number reaches each edge.

    A length or count reaches it from where it reaches now, by its own unit; any other
    number may be counted from the frame's start, or from behind itself.
    """
    stop = _end_of_region(found, span)
    if stop is None:
        yield from edges
        yield from (edge - span.stop for edge in edges)
        return
    start = _start_of_region(found, span)
    unit = max(1, (stop - start) // number) if number else 1
    for edge in edges:
        yield number + (edge - stop)
        yield number + (edge - stop) // unit
        yield number - (stop - edge) // unit


def _region(found: Sequence[Span], span: Span, name: str) -> list[Span]:
    """
    Give the fields of what a length or count names, its neighbour or a part.
    """
    parent = span.path.rpartition(".")[0]
    inside = re.compile(rf"{re.escape(f'{parent}.{name}')}(?![\w])")
    own = [each for each in found if inside.match(each.path)]
    return own or [each for each in found if each.part == name]


def _end_of_region(found: Sequence[Span], span: Span) -> int | None:
    last = span.refers.rpartition(" to ")[2]
    stops = (each.stop for each in _region(found, span, last)) if last else ()
    return max(stops, default=span.stop if last else None)


def _start_of_region(found: Sequence[Span], span: Span) -> int:
    first = span.refers.partition(" to ")[0]
    starts = (each.start for each in _region(found, span, first))
    return min(starts, default=span.stop)


def _some(items: Sequence[_T], most: int, chance: random.Random) -> list[_T]:
    return list(items) if len(items) <= most else chance.sample(items, most)


def shared(one: bytes, two: bytes, chance: random.Random) -> Iterator[Broken]:
    """
    Let two frames have bytes in common: the second begins before the first has ended.

    Args:
        one: what goes over the wire for the first.
        two: the same for the second.
        chance: what is drawn from, where there are too many.
    """
    most = min(len(one), len(two))
    for n in _some(range(1, most), _MOST_VALUES, chance):
        text = f"the next frame begins {n} bytes before its end"
        yield Broken(_KIND, text, one[:-n] + two)
        text = f"its last {n} bytes are the first of the next frame"
        yield Broken(_KIND, text, one + two[n:])


def swallowing(frame: bytes, wire: bytes, behind: bytes) -> Iterator[Broken]:
    """
    Let what the framing writes ahead of a frame reach into the next one.

    Args:
        frame: a valid frame.
        wire: what goes over the wire for it.
        behind: what follows.
    """
    before = wire.find(frame)
    size = len(behind)
    if before not in (1, 2, 4, 8):
        return  # there is no number ahead of it, or it is a field of the frame
    number = int.from_bytes(wire[:before], "big")
    for more in (1, before, size // 2, size - 1, size):
        with contextlib.suppress(OverflowError):
            data = (number + more).to_bytes(before, "big") + wire[before:]
            text = f"it takes {more} bytes of the next frame for its own"
            yield Broken(_KIND, text, data + behind)


def nested(protocol: Protocol, frame: bytes, inner: bytes) -> Iterator[Broken]:
    """
    Put a whole frame, with all that delimits it, in the place of another's body.

    Args:
        protocol: the protocol.
        frame: the outer one.
        inner: what goes over the wire for the inner one.
    """
    found = spans(protocol, frame, Direction.REQUEST)
    head = max((span.stop for span in found if span.part == "header"), default=0)
    tail = min((s.start for s in found if s.part == "trailer"), default=len(frame))
    for at, stop, text in (
        (head, tail, "for its body"),
        (head, head, "ahead of its body"),
        (tail, tail, "behind its body"),
    ):
        data = frame[:at] + inner + frame[stop:]
        longer = len(data) - len(frame)
        for span in found:
            if span.kind == "length" and span.part == "header":
                field = Field.of(span)
                number = field.read(frame) + longer
                if number < 1 << field.width:
                    data = field.write(data, number)
        yield Broken(_KIND, f"a whole frame {text}", repaired(protocol, data, ""))
