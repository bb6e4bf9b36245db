"""
Torture a server: calibrate, play cases in batches, and look into what seems wrong.

Cases are played side by side, which is fast and tells little: so whatever looks wrong
is played again by itself, and only what shows again is a finding. When the server's
health fails, the guilty case is looked for among those since it was last seen to be
well, the newest first. One cause gives one finding: what has the same category and the
same place is not looked into again.
"""

from __future__ import annotations

import asyncio
import difflib
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import attrs

from protoserve.errors import DeclarationError
from protoserve.protocol import Protocol
from protoserve.serve import StartError
from protoserve.service import Service
from protoserve.testing.torturing import seeds as pool
from protoserve.testing.torturing.calibrating import Calibration, calibrate
from protoserve.testing.torturing.cases import Case
from protoserve.testing.torturing.engine import Doubt, Engine, UnwellError
from protoserve.testing.torturing.examining import MOST_ALIKE, Examiner, exception
from protoserve.testing.torturing.findings import Report
from protoserve.testing.torturing.judging import Suspicion
from protoserve.testing.torturing.making import KINDS, cases
from protoserve.testing.torturing.plans import Plan
from protoserve.testing.torturing.target import Child, Remote, Target
from protoserve.urls import Address

if TYPE_CHECKING:
    import ssl

__all__ = ["symptoms", "torture"]

_BATCH = 100
"""Cases between two looks at the server's health, memory and exceptions."""
_DRAWN = 6
"""Valid requests of each message that are drawn."""
_APPROACHES = 3
"""Ways to a state that are tried for each request."""
_DRAWS = 6
"""How often requests are drawn until the server answers one."""
_ROUNDS = 3
"""How often a server may end while it is looked at for the first time."""


def torture(
    target: Service | Protocol,
    url: str | None = None,
    *,
    budget: int = 2000,
    seed: int = 0,
    mode: str = "threads",
    transport: str = "tcp",
    deadline: float = 2.0,
    pid: int | None = None,
    tls: ssl.SSLContext | None = None,
    restart: Callable[[], object] | None = None,
    recorded: Iterable[bytes] = (),
    only: Iterable[str] = (),
    most: int | None = None,
    shrink: float = 8.0,
    progress: Callable[[Report], object] | None = None,
) -> Report:
    """
    Torture a server, and say what is wrong with it.

    Args:
        target: a service, which is served in a process of its own; or a protocol,
            for the server at `url`.
        url: where a server is that runs already.
        budget: how many cases are played.
        seed: the same one gives the same cases, if the server answers the same.
        mode: how the service is served.
        transport: over what the service is served.
        deadline: seconds within which a server has to answer.
        pid: the server's process, whose end and memory are looked at.
        tls: what the server at a ``tls://`` URL is trusted by.
        restart: brings the server at `url` back when it is gone; a number that it
            returns is the new process.
        recorded: frames that real clients have sent, without framing, to begin with.
        only: the classes of cases wanted; by default all.
        most: stop after so many findings.
        shrink: seconds that are spent on making the case of a finding smaller.
        progress: is called with what is known so far, several times a second.

    Returns:
        What was found; `Report.findings` is empty if nothing was.

    Raises:
        StartError: the server cannot be reached, or is none of this protocol.
        DeclarationError: an argument makes no sense.
    """
    for kind in only:
        if kind not in KINDS:
            close = difflib.get_close_matches(kind, KINDS, 1)
            hint = (
                f"did you mean {close[0]}?" if close else f"known: {', '.join(KINDS)}"
            )
            raise DeclarationError(f"there are no cases {kind!r}; {hint}")
    if pid is not None and not _is_alive(pid):
        raise StartError(f"there is no process {pid}")
    server = _server(target, url, mode, transport, pid, tls, restart)
    protocol = target.protocol if isinstance(target, Service) else target
    quiet = logging.getLogger("asyncio")
    level = quiet.level
    quiet.setLevel(logging.CRITICAL)
    try:
        with asyncio.Runner() as runner:
            stream = server.address.is_stream

            def draw(turn: int) -> list[pool.Seed]:
                return _valid(protocol, list(recorded), seed, turn, stream=stream)

            plan = Plan(protocol, stream, draw(0))
            run = _Run(
                protocol,
                server,
                runner,
                Report(protocol.name, str(server.address), seed),
                Engine(plan, server, deadline),
                progress,
                most,
                shrink,
                draw=draw,
            )
            return run.all(budget, lambda: cases(plan, seed, only))
    finally:
        quiet.setLevel(level)
        server.close()


