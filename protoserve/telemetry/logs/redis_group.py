"""
A member of a group of readers of a stream of Redis.

``XREADGROUP`` gives each entry to one member. A thread of the member resets
the idle time of what it holds, for at most ten minutes, so that the entries of a
process that has died, and only those, are taken over by others (``XAUTOCLAIM``) after
``ack_wait``. A member that leaves gives what it holds to a name of nobody's, idle
since long ago. Members take turns: entries of one key may come to several.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from redis.exceptions import RedisError, ResponseError

from protoserve.telemetry.logs.base import Entry, LogUnavailableError
from protoserve.telemetry.logs.options import line

if TYPE_CHECKING:
    from protoserve.telemetry.logs.redis import RedisLog

__all__ = ["STEPS", "RedisConsumer", "number", "shown"]

T = TypeVar("T")

HOLD = 600.0
"""Seconds for which what is taken and not acknowledged is kept for who took it."""
SLICE = 2.0
"""Seconds for which Redis is asked to wait; less than the time for an answer."""
NOBODY = "left"
STEPS = 20
"""Bits for the second half of an entry's id: entries within a millisecond."""


class RedisConsumer:
    """
    A member of a group. One thread at a time uses it.
    """

    def __init__(self, log: RedisLog, group: str) -> None:
        self._log = log
        self._group = group
        self._member = uuid.uuid4().hex
        self._held: dict[bytes, float] = {}
        self._looked: bytes | str = "0-0"
        self._lock = threading.Lock()
        self._made = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"keep {group}")
        self._thread.daemon = True
        self._thread.start()

    def take(self, most: int, timeout: float) -> list[Entry]:
        """
        Give the next entries, at most so many; none if none came within `timeout` s.

        Raises:
            LogUnavailableError: Redis cannot be reached.
        """
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            block = max(1, int(min(left, SLICE, self._log.ack_wait) * 1000))
            if (found := self._do(lambda: self._read(most, block))) or left <= 0:  # noqa: B023
                return found

    def ack(self, entries: Sequence[Entry]) -> None:
        """
        Say that entries are dealt with for good.

        Where Redis cannot be reached, they are delivered again.
        """
        ids = [shown(entry.sequence).encode() for entry in entries]
        with self._lock:
            for each in ids:
                self._held.pop(each, None)
        if ids:
            with contextlib.suppress(RedisError, OSError):
                self._log.redis.xack(self._log.stream, self._group, *ids)

    def seek(self, *, sequence: int | None = None, time: float | None = None) -> None:
        """
        Have the group go on from an entry, or from a moment (seconds since the epoch).

        The group is made anew, so what its members hold is forgotten.
        """
        first = sequence or 0
        if time is not None:
            first = int(time * 1000) << STEPS
        self._do(lambda: self._anew(max(0, first - 1)))

    def lag(self) -> int:
        """
        Say how many entries the group has yet to deal with.
        """
        return self._do(self._count)

    def close(self) -> None:
        """
        Leave the group; what was not acknowledged is given to others at once.
        """
        if self._closing.is_set():
            return
        self._closing.set()
        self._thread.join()
        log = self._log
        with contextlib.suppress(RedisError, OSError):
            if held := list(self._held):
                self._claim(NOBODY, held, idle=1 << 40)
            log.redis.xgroup_delconsumer(log.stream, self._group, self._member)
        self._held.clear()

    def _do(self, work: Callable[[], T]) -> T:
        if self._closing.is_set():
            raise LogUnavailableError(f"{self._group}: this member has left")
        try:
            if not self._made:
                self._make(0)
            try:
                return work()
            except ResponseError as exc:
                # Made anew by another member's seek, or lost with the stream.
                if "NOGROUP" not in str(exc) and "UNBLOCKED" not in str(exc):
                    raise
                self._make(0)
                return work()
        except (RedisError, OSError) as exc:
            raise LogUnavailableError(line(self._log.target, exc)) from exc

    def _make(self, after: int) -> None:
        log = self._log
        try:
            log.redis.xgroup_create(log.stream, self._group, shown(after), True)
        except ResponseError as exc:
            if "BUSYGROUP" not in str(exc):
                raise
        self._made = True

    def _anew(self, after: int) -> None:
        log = self._log
        with self._lock:
            self._held.clear()
        pipeline = log.redis.pipeline(transaction=True)
        pipeline.xgroup_destroy(log.stream, self._group)
        pipeline.xgroup_create(log.stream, self._group, shown(after), mkstream=True)
        pipeline.execute()

    def _read(self, most: int, block: int) -> list[Entry]:
        log = self._log
        # It looks at a bounded number of entries, and says where it has stopped.
        self._looked, found, *_ = log.redis.xautoclaim(
            log.stream,
            self._group,
            self._member,
            min_idle_time=int(log.ack_wait * 1000),
            start_id=self._looked,
            count=most,
        )
        if not found:
            answer = log.redis.xreadgroup(
                self._group, self._member, {log.stream: ">"}, most, block
            )
            found = answer[0][1] if answer else []
        now = time.monotonic()
        with self._lock:
            self._held.update((each, now) for each, _ in found)
        return [_entry(each, fields) for each, fields in found if fields]

    def _count(self) -> int:
        log = self._log
        for group in log.redis.xinfo_groups(log.stream):
            if group["name"].decode() == self._group:
                break
        else:
            return int(log.redis.xlen(log.stream))
        # Redis cannot tell after a seek into the middle: then it is counted.
        lag = group.get("lag")
        if lag is None:
            lag, after = 0, number(group["last-delivered-id"])
            while found := log.redis.xrange(log.stream, shown(after + 1), "+", 500):
                lag += len(found)
                after = number(found[-1][0])
        return int(lag) + int(group["pending"])

    def _claim(self, member: str, ids: Sequence[bytes], *, idle: int) -> None:
        log = self._log
        log.redis.xclaim(
            log.stream, self._group, member, 0, ids, idle=idle, justid=True
        )

    def _keep(self) -> None:
        """
        Say from time to time that what is held is still worked on.
        """
        while not self._closing.wait(self._log.ack_wait / 3):
            now = time.monotonic()
            with self._lock:
                for each in [n for n, at in self._held.items() if now - at > HOLD]:
                    del self._held[each]
                held = list(self._held)
            if held:
                with contextlib.suppress(RedisError, OSError):
                    self._claim(self._member, held, idle=0)


def number(id: bytes | str) -> int:  # noqa: A002 - Redis's word
    """
    Make one number of an entry's id, which is two: milliseconds, and which of them.
    """
    text = id if isinstance(id, str) else id.decode()
    moment, _, step = text.partition("-")
    return int(moment) << STEPS | int(step or 0)


def shown(sequence: int) -> str:
    """
    Make an id of a number.
    """
    return f"{sequence >> STEPS}-{sequence & ((1 << STEPS) - 1)}"


def _entry(id: bytes, fields: dict[bytes, bytes]) -> Entry:  # noqa: A002
    sequence = number(id)
    return Entry(
        sequence=sequence,
        id=fields.get(b"id", id).decode(errors="replace"),
        key=fields.get(b"key", b"").decode(errors="replace"),
        time=(sequence >> STEPS) / 1000,
        payload=fields.get(b"payload", b""),
    )
