"""
Valid requests to begin with: drawn from the declaration, or taken from a recording.

A seed is a message with its header, so that it can be sent under any correlation key,
and with the requests that have to go before it, where the protocol's state table
wants that. Drawing is slow next to sending, so a pool is drawn once; everything else
is made from it.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import random
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Literal

import attrs

from protoserve.errors import DeclarationError, ProtoserveError
from protoserve.events import NEED_DATA, MessageReceived
from protoserve.messages import Message
from protoserve.protocol import Direction, Protocol
from protoserve.session import Role, Session

__all__ = [
    "Keys",
    "Seed",
    "approaches",
    "drawn",
    "grown",
    "recorded",
    "requests_in",
    "wire_form",
]

_MOST_RECORDED = 1000
_LARGE = 256
"""Bytes of a request that is larger than what is drawn, and not very large."""
_GROWING = 0.2
"""Seconds for making one message larger; some take long to build."""
_LONGEST = 64 * 1024
"""Bytes of the largest frame that is made on purpose."""


class Keys:
    """
    Correlation keys, one after the other.

    0 is left out: some protocols give it to what is not asked for.
    """

    def __init__(self, protocol: Protocol) -> None:
        width = protocol.key_width()
        self.count = 0 if width is None else min((1 << width) - 1, (1 << 31) - 1)
        self._next = 0

    def take(self) -> int | None:
        """
        Give the next key; `None` where keys are not numbers of their own.
        """
        if not self.count:
            return None
        self._next = self._next % self.count + 1
        return self._next


@attrs.frozen(eq=False)
class Seed:
    """
    One valid request.
    """

    protocol: Protocol = attrs.field(repr=False)
    header: Any
    message: Message
    approach: tuple[Seed, ...] = ()
    """What has to be sent before, one after the other."""
    _form: list[_Form] = attrs.field(factory=list, init=False, repr=False)

    @property
    def name(self) -> str:
        """
        The message's class.
        """
        return type(self.message).__name__

    def frame(self, key: int | None = None) -> bytes:
        """
        Build it, perhaps under another correlation key.
        """
        if not self._form:
            self._form.append(self._found())
        form = self._form[0]
        if key is None:
            return form.frame
        if not form.size:
            return self._build(key)
        return form.with_key(key)

    def _build(self, key: int | None) -> bytes:
        protocol = self.protocol
        header = protocol.header_for(
            self.message, Direction.REQUEST, base=self.header, key=key
        )
        return protocol.build_under(header, self.message)

    def _found(self) -> _Form:
        """
        Find out where the key stands, so that not all has to be built again.
        """
        frame = self._build(None)
        width = self.protocol.key_width()
        if not width or width % 8:
            return _Form(frame)
        size = width // 8
        zeros = self._build(0)
        at = _first_difference(zeros, self._build((1 << width) - 1))
        orders: tuple[Literal["big", "little"], ...] = ("big", "little")
        for order in orders:
            form = _Form(frame, at, size, order)
            tried = attrs.evolve(form, frame=zeros)
            if all(tried.with_key(key) == self._build(key) for key in (1, 0x7F)):
                return form
        return _Form(frame)


@attrs.frozen
class _Form:
    """
    A frame, and where its key stands; `size` is 0 where more depends on it.
    """

    frame: bytes
    at: int = 0
    size: int = 0
    order: Literal["big", "little"] = "big"

    def with_key(self, key: int) -> bytes:
        """
        Put another key in.
        """
        number = key.to_bytes(self.size, self.order)
        return self.frame[: self.at] + number + self.frame[self.at + self.size :]


def _first_difference(one: bytes, two: bytes) -> int:
    pairs = enumerate(zip(one, two, strict=False))
    return next((i for i, (a, b) in pairs if a != b), 0)


def wire_form(protocol: Protocol, frame: bytes, *, stream: bool) -> bytes:
    """
    Give what is sent for a frame; where framing refuses it, the frame as it is.
    """
    framing = protocol.framing
    if framing is None:
        return frame
    try:
        return framing.encode(frame) if stream else framing.pack(frame)
    except ValueError:
        return frame


def drawn(
    protocol: Protocol, count: int, seed: int | str, *, stream: bool
) -> list[Seed]:
    """
    Draw valid requests from the declaration.

    Args:
        protocol: the protocol.
        count: how many of each message.
        seed: the same one gives the same requests.
        stream: whether they are for a stream.

    Raises:
        DeclarationError: Hypothesis is missing, or no request can be made.
    """
    try:
        from hypothesis.errors import Unsatisfiable
    except ImportError:
        raise DeclarationError(
            "torture makes requests by Hypothesis, which is missing: "
            "pip install 'protoserve[test]'"
        ) from None
    from protoserve.testing.strategies import from_protocol

    found: list[Seed] = []
    refusal: DeclarationError | None = None
    session = Session(protocol, Role.CLIENT, stream=stream)
    for cls in protocol.table(Direction.REQUEST).values():
        strategy = from_protocol(protocol, Direction.REQUEST, only=cls, session=session)
        try:
            examples = _examples(strategy, 3 * count, seed)
        except (DeclarationError, Unsatisfiable) as exc:
            refusal = DeclarationError(f"no {cls.__name__} could be made: {exc}")
        else:
            made = (Seed(protocol, one.header, one.message) for one in examples)
            distinct = _distinct(made)[:count]
            larger = (seed for first in distinct for seed in grown(first, _LARGE))
            found += [*distinct, *itertools.islice(larger, 1, 3)]
    if not found:
        raise refusal or DeclarationError(f"{protocol.name} has no requests to send")
    return found


def _examples(strategy: Any, count: int, seed: int | str) -> list[Any]:
    """
    Draw examples, the simplest first.
    """
    import hypothesis

    made: list[Any] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        print_blob=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def collect(example: Any) -> None:
        made.append(example)

    collect()
    return made


def _distinct(seeds: Iterable[Seed]) -> list[Seed]:
    """
    Leave out what was drawn twice, and what cannot be sent again.
    """
    found: dict[bytes, Seed] = {}
    for seed in seeds:
        key = Keys(seed.protocol).take()
        with contextlib.suppress(ProtoserveError):
            found.setdefault(seed.frame(key), seed)
    return list(found.values())


def requests_in(
    protocol: Protocol, path: str, ports: Collection[int] = ()
) -> list[bytes]:
    """
    Read what clients have sent out of a recording.

    Args:
        protocol: what is spoken.
        path: a journal, or a capture as pcap or pcapng.
        ports: the server's ports in a capture; by default the protocol's own.

    Returns:
        Different frames, without framing; at most a thousand.

    Raises:
        SourceError: it cannot be read, or has no such thing in it.
        OSError: it cannot be opened.
    """
    from protoserve.replaying import Source, SourceError

    source = Source(path, ports or frozenset(protocol.ports.values()))
    sessions: dict[Any, Session] = {}
    found: dict[bytes, None] = {}
    with contextlib.closing(source):
        for piece in source:
            if not piece.from_client or len(found) >= _MOST_RECORDED:
                continue
            stream = piece.stream and protocol.framing is not None
            key = piece.conversation if stream else None
            session = sessions.get(key)
            if session is None or not stream:
                session = Session(protocol, Role.SERVER, stream=stream)
                session.phase = None
                sessions[key] = session
            session.receive_data(piece.data)
            while (event := session.next_event()) is not NEED_DATA:
                if isinstance(event, MessageReceived):
                    found[event.frame.data] = None
            if piece.ends:
                sessions.pop(key, None)
    if not found:
        raise SourceError(f"{path}: there is no request of {protocol.name} in it")
    return list(found)


def recorded(protocol: Protocol, frames: Iterable[bytes]) -> list[Seed]:
    """
    Make seeds of frames that clients have sent.
    """
    found = []
    session = Session(protocol, Role.SERVER, stream=False)
    for frame in frames:
        with contextlib.suppress(ProtoserveError):
            parsed = protocol.parse(frame, Direction.REQUEST, session=session)
            found.append(Seed(protocol, parsed.header, parsed.message))
    return found


def approaches(protocol: Protocol) -> Mapping[type[Message], list[type[Message]]]:
    """
    Say which requests lead, shortest first, to where each request is allowed.

    Requests that are free in every state are not in it.
    """
    states = protocol.states or {}
    if not states:
        return {}
    requests = set(protocol.table(Direction.REQUEST).values())
    start = next(iter(states))
    ways: dict[str, list[type[Message]]] = {start: []}
    waiting = collections.deque([start])
    found: dict[type[Message], list[type[Message]]] = {}
    while waiting:
        state = waiting.popleft()
        for cls, following in states[state].items():
            ours = cls in requests
            if ours:
                found.setdefault(cls, ways[state])
            if following not in ways:
                ways[following] = [*ways[state], cls] if ours else ways[state]
                waiting.append(following)
    return found


def with_approaches(protocol: Protocol, seeds: list[Seed], most: int) -> list[Seed]:
    """
    Put before each seed what its state needs.

    Args:
        protocol: the protocol.
        seeds: requests by themselves.
        most: how many ways to try for each request; those who lead there may be
            refused, as a log-in is.
    """
    ways = approaches(protocol)
    by_class: dict[type[Message], list[Seed]] = {}
    for seed in seeds:
        by_class.setdefault(type(seed.message), []).append(seed)
    found: list[Seed] = []
    for seed in seeds:
        way = ways.get(type(seed.message), [])
        if any(cls not in by_class for cls in way):
            continue
        before = [itertools.cycle(by_class[cls]) for cls in way]
        for _ in range(most if way else 1):
            approach = tuple(next(source) for source in before)
            found.append(Seed(protocol, seed.header, seed.message, approach))
    return found


def grown(seed: Seed, most: int = _LONGEST) -> Iterator[Seed]:
    """
    Give seeds that grow, by repeating what the message has in lists and bytes.

    Args:
        seed: what is grown.
        most: the longest frame, in bytes.
    """
    message: Any = seed.message
    protocol = seed.protocol
    growing = [
        attribute.name
        for attribute in attrs.fields(type(message))
        if attribute.init and isinstance(_plain(message, attribute.name), list | bytes)
    ]
    start = time.monotonic()
    while time.monotonic() - start < _GROWING:
        changed = False
        for name in growing:
            value = getattr(message, name)
            try:
                larger = attrs.evolve(message, **{name: value + value})
                made = Seed(protocol, seed.header, larger, seed.approach)
                frame = made.frame()
                protocol.parse(frame, Direction.REQUEST)
            except Exception:  # noqa: S112 - validators are the user's
                continue
            if value and len(frame) <= most:
                message, changed = larger, True
                yield made
        if not changed:
            return


def _plain(message: Any, name: str) -> Any:
    return getattr(message, name, None)


def shuffled(seeds: list[Seed], chance: random.Random) -> Iterator[Seed]:
    """
    Give seeds for ever, each as often as any other, requests of all kinds mixed.
    """
    groups: dict[str, list[Seed]] = {}
    for seed in seeds:
        groups.setdefault(seed.name, []).append(seed)
    while seeds:
        names = list(groups)
        chance.shuffle(names)
        for name in names:
            yield chance.choice(groups[name])
