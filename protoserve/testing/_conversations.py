"""
Conversations as a protocol's state table allows them, for Hypothesis.

A conversation is a list of frames with what is in them. It is drawn step by step: what
may be said next follows from the state that the step before has led to, so no example
is thrown away for being illegal. Each step is drawn behind its own decision to go on;
that lets Hypothesis drop single steps when it looks for the shortest conversation that
fails.

What the table does not mention is free in every state. Of that only requests are drawn,
as what a server says by itself is not for a test to make up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
from hypothesis import strategies as st

from protoserve.errors import DeclarationError
from protoserve.messages import Message, response_types
from protoserve.protocol import Direction, Protocol
from protoserve.session import Role, Session
from protoserve.testing.strategies import FrameExample, Kinds, frames_of, rules_of

__all__ = ["conversations"]

_GO_ON = 5
"""One conversation in so many ends with each step."""


def conversations(
    protocol: Protocol,
    *,
    most: int = 8,
    session: Callable[[], Any] | None = None,
    follow: Callable[[Any, FrameExample], object] | None = None,
    kinds: Kinds | None = None,
) -> st.SearchStrategy[list[FrameExample]]:
    """
    Make a strategy for conversations that follow a protocol's state table.

    Each step is a frame with its `direction`, its `header` and its `message`. Without a
    state table it is any requests in any order. An answer that the table lets follow
    its request has the request's correlation key, where that is in the header.

    Args:
        protocol: the protocol.
        most: steps of the longest.
        session: gives what ``this._.session`` is to the fields, once for each
            conversation; by default a `Session`, whose phase follows the steps.
        follow: is called with that and each step, to keep what later steps depend on,
            as a handler would: ``session.state`` for example.
        kinds: as for `from_message`.

    Raises:
        DeclarationError: nobody can begin.

    >>> from examples.sensor_station import sensors
    >>> strategy = conversations(sensors, most=3)
    """
    if most < 1:
        raise DeclarationError(f"most: expected 1 or more steps, found {most!r}")
    table = _Table.of(protocol)
    rules = rules_of(kinds)
    makers: dict[Any, Callable[..., st.SearchStrategy[FrameExample]]] = {}
    if not table.next_steps(table.start):
        raise DeclarationError(f"{protocol.name} has no message to begin with")

    def maker(step: _Step) -> Callable[..., st.SearchStrategy[FrameExample]]:
        if step not in makers:
            makers[step] = frames_of(protocol, step.direction, step.cls, rules)
        return makers[step]

    @st.composite
    def talks(draw: st.DrawFn) -> list[FrameExample]:
        holder = _session(protocol) if session is None else session()
        said: list[FrameExample] = []
        phase = table.start
        while len(said) < most and (not said or draw(st.integers(0, _GO_ON))):
            steps = table.next_steps(phase)
            if not steps:
                break
            step = draw(st.sampled_from(steps))
            key = _key_of(protocol, step, said)
            example = draw(maker(step)(holder, key))
            said.append(example)
            phase = table.moves(phase).get(step.cls, phase)
            if session is None:
                holder.phase = phase
            if follow is not None:
                follow(holder, example)
        return said

    return talks()


def _session(protocol: Protocol) -> Session:
    return Session(protocol, Role.CLIENT, stream=protocol.framing is not None)


@attrs.frozen
class _Step:
    """
    Who says what.
    """

    direction: Direction
    cls: type[Message]


@attrs.frozen
class _Table:
    """
    What may be said in which state.
    """

    protocol: Protocol
    start: str | None
    free: tuple[_Step, ...]
    """Requests that are allowed in every state."""

    @classmethod
    def of(cls, protocol: Protocol) -> _Table:
        states = protocol.states or {}
        bound = {message for moves in states.values() for message in moves}
        requests = protocol.table(Direction.REQUEST).values()
        free = [
            _Step(Direction.REQUEST, each) for each in requests if each not in bound
        ]
        return cls(protocol, next(iter(states), None), tuple(free))

    def moves(self, phase: str | None) -> Mapping[type[Message], str]:
        states = self.protocol.states or {}
        return states.get(phase, {}) if phase is not None else {}

    def next_steps(self, phase: str | None) -> list[_Step]:
        """
        List what may be said next, what leads on first.
        """
        return [*self._bound_steps(phase), *self.free]

    def _bound_steps(self, phase: str | None) -> Iterator[_Step]:
        for cls in self.moves(phase):
            for direction in Direction:
                if cls in self.protocol.table(direction).values():
                    yield _Step(direction, cls)


def _key_of(
    protocol: Protocol, step: _Step, said: list[FrameExample]
) -> dict[str, Any]:
    """
    Give the header's fields that tie an answer to the last request that it answers.
    """
    names = protocol.correlate
    if step.direction is Direction.REQUEST or names is None or callable(names):
        return {}
    for example in reversed(said):
        answers = response_types(type(example.message))
        asked = example.direction is Direction.REQUEST
        if asked and answers and (step.cls in answers or step.cls.is_error):
            each = (names,) if isinstance(names, str) else names
            return {n: getattr(example.header, n) for n in each if "." not in n}
    return {}
