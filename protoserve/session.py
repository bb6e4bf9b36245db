"""
One conversation with one peer, without any I/O.

Bytes go in by `Session.receive_data`, events come out of `Session.next_event`;
messages go in by `Session.send`, bytes come out of `Session.data_to_send` (whoever
set `Session.flush` is told). A session of a stream cuts it into
frames; one of datagrams takes each as it is. It ties responses to requests by
the protocol's key, and follows the protocol's state table: what is not legal in
the present state is refused, whoever sends it.
"""

from __future__ import annotations

import enum
import time
from collections import deque
from collections.abc import Callable, Container, Generator, Hashable
from secrets import randbits
from typing import Any

import attrs

from protoserve.errors import (
    DeclarationError,
    LocalProtocolError,
    RemoteProtocolError,
    SessionClosedError,
)
from protoserve.events import (
    NEED_DATA,
    Event,
    Frame,
    MessageReceived,
    MessageRejected,
    NeedData,
    PeerClosed,
    StreamBroken,
)
from protoserve.framing.base import Framer, Framing
from protoserve.framing.buffer import PORTION
from protoserve.messages import Message
from protoserve.protocol import Direction, Protocol
from protoserve.types import BytesLike

__all__ = ["MOST_HELD", "Peer", "Role", "Session", "TLSFacts", "after"]

MOST_HELD = 64
"""Messages that are held back before they are sent even so."""

_MOST_REQUESTS = 1 << 15
"""
Requests whose answer is waited for; half of what a 16-bit key can tell apart.
The oldest is forgotten first: peers may leave any number unanswered.
"""


_DRAWS = 16
"""Keys that are drawn before the next free one is taken: with half of all in use, all
of them are taken once in 65,536 times."""


class Role(enum.Enum):
    """
    Which side of the conversation we are.
    """

    CLIENT = "client"
    SERVER = "server"


_DIRECTIONS = {
    Role.CLIENT: (Direction.RESPONSE, Direction.REQUEST),
    Role.SERVER: (Direction.REQUEST, Direction.RESPONSE),
}


@attrs.frozen
class TLSFacts:
    """
    What the two ends of a TLS connection have agreed on.
    """

    version: str
    """``TLSv1.2`` or ``TLSv1.3``."""

    cipher: str
    """The cipher suite, by OpenSSL's name."""

    alpn: str | None = None
    """The application protocol, if both have named one in common."""

    server_name: str | None = None
    """The server's name that the client has asked for, if it has."""


@attrs.frozen
class Peer:
    """
    The other party.
    """

    transport: str
    """``tcp``, ``tls``, ``udp``, ``unix`` or ``unixgram``."""

    address: Any
    """As the socket gives it: host and port, or a path."""

    certificate: dict[str, Any] | None = attrs.field(default=None, eq=False, repr=False)
    """Who it has proved to be, as `ssl.SSLSocket.getpeercert` tells; else `None`."""

    tls: TLSFacts | None = attrs.field(default=None, eq=False, repr=False)
    """What was agreed on in the handshake, over TLS."""

    @classmethod
    def over_tls(cls, tls: Any, address: Any) -> Peer:
        """
        Describe the peer of an `ssl.SSLSocket` or `ssl.SSLObject`.
        """
        cipher = tls.cipher()
        facts = TLSFacts(
            version=tls.version() or "",
            cipher=cipher[0] if cipher else "",
            alpn=tls.selected_alpn_protocol(),
            server_name=getattr(tls, "server_name", None),
        )
        return cls("tls", address, tls.getpeercert() or None, facts)

    @property
    def host(self) -> str:
        """
        The peer's host, or its path; a name that only the kernel knows begins with @.

        A Unix socket without a name has none: the text is empty. An IPv4 host is the same
        one to a socket of both families, which has it as ``::ffff:192.0.2.1`` (RFC 4291
        section 2.5.5.2). A link-local one has the number of its interface behind it, as in
        ``fe80::1%2`` (RFC 4007 section 11).
        """
        address = self.address
        if address is None:  # as datagrams tell of such a socket
            return ""
        if isinstance(address, bytes):  # of Linux's abstract Unix sockets
            return address.decode("utf-8", "backslashreplace").replace("\0", "@")
        if not isinstance(address, tuple):
            return str(address)
        host, zone = str(address[0]), address[3:]
        if any(zone):
            return f"{host}%{zone[0]}"
        return host.removeprefix("::ffff:") if "." in host else host

    @property
    def port(self) -> int | None:
        """
        The peer's port; `None` for Unix sockets.
        """
        return self.address[1] if isinstance(self.address, tuple) else None

    def __str__(self) -> str:
        if self.port is None:
            return f"{self.transport}://{self.host or '(unnamed)'}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.transport}://{host}:{self.port}"


