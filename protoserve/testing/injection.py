"""
Faults inflicted on messages, without any I/O.

A `FaultPlan` says what goes wrong with a protocol's messages; each direction of each
connection gets an `Injector` of its own. Messages go in as the bytes of the wire, with
their frames; out come `Step` values, which say what to write and when. Whoever does the
I/O reads the time from the clock that he has given.

Chance comes from one generator for each direction of each connection, seeded by the
plan's seed and their numbers, and is drawn once a message whatever the time is: the
same messages meet the same faults. On a stream nothing overtakes what was sent before,
but for a fault that says so; datagrams have ways of their own.

What is held back stays below a bound only if the reader heeds `Injector.full`.
"""

from __future__ import annotations

import contextlib
import heapq
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import attrs

from protoserve.errors import ProtoserveError, RemoteProtocolError
from protoserve.framing.base import Framing
from protoserve.protocol import Direction, Parsed, Protocol
from protoserve.session import Role, Session
from protoserve.testing._inflict import INFLICT, End, Fate
from protoserve.testing.faults import KINDS, Fault, check_faults

__all__ = ["End", "FaultPlan", "Injector", "Step"]

_MOST_HELD = 256 * 1024
"""Bytes that may wait in one direction before no more should be read."""
_AT_ONCE = 256
"""Steps after which others have their turn: a message may be a million single bytes."""
_LARGEST_PIECE = 64 * 1024
"""Bytes that messages are joined up to."""


@attrs.frozen
class Step:
    """
    What is to be done now.
    """

    data: bytes = b""
    """What is to be written, in one piece; a datagram."""
    end: End | None = None
    """What follows it."""


def _as_faults(faults: Iterable[str | Fault]) -> tuple[Fault, ...]:
    return tuple(
        Fault.parse(fault) if isinstance(fault, str) else fault for fault in faults
    )


