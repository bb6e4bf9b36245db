"""
One connection of a load, or one socket for datagrams: a lane.

A lane sends when it is told how many requests with which times, and reports what has
come. It never waits. What a socket does not take at once is kept, and the lane is
full until that has gone.
"""

from __future__ import annotations

import contextlib
import ssl
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias

from protoserve.errors import RemoteProtocolError
from protoserve.loadgen.figures import shortened

if TYPE_CHECKING:
    from protoserve.loadgen.generator import Generator

__all__ = ["KeyedLane", "Lane", "Moments"]

Moments: TypeAlias = tuple[float, float]
"""When a request was due, from which its answer's time counts, and when it was sent."""

_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_READ_SIZE = 256 * 1024
_AT_A_TIME = 64
"""Datagrams that are read before other lanes have their turn."""


class Lane:
    """
    A lane whose answers come in the order of the requests.

    Args:
        owner: whose lane it is.
        sock: a connected socket that does not block.
        first: where in the cycle of requests it begins.
    """

    def __init__(self, owner: Generator, sock: Any, first: int) -> None:
        self.owner = owner
        self.sock = sock
        self.next = first
        self.unsent: bytes | memoryview = b""
        self.ended = False
        self.stream = owner.stream
        framing = owner.protocol.framing
        self._framer = framing.framer() if self.stream and framing else None
        cuts = not self.stream and framing is not None and framing.in_frame
        self._split: Callable[[bytes], list[bytes]] | None = (
            framing.split if cuts and framing is not None else None
        )
        self._make_room()

    def _make_room(self) -> None:
        self._waiting: deque[Moments] = deque()

    @property
    def outstanding(self) -> int:
        """
        How many requests wait for their answer.
        """
        return len(self._waiting)

    # Sending ---------------------------------------------------------------

    def send(self, times: Sequence[Moments]) -> None:
        """
        Send as many requests as there are times.
        """
        frames = self.owner.requests.frames
        start, count = self.next, len(times)
        stop = start + count
        if stop <= len(frames):
            chosen: Sequence[bytes] = frames[start:stop]
        else:
            stop %= len(frames)
            chosen = [frames[(start + i) % len(frames)] for i in range(count)]
        self.next = stop
        self._remember(start, times)
        figures, since = self.owner.figures, self.owner.since
        early = times[0][0] < since
        figures.sent += sum(due >= since for due, _ in times) if early else count
        try:
            if self.stream:
                data = b"".join(chosen)
                figures.bytes_sent += len(data)
                self._write(data)
            else:
                for data in chosen:
                    figures.bytes_sent += len(data)
                    self._send_datagram(data)
        except OSError as error:
            self.end(error)

    def _remember(self, start: int, times: Sequence[Moments]) -> None:  # noqa: ARG002 - for those with keys
        self._waiting.extend(times)

    def _write(self, data: bytes) -> None:
        try:
            sent = self.sock.send(data)
        except _WOULD_BLOCK:
            sent = 0
        if sent < len(data):
            self.unsent = memoryview(data)[sent:]
            self.owner.await_room(self)

    def _send_datagram(self, data: bytes) -> None:
        # One that the kernel does not take is lost, as it may be anywhere.
        with contextlib.suppress(BlockingIOError):
            self.sock.send(data)

    def send_rest(self) -> None:
        """
        Send what the socket has not taken.
        """
        try:
            while self.unsent:
                self.unsent = memoryview(self.unsent)[self.sock.send(self.unsent) :]
        except _WOULD_BLOCK:
            return
        except OSError as error:
            self.end(error)

    # Receiving -------------------------------------------------------------

    def receive(self) -> None:
        """
        Take what has come.
        """
        try:
            if self._framer is None:
                self._receive_datagrams()
            else:
                self._receive_stream()
        except _WOULD_BLOCK:
            pass
        except OSError as error:
            self.end(error)
        except RemoteProtocolError as error:
            self.end(error)

    def _receive_stream(self) -> None:
        framer, more = self._framer, True
        assert framer is not None
        while more:
            data = self.sock.recv(_READ_SIZE)
            if not data:
                raise ConnectionAbortedError("the server closed the connection")
            self.owner.figures.bytes_received += len(data)
            framer.feed(data)
            self._take(iter(framer.decode, None))
            # What TLS holds back of a record is not told by the socket.
            more = self.owner.tls is not None and self.sock.pending()

    def _receive_datagrams(self) -> None:
        for _ in range(_AT_A_TIME):
            data = self.sock.recv(_READ_SIZE)
            self.owner.figures.bytes_received += len(data)
            try:
                self._take((data,) if self._split is None else self._split(data))
            except RemoteProtocolError:
                self.owner.figures.errors["malformed"] += 1

    def _take(self, frames: Iterable[bytes]) -> None:
        """
        Take answers note of.
        """
        owner = self.owner
        figures, since = owner.figures, owner.since
        times, known, judge = figures.times, owner.answers.known, owner.answers.judge
        now, found_for = perf_counter(), self._found
        for frame in frames:
            key, wrong = known.get(frame) or judge(frame)
            sent = found_for(key)
            if sent is None:
                figures.late += 1
            elif sent[0] >= since:
                figures.answered += 1
                time = shortened(int((now - sent[0]) * 1e6))
                times[time] = times.get(time, 0) + 1
                if wrong is not None:
                    figures.errors[wrong] += 1

    def _found(self, key: Hashable) -> Moments | None:  # noqa: ARG002 - for those with keys
        return self._waiting.popleft() if self._waiting else None

    # Ending ----------------------------------------------------------------

    def give_up(self, before: float) -> None:
        """
        Give up the requests that were sent before a time.

        An answer that is still to come could not be told from the next one, so the
        lane has ended then.
        """
        if self._waiting and self._waiting[0][1] < before:
            self.end(TimeoutError("requests were not answered in time"))

    def lose(self) -> int:
        """
        Forget all that waits; say how many of these were to be measured.
        """
        count = sum(due >= self.owner.since for due, _ in self._waiting)
        self._waiting.clear()
        return count

    def end(self, error: Exception) -> None:
        """
        End it; the requests that wait will not be answered.
        """
        if not self.ended:
            self.ended = True
            self.owner.lane_ended(self, error)
            with contextlib.suppress(OSError):
                self.sock.close()


