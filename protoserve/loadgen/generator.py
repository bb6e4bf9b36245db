"""
The generator: lanes, the time at which requests are due, and the phases of a run.

It warms up, measures, and then waits for what is outstanding. A lane that ends is
opened anew, ever more slowly while that fails; connecting, which may wait, is done in
other threads. While requests are due in less than a millisecond it looks at the clock
without a pause, since no wait of the system's is as exact.
"""

from __future__ import annotations

import contextlib
import gc
import selectors
import socket
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any

import attrs

from protoserve.client._connecting import opened, target_of
from protoserve.errors import DeclarationError, ProtoserveError, RemoteProtocolError
from protoserve.loadgen.figures import Figures, Second, percentile
from protoserve.loadgen.lanes import KeyedLane, Lane
from protoserve.loadgen.requests import Answers, Requests
from protoserve.protocol import Protocol
from protoserve.urls import Address

if TYPE_CHECKING:
    import ssl

__all__ = ["Generator", "Load", "LoadError", "run_load"]

_TICK = 0.1
"""Seconds between two looks at what has waited too long."""
_EXACT = 0.001
"""Seconds below which no wait of the system's is exact enough."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
"""Seconds until a lane is opened anew."""
_CONNECTING = 16
"""Connections that are made at a time."""
_RECEIVE_BUFFER = 1 << 20


class LoadError(ProtoserveError):
    """
    No load can be put on the server.
    """


def _positive(_instance: Any, attribute: Any, value: Any) -> None:
    if value is not None and not 0 < value < inf:
        raise DeclarationError(
            f"{attribute.name}: expected a number above 0, not {value!r}"
        )


@attrs.frozen(kw_only=True)
class Load:
    """
    What load is put on a server.
    """

    protocol: Protocol
    url: str
    requests: Requests
    connections: int = attrs.field(default=8, validator=_positive)
    """How many there are; for datagrams as many sockets."""
    pipeline: int = attrs.field(default=1, validator=_positive)
    """How many requests wait for their answer on each, at most."""
    rate: float | None = attrs.field(default=None, validator=_positive)
    """Requests a second; `None`: as many as are answered, a closed loop."""
    duration: float = attrs.field(default=10.0, validator=_positive)
    """Seconds that are measured."""
    warm_up: float = 1.0
    """Seconds before, that are not."""
    timeout: float = attrs.field(default=2.0, validator=_positive)
    """Seconds after which a request is given up, or a connection not made."""
    tls: ssl.SSLContext | None = None
    """What servers at ``tls://`` are checked against, if not the system's roots."""

    @property
    def depth(self) -> int:
        """
        How many requests can wait on each connection.
        """
        if self.requests.keys is not None:
            return min(self.pipeline, len(self.requests.frames))
        return self.pipeline if Address.parse(self.url).is_stream else 1


def run_load(
    load: Load, progress: Callable[[Second | None], object] | None = None
) -> Figures:
    """
    Put load on a server and measure.

    Ctrl-C ends the measuring early.

    Args:
        load: what load.
        progress: is told now and then how it goes; `None` while it warms up.

    Raises:
        LoadError: there is no connection to be had, not even one.
        DeclarationError: the protocol cannot be spoken there.
    """
    generator = Generator(load, progress)
    collects = gc.isenabled()
    gc.collect()
    gc.disable()  # nothing here is in a cycle, and its pauses would be measured
    try:
        return generator.run()
    finally:
        generator.close()
        if collects:
            gc.enable()


@attrs.define(eq=False)
class _Slot:
    """
    A place for a lane, and when it is to be filled again.
    """

    first: int
    """Where in the cycle of requests its lane begins."""
    lane: Lane | None = None
    coming: Future[Any] | None = None
    due: float = 0.0
    pause: float = _FIRST_PAUSE


