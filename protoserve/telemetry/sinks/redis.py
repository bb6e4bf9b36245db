"""
Redis Streams: a batch is one entry of its table's stream, never a record.

``protoserve:flows`` is the stream of the table ``flows``, with the fields ``rows`` (how
many) and ``arrow`` (an Arrow IPC stream). All tables of a batch and the ids of the log's
entries go in by one script, which Redis runs as a whole: it looks whether the ids are
known, adds, and remembers them in a sorted set by time, which is bounded in age and number.

Traps: a script is not rolled back when it fails in the middle, so what could fail is
looked at first. A Redis that is full (``maxmemory``, or a disk to which it cannot write
its file) says so before the script begins. What is in Redis is as safe as its
``appendfsync`` makes it: with ``everysec``, its default, a machine that loses its power
has lost a second.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from protoserve.errors import DeclarationError
from protoserve.telemetry.sinks._batches import body_of
from protoserve.telemetry.sinks._network import CONNECT_TIMEOUT, TIMEOUT, NetworkSink
from protoserve.telemetry.sinks.base import SinkRefusedError, SinkUnavailableError
from protoserve.telemetry.sinks.schema import (
    KEEP_SECONDS,
    already_stored,
    plain,
)

__all__ = ["RedisSink"]

_KEEP_IDS = 100_000
"""Fewer than elsewhere: they are held in memory."""
_MAXLEN = 10_000
"""Batches in a stream; about as many are kept, older ones are removed by Redis."""

_STORE = """
local entries, now, oldest, most, maxlen = KEYS[1], unpack(ARGV, 1, 4)
local first = 5 + 2 * (#KEYS - 1)
local there = {}
for n = first, #ARGV do
  if redis.call('ZSCORE', entries, ARGV[n]) then there[#there + 1] = ARGV[n] end
end
if #there > 0 then return there end
for n = 2, #KEYS do
  local kind = redis.call('TYPE', KEYS[n]).ok
  if kind ~= 'none' and kind ~= 'stream' then
    return redis.error_reply('WRONGTYPE ' .. KEYS[n] .. ' is a ' .. kind)
  end
end
for n = 2, #KEYS do
  redis.call('XADD', KEYS[n], 'MAXLEN', '~', maxlen, '*',
             'rows', ARGV[1 + 2 * n], 'arrow', ARGV[2 + 2 * n])
end
for n = first, #ARGV do redis.call('ZADD', entries, now, ARGV[n]) end
redis.call('ZREMRANGEBYSCORE', entries, '-inf', oldest)
redis.call('ZREMRANGEBYRANK', entries, 0, -1 - most)
return {}
"""


class RedisSink(NetworkSink):
    """
    Streams of a Redis server.

    Args:
        url: ``redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]``, ``rediss://`` with TLS;
            options are ``prefix``, of the streams' names, and ``maxlen``, how many
            batches each keeps at least.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url, port=6379, options=("maxlen", "prefix"))
        target = self._target
        if not (target.path or "0").isdigit():
            raise DeclarationError(
                f"{self.url}: expected the number of a database, found {target.path!r}"
            )
        self._prefix = target.options.get("prefix", "protoserve")
        self._maxlen = target.number("maxlen", _MAXLEN)
        self._entries = f"{self._prefix}:_entries"
        ((host, port), *_) = target.hosts
        self._made: dict[str, Any] = {
            "host": host,
            "port": port,
            "db": int(target.path or 0),
            "username": target.user or None,
            "password": target.password or None,
            "ssl": target.scheme == "rediss",
            "client_name": "protoserve",
            "socket_connect_timeout": CONNECT_TIMEOUT,
            "socket_timeout": TIMEOUT,
            # Who calls tries again, after having asked what is known.
            "retry": Retry(NoBackoff(), 0),
        }
        self._redis: redis.Redis | None = None

    def open(self) -> None:
        with self._mapped():
            self._client().ping()

    def known(self, ids: Sequence[str]) -> set[str]:
        if not ids:
            return set()
        with self._mapped():
            scores: Any = self._client().zmscore(self._entries, list(ids))
            return {
                each
                for each, score in zip(ids, scores, strict=True)
                if score is not None
            }

    def store(self, tables: Mapping[str, pa.Table], ids: Sequence[str]) -> None:
        keys: list[str] = [self._entries]
        bodies: list[Any] = []
        for name, rows in tables.items():
            rows = plain(name, rows)
            if not len(rows):
                continue
            keys.append(f"{self._prefix}:{name}")
            bodies += [len(rows), body_of(rows)]
        now = time.time()
        limits = [now, now - KEEP_SECONDS, _KEEP_IDS, self._maxlen]
        with self._mapped():
            there: Any = self._client().eval(
                _STORE, len(keys), *keys, *limits, *bodies, *dict.fromkeys(ids)
            )
        if there:
            already_stored(self.url, {each.decode() for each in there}, ids)

    def close(self) -> None:
        if self._redis is not None:
            self._redis.close()
            self._redis = None

    def _client(self) -> redis.Redis:
        if self._redis is None:
            self._redis = redis.Redis(**self._made)
        return self._redis

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError) as exc:
            self.close()
            if "WRONGTYPE" in str(exc):
                raise SinkRefusedError(self._line(exc)) from None
            raise SinkUnavailableError(self._line(exc)) from None
