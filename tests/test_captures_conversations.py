"""
Conversations in captures: who has said what to whom.
"""

import attrs
import pytest
from construct import Bytes, Int8ub, Int16ub, this
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import modbus as mb
from protocols import ntp
from protoserve import (
    Direction,
    LengthPrefixed,
    Message,
    Protocol,
    Request,
    wire,
)
from protoserve.captures import Conversations, IncompleteCaptureError, Packet
from protoserve.captures import conversations as following
from protoserve.errors import (
    FrameTooLongError,
    IncompleteFrameError,
    MalformedMessageError,
    RemoteProtocolError,
)
from tests.packets import ACK, CLIENT, FIN, RAW, RST, SERVER, SYN, tcp, udp

REQUEST, RESPONSE = Direction.REQUEST, Direction.RESPONSE


def ask(transaction=0, address=0, count=1):
    """
    Make a request for registers.
    """
    header = mb.Mbap(transaction, function=3)
    message = mb.ReadHoldingRegisters(address, count)
    return mb.modbus.build(message, REQUEST, header=header)


def answer(transaction=0, values=(1,)):
    """
    Make its response.
    """
    header = mb.Mbap(transaction, function=3)
    return mb.modbus.build(mb.HoldingRegisters(list(values)), RESPONSE, header=header)


def follow(packets, protocol=mb.modbus, ports=(), times=None):
    """
    Take packets, one a second; give what was decoded.
    """
    conversations = Conversations(protocol, ports)
    found = []
    for i, data in enumerate(packets):
        time = float(i) if times is None else times[i]
        found += conversations.take(Packet(i + 1, time, RAW, data))
    return found + list(conversations.finish())


def names(found):
    """
    Give the packet and the message, or the error's class, of each.
    """
    return [
        (d.number, type(d.error if d.message is None else d.message).__name__)
        for d in found
    ]


def up(sequence, payload=b"", flags=ACK):
    return tcp(CLIENT, SERVER, sequence, payload, flags)


def down(sequence, payload=b"", flags=ACK):
    return tcp(SERVER, CLIENT, sequence, payload, flags)


OPENING = [up(99, flags=SYN), down(499, flags=SYN | ACK), up(100)]
ASK, ANSWER = "ReadHoldingRegisters", "HoldingRegisters"


