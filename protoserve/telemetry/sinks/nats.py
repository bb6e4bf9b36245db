"""
NATS JetStream: a batch is one atomic batch of few large messages.

In the stream, ``protoserve.flows`` is the subject of the table ``flows``; its messages are
Arrow IPC streams, below the server's limit of a message. The last message of a batch, of
the subject ``protoserve._entries``, has the ids of the log's entries: the server takes all
of a batch or nothing of it (``allow_atomic``, from nats-server 2.12 on). What is known is
read from the end of that subject, anew each time, so that workers know of each other.

Traps: a batch that was not answered may yet be stored. Its last message has the ids'
digest as its ``Nats-Msg-Id``, so that the server refuses the same batch within
``duplicate_window``, and who asks `known` by then is told. Streams that somebody else has
made are taken as they are.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import pyarrow as pa
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from protoserve.errors import DeclarationError
from protoserve.telemetry._nats import PORT, Connection
from protoserve.telemetry.sinks._batches import Recent, bodies, digest
from protoserve.telemetry.sinks._network import CONNECT_TIMEOUT, TIMEOUT, NetworkSink
from protoserve.telemetry.sinks.base import SinkRefusedError, SinkUnavailableError
from protoserve.telemetry.sinks.schema import already_stored, plain

__all__ = ["NATSSink"]

T = TypeVar("T")

_TAIL = 20_000
"""Messages at the end of the stream in which ids are looked for, when a sink is opened."""
_IDS = 1_000_000
_HEADERS = 1_024
"""Bytes of a message that are left for its headers."""
_MOST_MESSAGES = 1_000
"""Messages of an atomic batch, a limit of the server's."""
_WINDOW = 120
"""Seconds in which the server takes the same batch once."""
_SECOND = 1_000_000_000
_TAKEN = 10058
"""The stream is there, made in another way."""
_DUPLICATE = 10201
"""The last message's id is known."""
_NO_STREAM = 10059
_NO_MESSAGE = 10037


