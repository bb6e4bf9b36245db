"""
Cases without an end, made from valid requests: the classes of what may happen.

Each class is a generator that takes the plan and a source of chance. Those that go
through something systematically (each byte, each field, each value) do so for one
request of every message side by side, in an order that chance gives: a small budget
sees something of all, a large one sees all.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator

import attrs

from protoserve.testing.torturing.breaking import (
    FIELDS,
    Broken,
    broken_fields,
    broken_framing,
    mutated,
    truncated,
)
from protoserve.testing.torturing.cases import Case, End, Pause, Send, Settle
from protoserve.testing.torturing.overlapping import overlap
from protoserve.testing.torturing.plans import BRIEF, Maker, Plan, Script
from protoserve.testing.torturing.seeds import Seed, grown, shuffled

__all__ = ["KINDS", "cases"]

_SILENCE = 0.1
"""Seconds of saying nothing in the middle of a frame."""
_MOST_PIECES = 32
"""Pieces that a slow sender cuts a frame into."""
_LONG = 60_000
"""Bytes of what is oversize on purpose; a datagram holds as many."""


# Valid conversations ------------------------------------------------------------


def _valid(plan: Plan, chance: random.Random) -> Iterator[Case]:
    for seed in shuffled(plan.seeds, chance):
        script = Script(plan, "valid")
        script.approach(seed)
        frame = script.frame(seed)
        script.steps += [Send(plan.wire(frame)), Settle()]
        yield script.case(seed.name, seed, plan.wire(frame))


def _several(plan: Plan, chance: random.Random) -> Iterator[list[Seed]]:
    source = shuffled(_answered(plan), chance)
    while True:
        some = list(itertools.islice(source, chance.randint(2, 6)))
        if not some:
            return
        yield some


def _answered(plan: Plan) -> list[Seed]:
    """
    Give what is answered, in a state in which nothing need go before.
    """
    return [seed for seed in plan.known if not seed.approach]


def _coalesced(plan: Plan, chance: random.Random) -> Iterator[Case]:
    for some in _several(plan, chance):
        script = Script(plan, "coalesced")
        data = b"".join(plan.wire(script.frame(seed)) for seed in some)
        cut = chance.randrange(len(data)) if chance.random() < 0.5 else 0
        script.steps.append(Send(data[: cut or None]))
        if cut:
            script.steps += [Pause(BRIEF), Send(data[cut:])]
        yield script.case(f"{len(some)} requests at once")


def _reordered(plan: Plan, chance: random.Random) -> Iterator[Case]:
    for some in _several(plan, chance):
        script = Script(plan, "reordered")
        frames = [plan.wire(script.frame(seed)) for seed in some]
        chance.shuffle(frames)
        script.steps += [Send(frame) for frame in frames]
        yield script.case("keys that do not go up")


def _duplicated(plan: Plan, chance: random.Random) -> Iterator[Case]:
    for seed in shuffled(_answered(plan), chance):
        script = Script(plan, "duplicated")
        data = plan.wire(script.frame(seed))
        script.steps += [Send(data), Send(data)]
        yield script.case(f"the same {seed.name} twice", seed, data)


def _split(plan: Plan, chance: random.Random) -> Iterator[Case]:
    def each(seed: Seed) -> Iterator[Case]:
        for at in range(1, len(plan.wire(seed.frame(1 if plan.keys.count else None)))):
            script = Script(plan, "split")
            script.approach(seed)
            data = plan.wire(script.frame(seed))
            script.steps += [Send(data[:at]), Pause(BRIEF), Send(data[at:])]
            yield script.case(f"{seed.name} in two pieces, cut at {at}", seed, data)

    yield from _side_by_side(list(plan.known), chance, each)


def _slow(plan: Plan, chance: random.Random) -> Iterator[Case]:
    for seed in shuffled(list(plan.known), chance):
        script = Script(plan, "slow")
        script.approach(seed)
        data = plan.wire(script.frame(seed))
        size = -(-len(data) // _MOST_PIECES)
        for at in range(0, len(data), size):
            script.steps += [Send(data[at : at + size]), Pause(BRIEF / 2)]
        yield script.case(f"{seed.name}, {size} bytes at a time", seed, data)


def _half_open(plan: Plan, chance: random.Random) -> Iterator[Case]:
    for seed in shuffled(list(plan.known), chance):
        script = Script(plan, "half-open")
        script.approach(seed)
        data = plan.wire(script.frame(seed))
        at = chance.randint(1, max(1, len(data) - 1))
        script.steps += [Send(data[:at]), Pause(_SILENCE), Send(data[at:])]
        yield script.case(f"{seed.name}, silence after {at} bytes", seed, data)


def _half_closed(plan: Plan, chance: random.Random) -> Iterator[Case]:
    for seed in shuffled(plan.seeds, chance):
        script = Script(plan, "half-closed")
        script.approach(seed)
        data = plan.wire(script.frame(seed))
        at = chance.randint(0, len(data))
        script.steps += [Send(data[:at]), End()]
        yield script.case(f"the end after {at} bytes of {seed.name}", seed, data)


def _interleaved(plan: Plan, chance: random.Random) -> Iterator[Case]:
    source = shuffled(list(plan.known), chance)
    most = min(3, plan.lanes)
    while most > 1:
        script = Script(plan, "interleaved")
        pieces: list[list[Send]] = []
        for on, seed in enumerate(itertools.islice(source, most)):
            script.approach(seed, on)
            data = plan.wire(script.frame(seed))
            at = chance.randrange(len(data)) if plan.stream else 0
            cut = [data[:at], data[at:]] if at else [data]
            pieces.append([Send(piece, on) for piece in cut])
        if not pieces:
            return
        for turn in range(2):
            script.steps += [piece[turn] for piece in pieces if turn < len(piece)]
            script.steps.append(Pause(BRIEF))
        yield script.case(f"{len(pieces)} connections at a time")


# Broken frames ------------------------------------------------------------------


def _side_by_side(
    seeds: list[Seed],
    chance: random.Random,
    each: Callable[[Seed], Iterable[Case]],
) -> Iterator[Case]:
    """
    Go through the cases of one seed of each message in turn, and then of the next.
    """
    source = shuffled(seeds, chance)
    names = len({seed.name for seed in seeds})
    while True:
        rows = []
        for seed in itertools.islice(source, names):
            row = list(each(seed))
            chance.shuffle(row)
            rows.append(row)
        if not any(rows):
            return
        for turn in itertools.zip_longest(*rows):
            yield from (case for case in turn if case is not None)


def _of_frame(breaking: Callable[[Plan, bytes], Iterable[Broken]]) -> Maker:
    """
    Make the generator for something that may be wrong with a frame.
    """

    def maker(plan: Plan, chance: random.Random) -> Iterator[Case]:
        def each(seed: Seed) -> Iterator[Case]:
            frame = seed.frame(plan.keys.take())
            for broken in breaking(plan, frame):
                yield _broken_case(plan, chance, seed, frame, broken)

        yield from _side_by_side(plan.seeds, chance, each)

    return maker


def _broken_case(
    plan: Plan, chance: random.Random, seed: Seed, frame: bytes, broken: Broken
) -> Case:
    script = Script(plan, broken.kind)
    script.approach(seed)
    framing = plan.protocol.framing
    data = broken.data
    if broken.kind != "framing" and plan.stream:
        assert framing is not None
        reframed = broken.kind in ("truncated", "mutated", "oversize")
        if not framing.in_frame or reframed:
            data = plan.wire(data)
    script.steps.append(Send(data))
    if plan.stream and not plan.stateful and chance.random() < 0.3:
        # What a length that is too large takes for its own.
        followed = chance.choice(list(plan.known) or plan.seeds)
        script.steps.append(Send(plan.wire(followed.frame(plan.keys.take()))))
    return script.case(f"{seed.name}: {broken.what}", seed, plan.wire(frame))


def _cut_off(plan: Plan, chance: random.Random) -> Iterator[Case]:
    """
    The stream ends at every byte.
    """

    def each(seed: Seed) -> Iterator[Case]:
        data = plan.wire(seed.frame(plan.keys.take()))
        for at in range(len(data)):
            script = Script(plan, "cut-off")
            script.approach(seed)
            script.steps += [Send(data[:at]), End()]
            what = f"{seed.name}: the end after {at} of {len(data)} bytes"
            yield script.case(what, seed, data)

    yield from _side_by_side(plan.seeds, chance, each)


def _mutated(plan: Plan, chance: random.Random) -> Iterator[Case]:
    others = [seed.frame(plan.keys.take()) for seed in plan.seeds[:64]]
    for seed in shuffled(plan.seeds, chance):
        frame = seed.frame(plan.keys.take())
        what, data = mutated(frame, chance, others)
        broken = Broken("mutated", what, data)
        yield _broken_case(plan, chance, seed, frame, broken)


def _noise(plan: Plan, chance: random.Random) -> Iterator[Case]:
    while True:
        script = Script(plan, "noise")
        size = chance.choice((1, 2, 4, 8, 16, 64, 256))
        kind = chance.randrange(4)
        data = chance.randbytes(size)
        if kind == 0:
            data = chance.choice((b"\x00", b"\xff", b"\x80", b"\n")) * size
        elif kind == 1:
            data = b"GET / HTTP/1.1\r\nHost: example.test\r\n\r\n"
        elif kind == 2:
            data = plan.wire(data)
        script.steps.append(Send(data))
        yield script.case(f"{len(data)} bytes of nonsense")


def _oversize(plan: Plan, chance: random.Random) -> Iterator[Case]:
    framing = plan.protocol.framing
    most = _LONG if framing is None else min(_LONG, framing.max_size)

    def each(seed: Seed) -> Iterator[Case]:
        frame = seed.frame(plan.keys.take())
        larger = (s.frame(plan.keys.take()) for s in grown(seed, most))
        frames = [(f"grown to {len(data)} bytes", data) for data in larger]
        for size, filler in ((most, b"\0"), (most + 1, b"\xff"), (_LONG, b"\xff")):
            if size > len(frame):
                text = f"padded to {size} bytes of {filler.hex()}"
                frames.append((text, frame + filler * (size - len(frame))))
        for what, data in frames:
            broken = Broken("oversize", what, data)
            yield _broken_case(plan, chance, seed, frame, broken)

    yield from _side_by_side(plan.seeds, chance, each)


def _out_of_state(plan: Plan, chance: random.Random) -> Iterator[Case]:
    """
    Leave out what has to go before, or do it and then begin again.
    """
    for seed in shuffled([s for s in plan.seeds if s.approach], chance):
        script = Script(plan, "state")
        approach = list(seed.approach)
        if chance.random() < 0.7:
            del approach[chance.randrange(len(approach)) :]
            script.approach(attrs.evolve(seed, approach=tuple(approach)))
            data = plan.wire(script.frame(seed))
            script.due.clear()
            script.steps += [Send(data), Settle()]
            yield script.case(f"{seed.name} without what goes before", seed, data)
        else:
            first = approach[0]
            script.approach(seed)
            data = plan.wire(script.frame(first))
            script.steps += [Send(data), Settle()]
            yield script.case(f"{first.name} once more", first, data)


def _fields(kind: str) -> Callable[[Plan, bytes], Iterable[Broken]]:
    return lambda plan, frame: broken_fields(plan.protocol, frame, kind)


_FRAMES: dict[str, Callable[[Plan, bytes], Iterable[Broken]]] = {
    "truncated": lambda _, frame: truncated(frame),
    **{kind: _fields(kind) for kind in FIELDS},
    "framing": lambda plan, frame: broken_framing(frame, plan.wire(frame)),
}

KINDS: dict[str, tuple[Maker, int]] = {
    "valid": (_valid, 8),
    "coalesced": (_coalesced, 6),
    "reordered": (_reordered, 4),
    "duplicated": (_duplicated, 4),
    "split": (_split, 6),
    "slow": (_slow, 1),
    "half-open": (_half_open, 1),
    "half-closed": (_half_closed, 4),
    "cut-off": (_cut_off, 6),
    "interleaved": (_interleaved, 3),
    "overlap": (overlap, 8),
    **{kind: (_of_frame(breaking), 8) for kind, breaking in _FRAMES.items()},
    "oversize": (_oversize, 4),
    "mutated": (_mutated, 16),
    "noise": (_noise, 4),
    "state": (_out_of_state, 8),
}
"""The classes of cases, with how many there are of each for those of the others."""

_STREAMS = frozenset(
    {"split", "slow", "half-open", "half-closed", "cut-off", "framing"}
)
"""Classes that only mean something on a stream."""
_STATELESS = frozenset({"coalesced", "reordered", "duplicated"})
"""Classes that need requests which depend on nothing."""


def cases(plan: Plan, seed: int, only: Iterable[str] = ()) -> Iterator[Case]:
    """
    Give cases without an end.

    Args:
        plan: what is known of the server.
        seed: the same one gives the same cases for the same plan.
        only: the classes wanted; by default all.
    """
    wanted = set(only) or set(KINDS)
    sources: dict[str, Iterator[Case]] = {}
    for kind, (maker, _) in KINDS.items():
        fits = plan.stream or kind not in _STREAMS
        if not plan.stream and kind == "coalesced":
            framing = plan.protocol.framing
            fits = framing is not None and framing.in_frame
        if plan.stateful and kind in _STATELESS:
            fits = False
        if kind in wanted and fits:
            sources[kind] = maker(plan, _chance(f"{seed} {kind}"))
    chance = _chance(str(seed))
    while sources:
        # Each class once for its share, in an order of its own each time.
        turn = [kind for kind in sources for _ in range(KINDS[kind][1])]
        chance.shuffle(turn)
        for kind in turn:
            source = sources.get(kind)
            if source is None:
                continue
            case = next(source, None)
            if case is None:
                del sources[kind]
            else:
                yield case


def _chance(seed: str) -> random.Random:
    return random.Random(seed)  # noqa: S311 - cases have to come again, not be secret