class KeyedLane(Lane):
    """
    A lane whose answers are told by their keys.
    """

    def _make_room(self) -> None:
        self._by_key: dict[Hashable, Moments] = {}
        keys = self.owner.requests.keys
        assert keys is not None
        self._keys = keys

    def _found(self, key: Hashable) -> Moments | None:
        return self._by_key.pop(key, None)

    @property
    def outstanding(self) -> int:
        """
        How many requests wait for their answer.
        """
        return len(self._by_key)

    def _remember(self, start: int, times: Sequence[Moments]) -> None:
        keys, stop = self._keys, start + len(times)
        if stop <= len(keys):
            self._by_key.update(zip(keys[start:stop], times, strict=True))
        else:
            chosen = (keys[(start + i) % len(keys)] for i in range(len(times)))
            self._by_key.update(zip(chosen, times, strict=True))

    def give_up(self, before: float) -> None:
        """
        Give up the requests that were sent before a time.
        """
        since, waiting = self.owner.since, self._by_key
        while waiting:
            key, (due, sent) = next(iter(waiting.items()))  # the oldest
            if sent >= before:
                return
            del waiting[key]
            if due >= since:
                self.owner.figures.errors["timeout"] += 1

    def lose(self) -> int:
        """
        Forget all that waits; say how many of these were to be measured.
        """
        count = sum(due >= self.owner.since for due, _ in self._by_key.values())
        self._by_key.clear()
        return count
