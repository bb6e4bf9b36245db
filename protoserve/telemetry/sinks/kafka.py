"""
Kafka: a batch is one transaction of few large messages, never a message a record.

The topic ``protoserve.flows`` has the rows of the table ``flows``, as Arrow IPC streams
below the brokers' limit of a message. The topic ``protoserve._entries`` has the ids of the
log's entries, one message a batch, in the same transaction: who reads with
``isolation.level=read_committed`` sees all of a batch or nothing of it. What is known is
read from the end of that topic, anew each time, so that workers know of each other.

Traps: a commit that was not answered may yet happen. The next producer has the same
``transactional.id``, and the brokers settle what was open under it before it may begin;
so only then is there an answer to what is known. Topics are made by the brokers, if they
are allowed to. librdkafka writes to standard error by itself.
"""

from __future__ import annotations

import contextlib
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import confluent_kafka as kafka
import pyarrow as pa

from protoserve.errors import DeclarationError
from protoserve.telemetry.sinks._batches import Recent, bodies
from protoserve.telemetry.sinks._network import TIMEOUT, NetworkSink
from protoserve.telemetry.sinks.base import SinkRefusedError, SinkUnavailableError
from protoserve.telemetry.sinks.schema import already_stored, plain

__all__ = ["KafkaSink"]

CONNECT_TIMEOUT = 30.0
"""Seconds: a cluster may have to elect who coordinates transactions."""
_TAIL = 10_000
"""Batches whose ids are read in each partition, when a sink is opened."""
_IDS = 1_000_000
_LARGEST = 900_000
"""Bytes of a message: brokers take 1 MiB, headers and all."""
_LEGAL = re.compile(r"[^A-Za-z0-9._-]")
"""What is in no topic's name."""
_REFUSED = {
    kafka.KafkaError.MSG_SIZE_TOO_LARGE,
    kafka.KafkaError.INVALID_MSG_SIZE,
    kafka.KafkaError.TOPIC_EXCEPTION,
}


