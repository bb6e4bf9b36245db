"""
One request and its fate; what a client is told to do, and what it counts.
"""

from __future__ import annotations

import copy
import enum
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeAlias

import attrs

from protoserve.errors import (
    DeclarationError,
    ErrorResponse,
    RemoteProtocolError,
    SessionClosedError,
)
from protoserve.events import MessageReceived
from protoserve.messages import Message

__all__ = ["Call", "Options", "State", "Stats", "Unread", "due_first", "fresh"]


Unread: TypeAlias = deque[MessageReceived | RemoteProtocolError]
"""Messages that nobody has received yet, and frames that are none."""


def _check_seconds(_owner: Any, attribute: Any, value: Any) -> None:
    if value is None and attribute.name == "timeout":
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not value > 0:
        raise DeclarationError(
            f"{attribute.name}: expected seconds above 0, found {value!r}"
        )


def _check_count(_owner: Any, attribute: Any, value: Any) -> None:
    least = 1 if attribute.name == "backlog" else 0
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise DeclarationError(
            f"{attribute.name}: expected a whole number from {least}, found {value!r}"
        )


@attrs.frozen
class Options:
    """
    How patient a client is, and how much it keeps.
    """

    timeout: float | None = attrs.field(default=5.0, validator=_check_seconds)
    retries: int = attrs.field(default=3, validator=_check_count)
    backoff: float = attrs.field(default=0.5, validator=_check_seconds)
    backlog: int = attrs.field(default=1024, validator=_check_count)


@attrs.define
class Stats:
    """
    What a client has counted since it was made, over all its connections.
    """

    sent: int = 0
    """Messages that were sent, retransmissions not included."""
    received: int = 0
    """Messages that came, whole and well-formed."""
    retransmitted: int = 0
    """Datagrams that were sent again, as no answer came."""
    timed_out: int = 0
    """Requests that were given up for want of an answer."""
    late: int = 0
    """Answers to requests that had been given up; they are dropped."""
    duplicates: int = 0
    """Answers to requests that had been answered already; they are dropped."""
    unasked: int = 0
    """Answers to no request that is remembered; they are dropped."""
    rejected: int = 0
    """Frames that were malformed, unknown or not allowed in the present state."""
    dropped: int = 0
    """Messages that nobody received in time: the oldest make room for new ones."""
    connections: int = 0
    """Connections that were made."""


class State(enum.Enum):
    """
    What becomes of an answer to a request.
    """

    WAITING = "waiting"
    """It ends the call."""
    LISTENING = "listening"
    """It was not asked for: this is no request."""
    STREAMING = "streaming"
    """It is one of several."""
    SENT = "sent"
    """Nobody waits for it in particular: it goes to who receives."""
    ANSWERED = "answered"
    """It is a duplicate."""
    GIVEN_UP = "given up"
    """It is late."""


_TAKEN = SessionClosedError("the answer has been taken already")


class Call:
    """
    One request, from when it is sent until well after it was answered.

    The same thing without a request waits for whatever comes (`Calls.listen`).
    """

    __slots__ = (
        "again_at",
        "answered",
        "answers",
        "classes",
        "data",
        "deadline",
        "key",
        "moved",
        "outcome",
        "pause",
        "request",
        "sent",
        "state",
        "timeout",
        "tries",
        "waker",
    )

    def __init__(
        self, request: Message | None, classes: frozenset[type] | None, state: State
    ) -> None:
        self.request = request
        """Until the call has ended."""
        self.classes = classes
        """The classes of its answers; `None` if it does not say."""
        self.state = state
        self.key: Hashable = None
        self.moved: tuple[str | None, str | None] | None = None
        """The states of the conversation before and after it was asked, if they differ."""
        self.data = b""
        """What is sent, and sent again."""
        self.sent = False
        """Whether the peer may have seen any of it."""
        self.answered = False
        """Whether some of several answers have come."""
        self.outcome: MessageReceived | BaseException | None = None
        """The answer, or why there is none, once that is known."""
        self.answers: deque[MessageReceived] | None = None
        """Those of a stream of answers, which have not been taken yet."""
        self.timeout: float | None = None
        self.deadline: float | None = None
        """When it is given up, by the clock of the `Calls`."""
        self.again_at: float | None = None
        """When it is sent again."""
        self.pause = 0.0
        self.tries = 0
        """How many more times it is sent."""
        self.waker: Callable[[], object] | None = None
        """Is called, once, when there is something for who waits."""

    def admits(self, cls: type[Message]) -> bool:
        """
        Say whether a message of a class can be an answer.
        """
        return self.classes is None or cls in self.classes or cls.is_error

    @property
    def ready(self) -> bool:
        """
        Whether there is nothing to wait for.
        """
        return self.outcome is not None or bool(self.answers)

    @property
    def due(self) -> float | None:
        """
        When something has to be done if no answer comes; `None` for never.
        """
        return self.deadline if self.again_at is None else self.again_at

    def wake(self) -> None:
        """
        Wake who waits, if somebody does.
        """
        waker, self.waker = self.waker, None
        if waker is not None:
            waker()

    def result(self) -> MessageReceived:
        """
        Give the answer of a call that is ready.

        Raises:
            ErrorResponse: it is declared as an error.
        """
        outcome: Any
        if self.answers:
            outcome = self.answers.popleft()
        else:
            outcome, self.outcome = self.outcome, _TAKEN
        if isinstance(outcome, BaseException):
            raise fresh(outcome)
        if outcome.message.is_error and self.state is not State.LISTENING:
            error = ErrorResponse(outcome.message)
            error.header, error.frame = outcome.header, outcome.frame
            raise error
        return outcome  # type: ignore[no-any-return]


def fresh(error: BaseException) -> BaseException:
    """
    Copy an exception that several callers are told, so that none has their traces.
    """
    made = copy.copy(error)
    made.__cause__ = error.__cause__
    return made


def due_first(call: Call, others: Iterable[Call]) -> Call:
    """
    Find the call for which something has to be done first.
    """
    first = call
    for other in others:
        if other.due is None or other.ready:
            continue
        if first.due is None or other.due < first.due:
            first = other
    return first
