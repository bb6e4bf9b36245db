"""
A client of a service under test, in the same process and without sockets.

It is the client's end of a `protoserve.testing._links.Link`: bytes go over, not
messages, and streams are cut at random places on both ways, so that a test finds out
what depends on the reads. The places follow from a seed, which is told when a test
fails.
"""

from __future__ import annotations

import contextlib
import difflib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

from protoserve.client._calls import Call, Calls, Options, Stats
from protoserve.errors import DeclarationError, PeerTimeoutError, SessionClosedError
from protoserve.events import MessageReceived
from protoserve.messages import Message, Request, ResponseT
from protoserve.service import Service
from protoserve.session import Peer, Session
from protoserve.testing._bench import Bench
from protoserve.testing._failures import settle
from protoserve.testing._links import DatagramLink, Link, StreamLink
from protoserve.testing._splits import Splitter, at_random, whole

__all__ = ["TestClient"]

_TRANSPORTS = ("stream", "datagram")
_FIRST_PORT = 50_000
_BACKLOG = 1_000_000
"""Messages that nobody has received, before the oldest are dropped."""


class _Calls(Calls):
    """
    Gives what answers nothing to who receives: a test sends things by hand.
    """

    def _sort(self, event: MessageReceived) -> None:
        unasked = self.stats.unasked
        super()._sort(event)
        if self.stats.unasked != unasked:
            self._give(event)


