"""
Valid answers to requests, made from the declaration alone.

What a request says is believed: a field that the answer has too, by name and kind, gets
the request's value, a list whose length a request's count asks for has that many
elements, and the correlation key is the request's, wherever it stands. The rest is
drawn. An answer counts only if it builds, and its bytes parse back to it; otherwise
another one is drawn, at last without the request's values.
"""

from __future__ import annotations

import contextlib
import copy
import enum
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import attrs
import construct

from protoserve.codec.record import Field, Record, enclosing_context
from protoserve.errors import DeclarationError, ProtoserveError
from protoserve.messages import Message, response_types
from protoserve.protocol import Direction, Protocol
from protoserve.session import Session
from protoserve.tags import made_header
from protoserve.testing._drawing import (
    Drawing,
    Ledger,
    Refused,
    Undecided,
    frame_context,
)
from protoserve.testing._hints import hints_of
from protoserve.testing._rules import RULES

__all__ = ["Answers", "is_legal"]

_T = TypeVar("_T")

_TRIES = 50
"""Answers drawn before a message is said to have none."""
_TRIES_WITH_ECHO = 5
_MOST_ELEMENTS = 10_000
"""Elements that a request may ask for."""


def is_legal(protocol: Protocol, phase: str | None, cls: type[Message]) -> bool:
    """
    Say whether a message may be sent in a state of the conversation.
    """
    states = protocol.states
    if states is None or phase is None or cls in states.get(phase, ()):
        return True
    return not any(cls in moves for moves in states.values())