class Session:
    """
    The state of one conversation.

    Args:
        protocol: what is spoken.
        role: which side we are.
        peer: the other party, where it is known.
        stream: whether bytes come as a stream; otherwise each piece is a datagram.
        framing: cuts what comes, where that is not for the protocol's framing, which
            allows longer frames.
        clock: gives the time, in seconds since the epoch.

    Raises:
        DeclarationError: the protocol says nothing about streams.
    """

    __slots__ = (
        "_broken",
        "_clock",
        "_drafts",
        "_ended",
        "_framer",
        "_frames",
        "_framing",
        "_key_width",
        "_next_key",
        "_received_at",
        "_rejected",
        "_requests",
        "closed",
        "closer",
        "flow",
        "flush",
        "held",
        "inbound",
        "outbound",
        "outgoing",
        "peer",
        "phase",
        "protocol",
        "received",
        "role",
        "spent",
        "state",
        "stream",
    )

    def __init__(
        self,
        protocol: Protocol,
        role: Role,
        peer: Peer | None = None,
        *,
        stream: bool = True,
        framing: Framing | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if stream and protocol.framing is None:
            raise DeclarationError(
                f"{protocol.name} has no framing=, so it cannot be spoken over a "
                "stream; give the protocol one, or use datagrams"
            )
        self.protocol = protocol
        self.role = role
        self.inbound, self.outbound = _DIRECTIONS[role]
        """The directions of what the peer sends, and of what we send."""
        self.peer = peer
        self.stream = stream
        self.state: Any = None
        """Whatever the handler keeps for this conversation."""
        self.phase: str | None = next(iter(protocol.states or ()), None)
        """Where in the protocol's state table the conversation is."""
        self.closed = False
        self.flush: Callable[[], None] | None = None
        """Is called when `data_to_send` has something that need not wait."""
        self.held = False
        """Whether what is sent waits: who set it sees to the flushing."""
        self.spent = True
        """Whether all that came has been dealt with; else there is a `next_event`."""
        self.received = 0
        """Grows with the frames that come."""
        self.closer: Callable[[], None] | None = None
        """Is called by `close`."""
        self.flow: Callable[[], Any] | None = None
        """Gives what to await before more is sent, or `None`: the way is free."""
        self.outgoing: deque[bytes] = deque()
        self._clock = clock
        self._received_at = 0.0
        self._frames: list[bytes] = []
        """Frames that were cut, but not parsed."""
        self._rejected: MessageRejected | None = None
        self._ended = self._broken = False
        self._requests: dict[Hashable, Any] = {}
        self._next_key = 0
        self._key_width = protocol.key_width() if role is Role.CLIENT else None
        self._drafts: dict[type[Message], Any] = {}
        """Headers of requests, by their class, whose key is put in each time."""
        self._framer: Framer | None = None
        self._framing = protocol.framing if framing is None else framing
        if stream and self._framing is not None:
            self._framer = self._framing.framer()

    def __repr__(self) -> str:
        return f"<Session {self.protocol.name} {self.role.value} {self.peer or ''}>"

    def __getitem__(self, name: str) -> Any:
        # Construct's expressions (this._.session.state) look names up like this.
        value = getattr(self, name)
        return _Items(value) if name == "state" and _has_parts(value) else value

    # Receiving -------------------------------------------------------------

    def receive_data(self, data: BytesLike) -> None:
        """
        Take the next bytes of the stream, or one whole datagram.
        """
        self._received_at = self._clock()
        self.spent = False
        if self._framer is not None:
            self._framer.feed(data)
            return
        framing = self._framing
        if type(data) is not bytes:
            data = bytes(data)
        if framing is None:
            self._frames.append(data)
            return
        try:
            self._frames.extend(framing.split(data))
        except RemoteProtocolError as error:
            self._rejected = MessageRejected(error, Frame(data, self._received_at))

    def receive_eof(self) -> None:
        """
        Take note that the peer will send nothing more.
        """
        self._ended = True
        self.spent = False

    def next_event(self) -> Event | NeedData:
        """
        Give the next thing that happened.

        Returns:
            An event, or `NEED_DATA` if more bytes are needed first.
        """
        if self._frames:
            return self._parsed(self._frames.pop(0))
        if self._framer is not None and not self._broken and not self.closed:
            try:
                data = self._framer.decode()
                if data is None and self._ended:
                    data = self._framer.end()
            except RemoteProtocolError as error:
                self._broken, self._ended = True, False
                return StreamBroken(error)
            if data is not None:
                return self._parsed(data)
        if self._rejected is not None:
            rejected, self._rejected = self._rejected, None
            return rejected
        if self._ended:
            self._ended = False
            return PeerClosed()
        return NEED_DATA

    def answer_with(self, pump: Callable[..., Any], *, cuts: bool) -> Any:
        """
        Let a function answer frames, as many as it can (`Protocol.pump`).

        Its answers are put with what is to be sent; nobody is told.

        Args:
            pump: the function.
            cuts: whether it cuts the stream into frames itself.

        Returns:
            True, or what is left to be done for the last message. `spent` says
            whether there is anything for `next_event`.
        """
        self.spent = False
        framer = self._framer
        if cuts:
            if self.closed or self._broken:
                return True
            data, start, stop = framer.unread()  # type: ignore[union-attr] # a stream
            at, outcome = pump(data, start, stop, self, self._sender())
            if at != start:
                self.received += 1
                self.spent = not (framer.consume(at) or self._ended)  # type: ignore[union-attr]
            return outcome
        frames, send = self._frames, self._sender()
        for _ in range(MOST_HELD):
            if self.closed or self._broken:
                break
            if not frames:
                frame = None if framer is None else self._cut()
                if frame is None:
                    return True
                frames.append(frame)
            frame = frames[0]
            at, outcome = pump(frame, 0, len(frame), self, send)
            if at < 0:
                return True
            del frames[0]
            self.received += 1
            if outcome is not True:
                return outcome
        return True

    def pass_through(self, data: bytes, pump: Callable[..., Any]) -> Any:
        """
        Do what `receive_data` and `answer_with` do, when the session is `spent`.
        """
        self._received_at = self._clock()
        stop = len(data)
        if self.closed or stop > PORTION:
            at, outcome = 0, True
        else:
            at, outcome = pump(data, 0, stop, self, self._sender())
        if at:
            self.received += 1
        if at != stop:
            self.spent = False
            self._framer.feed(data[at:])  # type: ignore[union-attr] # a stream
        return outcome

    def _cut(self) -> bytes | None:
        """
        Cut the next frame off; what is wrong is told by `next_event`.
        """
        try:
            return None if self._framer is None else self._framer.decode()
        except RemoteProtocolError:
            return None

    def _sender(self) -> Callable[[bytes], Any]:
        """
        Give what takes an answer: at once, unless somebody gathers what is sent.
        """
        return self.outgoing.append if self.held else self._send_answer

    def _send_answer(self, data: bytes) -> Any:
        """
        Send an answer; give what has to be done before more are made, if anything.
        """
        try:
            self.deliver(data)
        except (ConnectionError, TimeoutError):
            return False  # the peer has gone; whoever wrote has taken note of it
        waiting = None if self.flow is None else self.flow()
        return None if waiting is None else after(waiting)

    @property
    def received_at(self) -> float:
        """
        When the last bytes were received, in seconds since the epoch.
        """
        return self._received_at

    @property
    def buffered(self) -> int:
        """
        How many bytes of an unfinished frame have arrived.
        """
        return 0 if self._framer is None else self._framer.buffered

    def _parsed(self, data: bytes) -> Event:
        self.received += 1
        frame = Frame(data, self._received_at)
        try:
            parsed = self.protocol.parse(data, self.inbound, session=self)
            try:
                self.phase = self._next_phase(parsed.message, RemoteProtocolError)
            except RemoteProtocolError as error:
                error.header = parsed.header
                raise
        except RemoteProtocolError as error:
            return MessageRejected(error, frame)
        request = None
        if self.role is Role.CLIENT and self._requests:
            key = self.protocol.key(parsed.header, parsed.message)
            request = self._requests.pop(key, None)
        return MessageReceived(parsed.message, parsed.header, frame, request)

    # Sending ---------------------------------------------------------------

    def send(
        self, message: Message, *, header: Any = None, reply_to: Any = None
    ) -> None:
        """
        Send a message, at any time.

        Args:
            message: what to send.
            header: its header; by default one is made (for a request, with a fresh
                correlation key).
            reply_to: the header of the request that it answers.

        Raises:
            LocalProtocolError: the message is not one of ours to send, does not fit
                its format or framing, or is not allowed in the present state.
            SessionClosedError: the session is over.
        """
        self.deliver(self.encode(message, header=header, reply_to=reply_to))

    def encode(
        self, message: Message, *, header: Any = None, reply_to: Any = None
    ) -> bytes:
        """
        Make the bytes for a message as `send` would, framing included.
        """
        if self.closed:
            raise SessionClosedError(f"the session with {self.peer} is closed")
        protocol = self.protocol
        base = reply_to if header is None else header
        phase = self._next_phase(message, LocalProtocolError)
        asking = self.role is Role.CLIENT and protocol.correlate is not None
        if asking:
            fresh = self._free_key() if base is None else None
            header = protocol.header_for(message, self.outbound, base=base, key=fresh)
            frame = protocol.build_under(header, message, session=self)
        else:
            frame = protocol.build(message, self.outbound, header=base, session=self)
        frame = self._framed(frame, message)
        self.phase = phase
        if asking:
            self._remember(protocol.key(header, message), message)
        return frame

    def ask(
        self, message: Message, *, header: Any = None, taken: Container[Hashable] = ()
    ) -> tuple[bytes, Hashable]:
        """
        Make the bytes of a request for who finds its answer himself.

        The session remembers nothing of it.

        Args:
            message: what to ask.
            header: its header; a key that is one whole number is put in all the same.
            taken: the keys that are in use; not all that there are.

        Returns:
            The bytes, framing included, and the key, `None` without `correlate`.

        Raises:
            LocalProtocolError: as for `send`.
            SessionClosedError: the session is over.
        """
        if self.closed:
            raise SessionClosedError(f"the session with {self.peer} is closed")
        protocol = self.protocol
        phase = self._next_phase(message, LocalProtocolError)
        key: Hashable = None
        if protocol.correlate is None:
            frame = protocol.build(message, self.outbound, header=header, session=self)
        else:
            header, key = self._header_with_key(message, header, self._fresh_key(taken))
            frame = protocol.build_under(header, message, session=self)
        frame = self._framed(frame, message)
        self.phase = phase
        return frame, key

    def _header_with_key(
        self, message: Message, base: Any, fresh: int | None
    ) -> tuple[Any, Hashable]:
        """
        Make a request's header, and give the key that is in it.

        By far the most headers differ from the one before in the key only: that one
        is used again then.
        """
        protocol, cls = self.protocol, type(message)
        draft = self._drafts.get(cls) if base is None else None
        if draft is not None and fresh is not None:
            setattr(draft, protocol.correlate, fresh)  # type: ignore[arg-type] # a name
            return draft, fresh
        header = protocol.header_for(message, self.outbound, base=base, key=fresh)
        if base is None and fresh is not None and protocol.key_is_apart():
            self._drafts[cls] = header
        return header, protocol.key(header, message)

    def _framed(self, frame: bytes, message: Message) -> bytes:
        framing = self.protocol.framing
        if framing is None:
            return frame
        try:
            return framing.encode(frame) if self.stream else framing.pack(frame)
        except ValueError as exc:
            raise LocalProtocolError(f"{type(message).__name__}: {exc}") from exc

    def deliver(self, data: bytes) -> None:
        """
        Hand bytes to the transport.
        """
        self.outgoing.append(data)
        if self.flush is None:
            return
        if not self.held or len(self.outgoing) >= MOST_HELD:
            self.flush()

    def data_to_send(self) -> list[bytes]:
        """
        Take what is waiting to be sent, each message's bytes by themselves.
        """
        waiting: list[bytes] = []
        try:
            while True:
                waiting.append(self.outgoing.popleft())
        except IndexError:  # another thread may take some of it meanwhile
            return waiting

    def close(self) -> None:
        """
        End the conversation after what was sent so far.
        """
        self.closed = True
        if self.closer is not None:
            self.closer()

    def _free_key(self) -> int | None:
        if self._key_width is not None:
            most = min(1 << self._key_width, _MOST_REQUESTS)
            while len(self._requests) >= most:
                self._forget_oldest()
        return self._fresh_key(self._requests)

    def _fresh_key(self, taken: Container[Hashable]) -> int | None:
        """
        Draw a key that is not taken; `None` if keys are no single numbers.

        Datagrams can be forged by who cannot see ours, but has to guess the key: there
        it is random (RFC 5452 section 9.2). On a stream keys count up, as then none is
        soon used again.
        """
        width = self._key_width
        if width is None:
            return None
        key = self._next_key if self.stream else randbits(width)
        size = 1 << width
        for _ in range(_DRAWS):
            if key not in taken:
                break
            key = (key + 1) % size if self.stream else randbits(width)
        while key in taken:
            key = (key + 1) % size
        self._next_key = (key + 1) % size
        return key

    def _remember(self, key: Hashable, message: Message) -> None:
        self._requests.pop(key, None)  # its place in the order is the newest
        self._requests[key] = message
        if len(self._requests) > _MOST_REQUESTS:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        del self._requests[next(iter(self._requests))]

    # The conversation's state ----------------------------------------------

    def _next_phase(
        self,
        message: Message,
        violation: type[LocalProtocolError | RemoteProtocolError],
    ) -> str | None:
        states = self.protocol.states
        if states is None or self.phase is None:
            return self.phase
        cls = type(message)
        moves = states.get(self.phase, {})
        if cls in moves:
            return moves[cls]
        if not any(cls in other for other in states.values()):
            return self.phase
        legal = ", ".join(c.__name__ for c in moves) or "nothing more"
        raise violation(
            f"{cls.__name__} is not allowed in state {self.phase!r} (expected: {legal})"
        )


def after(waiting: Any) -> Generator[Any, Any, bool]:
    """
    Give steps that wait for something, and then go on.
    """
    yield waiting
    return True


def _has_parts(state: Any) -> bool:
    values = (int, float, enum.Enum, type(None))
    return not isinstance(state, values) and not hasattr(state, "__getitem__")


@attrs.frozen
class _Items:
    """
    The attributes of an object as items.
    """

    holder: Any

    def __getitem__(self, name: str) -> Any:
        return getattr(self.holder, name)
