"""
Faults as people write them: ``drop=5%``, ``delay=50ms±20``, ``truncate=1%@Reading``.

A fault is a value: what goes wrong (its kind), how often, for how long, and with
which messages. What it does to bytes is told in `protoserve.testing.injection`, which
the simulator, the proxy and the pytest fixtures share, so that the same text means the
same everywhere.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

import attrs

from protoserve.errors import DeclarationError
from protoserve.protocol import Direction, Protocol
from protoserve.testing._damage import has_checksum

__all__ = [
    "KINDS",
    "Fault",
    "FaultError",
    "Kind",
    "check_faults",
    "parse_duration",
    "parse_share",
]


class FaultError(DeclarationError):
    """
    A fault is written in a way that means nothing, or cannot happen to a protocol.
    """


@attrs.frozen
class Kind:
    """
    What can go wrong.
    """

    name: str
    doc: str
    seconds: float | None = None
    """How long, unless the fault says so; `None` if time means nothing to it."""
    what: str = ""
    """What that time is."""
    timed: bool = False
    """Whether the time has to be given."""
    streams_only: bool = False
    """Whether it cannot happen to a datagram."""
    parses: bool = False
    """Whether the message has to be understood for it."""


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("wrong-id", "its correlation key is another one", parses=True),
        Kind("corrupt-checksum", "a bit of its checksum is wrong", parses=True),
        Kind("truncate", "it ends too early, and so does a stream"),
        Kind("duplicate", "it comes twice"),
        Kind("drop", "it never comes"),
        Kind("reset", "the connection is reset in its place", streams_only=True),
        Kind("delay", "it comes late", 0.0, "how much later it comes", timed=True),
        Kind(
            "reorder", "it comes after the next one", 0.1, "how long it waits for that"
        ),
        Kind(
            "coalesce",
            "it comes in one piece with the next ones",
            0.02,
            "how long it waits for them",
            streams_only=True,
        ),
        Kind(
            "split-every-byte",
            "each of its bytes comes by itself",
            0.001,
            "the time between two bytes",
            streams_only=True,
        ),
        Kind(
            "slow-loris",
            "it trickles in, byte by byte",
            0.2,
            "the time between two bytes",
            streams_only=True,
        ),
    )
}
"""All kinds of faults by name, in the order in which they are inflicted."""

_UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_SHARE = re.compile(rf"{_NUMBER}\s*%")
_TIME = re.compile(
    rf"{_NUMBER}\s*([a-zµ]+)(?:\s*(?:±|\+-|\+/-)\s*{_NUMBER}\s*([a-zµ]+)?)?"
)
_LONGEST = 3600.0


def parse_duration(text: str, what: str = "a duration") -> tuple[float, float]:
    """
    Read a duration with what it varies by, in seconds.

    Args:
        text: a number and its unit, and perhaps ``±`` (or ``+-``) and a number, which
            has the same unit unless another is given.
        what: what it is for, in the error.

    Raises:
        FaultError: it is none, or longer than an hour.

    >>> parse_duration("50ms±20")
    (0.05, 0.02)
    """
    found = _TIME.fullmatch(text.strip())
    units = [] if found is None else [found[2], found[4] or found[2]]
    wrong = next((unit for unit in units if unit not in _UNITS), None)
    if found is None or wrong is not None:
        raise FaultError(
            f"{what}: expected a time such as 50ms or 50ms±20 "
            f"(units: {', '.join(_UNITS)}), found {text!r}"
        )
    time = float(found[1]) * _UNITS[units[0]]
    jitter = float(found[3] or 0) * _UNITS[units[1]]
    if time + jitter > _LONGEST:
        raise FaultError(f"{what}: expected at most an hour, found {text!r}")
    if jitter > time:
        raise FaultError(f"{what}: {text!r} would be less than no time at all")
    return time, jitter


def parse_share(text: str, what: str = "a share") -> float:
    """
    Read a percentage as a number in 0..1.

    Args:
        text: a number and ``%``.
        what: what it is for, in the error.

    Raises:
        FaultError: it is none.

    >>> parse_share("5%")
    0.05
    """
    found = _SHARE.fullmatch(text.strip())
    if found is None:
        raise FaultError(f"{what}: expected a share such as 5%, found {text!r}")
    share = float(found[1]) / 100
    if share > 1:
        raise FaultError(f"{what}: expected a share in 0%..100%, found {text!r}")
    return share


@attrs.frozen
class Fault:
    """
    One thing that goes wrong, now and then or always.
    """

    kind: str
    """One of `KINDS`."""
    share: float = 1.0
    """With which part of the messages, in 0..1; each is decided on by itself."""
    seconds: float = 0.0
    """How long, for kinds that take time."""
    jitter: float = 0.0
    """How much shorter or longer that may be."""
    only: tuple[str, ...] = ()
    """The names of the messages that it happens to; empty: to all."""

    @classmethod
    def parse(cls, text: str) -> Fault:
        """
        Read a fault.

        Args:
            text: ``KIND[=TIME][,SHARE][@MESSAGE,…]``, where the share is a percentage
                and time and share may come in either order, after ``=``.

        Raises:
            FaultError: it is none; it says what is wrong, and what was meant perhaps.

        >>> Fault.parse("delay=50ms±20,10%@Reading")
        Fault(kind='delay', share=0.1, seconds=0.05, jitter=0.02, only=('Reading',))
        """
        head, at, names = text.partition("@")
        name, equals, values = (part.strip() for part in head.partition("="))
        kind = KINDS.get(name)
        if kind is None:
            close = difflib.get_close_matches(name, KINDS, 1, 0.5)
            hint = (
                f"did you mean {close[0]}?" if close else f"known: {', '.join(KINDS)}"
            )
            raise FaultError(f"{text!r}: there is no fault {name!r}; {hint}")
        only = tuple(part.strip() for part in names.split(",") if part.strip())
        if at and not only:
            raise FaultError(f"{text!r}: expected the name of a message after @")
        share: float | None = None
        time: tuple[float, float] | None = None
        for value in values.split(",") if equals else ():
            if _SHARE.fullmatch(value.strip()) and share is None:
                share = parse_share(value, repr(text))
            elif kind.seconds is None or time is not None:
                raise FaultError(
                    f"{text!r}: expected a share such as {name}=5%, found {value!r}"
                )
            else:
                time = parse_duration(value, repr(text))
        if time is None and kind.timed:
            raise FaultError(f"{text!r}: expected a time, as in {name}=50ms±20")
        seconds, jitter = (kind.seconds or 0.0, 0.0) if time is None else time
        return cls(name, 1.0 if share is None else share, seconds, jitter, only)

    def __str__(self) -> str:
        text = self.kind
        values = []
        if KINDS[self.kind].seconds is not None:
            jitter = f"±{self.jitter * 1000:g}" if self.jitter else ""
            values.append(f"{self.seconds * 1000:g}ms{jitter}")
        if self.share != 1:
            values.append(f"{self.share * 100:g}%")
        text += f"={','.join(values)}" if values else ""
        return text + (f"@{','.join(self.only)}" if self.only else "")


def check_faults(
    faults: Iterable[Fault],
    protocol: Protocol,
    directions: Sequence[Direction],
    *,
    streams: bool,
) -> tuple[Fault, ...]:
    """
    Check that faults can happen at all, and sort them by when they are inflicted.

    Args:
        faults: what is to go wrong.
        protocol: what is spoken.
        directions: which way the messages go that it goes wrong with.
        streams: whether any of it is spoken over a stream.

    Raises:
        FaultError: a message is not known, or not sent that way; a fault is for
            streams, checksums or keys, and there are none.
    """
    order = list(KINDS)
    found = sorted(faults, key=lambda fault: order.index(fault.kind))
    sent = {c.__name__: c for d in directions for c in protocol.table(d).values()}
    every = {cls.__name__ for cls in protocol.classes()}
    for fault in found:
        where = f"fault {fault}"
        for name in fault.only:
            if name not in sent:
                raise FaultError(f"{where}: {_unsent(name, sent, every, protocol)}")
        if KINDS[fault.kind].streams_only and not streams:
            raise FaultError(f"{where}: it happens to streams only, not to datagrams")
        if fault.kind == "wrong-id" and protocol.correlate is None:
            raise FaultError(f"{where}: {protocol.name} has no correlate= to change")
        classes = [sent[name] for name in fault.only or sent]
        if fault.kind == "corrupt-checksum" and not has_checksum(protocol, classes):
            raise FaultError(f"{where}: {protocol.name} declares no checksum there")
    return tuple(found)


def _unsent(
    name: str, sent: Iterable[str], every: Iterable[str], protocol: Protocol
) -> str:
    known = ", ".join(sent) or "nothing"
    if name in every:
        return f"{name} is not sent this way, which {known} are"
    close = difflib.get_close_matches(name, sent, 1, 0.5)
    hint = f"did you mean {close[0]}?" if close else f"known: {known}"
    return f"{protocol.name} has no message {name!r}; {hint}"