class TestStreams:
    def test_both_directions(self):
        """
        Requests and responses come with who sent them, and belong together.
        """
        one, two = follow([*OPENING, up(100, ask(7)), down(500, answer(7))])

        assert ("request", "192.0.2.7:40000", "192.0.2.1:502") == (
            one.direction,
            one.source,
            one.target,
        )
        assert ("response", "192.0.2.1:502", "192.0.2.7:40000") == (
            two.direction,
            two.source,
            two.target,
        )
        assert (None, 4, 1.0) == (one.answers, two.answers, two.elapsed)
        assert (4, 3.0, "tcp") == (one.number, one.time, one.transport)
        assert (7, [1]) == (two.header.transaction, two.message.values)
        assert ask(7) == one.raw

    def test_many_in_one(self):
        """
        A segment may hold several messages, and a message take several segments.
        """
        stream = ask(1) + ask(2) + ask(3)
        found = follow([*OPENING, up(100, stream[:20]), up(120, stream[20:])])

        assert [(4, ASK), (5, ASK), (5, ASK)] == names(found)

    @pytest.mark.parametrize("size", [1, 5, 11, 12, 13])
    def test_any_cut(self, size):
        """
        However the stream is cut, and in reverse order, the messages are the same.
        """
        stream = b"".join(ask(i) for i in range(6))
        cut = [
            up(100 + at, stream[at : at + size]) for at in range(0, len(stream), size)
        ]
        packets = [*OPENING, *reversed(cut), *cut]
        found = follow(packets, times=[0.0] * len(packets))

        assert list(range(6)) == [d.header.transaction for d in found]
        assert not any(d.error for d in found)

    def test_answers_out_of_order(self):
        """
        Responses are tied to requests by the key, whatever their order.
        """
        found = follow(
            [*OPENING, up(100, ask(1) + ask(2)), down(500, answer(2) + answer(1))]
        )
        assert [(2, 4), (1, 4)] == [
            (d.header.transaction, d.answers) for d in found[2:]
        ]

    def test_malformed(self):
        """
        A malformed frame is told with its header and its bytes; the next is decoded.
        """
        bad = ask(1, count=1)[:-2] + b"\xff\xff"
        first, second = follow([*OPENING, up(100, bad + ask(2))])

        assert isinstance(first.error, MalformedMessageError)
        assert "ReadHoldingRegisters.count" == first.error.path
        assert (bad, 1) == (first.raw, first.header.transaction)
        assert second.error is None

    def test_answer_to_what_is_malformed(self):
        """
        A malformed request is known by its header's key, so its answer is found.
        """
        bad = ask(6, count=1)[:-2] + b"\0\0"
        refusal = mb.ModbusException(mb.ExceptionCode.ILLEGAL_DATA_VALUE)
        header = mb.Mbap(6, function=3)
        reply = mb.modbus.build(refusal, RESPONSE, reply_to=header)
        _, second = follow([*OPENING, up(100, bad), down(500, reply)])

        assert ("ModbusException", 4) == (type(second.message).__name__, second.answers)

    def test_wrong_way(self):
        """
        What is not in the table of its direction is looked up in the other one.
        """
        header = mb.Mbap(1, function=0x83)
        refusal = mb.ModbusException(mb.ExceptionCode.ILLEGAL_FUNCTION)
        good = mb.modbus.build(refusal, RESPONSE, header=header)
        bad = good[:4] + b"\0\2" + good[6:8]
        one, two = follow([*OPENING, up(100, good + bad)])

        assert ("response", None) == (one.direction, one.error)
        assert "ModbusException.code" == two.error.path

    def test_key_that_fails(self):
        """
        A function for the key that fails ties nothing together.
        """
        odd = attrs.evolve(mb.modbus, correlate=lambda _header, message: message.count)
        found = follow([*OPENING, up(100, ask()), down(500, answer())], odd)

        assert [None, None] == [d.answers for d in found]
        assert [None, None] == [d.error for d in found]

    def test_ports_used_again(self):
        """
        A second connection between the same ports is one of its own.
        """
        again = [up(9, flags=SYN), up(10, ask(5))]
        found = follow([*OPENING, up(100, ask(1)[:5]), *again])

        assert [(4, "IncompleteFrameError"), (6, ASK)] == names(found)

    def test_reset(self):
        """
        A reset ends the conversation; what waits is told.
        """
        found = follow([*OPENING, up(100, ask(1)[:5]), down(500, flags=RST)])

        assert isinstance(found[0].error, IncompleteFrameError)
        assert 5 == found[0].error.buffered

    def test_closed(self):
        """
        A closed conversation is forgotten.
        """
        conversations = Conversations(mb.modbus)
        packets = [*OPENING, up(100, ask()), down(500, answer(), ACK | FIN)]
        packets.append(up(112, flags=ACK | FIN))
        found = []
        for i, data in enumerate(packets):
            found += conversations.take(Packet(i + 1, 0.0, RAW, data))

        assert [(4, ASK), (5, ANSWER)] == names(found)
        assert not conversations._known
        assert 0 == conversations._buffered


