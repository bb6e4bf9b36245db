"""
NATS JetStream as a log: a stream on up to three servers, a durable consumer a group.

Writing. Entries are published many at a time, each with its id as ``Nats-Msg-Id``, and
confirmed by the stream's leader once most servers have them. When anything goes wrong
(an error, no confirmation for three seconds, another connection) all that is not yet
confirmed is sent again, in order, the oldest first and the rest when that has been
confirmed: the server drops what it already has, by the id, for
as long as its ``duplicate_window`` says. Sending again only what failed would be less,
and would put entries behind those that came after them.

Reading. All members of a group pull from one durable consumer with explicit
acknowledgements. A pull says ``no_wait`` first, so that its end is known and nothing is
delivered to a member that has stopped waiting. What a member holds is kept for it by
``+WPI`` (in progress), as long as its process lives, and no longer than ten minutes;
what a dead one held is given to others after ``ack_wait``.

An entry's subject is ``NAME.PARTITION.KEY``; keys are spread over 64 partitions. Members
of a group with ``?share=1/3`` get a third of the partitions, so that all entries of a
key come to one member and in order. Without it members take turns: entries are given
out in order, and may be finished in another.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import errors
from nats.js.api import DiscardPolicy, StorageType, StreamConfig

from protoserve.telemetry._nats import PORT, Connection
from protoserve.telemetry.logs.base import LogUnavailableError
from protoserve.telemetry.logs.nats_group import (
    FIRST_WAIT,
    LAST_WAIT,
    NatsConsumer,
)
from protoserve.telemetry.logs.nats_names import headers, share, subject, token
from protoserve.telemetry.logs.options import authorities, read
from protoserve.telemetry.logs.window import (
    ENTRIES,
    MAX_ENTRY,
    PATIENCE,
    Outgoing,
    Window,
)
from protoserve.telemetry.sinks.options import count, one_of, seconds, size

__all__ = ["NatsLog"]

OPTIONS: dict[str, Callable[[str], Any]] = {
    "ack_wait": seconds,
    "ca": authorities,
    "discard": one_of("old", "new"),
    "duplicate_window": seconds,
    "max_age": seconds,
    "max_bytes": size,
    "replicas": count,
    "share": share,
}
HEADERS = 2048
"""Bytes left for the headers; the servers' limit counts them."""
STALLED = 3.0
"""Seconds without a confirmation after which all is sent again."""


