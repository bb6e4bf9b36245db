"""
Play cases against a server, many at a time, and look after its health.

A lane is one connection after the other. On a new connection the first thing is a
probe, a valid request that is known to be answered; after a case there is another one,
on the same connection if a right server has kept it, else on the next. So each case is
followed by a probe, and what a probe that fails has to do with which case is found out
afterwards, by playing them again. Nothing here decides what is a finding.
"""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Iterable
from math import inf

import attrs

from protoserve.testing.torturing.cases import Case, End, Pause, Send, Settle
from protoserve.testing.torturing.judging import Suspicion
from protoserve.testing.torturing.plans import Plan
from protoserve.testing.torturing.seeds import Seed
from protoserve.testing.torturing.target import Target
from protoserve.testing.torturing.wires import Wire

__all__ = ["Doubt", "Engine", "UnwellError"]

_FAREWELL = 0.1
"""Seconds in which a server may still answer to what ends in the middle."""
_CONNECTING = 2.0
"""Seconds that a connection may take, at least."""
_QUIET = 0.02
"""Seconds in which a broken frame is answered, where answers cannot be told apart."""
_MOST_USES = 50
"""Cases on one connection."""
_SLOW = 0.5
"""The part of the deadline beyond which an answer is slow."""


class UnwellError(Exception):
    """
    The server does not answer a probe on a new connection.
    """

    def __init__(self, category: str, text: str) -> None:
        super().__init__(category, text)
        self.category = category
        self.text = text


@attrs.frozen
class Doubt:
    """
    A case after which something looked wrong.
    """

    case: Case
    history: tuple[Case, ...]
    """What was on the same connection before."""
    suspicions: tuple[Suspicion, ...]