@attrs.frozen(eq=False)
class Answers:
    """
    Makes a protocol's answers.
    """

    protocol: Protocol
    _ledgers: dict[type[Message], Ledger] = attrs.field(factory=dict, init=False)

    def classes(
        self, request: type[Message], *, errors: bool = False
    ) -> tuple[type[Message], ...]:
        """
        List what may answer a request; nothing for messages that are not requests.

        Args:
            request: its class.
            errors: whether declared errors are wanted, in place of the others.
        """
        table = self.protocol.table(Direction.RESPONSE)
        by_name = {cls.__name__: cls for cls in table.values()}
        # What is promised by its name only is looked up.
        promised = [
            getattr(found, "__forward_arg__", None) or getattr(found, "__name__", "")
            for found in response_types(request)
        ]
        known = [by_name[name] for name in promised if name in by_name]
        own = declared(self.protocol.responses)
        if not known and request in declared(self.protocol.requests).values():
            tags = self.protocol.table(Direction.REQUEST)
            tag = next(tag for tag, cls in tags.items() if cls is request)
            others = [cls for cls in own.values() if not cls.is_error]
            same = own.get(tag)
            known = [same] if same is not None else others if len(others) == 1 else []
        if errors:
            named = [cls for cls in known if cls.is_error]
            return tuple(named or [cls for cls in own.values() if cls.is_error])
        return tuple(cls for cls in known if not cls.is_error)

    def answer(
        self,
        cls: type[Message],
        source: random.Random,
        session: Session | None,
        *,
        request: Any = None,
        request_header: Any = None,
        fields: Mapping[str, Any] | None = None,
    ) -> Message:
        """
        Make an answer.

        Args:
            cls: its class.
            source: makes the choices.
            session: what ``this._.session`` is to the fields.
            request: what is answered; `None` for what nobody asked for.
            request_header: its header.
            fields: values that are given.

        Raises:
            DeclarationError: none could be made.
        """
        given = dict(fields or {})
        header = self.header(cls, request_header)
        echo = {} if request is None else _echo(request, cls)
        echo = {name: value for name, value in echo.items() if name not in given}
        reason: Exception | None = None
        for echoed in self._attempts(echo):
            try:
                message = self._drawn(cls, source, session, header, {**echoed, **given})
                message = self._keyed(message, header, request, request_header)
                self._check(message, header, session)
            except (Refused, ProtoserveError) as exc:
                reason = exc
                continue
            if request is None:
                return message
            return self._as_many(message, request, header, session, given)
        raise DeclarationError(f"no {cls.__name__} could be made: {reason}")

    def header(self, cls: type[Message], request_header: Any = None) -> Any:
        """
        Make the header that an answer goes under; `None` for a protocol without.
        """
        protocol = self.protocol
        if protocol.header is None:
            return None
        if request_header is None:
            request_header = made_header(protocol.header, {}, lenient=True)
        blank = object.__new__(cls)
        return protocol.header_for(blank, Direction.RESPONSE, base=request_header)

    def _attempts(self, echo: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """
        Give sets of the request's values, fewer and fewer.
        """
        for _ in range(_TRIES_WITH_ECHO):
            yield echo
        for left_out in echo:
            yield {name: value for name, value in echo.items() if name != left_out}
        for name, value in echo.items():
            yield {name: value}
        for _ in range(_TRIES):
            yield {}

    def _drawn(
        self,
        cls: type[Message],
        source: random.Random,
        session: Session | None,
        header: Any,
        given: dict[str, Any],
    ) -> Message:
        record: Record = cls.construct
        ledger = self._ledgers.get(cls)
        if ledger is None:
            roots = [] if header is None else [type(header).construct]
            ledger = Ledger(hints_of(*roots, record), RULES)
            self._ledgers[cls] = ledger
        drawing = Drawing(source, ledger)
        context = frame_context(session)
        for field in () if header is None else type(header)._record.fields:
            if field.computed is not None:
                context[field.name] = Undecided.of(drawing)
            elif not field.hidden:
                context[field.name] = getattr(header, field.name)
        inner = enclosing_context(context, None)
        fixed = {name: _constant(value) for name, value in given.items()}
        message: Message = drawing.message(record, inner, cls.__name__, fixed)
        return message

    def _check(self, message: Message, header: Any, session: Session | None) -> None:
        protocol = self.protocol
        frame = protocol.build(
            message, Direction.RESPONSE, header=header, session=session
        )
        again = protocol.parse(frame, Direction.RESPONSE, session=session).message
        if again != message and "nan" not in repr(message):
            raise Refused(f"{type(message).__name__}: its bytes mean another message")

    def _keyed(
        self, message: Message, header: Any, request: Any, request_header: Any
    ) -> Message:
        """
        Put the request's key into an answer whose header does not have it.
        """
        if request is None:
            return message
        key = self.protocol.key(request_header, request)
        if key is None or self.protocol.key(header, message) == key:
            return message
        parts = key if isinstance(key, tuple) else (key,)
        for field in _fields(type(message)):
            for value in parts:
                changed = copy.copy(message)
                with contextlib.suppress(Exception):  # the function is the user's
                    object.__setattr__(changed, field.name, value)
                    if self.protocol.key(header, changed) == key:
                        return changed
        return message  # it has none, or it is beyond us

    def _as_many(
        self,
        message: Message,
        request: Message,
        header: Any,
        session: Session | None,
        given: Mapping[str, Any],
    ) -> Message:
        """
        Give a list as many elements as the request asks for, if that makes sense.
        """
        counts = [
            value
            for name, value in _numbers(request)
            if name.endswith(("count", "quantity")) and 0 <= value <= _MOST_ELEMENTS
        ]
        lists = [
            (field.name, value)
            for field in type(message)._record.fields
            if field.computed is None
            and field.name not in given
            and isinstance(value := getattr(message, field.name, None), list)
        ]
        if len(lists) != 1 or not lists[0][1]:
            return message
        name, values = lists[0]
        for count in counts:
            as_many = (values * (count // len(values) + 1))[:count]
            with contextlib.suppress(Exception):  # a validator's, among others
                changed: Message = attrs.evolve(message, **{name: as_many})  # type: ignore[misc] # they are attrs classes
                self._check(changed, header, session)
                return changed
        return message


def declared(table: Any) -> dict[Any, type[Message]]:
    """
    Bring a protocol's table to a dict: a single message has no tag.
    """
    return {None: table} if isinstance(table, type) else dict(table)


def _constant(value: _T) -> Any:
    """
    Give what draws a value as it is.
    """
    return lambda _context: copy.copy(value)


def _fields(cls: type[Message]) -> Iterable[Field]:
    return [f for f in cls._record.fields if f.computed is None and not f.hidden]


def _echo(request: Message, cls: type[Message]) -> dict[str, Any]:
    """
    Find the fields that an answer has in common with a request, with their values.
    """
    asked = {
        field.name: field.construct
        for field in type(request)._record.fields
        if not field.hidden
    }
    return {
        field.name: getattr(request, field.name)
        for field in _fields(cls)
        if field.name in asked and _is_like(asked[field.name], field.construct)
    }


def _is_like(one: Any, other: Any) -> bool:
    while isinstance(one, construct.Renamed):
        one = one.subcon
    while isinstance(other, construct.Renamed):
        other = other.subcon
    if one is other:
        return True
    if isinstance(one, Record) or type(one) is not type(other):
        return False
    if isinstance(one, construct.FormatField):
        return bool(one.fmtstr == other.fmtstr)
    if isinstance(one, construct.Subconstruct):
        return _is_like(one.subcon, other.subcon)
    return True


def _numbers(request: Message) -> Iterator[tuple[str, int]]:
    for field in _fields(type(request)):
        value = getattr(request, field.name, None)
        if isinstance(value, int) and not isinstance(value, bool | enum.Enum):
            yield field.name, value