class TestDamage:
    def test_gap(self):
        """
        A segment that the capture lacks is told, and the stream goes on behind it.
        """
        packets = [*OPENING, up(100, ask(1)), up(124, ask(3)), up(136, ask(4))]
        found = follow(packets)

        assert [ASK, "IncompleteCaptureError", ASK, ASK] == [n for _, n in names(found)]
        error = found[1].error
        assert (12, "the next 12 bytes of the stream", "a gap in the capture") == (
            error.offset,
            error.expected,
            error.found,
        )
        assert [1, 3, 4] == [d.header.transaction for d in found if d.header]

    def test_gap_inside_a_frame(self):
        """
        Behind a gap, what is left of a frame is skipped, and that is told.
        """
        long = answer(1, range(100))
        packets = [*OPENING, down(500, long[:50]), down(550 + 60, long[110:])]
        packets += [down(500 + len(long), answer(2))]
        found = follow(packets)

        assert [
            "IncompleteCaptureError",
            "IncompleteCaptureError",
            ANSWER,
        ] == [n for _, n in names(found)]
        assert "60 bytes of the stream, 50 bytes into a frame" in str(found[0].error)
        assert f"{len(long) - 110} bytes in which none was found" in str(found[1].error)

    def test_cut_by_the_capture(self):
        """
        A segment that was captured in part is a gap where it was cut.
        """
        whole = up(100, ask(1) + ask(2))
        found = follow([*OPENING, whole[:-5], up(124, ask(3))])

        assert [ASK, "IncompleteCaptureError", ASK] == [n for _, n in names(found)]
        assert "next 5 bytes of the stream, 7 bytes into a frame" in str(found[1].error)

    def test_begins_in_the_middle(self):
        """
        A capture that begins inside a message skips the rest of it.
        """
        long = answer(1, range(100))
        packets = [down(500, long[90:]), down(500 + len(long) - 90, answer(2))]
        found = follow(packets)

        assert ["IncompleteCaptureError", ANSWER] == [n for _, n in names(found)]
        assert (0, "the start of a message") == (
            found[0].error.offset,
            found[0].error.expected,
        )

    def test_begins_between_messages(self):
        """
        A capture that begins between messages misses nothing.
        """
        found = follow([up(1000, ask(1)), down(77, answer(1))])

        assert [(1, ASK), (2, ANSWER)] == names(found)
        assert 1 == found[1].answers

    def test_broken(self):
        """
        A stream that cannot be cut is told once; it goes on with the next message.
        """
        rubbish = bytes.fromhex("0001 0000 ffff 01 03") * 4
        packets = [*OPENING, up(100, ask(1) + rubbish), up(144, rubbish)]
        packets += [up(176, ask(2)), up(188, ask(3))]
        found = follow(packets)

        assert [
            ASK,
            "FrameTooLongError",
            "IncompleteCaptureError",
            ASK,
            ASK,
        ] == [n for _, n in names(found)]
        assert isinstance(found[1].error, FrameTooLongError)
        assert "32 bytes in which none was found" in str(found[2].error)

    def test_another_protocol(self):
        """
        What is no such protocol at all is told twice: at its start and at its end.
        """
        text = b"GET / HTTP/1.1\r\n" * 4
        packets = [up(100 + i * len(text), text) for i in range(50)]
        found = follow([*OPENING, *packets])

        assert 2 == len(found)
        assert "HTTP" in str(found[0].error)
        assert f"{49 * len(text)} bytes in which none" in str(found[1].error)

    def test_ends_in_the_middle(self):
        """
        A capture that ends inside a message tells so.
        """
        found = follow([*OPENING, up(100, ask(1) + ask(2)[:9])])

        assert [(4, ASK), (4, "IncompleteFrameError")] == names(found)


