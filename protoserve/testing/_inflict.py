"""
What each kind of fault does to one message.

A message has a `Fate`, which starts as that of any other; every fault that happens to
it changes the fate, in the order of `protoserve.testing.faults.KINDS`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from protoserve.protocol import Parsed
from protoserve.testing._damage import corrupt_checksum, wrong_id
from protoserve.testing.faults import Fault

if TYPE_CHECKING:
    from protoserve.testing.injection import Injector

__all__ = ["INFLICT", "End", "Fate"]


class End(enum.Enum):
    """
    How a stream is ended.
    """

    EOF = "eof"
    """The sender has nothing more to say; the other direction goes on."""
    CLOSE = "close"
    """The connection is closed in both directions."""
    RESET = "reset"
    """The connection is reset."""


@attrs.define(eq=False)
class Fate:
    """
    What becomes of one message.
    """

    data: bytes
    frames: tuple[bytes, ...]
    parsed: tuple[Parsed, ...]
    copies: int = 1
    lost: bool = False
    end: End | None = None
    delay: float = 0.0
    gap: float | None = None
    """Seconds between two bytes, where they go singly."""
    late: float | None = None
    """Seconds that it waits for the next message to overtake it."""
    joined: float | None = None
    """Seconds that it waits for the next message to come along."""


def _drop(_injector: Injector, fate: Fate, _fault: Fault) -> bool:
    fate.lost = True
    return True


def _reset(_injector: Injector, fate: Fate, _fault: Fault) -> bool:
    fate.data, fate.end, fate.lost = b"", End.RESET, False
    return True


def _truncate(injector: Injector, fate: Fate, _fault: Fault) -> bool:
    if len(fate.data) < 2:
        return False
    fate.data = fate.data[: injector.source.randrange(1, len(fate.data))]
    fate.end = End.CLOSE if injector.stream else None
    return True


def _duplicate(_injector: Injector, fate: Fate, _fault: Fault) -> bool:
    fate.copies += 1
    return True


def _delay(injector: Injector, fate: Fate, fault: Fault) -> bool:
    fate.delay += _time(injector, fault)
    return True


def _reorder(injector: Injector, fate: Fate, fault: Fault) -> bool:
    fate.late = _time(injector, fault)
    return not injector.holds_back


def _coalesce(injector: Injector, fate: Fate, fault: Fault) -> bool:
    fate.joined = _time(injector, fault)
    return True


def _singly(injector: Injector, fate: Fate, fault: Fault) -> bool:
    fate.gap = _time(injector, fault)
    return True


def _wrong_id(injector: Injector, fate: Fate, _fault: Fault) -> bool:
    if len(fate.parsed) != len(fate.frames):
        return False
    made = [
        wrong_id(
            injector.protocol,
            parsed,
            injector.direction,
            injector.source,
            injector.session,
        )
        for parsed in fate.parsed
    ]
    if not any(made):
        return False
    fate.frames = tuple(n or o for n, o in zip(made, fate.frames, strict=True))
    framing = injector.protocol.framing
    fate.data = b"".join(injector.encode(framing, frame) for frame in fate.frames)
    return True


def _corrupt_checksum(injector: Injector, fate: Fate, _fault: Fault) -> bool:
    framing = injector.protocol.framing
    damaged = False
    pieces = []
    for frame in fate.frames:
        wrong = corrupt_checksum(
            injector.protocol,
            frame,
            injector.direction,
            injector.source,
            injector.encode,
            injector.session,
        )
        damaged = damaged or wrong is not None
        pieces.append(injector.encode(framing, frame) if wrong is None else wrong)
    if damaged:
        fate.data = b"".join(pieces)
    return damaged


def _time(injector: Injector, fault: Fault) -> float:
    if not fault.jitter:
        return fault.seconds
    return injector.source.uniform(
        fault.seconds - fault.jitter, fault.seconds + fault.jitter
    )


INFLICT: dict[str, Callable[[Injector, Fate, Fault], bool]] = {
    "wrong-id": _wrong_id,
    "corrupt-checksum": _corrupt_checksum,
    "truncate": _truncate,
    "duplicate": _duplicate,
    "drop": _drop,
    "reset": _reset,
    "delay": _delay,
    "reorder": _reorder,
    "coalesce": _coalesce,
    "split-every-byte": _singly,
    "slow-loris": _singly,
}
"""By the name of the kind; each gives whether there was anything to do it to."""