class NATSSink(NetworkSink):
    """
    A stream of a NATS server or cluster.

    Args:
        url: ``nats://[USER:PASSWORD@]HOST[:PORT][,…][/STREAM]``; options are
            ``credentials`` (a file), and of a stream that is made, ``replicas``,
            ``keep`` (seconds) and ``max_bytes``.
    """

    def __init__(self, url: str) -> None:
        options = ("credentials", "max_bytes", "keep", "replicas")
        super().__init__(url, port=PORT, options=options)
        target = self._target
        self._stream = target.path or "protoserve"
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self._stream):
            raise DeclarationError(
                f"{self.url}: expected a stream's name of letters, digits, '-' and '_', "
                f"found {self._stream!r}"
            )
        self._entries = f"{self._stream}._entries"
        self._config = {
            "name": self._stream,
            "subjects": [f"{self._stream}.>"],
            "storage": "file",
            "retention": "limits",
            "discard": "old",
            "num_replicas": target.number("replicas", min(3, len(target.hosts))),
            "max_bytes": target.number("max_bytes", 4 << 30),
            "max_age": _SECOND * target.number("keep", 7 * 86_400, least=_WINDOW),
            "duplicate_window": _SECOND * _WINDOW,
            "allow_atomic": True,
        }
        self._connection: Connection | None = None
        self._recent = Recent(_IDS)
        self._read: int | None = None
        self._asked = False

    def open(self) -> None:
        if self._connection is None:
            self._connection = Connection(self._target, label="protoserve sink")
        self._read, self._asked = None, False
        try:
            self._call(self._make)
        except BaseException:
            self.close()
            raise

    def known(self, ids: Sequence[str]) -> set[str]:
        self._call(self._catch_up)
        self._asked = True
        return self._recent.among(ids)

    def store(self, tables: Mapping[str, pa.Table], ids: Sequence[str]) -> None:
        ready = [(_token(name), plain(name, rows)) for name, rows in tables.items()]

        async def publish(client: Client) -> None:
            most = client.max_payload - _HEADERS
            messages = [
                (f"{self._stream}.{name}", body)
                for name, rows in ready
                for body in bodies(name, rows, most)
            ]
            messages.append((self._entries, "\n".join(dict.fromkeys(ids)).encode()))
            if len(messages) > _MOST_MESSAGES or len(messages[-1][1]) > most:
                raise SinkRefusedError(
                    f"{self.url}: expected a batch of at most {_MOST_MESSAGES} messages, "
                    f"found {len(messages)}; lower max_rows"
                )
            batch = uuid.uuid4().hex
            for number, (subject, body) in enumerate(messages, 1):
                headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
                if number == len(messages):
                    headers["Nats-Batch-Commit"] = "1"
                    if ids:
                        headers["Nats-Msg-Id"] = digest(ids)
                answer = await client.request(
                    subject, body, timeout=TIMEOUT, headers=headers
                )
                # Only the last one is answered with words, unless something is wrong.
                self._answer(answer.data, passed=(_DUPLICATE,))

        if ids and (there := self._there(ids)):
            already_stored(self.url, there, ids)
            return
        self._call(publish)
        self._recent.add(ids)

    def _there(self, ids: Sequence[str]) -> set[str]:
        """
        Say what is known; who has asked just now is not made to wait again.
        """
        return self._recent.among(ids) if self._asked else self.known(ids)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _make(self, client: Client) -> None:
        """
        Make the stream, if it is not there.
        """
        said = await self._ask(client, "STREAM.CREATE", self._config, passed=(_TAKEN,))
        if "error" in said:
            said = await self._ask(client, "STREAM.INFO")
        if not said["config"].get("allow_atomic"):
            raise SinkRefusedError(
                f"{self.url}: expected a stream with allow_atomic (of nats-server 2.12 or "
                "newer), found one without"
            )
        self._read = max(0, said["state"]["last_seq"] - _TAIL)

    async def _catch_up(self, client: Client) -> None:
        """
        Read the ids that are new.
        """
        if self._read is None:
            await self._make(client)
        last = await self._ask(
            client, "STREAM.MSG.GET", {"last_by_subj": self._entries}, (_NO_MESSAGE,)
        )
        end = last["message"]["seq"] if "message" in last else 0
        if end <= (self._read or 0):
            return
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=(self._read or 0) + 1,
            ack_policy=AckPolicy.NONE,
            mem_storage=True,
            num_replicas=1,
            inactive_threshold=TIMEOUT,
        )
        reader = await client.jetstream().pull_subscribe(
            self._entries, stream=self._stream, config=config
        )
        try:
            while (self._read or 0) < end:
                for message in await reader.fetch(1_000, timeout=TIMEOUT):
                    self._recent.add(message.data.decode().split("\n"))
                    self._read = message.metadata.sequence.stream
        finally:
            await reader.unsubscribe()

    async def _ask(
        self,
        client: Client,
        what: str,
        body: Mapping[str, Any] | None = None,
        passed: Sequence[int] = (),
    ) -> dict[str, Any]:
        answer = await client.request(
            f"$JS.API.{what}.{self._stream}",
            json.dumps(body).encode() if body is not None else b"",
            timeout=TIMEOUT,
        )
        return self._answer(answer.data, passed)

    def _answer(self, data: bytes, passed: Sequence[int]) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(data or b"{}")
        if (error := said.get("error")) and error.get("err_code") not in passed:
            if error.get("err_code") == _NO_STREAM:
                self._read = None  # it is made anew
            raise SinkUnavailableError(
                self._line(f"stream {self._stream}: {error.get('description')}")
            )
        return said

    def _call(self, work: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        if self._connection is None:
            self.open()
        assert self._connection is not None
        try:
            return self._connection.call(work, TIMEOUT, connect=CONNECT_TIMEOUT)
        except ConnectionError as exc:
            raise SinkUnavailableError(str(exc)) from None


def _token(name: str) -> str:
    """
    Make a table's name a part of a subject.
    """
    return re.sub(r"[\s.*>]", "_", name)