class TestDatagrams:
    def packet(self, mode, source, target):
        message = {
            ntp.Mode.CLIENT: ntp.ClientRequest(transmit_timestamp=9),
            ntp.Mode.SERVER: ntp.ServerResponse(origin_timestamp=9),
        }[mode]
        way = REQUEST if mode is ntp.Mode.CLIENT else RESPONSE
        return udp(source, target, ntp.ntp.build(message, way))

    def test_equal_ports(self):
        """
        Where both ports are the protocol's, the tables tell who asks.
        """
        one, two = ("192.0.2.1", 123), ("192.0.2.2", 123)
        packets = [
            self.packet(ntp.Mode.CLIENT, one, two),
            self.packet(ntp.Mode.SERVER, two, one),
            self.packet(ntp.Mode.CLIENT, two, one),
            self.packet(ntp.Mode.SERVER, one, two),
        ]
        found = follow(packets, ntp.ntp)

        assert ["request", "response"] * 2 == [d.direction for d in found]
        assert [None, 1, None, 3] == [d.answers for d in found]

    def test_answer_first(self):
        """
        So it is where the capture begins with the answer.
        """
        ends = ("192.0.2.1", 123), ("192.0.2.2", 123)
        (found,) = follow([self.packet(ntp.Mode.SERVER, *ends)], ntp.ntp)

        assert ("response", None) == (found.direction, found.error)

    def test_to_itself(self):
        """
        An address and port may send to itself.
        """
        end = ("127.0.0.1", 123)
        (found,) = follow([self.packet(ntp.Mode.CLIENT, end, end)], ntp.ntp)

        assert "request" == found.direction

    def test_either(self):
        """
        Messages that both sides may send have no direction.
        """
        control = ntp.ntp.build(ntp.Control(opcode=2), REQUEST)
        (found,) = follow([udp(CLIENT, ("192.0.2.1", 123), control)], ntp.ntp)

        assert "message" == found.direction

    def test_cut_by_the_capture(self):
        """
        A datagram that the capture does not have all of is told, with what it has.
        """
        data = self.packet(ntp.Mode.CLIENT, CLIENT, ("192.0.2.1", 123))
        (found,) = follow([data[:-20]], ntp.ntp)

        assert isinstance(found.error, IncompleteCaptureError)
        assert "a datagram of 48 bytes" == found.error.expected
        assert ntp.Mode.CLIENT == found.header.mode
        assert 28 == len(found.raw)


class Data(Message):
    data: bytes = wire(Bytes(2))


class Hello(Request[Data]):
    level: int = wire(Int8ub)


class Head(Message):
    kind: int = wire(Int8ub)


stateful = Protocol(
    "stateful",
    framing=LengthPrefixed(Int16ub),
    header=Head,
    tag="kind",
    requests={1: Hello},
    responses={2: Data},
    states={"new": {Hello: "open"}, "open": {Data: "open"}},
    ports={"tcp": 502},
)


def framed(message, way):
    return stateful.framing.encode(stateful.build(message, way))


class TestSessions:
    def test_states(self):
        """
        What one side says changes the state for the other.
        """
        packets = [
            up(100, framed(Hello(1), REQUEST)),
            down(500, framed(Data(b"ok"), RESPONSE)),
        ]
        found = follow([*OPENING, *packets], stateful)

        assert [None, None] == [d.error for d in found]
        assert [None, 4] == [d.answers for d in found]  # by the order: no key

    def test_turns(self):
        """
        Both sides know the state however often it has changed.
        """
        turns = {"idle": {Hello: "busy"}, "busy": {Data: "idle"}}
        protocol = attrs.evolve(stateful, states=turns)
        hello, data = framed(Hello(1), REQUEST), framed(Data(b"ok"), RESPONSE)
        packets = []
        for i in range(3):
            packets.append(up(100 + i * len(hello), hello))
            packets.append(down(500 + i * len(data), data))
        found = follow([*OPENING, *packets], protocol)

        assert [None] * 6 == [d.error for d in found]

    def test_not_allowed(self):
        """
        What the state does not allow is shown, and told.
        """
        data = framed(Data(b"ok"), RESPONSE)
        (found,) = follow([*OPENING, down(500, data)], stateful)

        assert b"ok" == found.message.data
        assert RemoteProtocolError is type(found.error)
        assert "not allowed in state 'new'" in str(found.error)

    def test_unknown_state(self):
        """
        Where the beginning was not seen, nobody knows the state.
        """
        (found,) = follow([down(500, framed(Data(b"ok"), RESPONSE))], stateful)

        assert found.error is None

    def test_session_state(self):
        """
        Fields may depend on the session of their conversation.
        """

        class Sized(Message):
            data: bytes = wire(Bytes(this._.session.received))

        counting = Protocol("counting", messages=Sized, ports={"udp": 502})
        packets = [udp(CLIENT, SERVER, bytes(n)) for n in (1, 2, 3)]
        other = udp(("192.0.2.9", 1), SERVER, b"a")

        found = follow([*packets, other], counting)
        assert [1, 2, 3, 1] == [len(d.message.data) for d in found]


