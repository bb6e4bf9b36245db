"""
Kafka as a log: a topic, keyed by exporter, and consumer groups.

Writing. An idempotent producer: entries keep their order in a partition and are there
once, however often librdkafka sends them again. That promise is one producer's: an
entry that is appended again after a restart is there twice, and its id says so.

What holds for reading stands in `protoserve.telemetry.logs.kafka_group`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from protoserve.errors import DeclarationError
from protoserve.telemetry.logs.kafka_group import KafkaConsumer
from protoserve.telemetry.logs.options import line, read
from protoserve.telemetry.logs.window import MAX_ENTRY, PATIENCE, Outgoing, Window
from protoserve.telemetry.sinks.options import seconds

__all__ = ["KafkaLog"]

OPTIONS = {"ack_wait": seconds}
PORT = 9092
AGAIN = 0.5
"""Seconds until what a broker refused is sent again."""


class KafkaLog:
    """
    A topic of Kafka; brokers make it if they are set to.

    Args:
        url: ``kafka://broker:port,broker:port/topic``, with the option ``ack_wait``
            (seconds after which a dead member's partitions go to others, 30); all
            others are librdkafka's, as in ``?security.protocol=ssl``.
        name: the topic, if the URL has none.
        patience: seconds without a confirmation until `LogUnavailableError`.

    Raises:
        DeclarationError: the URL or an option is wrong.
    """

    def __init__(self, url: str, *, name: str, patience: float = PATIENCE) -> None:
        self.target, wishes = read(url, port=PORT, options=OPTIONS, others=True)
        self.ack_wait: float = wishes.get("ack_wait", 30.0)
        self.topic = self.target.path or name
        self.max_entry = MAX_ENTRY
        self._window = Window(str(self.target), patience=patience)
        self._refused: deque[Outgoing] = deque()
        self._fatal = False
        self._producer = self._made()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._send, name=self.topic, daemon=True)
        self._thread.start()

    def append(self, key: str, payload: bytes, id: str) -> None:  # noqa: A002
        """
        Append an entry; it is safe when `flush` has returned.

        Raises:
            EntryTooLargeError: it has more than `max_entry` bytes.
            LogUnavailableError: no broker confirms.
        """
        self._window.add(id, key, payload)

    def flush(self) -> None:
        """
        Wait until all in-sync replicas have all that was appended.

        Raises:
            LogUnavailableError: nothing was confirmed for 30 seconds.
        """
        self._window.settle()

    def consume(self, group: str) -> KafkaConsumer:
        """
        Read as a member of a group; a new group begins with the oldest entry.
        """
        return KafkaConsumer(self, group)

    def close(self) -> None:
        """
        Disconnect; what was not flushed may be lost.
        """
        if not self._closing.is_set():
            self._closing.set()
            self._window.close()
            self._thread.join()
            del self._producer  # librdkafka closes its sockets then

    def settings(self, **more: Any) -> dict[str, Any]:
        """
        Give what librdkafka is told, by both kinds of clients.
        """
        hosts = (
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            for host, port in self.target.hosts
        )
        told: dict[str, Any] = {"bootstrap.servers": ",".join(hosts)}
        if self.target.user:
            told |= {
                "sasl.mechanism": "SCRAM-SHA-512",
                "security.protocol": "sasl_ssl",
                "sasl.username": self.target.user,
                "sasl.password": self.target.password,
            }
        others = {k: v for k, v in self.target.options.items() if k not in OPTIONS}
        return told | others | {"log_level": 0} | more

    def _made(self) -> Producer:
        told = self.settings(
            **{
                "enable.idempotence": True,
                "message.timeout.ms": 0,  # the window says when it is too long
                "linger.ms": 5,
                "error_cb": self._note,
            }
        )
        try:
            return Producer(told)
        except (KafkaException, ValueError, TypeError) as exc:
            raise DeclarationError(line(self.target, exc)) from exc

    def _note(self, error: KafkaError) -> None:
        self._window.trouble = line(self.target, error)

    def _send(self) -> None:
        """
        Hand on what was appended, and hear what became of it.
        """
        again_at = 0.0
        while not self._closing.is_set():
            for item in self._window.fresh(timeout=0.05):
                self._produce(item)
            self._producer.poll(0)
            if self._refused and not again_at:
                again_at = time.monotonic() + AGAIN
            if again_at and time.monotonic() > again_at:
                again_at = 0.0
                if self._fatal:  # of no use any more; another one may be
                    self._drop()
                    self._producer, self._fatal = self._made(), False
                    self._window.again()
                    self._refused.clear()
                while self._refused:
                    self._produce(self._refused.popleft())
        self._drop()

    def _drop(self) -> None:
        self._producer.purge()
        self._producer.flush(1.0)

    def _produce(self, item: Outgoing) -> None:
        def reported(error: KafkaError | None, _: Message) -> None:
            if error is None:
                self._window.done([item.serial])
                return
            self._window.trouble = line(self.target, error)
            self._fatal = self._fatal or error.fatal()
            if not self._closing.is_set():
                self._refused.append(item)

        while not self._closing.is_set():
            with contextlib.suppress(BufferError):
                self._producer.produce(
                    self.topic,
                    item.payload,
                    item.key.encode(),
                    headers=[("id", item.id.encode())],
                    on_delivery=reported,
                )
                return
            self._producer.poll(0.1)
