"""
A client that blocks, for one thread or many.

There is no thread behind it. Of the callers that wait, one reads for all (`Link`): a
program with one thread pays for nothing else, and answers reach whoever they are for.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import attrs

from protoserve.client._base import ClientBase, remaining
from protoserve.client._call import Call
from protoserve.client._connecting import opened
from protoserve.client._link import Link
from protoserve.errors import PeerTimeoutError, SessionClosedError
from protoserve.events import MessageReceived
from protoserve.messages import Message, Request, ResponseT
from protoserve.protocol import Protocol
from protoserve.session import Session

__all__ = ["Client"]


class Client(ClientBase):
    """
    Talks to one peer in a declared protocol.

    It connects when it is first used, or by ``with``. Any number of threads may share
    it. Make it after a fork, not before.

    Args:
        protocol: what is spoken.
        url: where the peer is: ``tcp://``, ``tls://`` or ``udp://HOST:PORT``,
            ``unix://`` or ``unixgram:///PATH``.
        timeout: seconds that connecting, or the answer to a request, may take, with
            everything that is sent again; `None` waits for ever.
        retries: how many times a datagram is sent again if no answer comes; and how
            many times a request may be sent on a new connection, with `reconnect`.
        backoff: seconds until it is sent again for the first time; each time after
            that it takes twice as long.
        tls: the context for ``tls://``, with the client's certificate if it has one;
            by default the system's authorities are trusted, and the name is checked.
        reconnect: connect anew when the connection was lost. A request that the peer
            may have acted on is asked again only if its class is declared with
            ``idempotent=True``.
        backlog: messages that are kept until somebody receives them.

    Raises:
        DeclarationError: an option makes no sense, or the protocol cannot be spoken
            over that transport.
    """

    _link: Link | None

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
        self._connecting = threading.Lock()
        self._turn = threading.Lock()
        """Without correlation: is held by the exchange that is under way."""

    # The connection ----------------------------------------------------------

    def connect(self) -> None:
        """
        Connect, unless that is done; there is no need to call this.

        Raises:
            PeerTimeoutError: it took too long.
            ConnectionRefusedError: nobody listens there.
            OSError: another of the system's errors.
            SessionClosedError: the client is closed.
        """
        self._linked(self._seconds(None))

    def close(self) -> None:
        """
        End it all, now, from any thread. Who waits is told `SessionClosedError`.
        """
        error = self._closing()
        link = self._link
        if link is not None:
            link.close(error)

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def session(self) -> Session:
        """
        The conversation: its `peer`, and its `phase` in the protocol's state table.
        """
        return self._linked(self._seconds(None)).calls.session

    def _linked(self, timeout: float | None) -> Link:
        """
        Give the connection; make it if there is none, or a new one where that is asked
        for.
        """
        link = self._link
        if link is not None and link.usable(probe=self._reconnect):
            return link
        if not self._connecting.acquire(timeout=-1 if timeout is None else timeout):
            raise self._target.timed_out(timeout)
        try:
            self._check_open()
            link = self._link
            if link is not None and link.usable():
                return link
            if link is not None:
                if not self._reconnect:
                    link.calls.check()
                link.close(SessionClosedError("it is over already"))
            sock, peer = opened(self._target, timeout)
            made = Link(
                sock, self.protocol, peer, self._options, self.stats, self._unread
            )
            self.stats.connections += 1
            self._link = made
            if self._closed:  # by another thread, which has not seen this one
                made.close(self._closing())
            return made
        finally:
            self._connecting.release()

    # Asking ------------------------------------------------------------------

    def call(
        self,
        request: Request[ResponseT],
        *,
        header: Any = None,
        timeout: float | None = None,
    ) -> ResponseT:
        """
        Ask, and wait for the answer.

        Args:
            request: what to ask.
            header: the request's header, for what the defaults do not say; the key
                that answers are known by is put in.
            timeout: seconds; `None` is the client's own.

        Returns:
            The answer, of one of the classes that the request names.

        Raises:
            ErrorResponse: the peer answered with a message declared as an error.
            PeerTimeoutError: there was no answer in time.
            RemoteProtocolError: the answer is malformed, or is none to this request.
            LocalProtocolError: the request cannot be sent (now).
            ConnectionError: refused, reset, or over (`SessionClosedError`).
        """
        return self._answer(request, header, timeout).message  # type: ignore[no-any-return]

    def ask(
        self, request: Message, *, header: Any = None, timeout: float | None = None
    ) -> MessageReceived:
        """
        Ask as `call` does, and give the answer with its header and frame.
        """
        answer = self._answer(request, header, timeout)
        return attrs.evolve(answer, request=request)

    def exchange(
        self, request: Message, *, header: Any = None, timeout: float | None = None
    ) -> Message:
        """
        Ask, and take what comes next for the answer: for protocols without correlation.

        One at a time; other threads wait for their turn. With correlation it is `call`.
        """
        return self._answer(request, header, timeout).message  # type: ignore[no-any-return]

    def _answer(
        self, request: Message, header: Any, timeout: float | None
    ) -> MessageReceived:
        seconds = self._seconds(timeout)
        if self._keyed:
            return self._asked(request, header, seconds)
        return self._exchanged(request, header, seconds)

    def _exchanged(
        self, request: Message, header: Any, timeout: float | None
    ) -> MessageReceived:
        started = time.monotonic()
        self._take_turn(timeout)
        try:
            return self._asked(request, header, remaining(timeout, started))
        finally:
            try:
                self._settle()
            finally:
                self._turn.release()

    def _take_turn(self, timeout: float | None) -> None:
        if not self._turn.acquire(timeout=-1 if timeout is None else timeout):
            raise self._no_turn(timeout)

    def _settle(self) -> None:
        """
        See to it that no answer is taken for another's.
        """
        link = self._link
        error = None if link is None else self._unsettled(link.calls)
        if link is None or error is None:
            return
        if not self._one_conversation:
            self._link = None
        link.close(error)

    def _asked(
        self, request: Message, header: Any, timeout: float | None
    ) -> MessageReceived:
        left, started = timeout, time.monotonic()
        for repeats in range(self._options.retries, -1, -1):
            link = self._linked(left)
            sent = False
            try:
                call = link.begin(request, header, left)
                sent = True
                return link.result(call)
            except ConnectionError:
                if not (repeats and self._may_repeat(request, sent=sent)):
                    raise
            left = remaining(timeout, started)
        raise AssertionError  # the last attempt has returned or raised

    def call_many(
        self,
        requests: Iterable[Request[ResponseT]],
        *,
        window: int = 32,
        timeout: float | None = None,
    ) -> Iterator[ResponseT]:
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
                yield self.call(request, timeout=timeout)
            return
        seconds = self._seconds(timeout)
        link = self._linked(seconds)
        waiting: deque[Call] = deque()
        unsent: list[Call] = []
        try:
            for request in requests:
                if len(waiting) >= window:
                    yield self._next_of(link, waiting, unsent)
                call = link.ask(request, seconds)
                waiting.append(call)
                unsent.append(call)
            while waiting:
                yield self._next_of(link, waiting, unsent)
        finally:
            link.give_up(waiting)

    def _next_of(self, link: Link, waiting: deque[Call], unsent: list[Call]) -> Any:
        """
        Wait for the first of many; before that all that was held back is sent.
        """
        first = waiting[0]
        if not first.ready and unsent:
            link.start(unsent)
            unsent.clear()
        answer = link.result(first, waiting)
        waiting.popleft()
        return answer.message

    def stream(
        self,
        request: Request[ResponseT],
        *,
        header: Any = None,
        timeout: float | None = None,
    ) -> Iterator[ResponseT]:
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
            self._take_turn(seconds)
        try:
            link = self._linked(seconds)
            call = link.begin(request, header, seconds, several=True)
            try:
                while True:
                    yield link.result(call).message
                    link.renew(call)
            finally:
                link.give_up([call])
        finally:
            if not self._keyed:
                try:
                    self._settle()
                finally:
                    self._turn.release()

    # Without asking ----------------------------------------------------------

    def send(self, message: Message, *, header: Any = None) -> None:
        """
        Send a message and wait for nothing. Its answers, if any, are for `receive`.

        Raises:
            LocalProtocolError: it cannot be sent (now).
            PeerTimeoutError: the peer does not read.
            ConnectionError: refused, reset, or over.
        """
        self.transmit(message, header=header)

    def transmit(self, message: Message, *, header: Any = None) -> bytes:
        """
        Send as `send` does, and give the bytes that were sent, with what framing adds.
        """
        seconds = self._seconds(None)
        return self._linked(seconds).send(message, header, seconds)

    def receive(self, *, timeout: float | None = None) -> Message:
        """
        Wait for the next message that is no answer to a call.

        Args:
            timeout: seconds; `None` is the client's own.

        Raises:
            PeerTimeoutError: none came in time.
            RemoteProtocolError: a frame came that is no message; the next may be fine.
            ConnectionError: refused, reset, or over.
        """
        return self.receive_event(timeout=timeout).message  # type: ignore[no-any-return]

    def receive_event(self, *, timeout: float | None = None) -> MessageReceived:
        """
        Wait as `receive` does, and give the message with its header and frame.
        """
        return self._received(self._seconds(timeout))

    def _received(self, timeout: float | None) -> MessageReceived:
        link = self._link
        if link is None or (self._reconnect and not self._unread):
            link = self._linked(timeout)
        return link.result(link.listen(timeout))

    def messages(self, *, timeout: float | None = None) -> Iterator[Message]:
        """
        Give the messages that are no answers to calls, as they come.

        It ends when the peer, or another thread, closes the session. A frame that is
        no message ends it with its error; go on with another iterator then.

        Args:
            timeout: seconds without a message after which it ends; `None`: never.
        """
        for event in self.events(timeout=timeout):
            yield event.message

    def events(self, *, timeout: float | None = None) -> Iterator[MessageReceived]:
        """
        Give messages as `messages` does, with header and frame.
        """
        while True:
            try:
                yield self._received(timeout)
            except (PeerTimeoutError, SessionClosedError):
                return
