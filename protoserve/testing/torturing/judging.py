"""
What is wrong with a server's answers, judged from outside and by the declaration.

A conversation is followed twice: by a session in the server's role that is fed what
was sent, which tells what a right server sees; and by one in the client's role that is
fed what came back. So nothing here knows how a case was made. Broken input may be
answered by an error, by silence or by closing; it may not be answered as if nothing
were wrong with it, and what was valid must be answered if it was before.

An answer belongs to the request with its key. Where there are no keys, it belongs to
the oldest request without an answer. What cannot be told apart is not judged: no
suspicion is better than a wrong one.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import attrs

from protoserve.errors import (
    MalformedMessageError,
    RemoteProtocolError,
    UnknownMessageError,
)
from protoserve.events import (
    NEED_DATA,
    MessageReceived,
    MessageRejected,
    PeerClosed,
    StreamBroken,
)
from protoserve.messages import Message, response_types
from protoserve.plain import to_plain
from protoserve.protocol import Direction, Protocol
from protoserve.session import Role, Session
from protoserve.testing.torturing.cases import Baseline

__all__ = ["CATEGORIES", "Conversation", "Suspicion", "stable_fields"]

CATEGORIES = {
    "crash": "the server is gone",
    "hang": "nothing is answered any more",
    "unanswered": "a valid request gets no answer, and got one before",
    "closed": "a valid request is answered by closing, and others of its kind are not",
    "garbled": "an answer does not parse",
    "wrong-key": "an answer carries the key of no request",
    "wrong-type": "an answer is no declared response of its request",
    "unsolicited": "an answer comes that nobody has asked for",
    "duplicate": "a request is answered twice",
    "accepted": "broken input is answered as if it were valid",
    "state": "a message is accepted in a state that does not allow it",
    "slow": "an answer takes out of proportion long",
    "memory": "the server's memory grows",
    "exception": "the handler raises an exception",
}
"""What a finding can be."""

_MOST_ASKS = 512
"""Requests of one conversation that are remembered; later answers are not judged."""


class _Any:
    """
    The key of a frame that has none that could be read.
    """


_ANY = _Any()


@attrs.frozen
class Suspicion:
    """
    Something that looks wrong, until it was seen again.
    """

    category: str
    """One of `CATEGORIES`."""
    text: str
    """One sentence."""
    cause: tuple[str, ...] = ()
    """What is the same for all that has the same cause."""
    data: bytes = b""
    """The answer's bytes, where it is one."""


@attrs.define(eq=False)
class Ask:
    """
    One frame that was sent, as a right server sees it.
    """

    frame: bytes
    message: Any
    """`None` if it is no valid message here and now."""
    key: Hashable
    error: RemoteProtocolError | None
    due: bool
    """Whether it has to be answered."""
    known: bool = False
    """Whether it was answered before, at least."""
    answers: list[bytes] = attrs.field(factory=list)

    def is_answered(self) -> bool:
        """
        Whether there is an answer.
        """
        return bool(self.answers)

    @property
    def name(self) -> str:
        """
        What was asked.
        """
        return "a broken frame" if self.message is None else type(self.message).__name__


def _rank(ask: Ask) -> tuple[bool, bool, bool, bool]:
    """
    Order the requests that an answer may belong to: what waits for one comes first.
    """
    any_key = ask.key is _ANY or ask.key is None
    return bool(ask.answers), not ask.known, any_key, ask.message is None