class NatsLog:
    """
    A stream of JetStream; it is made if it is missing.

    Args:
        url: ``nats://host:port,host:port…``, with options:
            ``ack_wait`` (seconds after which a dead member's entries go to others, 30),
            ``ca`` (a file of certificates: TLS, from the first byte), ``discard``
            (``old`` or ``new``: what goes when the stream is full),
            ``duplicate_window`` (seconds, 120), ``max_age`` (seconds, 86400),
            ``max_bytes`` (of the stream, 4 GiB), ``replicas`` (the number of servers,
            at most 3), ``share`` (``1/3``, of a group's partitions).
        name: the stream's, and the first part of its subjects.
        patience: seconds without a confirmation until `LogUnavailableError`.

    Raises:
        DeclarationError: the URL or an option is wrong.
    """

    def __init__(self, url: str, *, name: str, patience: float = PATIENCE) -> None:
        target, wishes = read(url, port=PORT, options=OPTIONS)
        self._name = token(name)
        self._patience = patience
        wish = wishes.get
        self._config = StreamConfig(
            name=self._name,
            subjects=[f"{self._name}.>"],
            storage=StorageType.FILE,
            num_replicas=wish("replicas", min(3, len(target.hosts))),
            max_age=wish("max_age", 86_400.0),
            max_bytes=wish("max_bytes", 4 << 30),
            duplicate_window=wish("duplicate_window", 120.0),
            discard=DiscardPolicy(wish("discard", "old")),
        )
        self._ack_wait: float = wish("ack_wait", 30.0)
        self._share = wish("share", share("1/1"))
        self.max_entry = MAX_ENTRY
        self.connection = Connection(
            target, label=f"protoserve {self._name}", tls=wish("ca")
        )
        """What it is reached by."""
        self._window = Window(str(target), self._wake, patience=patience)
        self._something = asyncio.Event()
        self._refused = ""
        self._trying = False
        self._loop, _ = self.connection.start(self._send())
        self._found = False

    def append(self, key: str, payload: bytes, id: str) -> None:  # noqa: A002
        """
        Append an entry; it is safe when `flush` has returned.

        Raises:
            EntryTooLargeError: it is larger than the servers' ``max_payload``.
            LogUnavailableError: no server can be reached, or none confirms.
        """
        if not self._found:
            self.call(self.find, self._patience + STALLED, connect=self._patience)
        self._window.add(id, key, payload)

    def flush(self) -> None:
        """
        Wait until all that was appended is on most of the stream's servers.

        Raises:
            LogUnavailableError: nothing was confirmed for 30 seconds.
        """
        self._window.settle()

    def consume(self, group: str) -> NatsConsumer:
        """
        Read as a member of a group; a new group begins with the oldest entry.
        """
        return NatsConsumer(
            self, self._name, token(group), ack_wait=self._ack_wait, share=self._share
        )

    def close(self) -> None:
        """
        Disconnect; what was not flushed may be lost.
        """
        self._window.close()
        self.connection.close()

    def call(self, work: Any, timeout: float, *, connect: float) -> Any:
        """
        Run a coroutine on the connection's loop.

        Raises:
            LogUnavailableError: it cannot be done now.
        """
        try:
            return self.connection.call(work, timeout, connect=connect)
        except ConnectionError as exc:
            raise LogUnavailableError(str(exc)) from exc

    async def find(self, client: Client) -> None:
        """
        Make sure that the stream is there.
        """
        jetstream = client.jetstream(timeout=STALLED)
        wait, end = FIRST_WAIT, time.monotonic() + self._patience
        while True:
            try:
                try:
                    info = await jetstream.stream_info(self._name)
                except errors.NotFoundError:
                    info = await jetstream.add_stream(self._config)
                break
            except (nats.errors.Error, TimeoutError) as exc:
                # A cluster that has just started has no leader who could say.
                if time.monotonic() > end:
                    raise
                self._window.trouble = self.connection.trouble(exc)
                await asyncio.sleep(wait)
                wait = min(wait * 2, LAST_WAIT)
        largest = client.max_payload - HEADERS
        if (most := info.config.max_msg_size or -1) > 0:
            largest = min(largest, most - HEADERS)
        self.max_entry = self._window.limit = min(MAX_ENTRY, largest)
        self._found = True

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._something.set)

    async def _send(self) -> None:
        """
        Send what is appended, and all again when something went wrong.
        """
        window, connection, wait = self._window, self.connection, FIRST_WAIT
        listening, inbox = None, ""
        while True:
            client = await connection.client()
            epoch, start = connection.epoch, time.monotonic()
            self._refused = ""
            try:
                if listening is not client:
                    inbox = client.new_inbox()
                    await client.subscribe(f"{inbox}.*", cb=self._confirmed)
                    listening = client
                while connection.epoch == epoch and not self._refused:
                    self._something.clear()
                    # A stream that is full, or has no leader, is tried with one entry.
                    self._trying = self._trying and window.progress < start
                    for item in window.fresh(1 if self._trying else ENTRIES):
                        await self._publish(client, item, f"{inbox}.{item.serial}")
                    since = max(start, window.progress)
                    if len(window) and time.monotonic() - since > STALLED:
                        window.trouble = connection.trouble("no confirmation")
                        break
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._something.wait(), 0.25)
            except (nats.errors.Error, OSError) as exc:
                self._refused = str(exc)
            if self._refused:
                window.trouble = connection.trouble(self._refused)
                with contextlib.suppress(nats.errors.Error, TimeoutError, OSError):
                    async with asyncio.timeout(LAST_WAIT):
                        await self.find(client)  # somebody may have deleted it
            wait = FIRST_WAIT if window.progress > start else min(wait * 2, LAST_WAIT)
            await asyncio.sleep(wait)
            self._trying = True
            window.again()

    async def _publish(self, client: Client, item: Outgoing, reply: str) -> None:
        await client.publish(
            subject(self._name, item.key),
            item.payload,
            reply=reply,
            headers=headers(item.id, item.key),
        )

    async def _confirmed(self, msg: Msg) -> None:
        if not msg.data:
            self._refused = "the stream has no leader"
        elif error := json.loads(msg.data).get("error"):
            self._refused = str(error.get("description") or error)
        else:
            self._window.done([int(msg.subject.rpartition(".")[2])])
            if not self._trying:
                return
        self._something.set()
