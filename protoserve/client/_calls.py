"""
What a client has asked and been answered, without any I/O.

`Calls` owns the session, and the table of requests by their correlation key. Bytes
that came go in by `receive`; whoever waits is woken, and finds its answer in its
`Call`. Three rules keep callers apart. An answer counts for a request only if its
class is one that the request declares, or a declared error; a class that answers
nothing is a push, whatever its key. A key stays in the table for a while after its
call has ended, so that late answers and duplicates are known for what they are, and no
new request gets that key. Without keys there is one request at a time, and on a stream
the answer to one that was given up comes before the answer to the next.

A request may move the conversation to a state that only its answer ends. When that is
not had, it may still come; whoever asks meanwhile for what that state does not allow is
told that the session is over, as nobody can know any more what the peer allows.

Nothing here knows what waiting is: threads and tasks give each call a `waker`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from protoserve.client._call import (
    Call,
    Options,
    State,
    Stats,
    Unread,
    fresh,
)
from protoserve.errors import (
    LocalProtocolError,
    PeerTimeoutError,
    RemoteProtocolError,
    SessionClosedError,
)
from protoserve.events import (
    NEED_DATA,
    MessageReceived,
    MessageRejected,
    PeerClosed,
    StreamBroken,
)
from protoserve.messages import Message, response_types
from protoserve.protocol import Direction, Protocol
from protoserve.session import Peer, Role, Session
from protoserve.types import BytesLike

__all__ = ["Call", "Calls", "Options", "Stats", "Unread"]

MOST_PENDING = 4096
"""Requests that may wait for their answers at the same time, if there are keys for so
many: at most half of all keys are used, so that free ones are found."""
MOST_ENDED = 1024
"""Keys that are remembered after their call has ended; at most a quarter of all."""


class Calls:
    """
    The requests of one connection, and what came that answers none.

    It is not safe to use from several threads at the same time.

    Args:
        protocol: what is spoken.
        stream: whether bytes come as a stream; otherwise each piece is a datagram.
        peer: who is asked.
        options: patience and bounds.
        stats: counts for all connections of a client.
        unread: what has come and was not received, on all of them.
        clock: gives the time in seconds, from any start.
    """

    def __init__(
        self,
        protocol: Protocol,
        *,
        stream: bool,
        peer: Peer | None = None,
        options: Options | None = None,
        stats: Stats | None = None,
        unread: Unread | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.protocol = protocol
        self.session = Session(protocol, Role.CLIENT, peer, stream=stream)
        self.stats = Stats() if stats is None else stats
        self.options = Options() if options is None else options
        self.failure: BaseException | None = None
        """Why the conversation is over, once it is."""
        self._clock = clock
        self._keyed = protocol.correlate is not None
        self._answers = _answers(protocol)
        self._answering = frozenset(c for some in self._answers.values() for c in some)
        self._table: dict[Hashable, Call] = {}
        self._order: deque[Call] = deque()
        """Without keys: what was asked and not yet answered, the oldest first."""
        self._ended: deque[Call] = deque()
        self._pending: set[Call] = set()
        self._streams: set[Call] = set()
        self._unread: Unread = deque() if unread is None else unread
        self._listeners: deque[Call] = deque()
        width = protocol.key_width()
        keys = MOST_PENDING * 2 if width is None else 1 << width
        self._most_pending = max(1, min(MOST_PENDING, keys // 2))
        self._most_ended = min(MOST_ENDED, keys // 4)
        self._doubtful = 0
        self._unsure: tuple[str | None, str] | None = None
        """The state that a request has led to whose answer was not had, and its name."""

    # Asking ------------------------------------------------------------------

    def ask(
        self,
        request: Message,
        *,
        header: Any = None,
        timeout: float | None = None,
        several: bool = False,
    ) -> Call:
        """
        Make a call; its `data` has to be sent, and `begin` called just before.

        Args:
            request: what to ask.
            header: its header; by default one is made. The key is put in.
            timeout: seconds until it is given up; `None` waits for ever.
            several: whether there may be any number of answers.

        Raises:
            LocalProtocolError: the request cannot be sent now.
            SessionClosedError: the conversation is over.
        """
        if self.failure is not None:
            self.check()
        cls = type(request)
        if len(self._pending) >= self._most_pending:
            raise LocalProtocolError(
                f"{cls.__name__}: {len(self._pending)} requests wait for their answers "
                "already; wait for some of them, or use another client"
            )
        state = State.STREAMING if several else State.WAITING
        call = Call(request, self._answers.get(cls), state)
        if several:
            call.answers = deque()
        phase = self.session.phase
        call.data, call.key = self._encoded(request, header)
        if self.session.phase != phase:
            call.moved = phase, self.session.phase
            self._unsure = None
        call.timeout = timeout
        if self._keyed:
            try:
                self._enter(call)
            except LocalProtocolError:
                self.session.phase = phase
                raise
        else:
            self._order.append(call)
        self._pending.add(call)
        if several:
            self._streams.add(call)
        return call

    def _encoded(self, message: Message, header: Any) -> tuple[bytes, Hashable]:
        """
        Make the bytes of a message, and the key that is in them.
        """
        try:
            return self.session.ask(message, header=header, taken=self._table)
        except LocalProtocolError:
            if self._unsure is not None and not self._is_allowed(type(message)):
                self._lose_track(type(message).__name__, self._unsure[1])
            raise

    def _is_allowed(self, cls: type[Message]) -> bool:
        states = self.protocol.states or {}
        moves = states.get(self.session.phase or "", {})
        return cls in moves or not any(cls in other for other in states.values())

    def _lose_track(self, wanted: str, asked: str) -> None:
        """
        End the conversation, as it is not known what the peer allows.
        """
        error = SessionClosedError(
            f"{self.session.peer or 'the session'}: {asked} was not answered, so it "
            f"cannot be known whether {wanted} is allowed now"
        )
        self.fail(error)
        raise fresh(error) from None

    def _enter(self, call: Call) -> None:
        """
        Put a call into the table.
        """
        key = call.key
        before = self._table.get(key)
        if key is None:
            raise LocalProtocolError(
                f"{type(call.request).__name__} has nothing to know its answer by; use "
                "send() and receive()"
            )
        if before is not None and before in self._pending:
            raise LocalProtocolError(
                f"{type(call.request).__name__}: a request with the key {key!r} waits "
                "for its answer already; give this one a header or a field of its own"
            )
        self._table[key] = call

    def begin(self, call: Call) -> None:
        """
        Count a call's time from now on: it is being sent.
        """
        now = self._clock()
        call.sent = True
        self.stats.sent += 1
        if call.timeout is not None:
            call.deadline = now + call.timeout
        if not self.session.stream and self.options.retries:
            call.tries = self.options.retries
            call.pause = self.options.backoff
            call.again_at = _earlier(now + call.pause, call.deadline)

    def send(self, message: Message, *, header: Any = None) -> bytes:
        """
        Make the bytes of a message; what answers it goes to who receives.
        """
        self.check()
        call = Call(None, self._answers.get(type(message)), State.SENT)
        data, call.key = self._encoded(message, header)
        self.stats.sent += 1
        before = self._table.get(call.key)
        if call.key is not None and before not in self._pending:
            self._table[call.key] = call
            self._remember(call)
        return data

    def check(self) -> None:
        """
        Refuse if the conversation is over.
        """
        if self.failure is not None:
            if type(self.failure) is SessionClosedError:
                raise fresh(self.failure)
            raise SessionClosedError(
                f"the session with {self.session.peer} is over: {self.failure}"
            ) from self.failure

    # Waiting -----------------------------------------------------------------

    def listen(self, timeout: float | None = None) -> Call:
        """
        Make what waits for the next message that answers no call.
        """
        call = Call(None, None, State.LISTENING)
        if timeout is not None:
            call.timeout, call.deadline = timeout, self._clock() + timeout
        if self._unread:
            call.outcome = self._unread.popleft()
        elif self.failure is not None:
            try:
                self.check()
            except SessionClosedError as error:
                call.outcome = error
        else:
            self._listeners.append(call)
        return call

    def overdue(self, call: Call) -> bytes | None:
        """
        Do what is due for a call that waits.

        Returns:
            What is to be sent again, if anything. The call may have ended.
        """
        now = self._clock()
        if call.deadline is not None and now >= call.deadline:
            what = "message" if call.request is None else "answer"
            asked = f" to {type(call.request).__name__}" if call.request else ""
            error = PeerTimeoutError(
                f"no {what}{asked} from {self.session.peer} within {call.timeout:g} s"
            )
            if call.request is not None:
                self.stats.timed_out += 1
            self._end(call, State.GIVEN_UP, error)
            return None
        if call.again_at is None or now < call.again_at or call.ready:
            return None
        call.tries -= 1
        call.pause *= 2
        call.again_at = None
        if call.tries:
            call.again_at = _earlier(now + call.pause, call.deadline)
        self.stats.retransmitted += 1
        self._doubtful = 1
        return call.data

    def renew(self, call: Call) -> None:
        """
        Count the time until the next of several answers.
        """
        call.again_at = None
        if call.timeout is not None:
            call.deadline = self._clock() + call.timeout

    def give_up(self, call: Call) -> None:
        """
        Stop waiting. What comes for it now is late.
        """
        self._end(call, State.GIVEN_UP, SessionClosedError("the call was given up"))

    def _end(
        self, call: Call, state: State, outcome: MessageReceived | BaseException
    ) -> None:
        if call.outcome is not None:
            return
        call.outcome = outcome
        if call.state is State.LISTENING:
            if isinstance(outcome, BaseException) and call in self._listeners:
                self._listeners.remove(call)
        else:
            self._pending.discard(call)
            self._streams.discard(call)
            call.state = state
            call.data = b""
            unanswered = isinstance(outcome, BaseException) and not call.answered
            if unanswered and call.moved is not None:
                self._stay(call, *call.moved)
            if self._keyed:
                self._remember(call)
            elif call.answered:
                self._order.remove(call)  # of several answers, these were all
            elif state is State.GIVEN_UP:
                self._doubtful += call.sent
            elif self.session.stream:
                self._doubtful = 0
        call.wake()

    def _stay(self, call: Call, before: str | None, after: str | None) -> None:
        """
        Deal with the state that a request has led to that was not answered.
        """
        if self.session.phase != after:
            return
        if call.sent:
            self._unsure = after, type(call.request).__name__
        else:
            self.session.phase = before

    def _remember(self, call: Call) -> None:
        """
        Keep a key that nobody waits for, for a while.
        """
        call.request = None
        self._ended.append(call)
        while len(self._ended) > self._most_ended:
            oldest = self._ended.popleft()
            if self._table.get(oldest.key) is oldest:
                del self._table[oldest.key]

    @property
    def doubtful(self) -> bool:
        """
        Whether the next answer might be taken for that of another request.

        That can only be without keys: over datagrams, once a request was given up or
        sent twice, as its answer or a second one may still come. On a stream answers
        come in order, so one that is still owed does no harm; but after two in a row
        it cannot be told any more which of them was never answered.
        """
        if self._keyed:
            return False
        return self._doubtful >= (2 if self.session.stream else 1)

    # Receiving ---------------------------------------------------------------

    def receive(self, data: BytesLike) -> None:
        """
        Take what came from the peer.
        """
        if self._streams or len(self._unread) > self.options.backlog:
            self._make_room()
        self.session.receive_data(data)
        self._deal()

    def receive_eof(self) -> None:
        """
        Take note that the peer will send nothing more.
        """
        self.session.receive_eof()
        self._deal()
        self.fail(
            SessionClosedError(f"{self.session.peer or 'the peer'} closed the session")
        )

    def fail(self, error: BaseException, *, over: bool = True) -> None:
        """
        Tell everybody who waits.

        Args:
            error: what happened.
            over: whether the conversation is over; otherwise it can go on.
        """
        if over and self.failure is None:
            self.failure = error
            self.session.closed = True
        for call in [*self._pending, *self._listeners]:
            self._end(call, State.GIVEN_UP, error)

    def _deal(self) -> None:
        while (event := self.session.next_event()) is not NEED_DATA:
            match event:
                case MessageReceived():
                    self.stats.received += 1
                    self._sort(event)
                case MessageRejected():
                    if not self._is_stale(event):
                        self.stats.rejected += 1
                        self._refuse(event)
                case StreamBroken():
                    self.stats.rejected += 1
                    self.fail(event.error)
                case PeerClosed():
                    break
        if self._unsure is not None and self.session.phase != self._unsure[0]:
            self._unsure = None  # the answer has come after all

    def _is_stale(self, event: MessageRejected) -> bool:
        """
        Count what its state does not allow as it was answered, or given up, before.
        """
        if type(event.error) is not RemoteProtocolError or event.header is None:
            return False
        call = None
        if self._keyed:
            call = self._call_of(event.header, None, answering=True)
        state = None if call is None else call.state
        self.stats.duplicates += state is State.ANSWERED
        self.stats.late += state is State.GIVEN_UP
        return state in (State.ANSWERED, State.GIVEN_UP)

    def _sort(self, event: MessageReceived) -> None:
        """
        Find out what a message answers.
        """
        cls = type(event.message)
        answering = cls in self._answering or cls.is_error
        call = self._call_of(event.header, event.message, answering=answering)
        if call is None or not call.admits(cls):
            if call is not None and call in self._pending and answering:
                asked = type(call.request).__name__
                error = RemoteProtocolError(f"{cls.__name__} is no answer to {asked}")
                error.header = event.header
                self._end(call, State.ANSWERED, error)
            elif answering and self._keyed:
                self.stats.unasked += 1
            else:
                self._give(event)
            return
        match call.state:
            case State.WAITING:
                self._end(call, State.ANSWERED, event)
            case State.STREAMING:
                call.answered = True
                call.answers.append(event)  # type: ignore[union-attr] # it has them
                call.wake()
            case State.SENT:
                self._give(event)
            case State.ANSWERED:
                self.stats.duplicates += 1
            case State.GIVEN_UP:
                self.stats.late += 1

    def _call_of(self, header: Any, message: Any, *, answering: bool) -> Call | None:
        """
        Find the call that a message answers by its key, or by the order.
        """
        if self._keyed:
            try:
                return self._table.get(self.protocol.key(header, message))
            except Exception:  # the function is the user's, and so is what it returns
                return None
        order, cls = self._order, type(message)
        while order:
            call = order[0]
            if not answering and call.classes is not None:
                return None
            if call.admits(cls) or call.state is not State.GIVEN_UP:
                if call.state is not State.STREAMING:
                    order.popleft()
                return call
            order.popleft()  # it was never answered, as this answers a later one
        return None

    def _refuse(self, event: MessageRejected) -> None:
        """
        Tell a frame's error to the call that it answers, as far as that can be told.

        A datagram that is no answer may be from anybody, so it ends no call. Whoever
        sends on our stream is the peer, and the only call that waits is meant.
        """
        call = None
        if self._keyed and event.header is not None:
            call = self._call_of(event.header, None, answering=True)
        if call not in self._pending and self.session.stream:
            call = next(iter(self._pending)) if len(self._pending) == 1 else None
            if call in self._order:
                self._order.remove(call)  # type: ignore[arg-type]
        if call is not None and call in self._pending:
            self._end(call, State.ANSWERED, event.error)
        else:
            self._give(event.error)

    def _give(self, what: MessageReceived | RemoteProtocolError) -> None:
        """
        Hand something that answers no call to who receives.
        """
        if self._listeners:
            self._end(self._listeners.popleft(), State.ANSWERED, what)
        else:
            self._unread.append(what)

    def _make_room(self) -> None:
        """
        Drop what nobody has received.

        That is done before more comes, so that what came in one piece is never dropped
        while somebody reads it.
        """
        while len(self._unread) > self.options.backlog:
            self._unread.popleft()
            self.stats.dropped += 1
        for call in list(self._streams):
            waiting = len(call.answers or ())
            if waiting > self.options.backlog:
                reason = f"{waiting} answers were not taken in time"
                self._end(call, State.GIVEN_UP, LocalProtocolError(reason))


def _earlier(moment: float, deadline: float | None) -> float:
    return moment if deadline is None else min(moment, deadline)


def _answers(protocol: Protocol) -> dict[type, frozenset[type]]:
    """
    Give the classes that requests say they are answered by, for those that do.
    """
    by_name = {cls.__name__: cls for cls in protocol.classes()}

    def found() -> Iterator[tuple[type, frozenset[type]]]:
        for cls in protocol.table(Direction.REQUEST).values():
            named = [getattr(a, "__forward_arg__", a) for a in response_types(cls)]
            classes = [by_name.get(a) if isinstance(a, str) else a for a in named]
            if named:
                yield cls, frozenset(c for c in classes if isinstance(c, type))

    return dict(found())
