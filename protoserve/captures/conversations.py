"""
Who said what to whom: the messages in a capture.

Each conversation has a session for either direction, so that streams are cut and
messages are parsed as a server and a client would, with what the protocol keeps for a
conversation. The side whose port is the protocol's is the server; where both are, who
has spoken first is the client. A message that is not in one table is looked up in the
other, as a decoder is to show what there is. A response is tied to its request by the
protocol's key, or by the order where there is none.

All tables are bounded: the conversation that has been silent for longest makes way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator
from typing import Any

import attrs

from protoserve.captures.decoded import Decoded, direction_of
from protoserve.captures.files import Packet
from protoserve.captures.flows import RST, SYN, Flow, IncompleteCaptureError, Told
from protoserve.captures.links import Links, Segment, address_text
from protoserve.errors import RemoteProtocolError, UnknownMessageError
from protoserve.events import MessageReceived, MessageRejected, StreamBroken
from protoserve.protocol import Direction, Protocol
from protoserve.session import Peer, Role, Session

__all__ = ["Conversations"]

MAX_CONVERSATIONS = 4096
"""Conversations that are followed at a time."""

MAX_BUFFERED = 64 << 20
"""Bytes that wait in all streams together."""

MAX_QUESTIONS = 1024
"""Requests of one conversation whose responses are still to come."""

_ACK = 16

_End = tuple[bytes, int]


@attrs.define(eq=False)
class _Conversation:
    """
    Two ends, and what goes between them.
    """

    whole: bool
    """Whether its beginning was seen."""
    flows: dict[_End, Flow] = attrs.field(factory=dict)
    """By who sends."""
    questions: OrderedDict[Any, tuple[int, float, str]] = attrs.field(
        factory=OrderedDict
    )
    """The requests: packet, time and sender by key."""

    @property
    def buffered(self) -> int:
        """
        How many bytes wait.
        """
        return sum(flow.buffered for flow in self.flows.values())


class Conversations:
    """
    Takes packets, gives messages.

    Args:
        protocol: what is spoken.
        ports: the ports that it is spoken at; by default the protocol's own.
    """

    def __init__(self, protocol: Protocol, ports: Collection[int] = ()) -> None:
        self.protocol = protocol
        given = frozenset(ports)
        own = protocol.ports
        self._ports = {
            way: given or frozenset(p for t, p in own.items() if t == way)
            for way in ("udp", "tcp")
        }
        if protocol.framing is None:
            self._ports["tcp"] = frozenset()
        self.links = Links()
        self._known: OrderedDict[Any, _Conversation] = OrderedDict()
        self._now = 0.0
        self._buffered = 0

    def take(self, packet: Packet) -> Iterator[Decoded]:
        """
        Take a packet; give the messages that are complete with it.
        """
        segment = self.links.segment(packet)
        if segment is None:
            return
        ports = self._ports[segment.transport]
        if segment.source_port not in ports and segment.target_port not in ports:
            return
        self._now = packet.time
        source = segment.source, segment.source_port
        target = segment.target, segment.target_port
        key = segment.transport, *sorted((source, target))
        conversation = self._known.get(key)
        opens = segment.transport == "tcp" and segment.flags & (SYN | _ACK) == SYN
        if opens and conversation and conversation.flows[source].half.started:
            yield from self._leave(key)  # the ports are used again
            conversation = None
        if conversation is None:
            conversation = self._known[key] = self._met(segment, source, target)
            if len(self._known) > MAX_CONVERSATIONS:
                yield from self._leave(next(iter(self._known)))
        else:
            self._known.move_to_end(key)
        flow = conversation.flows[source]
        flow.last = segment
        if segment.transport == "udp":
            if segment.missing:
                yield self._cut(conversation, flow, segment)
            else:
                for told in flow.datagram(segment.payload):
                    yield self._decoded(conversation, flow, segment, told)
            return
        before = conversation.buffered
        for told in flow.segment(segment):
            yield self._decoded(conversation, flow, segment, told)
        self._buffered += conversation.buffered - before
        ended = all(flow.half.ended for flow in conversation.flows.values())
        if ended or segment.flags & RST:
            yield from self._leave(key)
        while self._buffered > MAX_BUFFERED and len(self._known) > 1:
            yield from self._leave(next(iter(self._known)))

    def finish(self) -> Iterator[Decoded]:
        """
        Give what is left when there are no more packets.
        """
        while self._known:
            yield from self._leave(next(iter(self._known)))

    def _met(self, segment: Segment, source: _End, target: _End) -> _Conversation:
        """
        Begin a conversation: find out who is the server.
        """
        ports = self._ports[segment.transport]
        answers = source[1] in ports
        if answers and target[1] in ports:
            answers = bool(segment.flags & SYN and segment.flags & _ACK)
        conversation = _Conversation(whole=bool(segment.flags & SYN))

        def opened(flow: Flow) -> Session:
            return self._session(conversation, flow)

        ways = (Direction.RESPONSE, Direction.REQUEST)
        here, there = ways if answers else reversed(ways)
        conversation.flows[target] = Flow(there, opened)
        conversation.flows[source] = Flow(here, opened)  # the same end, if to itself
        return conversation

    def _session(self, conversation: _Conversation, flow: Flow) -> Session:
        """
        Make the session of one direction, knowing what the other one's knows.
        """
        segment = flow.last
        assert segment is not None
        role = Role.SERVER if flow.table is Direction.REQUEST else Role.CLIENT
        host = address_text(segment.source, segment.source_port).rpartition(":")[0]
        peer = Peer(segment.transport, (host.strip("[]"), segment.source_port))
        stream = segment.transport == "tcp"
        session = Session(
            self.protocol, role, peer, stream=stream, clock=lambda: self._now
        )
        others = [f.session for f in conversation.flows.values() if f.session]
        if others:
            session.phase, session.state = others[0].phase, others[0].state
        elif stream and not conversation.whole:
            session.phase = None  # what went before is not known
        return session

    def _leave(self, key: Any) -> Iterator[Decoded]:
        """
        Give what is left of a conversation that is over, or that makes way.
        """
        conversation = self._known.pop(key)
        self._buffered -= conversation.buffered
        for flow in conversation.flows.values():
            if flow.last is not None and flow.last.transport == "tcp":
                for told in flow.finish():
                    yield self._decoded(conversation, flow, flow.last, told)

    # What is told ----------------------------------------------------------------

    def _decoded(
        self, conversation: _Conversation, flow: Flow, segment: Segment, told: Told
    ) -> Decoded:
        """
        Say what a flow has told, with what is known around it.
        """
        if isinstance(told, MessageReceived):
            session = flow.session
            for other in conversation.flows.values():
                if other.session is not None and session is not None:
                    other.session.phase = session.phase
                    other.session.state = session.state
            return self._made(
                conversation, flow, segment, flow.table, told.frame.data,
                told.header, told.message,
            )  # fmt: skip
        if isinstance(told, MessageRejected):
            return self._rejected(conversation, flow, segment, told)
        error = told.error if isinstance(told, StreamBroken) else told
        return self._made(
            conversation, flow, segment, flow.table, b"", error=error
        )  # fmt: skip

    def _rejected(
        self,
        conversation: _Conversation,
        flow: Flow,
        segment: Segment,
        event: MessageRejected,
    ) -> Decoded:
        table, raw = flow.table, event.frame.data
        message, header = None, event.header
        error: RemoteProtocolError | None = event.error
        if isinstance(error, UnknownMessageError):
            other = next(way for way in Direction if way is not table)
            try:
                header, message, _ = self.protocol.parse(
                    raw, other, session=flow.session
                )
            except UnknownMessageError:
                pass
            except RemoteProtocolError as exc:
                table, header, error = other, exc.header, exc
            else:
                table, error = other, None
        elif type(error) is RemoteProtocolError:  # not allowed in this state
            header, message, _ = self.protocol.parse(raw, table, session=flow.session)
        return self._made(
            conversation, flow, segment, table, raw, header, message, error
        )

    def _cut(
        self, conversation: _Conversation, flow: Flow, segment: Segment
    ) -> Decoded:
        """
        Tell of a datagram that the capture does not have all of.
        """
        raw = segment.payload
        error = IncompleteCaptureError(
            len(raw),
            f"a datagram of {len(raw) + segment.missing} bytes",
            f"{len(raw)} bytes: the capture has no more of it",
        )
        header = message = None
        try:
            header, message, _ = self.protocol.parse(
                raw, flow.table, session=flow.opened()
            )
        except RemoteProtocolError as exc:
            header = exc.header
        return self._made(
            conversation, flow, segment, flow.table, raw, header, message, error
        )

    def _made(
        self,
        conversation: _Conversation,
        flow: Flow,
        segment: Segment,
        table: Direction,
        raw: bytes,
        header: Any = None,
        message: Any = None,
        error: RemoteProtocolError | None = None,
    ) -> Decoded:
        packet = segment.packet
        source = address_text(segment.source, segment.source_port)
        answers, elapsed = None, 0.0
        direction = table.value
        if message is not None:
            direction = direction_of(self.protocol, message, table)
        if header is not None or message is not None:
            asked = self._followed(conversation, packet, source, table, header, message)
            if asked is not None:
                answers, elapsed = asked[0], packet.time - asked[1]
        return Decoded(
            packet.number,
            packet.time,
            segment.transport,
            source,
            address_text(segment.target, segment.target_port),
            direction,
            table,
            message,
            header,
            raw,
            error,
            answers,
            elapsed,
            flow.session,
        )

    def _followed(
        self,
        conversation: _Conversation,
        packet: Packet,
        source: str,
        table: Direction,
        header: Any,
        message: Any,
    ) -> tuple[int, float, str] | None:
        """
        Find the request that a message answers, or keep it as one.
        """
        questions = conversation.questions
        if self.protocol.correlate is None:
            if table is Direction.RESPONSE:
                return questions.popitem(last=False)[1] if questions else None
            key: Any = packet.number, len(questions)
        else:
            try:
                key = self.protocol.key(header, message)
                asked = questions.get(key)
            except Exception:  # the function is the user's
                return None
            if asked is not None and asked[2] != source:
                return questions.pop(key)
            if table is Direction.RESPONSE or key is None:
                return None
        questions[key] = packet.number, packet.time, source
        if len(questions) > MAX_QUESTIONS:
            questions.popitem(last=False)
        return None
