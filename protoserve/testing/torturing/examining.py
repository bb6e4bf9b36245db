"""
Look into what seems wrong: play it again, make it smaller, tell it once.

What was seen among many cases at a time is only a reason to look. A case shows a fault
if it does so when it is played by itself, perhaps with what was on its connection
before. Whatever the outcome, the server is well again afterwards, or the run is over.
"""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Callable, Iterable, Sequence

import attrs

from protoserve.protocol import Protocol
from protoserve.testing.torturing.cases import Case, Send, Settle
from protoserve.testing.torturing.engine import Doubt, Engine, UnwellError
from protoserve.testing.torturing.findings import Finding, Report
from protoserve.testing.torturing.judging import Suspicion
from protoserve.testing.torturing.memory import Memory
from protoserve.testing.torturing.minimise import minimised
from protoserve.testing.torturing.target import Target

__all__ = ["MOST_ALIKE", "Examiner", "exception"]

MOST_ALIKE = 3
"""Findings of one category; more are counted only."""
_TRIES = 2
"""Replays in which something has to show again."""
_MOST_LOOKS = 2
"""How often one cause is looked into, if it does not show again."""
_RECOVERY = 3.0
"""Seconds in which a server that went away may come back by itself."""
_DYING = 0.1
"""Seconds between a process's last sign of life and its end."""
_RESTARTS = 200

_SYMPTOMS = frozenset({"closed", "unanswered", "hang"})
"""What an exception looks like from outside."""


