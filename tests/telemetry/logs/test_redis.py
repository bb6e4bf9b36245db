"""
Redis Streams as a log: the trials against a real server, and what is its own.
"""

import contextlib
import itertools

import pytest

from protoserve.errors import DeclarationError
from protoserve.telemetry.logs.base import LogUnavailableError
from protoserve.telemetry.logs.redis import RedisLog
from tests.telemetry.logs.cluster import redis_server
from tests.telemetry.logs.trials import (
    Backend,
    Trials,
    drained,
    expected_ids,
    filled,
    ids,
)

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def backend(server):
    name = f"trial{next(NUMBERS)}"
    url = f"redis://127.0.0.1:{server.port}"

    def opened(ack_wait=30, **options):
        return RedisLog(f"{url}?ack_wait={ack_wait}", name=name, **options)

    def start():
        server.start()
        assert server.wait()

    return Backend(opened, f"{url}?ack_wait=4", name, server.kill, start)


class TestTrials(Trials):
    pass


def test_full(backend):
    """A stream that is full of what a group needs refuses more, until it is read."""
    url = f"{backend.url}&max_entries=20"
    with (
        contextlib.closing(RedisLog(url, name=backend.name, patience=1.0)) as log,
        contextlib.closing(log.consume("g")) as consumer,
    ):
        filled(log, 20)
        taken = drained(consumer, 15, ack=False)
        with pytest.raises(LogUnavailableError, match="the stream has 20 entries"):
            filled(log, 5, start=20)
        consumer.ack(taken)
        # It has gone on trying.
        assert set(expected_ids(10, 15)) == set(ids(drained(consumer, 10)))


def test_trimmed(backend):
    """Only what all groups have acknowledged, and nobody may replay, is trimmed."""
    url = f"{backend.url}&max_age=0.001"
    with contextlib.closing(RedisLog(url, name=backend.name)) as log:
        filled(log, 10)
        log.trim()
        assert 10 == log.redis.xlen(log.stream)
        with (
            contextlib.closing(log.consume("one")) as one,
            contextlib.closing(log.consume("two")) as two,
        ):
            drained(one, 10)
            consumed = drained(two, 8, ack=False)
            log.trim()
            assert 10 == log.redis.xlen(log.stream)
            two.ack(consumed[:6])
            log.trim()
            assert 4 == log.redis.xlen(log.stream)
    with contextlib.closing(backend.open()) as log:  # a day is kept for replay
        with contextlib.closing(log.consume("two")) as two:
            assert set(expected_ids(4, 6)) == set(ids(drained(two, 4)))
        log.trim()
        assert 4 == log.redis.xlen(log.stream)


def test_password(tmp_path):
    """A wrong password is told in a line that does not show it."""
    with redis_server(tmp_path, "--requirepass", "right") as server:
        place = f"127.0.0.1:{server.port}"
        with contextlib.closing(
            RedisLog(f"redis://:wr0ng@{place}", name="a", patience=0.5)
        ) as log:
            log.append("a", b"x", "e/0")
            with pytest.raises(LogUnavailableError, match="password") as caught:
                log.flush()
            assert "wr0ng" not in str(caught.value)
        with contextlib.closing(RedisLog(f"redis://:right@{place}", name="a")) as log:
            filled(log, 1)


def test_place():
    """A database is a number; one host is enough."""
    for url in ("redis://127.0.0.1:1/flows", "redis://a:1,b:1"):
        with pytest.raises(DeclarationError, match="expected redis://HOST:PORT"):
            RedisLog(url, name="a")
