"""
What is done with each event of a session: routes called, answers sent, failures
kept to the message that caused them.

Nothing that a peer sends and nothing that a handler raises ends a server. Each
kind of trouble (malformed, unknown, failed) has a hook, which may answer, and a
policy: go on with the next message, or close the conversation. By default a
stream is closed, as what follows cannot be trusted, and a datagram is skipped.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Generator, Iterable
from typing import Any, Literal, TypeAlias

import attrs

from protoserve.background import BackgroundLoop
from protoserve.errors import (
    DeclarationError,
    IncompleteFrameError,
    RemoteProtocolError,
    UnknownMessageError,
)
from protoserve.events import (
    NEED_DATA,
    Event,
    Frame,
    MessageReceived,
    MessageRejected,
    StreamBroken,
)
from protoserve.messages import Message
from protoserve.protocol import Direction, Protocol
from protoserve.rarelog import RareLog
from protoserve.routing import Call, Route, Routes
from protoserve.session import Parcel, Session

__all__ = [
    "Dispatcher",
    "Outcome",
    "Policies",
    "Policy",
    "complete",
    "complete_async",
]

logger = logging.getLogger("protoserve")

_FAILURES = (Exception, SystemExit)
"""What a handler may raise without an effect beyond the message at hand."""

_NOT_CALLED = object()

_MOST_HELD = 256
"""Answers that are gathered before they are sent."""

Policy: TypeAlias = Literal["close", "skip"]


def _policy(_instance: Any, attribute: Any, value: Any) -> None:
    if value not in ("close", "skip", None):
        raise DeclarationError(
            f"policy for {attribute.name}: expected 'close', 'skip' or None, "
            f"not {value!r}"
        )


@attrs.frozen(kw_only=True)
class Policies:
    """
    What happens after trouble that no hook has answered.

    `None` closes streams and skips datagrams.
    """

    malformed: Policy | None = attrs.field(default=None, validator=_policy)
    unknown: Policy | None = attrs.field(default=None, validator=_policy)
    failed: Policy | None = attrs.field(default=None, validator=_policy)


Outcome: TypeAlias = bool | Generator[Any, Any, bool]
"""
Whether the conversation may go on; or steps that find out, which give what has to be
awaited on the way. See `complete` and `complete_async`.
"""


def complete(outcome: Outcome, background: BackgroundLoop) -> bool:
    """
    Go through an outcome's steps in a thread that may wait.
    """
    if isinstance(outcome, bool):
        return outcome
    try:
        awaited = next(outcome)
        while True:
            try:
                value = background.run(awaited)
            except _FAILURES as exc:
                awaited = outcome.throw(exc)
            else:
                awaited = outcome.send(value)
    except StopIteration as stop:
        return bool(stop.value)


async def complete_async(outcome: Outcome) -> bool:
    """
    Go through an outcome's steps on an event loop.
    """
    if isinstance(outcome, bool):
        return outcome
    try:
        awaited = next(outcome)
        while True:
            try:
                value = await awaited
            except _FAILURES as exc:
                awaited = outcome.throw(exc)
            else:
                awaited = outcome.send(value)
    except StopIteration as stop:
        return bool(stop.value)


class _Repliers(dict[type, Callable[[Any, Any], bytes]]):
    """
    What builds the frames of answers, by their class; made when first needed.
    """

    def __init__(self, protocol: Protocol, *, stream: bool) -> None:
        super().__init__()
        self.protocol = protocol
        self.stream = stream

    def __missing__(self, cls: type) -> Callable[[Any, Any], bytes]:
        made = None
        if issubclass(cls, Message):
            made = self.protocol.replier(cls, Direction.RESPONSE, stream=self.stream)
        self[cls] = made or _no_answer
        return self[cls]


def _no_answer(_header: Any, _message: Any) -> bytes:
    raise NotImplementedError


def _after(waiting: Any) -> Generator[Any, Any, bool]:
    yield waiting
    return True


@attrs.define
class Dispatcher:
    """
    Calls a handler's methods for the events of any number of sessions.
    """

    protocol: Protocol
    routes: Routes
    policies: Policies
    _direct: dict[type, Any] = attrs.field(init=False)
    """The routes that can be called without a `Call`."""
    _stream_repliers: _Repliers = attrs.field(init=False)
    _datagram_repliers: _Repliers = attrs.field(init=False)
    _rare: RareLog = attrs.field(init=False, factory=lambda: RareLog(logger))

    def __attrs_post_init__(self) -> None:
        messages = self.routes.messages
        self._direct = {c: r.direct for c, r in messages.items() if r.direct}
        self._stream_repliers = _Repliers(self.protocol, stream=True)
        self._datagram_repliers = _Repliers(self.protocol, stream=False)

    def connected(self, session: Session) -> Outcome:
        """
        Tell the handler that a peer is there.
        """
        hook = self.routes.connected
        return hook is None or self._try(hook, Call(session))

    def disconnected(self, session: Session) -> Outcome:
        """
        Tell the handler that a peer has gone.
        """
        hook = self.routes.disconnected
        return hook is None or self._try(hook, Call(session))

    def answer(self, session: Session) -> Outcome:
        """
        Let what has arrived be answered.

        Returns:
            True once more bytes are needed. After the steps of any other outcome
            that lets the conversation go on, it is to be called again.
        """
        while True:
            parcels = session.next_parcels()
            if parcels:
                outcome = self._answer_run(session, parcels)
                if session.spent:
                    return outcome
            else:
                event = session.next_event()
                if event is NEED_DATA:
                    return True
                outcome = self.handle(session, event)
            if outcome is not True:
                return outcome

    def _answer_run(self, session: Session, parcels: Iterable[Parcel]) -> Outcome:
        """
        Answer messages as long as that is no more than calling a route.

        The answers leave together. What takes more steps ends the run; the rest of
        the messages are put back.
        """
        direct = self._direct
        stream = session.stream
        repliers = self._stream_repliers if stream else self._datagram_repliers
        outgoing = session.outgoing
        send = outgoing.append
        outcome: Outcome = True
        rest: Any = iter(parcels)
        was_held, session.held = session.held, True
        try:
            for parcel in rest:
                header, message, _, _, _ = parcel
                method = direct.get(type(message))
                if method is None:
                    outcome = self._received(session, session.event_of(parcel))
                    break
                try:
                    result = method(message, session, header)
                except _FAILURES as exc:
                    outcome = self._failed(*self._call(session, parcel), exc)
                    break
                if session.closed:
                    outcome = self._goes_on_with(session, parcel, result)
                    break
                if result is None:
                    continue
                try:
                    send(repliers[type(result)](header, result))
                except Exception:
                    # What is wrong with it, and what else there is, the longer way
                    # finds out.
                    outcome = self._try(*self._call(session, parcel), result=result)
                    break
                if len(outgoing) >= _MOST_HELD:
                    break
            else:
                rest = None
        finally:
            session.held = was_held
            if rest is not None:
                session.put_back(rest)
        if outgoing and not was_held and session.flush is not None:
            return self._flush(session, outcome)
        return outcome

    def _call(self, session: Session, parcel: Parcel) -> tuple[Route, Call]:
        event = session.event_of(parcel)
        found = self.routes.messages[type(event.message)]
        return found, Call(session, event.message, event.header, event.frame)

    def _goes_on_with(self, session: Session, parcel: Parcel, result: Any) -> Outcome:
        """
        Deal with what a route returned that has closed the session.
        """
        if result is None:
            return False
        return self._try(*self._call(session, parcel), result=result)

    def _flush(self, session: Session, outcome: Outcome) -> Outcome:
        """
        Send what a run has gathered, before anything else is done.
        """
        try:
            session.flush()  # type: ignore[misc] # there is one
        except (ConnectionError, TimeoutError):
            return False  # the peer has gone; whoever wrote has taken note of it
        if outcome is True and session.flow is not None:
            waiting = session.flow()
            if waiting is not None:
                return _after(waiting)
        return outcome

    def handle(self, session: Session, event: Event) -> Outcome:
        """
        Let an event be answered.
        """
        if isinstance(event, MessageReceived):
            return self._received(session, event)
        if isinstance(event, MessageRejected):
            return self._rejected(session, event)
        if isinstance(event, StreamBroken):
            return self._broken(session, event.error)
        return False

    def _received(self, session: Session, event: MessageReceived) -> Outcome:
        message = event.message
        found = self.routes.messages.get(type(message))
        if found is None:
            error = UnknownMessageError(
                session.protocol.name,
                type(message).__name__,
                ", ".join(cls.__name__ for cls in self.routes.messages),
                None,
            )
            error.what = "no route answers"
            error.header = event.header
            return self._rejected(session, MessageRejected(error, event.frame))
        call = Call(session, message, event.header, event.frame)
        try:
            result = found.invoke(call)
            if isinstance(result, Message):
                session.send(result, reply_to=event.header)
                return not session.closed
        except _FAILURES as exc:
            return self._failed(found, call, exc)
        if result is None:
            return not session.closed
        return self._try(found, call, result=result)

    def _rejected(self, session: Session, event: MessageRejected) -> Outcome:
        """
        Let a frame that was no legal message be answered.
        """
        error = event.error
        unknown = isinstance(error, UnknownMessageError)
        hook = self.routes.unknown if unknown else self.routes.malformed
        policy = self.policies.unknown if unknown else self.policies.malformed
        self._rare.log(
            logging.WARNING, "%s sent what it may not: %s", session.peer, error
        )
        if hook is None:
            return self._goes_on(session, policy)
        call = Call(session, None, event.header, event.frame, error)
        return self._try(hook, call, policy)

    def _broken(self, session: Session, error: RemoteProtocolError) -> Outcome:
        """
        Let a stream that makes no sense any more be answered before it is closed.

        One that merely ended too early is not: there is nobody to read the answer.
        """
        self._rare.log(logging.WARNING, "%s is closed: %s", session.peer, error)
        hook = self.routes.malformed
        if hook is None or isinstance(error, IncompleteFrameError):
            return False
        frame = Frame(getattr(error, "found", b""), session.received_at)
        return self._last_words(hook, Call(session, None, None, frame, error))

    def _last_words(self, hook: Route, call: Call) -> Generator[Any, Any, bool]:
        yield from self._try(hook, call)
        return False

    def _try(
        self,
        found: Route,
        call: Call,
        policy: Policy | None = "skip",
        result: Any = _NOT_CALLED,
    ) -> Generator[Any, Any, bool]:
        """
        Call a method and send its answer, whatever may go wrong.

        Args:
            found: the method.
            call: what it is given.
            policy: what follows if it answers nothing.
            result: what it returned, if it has been called already.
        """
        session = call.session
        try:
            if result is _NOT_CALLED:
                result = found.invoke(call)
            answered = yield from self._send(found, call, result)
        except _FAILURES as exc:
            return (yield from self._failed(found, call, exc))
        return self._goes_on(session, "skip" if answered else policy)

    def _failed(
        self, found: Route, call: Call, exc: BaseException
    ) -> Generator[Any, Any, bool]:
        """
        Let the failure of a method be answered.
        """
        session = call.session
        if session.closed and isinstance(exc, ConnectionError | TimeoutError):
            return False  # the peer has gone, or was sent away, meanwhile
        hook = self.routes.for_error(exc)
        if hook is not None and hook is not found:
            call.error = exc  # type: ignore[assignment] # a hook is for Exceptions
            try:
                answered = yield from self._send(hook, call, hook.invoke(call))
            except _FAILURES as second:
                found, exc = hook, second
            else:
                policy = "skip" if answered else self.policies.failed
                return self._goes_on(session, policy)
        self._rare.log(
            logging.ERROR,
            "%s() failed for %s",
            found.name,
            session.peer,
            kind=found.name,
            exc_info=exc,
        )
        return self._goes_on(session, self.policies.failed)

    def _goes_on(self, session: Session, policy: Policy | None) -> bool:
        if session.closed:
            return False
        return not session.stream if policy is None else policy == "skip"

    def _send(self, found: Route, call: Call, result: Any) -> Generator[Any, Any, bool]:
        """
        Send what a method returned; say whether that was anything.
        """
        if hasattr(result, "__await__"):
            result = yield result
        if result is None:
            return False
        if isinstance(result, Message):
            call.session.send(result, reply_to=call.header)
            return True
        if hasattr(result, "__aiter__"):
            return (yield from self._send_async(found, call, result))
        sent = False
        try:
            for message in result:
                yield from self._send_one(found, call, message)
                sent = True
        finally:
            if inspect.isgenerator(result):
                result.close()
        return sent

    def _send_async(
        self, found: Route, call: Call, values: Any
    ) -> Generator[Any, Any, bool]:
        """
        Send what an asynchronous iterator gives, one by one.
        """
        sent = False
        try:
            while True:
                try:
                    message = yield anext(values)
                except StopAsyncIteration:
                    return sent
                yield from self._send_one(found, call, message)
                sent = True
        finally:
            if hasattr(values, "aclose"):
                yield values.aclose()

    def _send_one(
        self, found: Route, call: Call, message: Any
    ) -> Generator[Any, Any, None]:
        if not isinstance(message, Message):
            raise TypeError(f"{found.name}() gave {message!r}, which is no message")
        call.session.send(message, reply_to=call.header)
        if call.session.flow is not None:
            waiting = call.session.flow()
            if waiting is not None:
                yield waiting
