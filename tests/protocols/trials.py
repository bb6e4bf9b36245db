"""
What every protocol must pass, and where they are found.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import pkgutil
from collections.abc import Callable, Iterator

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import protocols
from protocols.dns import names
from protoserve import (
    Datagram,
    Direction,
    IncompleteFrameError,
    InvalidMessageError,
    MalformedMessageError,
    Protocol,
    Role,
    Session,
    UnknownMessageError,
)
from protoserve.events import (
    NEED_DATA,
    Event,
    MessageReceived,
    MessageRejected,
    PeerClosed,
    StreamBroken,
)
from protoserve.testing import FrameExample, from_protocol
from tests.protocols import text_values

CLOCK = 1_700_000_000.0

DIRECTIONS = tuple(Direction)


_LABELS = st.sampled_from([b"a", b"example", b"test", b"WWW", b"x.y", bytes(63)])

KINDS = {
    # names whose ends are the same, so that they are compressed
    names.Name: lambda _: st.lists(_LABELS, max_size=3).map(names.to_text),
    **text_values.KINDS,
}
"""Values of the protocols' own Construct classes."""

DROPPED = {"syslog": {b"\x00"}}
"""Bytes that some senders put behind a frame, and that are no part of it."""


def trial(examples: int) -> settings:
    """Settings of a trial: the same examples each time, however slow the machine."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def shipped() -> dict[str, Protocol]:
    """Each package in `protocols` has its protocol under its own name."""
    return {
        info.name: getattr(importlib.import_module(f"protocols.{info.name}"), info.name)
        for info in pkgutil.iter_modules(protocols.__path__)
        if info.ispkg
    }


def examples(protocol: Protocol, direction: Direction) -> st.SearchStrategy:
    """Frames that fit the protocol's framing."""
    drawn = from_protocol(protocol, direction, kinds=KINDS)
    return drawn.filter(lambda e: fits(protocol, e))


def fits(protocol: Protocol, example: FrameExample) -> bool:
    """Whether a frame is one that may be sent at all."""
    try:
        to_wire(protocol, example.frame, stream=has_streams(protocol))
    except InvalidMessageError:
        return False
    return True


def has_streams(protocol: Protocol) -> bool:
    """Whether the protocol can be spoken over a stream."""
    return protocol.framing is not None and not isinstance(protocol.framing, Datagram)


def to_wire(protocol: Protocol, frame: bytes, *, stream: bool) -> bytes:
    """Add what framing adds."""
    if protocol.framing is None:
        return frame
    return protocol.framing.encode(frame) if stream else protocol.framing.pack(frame)


def receiver(protocol: Protocol, direction: Direction, *, stream: bool) -> Session:
    """The session that messages of a direction come to, whatever its state."""
    role = Role.SERVER if direction is Direction.REQUEST else Role.CLIENT
    session = Session(protocol, role, stream=stream, clock=lambda: CLOCK)
    session.phase = None
    return session


def events(session: Session, pieces: Iterator[bytes] | list[bytes]) -> list[Event]:
    """Everything that happens when some pieces are received."""
    happened: list[Event] = []
    for piece in pieces:
        session.receive_data(piece)
        happened += _waiting(session)
    return happened


def _waiting(session: Session) -> Iterator[Event]:
    while (event := session.next_event()) is not NEED_DATA:
        yield event


def at_end(session: Session) -> list[Event]:
    """Everything that happens when the peer says that this was all."""
    session.receive_eof()
    return list(_waiting(session))


def received(happened: list[Event]) -> list[tuple[object, bytes]]:
    """The messages that came, with their frames; nothing else may have happened."""
    for event in happened:
        assert isinstance(event, MessageReceived), event
    return [(event.message, event.frame.data) for event in happened]


def expected(batch: list[FrameExample]) -> list[tuple[object, bytes]]:
    """What `received` gives for whole examples."""
    return [(example.message, example.frame) for example in batch]


def round_trip(protocol: Protocol, direction: Direction, example: FrameExample) -> None:
    """The frame gives the same message, and that the same frame."""
    parsed = protocol.parse(example.frame, direction)
    assert example.message == parsed.message
    assert example.header == parsed.header
    again = protocol.build(parsed.message, direction, header=parsed.header)
    assert example.frame == again


def fixed_size(protocol: Protocol, _way: Direction, example: FrameExample) -> None:
    """A frame whose parts have a fixed size has the sum of them."""
    parts = [protocol.header, type(example.message), protocol.trailer]
    try:
        sizes = [part.construct.sizeof() for part in parts if part is not None]
    except Exception:
        return  # some part has no fixed size, which Construct says in many ways
    assert sum(sizes) == len(example.frame)