@attrs.frozen(eq=False)
class FaultPlan:
    """
    What goes wrong with a protocol's messages.

    Args:
        protocol: what is spoken.
        faults: what is to go wrong; texts are read by `Fault.parse`.
        seed: what chance starts from.
        directions: which way the messages go that it goes wrong with.
        streams: whether anything is spoken over streams; what happens to streams only
            is refused where nothing is.

    Raises:
        FaultError: a fault is written wrongly, or cannot happen.
    """

    protocol: Protocol
    faults: tuple[Fault, ...] = attrs.field(converter=_as_faults)
    seed: int = attrs.field(default=0, kw_only=True)
    directions: Sequence[Direction] = attrs.field(
        default=(Direction.RESPONSE,), kw_only=True
    )
    streams: bool = attrs.field(default=True, kw_only=True)
    counts: Counter[str] = attrs.field(factory=Counter, init=False)
    """How often each kind of fault has happened, over all connections."""
    _checked: tuple[Fault, ...] = attrs.field(init=False)

    @_checked.default
    def _check(self) -> tuple[Fault, ...]:
        return check_faults(
            self.faults, self.protocol, self.directions, streams=self.streams
        )

    def injector(
        self,
        connection: int,
        direction: Direction,
        *,
        stream: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> Injector:
        """
        Make what inflicts the faults on one direction of a connection.

        Args:
            connection: its number, from 0; with datagrams the peer's.
            direction: which way the messages go.
            stream: whether it is a stream.
            clock: gives the time in seconds.
        """
        faults = self._checked if direction in self.directions else ()
        return Injector(
            self.protocol,
            direction,
            tuple(f for f in faults if stream or not KINDS[f.kind].streams_only),
            random.Random(f"{self.seed}/{connection}/{direction.value}"),  # noqa: S311 - repeatable
            stream=stream,
            clock=clock,
            counts=self.counts,
        )


@attrs.define(eq=False)
class _Item:
    """
    What waits for its time.
    """

    data: bytes
    since: float = 0.0
    gap: float | None = None
    end: End | None = None
    written: int = 0


@attrs.define(eq=False)
class Injector:
    """
    Inflicts faults on one direction of a connection; made by `FaultPlan.injector`.
    """

    protocol: Protocol
    direction: Direction
    faults: tuple[Fault, ...]
    source: random.Random
    stream: bool = attrs.field(kw_only=True)
    clock: Callable[[], float] = attrs.field(kw_only=True)
    counts: Counter[str] = attrs.field(kw_only=True)
    pending: int = attrs.field(default=0, init=False)
    """How many bytes wait."""
    _queue: list[tuple[float, int, _Item]] = attrs.field(factory=list, init=False)
    _number: int = attrs.field(default=0, init=False)
    _last: float = attrs.field(default=float("-inf"), init=False)
    """When the last of what is in the queue will have been sent, on a stream."""
    _late: tuple[float, _Item] | None = attrs.field(default=None, init=False)
    """What lets the next message overtake it, and until when it waits for that."""
    _joined: tuple[float, bytes] | None = attrs.field(default=None, init=False)
    """What waits for the next message to come along, and until when."""
    _ended: bool = attrs.field(default=False, init=False)
    session: Session = attrs.field(init=False)
    """What ``this._.session`` is to the fields; it knows nothing of what was said."""

    @session.default
    def _make_session(self) -> Session:
        role = Role.SERVER if self.direction is Direction.REQUEST else Role.CLIENT
        return Session(self.protocol, role, stream=False)

    @property
    def holds_back(self) -> bool:
        """
        Whether a message lets the next one overtake it.
        """
        return self._late is not None

    @property
    def full(self) -> bool:
        """
        Whether so much waits that no more should be read.
        """
        return self.pending >= _MOST_HELD

    def feed(self, data: bytes, frames: tuple[bytes, ...] = ()) -> None:
        """
        Take a message.

        Args:
            data: its bytes on the wire.
            frames: the frame that they are; a datagram may be several. Empty: what
                they mean is not known.
        """
        if self._ended:
            return
        self._release(self.clock())
        fate = Fate(data, frames, self._parsed(frames))
        names = {type(parsed.message).__name__ for parsed in fate.parsed}
        for fault in self.faults:
            if fault.only and names.isdisjoint(fault.only):
                continue
            if self.source.random() < fault.share:
                with contextlib.suppress(ProtoserveError):  # it cannot be done to this
                    if INFLICT[fault.kind](self, fate, fault):
                        self.counts[fault.kind] += 1
        if not fate.lost:
            self._send(fate)

    def end(self) -> None:
        """
        Take note that there are no more messages.
        """
        if self._ended:
            return
        self._part()
        self._push(_Item(b"", end=End.EOF), self.clock())
        self._ended = True

    def due(self) -> list[Step]:
        """
        Give what is to be done by now, in this order; what is too much at once waits
        for the next call.
        """
        now = self.clock()
        self._release(now)
        steps: list[Step] = []
        while self._queue and self._queue[0][0] <= now and len(steps) < _AT_ONCE:
            _, number, item = heapq.heappop(self._queue)
            size = len(item.data)
            if item.gap is None or item.written + 1 >= size:
                rest = item.data[item.written :]
                steps.append(Step(rest, item.end))
                self.pending -= len(rest)
                continue
            steps.append(Step(item.data[item.written : item.written + 1]))
            self.pending -= 1
            item.written += 1
            at = item.since + item.written * item.gap
            heapq.heappush(self._queue, (at, number, item))
        return steps

    def next_at(self) -> float | None:
        """
        Say when something will be due; `None`: not before something is fed.
        """
        moments = [self._queue[0][0]] if self._queue else []
        moments += [held[0] for held in (self._late, self._joined) if held is not None]
        return min(moments, default=None)

    # What becomes of a message ---------------------------------------------

    def _parsed(self, frames: tuple[bytes, ...]) -> tuple[Parsed, ...]:
        if not any(fault.only or KINDS[fault.kind].parses for fault in self.faults):
            return ()
        found = []
        for frame in frames:
            with contextlib.suppress(RemoteProtocolError):
                found.append(
                    self.protocol.parse(frame, self.direction, session=self.session)
                )
        return tuple(found)

    def encode(self, framing: Framing | None, frame: bytes) -> bytes:
        """
        Make a frame ready for the wire.
        """
        if framing is None:
            return frame
        return framing.encode(frame) if self.stream else framing.pack(frame)

    def _send(self, fate: Fate) -> None:
        now = self.clock()
        data = fate.data * fate.copies if self.stream else fate.data
        if self._joined is not None:
            until, before = self._joined
            self._joined = None
            self.pending -= len(before)
            data = before + data
        else:
            until = now + (fate.joined or 0.0)
        if fate.joined is not None and not fate.end and len(data) < _LARGEST_PIECE:
            self._joined = until, data
            self.pending += len(data)
            return
        item = _Item(data, gap=fate.gap, end=fate.end)
        if fate.late is not None and self._late is None and not fate.end:
            self._late = now + fate.late, item
            self.pending += len(data)
            return
        for _ in range(1 if self.stream else fate.copies):
            self._push(attrs.evolve(item), now + fate.delay)
        if self._late is not None:
            self._overtaken(now + fate.delay)
        self._ended = fate.end is not None

    def _overtaken(self, at: float) -> None:
        assert self._late is not None
        item = self._late[1]
        self._late = None
        self.pending -= len(item.data)
        self._push(item, at)

    def _push(self, item: _Item, at: float) -> None:
        at = item.since = max(at, self._last) if self.stream else at
        heapq.heappush(self._queue, (at, self._number, item))
        self._number += 1
        self.pending += len(item.data)
        self._last = at + max(0, len(item.data) - 1) * (item.gap or 0.0)

    def _release(self, now: float) -> None:
        """
        Let go of what has waited long enough for a next message.
        """
        if self._joined is not None and self._joined[0] <= now:
            at, data = self._joined
            self._joined = None
            self.pending -= len(data)
            self._push(_Item(data), at)
        if self._late is not None and self._late[0] <= now:
            self._overtaken(self._late[0])

    def _part(self) -> None:
        """
        Let go of all that waits for a next message: there will be none.
        """
        now = self.clock()
        if self._joined is not None:
            self._joined = now, self._joined[1]
        if self._late is not None:
            self._late = now, self._late[1]
        self._release(now)