def symptoms(
    protocol: Protocol,
    url: str,
    case: Case,
    *,
    probe: bytes = b"",
    deadline: float = 2.0,
    tls: ssl.SSLContext | None = None,
) -> list[str]:
    """
    Play one case against a server.

    Args:
        protocol: what is spoken.
        url: where.
        case: what to do.
        probe: a frame that the server answers, to look whether it is well.
        deadline: seconds within which a server has to answer.
        tls: what a ``tls://`` server is trusted by.

    Returns:
        What is wrong, as ``category: text``.
    """
    address = Address.parse(url)
    plan = Plan(protocol, address.is_stream, [])
    found = pool.recorded(protocol, [probe] if probe else [])
    plan.probe = found[0] if found else None
    engine = Engine(plan, Remote(address, tls), deadline)
    with asyncio.Runner() as runner:
        suspicions = runner.run(engine.alone(case))
    return list(dict.fromkeys(f"{s.category}: {s.text}" for s in suspicions))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _valid(
    protocol: Protocol, recorded: list[bytes], seed: int, turn: int, *, stream: bool
) -> list[pool.Seed]:
    """
    Give the valid requests to begin with.

    Args:
        protocol: what is spoken.
        recorded: what real clients have sent; it is there in turn 0.
        seed: what chance starts from.
        turn: how many draws there were before, whose requests nobody has answered.
        stream: whether they are for a stream.
    """
    found = [] if turn else pool.recorded(protocol, recorded)
    if recorded and not found and not turn:
        raise StartError(
            f"none of the {len(recorded)} recorded messages is a request of "
            f"{protocol.name}"
        )
    found += pool.drawn(
        protocol, _DRAWN, f"{seed} {turn}" if turn else seed, stream=stream
    )
    return pool.with_approaches(protocol, found, _APPROACHES)


def _server(
    target: Service | Protocol,
    url: str | None,
    mode: str,
    transport: str,
    pid: int | None,
    tls: ssl.SSLContext | None,
    restart: Callable[[], object] | None,
) -> Target:
    if isinstance(target, Service):
        if url is not None:
            raise DeclarationError("torture serves a service itself; leave url= out")
        return Child(target, mode, transport)
    if not isinstance(target, Protocol):
        raise DeclarationError(f"torture takes a Service or a Protocol, not {target!r}")
    if url is None:
        raise DeclarationError(f"torture of {target.name} needs the server's url=")
    address = Address.parse(url)
    if address.is_stream and target.framing is None:
        raise DeclarationError(
            f"{target.name} has no framing=, so it cannot be spoken at {address}; use "
            "udp:// or unixgram://"
        )
    if address.transport == "tls" and tls is None:
        import ssl

        tls = ssl.create_default_context()
    return Remote(address, tls, pid, restart)