class KafkaSink(NetworkSink):
    """
    Topics of a Kafka cluster.

    Args:
        url: ``kafka://[USER:PASSWORD@]HOST[:PORT][,…][/PREFIX]``; the prefix is of the
            topics' names. Options are librdkafka's own properties.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url, port=9092)
        target = self._target
        self._prefix = target.path or "protoserve"
        self._entries = f"{self._prefix}._entries"
        self._shared = {
            "bootstrap.servers": ",".join(
                f"{host}:{port}" for host, port in target.hosts
            ),
            "client.id": "protoserve",
            "log_level": 2,
            "socket.timeout.ms": 30_000,
        }
        if target.user:
            self._shared |= {
                "sasl.mechanism": "PLAIN",
                "sasl.username": target.user,
                "sasl.password": target.password,
            }
        self._properties = {
            "transactional.id": f"{self._prefix}-{uuid.uuid4()}",
            "transaction.timeout.ms": 60_000,
            "compression.type": "lz4",
            **self._shared,
            **target.options,
        }
        self._largest = min(
            _LARGEST, int(target.number("message.max.bytes", 1 << 20) * 0.85)
        )
        try:
            # It connects in the background; that its properties are right is said now.
            kafka.Producer(self._properties)
        except (kafka.KafkaException, ValueError, TypeError) as exc:
            raise DeclarationError(self._line(_said(exc))) from None
        self._producer: kafka.Producer | None = None
        self._reader: _Reader | None = None

    def open(self) -> None:
        with self._mapped():
            self._connected().list_topics(timeout=CONNECT_TIMEOUT)

    def known(self, ids: Sequence[str]) -> set[str]:
        with self._mapped():
            self._connected()
            if self._reader is None:
                others = {
                    name: value
                    for name, value in self._target.options.items()
                    if name.partition(".")[0] in ("sasl", "security", "ssl")
                }
                self._reader = _Reader(self._entries, {**self._shared, **others})
            return self._reader.known(ids)

    def store(self, tables: Mapping[str, pa.Table], ids: Sequence[str]) -> None:
        messages = [
            (f"{self._prefix}.{_LEGAL.sub('_', name)}", body)
            for name, rows in tables.items()
            for body in bodies(name, plain(name, rows), self._largest)
        ]
        messages.append((self._entries, "\n".join(dict.fromkeys(ids)).encode()))
        if ids and (there := self._there(ids)):
            already_stored(self.url, there, ids)
            return
        with self._mapped():
            producer = self._connected()
            producer.begin_transaction()
            until = time.monotonic() + TIMEOUT
            for topic, body in messages:
                while True:
                    try:
                        producer.produce(topic, body)
                        break
                    except BufferError:
                        if time.monotonic() > until:
                            raise
                        producer.poll(0.1)
            producer.commit_transaction(TIMEOUT)
        if self._reader is not None:
            self._reader.recent.add(ids)

    def _there(self, ids: Sequence[str]) -> set[str]:
        """
        Say what is known; who has asked just now is not made to wait again.
        """
        return (
            self.known(ids) if self._reader is None else self._reader.recent.among(ids)
        )

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._drop()

    def _drop(self) -> None:
        if self._producer is not None:
            self._producer.purge()
            with contextlib.suppress(kafka.KafkaException):
                self._producer.flush(0)
            self._producer = None

    def _connected(self) -> kafka.Producer:
        if self._producer is None:
            producer = kafka.Producer(self._properties)
            producer.init_transactions(CONNECT_TIMEOUT)
            self._producer = producer
        return self._producer

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except (kafka.KafkaException, BufferError, TimeoutError) as exc:
            # Its transaction is settled by the next one.
            self.close()
            error = exc.args[0] if isinstance(exc, kafka.KafkaException) else None
            refused = isinstance(error, kafka.KafkaError) and error.code() in _REFUSED
            kind = SinkRefusedError if refused else SinkUnavailableError
            raise kind(self._line(_said(exc))) from None


class _Reader:
    """
    What stands in the topic of the entries' ids.
    """

    def __init__(self, topic: str, properties: Mapping[str, Any]) -> None:
        self._topic = topic
        self.recent = Recent(_IDS)
        self._ends: dict[int, int] = {}
        self._consumer = kafka.Consumer(
            {
                **properties,
                "group.id": "protoserve",  # named, as it has to be, and not joined
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                # A fetch that waits for something new holds up the questions behind it.
                "fetch.wait.max.ms": 50,
            }
        )

    def known(self, ids: Sequence[str]) -> set[str]:
        """
        Read what is new, and look.
        """
        until = time.monotonic() + TIMEOUT
        highs = self._highs()
        while any(self._ends[each] < high for each, high in highs.items()):
            if time.monotonic() > until:
                raise TimeoutError(f"{self._topic} cannot be read to its end")
            message = self._consumer.poll(0.5)
            if message is None:
                continue
            error = message.error()
            if error is None:
                self.recent.add((message.value() or b"").decode().split("\n"))
            elif error.code() == kafka.KafkaError._PARTITION_EOF:
                self._ends[message.partition() or 0] = message.offset() or 0
            elif not error.retriable():
                raise kafka.KafkaException(error)
        return self.recent.among(ids)

    def _highs(self) -> dict[int, int]:
        """
        Give the ends of the partitions; each is read, from its last part on.
        """
        topics = self._consumer.list_topics(self._topic, timeout=TIMEOUT).topics
        highs = {}
        for number in topics[self._topic].partitions:
            place = kafka.TopicPartition(self._topic, number)
            low, high = self._consumer.get_watermark_offsets(place, timeout=TIMEOUT)
            highs[number] = high
            if number not in self._ends:
                self._ends[number] = -1
                place.offset = max(low, high - _TAIL)
                self._consumer.incremental_assign([place])
        return highs

    def close(self) -> None:
        self._consumer.close()


def _said(exc: BaseException) -> str:
    error = exc.args[0] if exc.args else exc
    if isinstance(error, kafka.KafkaError):
        return f"{error.name()}: {error.str()}"
    return str(exc)