@attrs.define
class Examiner:
    """
    What a run knows, and how it looks into doubts.
    """

    protocol: Protocol
    target: Target
    runner: asyncio.Runner
    report: Report
    engine: Engine
    progress: Callable[[Report], object] | None
    most: int | None
    shrink: float
    memory: Memory = attrs.field(factory=Memory)
    _looks: collections.Counter[tuple[str, ...]] = attrs.field(
        factory=collections.Counter
    )
    _known: set[tuple[str, ...]] = attrs.field(factory=set)
    _restarts: int = 0
    _started: float = attrs.field(factory=time.monotonic)

    def _tell(self) -> None:
        self.report.seconds = time.monotonic() - self._started
        if self.progress is not None:
            self.progress(self.report)

    def _gone(self) -> str | None:
        """
        Look whether the process has ended; its connections are closed first.
        """
        if self.target.pid is None and self.target.gone() is None:
            return None
        deadline = time.monotonic() + _DYING
        while not (gone := self.target.gone()) and time.monotonic() < deadline:
            time.sleep(0.005)
        return gone

    def _recover(self) -> bool:
        """
        Bring the server back, or wait for it.
        """
        if self._restarts >= _RESTARTS:
            return False
        self._restarts += 1
        if self.target.restart():
            self.memory.forget()
        deadline = time.monotonic() + _RECOVERY
        while True:
            try:
                wire = self.runner.run(self.engine.fresh())
            except (UnwellError, OSError):
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.05)
            else:
                self.runner.run(wire.close())
                return True

    def _alone(self, case: Case) -> list[Suspicion]:
        """
        Play one case by itself; the server is well when this returns, if it can be.
        """
        found = self.runner.run(self.engine.alone(case))
        raised = [exception(text) for text in self.target.failures()]
        if raised:
            found = [s for s in found if s.category not in _SYMPTOMS]
        gone = self._gone() if found or self.engine.cut else self.target.gone()
        if gone:
            found = [s for s in found if s.category not in _SYMPTOMS | {"crash"}]
            found.append(Suspicion("crash", gone, ("crash", case.kind)))
        unwell = any(s.category in ("crash", "hang") for s in found)
        if unwell and not self._recover():
            self.report.stopped = next(
                s.text for s in found if s.category in ("crash", "hang")
            )
        return raised + found

    def _examine(self, doubt: Doubt) -> None:
        """
        Look into what seemed wrong, once for each cause.
        """
        seen = {s.category for s in doubt.suspicions}
        for suspicion in _worst_first(doubt.suspicions):
            key = (*suspicion.cause, doubt.case.kind)
            if suspicion.cause in self._known or self._looks[key] >= _MOST_LOOKS:
                continue
            if self.report.count(suspicion.category) >= MOST_ALIKE:
                self.report.more += 1
                continue
            self._looks[key] += 1
            if self._confirm(suspicion, doubt) or self.report.stopped:
                return
        if not any(map(self.report.count, seen)):
            text = f"{doubt.suspicions[0].category}: {doubt.suspicions[0].text}"
            self.report.unconfirmed.append(text)

    def _confirm(self, suspicion: Suspicion, doubt: Doubt) -> bool:
        """
        See whether it shows again; then make the case smaller and tell it.
        """
        candidates = [doubt.case] * _TRIES
        if doubt.history:
            candidates.append(_joined(doubt))
        for case in candidates:
            found = self._alone(case)
            same = self._same(suspicion, found)
            if same is not None:
                self._minimise(same, case)
                return True
            if self.report.stopped:
                self._add(suspicion, case, ())
                return True
        return False

    def _same(
        self, suspicion: Suspicion, found: Iterable[Suspicion]
    ) -> Suspicion | None:
        """
        Find what is the same; an exception explains what was seen from outside.
        """
        wanted = {suspicion.category}
        if suspicion.category in _SYMPTOMS:
            wanted |= {"exception", "crash", *_SYMPTOMS}
        return next((s for s in found if s.category in wanted), None)

    def _minimise(self, suspicion: Suspicion, case: Case) -> None:
        if suspicion.cause in self._known:
            return
        engine = self.engine
        patience = engine.deadline
        latest = [suspicion]

        def shows(smaller: Case) -> bool:
            if self.report.stopped:
                return False
            same = next(
                (s for s in self._alone(smaller) if s.category == suspicion.category),
                None,
            )
            if same is not None:
                latest[0] = same
            return same is not None

        engine.deadline = min(patience, 0.4)
        try:
            smallest = minimised(case, shows, self.shrink)
        finally:
            engine.deadline = patience
        self.report.stopped = ""
        data = b"".join(s.data for s in smallest.steps if isinstance(s, Send))
        due = frozenset(frame for frame in smallest.due if frame in data)
        self._add(latest[0], attrs.evolve(smallest, due=due), ())

    def _add(
        self, suspicion: Suspicion, case: Case | None, suspects: Sequence[Case]
    ) -> None:
        if suspicion.cause in self._known:
            return
        self._known.add(suspicion.cause)
        kind = case.kind if case else (suspects[0].kind if suspects else "valid")
        what = case.what if case else (suspects[0].what if suspects else "")
        self.report.findings.append(
            Finding(
                suspicion.category,
                kind,
                suspicion.text,
                what,
                suspicion.cause,
                case,
                tuple(suspects),
                suspicion.data,
            )
        )
        count = len(self.report.findings)
        if self.most is not None and count >= self.most and not self.report.stopped:
            self.report.stopped = f"after {count} findings, as asked"
        self._tell()


def exception(text: str) -> Suspicion:
    """
    Make a suspicion of an exception, as `Target.failures` tells it.
    """
    kind = text.partition(":")[0]
    _, found, where = text.rpartition(" (")
    where = where if found else ""
    return Suspicion(
        "exception", f"the handler raises {text}", ("exception", kind, where)
    )


_ORDER = ("exception", "crash", "hang")


def _worst_first(suspicions: Iterable[Suspicion]) -> list[Suspicion]:
    def rank(suspicion: Suspicion) -> int:
        category = suspicion.category
        return _ORDER.index(category) if category in _ORDER else len(_ORDER)

    return sorted(dict.fromkeys(suspicions), key=rank)


def _joined(doubt: Doubt) -> Case:
    """
    Make one case of all that was on a connection.
    """
    all_of_them = (*doubt.history, doubt.case)
    steps = [step for case in all_of_them for step in (*case.steps, Settle())]
    due = frozenset().union(*(case.due for case in all_of_them))
    return attrs.evolve(doubt.case, steps=tuple(steps), due=due)
