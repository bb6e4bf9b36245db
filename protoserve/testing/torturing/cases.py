"""
What is done to a server: a case is a few steps on one connection or on several.

A case is a value: its bytes are all there, so that it can be played again, made
smaller, and written into a file. It also says what is known beforehand: which of its
frames a server in good health has answered, and what it says to the one that was
broken. What else a right server does follows from the declaration (see `judging`).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import attrs

__all__ = [
    "Baseline",
    "Case",
    "End",
    "Pause",
    "Send",
    "Settle",
    "Step",
]


@attrs.frozen
class Send:
    """
    Write bytes to a stream, or send them as one datagram.
    """

    data: bytes = attrs.field(repr=lambda data: f"bytes.fromhex({data.hex()!r})")
    on: int = 0
    """Which of the case's connections; they are opened when they are needed."""


@attrs.frozen
class Pause:
    """
    Be silent for a while.
    """

    seconds: float


@attrs.frozen
class Settle:
    """
    Wait for the answers that are due.
    """

    on: int = 0


@attrs.frozen
class End:
    """
    Say on a stream that nothing more is sent; answers are still taken.
    """

    on: int = 0


Step: TypeAlias = Send | Pause | Settle | End


@attrs.frozen
class Baseline:
    """
    What a server says to a valid request, as far as it is the same each time.
    """

    message: str
    """The class of the answer."""
    stable: dict[str, Any] = attrs.field(factory=dict)
    """Fields of header and message by their paths, the correlation key left out."""
    answers: int = 1
    """How many there are."""
    error: bool = False
    """Whether it is a declared error."""


@attrs.frozen
class Case:
    """
    One case.
    """

    kind: str
    """Its class, one of `KINDS`."""
    steps: tuple[Step, ...]
    what: str = ""
    """What is special about it, in words."""
    due: frozenset[bytes] = frozenset()
    """Frames that were answered before, so that they have to be answered now."""
    kept: frozenset[str] = frozenset()
    """Requests, by class, for which no connection was ever closed."""
    baseline: Baseline | None = None
    """What is answered to the valid frame that was broken."""
    origin: bytes = b""
    """The valid frame, as it goes over the wire."""

    @property
    def sent(self) -> int:
        """
        How many bytes it sends.
        """
        return sum(len(step.data) for step in self.steps if isinstance(step, Send))
