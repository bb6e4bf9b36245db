"""
Redis Streams as a log: one stream, a consumer group for each group.

Writing. A thread sends what was appended as pipelines of one script, which drops ids
that it has seen in the last two minutes (or among the last 100,000) and refuses when the
stream is full: the stream is in Redis's memory. An answer means that Redis has it, and
on its disk too if Redis runs with ``appendfsync always``; with ``everysec``, which is
its default, a machine that loses power loses up to a second, and without
``appendonly yes`` all of it.

Trimming. What all groups have acknowledged is kept for ``max_age`` seconds, and for
less if the stream would be full otherwise; what one group still needs is not trimmed,
and without a group nothing is.

What holds for reading stands in `protoserve.telemetry.logs.redis_group`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from protoserve.errors import DeclarationError
from protoserve.telemetry.logs.options import line, read
from protoserve.telemetry.logs.redis_group import STEPS, RedisConsumer, number, shown
from protoserve.telemetry.logs.window import MAX_ENTRY, PATIENCE, Window
from protoserve.telemetry.sinks.options import count, seconds

__all__ = ["RedisLog"]

OPTIONS = {
    "ack_wait": seconds,
    "duplicate_window": seconds,
    "max_age": seconds,
    "max_entries": count,
}
PORT = 6379
BATCH, BATCH_BYTES = 64, 1 << 20
"""What one pipeline holds at most."""
TRIM_EVERY = 5.0
"""Seconds between two looks at what need not be kept."""
FIRST_WAIT, LAST_WAIT = 0.05, 1.0
"""Seconds between two tries, doubled from the one to the other."""
ANSWER = 10.0
"""Seconds after which a Redis that does not answer is taken for gone."""

APPEND = """
local now = redis.call('TIME')
local moment = now[1] * 1000 + math.floor(now[2] / 1000)
if redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 0 end
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[4]) then
  return redis.error_reply('FULL the stream has ' .. ARGV[4] .. ' entries')
end
redis.call('XADD', KEYS[1], '*', 'id', ARGV[1], 'key', ARGV[2], 'payload', ARGV[3])
redis.call('ZADD', KEYS[2], moment, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', moment - ARGV[5])
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -100001)
return 1
"""


class RedisLog:
    """
    A stream of Redis; it is made by the first entry.

    Args:
        url: ``redis://[user:password@]host:port[/database]`` (``rediss`` for TLS), with
            options: ``ack_wait`` (seconds after which a dead member's entries go to
            others, 30), ``duplicate_window`` (seconds, 120), ``max_age`` (seconds for
            which acknowledged entries are kept for replay, 86400), ``max_entries``
            (of the stream, 20000).
        name: the stream's key is ``{NAME}:log``, the one of the ids ``{NAME}:ids``.
        patience: seconds without a confirmation until `LogUnavailableError`.

    Raises:
        DeclarationError: the URL or an option is wrong.
    """

    def __init__(self, url: str, *, name: str, patience: float = PATIENCE) -> None:
        target, wishes = read(url, port=PORT, options=OPTIONS)
        self.target = target
        if len(target.hosts) != 1 or not (target.path or "0").isdigit():
            raise DeclarationError(
                f"{target}: expected redis://HOST:PORT or redis://HOST:PORT/DATABASE"
            )
        ((host, port),) = target.hosts
        # Its annotations say more than can come with these options.
        self.redis: Any = redis.Redis(
            host=host,
            port=port,
            db=int(target.path or 0),
            username=target.user or None,
            password=target.password or None,
            ssl=target.scheme == "rediss",
            socket_timeout=ANSWER,
            socket_connect_timeout=ANSWER,
            retry=Retry(NoBackoff(), 0),
        )
        self.stream, self._ids = f"{{{name}}}:log", f"{{{name}}}:ids"
        self.ack_wait: float = wishes.get("ack_wait", 30.0)
        self._max_age: float = wishes.get("max_age", 86_400.0)
        self._max_entries: int = wishes.get("max_entries", 20_000)
        self._remember = int(wishes.get("duplicate_window", 120.0) * 1000)
        self.max_entry = MAX_ENTRY
        self._window = Window(str(target), patience=patience)
        self._append = self.redis.register_script(APPEND)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._send, name=self.stream)
        self._thread.daemon = True
        self._thread.start()

    def append(self, key: str, payload: bytes, id: str) -> None:  # noqa: A002
        """
        Append an entry; it is safe when `flush` has returned.

        Raises:
            EntryTooLargeError: it has more than `max_entry` bytes.
            LogUnavailableError: Redis cannot be reached, or the stream is full.
        """
        self._window.add(id, key, payload)

    def flush(self) -> None:
        """
        Wait until Redis has all that was appended.

        Raises:
            LogUnavailableError: nothing was confirmed for 30 seconds.
        """
        self._window.settle()

    def consume(self, group: str) -> RedisConsumer:
        """
        Read as a member of a group; a new group begins with the oldest entry.
        """
        return RedisConsumer(self, group)

    def close(self) -> None:
        """
        Disconnect; what was not flushed may be lost.
        """
        self._closing.set()
        self._window.close()
        self._thread.join()
        self.redis.close()

    def trim(self) -> None:
        """
        Let go of what all groups have acknowledged.
        """
        length = self.redis.xlen(self.stream)
        groups = self.redis.xinfo_groups(self.stream) if length else []
        if not groups:
            return
        needed = min(self._needed(group) for group in groups)
        oldest = int((time.time() - self._max_age) * 1000) << STEPS
        self.redis.xtrim(
            self.stream, minid=shown(min(needed, oldest)), approximate=False
        )
        # Half full: make room, though somebody might want to read it once more.
        excess = self.redis.xlen(self.stream) - self._max_entries // 2
        if excess > 0:
            found = self.redis.xrange(self.stream, "-", "+", excess)
            last = number(found[-1][0]) + 1
            self.redis.xtrim(
                self.stream, minid=shown(min(needed, last)), approximate=False
            )

    def _needed(self, group: Any) -> int:
        """
        Give the first entry that a group has not acknowledged.
        """
        pending = self.redis.xpending(self.stream, group["name"])
        if pending["min"] is not None:
            return number(pending["min"])
        return number(group["last-delivered-id"]) + 1

    def _send(self) -> None:
        wait, trimmed = FIRST_WAIT, time.monotonic()
        while not self._closing.is_set():
            items = self._window.fresh(BATCH, BATCH_BYTES, timeout=1.0)
            try:
                if items:
                    # A script that the server has forgotten would fail the pipeline.
                    pipeline = self.redis.pipeline(transaction=False)
                    for item in items:
                        self._append(
                            [self.stream, self._ids],
                            [
                                item.id,
                                item.key,
                                item.payload,
                                self._max_entries,
                                self._remember,
                            ],
                            client=pipeline,
                        )
                    answers = pipeline.execute(raise_on_error=False)
                    failed = [each for each in answers if isinstance(each, Exception)]
                    self._window.done(
                        item.serial
                        for item, answer in zip(items, answers, strict=True)
                        if not isinstance(answer, Exception)
                    )
                    if failed:
                        trimmed = 0.0
                        raise failed[0]
                    wait = FIRST_WAIT
                if time.monotonic() - trimmed > TRIM_EVERY:
                    trimmed = time.monotonic()
                    self.trim()
            except (RedisError, OSError) as exc:
                self._window.trouble = line(self.target, exc)
                if isinstance(exc, ResponseError) and "FULL" in str(exc):
                    with contextlib.suppress(RedisError, OSError):
                        self.trim()
                self._closing.wait(wait)
                wait = min(wait * 2, LAST_WAIT)
                self._window.again()