class TestPorts:
    def test_own(self):
        """
        Other ports than the protocol's are left alone.
        """
        assert [] == follow([udp(CLIENT, ("192.0.2.1", 999), b"x")], ntp.ntp)

    def test_given(self):
        """
        Ports that are given stand in for the protocol's own.
        """
        here = ("192.0.2.1", 5020)
        packets = [tcp(CLIENT, here, 5, ask()), tcp(CLIENT, SERVER, 5, ask())]

        assert [(1, ASK)] == names(follow(packets, ports=[5020]))

    def test_no_streams(self):
        """
        A protocol that only exists on datagrams is not looked for in streams.
        """
        assert [] == follow([tcp(CLIENT, ("192.0.2.1", 123), 1, b"x")], ntp.ntp)

    def test_transport(self):
        """
        A protocol's own ports are those of its transports.
        """
        assert [] == follow([udp(CLIENT, SERVER, ask())])


class TestBounds:
    def test_conversations(self, monkeypatch):
        """
        Only so many are followed; what the oldest has waiting is told.
        """
        monkeypatch.setattr(following, "MAX_CONVERSATIONS", 10)
        conversations = Conversations(mb.modbus)
        found = []
        for port in range(1000, 1100):
            data = tcp(("192.0.2.7", port), SERVER, 0, ask()[:-1], SYN | ACK)
            found += conversations.take(Packet(1, 0.0, RAW, data))
            assert len(conversations._known) <= 10

        assert 90 == len(found)

    def test_bytes(self, monkeypatch):
        """
        Only so many bytes wait in all streams together.
        """
        monkeypatch.setattr(following, "MAX_BUFFERED", 10_000)
        conversations = Conversations(mb.modbus)
        for port in range(1000, 1040):
            source = ("192.0.2.7", port)
            for data in (
                tcp(source, SERVER, 0, ask()),
                tcp(source, SERVER, 100, bytes(1000)),
            ):
                list(conversations.take(Packet(1, 0.0, RAW, data)))
            held = [c.buffered for c in conversations._known.values()]
            assert sum(held) == conversations._buffered <= 10_000
        list(conversations.finish())

    def test_questions(self, monkeypatch):
        """
        Only so many requests wait for their responses.
        """
        monkeypatch.setattr(following, "MAX_QUESTIONS", 5)
        asked = b"".join(ask(i) for i in range(20))
        answered = b"".join(answer(i) for i in range(20))
        found = follow([*OPENING, up(100, asked), down(500, answered)])

        followed = [d.header.transaction for d in found if d.answers is not None]
        assert [15, 16, 17, 18, 19] == followed


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(0, 11), min_size=1, max_size=20), st.data())
def test_anything(order, drawn):
    """
    Whatever order and damage packets have, each message is there or an error is.
    """
    stream = b"".join(ask(i, count=1 + i) for i in range(6))
    packets = [up(99, flags=SYN), down(499, flags=SYN | ACK)]
    packets += [up(100 + at, stream[at : at + 9]) for at in range(0, 72, 9)]
    packets += [down(500, answer(1) + answer(2)), down(522, flags=FIN | ACK)]
    taken = [bytearray(packets[i]) for i in order]
    for _ in range(drawn.draw(st.integers(0, 6))):
        packet = drawn.draw(st.sampled_from(taken))
        at = drawn.draw(st.integers(9, len(packet) - 1))
        packet[at] = drawn.draw(st.integers(0, 255))
    cut = drawn.draw(st.integers(20, 60))
    for decoded in follow([bytes(packet[:cut]) for packet in taken]):
        assert (decoded.message is None) == (decoded.error is not None)
