"""
A client under an event loop, for one task or many: `Client`'s names, awaited.
"""

# ruff: noqa: ASYNC109 - a peer's time has an error of its own

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
import warnings
from collections import deque
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Any, Self

import attrs

from protoserve.client._async_link import AsyncLink, async_opened
from protoserve.client._base import ClientBase, remaining
from protoserve.client._call import Call
from protoserve.errors import PeerTimeoutError, SessionClosedError
from protoserve.events import MessageReceived
from protoserve.messages import Message, Request, ResponseT
from protoserve.protocol import Protocol
from protoserve.session import Session

__all__ = ["AsyncClient"]


_TURNS = 2
"""Turns of the loop, after which it has seen that the peer had closed before."""


class AsyncClient(ClientBase):
    """
    Talks to one peer in a declared protocol, under an event loop.

    It is `Client` with the same options and names, and what waits there is awaited
    here. Any number of tasks may share it. A task that is cancelled while it waits
    leaves the others as they are. Iterators that are left early are closed by
    `contextlib.aclosing`, or when they are forgotten.
    """

    _link: AsyncLink | None

    def __init__(
        self,
        protocol: Protocol,
        url: str,
        *,
        timeout: float | None = 5.0,
        retries: int = 3,
        backoff: float = 0.5,
        tls: bool | ssl.SSLContext | None = None,
        reconnect: bool = False,
        backlog: int = 1024,
    ) -> None:
        super().__init__(
            protocol,
            url,
            timeout=timeout,
            retries=retries,
            backoff=backoff,
            tls=tls,
            reconnect=reconnect,
            backlog=backlog,
        )
        self._connecting = asyncio.Lock()
        self._turn = asyncio.Lock()

    # The connection ----------------------------------------------------------

    async def connect(self) -> None:
        """
        Connect, unless that is done; there is no need to call this.

        Raises:
            PeerTimeoutError: it took too long.
            ConnectionRefusedError: nobody listens there.
            OSError: another of the system's errors.
            SessionClosedError: the client is closed.
        """
        await self._linked(self._seconds(None))

    async def close(self) -> None:
        """
        End it all. Who waits is told `SessionClosedError`.
        """
        error = self._closing()
        if self._link is not None:
            await self._link.close(error)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        link = getattr(self, "_link", None)
        if link is None or self._closed or not link.usable:
            return
        warnings.warn(
            f"{self!r} was forgotten while it was open",
            ResourceWarning,
            stacklevel=1,
            source=self,
        )
        with contextlib.suppress(RuntimeError):  # the loop may be gone
            link.abort()

    async def session(self) -> Session:
        """
        Give the conversation: its `peer`, its `phase` in the protocol's state table.
        """
        return (await self._linked(self._seconds(None))).calls.session

    async def _linked(self, timeout: float | None) -> AsyncLink:
        link = self._link
        if self._reconnect and link is not None:
            for _ in range(_TURNS):
                await asyncio.sleep(0)
        if link is not None and link.usable:
            return link
        try:
            async with asyncio.timeout(timeout):
                await self._connecting.acquire()
        except TimeoutError as exc:
            raise self._target.timed_out(timeout) from exc
        try:
            self._check_open()
            link = self._link
            if link is not None and link.usable:
                return link
            if link is not None:
                if not self._reconnect:
                    link.calls.check()
                link.abort()
            made = await async_opened(
                AsyncLink(
                    self.protocol,
                    self._target,
                    self._options,
                    self.stats,
                    self._unread,
                ),
                timeout,
            )
            self.stats.connections += 1
            self._link = made
            if self._closed:  # by another task, which has not seen this one
                await made.close(self._closing())
            return made
        finally:
            self._connecting.release()

    # Asking ------------------------------------------------------------------

    async def call(
        self,
        request: Request[ResponseT],
        *,
        header: Any = None,
        timeout: float | None = None,
    ) -> ResponseT:
        """
        Ask, and wait for the answer, as `Client.call` does.

        Raises:
            ErrorResponse: the peer answered with a message declared as an error.
            PeerTimeoutError: there was no answer in time.
            RemoteProtocolError: the answer is malformed, or is none to this request.
            LocalProtocolError: the request cannot be sent (now).
            ConnectionError: refused, reset, or over (`SessionClosedError`).
        """
        answer = await self._answer(request, header, timeout)
        return answer.message  # type: ignore[no-any-return]

    async def ask(
        self,
        request: Message,
        *,
        header: Any = None,
        timeout: float | None = None,
    ) -> MessageReceived:
        """
        Ask as `call` does, and give the answer with its header and frame.
        """
        answer = await self._answer(request, header, timeout)
        return attrs.evolve(answer, request=request)

    async def exchange(
        self,
        request: Message,
        *,
        header: Any = None,
        timeout: float | None = None,
    ) -> Message:
        """
        Ask, and take what comes next for the answer: for protocols without correlation.

        One at a time; other tasks wait for their turn. With correlation it is `call`.
        """
        answer = await self._answer(request, header, timeout)
        return answer.message  # type: ignore[no-any-return]

    async def _answer(
        self, request: Message, header: Any, timeout: float | None
    ) -> MessageReceived:
        seconds = self._seconds(timeout)
        if self._keyed:
            return await self._asked(request, header, seconds)
        started = time.monotonic()
        await self._take_turn(seconds)
        try:
            return await self._asked(request, header, remaining(seconds, started))
        finally:
            await self._end_turn()

    async def _take_turn(self, timeout: float | None) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._turn.acquire()
        except TimeoutError as exc:
            raise self._no_turn(timeout) from exc

    async def _end_turn(self) -> None:
        """
        See to it that no answer is taken for another's, and let the next one ask.
        """
        try:
            link = self._link
            error = None if link is None else self._unsettled(link.calls)
            if link is not None and error is not None:
                if not self._one_conversation:
                    self._link = None
                await link.close(error)
        finally:
            self._turn.release()

    async def _asked(
        self,
        request: Message,
        header: Any,
        timeout: float | None,
    ) -> MessageReceived:
        left, started = timeout, time.monotonic()
        for repeats in range(self._options.retries, -1, -1):
            link = await self._linked(left)
            call = None
            try:
                call = link.ask(request, header=header, timeout=left)
                await link.start([call])
                return await link.result(call)
            except ConnectionError:
                sent = call is not None and call.sent
                if not (repeats and self._may_repeat(request, sent=sent)):
                    raise
            left = remaining(timeout, started)
        raise AssertionError  # the last attempt has returned or raised

    async def call_many(
        self,
        requests: Iterable[Request[ResponseT]],
        *,
        window: int = 32,
        timeout: float | None = None,
    ) -> AsyncIterator[ResponseT]:
        """
        Ask many, without waiting for each answer before the next request.

        Args:
            requests: what to ask; they are taken as they are needed.
            window: how many may be without an answer at the same time. Without
                correlation, it is one.
            timeout: seconds for each answer; `None` is the client's own.

        Yields:
            The answers, in the order of the requests.

        Raises:
            ErrorResponse: as for `call`; the rest is given up.
        """
        self._check_window(window)
        if not self._keyed:
            for request in requests:
                yield await self.call(request, timeout=timeout)
            return
        seconds = self._seconds(timeout)
        link = await self._linked(seconds)
        waiting: deque[Call] = deque()
        unsent: list[Call] = []
        try:
            for request in requests:
                if len(waiting) >= window:
                    yield await _next_of(link, waiting, unsent)
                call = link.ask(request, timeout=seconds)
                waiting.append(call)
                unsent.append(call)
            while waiting:
                yield await _next_of(link, waiting, unsent)
        finally:
            link.give_up(waiting)

    async def stream(
        self,
        request: Request[ResponseT],
        *,
        header: Any = None,
        timeout: float | None = None,
    ) -> AsyncIterator[ResponseT]:
        """
        Ask for what has several answers, and give each as it comes.

        It has no end of its own: leave the loop when you have them all.

        Args:
            request: what to ask.
            header: its header.
            timeout: seconds until the next answer; `None` is the client's own.

        Raises:
            PeerTimeoutError: the next answer did not come in time.
        """
        seconds = self._seconds(timeout)
        if not self._keyed:
            await self._take_turn(seconds)
        try:
            link = await self._linked(seconds)
            call = link.ask(request, header=header, timeout=seconds, several=True)
            try:
                await link.start([call])
                while True:
                    yield (await link.result(call)).message
                    link.calls.renew(call)
            finally:
                link.give_up([call])
        finally:
            if not self._keyed:
                await self._end_turn()

    # Without asking ----------------------------------------------------------

    async def send(self, message: Message, *, header: Any = None) -> None:
        """
        Send a message and wait for nothing. Its answers, if any, are for `receive`.

        Raises:
            LocalProtocolError: it cannot be sent (now).
            PeerTimeoutError: the peer does not read.
            ConnectionError: refused, reset, or over.
        """
        await self.transmit(message, header=header)

    async def transmit(self, message: Message, *, header: Any = None) -> bytes:
        """
        Send as `send` does, and give the bytes that were sent, with what framing adds.
        """
        seconds = self._seconds(None)
        link = await self._linked(seconds)
        return await link.send(message, header, seconds)

    async def receive(self, *, timeout: float | None = None) -> Message:
        """
        Wait for the next message that is no answer to a call.

        Args:
            timeout: seconds; `None` is the client's own.

        Raises:
            PeerTimeoutError: none came in time.
            RemoteProtocolError: a frame came that is no message; the next may be fine.
            ConnectionError: refused, reset, or over.
        """
        event = await self.receive_event(timeout=timeout)
        return event.message  # type: ignore[no-any-return]

    async def receive_event(
        self,
        *,
        timeout: float | None = None,
    ) -> MessageReceived:
        """
        Wait as `receive` does, and give the message with its header and frame.
        """
        return await self._received(self._seconds(timeout))

    async def _received(self, timeout: float | None) -> MessageReceived:
        link = self._link
        if link is None or (self._reconnect and not self._unread):
            link = await self._linked(timeout)
        return await link.result(link.calls.listen(timeout))

    async def messages(
        self,
        *,
        timeout: float | None = None,
    ) -> AsyncIterator[Message]:
        """
        Give the messages that are no answers to calls, as they come.

        It ends when the peer, or another task, closes the session. A frame that is no
        message ends it with its error; go on with another iterator then.

        Args:
            timeout: seconds without a message after which it ends; `None`: never.
        """
        async for event in self.events(timeout=timeout):
            yield event.message

    async def events(
        self,
        *,
        timeout: float | None = None,
    ) -> AsyncIterator[MessageReceived]:
        """
        Give messages as `messages` does, with header and frame.
        """
        while True:
            try:
                event = await self._received(timeout)
            except (PeerTimeoutError, SessionClosedError):
                return
            yield event


async def _next_of(link: AsyncLink, waiting: deque[Call], unsent: list[Call]) -> Any:
    """
    Wait for the first of many; before that all that was held back is sent.
    """
    first = waiting[0]
    if not first.ready and unsent:
        await link.start(unsent)
        unsent.clear()
    answer = await link.result(first, waiting)
    waiting.popleft()
    return answer.message
