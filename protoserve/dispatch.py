"""
What is done with each event of a session: routes called, answers sent, failures
kept to the message that caused them.

Nothing that a peer sends and nothing that a handler raises ends a server. Each
kind of trouble (malformed, unknown, failed) has a hook, which may answer, and a
policy: go on with the next message, or close the conversation. By default a
stream is closed, as what follows cannot be trusted, and a datagram is skipped.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs

from protoserve.account import Account
from protoserve.errors import (
    DeclarationError,
    FrameTooLongError,
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
from protoserve.framing.base import Framing
from protoserve.messages import Message, response_types
from protoserve.protocol import Direction, Protocol
from protoserve.rarelog import RareLog
from protoserve.routing import Call, Route, Routes
from protoserve.session import MOST_HELD, Session, after

if TYPE_CHECKING:
    from protoserve.codec.generate_turn import Turn

__all__ = [
    "Dispatcher",
    "Outcome",
    "Policies",
    "Policy",
    "begin",
    "complete",
    "complete_async",
]

logger = logging.getLogger("protoserve")

_FAILURES = (Exception, SystemExit)
"""What a handler may raise without an effect beyond the message at hand."""

_NOT_CALLED = object()


def _ignore(_limit: str) -> None:
    pass


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


def complete(outcome: Outcome, wait: Callable[[Any], Any]) -> bool:
    """
    Go through an outcome's steps in a thread that may wait.

    Args:
        outcome: the steps; those that are left, if `wait` has ended this before.
        wait: gives the value of what is awaited, or raises its exception; with one
            that no handler may raise it ends this for the time being.
    """
    if isinstance(outcome, bool):
        return outcome
    try:
        awaited = outcome.send(None)
        while True:
            try:
                value = wait(awaited)
            except _FAILURES as exc:
                awaited = outcome.throw(exc)
            else:
                awaited = outcome.send(value)
    except StopIteration as stop:
        return bool(stop.value)


def begin(outcome: Outcome) -> tuple[bool, Any]:
    """
    Go through an outcome's steps up to the first that has to wait.

    Returns:
        Whether the conversation goes on, and what is awaited, for `complete_async`;
        `None`: there are no more steps.
    """
    if isinstance(outcome, bool):
        return outcome, None
    try:
        return True, outcome.send(None)
    except StopIteration as stop:
        return bool(stop.value), None


async def complete_async(outcome: Outcome, awaited: Any = None) -> bool:
    """
    Go through an outcome's steps on an event loop.

    Args:
        outcome: the steps.
        awaited: what `begin` gave, if that has been called.
    """
    if isinstance(outcome, bool):
        return outcome
    try:
        if awaited is None:
            awaited = outcome.send(None)
        while True:
            try:
                value = await awaited
            except _FAILURES as exc:
                awaited = outcome.throw(exc)
            else:
                awaited = outcome.send(value)
    except StopIteration as stop:
        return bool(stop.value)


@attrs.define
class Dispatcher:
    """
    Calls a handler's methods for the events of any number of sessions.
    """

    protocol: Protocol
    routes: Routes
    policies: Policies
    framing: Framing | None = None
    """Cuts what comes, where that is not for the protocol's framing."""
    tally: Callable[[str], object] = attrs.field(default=_ignore)
    """Is told of a limit by its name, when a peer has exceeded that."""
    gather: Mapping[type[Message], Callable[..., Any]] = attrs.field(factory=dict)
    """What takes the messages of batch routes, see `protoserve.gathering`."""
    account: Account | None = None
    """Where the fate of datagrams is written down."""
    in_passing: bool = True
    """Whether messages may be answered without an event for each."""
    _pumps: dict[bool, tuple[Any, bool]] = attrs.field(init=False, factory=dict)
    """For streams and for datagrams, with whether it cuts; made when first needed."""
    _prepared: set[bool] = attrs.field(init=False, factory=set)
    """For which of them all is made."""
    _rare: RareLog = attrs.field(init=False, factory=lambda: RareLog(logger))

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
        pump, cuts = self.prepare(session.stream)
        outcome: Outcome
        while True:
            if pump is not None:
                before = session.received
                outcome = session.answer_with(pump, cuts=cuts)
                if outcome is not True or session.spent:
                    return outcome
                if session.received != before:
                    waiting = self._room(session)
                    if waiting is not None:
                        return after(waiting)
                    continue
            event = session.next_event()
            if event is NEED_DATA:
                return True
            outcome = self.handle(session, event)
            if outcome is not True:
                return outcome

    def take(self, session: Session, data: bytes) -> Outcome:
        """
        Let bytes that have just come be answered: `Session.receive_data`, and `answer`.
        """
        made = self._pumps.get(session.stream)
        if made is not None and made[1] and session.spent:
            outcome: Outcome = session.pass_through(data, made[0])
            if outcome is not True or session.spent:
                return outcome
            waiting = self._room(session)
            if waiting is not None:
                return after(waiting)
        else:
            session.receive_data(data)
        return self.answer(session)

    def stream_pump(self) -> Any:
        """
        Give the function that cuts and answers what a stream brought, if there is one.
        """
        if self.protocol.framing is None:
            return None
        pump, cuts = self.prepare(stream=True)
        return pump if cuts else None

    def datagram_pump(self) -> Any:
        """
        Give the function that answers a datagram in passing, if there is one.

        See `protoserve.codec.generate_turn`.
        """
        return self.prepare(stream=False)[0]

    def prepare(self, stream: bool) -> tuple[Any, bool]:
        """
        Make what answers streams or datagrams in one pass, unless that has been made.

        Returns:
            A function, or `None`, and whether it cuts a stream itself.
        """
        made = self._pumps.get(stream)
        if made is not None:
            return made
        made = None, False
        if self.in_passing:
            made = self.protocol.pump(
                Direction.REQUEST, self._turn, stream=stream, framing=self.framing
            )
        if made[0] is None:
            made = None, False
        self._pumps[stream] = made
        return made

    def prepare_all(self, stream: bool) -> None:
        """
        Make what would be made when a message comes first: each forked child would.
        """
        if stream in self._prepared:
            return
        self._prepared.add(stream)
        pump, _ = self.prepare(stream)
        if pump is not None:
            from protoserve.codec.generate_turn import make_turns

            make_turns(pump, self.protocol.table(Direction.REQUEST))

    def _turn(self, cls: type[Message]) -> Turn | None:
        """
        Say how a message is answered in passing; `None` if that takes more.
        """
        from protoserve.codec.generate_turn import Turn

        gather = self.gather.get(cls)
        if gather is not None:
            batch_route = self.routes.batches[cls].route
            return Turn(
                gather,
                ("message", "session", "header", "frame"),
                (),
                functools.partial(self._turn_failed, batch_route),
                functools.partial(self._turn_rest, batch_route),
            )
        found = self.routes.messages.get(cls)
        if found is None or found.arguments is None or found.is_async:
            return None
        classes = found.answers or response_types(cls)
        answers = [self.protocol.answer(c, Direction.RESPONSE) for c in classes]
        return Turn(
            found.method,
            found.arguments,
            tuple(answer for answer in answers if answer is not None),
            functools.partial(self._turn_failed, found),
            functools.partial(self._turn_rest, found),
        )

    def _turn_failed(
        self,
        found: Route,
        session: Session,
        header: Any,
        message: Any,
        data: bytes,
        exc: BaseException,
    ) -> Outcome:
        frame = Frame(data, session.received_at)
        return self._failed(found, Call(session, message, header, frame), exc)

    def _turn_rest(
        self,
        found: Route,
        session: Session,
        header: Any,
        message: Any,
        data: bytes,
        result: Any,
    ) -> Outcome:
        """
        Deal with what a route returned, where that is not just to be sent.
        """
        if result is None:
            return not session.closed
        frame = Frame(data, session.received_at)
        call = Call(session, message, header, frame)
        return self._try(found, call, result=result)

    def _room(self, session: Session) -> Any:
        """
        Send what was gathered, if that is much; give what to await before more is made.
        """
        if len(session.outgoing) >= MOST_HELD and session.flush is not None:
            session.flush()
        return None if session.flow is None else session.flow()

    def handle(self, session: Session, event: Event) -> Outcome:
        """
        Let an event be answered.
        """
        if isinstance(event, MessageReceived):
            return self._received(session, event)
        if isinstance(event, MessageRejected | StreamBroken):
            if isinstance(event.error, FrameTooLongError):
                self.tally("frame_size")
            if isinstance(event, MessageRejected):
                return self._rejected(session, event)
            return self._broken(session, event.error)
        return False

    def _received(self, session: Session, event: MessageReceived) -> Outcome:
        message = event.message
        gather = self.gather.get(type(message))
        if gather is not None:
            result = gather(message, session, event.header, event.frame.data)
            if result is None:
                return not session.closed
            method = self.routes.batches[type(message)].route
            return self._try(method, Call(session), result=result)
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
        if self.account is not None and not session.stream:
            self.account.reject("malformed")
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
        session = call.session
        session.send(message, reply_to=call.header)
        if session.flow is not None:
            if session.outgoing and session.flush is not None:
                session.flush()  # so that it is known how much waits
            waiting = session.flow()
            if waiting is not None:
                yield waiting