class Generator:
    """
    One run of a load.
    """

    def __init__(
        self, load: Load, progress: Callable[[Second | None], object] | None
    ) -> None:
        self.load = load
        self.protocol = load.protocol
        self.requests = load.requests
        self._target = target_of(load.protocol, load.url, load.tls)
        self.stream = self._target.stream
        self.tls = self._target.tls
        self.answers = Answers(load.protocol, stream=self.stream)
        self.figures = Figures()
        self.since = 0.0
        """From when on requests are measured."""
        self._progress = progress
        self._depth = load.depth
        self._selector = selectors.DefaultSelector()
        self._pool = ThreadPoolExecutor(_CONNECTING, "connecting")
        spread = len(load.requests.frames) / load.connections
        self._slots = [_Slot(int(i * spread)) for i in range(load.connections)]
        self._lanes: deque[Lane] = deque()
        """Those that are open; in an open loop, the next to be used first."""
        self._begun = 0.0
        self._arrivals = 0
        """In an open loop: how many requests were sent."""
        self._sending = True
        self._tick_at = self._mark_at = 0.0
        self._pace = min(1.0, load.duration / 20)
        """Seconds between two marks."""
        self._marked = Figures()
        """What was measured up to the last mark; as `late`, what went wrong."""

    # The phases ------------------------------------------------------------

    def run(self) -> Figures:
        """
        Warm up, measure, and wait for the last answers.
        """
        load = self.load
        self._open_first()
        self._begun = now = perf_counter()
        try:
            self._warm_up(now + load.warm_up)
            self._measure(perf_counter())
            self._converse(self.since + load.duration)
        except KeyboardInterrupt:
            if not self.since:
                self._measure(perf_counter())
        ended = perf_counter()
        if load.rate is not None:
            ended = min(ended, self.since + load.duration)
            self._send_due(ended)  # what became due while others were looked after
        self._sending = False
        self._mark(ended)
        with contextlib.suppress(KeyboardInterrupt):
            self._converse(ended + load.timeout)
        return self._sum_up(ended)

    def _warm_up(self, until: float) -> None:
        if self._progress is not None:
            self._progress(None)
        for lane in self._lanes:
            self._fill(lane)
        self._mark_at = inf
        self._converse(until)

    def _measure(self, now: float) -> None:
        self.figures, self._marked = Figures(), Figures()
        if self.load.rate is not None:
            # What was due before and could not be sent would hold up the rest.
            due = int((now - self._begun) * self.load.rate) + 1
            self._arrivals = max(self._arrivals, due)
        self.since = now
        self._mark_at = now + self._pace

    def _sum_up(self, ended: float) -> Figures:
        figures, load = self.figures, self.load
        for lane in self._lanes:
            figures.errors["timeout"] += lane.lose()
        figures.errors = +figures.errors
        figures.seconds = ended - self.since
        if load.rate is not None:
            before = int((self.since - self._begun) * load.rate)
            due = int((ended - self._begun) * load.rate)
            figures.unsent = max(0, due - max(self._arrivals, before))
        self._add_times()
        figures.times = self._marked.times
        return figures

    def close(self) -> None:
        """
        Close everything.
        """
        for lane in self._lanes:
            lane.sock.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for slot in self._slots:
            if slot.coming is not None and not slot.coming.cancelled():
                with contextlib.suppress(Exception):
                    slot.coming.result().close()
        self._selector.close()

    # Sending and receiving -------------------------------------------------

    def _converse(self, until: float) -> None:
        """
        Send and receive up to a time; when nothing is sent, up to the last answer.
        """
        select = self._selector.select
        is_open = self.load.rate is not None
        while (now := perf_counter()) < until:
            if now >= self._tick_at:
                self._tick(now)
            wait = min(until, self._tick_at) - now
            if is_open and self._sending:
                wait = _inexact(min(wait, self._send_due(now)))
            elif not self._sending and not any(x.outstanding for x in self._lanes):
                return
            for key, mask in select(wait):
                lane: Lane = key.data
                if mask & selectors.EVENT_WRITE and not lane.ended:
                    self._send_rest(lane)
                if mask & selectors.EVENT_READ and not lane.ended:
                    lane.receive()
                if not is_open:
                    self._fill(lane)

    def _fill(self, lane: Lane) -> None:
        """
        In a closed loop: send as much as a lane may.
        """
        if self._sending and self.load.rate is None and not lane.unsent:
            room = self._depth - lane.outstanding
            if room > 0 and not lane.ended:
                now = perf_counter()
                lane.send(((now, now),) * room)

    def _send_due(self, now: float) -> float:
        """
        Send what is due, as far as there is room; say in how many seconds more is.
        """
        rate, begun, lanes = self.load.rate, self._begun, self._lanes
        assert rate is not None
        due = int((now - begun) * rate) + 1 - self._arrivals
        share = -(-due // max(1, len(lanes)))
        for _ in range(len(lanes)):
            if due <= 0:
                break
            lane = lanes[0]
            lanes.rotate(-1)
            room = 0 if lane.unsent else self._depth - lane.outstanding
            count = min(room, share, due)
            if count > 0:
                first = self._arrivals
                self._arrivals += count
                due -= count
                lane.send(
                    [(begun + n / rate, now) for n in range(first, first + count)]
                )
        if due > 0:
            return _TICK  # there is room when an answer comes
        return begun + self._arrivals / rate - perf_counter()

    def await_room(self, lane: Lane) -> None:
        """
        Be told by a lane that its socket did not take all.
        """
        both = selectors.EVENT_READ | selectors.EVENT_WRITE
        self._selector.modify(lane.sock, both, lane)

    def _send_rest(self, lane: Lane) -> None:
        lane.send_rest()
        if not lane.unsent and not lane.ended:
            self._selector.modify(lane.sock, selectors.EVENT_READ, lane)

    # Now and then ----------------------------------------------------------

    def _tick(self, now: float) -> None:
        self._tick_at = now + _TICK
        for lane in list(self._lanes):
            lane.give_up(now - self.load.timeout)
            self._fill(lane)
        for slot in self._slots:
            if slot.lane is None:
                self._reopen(slot, now)
        if now >= self._mark_at and self._sending:
            self._mark(now)

    def _mark(self, now: float) -> None:
        """
        Take down how it goes.
        """
        self._mark_at = now + self._pace
        figures, before = self.figures, self._marked
        length = now - self.since - before.seconds
        if length <= 0:
            return
        errors = sum(figures.errors.values())
        second = Second(
            at=now - self.since,
            length=length,
            sent=figures.sent - before.sent,
            answered=figures.answered - before.answered,
            errors=errors - before.late,
            p50=percentile(figures.times, 50),
            p99=percentile(figures.times, 99),
        )
        self._add_times()
        before.seconds, before.sent = now - self.since, figures.sent
        before.answered, before.late = figures.answered, errors
        figures.course.append(second)
        if self._progress is not None:
            self._progress(second)

    def _add_times(self) -> None:
        times = self._marked.times
        for time, count in self.figures.times.items():
            times[time] = times.get(time, 0) + count
        self.figures.times = {}

    # Lanes -----------------------------------------------------------------

    def _open_first(self) -> None:
        """
        Open all lanes.

        Raises:
            LoadError: not one could be opened.
        """
        for slot in self._slots:
            slot.coming = self._pool.submit(self._connect)
        reason: object = None
        for slot in self._slots:
            assert slot.coming is not None
            try:
                slot.coming.result()
            except OSError as error:
                reason = error.strerror or error
            self._reopen(slot, perf_counter())
        if not self._lanes:
            raise LoadError(f"cannot connect to {self.load.url}: {reason}")

    def _reopen(self, slot: _Slot, now: float) -> None:
        """
        Open a lane, if it is time for that; take it into use once it is open.
        """
        if slot.coming is None:
            if now >= slot.due and self._sending:
                slot.coming = self._pool.submit(self._connect)
            return
        if not slot.coming.done():
            return
        coming, slot.coming = slot.coming, None
        try:
            sock = coming.result()
        except OSError:
            self.figures.errors["connect"] += 1
            slot.due, slot.pause = now + slot.pause, min(slot.pause * 2, _LONGEST_PAUSE)
            return
        slot.pause = _FIRST_PAUSE
        kind = Lane if self.requests.keys is None else KeyedLane
        lane = slot.lane = kind(self, sock, slot.first)
        self._lanes.append(lane)
        self._selector.register(sock, selectors.EVENT_READ, lane)
        if self._begun:
            self._fill(lane)

    def lane_ended(self, lane: Lane, error: Exception) -> None:
        """
        Be told by a lane why it cannot go on.
        """
        self._selector.unregister(lane.sock)
        self._lanes.remove(lane)
        for slot in self._slots:
            if slot.lane is lane:
                slot.lane = None
        kind, lost = _kind(error), lane.lose()
        if self._sending and kind != "timeout":
            lost = max(1, lost)  # that it has ended counts, if nothing was lost
        if lost:
            self.figures.errors[kind] += lost

    def _connect(self) -> Any:
        """
        Make a connected socket that does not block.
        """
        sock, _ = opened(self._target, self.load.timeout)
        if not self.stream:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        return sock


def _kind(error: Exception) -> str:
    """
    Say in a word what has ended a lane.
    """
    if isinstance(error, RemoteProtocolError):
        return "malformed"
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    return "reset" if isinstance(error, ConnectionResetError) else "closed"


def _inexact(wait: float) -> float:
    """
    Shorten a wait, since the system may add a millisecond to it.
    """
    return 0.0 if wait < 2 * _EXACT else wait - _EXACT