class TestClient:
    """
    A client that a service answers in memory; a context manager.

    The service's lifespan is entered, and left at the end. Plain routes run while
    `send` does, in the thread of the test; coroutines run on the service's own event
    loop. It may not be shared between threads.

    Args:
        app: the service.
        transport: ``stream`` or ``datagram``; by default a stream, where the protocol
            has a framing.
        split: whether streams are cut at random places, or what cuts them.
        seed: what the places follow from.
        peer: who the service takes the client for: address, certificate, what was
            agreed on in the handshake. Its transport need not be given again.
        clock: what sessions take the time from. With a `protoserve.testing.Clock` the
            service's limits on time are kept as well.
        timeout: seconds that `call` and `receive` wait for coroutines, timers and
            threads. If there are none, they do not wait.
        raise_errors: whether an exception of the handler that none of its hooks
            answers is raised in the test; otherwise it is logged, as in production.

    Raises:
        DeclarationError: the protocol cannot be spoken over that transport.

    >>> from protoserve.testing import TestClient
    >>> with TestClient(app) as client:  # doctest: +SKIP
    ...     client.call(Reading(device=7))
    Ack(device=7)
    """

    __test__ = False  # pytest is not to collect it

    def __init__(
        self,
        app: Service,
        *,
        transport: str | None = None,
        split: bool | Splitter = True,
        seed: int = 0,
        peer: Peer | None = None,
        clock: Callable[[], float] | None = None,
        timeout: float = 5.0,
        raise_errors: bool = True,
    ) -> None:
        if not isinstance(app, Service):
            raise DeclarationError(f"TestClient takes a Service, not {app!r}")
        self.app = app
        self.clock = clock
        self.timeout = timeout
        self.seed = seed
        self._stream = _is_stream(app, transport, peer)
        self._split = split
        self._given_peer = peer
        self._raise_errors = raise_errors
        self._bench: Bench | None = None
        self._owner: TestClient | None = None
        self._made = 0
        """Clients that were connected so far."""
        self._stack = contextlib.ExitStack()
        self._link: Link | None = None
        self._calls = self._made_calls()

    def __repr__(self) -> str:
        return f"<TestClient {self.app.protocol.name} {self.peer or 'not connected'}>"

    # Beginning and ending --------------------------------------------------

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            if self._owner is None:
                bench = Bench(self.app, self.clock, raise_errors=self._raise_errors)
                self._bench = stack.enter_context(bench)
                stack.callback(self._forget)
                self._made = 0
            self._connect()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        bench = self._bench
        assert bench is not None
        with contextlib.ExitStack() as stack:
            stack.push(self._stack.__exit__)
            if error is not None:
                self._tell_seed(error)
            if self._link is not None:
                self._link.leave()
        if self._owner is None:
            settle(bench.failures, error, raises=self._raise_errors)

    def _forget(self) -> None:
        self._bench = None

    def _tell_seed(self, error: BaseException) -> None:
        note = f"streams were cut as they are with TestClient(seed={self.seed})"
        known = getattr(error, "__notes__", ())
        if self._stream and self._split is True and note not in known:
            error.add_note(note)

    def _connect(self) -> None:
        """
        Begin a conversation.
        """
        bench = self._working()
        owner = self._owner or self
        number = owner._made
        owner._made += 1
        peer = self._given_peer
        if peer is None:
            address = ("127.0.0.1", _FIRST_PORT + number)
            peer = Peer("tcp" if self._stream else "udp", address)
        if self._split is True:
            self._cut = at_random(f"{self.seed} {number}")
        else:
            self._cut = self._split or whole
        self._calls = self._made_calls()
        if self._stream:
            self._link = link = StreamLink(bench, peer)
            link.begin()
        else:
            self._link = DatagramLink(bench, peer)
        bench.raise_failures()

    def another(self, *, peer: Peer | None = None) -> TestClient:
        """
        Make another client of the same service, as a context manager too.

        Args:
            peer: who the service takes it for.
        """
        self._working()
        made = TestClient(
            self.app,
            transport="stream" if self._stream else "datagram",
            split=self._split,
            seed=self.seed,
            peer=peer,
            clock=self.clock,
            timeout=self.timeout,
            raise_errors=self._raise_errors,
        )
        made._owner = self._owner or self
        made._bench = self._bench
        return made

    def close(self) -> None:
        """
        Close the client's end; the handler is told, if it was a stream.
        """
        bench = self._working()
        self._linked.leave()
        self._take()
        self._calls.fail(SessionClosedError("the client was closed"))
        bench.raise_failures()

    def end(self) -> None:
        """
        Send nothing more; what the service has to say may still be received.
        """
        bench = self._working()
        if not isinstance(self._link, StreamLink):
            raise TypeError("datagrams have no end; use close()")
        self._link.end()
        bench.raise_failures()

    @property
    def peer(self) -> Peer | None:
        """
        Who the service takes the client for.
        """
        return self._given_peer if self._link is None else self._link.peer

    @property
    def session(self) -> Session:
        """
        The client's end of the conversation.
        """
        return self._calls.session

    @property
    def stats(self) -> Stats:
        """
        What the client has counted: answers that were late, duplicates and so on.
        """
        return self._calls.stats

    def _made_calls(self) -> Calls:
        made = _Calls(
            self.app.protocol,
            stream=self._stream,
            options=Options(timeout=None, retries=0, backlog=_BACKLOG),
        )
        if self.clock is not None:
            made.session._clock = self.clock
        return made

    def _working(self) -> Bench:
        if self._bench is None:
            raise RuntimeError("a TestClient works inside of its with block only")
        return self._bench

    # Asking ----------------------------------------------------------------

    def call(
        self,
        request: Request[ResponseT],
        *,
        header: Any = None,
        timeout: float | None = None,
    ) -> ResponseT:
        """
        Ask, and give the answer; what comes besides is for `receive`.

        Args:
            request: what to ask.
            header: its header; by default one is made. The key is put in.
            timeout: seconds to wait for the answer; by default those of the client.

        Raises:
            ErrorResponse: the answer is declared as an error.
            PeerTimeoutError: none came, and nothing is under way that could send one,
                or it takes longer.
            SessionClosedError: the service has closed.
            RemoteProtocolError: what came is no message, or no answer to this one.
            LocalProtocolError: the request may not be sent now, or does not fit.
        """
        return self.ask(request, header=header, timeout=timeout).message  # type: ignore[no-any-return]

    def ask(
        self, request: Message, *, header: Any = None, timeout: float | None = None
    ) -> MessageReceived:
        """
        Ask as `call` does, and give the answer with its header and its frame.
        """
        return self._result(self._asked(request, header), timeout)

    def exchange(
        self, request: Message, *, header: Any = None, timeout: float | None = None
    ) -> Message:
        """
        Ask as `call` does, where the answer's class is not declared.
        """
        return self.ask(request, header=header, timeout=timeout).message  # type: ignore[no-any-return]

    def call_many(
        self,
        requests: Iterable[Request[ResponseT]],
        *,
        window: int = 32,
        timeout: float | None = None,
    ) -> Iterator[ResponseT]:
        """
        Ask many, without waiting for each; give the answers in the requests' order.

        Args:
            requests: what to ask.
            window: how many may be unanswered; without correlation it is one.
            timeout: seconds to wait for each answer.
        """
        if self.app.protocol.correlate is None:
            for request in requests:
                yield self.call(request, timeout=timeout)
            return
        waiting: deque[Call] = deque()
        try:
            for request in requests:
                if len(waiting) >= window:
                    yield self._result(waiting.popleft(), timeout).message
                waiting.append(self._asked(request, None))
            while waiting:
                yield self._result(waiting.popleft(), timeout).message
        finally:
            for call in waiting:
                self._calls.give_up(call)

    def stream(
        self,
        request: Request[ResponseT],
        *,
        header: Any = None,
        timeout: float | None = None,
    ) -> Iterator[ResponseT]:
        """
        Ask for what has several answers; give each until nothing more comes.

        Args:
            request: what to ask.
            header: its header.
            timeout: seconds to wait for the next answer.
        """
        call = self._asked(request, header, several=True)
        try:
            while True:
                try:
                    event = self._result(call, timeout, last=False)
                except (PeerTimeoutError, SessionClosedError):
                    return
                yield event.message
        finally:
            self._calls.give_up(call)

    def _asked(self, request: Message, header: Any, *, several: bool = False) -> Call:
        """
        Send a request.
        """
        self._look_up()
        call = self._calls.ask(request, header=header, several=several)
        self._calls.begin(call)
        try:
            self._feed(call.data)
        except BaseException:
            self._calls.give_up(call)
            raise
        return call

    # Without asking --------------------------------------------------------

    def send(self, message: Message, *, header: Any = None) -> None:
        """
        Send a message, and let plain routes answer it; answers are for `receive`.

        Args:
            message: what to send.
            header: its header; by default one is made.

        Raises:
            LocalProtocolError: it may not be sent now, or does not fit its format.
            SessionClosedError: the service has closed.
        """
        self._look_up()
        self._feed(self._calls.send(message, header=header))

    def send_bytes(self, data: bytes) -> None:
        """
        Send bytes as they are: part of a stream, or one datagram.

        Raises:
            SessionClosedError: the service has closed.
        """
        self._look_up()
        self._calls.check()
        self._feed(data)

    def receive(self, *, timeout: float | None = None) -> Message:
        """
        Give the next message that answers no call.

        Args:
            timeout: seconds to wait for it; by default those of the client.

        Raises:
            PeerTimeoutError: nothing came, and nothing is under way that could send
                anything, or it takes longer.
            SessionClosedError: the service has closed, and all was received.
            RemoteProtocolError: what came is no message; the next may be fine.
        """
        return self.receive_event(timeout=timeout).message  # type: ignore[no-any-return]

    def receive_event(self, *, timeout: float | None = None) -> MessageReceived:
        """
        Give the next message as `receive` does, with its header and its frame.
        """
        return self._result(self._calls.listen(), timeout)

    def messages(self, *, timeout: float | None = None) -> Iterator[Message]:
        """
        Give messages that answer no call, until nothing more comes.
        """
        for event in self.events(timeout=timeout):
            yield event.message

    def events(self, *, timeout: float | None = None) -> Iterator[MessageReceived]:
        """
        Give messages as `messages` does, with header and frame.
        """
        while True:
            try:
                event = self.receive_event(timeout=timeout)
            except (PeerTimeoutError, SessionClosedError):
                return
            yield event

    # Both ends -------------------------------------------------------------

    def _look_up(self) -> None:
        """
        See what has happened meanwhile, before something is sent.
        """
        self._working().attend()
        # With a state table what may be sent depends on what the service has said.
        stated = self.app.protocol.states is not None
        while (self._linked.ended or stated) and self._take():
            pass

    def _feed(self, data: bytes) -> None:
        """
        Let the service have bytes, as they are read in production.
        """
        link = self._linked
        for piece in self._cut(data) if self._stream else (data,):
            link.feed(piece)
        self._working().raise_failures()

    def _take(self) -> bool:
        """
        Take what the service has sent; say whether that was anything.
        """
        link = self._linked
        pieces: Iterable[bytes] = [
            link.outbox.popleft() for _ in range(len(link.outbox))
        ]
        if not pieces:
            if link.ended and self._calls.failure is None:
                self._calls.receive_eof()
                return True
            return False
        link.taken()
        if self._stream:
            pieces = self._cut(b"".join(pieces))
        for piece in pieces:
            if self._calls.failure is None:
                self._calls.receive(piece)
        return True

    def _result(
        self, call: Call, timeout: float | None, *, last: bool = True
    ) -> MessageReceived:
        """
        Wait for the result of a call, if waiting is of any use.
        """
        bench = self._working()
        what = "nothing came"
        if call.request is not None:
            what = f"no answer to {type(call.request).__name__} came"
        patience = self.timeout if timeout is None else timeout

        def is_ready() -> bool:
            if not call.ready:
                self._take()
            return call.ready or bool(bench.failures)

        bench.wait(is_ready, patience)
        if call.ready and not bench.failures:
            return call.result()
        alone = not bench.is_anyone_left()
        if last or not call.ready:
            self._calls.give_up(call)
        bench.raise_failures()
        if alone:
            raise PeerTimeoutError(
                f"{what}, and nothing is under way that could send it"
            )
        raise PeerTimeoutError(f"{what} within {patience:g} s")

    @property
    def _linked(self) -> Link:
        self._working()
        assert self._link is not None
        return self._link


def _is_stream(app: Service, transport: str | None, peer: Peer | None) -> bool:
    """
    Say whether a client is to have a stream.
    """
    framed = app.protocol.framing is not None
    if transport is None and peer is None:
        return framed
    if transport is None:
        assert peer is not None
        stream = peer.transport in ("tcp", "tls", "unix")
    elif transport in _TRANSPORTS:
        stream = transport == "stream"
    else:
        close = difflib.get_close_matches(str(transport), _TRANSPORTS, 1)
        hint = f"did you mean {close[0]!r}?" if close else "known: stream, datagram"
        raise DeclarationError(f"there is no transport {transport!r}; {hint}")
    if stream and not framed:
        raise DeclarationError(
            f"{app.protocol.name} has no framing=, so it cannot be spoken over a "
            "stream; use transport='datagram'"
        )
    return stream
