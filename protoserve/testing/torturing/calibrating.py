"""
Get to know a server before it is tortured: what it answers when nothing is wrong.

Each valid request is sent twice, on a connection of its own. What is answered both
times has to be answered later on, too; what is the same both times is what an answer
to the same request, broken, is compared with. Where the most requests of a kind are
answered and a few are answered by closing, those few are looked into: handlers fail at
values that are drawn first, too. Some protocols say "no" by an ordinary
message, so each request is also sent without its body: whoever gets the same answer to
that was refused before. One of the others becomes the probe by which the server's
health is looked at.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, TypeAlias

import attrs

from protoserve.codec.spans import spans
from protoserve.protocol import Direction, Protocol
from protoserve.session import Role, Session
from protoserve.testing.torturing.cases import Baseline, Case, Send, Settle, Step
from protoserve.testing.torturing.engine import Doubt, Engine
from protoserve.testing.torturing.judging import Suspicion, stable_fields
from protoserve.testing.torturing.plans import Plan
from protoserve.testing.torturing.seeds import Seed

__all__ = ["Calibration", "calibrate"]

_AT_A_TIME = 8
_LINGER = 0.02
"""Seconds in which a second answer to one request comes."""
_MOST_LANES = 8
_PATIENCE = 0.5
"""Seconds in which a server that answers at all does, at most."""
_SELDOM = 1 / 3
"""The part of a message's requests that are closed upon, up to which it is strange; a
server that refuses by closing does so more often."""


@attrs.define
class _Trial:
    """
    What came of a seed, sent once.
    """

    case: Case
    answers: list[bytes] = attrs.field(factory=list)
    allowed: bool = False
    """Whether it was allowed in the state that was reached."""
    closed: bool = False
    lost: str = ""
    """Why there is no connection."""
    suspicions: list[Suspicion] = attrs.field(factory=list)


_Fates: TypeAlias = dict[str, dict[str, _Trial | None]]
"""By message, and by what is in it: `None` if all was well, or what came."""


@attrs.define
class Calibration:
    """
    What was learnt, apart from the plan.
    """

    doubts: list[Doubt] = attrs.field(factory=list)
    lost: list[tuple[Seed, Case]] = attrs.field(factory=list)
    """Requests for which there was no connection."""
    silent: list[tuple[Seed, Case]] = attrs.field(factory=list)
    """Requests that got no answer."""
    is_lost: bool = False
    """Whether there was nobody at all."""
    unanswered: list[str] = attrs.field(factory=list)
    """Requests that are never answered."""


async def calibrate(engine: Engine) -> Calibration:
    """
    Fill in what the plan does not know yet.
    """
    plan = engine.plan
    found = Calibration()
    gate = asyncio.Semaphore(_AT_A_TIME)

    async def both(seed: Seed) -> tuple[_Trial, _Trial]:
        async with gate:
            first = await _try(engine, seed)
            again = bool(first.answers) and not first.lost
            return first, await _try(engine, seed) if again else first

    plan.known.clear()
    trials = await asyncio.gather(*map(both, plan.seeds))
    fates: _Fates = {}
    for seed, pair in zip(plan.seeds, trials, strict=True):
        first = pair[0]
        if first.lost:
            found.lost.append((seed, first.case))
        elif not first.answers:
            found.silent.append((seed, first.case))
        for trial in pair:
            if trial.suspicions and not trial.lost:
                doubt = Doubt(trial.case, (), tuple(trial.suspicions))
                found.doubts.append(doubt)
        baseline = _baseline(plan.protocol, *(trial.answers for trial in pair))
        usable = all(trial.allowed for trial in pair)
        if baseline is not None and usable:
            plan.known[seed] = baseline
        good = baseline is not None and not any(trial.closed for trial in pair)
        if usable:
            same = fates.setdefault(seed.name, {})
            text = repr(seed.message)
            same[text] = same.get(text) or (None if good else first)
    found.is_lost = len(found.lost) >= len(plan.seeds)
    await _unlearn_refusals(engine, gate)
    plan.kept = _kept(fates)
    found.doubts += _closed_upon(fates, plan.kept)
    names = {seed.name for seed in plan.known}
    found.unanswered = sorted({seed.name for seed in plan.seeds} - names)
    plan.probe = _probe(plan)
    if plan.probe is not None:
        plan.lanes = await _lanes(engine)
    return found


def _kept(fates: _Fates) -> frozenset[str]:
    """
    Name the messages that are answered, and closed upon seldom if ever.

    Args:
        fates: what came of the requests.
    """

    def is_kept(trials: Collection[_Trial | None]) -> bool:
        odd = [trial for trial in trials if trial is not None]
        closed = all(trial.closed and not trial.answers for trial in odd)
        return closed and len(odd) <= _SELDOM * len(trials)

    return frozenset(name for name, same in fates.items() if is_kept(same.values()))


def _closed_upon(fates: _Fates, kept: frozenset[str]) -> Iterator[Doubt]:
    """
    Give the requests that are closed upon, unlike the most of their kind.
    """
    for name in kept:
        for trial in fates[name].values():
            if trial is not None:
                text = f"the connection is closed instead of answering a valid {name}"
                suspicion = Suspicion("closed", text, ("closed", name))
                yield Doubt(attrs.evolve(trial.case, kept=kept), (), (suspicion,))


async def _unlearn_refusals(engine: Engine, gate: asyncio.Semaphore) -> None:
    """
    Find out which answers are what broken requests get, too.
    """
    plan = engine.plan

    async def refused(seed: Seed) -> dict[str, Any] | None:
        async with gate:
            trial = await _try(engine, seed, bodiless=True)
        answer = _read(plan.protocol, trial.answers[0]) if trial.answers else None
        if answer is None or trial.allowed:
            return None
        return stable_fields(plan.protocol, answer.header, answer.message)

    found = await asyncio.gather(*map(refused, plan.known))
    for (seed, known), answer in zip(list(plan.known.items()), found, strict=True):
        if answer is not None and all(
            answer.get(path) == value
            for path, value in known.stable.items()
            if path.startswith("header.")
        ):
            plan.known[seed] = attrs.evolve(known, error=True)


def _without_body(protocol: Protocol, frame: bytes) -> bytes:
    ends = (
        span.stop
        for span in spans(protocol, frame, Direction.REQUEST)
        if span.part == "header"
    )
    return frame[: max(ends, default=0)]


async def _try(engine: Engine, seed: Seed, *, bodiless: bool = False) -> _Trial:
    """
    Send one seed, by itself.
    """
    plan = engine.plan
    steps: list[Step] = []
    frames = []
    for each in (*seed.approach, seed):
        frames.append(each.frame(plan.keys.take()))
        if bodiless and each is seed:
            frames[-1] = _without_body(plan.protocol, frames[-1])
        steps += [Send(plan.wire(frames[-1])), Settle()]
    trial = _Trial(Case("valid", tuple(steps), seed.name))
    try:
        wire = await engine.connect()
    except OSError as exc:
        trial.lost = str(exc) or type(exc).__name__
        return trial
    conversation = wire.conversation
    try:
        for frame in frames:
            before = len(conversation.asks)
            wire.send(plan.wire(frame))
            if len(conversation.asks) == before:
                return trial
            ask = conversation.asks[-1]
            trial.allowed = ask.message is not None
            start = time.monotonic()
            patience = min(engine.deadline, _PATIENCE, engine.usual)
            if await wire.until(ask.is_answered, patience):
                # Whoever answers at all does so at about the same speed.
                seconds = time.monotonic() - start
                engine.usual = min(_PATIENCE, max(0.1, 20 * seconds))
        await wire.until(lambda: conversation.closed, _LINGER)
        trial.answers = list(conversation.asks[-1].answers)
        trial.closed = conversation.closed
        if not trial.answers:
            conversation.overdue()  # perhaps there is the beginning of one
        conversation.judge_strays()
        trial.suspicions = list(conversation.suspicions)
        if wire.refused:
            trial.lost = "the server is gone"
    finally:
        await wire.close()
    return trial


def _baseline(
    protocol: Protocol, first: Sequence[bytes], second: Sequence[bytes]
) -> Baseline | None:
    """
    Compare what was answered twice to the same.
    """
    if not first or not second:
        return None
    one, two = (_read(protocol, answers[0]) for answers in (first, second))
    if one is None or two is None or type(one.message) is not type(two.message):
        return None
    now = stable_fields(protocol, two.header, two.message)
    stable = {
        path: value
        for path, value in stable_fields(protocol, one.header, one.message).items()
        if now.get(path) == value
    }
    cls = type(one.message)
    count = len(first) if len(first) == len(second) else 0
    return Baseline(cls.__name__, stable, count, bool(cls.is_error))


def _read(protocol: Protocol, frame: bytes) -> Any:
    """
    Parse an answer once more; it may need a session that is as far.
    """
    try:
        session = Session(protocol, Role.CLIENT, stream=False)
        return protocol.parse(frame, Direction.RESPONSE, session=session)
    except Exception:
        return None


def _probe(plan: Plan) -> Seed | None:
    """
    Choose what the server's health is looked at by.
    """

    def dislike(seed: Seed) -> tuple[Any, ...]:
        known = plan.known[seed]
        kept = seed.name in plan.kept
        return (
            len(seed.approach),
            known.answers != 1,
            known.error,
            not kept,
            len(seed.frame()),
        )

    return min(plan.known, key=dislike, default=None)


async def _lanes(engine: Engine) -> int:
    """
    Find out how many connections are served at a time.
    """
    plan = engine.plan
    assert plan.probe is not None
    wires = []
    try:
        for _ in range(2 * _MOST_LANES):
            try:
                wires.append(await engine.connect())
            except OSError:
                break
        patient = attrs.evolve(engine, deadline=min(engine.deadline, _PATIENCE))
        probes = (patient.probe(wire, plan.probe) for wire in wires)
        answered = sum(await asyncio.gather(*probes))
    finally:
        for wire in wires:
            await wire.close()
    return max(1, min(_MOST_LANES, answered // 2))
