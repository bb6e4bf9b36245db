"""
What must hold for every input, whatever it is.

- Nothing but `MalformedMessageError` and `UnknownMessageError` leaves a parse,
  and nothing at all leaves a session.
- No frame, and no step of a session, takes longer than 50 ms of processor time.
- What was parsed builds again, or is refused with `InvalidMessageError`; what it
  builds to means the same.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import pathlib
import random
import statistics
import time
import traceback
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import attrs

from protoserve import (
    Datagram,
    Direction,
    InvalidMessageError,
    MalformedMessageError,
    Protocol,
    Role,
    Session,
    UnknownMessageError,
)
from protoserve.events import NEED_DATA, StreamBroken

SLOW = 0.050
"""Seconds of processor time that no input may take."""

_NOTABLE = SLOW / 10
"""Seconds from which a new record is measured again, as it may be the machine's."""

_RUNS = 5


@attrs.frozen
class Finding:
    """
    One input that did what it may not.
    """

    protocol: str
    direction: str
    transport: str
    """``frame`` or ``stream``."""
    kind: str
    text: str
    data: bytes = attrs.field(repr=False)

    @property
    def place(self) -> str:
        """
        What findings of one cause have in common.
        """
        return f"{self.protocol} {self.direction} {self.transport} {self.kind}"

    def save(self, folder: pathlib.Path) -> pathlib.Path:
        """
        Write it where it can be replayed from.
        """
        digest = hashlib.sha256(self.data).hexdigest()[:12]
        name = f"{self.direction}-{self.transport}-{self.kind}-{digest}.hex"
        path = folder / self.protocol / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"# {line}" for line in self.text.splitlines()]
        hexed = self.data.hex()
        lines += [hexed[i : i + 64] for i in range(0, len(hexed), 64)]
        path.write_text("\n".join(lines) + "\n")
        return path


def load(path: pathlib.Path) -> tuple[Direction, str, bytes]:
    """
    Read a finding's direction, transport and bytes.
    """
    direction, transport, *_ = path.name.split("-")
    lines = path.read_text().splitlines()
    hexed = "".join(line for line in lines if not line.startswith("#"))
    return Direction(direction), transport, bytes.fromhex(hexed)


@attrs.define
class Judge:
    """
    Judges inputs for one direction of a protocol.
    """

    protocol: Protocol
    direction: Direction
    accepted: int = 0
    """Inputs that were messages."""
    slowest: float = 0.0
    """Processor time of the slowest input, in seconds."""

    @property
    def has_streams(self) -> bool:
        """
        Whether the protocol can be spoken over a stream.
        """
        framing = self.protocol.framing
        return framing is not None and not isinstance(framing, Datagram)

    def frame(self, data: bytes) -> Finding | None:
        """
        Judge one frame.
        """
        parsed, finding = self._timed("frame", data, lambda: self._parse(data))
        if finding is not None or parsed is None:
            return finding
        self.accepted += 1
        try:
            problem = self._rebuilt(parsed)
        except Exception as exc:
            return self._finding("frame", _kind(exc), _text(exc), data)
        if problem is not None:
            return self._finding("frame", "unstable", problem, data)
        return None

    def stream(self, data: bytes, chance: random.Random) -> Finding | None:
        """
        Judge bytes of a stream, split at random.
        """
        cuts = sorted(
            chance.randrange(len(data) + 1) for _ in range(chance.randrange(6))
        )
        places = [0, *cuts, len(data)]
        pieces = [data[a:b] for a, b in pairwise(places)]
        _, finding = self._timed("stream", data, lambda: self._converse(pieces))
        return finding

    def _parse(self, data: bytes) -> tuple[Any, float]:
        start = time.thread_time()
        parsed = None
        with contextlib.suppress(MalformedMessageError, UnknownMessageError):
            parsed = self.protocol.parse(data, self.direction)
        return parsed, time.thread_time() - start

    def _converse(self, pieces: list[bytes]) -> tuple[None, float]:
        """
        Let a session receive something; the time is that of its slowest step.

        A stream may hold many thousand frames, which take what they take.
        """
        role = Role.SERVER if self.direction is Direction.REQUEST else Role.CLIENT
        session = Session(self.protocol, role, clock=lambda: 0.0)
        steps = [partial(session.receive_data, piece) for piece in pieces]
        slowest = 0.0
        event: Any = None
        for step in (*steps, session.receive_eof):
            slowest = max(slowest, _seconds(step)[1])
            while event is not NEED_DATA:
                event, taken = _seconds(session.next_event)
                slowest = max(slowest, taken)
                if isinstance(event, StreamBroken):
                    return None, slowest
            event = None
        return None, slowest

    def _rebuilt(self, parsed: Any) -> str | None:
        """
        Build a message again, and say what is wrong with the result.
        """
        protocol, direction = self.protocol, self.direction
        try:
            built = protocol.build(parsed.message, direction, header=parsed.header)
        except InvalidMessageError:
            return None
        again = protocol.parse(built, direction)
        if again == parsed or repr(again) == repr(parsed):  # NaN is not itself
            return None
        return f"{parsed!r}\nbuilds to {built.hex()}, which means\n{again!r}"

    def _timed(
        self, transport: str, data: bytes, work: Callable[[], tuple[Any, float]]
    ) -> tuple[Any, Finding | None]:
        try:
            result, taken = work()
        except Exception as exc:
            return None, self._finding(transport, _kind(exc), _text(exc), data)
        if taken > max(self.slowest, _NOTABLE):
            taken = _measured(work)
        self.slowest = max(self.slowest, taken)
        if taken > SLOW:
            text = f"{taken * 1000:.0f} ms, median of {_RUNS}; {len(data)} bytes"
            return None, self._finding(transport, "slow", text, data)
        return result, None

    def _finding(self, transport: str, kind: str, text: str, data: bytes) -> Finding:
        name = self.protocol.name
        return Finding(name, self.direction.value, transport, kind, text, data)


def _seconds(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.thread_time()
    result = work()
    return result, time.thread_time() - start


def _measured(work: Callable[[], tuple[Any, float]]) -> float:
    """
    Measure again, without the collector and without what only happens once.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    times = []
    try:
        for _ in range(_RUNS):
            gc.collect()  # what one run leaves behind is not to pile up
            times.append(work()[1])
        return statistics.median(times)
    finally:
        if was_enabled:
            gc.enable()


def _kind(exc: Exception) -> str:
    return type(exc).__name__


def _text(exc: Exception) -> str:
    return "".join(traceback.format_exception(exc)[-6:])