@attrs.define
class _Run(Examiner):
    """
    One run.
    """

    draw: Callable[[int], list[pool.Seed]] = attrs.field(kw_only=True)
    """Draws valid requests, others in each turn."""

    def all(self, budget: int, source: Callable[[], Iterator[Case]]) -> Report:
        """
        Do all of it.

        Args:
            budget: how many cases are played.
            source: gives the cases, once the server is known.
        """
        self._calibrate()
        waiting = source()
        while self.report.cases < budget and not self.report.stopped:
            # A server that fails at once is told so at once.
            size = _BATCH if self.report.cases else _BATCH // 4
            size = min(size, budget - self.report.cases)
            batch = list(itertools.islice(waiting, size))
            if not batch:
                self.report.notes.append("there are no cases of these classes")
                break
            self._play(batch)
            self._tell()
        self._judge_memory()
        self.report.seconds = time.monotonic() - self._started
        self._tell()
        return self.report

    # Before ---------------------------------------------------------------------

    def _calibrate(self) -> None:
        engine, plan = self.engine, self.engine.plan
        try:
            wire = self.runner.run(engine.connect())
        except OSError as exc:
            reason = exc.strerror or str(exc) or "it takes too long"
            raise StartError(f"cannot reach {self.target.address}: {reason}") from None
        self.runner.run(wire.close())
        found = self._look()
        unanswered = plan.seeds
        for turn in range(1, _DRAWS):
            told = found.doubts or self.report.findings or self.report.stopped
            if plan.probe is not None or found.is_lost or told:
                break
            plan.seeds = self.draw(turn)
            found = self._look()
            plan.seeds += unanswered  # they are valid, and can be broken
            unanswered = plan.seeds
        for doubt in found.doubts:
            if not self.report.stopped:
                self._examine(doubt)
        if plan.probe is None and not self.report.findings:
            address = self.target.address
            if found.is_lost:
                raise StartError(f"cannot reach {address}: nobody listens there")
            raise StartError(
                f"{address} answers none of {len(plan.seeds)} valid requests of "
                f"{self.protocol.name} ({_list(found.unanswered)}); is it such a server?"
            )
        if plan.probe is not None and not plan.probe.approach:
            self.report.probe = plan.probe.frame()
        if found.unanswered:
            names = _list(found.unanswered)
            self.report.notes.append(f"not always answered when valid: {names}")
        if plan.lanes == 1:
            self.report.notes.append("it serves one connection at a time")

    def _look(self) -> Calibration:
        """
        See what the server makes of the plan's requests; leave out what ends it.
        """
        for _ in range(_ROUNDS):
            found = self.runner.run(calibrate(self.engine))
            self._tell_exceptions(())
            if not self._has_ended(found) or self.report.stopped:
                break
            self._survive(found)
        else:
            self.report.stopped = "it does not survive valid requests"
        return found

    def _has_ended(self, found: Calibration) -> bool:
        """
        Whether the server has not survived valid requests.
        """
        nobody = not self.target.address.is_stream and found.is_lost
        return bool(self.target.gone() or (found.lost and not nobody))

    def _survive(self, found: Calibration) -> None:
        """
        Find the valid requests that end the server, and leave them out.
        """
        gone = self.target.gone() or "the server is gone"
        plan = self.engine.plan
        plan.probe = None
        suspects = [case for _, case in (*found.silent, *found.lost)]
        if not self._recover():
            self._add(Suspicion("crash", gone, ("crash", "valid")), None, suspects[:4])
            self.report.stopped = gone
            return
        for seed, case in found.silent:
            if any(s.category == "crash" for s in self._alone(case)):
                plan.seeds.remove(seed)
                self._examine(Doubt(case, (), (Suspicion("crash", gone, ("crash",)),)))
            if self.report.stopped:
                return

    # Batches ----------------------------------------------------------------------

    def _play(self, batch: list[Case]) -> None:
        engine = self.engine
        doubts = self.runner.run(engine.batch(batch))
        trouble, suspects = engine.trouble, engine.suspects
        played = suspects if trouble is not None else batch
        self.report.cases += len(played)
        for case in played:
            kinds = self.report.by_kind
            kinds[case.kind] = kinds.get(case.kind, 0) + 1
        if trouble is not None:
            self._trouble(trouble, suspects)
        for doubt in doubts:
            if self.report.stopped:
                return
            self._examine(doubt)
        self._tell_exceptions(suspects)
        self.memory.sample(self.report.cases, self.target.memory())

    def _trouble(self, trouble: UnwellError, suspects: list[Case]) -> None:
        """
        The server is not well: find the case that did it, and bring the server back.
        """
        gone = self._gone()
        category = "crash" if gone else trouble.category
        text = gone or trouble.text
        newest = suspects[: -4 * self.engine.plan.lanes - 1 : -1]
        if not self._recover():
            cause = (category, newest[0].kind if newest else "")
            self._add(Suspicion(category, text, cause), None, newest)
            self.report.stopped = text
            return
        if self.report.count(category) >= MOST_ALIKE:
            self.report.more += 1
            return
        guilty = self._guilty(newest, suspects)
        if self.report.stopped:
            return
        if guilty is None:
            self.report.unconfirmed.append(f"{category}: {text}")
            return
        self._examine(Doubt(guilty, (), (Suspicion(category, text, (category,)),)))

    def _guilty(self, newest: Sequence[Case], suspects: Sequence[Case]) -> Case | None:
        """
        Find the case after which the server is not well.
        """
        for case in newest:
            found = self._alone(case)
            if any(s.category in ("crash", "hang") for s in found):
                return case
            if self.report.stopped:
                return None
        rest = list(suspects)
        while len(rest) > 1:
            half = rest[: len(rest) // 2]
            self.runner.run(self.engine.batch(half))
            if self.engine.trouble is not None:
                if not self._recover():
                    self.report.stopped = self.engine.trouble.text
                    return None
                rest = half
            else:
                rest = rest[len(rest) // 2 :]
        if rest and any(s.category in ("crash", "hang") for s in self._alone(rest[0])):
            return rest[0]
        return None

    def _tell_exceptions(self, suspects: Sequence[Case]) -> None:
        """
        Find the cases for what the handler has raised.
        """
        for text in self.target.failures():
            suspicion = exception(text)
            if suspicion.cause in self._known:
                continue
            guilty = self._raising(suspicion, list(suspects))
            if guilty is not None:
                self._examine(Doubt(guilty, (), (suspicion,)))
            if suspicion.cause not in self._known:
                self._add(suspicion, None, suspects[-4:])

    def _raising(self, suspicion: Suspicion, rest: list[Case]) -> Case | None:
        while len(rest) > 1:
            half = rest[: len(rest) // 2]
            self.runner.run(self.engine.batch(half))
            causes = {exception(text).cause for text in self.target.failures()}
            at = len(rest) // 2
            rest = half if suspicion.cause in causes else rest[at:]
        return rest[0] if rest else None

    def _judge_memory(self) -> None:
        text = self.memory.verdict()
        if text is not None:
            self._add(Suspicion("memory", text, ("memory",)), None, ())


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
