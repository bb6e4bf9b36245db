"""
What is done with each event of a session: routes called, answers sent, failures
kept to the message that caused them.

Nothing that a peer sends and nothing that a handler raises ends a server. Each
kind of trouble (malformed, unknown, failed) has a hook, which may answer, and a
policy: go on with the next message, or close the conversation. By default a
stream is closed, as what follows cannot be trusted, and a datagram is skipped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import attrs

from protoserve.background import BackgroundLoop
from protoserve.errors import (
    DeclarationError,
    RemoteProtocolError,
    SessionClosedError,
    UnknownMessageError,
)
from protoserve.events import MessageReceived, MessageRejected
from protoserve.messages import Message
from protoserve.routing import Call, Route, Routes, Style
from protoserve.session import Session

__all__ = ["Dispatcher", "Policies", "Policy"]

logger = logging.getLogger("protoserve")

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


@attrs.define
class Dispatcher:
    """
    Calls a handler's methods for the events of any number of sessions.
    """

    routes: Routes
    policies: Policies
    background: BackgroundLoop

    def connected(self, session: Session) -> bool:
        """
        Tell the handler that a peer is there.

        Returns:
            Whether the conversation may go on.
        """
        return self._hook(self.routes.connected, session)

    def disconnected(self, session: Session) -> None:
        """
        Tell the handler that a peer has gone.
        """
        self._hook(self.routes.disconnected, session)

    def received(self, session: Session, event: MessageReceived) -> bool:
        """
        Let a message be answered.

        Returns:
            Whether the conversation may go on.
        """
        message = event.message
        found = self.routes.messages.get(type(message))
        if found is None:
            error = UnknownMessageError(
                session.protocol.name,
                type(message).__name__,
                ", ".join(cls.__name__ for cls in self.routes.messages),
                None,
            )
            error.header = event.header
            return self.rejected(session, MessageRejected(error, event.frame))
        call = Call(session, message, event.header, event.frame)
        try:
            self._answer(found, call)
        except (ConnectionError, TimeoutError):
            if session.closed:
                return False
            raise
        except Exception as exc:
            return self._failed(call, exc)
        return not session.closed

    def rejected(self, session: Session, event: MessageRejected) -> bool:
        """
        Let a frame that was no legal message be answered.

        Returns:
            Whether the conversation may go on.
        """
        error = event.error
        unknown = isinstance(error, UnknownMessageError)
        hook = self.routes.unknown if unknown else self.routes.malformed
        policy = self.policies.unknown if unknown else self.policies.malformed
        logger.warning("%s sent what it may not: %s", session.peer, error)
        call = Call(session, None, event.header, event.frame, error)
        if hook is None:
            return self._goes_on(session, policy)
        try:
            answered = self._answer(hook, call)
        except (ConnectionError, TimeoutError):
            raise
        except Exception as exc:
            return self._failed(call, exc)
        return not session.closed and (answered or self._goes_on(session, policy))

    def broken(self, session: Session, error: RemoteProtocolError) -> None:
        """
        Tell people that a stream makes no sense any more.
        """
        logger.warning("%s is closed: %s", session.peer, error)

    def _failed(self, call: Call, exc: Exception) -> bool:
        """
        Let the failure of a route be answered.
        """
        session = call.session
        if isinstance(exc, SessionClosedError) and session.closed:
            return False
        hook = self.routes.for_error(exc)
        if hook is not None:
            call.error = exc
            try:
                if self._answer(hook, call):
                    return not session.closed
            except (ConnectionError, TimeoutError):
                raise
            except Exception as second:
                exc = second
        else:
            name = type(call.message).__name__ if call.message else "a rejected frame"
            logger.error(
                "the handler failed on %s from %s", name, session.peer, exc_info=exc
            )
        return self._goes_on(session, self.policies.failed)

    def _goes_on(self, session: Session, policy: Policy | None) -> bool:
        if session.closed:
            return False
        return not session.stream if policy is None else policy == "skip"

    def _hook(self, hook: Route | None, session: Session) -> bool:
        if hook is None:
            return True
        call = Call(session)
        try:
            self._answer(hook, call)
        except (ConnectionError, TimeoutError):
            return False
        except Exception as exc:
            return self._failed(call, exc)
        return not session.closed

    def _answer(self, found: Route, call: Call) -> bool:
        """
        Call a method and send what it returns.

        Returns:
            Whether it returned anything.
        """
        result = found.invoke(call)
        if found.style is Style.AWAITABLE:
            result = self.background.run(result)
        elif found.style is Style.ASYNC_ITERATOR:
            result = self.background.iterate(result)
        if result is None:
            return False
        session, header = call.session, call.header
        send: Callable[..., None] = session.send
        if isinstance(result, Message):
            send(result, reply_to=header)
            return True
        sent = False
        for message in result:
            if not isinstance(message, Message):
                raise TypeError(f"{found.name}() gave {message!r}, which is no message")
            send(message, reply_to=header)
            sent = True
        return sent
