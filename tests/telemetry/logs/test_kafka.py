"""
Kafka as a log: the trials against librdkafka's mock cluster, which runs in this process.

It has partitions, groups and idempotent producers, and keeps a few megabytes in memory.
It is not Kafka: nothing here shows what a real broker's disk, replication or election
does.
"""

import contextlib
import itertools
import threading
from collections import deque

import confluent_kafka
import pytest

from protoserve.errors import DeclarationError
from protoserve.telemetry.logs.base import LogUnavailableError
from protoserve.telemetry.logs.kafka import KafkaLog
from protoserve.telemetry.logs.kafka_group import Place
from tests.service.kit import descriptors, until
from tests.telemetry.logs.cluster import free_ports
from tests.telemetry.logs.trials import Backend, Trials, drained, filled

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def brokers():
    keeper = confluent_kafka.Producer(
        {"test.mock.num.brokers": 3, "bootstrap.servers": "mock", "log_level": 0}
    )
    found = keeper.list_topics(timeout=60.0).brokers.values()
    yield ",".join(f"{each.host}:{each.port}" for each in found)
    keeper.flush(1.0)


@pytest.fixture
def backend(brokers):
    name = f"trial{next(NUMBERS)}"

    def opened(ack_wait=6, **options):
        return KafkaLog(f"kafka://{brokers}/{name}?ack_wait=6", name=name, **options)

    return Backend(opened, drops_duplicates=False)


class TestTrials(Trials):
    """
    Those that show most: the mock cluster lets a group wait for three seconds first.
    """

    test_replay_by_time = None
    """The mock cluster keeps no times."""
    test_in_order = test_groups = test_goes_on = test_slow_reader = None
    test_entries_survive = test_too_large = test_threads = test_given_back = None
    test_frees = None
    test_members = None
    """What is taken while partitions move from one to the other may come twice."""


def test_frees(backend):
    """Closing leaves no thread and no descriptor behind, and may be done twice."""
    with contextlib.closing(backend.open()) as log:  # what is opened once for all
        filled(log, 1)
    before = descriptors(), threading.active_count()
    log = backend.open()
    filled(log, 10)
    consumer = log.consume("g")
    assert [] == consumer.take(1, 0.0)
    for _ in range(2):
        consumer.close()
        log.close()
    until(lambda: threading.active_count() <= before[1], 60.0)
    until(lambda: descriptors() <= before[0], 60.0)  # the cluster's end of it lags


def test_entry(backend):
    """Id, key and payload come out as they went in; what is too large is refused."""
    with contextlib.closing(backend.open()) as log:
        log.append("[2001:db8::1]", bytes(range(256)), "edge-1:7/4096 ä%")
        log.append("a", bytes(log.max_entry), "large")
        with pytest.raises(ValueError, match="too: expected at most 900000 bytes"):
            log.append("a", bytes(log.max_entry + 1), "too")
        log.flush()
        with contextlib.closing(log.consume("g")) as consumer:
            first, second = sorted(drained(consumer, 2), key=lambda e: len(e.payload))
    assert "edge-1:7/4096 ä%" == first.id
    assert "[2001:db8::1]" == first.key
    assert bytes(range(256)) == first.payload
    assert log.max_entry == len(second.payload)


def test_no_broker():
    """Without a broker, writing and reading say so in a line."""
    (port,) = free_ports(1)
    url = f"kafka://127.0.0.1:{port}/t"
    with contextlib.closing(KafkaLog(url, name="t", patience=0.5)) as log:
        log.append("a", b"x", "e/0")
        with pytest.raises(LogUnavailableError, match=rf"^{url}: [^\n]*1 entries wait"):
            log.flush()
        consumer = log.consume("g")
        with (
            contextlib.closing(consumer),
            pytest.raises(LogUnavailableError, match=rf"^{url}: [^\n]*"),
        ):
            while True:
                consumer.take(1, 0.2)


def test_settings():
    """What is not ours among the options is librdkafka's, who says what is wrong."""
    with pytest.raises(DeclarationError, match='No such configuration property: "x.y"'):
        KafkaLog("kafka://127.0.0.1:1/t?x.y=1", name="t")
    with pytest.raises(DeclarationError, match="^kafka: option ack_wait: expected a n"):
        KafkaLog("kafka://127.0.0.1:1/t?ack_wait=soon", name="t")
    (port,) = free_ports(1)
    url = f"kafka://me:secret@127.0.0.1:{port}?client.id=edge"
    with contextlib.closing(KafkaLog(url, name="t")) as log:
        told = log.settings()
    assert ("me", "secret", "edge") == tuple(
        told[name] for name in ("sasl.username", "sasl.password", "client.id")
    )


def test_places():
    """What is committed is where everything before has been acknowledged."""
    place = Place(deque([4, 5, 7, 8]))
    seen = []
    for offset in (5, 4, 8, 7, 3):
        place.ack(offset)
        seen.append(place.upto)
    assert [None, 6, 6, 9, 9] == seen
