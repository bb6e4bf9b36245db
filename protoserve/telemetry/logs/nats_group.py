"""
A member of a group of readers of a JetStream stream.

See `protoserve.telemetry.logs.nats` for what holds. Here is how: messages and statuses
come to one inbox and into one queue; a status names the pull that it ends, by the last
part of its subject. What comes after its pull was given up (a late message) stays in
the queue for the next `take`, and counts as held: it was delivered to us, so it is kept
alive, and given back when the member leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import time
from collections.abc import Sequence
from typing import Any, Protocol

import attrs
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from protoserve.telemetry._nats import Connection
from protoserve.telemetry.logs.base import Entry, LogUnavailableError
from protoserve.telemetry.logs.nats_names import Share, named
from protoserve.telemetry.logs.window import PATIENCE

__all__ = ["FIRST_WAIT", "LAST_WAIT", "NatsConsumer"]

FIRST_WAIT, LAST_WAIT = 0.05, 1.0
"""Seconds between two tries, doubled from the one to the other."""
HOLD = 600.0
"""Seconds for which what is taken and not acknowledged is kept for who took it."""
ACK_PENDING = 8192
"""Entries that a group may hold at a time, over all its members."""
LINGER = 5.0
"""Seconds for which one pull waits: a leader that dies forgets it without a word."""
ANSWER = 3.0
"""Seconds for an answer of a server that is there."""
ENDED = frozenset({"404", "408"})
"""Statuses that end a pull as it should: nothing there, its time is over."""


class Reached(Protocol):
    """
    What a member needs of its log.
    """

    connection: Connection

    def call(self, work: Any, timeout: float, *, connect: float) -> Any:
        """
        Run a coroutine on the connection's loop.
        """

    async def find(self, client: Client) -> None:
        """
        Make sure that the stream is there.
        """


@attrs.define
class Held:
    """
    What was delivered to us and is not acknowledged.
    """

    reply: str
    """Where to say so."""
    since: float


class NatsConsumer:
    """
    A member of a group. One thread at a time uses it.
    """

    def __init__(
        self, log: Reached, stream: str, group: str, *, ack_wait: float, share: Share
    ) -> None:
        self._log = log
        self._stream = stream
        self._durable = share.consumer(group)
        self._subjects = share.subjects(stream)
        self._ack_wait = ack_wait
        self._queue: asyncio.Queue[Msg] = asyncio.Queue()
        self._held: dict[int, Held] = {}
        self._client: Client | None = None
        self._inbox = ""
        self._subscription: Any = None
        self._pulls = 0
        self._trouble = ""
        self._made = False
        self._closed = False
        self._alive = log.connection.start(self._keep())[1]

    def take(self, most: int, timeout: float) -> list[Entry]:
        """
        Give the next entries, at most so many; none if none came within `timeout` s.

        Raises:
            LogUnavailableError: no server can be reached, or the group has no leader.
        """
        # The servers' answer comes at the end of that time, or a little later.
        taken: list[Entry] = self._call(
            lambda client: self._take(client, most, timeout),
            timeout + 2 * ANSWER,
            connect=max(timeout, LAST_WAIT),
        )
        return taken

    def ack(self, entries: Sequence[Entry]) -> None:
        """
        Say that entries are dealt with for good.

        It is not known to have arrived: if it did not, they are delivered again.
        """
        with contextlib.suppress(LogUnavailableError):
            self._call(
                lambda client: self._ack(client, entries), ANSWER, connect=LAST_WAIT
            )

    def seek(self, *, sequence: int | None = None, time: float | None = None) -> None:
        """
        Have the group go on from an entry, or from a moment (seconds since the epoch).

        The durable consumer is made anew, so what the group holds is forgotten.
        """
        start: dict[str, Any] = {}
        if time is not None:
            moment = dt.datetime.fromtimestamp(time, dt.UTC)
            start["deliver_policy"] = DeliverPolicy.BY_START_TIME
            start["opt_start_time"] = moment
        elif sequence is not None and sequence > 1:
            start["deliver_policy"] = DeliverPolicy.BY_START_SEQUENCE
            start["opt_start_seq"] = sequence
        self._call(
            lambda client: self._make(client, start, anew=True),
            PATIENCE,
            connect=PATIENCE,
        )

    def lag(self) -> int:
        """
        Say how many entries the group has yet to deal with.

        With a share, those of the share.
        """
        return int(self._call(self._lag, 2 * ANSWER, connect=ANSWER))

    def close(self) -> None:
        """
        Leave the group; what was not acknowledged is given to others at once.
        """
        if not self._closed:
            self._closed = True
            with contextlib.suppress(LogUnavailableError):
                self._log.call(self._leave, ANSWER, connect=0.1)

    def _call(self, work: Any, timeout: float, *, connect: float) -> Any:
        if self._closed:
            raise LogUnavailableError(f"{self._durable}: this member has left")

        async def made(client: Client) -> Any:
            if client is not self._client:
                await self._listen(client)
            if not self._made:
                await self._make(client, {})
            return await work(client)

        return self._log.call(made, timeout, connect=connect)

    async def _listen(self, client: Client) -> None:
        self._inbox = client.new_inbox()
        self._subscription = await client.subscribe(f"{self._inbox}.*", cb=self._came)
        self._client = client

    async def _came(self, msg: Msg) -> None:
        if msg.reply:
            self._held[msg.metadata.sequence.stream] = Held(msg.reply, time.monotonic())
        self._queue.put_nowait(msg)

    async def _make(
        self, client: Client, start: dict[str, Any], *, anew: bool = False
    ) -> None:
        """
        Make the durable consumer, if it is not there or if it is to start elsewhere.
        """
        jetstream = client.jetstream(timeout=ANSWER)
        config = ConsumerConfig(
            durable_name=self._durable,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self._ack_wait,
            max_ack_pending=ACK_PENDING,
            filter_subjects=self._subjects,
            **start,
        )
        wait, end = FIRST_WAIT, time.monotonic() + ANSWER
        while True:
            try:
                if anew:
                    with contextlib.suppress(NotFoundError):
                        await jetstream.delete_consumer(self._stream, self._durable)
                    self._forget()
                else:
                    with contextlib.suppress(NotFoundError):
                        await jetstream.consumer_info(self._stream, self._durable)
                        break
                    await self._log.find(client)
                await jetstream.add_consumer(self._stream, config)
                break
            except (nats.errors.Error, TimeoutError) as exc:
                # No leader yet, or another member has just made it in another way.
                if time.monotonic() > end:
                    raise
                self._trouble = str(exc)
                await asyncio.sleep(wait)
                wait = min(wait * 2, LAST_WAIT)
        self._made = True

    def _forget(self) -> None:
        self._held.clear()
        while not self._queue.empty():
            self._queue.get_nowait()

    async def _take(self, client: Client, most: int, within: float) -> list[Entry]:
        deadline = time.monotonic() + within
        self._trouble, wait = "", FIRST_WAIT
        taken: list[Entry] = []
        while True:
            taken += await self._pull(client, most)
            left = deadline - time.monotonic()
            if taken:
                return taken
            if not self._trouble and left > 0:
                # One, and then what else there is: a pull for many would wait for all.
                taken += await self._pull(client, 1, min(left, LINGER))
                most -= len(taken)
                if most == 0:
                    return taken
                left = deadline - time.monotonic()
            if left <= 0 and not taken:
                if self._trouble:
                    raise ConnectionError(f"{self._durable}: {self._trouble}")
                return []
            if self._trouble:
                await asyncio.sleep(min(wait, left))
                wait = min(wait * 2, LAST_WAIT)
                await self._make(client, {})
                self._trouble = ""

    async def _pull(
        self, client: Client, most: int, linger: float | None = None
    ) -> list[Entry]:
        """
        Ask for entries once, and give what comes.
        """
        taken: list[Entry] = []
        while not self._queue.empty() and len(taken) < most:
            taken += self._entry(self._queue.get_nowait())
        if len(taken) == most:
            return taken
        self._pulls += 1
        end = f"{self._inbox}.{self._pulls}"
        asked: dict[str, Any] = {"batch": most - len(taken)}
        asked |= {"expires": int(linger * 1e9)} if linger else {"no_wait": True}
        await client.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._durable}",
            json.dumps(asked).encode(),
            reply=end,
        )
        until = time.monotonic() + (linger or 0.0) + ANSWER
        while len(taken) < most:
            try:
                left = until - time.monotonic()
                msg = await asyncio.wait_for(self._queue.get(), left)
            except TimeoutError:
                self._trouble = "no answer"
                break
            if msg.reply:
                taken += self._entry(msg)
            elif msg.subject == end:
                status = (msg.headers or {}).get("Status", "")
                if status not in ENDED:
                    said = (msg.headers or {}).get("Description", "no leader")
                    self._trouble = f"{status} {said}"
                break
        return taken

    def _entry(self, msg: Msg) -> list[Entry]:
        if not msg.reply:
            return []  # the end of an earlier pull
        id, key = named(msg.headers)  # noqa: A001 - the port's word
        about = msg.metadata
        return [
            Entry(
                sequence=about.sequence.stream,
                id=id or f"{self._stream}:{about.sequence.stream}",
                key=key or msg.subject,
                time=about.timestamp.timestamp(),
                payload=msg.data,
            )
        ]

    async def _ack(self, client: Client, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if held := self._held.pop(entry.sequence, None):
                await client.publish(held.reply, b"+ACK")
        await client.flush(timeout=int(ANSWER))

    async def _lag(self, client: Client) -> int:
        jetstream = client.jetstream(timeout=ANSWER)
        wait, end = FIRST_WAIT, time.monotonic() + ANSWER
        while True:
            try:
                info = await jetstream.consumer_info(self._stream, self._durable)
                return (info.num_pending or 0) + (info.num_ack_pending or 0)
            except (nats.errors.Error, TimeoutError):
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(wait)
                wait = min(wait * 2, LAST_WAIT)

    async def _keep(self) -> None:
        """
        Say from time to time that what is held is still worked on.
        """
        while not self._closed:
            await asyncio.sleep(self._ack_wait / 3)
            client, now = self._client, time.monotonic()
            late = [n for n, held in self._held.items() if now - held.since > HOLD]
            for sequence in late:
                del self._held[sequence]
            with contextlib.suppress(nats.errors.Error, OSError):
                for held in list(self._held.values()):
                    if client is not None and client.is_connected:
                        await client.publish(held.reply, b"+WPI")

    async def _leave(self, client: Client) -> None:
        self._alive.cancel()
        for held in self._held.values():
            await client.publish(held.reply, b"-NAK")
        self._held.clear()
        if client is self._client and self._subscription is not None:
            await self._subscription.unsubscribe()
        await client.flush(timeout=int(ANSWER))