@attrs.define
class Engine:
    """
    Plays cases.

    Args:
        plan: what is known of the server.
        target: the server.
        deadline: seconds within which what is due has to come.
    """

    plan: Plan
    target: Target
    deadline: float
    usual: float = inf
    """Seconds that are enough for an answer, as far as is known."""
    played: int = 0
    trouble: UnwellError | None = None
    """Why a batch has ended early."""
    suspects: list[Case] = attrs.field(factory=list)
    """Cases since the server was last seen to be well, the newest last."""
    cut: bool = False
    """Whether the server has closed a connection of the case that was alone."""
    _alarm: bool = False

    async def connect(self) -> Wire:
        """
        Connect to the server.

        Raises:
            OSError: that failed.
        """
        target = self.target
        return await Wire.connect(
            self.plan.protocol,
            target.address,
            target.tls,
            max(self.deadline, _CONNECTING),
        )

    async def fresh(self) -> Wire:
        """
        Connect, and see that the server is well.

        Raises:
            UnwellError: it is not.
        """
        wire = await self._further()
        if self.plan.probe is None:
            return wire
        try:
            well = await self.probe(wire, self.plan.probe)
            if well and not self.plan.stateful:
                return wire
        except BaseException:
            await wire.close()
            raise
        await wire.close()
        if well:
            return await self._further()
        wire.conversation.judge_strays()
        for suspicion in wire.conversation.suspicions:
            raise UnwellError(suspicion.category, suspicion.text)
        if wire.refused or self.target.gone():
            raise UnwellError("crash", self.target.gone() or "the server is gone")
        if wire.conversation.closed:
            text = "a new connection is closed in place of answering a valid request"
        else:
            text = "a valid request on a new connection gets no answer"
        raise UnwellError("hang", text)

    async def probe(self, wire: Wire, seed: Seed) -> bool:
        """
        Send a valid request, and all that goes before it; say whether it is answered.
        """
        conversation = wire.conversation
        for each in (*seed.approach, seed):
            frame = each.frame(self.plan.keys.take())
            conversation.due.add(frame)
            before = len(conversation.asks)
            wire.send(self.plan.wire(frame))
            if len(conversation.asks) == before:
                return False
            ask = conversation.asks[-1]
            if ask.key is None:
                conversation.forget()
            if each in self.plan.known or each is seed:
                await wire.until(ask.is_answered, self.deadline)
                if not ask.answers:
                    return False
        return True

    async def play(self, case: Case, wire: Wire) -> list[Suspicion]:
        """
        Play one case.

        Args:
            case: what to do.
            wire: its first connection, fresh or used.

        Returns:
            What looks wrong.

        Raises:
            UnwellError: a further connection cannot be had.
        """
        wires = {0: wire}
        self._prepare(wire, case)
        try:
            await self._perform(case, wires)
            for each in wires.values():
                await self._conclude(case, each)
        finally:
            for on, each in wires.items():
                if on:
                    await each.close()
        self.played += 1
        return [s for each in wires.values() for s in each.conversation.suspicions]

    def _prepare(self, wire: Wire, case: Case) -> None:
        conversation = wire.conversation
        conversation.due = set(case.due)
        conversation.kept = case.kept
        conversation.baseline = case.baseline
        conversation.suspicions = []

    async def _perform(self, case: Case, wires: dict[int, Wire]) -> None:
        for step in case.steps:
            if self._alarm:
                return
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                continue
            wire = wires.get(step.on)
            if wire is None:
                wire = wires[step.on] = await self._further()
                self._prepare(wire, case)
            if isinstance(step, Send):
                wire.send(step.data)
            elif isinstance(step, End):
                wire.end()
            elif isinstance(step, Settle):
                await self._settle(wire)

    async def _settle(self, wire: Wire) -> None:
        conversation = wire.conversation
        if conversation.waiting:
            await wire.until(lambda: not conversation.waiting, self.deadline)
        elif (
            self.plan.stateful
            and conversation.asks
            and not conversation.asks[-1].answers
        ):
            # It may be refused in silence.
            await wire.until(conversation.asks[-1].is_answered, _QUIET)

    async def _further(self) -> Wire:
        try:
            return await self.connect()
        except TimeoutError:
            raise UnwellError("hang", "no connection is accepted any more") from None
        except OSError as exc:
            raise UnwellError("crash", f"the server is gone: {exc}") from None

    async def _conclude(self, case: Case, wire: Wire) -> None:
        """
        Wait for what is due, and look whether the connection still works.
        """
        conversation = wire.conversation
        start = _idle_time()
        missing = not await wire.until(lambda: not conversation.waiting, self.deadline)
        if self._alarm:
            return
        if conversation.ended:
            await wire.until(lambda: conversation.closed, _FAREWELL)
        elif not conversation.at_boundary:
            # A right server waits for more, or has given up.
            await wire.until(lambda: conversation.closed, _QUIET)
        elif self.plan.stateful and not self._is_free(self.plan.probe):
            if conversation.asks and not conversation.asks[-1].answers:
                await self._settle(wire)
        elif self.plan.probe is None:
            if conversation.asks:
                # Nothing tells when the server is done, but its usual speed.
                patience = min(self.usual, self.deadline, _FAREWELL)
                await wire.until(conversation.asks[-1].is_answered, patience)
        elif wire.alive:
            well = await self._again(case, wire, missing=missing)
            missing = missing and well
        if missing:
            conversation.overdue()
        self.cut = self.cut or (conversation.closed and not conversation.ended)
        conversation.judge_strays()
        conversation.judge_closing()
        seconds = _idle_time() - start
        if seconds > _SLOW * self.deadline and not conversation.suspicions:
            text = f"an answer took {seconds:.2f} s"
            conversation.suspect("slow", text, case.kind)

    async def _again(self, case: Case, wire: Wire, *, missing: bool) -> bool:
        """
        Probe the same connection; say whether that is as it should be.
        """
        conversation, probe = wire.conversation, self.plan.probe
        assert probe is not None
        untold = conversation.asks and conversation.asks[-1].key is None
        if untold and not conversation.asks[-1].answers:
            await wire.until(conversation.asks[-1].is_answered, _QUIET)
        if await self.probe(wire, probe):
            conversation.disturbed = conversation.ended
            return True
        if self._alarm:
            return True
        if wire.alive and (missing or not conversation.suspicions):
            if await self.probe(wire, probe):
                text = "a valid request right behind what was sent gets no answer"
                conversation.suspect("unanswered", text, "behind")
                conversation.disturbed = conversation.ended
                return True
            text = "the connection answers nothing more, and is not closed"
            conversation.suspect("hang", text, case.kind)
            return False
        if conversation.closed and not conversation.disturbed:
            conversation.judge_closing()
            if not conversation.suspicions and not missing:
                text = "the connection is closed after a valid request"
                if len(conversation.asks) > 1 and self._kept(wire):
                    conversation.suspect("closed", text, case.kind)
        return True

    def _kept(self, wire: Wire) -> bool:
        """
        Whether no connection was closed by what is valid so far.
        """
        names = {ask.name for ask in wire.conversation.asks}
        return names <= self.plan.kept

    def _is_free(self, seed: Seed | None) -> bool:
        """
        Whether a message is allowed in every state.
        """
        states = self.plan.protocol.states or {}
        cls = None if seed is None else type(seed.message)
        return cls is not None and not any(cls in moves for moves in states.values())

    # Many cases ----------------------------------------------------------------

    async def batch(self, cases: Iterable[Case]) -> list[Doubt]:
        """
        Play cases side by side; see that the server is well in the end.

        It ends early when the server is not (`trouble` says how).
        """
        self.trouble, self._alarm = None, False
        self.suspects = []
        # Those that take their time first, so that nobody waits for them in the end.
        waiting = collections.deque(sorted(cases, key=_seconds, reverse=True))
        doubts: list[Doubt] = []
        lanes = max(1, min(self.plan.lanes, len(waiting)))
        await asyncio.gather(*(self._lane(waiting, doubts) for _ in range(lanes)))
        if self.trouble is None:
            try:
                wire = await self.fresh()
                await wire.close()
            except UnwellError as trouble:
                self.trouble = trouble
        return doubts

    async def _lane(
        self, waiting: collections.deque[Case], doubts: list[Doubt]
    ) -> None:
        wire: Wire | None = None
        try:
            while waiting and not self._alarm:
                if wire is None:
                    wire = await self.fresh()
                    continue  # meanwhile others may have taken the last case
                case = waiting.popleft()
                self.suspects.append(case)
                history = tuple(wire.history)
                found = await self.play(case, wire)
                wire.history.append(case)
                if found and not self._alarm:
                    doubts.append(Doubt(case, history, tuple(found)))
                if found or not self._reusable(wire):
                    await wire.close()
                    wire = None
        except UnwellError as trouble:
            self._raise_alarm(trouble)
        finally:
            if wire is not None:
                await wire.close()

    def _raise_alarm(self, trouble: UnwellError) -> None:
        """
        Let all lanes end; the first to see it knows best.
        """
        if self.trouble is None:
            self.trouble = trouble
        self._alarm = True

    def _reusable(self, wire: Wire) -> bool:
        return (
            wire.alive
            and wire.conversation.at_boundary
            and not self.plan.stateful
            and not wire.conversation.disturbed
            and len(wire.history) < _MOST_USES
        )

    async def alone(self, case: Case) -> list[Suspicion]:
        """
        Play one case by itself, and see how the server is afterwards.
        """
        self._alarm = self.cut = False
        found: list[Suspicion] = []
        wire: Wire | None = None
        try:
            wire = await self.fresh()
            found += await self.play(case, wire)
        except UnwellError as trouble:
            found.append(_as_suspicion(trouble, case))
        finally:
            if wire is not None:
                await wire.close()
        if any(s.category == "crash" for s in found):
            return found
        try:
            await (await self.fresh()).close()
        except UnwellError as trouble:
            found.append(_as_suspicion(trouble, case))
        return found


def _as_suspicion(trouble: UnwellError, case: Case) -> Suspicion:
    return Suspicion(trouble.category, trouble.text, (trouble.category, case.kind))


def _seconds(case: Case) -> float:
    return sum(step.seconds for step in case.steps if isinstance(step, Pause))


def _idle_time() -> float:
    """
    Give a clock that stands still while this process itself is busy.
    """
    return time.monotonic() - time.process_time()
