"""
Kafka as a sink, against librdkafka's mock cluster in a process of its own.

The mock speaks Kafka's protocol, with partitions, idempotent producers and transactions
in as far as a producer sees them, and keeps a few megabytes in memory. It does not hide
what belongs to a transaction that was given up, so nothing here shows that.
"""

import contextlib
import itertools
import os
import signal
import time

import pyarrow as pa
import pytest

from protoserve.errors import DeclarationError
from protoserve.telemetry.sinks.base import SinkRefusedError, SinkUnavailableError
from protoserve.telemetry.sinks.registry import open_sink
from tests.telemetry.sinks.messages import rows_of
from tests.telemetry.sinks.servers import importable, kafka_mock
from tests.telemetry.sinks.trials import Case, Trials, numbers

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def cluster():
    importable("confluent_kafka")
    with kafka_mock() as cluster:
        yield cluster


@pytest.fixture
def prefix():
    return f"trial{next(NUMBERS)}"


@pytest.fixture
def messages(cluster):
    """Give what reads all messages of a topic."""
    import confluent_kafka as kafka

    def read(topic):
        reader = kafka.Consumer(
            {
                "bootstrap.servers": cluster[1],
                "group.id": "reader",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "log_level": 0,
            }
        )
        try:
            partitions = (
                reader.list_topics(topic, timeout=60.0).topics[topic].partitions
            )
            reader.assign([kafka.TopicPartition(topic, each, 0) for each in partitions])
            found, ended = [], set()
            deadline = time.monotonic() + 60.0
            while len(ended) < len(partitions) and time.monotonic() < deadline:
                if (message := reader.poll(1.0)) is None:
                    continue
                if message.error() is None:
                    found.append((message.timestamp(), message.value()))
                elif message.error().code() == kafka.KafkaError._PARTITION_EOF:
                    ended.add(message.partition())
            return [value for _, value in sorted(found)]
        finally:
            reader.close()

    return read


@pytest.fixture
def case(cluster, prefix, messages, monkeypatch):
    process, addresses = cluster

    @contextlib.contextmanager
    def away():
        os.kill(process.pid, signal.SIGSTOP)
        with monkeypatch.context() as patch:
            patch.setattr("protoserve.telemetry.sinks.kafka.CONNECT_TIMEOUT", 1.0)
            patch.setattr("protoserve.telemetry.sinks.kafka.TIMEOUT", 1.0)
            try:
                yield
            finally:
                os.kill(process.pid, signal.SIGCONT)

    def read_back(table):
        return rows_of(messages(f"{prefix}.{table}"))

    return Case(f"kafka://{addresses}/{prefix}", read_back, away, refuses=False)


class TestKafka(Trials):
    def test_a_process_that_is_killed(self, case):
        pytest.skip("the mock cluster shows what belongs to no committed transaction")


class TestMessages:
    def test_large_batches_are_several_messages(self, case, messages, prefix):
        """A batch that is larger than a message may be is cut."""
        with case.opened() as sink:
            sink.store({"readings": pa.table({"n": range(300_000)})}, ["a"])
        bodies = messages(f"{prefix}.readings")
        assert len(bodies) > 2
        assert max(map(len, bodies)) <= 900_000
        rows = sorted(row["n"] for row in rows_of(bodies))
        assert list(range(300_000)) == rows

    def test_a_row_that_is_too_large(self, case):
        """A row that no message holds is refused, with what there is room for."""
        rows = {"readings": pa.table({"text": ["x" * (1 << 20)]})}
        with case.opened() as sink:
            with pytest.raises(SinkRefusedError, match="table readings: expected rows"):
                sink.store(rows, ["a"])
            assert set() == sink.known(["a"])

    def test_workers_know_of_each_other(self, case):
        """What another has stored meanwhile is known when it is asked for."""
        with case.opened() as sink, case.opened() as other:
            assert set() == sink.known(["a", "b"])
            other.store(numbers(1), ["a"])
            other.store(numbers(2), ["b"])
            assert {"a", "b"} == sink.known(["a", "b"])


class TestTrouble:
    def test_nobody_is_there(self, monkeypatch):
        """Brokers that are not there are given up in time, and nothing is printed."""
        monkeypatch.setattr("protoserve.telemetry.sinks.kafka.CONNECT_TIMEOUT", 0.5)
        sink = open_sink("kafka://me:sesame@127.0.0.1:1")
        with pytest.raises(SinkUnavailableError) as caught:
            sink.open()
        sink.close()
        assert "sesame" not in f"{caught.value}{caught.value!r}{sink.url}"

    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("kafka://me:sesame@127.0.0.1?linger.mss=1", '"linger.mss"'),
            ("kafka:///x", "found no host"),
        ],
    )
    def test_urls_that_are_none(self, url, said):
        """One line says what is wrong with a URL."""
        with pytest.raises(DeclarationError) as caught:
            open_sink(url)
        assert said in str(caught.value)
        assert "sesame" not in str(caught.value)