class Conversation:
    """
    What was sent and received on one connection, or by one socket.

    Args:
        protocol: what is spoken.
        stream: whether over a stream.
    """

    def __init__(self, protocol: Protocol, *, stream: bool) -> None:
        self.protocol = protocol
        self.stream = stream
        self._seen = Session(protocol, Role.SERVER, stream=stream)
        self._said = Session(protocol, Role.CLIENT, stream=stream)
        self._said.phase = None  # what it says is taken in any state
        self.asks: list[Ask] = []
        self.due: set[bytes] = set()
        """Frames that have to be answered, when they are sent."""
        self.kept: frozenset[str] = frozenset()
        self.baseline: Baseline | None = None
        self.suspicions: list[Suspicion] = []
        self.broken = False
        """Whether the stream that was sent cannot be cut into frames any more."""
        self.disturbed = False
        """Whether a right server may have ended the conversation."""
        self.ended = False
        """Whether we have said that nothing more comes."""
        self.closed = False
        """Whether the server has closed."""
        self.pardoned = False
        """Whether something that is forgotten may be answered by closing."""
        self._strays: list[tuple[str, Hashable, bytes, list[Ask]]] = []

    # What is sent ------------------------------------------------------------

    def sent(self, data: bytes) -> None:
        """
        Take note of bytes that are sent.
        """
        if self.broken:
            return
        self._seen.receive_data(data)
        while (event := self._seen.next_event()) is not NEED_DATA:
            if isinstance(event, StreamBroken):
                self.broken = self.disturbed = True
                self._add(Ask(b"", None, _ANY, event.error, due=False))
            elif isinstance(event, MessageReceived):
                self._asked(event)
            elif isinstance(event, MessageRejected):
                key = self._key_of(event.header)
                error: RemoteProtocolError | None = event.error
                if self._is_early(event.error):
                    error = None
                self._add(Ask(event.frame.data, None, key, error, due=False))
                self.disturbed = True

    def _is_early(self, error: RemoteProtocolError) -> bool:
        """
        Whether something is only not allowed as an answer is still on its way.
        """
        broken = isinstance(error, MalformedMessageError | UnknownMessageError)
        return not broken and any(ask.message and not ask.answers for ask in self.asks)

    def end(self) -> None:
        """
        Take note that nothing more is sent.
        """
        self.ended = self.disturbed = True

    def _asked(self, event: MessageReceived) -> None:
        key = self.protocol.key(event.header, event.message)
        frame = event.frame.data
        known = frame in self.due
        due = known and not self.disturbed
        self._add(Ask(frame, event.message, key, None, due, known))

    def _key_of(self, header: Any) -> Hashable:
        """
        Read the key of a frame that has no message; often there is none.
        """
        if header is None or callable(self.protocol.correlate):
            return _ANY
        try:
            return self.protocol.key(header, None)
        except Exception:
            return _ANY

    def _add(self, ask: Ask) -> None:
        self.asks.append(ask)
        if len(self.asks) > _MOST_ASKS:
            del self.asks[: _MOST_ASKS // 2]

    @property
    def at_boundary(self) -> bool:
        """
        Whether a right server waits for the start of a frame.
        """
        return not (self.broken or self.ended or self._seen.buffered)

    @property
    def phase(self) -> str | None:
        """
        Where in the protocol's state table it is.
        """
        return self._seen.phase

    @property
    def waiting(self) -> list[Ask]:
        """
        What has to be answered, and is not.
        """
        return [ask for ask in self.asks if ask.due and not ask.answers]

    # What comes back ---------------------------------------------------------

    def received(self, data: bytes) -> None:
        """
        Judge bytes that came.
        """
        self._said.receive_data(data)
        self._judge_events()

    def lost(self, *, reset: bool) -> None:
        """
        Take note that the server has closed.

        Args:
            reset: whether bytes that it had sent may be lost.
        """
        self.closed = True
        if not reset and self.stream:
            self._said.receive_eof()
            self._judge_events()

    def _judge_events(self) -> None:
        while (event := self._said.next_event()) is not NEED_DATA:
            if isinstance(event, MessageReceived):
                self._move(type(event.message))
                self._judge(event.message, event.header, event.frame.data)
            elif isinstance(event, StreamBroken):
                text = f"the answers cannot be cut into frames: {_line(event.error)}"
                cause = type(event.error).__name__
                self.suspect("garbled", text, cause)
            elif isinstance(event, MessageRejected):
                self._judge_rejected(event)
            elif isinstance(event, PeerClosed):
                return

    def _move(self, cls: type[Message]) -> None:
        """
        Follow the state table, as far as the server's own messages lead there.
        """
        phase = self._seen.phase
        if self.protocol.states and phase is not None:
            self._seen.phase = self.protocol.states[phase].get(cls, phase)

    def _judge_rejected(self, event: MessageRejected) -> None:
        error, data = event.error, event.frame.data
        for ask in self._candidates(self._key_of(event.header)):
            ask.answers.append(data)
            break
        if isinstance(error, MalformedMessageError):
            where = _unnumbered(error.path)
            text = f"an answer does not parse: {_line(error)}"
            self.suspect("garbled", text, where, data=data)
        elif isinstance(error, UnknownMessageError):
            text = f"an answer is of no known type: {_line(error)}"
            self.suspect("garbled", text, "tag", data=data)

    def _judge(self, message: Message, header: Any, data: bytes) -> None:
        key = self.protocol.key(header, message)
        name = type(message).__name__
        found = self._candidates(key)
        if not found:
            if not _is_push(self.protocol, type(message)):
                self._judge_stray(name, key, data)
            return
        same = sum(ask.answers.count(data) for ask in found)
        fitting = [ask for ask in found if self._fits(ask, message)]
        ask = min(fitting or found, key=_rank)
        again = bool(ask.answers)
        ask.answers.append(data)
        if key is not None and same >= len(found) and same:
            text = f"{ask.name} is answered by the same {name} twice"
            self.suspect("duplicate", text, data=data)
        elif ask.message is None:
            self._judge_accepted(ask, message, header, data)
        elif not fitting:
            text = f"{ask.name} is answered by {name}, which is no response of it"
            self.suspect("wrong-type", text, ask.name, name, data=data)
        elif again and ask.due and self._is_single():
            text = f"{ask.name} is answered more than once"
            self.suspect("duplicate", text, data=data)

    def _fits(self, ask: Ask, message: Message) -> bool:
        """
        Whether a message may answer a request; a broken one may have been any.
        """
        if ask.message is None:
            return True
        return _answers(type(ask.message), type(message))

    def _is_single(self) -> bool:
        """
        Whether what is due was answered once, whenever it was asked.
        """
        known = self.baseline
        return known is not None and known.answers == 1 and len(self.asks) == 1

    def _candidates(self, key: Hashable) -> list[Ask]:
        """
        Give the requests that an answer may belong to.
        """
        if key is None:
            waiting = [ask for ask in self.asks if not ask.answers]
            return waiting[:1]
        return [ask for ask in self.asks if ask.key == key or ask.key in (_ANY, None)]

    def _judge_stray(self, name: str, key: Hashable, data: bytes) -> None:
        waiting = [ask for ask in self.asks if not ask.answers]
        self._strays.append((name, key, data, waiting))

    def judge_strays(self) -> None:
        """
        Judge the answers that belong to no request, once all is there.

        One that comes in place of another has the wrong key; one that comes besides
        is too many.
        """
        for name, key, data, waiting in self._strays:
            still = [ask for ask in waiting if not ask.answers]
            if key is not None and still:
                asked = still[-1].key
                text = f"{name} carries the key {key!r}; what was asked has {asked!r}"
                self.suspect("wrong-key", text, data=data)
            else:
                text = f"{name} comes though nobody has asked for it"
                self.suspect("unsolicited", text, name, data=data)
        self._strays.clear()

    def _judge_accepted(
        self, ask: Ask, message: Message, header: Any, data: bytes
    ) -> None:
        """
        Compare the answer to what was broken with that to what was valid.
        """
        known, error = self.baseline, ask.error
        if known is None or known.error or error is None:
            return
        if len(self._candidates(ask.key)) > 1 or (
            ask is not self.asks[-1] and ask.key in (None, _ANY)
        ):
            return  # it may be the answer to something else
        if type(message).__name__ != known.message:
            return
        now = stable_fields(self.protocol, header, message)
        if any(now.get(path) != value for path, value in known.stable.items()):
            return
        reason = _line(error)
        if isinstance(error, MalformedMessageError | UnknownMessageError):
            path = _unnumbered(getattr(error, "path", "the tag"))
            text = f"answered by {known.message} as if it were valid: {reason}"
            self.suspect("accepted", text, path, data=data)
        elif ask.frame:
            text = f"answered by {known.message} as if it were allowed: {reason}"
            self.suspect("state", text, reason, data=data)

    def suspect(
        self, category: str, text: str, *cause: str, data: bytes = b""
    ) -> Suspicion:
        """
        Take note of something that looks wrong.
        """
        found = Suspicion(category, text, (category, *cause), data)
        self.suspicions.append(found)
        return found

    def overdue(self) -> None:
        """
        Judge that time is up for what has to be answered.
        """
        if self._said.buffered and not self.closed:
            size = self._said.buffered
            text = f"an answer is not finished: {size} bytes of a frame have come"
            self.suspect("garbled", text, "unfinished")
        elif waiting := self.waiting:
            name = waiting[0].name
            if self.closed:
                text = f"the connection is closed instead of answering {name}"
                self.suspect("closed", text, name)
            else:
                text = f"{name} gets no answer, and got one before"
                self.suspect("unanswered", text, name)

    def judge_closing(self) -> None:
        """
        Judge that a request that is valid, if not known, was answered by closing.

        It is the first one without an answer; if another may be closed upon, that one
        was perhaps what the server has closed for.
        """
        if not self.closed or self.disturbed or self.pardoned:
            return
        names = [ask.name for ask in self.asks if not ask.answers]
        if names and self.kept.issuperset(names):
            text = f"the connection is closed instead of answering a valid {names[0]}"
            self.suspect("closed", text, names[0])

    def forget(self) -> None:
        """
        Let the next answer be one to the newest request.
        """
        *before, newest = self.asks
        if any(not ask.answers and ask.name not in self.kept for ask in before):
            self.pardoned = True
        self.asks = [newest]


def stable_fields(protocol: Protocol, header: Any, message: Any) -> dict[str, Any]:
    """
    Give the fields of header and message by path, without the correlation key.
    """
    correlate = protocol.correlate
    keys = (correlate,) if isinstance(correlate, str) else correlate
    keys = keys if isinstance(keys, tuple) else ()
    found = {
        f"header.{path}": value
        for path, value in _leaves(None if header is None else to_plain(header))
        if path not in keys
    }
    found.update(
        (f"message.{path}" if path else "message", value)
        for path, value in _leaves(to_plain(message))
    )
    return found


def _leaves(plain: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(plain, Mapping):
        for name, value in plain.items():
            yield from _leaves(value, f"{path}.{name}" if path else str(name))
    elif isinstance(plain, list):
        yield f"{path}.len", len(plain)
        for i, value in enumerate(plain[:16]):
            yield from _leaves(value, f"{path}.{i}")
    elif plain is not None:
        yield path, plain


def _answers(request: type, response: type) -> bool:
    """
    Whether a response is one that a request may be answered by.
    """
    declared = response_types(request)
    if not declared or getattr(response, "is_error", False):
        return True
    names = {
        getattr(c, "__name__", getattr(c, "__forward_arg__", "")) for c in declared
    }
    return response in declared or response.__name__ in names


def _is_push(protocol: Protocol, cls: type) -> bool:
    """
    Whether a message comes without being asked for.
    """
    if (
        cls in protocol.messages.values()
        if isinstance(protocol.messages, Mapping)
        else cls is protocol.messages
    ):
        return True
    if getattr(cls, "is_error", False):
        return False
    requests = protocol.table(Direction.REQUEST).values()
    if not all(response_types(request) for request in requests):
        return False
    return not any(_answers(request, cls) for request in requests)


def _line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _unnumbered(path: str) -> str:
    return re.sub(r"\[\d+\]", "[]", path)
