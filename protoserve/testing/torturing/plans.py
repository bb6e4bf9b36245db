"""
What is known of a server, and a case in the making.

Both are what the classes of cases share: frames under keys of their own, what goes over
the wire for them, and the note of which of them have to be answered.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TypeAlias

import attrs

from protoserve.protocol import Protocol
from protoserve.testing.torturing.cases import Baseline, Case, Send, Settle, Step
from protoserve.testing.torturing.seeds import Keys, Seed, wire_form

__all__ = ["BRIEF", "Maker", "Plan", "Script"]

BRIEF = 0.004
"""Seconds in which a server that waits takes what has come."""


@attrs.define
class Plan:
    """
    What is known of a server, so that cases can be made for it.
    """

    protocol: Protocol
    stream: bool
    seeds: list[Seed]
    """Valid requests."""
    known: dict[Seed, Baseline] = attrs.field(factory=dict)
    """What those are answered by that are answered each time."""
    kept: frozenset[str] = frozenset()
    """Messages for which the server has never closed a connection."""
    probe: Seed | None = None
    """What the server's health is looked at by."""
    lanes: int = 8
    """Connections that the server answers at a time."""
    keys: Keys = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.keys = Keys(self.protocol)

    @property
    def stateful(self) -> bool:
        """
        Whether the conversation has states.
        """
        return bool(self.protocol.states)

    def wire(self, frame: bytes) -> bytes:
        """
        Give what is sent for a frame.
        """
        return wire_form(self.protocol, frame, stream=self.stream)


@attrs.define
class Script:
    """
    A case in the making.
    """

    plan: Plan
    kind: str
    steps: list[Step] = attrs.field(factory=list)
    due: set[bytes] = attrs.field(factory=set)

    def frame(self, seed: Seed, key: int | None = None) -> bytes:
        """
        Build a seed, under the next key if none is given; it is due if it was answered
        before.
        """
        frame = seed.frame(self.plan.keys.take() if key is None else key)
        if seed in self.plan.known:
            self.due.add(frame)
        return frame

    def approach(self, seed: Seed, on: int = 0) -> None:
        """
        Do what has to go before a seed, on one of the connections.
        """
        for before in seed.approach:
            self.steps += [Send(self.plan.wire(self.frame(before)), on), Settle(on)]

    def case(self, what: str, seed: Seed | None = None, origin: bytes = b"") -> Case:
        """
        Finish it.
        """
        return Case(
            self.kind,
            tuple(self.steps),
            what,
            frozenset(self.due),
            self.plan.kept,
            None if seed is None else self.plan.known.get(seed),
            origin,
        )


Maker: TypeAlias = Callable[[Plan, random.Random], Iterator[Case]]
"""Makes the cases of one class, without an end if there are any."""
