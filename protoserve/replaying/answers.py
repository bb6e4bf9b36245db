"""
What a server has answered then and answers now, in one conversation.

Answers are compared as messages where the protocol is known: by its key if it has one,
else in order, without the fields that are said to vary. Otherwise bytes are compared,
those of a stream as they follow each other, however they were cut.

A recorded answer may be read from the file before the new one comes, or after.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Any

import attrs

from protoserve.errors import RemoteProtocolError
from protoserve.events import NEED_DATA, MessageReceived, MessageRejected, StreamBroken
from protoserve.plain import to_plain
from protoserve.protocol import Protocol
from protoserve.session import Role, Session

__all__ = ["Answers", "Bytes", "Difference", "Messages", "Verdict"]

_MOST_EARLY = 1024
"""Answers of a conversation that come before the recorded ones were read."""


@attrs.frozen
class Difference:
    """
    An answer that is not the recorded one.
    """

    number: int
    """The recorded answer's entry or packet; 0 if there was none."""
    expected: str
    found: str

    def __str__(self) -> str:
        where = f"{self.number}: " if self.number else ""
        return f"{where}expected {self.expected}, found {self.found}"


Verdict = Callable[["Difference | None"], object]
"""Is told of each answer: `None` if it is as recorded."""


@attrs.frozen
class _Answer:
    number: int
    key: Hashable
    value: Any
    """What is compared."""
    text: str


class Answers:
    """
    The answers of one conversation.

    Args:
        verdict: is told of each answer that could be compared.
    """

    def __init__(self, verdict: Verdict) -> None:
        self._verdict = verdict
        self.waiting: deque[_Answer] = deque()
        """Recorded answers whose new ones have not come."""
        self._early: deque[_Answer] = deque()

    def expect(self, number: int, data: bytes) -> None:
        """
        Take what the server has said then.
        """
        for answer in self._cut_recorded(number, data):
            for found in self._early:
                if found.key == answer.key:
                    self._early.remove(found)
                    self._compare(answer, found)
                    break
            else:
                self.waiting.append(answer)

    def take(self, data: bytes) -> None:
        """
        Take what the server says now.
        """
        for found in self._cut_new(data):
            for answer in self.waiting:
                if found.key == answer.key:
                    self.waiting.remove(answer)
                    self._compare(answer, found)
                    break
            else:
                self._early.append(found)
                if len(self._early) > _MOST_EARLY:
                    self._tell_unexpected(self._early.popleft())

    def end(self) -> int:
        """
        Tell what came and was not recorded; give how many answers have not come.
        """
        while self._early:
            self._tell_unexpected(self._early.popleft())
        return len(self.waiting)

    def _compare(self, answer: _Answer, found: _Answer) -> None:
        same = answer.value == found.value
        self._verdict(
            None if same else Difference(answer.number, answer.text, found.text)
        )

    def _tell_unexpected(self, found: _Answer) -> None:
        self._verdict(Difference(0, "nothing more", found.text))

    def _cut_recorded(self, number: int, data: bytes) -> Iterable[_Answer]:
        raise NotImplementedError

    def _cut_new(self, data: bytes) -> Iterable[_Answer]:
        raise NotImplementedError


class Bytes(Answers):
    """
    Answers as bytes.

    Args:
        verdict: is told of each answer that could be compared.
        stream: whether it is a stream.
    """

    def __init__(self, verdict: Verdict, *, stream: bool) -> None:
        super().__init__(verdict)
        self._stream = stream
        self._new = bytearray()

    def expect(self, number: int, data: bytes) -> None:
        """
        Take what the server has said then.
        """
        super().expect(number, data)
        if self._stream and self._new:
            self.take(b"")

    def take(self, data: bytes) -> None:
        """
        Take what the server says now.
        """
        if not self._stream:
            super().take(data)
            return
        self._new += data
        while self.waiting and len(self._new) >= len(self.waiting[0].value):
            answer = self.waiting.popleft()
            found = bytes(self._new[: len(answer.value)])
            del self._new[: len(found)]
            self._compare(answer, _of_bytes(0, found))

    def end(self) -> int:
        """
        Tell what came and was not recorded; give how many answers have not come.
        """
        if self._new and not self.waiting:
            self._tell_unexpected(_of_bytes(0, bytes(self._new)))
            self._new.clear()
        return super().end()

    def _cut_recorded(self, number: int, data: bytes) -> Iterable[_Answer]:
        return (_of_bytes(number, data),)

    def _cut_new(self, data: bytes) -> Iterable[_Answer]:
        return (_of_bytes(0, data),)


def _of_bytes(number: int, data: bytes) -> _Answer:
    shown = data[:32].hex(" ")
    return _Answer(number, None, data, f"{shown} …" if len(data) > 32 else shown)


class Messages(Answers):
    """
    Answers as messages of a protocol.

    Args:
        verdict: is told of each answer that could be compared.
        protocol: what is spoken.
        stream: whether it is a stream.
        ignored: fields that may differ, by name.
    """

    def __init__(
        self,
        verdict: Verdict,
        protocol: Protocol,
        *,
        stream: bool,
        ignored: Collection[str] = (),
    ) -> None:
        super().__init__(verdict)
        self._protocol = protocol
        self._ignored = frozenset(ignored)
        self._recorded = Session(protocol, Role.CLIENT, stream=stream)
        self._new = Session(protocol, Role.CLIENT, stream=stream)
        # Nothing is sent by these sessions, so they cannot follow the conversation.
        self._recorded.phase = self._new.phase = None

    def _cut_recorded(self, number: int, data: bytes) -> Iterable[_Answer]:
        return self._cut(self._recorded, number, data)

    def _cut_new(self, data: bytes) -> Iterable[_Answer]:
        return self._cut(self._new, 0, data)

    def _cut(self, session: Session, number: int, data: bytes) -> Iterable[_Answer]:
        session.receive_data(data)
        while (event := session.next_event()) is not NEED_DATA:
            if isinstance(event, MessageReceived):
                key = self._protocol.key(event.header, event.message)
                plain = to_plain(event.header), to_plain(event.message)
                value = _without(plain, self._ignored)
                yield _Answer(
                    number, key, (type(event.message), value), repr(event.message)
                )
            elif isinstance(event, MessageRejected):
                text = f"{event.frame.data.hex(' ')} ({_in_words(event.error)})"
                yield _Answer(number, None, event.frame.data, text)
            elif isinstance(event, StreamBroken):
                yield _Answer(number, None, None, _in_words(event.error))


def _in_words(error: RemoteProtocolError) -> str:
    return str(error).partition("\n")[0]


def _without(plain: Any, ignored: Collection[str]) -> Any:
    """
    Leave out what may differ, at any depth.
    """
    if isinstance(plain, dict):
        return {k: _without(v, ignored) for k, v in plain.items() if k not in ignored}
    if isinstance(plain, list | tuple):
        return [_without(value, ignored) for value in plain]
    return plain