def as_datagram(
    protocol: Protocol, direction: Direction, example: FrameExample
) -> None:
    """A datagram is one frame."""
    data = to_wire(protocol, example.frame, stream=False)
    session = receiver(protocol, direction, stream=False)
    assert expected([example]) == received(events(session, [data]))
    assert [PeerClosed()] == at_end(session)


def longer_by_a_byte(
    protocol: Protocol, direction: Direction, example: FrameExample
) -> None:
    """A byte too many is refused, or a part of another message."""
    for byte in {b"\x00", b"\xff"} - DROPPED.get(protocol.name, set()):
        _refused_or_other(protocol, direction, example, example.frame + byte)


def cut_at_every_byte(
    protocol: Protocol, direction: Direction, example: FrameExample
) -> None:
    """A frame that ends early is refused, or another message."""
    size = len(example.frame)
    for end in range(0, size, 1 + size // 200):
        _refused_or_other(protocol, direction, example, example.frame[:end])


def _refused_or_other(
    protocol: Protocol, direction: Direction, example: FrameExample, frame: bytes
) -> None:
    try:
        parsed = protocol.parse(frame, direction)
    except MalformedMessageError as error:
        offset = error.offset
    except UnknownMessageError:
        return
    else:
        offset = 0
        assert (parsed.header, parsed.message) != (example.header, example.message)
    assert 0 <= offset <= len(frame)


def cut_datagram(
    protocol: Protocol, direction: Direction, example: FrameExample
) -> None:
    """A datagram that ends early does nothing to the next one."""
    data = to_wire(protocol, example.frame, stream=False)
    session = receiver(protocol, direction, stream=False)
    cut = events(session, [data[: len(data) // 2]])
    for event in cut:
        assert isinstance(event, MessageReceived | MessageRejected)
    assert expected([example]) == received(events(session, [data]))


def cut_stream(protocol: Protocol, direction: Direction, example: FrameExample) -> None:
    """A stream that ends in the middle of a frame says so."""
    data = to_wire(protocol, example.frame, stream=True)
    session = receiver(protocol, direction, stream=True)
    happened = events(session, [data[:-1]])
    if happened or not session.buffered:
        return  # the frame needs no last byte: it is a delimiter's, or optional
    first, *rest = at_end(session)
    if not isinstance(first, MessageReceived | MessageRejected):
        assert isinstance(first, StreamBroken), first
        assert isinstance(first.error, IncompleteFrameError), first
    assert rest in ([], [PeerClosed()])


def byte_by_byte(
    protocol: Protocol, direction: Direction, batch: list[FrameExample]
) -> None:
    """A stream may come one byte at a time."""
    data = _stream(protocol, batch)
    session = receiver(protocol, direction, stream=True)
    pieces = [data[i : i + 1] for i in range(len(data))]
    assert expected(batch) == received(events(session, pieces))
    assert [PeerClosed()] == at_end(session)


def all_at_once(
    protocol: Protocol, direction: Direction, batch: list[FrameExample]
) -> None:
    """Several frames may come in one piece."""
    session = receiver(protocol, direction, stream=True)
    data = _stream(protocol, batch)
    assert expected(batch) == received(events(session, [data]))
    assert [PeerClosed()] == at_end(session)


def split(
    protocol: Protocol,
    direction: Direction,
    batch: list[FrameExample],
    cuts: list[int],
) -> None:
    """A stream may be split anywhere."""
    data = _stream(protocol, batch)
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    pieces = [data[a:b] for a, b in itertools.pairwise(places)]
    session = receiver(protocol, direction, stream=True)
    assert expected(batch) == received(events(session, pieces))


def _stream(protocol: Protocol, batch: list[FrameExample]) -> bytes:
    return b"".join(to_wire(protocol, e.frame, stream=True) for e in batch)


def nonsense(protocol: Protocol, direction: Direction, data: bytes) -> None:
    """Bytes that mean nothing raise what a caller expects, and nothing else."""
    with contextlib.suppress(MalformedMessageError, UnknownMessageError):
        protocol.parse(data, direction)
    for stream in (False, True) if has_streams(protocol) else (False,):
        session = receiver(protocol, direction, stream=stream)
        for event in events(session, [data[:3], data[3:]] if stream else [data]):
            if isinstance(event, StreamBroken):
                assert str(event.error)


ONE_EXAMPLE: tuple[Callable[[Protocol, Direction, FrameExample], None], ...] = (
    round_trip,
    fixed_size,
    as_datagram,
    longer_by_a_byte,
    cut_datagram,
)
"""Trials of one frame that are quick enough to be run together."""

STREAMS: tuple[Callable[[Protocol, Direction, list[FrameExample]], None], ...] = (
    all_at_once,
    byte_by_byte,
)
