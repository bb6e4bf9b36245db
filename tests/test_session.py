"""
Sessions: two of them joined in memory, whatever the split of the bytes.
"""

import enum
import random
from typing import Any

import attrs
import pytest
from construct import Bytes, GreedyBytes, Int8ub, Int16ub, Int32ub, Nibble, Switch, this

from protoserve import (
    Cobs,
    Datagram,
    DeclarationError,
    Delimited,
    FrameTooLongError,
    IncompleteFrameError,
    InvalidMessageError,
    LengthField,
    LengthPrefixed,
    LocalProtocolError,
    Message,
    Peer,
    Protocol,
    Request,
    Role,
    Session,
    SessionClosedError,
    UnknownMessageError,
    length_of,
    wire,
)
from protoserve.events import (
    NEED_DATA,
    Frame,
    MessageReceived,
    MessageRejected,
    PeerClosed,
    StreamBroken,
)


class Pong(Message):
    value: int = wire(Int8ub, default=0)


class Ping(Request[Pong]):
    value: int = wire(Int8ub, default=0)


class Text(Message):
    text: bytes = wire(GreedyBytes, default=b"")


class Header(Message):
    kind: int = wire(Int8ub)
    sequence: int = wire(Int16ub)


def protocol(**options):
    given = {
        "framing": LengthPrefixed(Int16ub, max_size=1000),
        "header": Header,
        "tag": "kind",
        "correlate": "sequence",
        "requests": {1: Ping},
        "responses": {2: Pong},
        "messages": {3: Text},
    }
    return Protocol("pingpong", **{**given, **options})


def session(spoken, role=Role.SERVER, **options):
    return Session(spoken, role, clock=lambda: 1000.0, **options)


@attrs.define
class Pair:
    """
    A client and a server whose bytes are carried from one to the other.
    """

    client: Session
    server: Session

    @classmethod
    def speaking(cls, spoken, **options):
        roles = (Role.CLIENT, Role.SERVER)
        return cls(*(session(spoken, role, **options) for role in roles))

    def to_server(self):
        return carried(self.client, self.server)

    def to_client(self):
        return carried(self.server, self.client)


def carried(sender, receiver):
    """
    Carry what one has to say to the other; give the events there.
    """
    events = []
    for data in sender.data_to_send():
        receiver.receive_data(data)
        events += events_of(receiver)
    return events


def events_of(receiver):
    events = []
    while (event := receiver.next_event()) is not NEED_DATA:
        events.append(event)
    return events


def messages(events):
    assert {MessageReceived} >= set(map(type, events)), events
    return [event.message for event in events]


# Streams -------------------------------------------------------------------


def test_request_and_response():
    """A response arrives with the request that it answers."""
    pair = Pair.speaking(protocol())
    pair.client.send(Ping(7))
    (asked,) = pair.to_server()
    assert Ping(7) == asked.message
    assert None is asked.request
    assert Frame(bytes.fromhex("01 0000 07"), 1000.0) == asked.frame
    pair.server.send(Pong(8), reply_to=asked.header)
    (answered,) = pair.to_client()
    assert (Pong(8), Ping(7)) == (answered.message, answered.request)


def stream_of(count):
    spoken = protocol()
    client = session(spoken, Role.CLIENT)
    for i in range(count):
        client.send(Text(bytes(i * 3)) if i % 2 else Ping(i))
    return spoken, b"".join(client.data_to_send())


def test_byte_by_byte():
    """Messages come out however the bytes come in, as soon as they are whole."""
    spoken, data = stream_of(20)
    whole = session(spoken)
    whole.receive_data(data)
    expected = messages(events_of(whole))
    assert 20 == len(expected)
    single = session(spoken)
    found = []
    for i in range(len(data)):
        single.receive_data(data[i : i + 1])
        found += messages(events_of(single))
    assert expected == found
    chance = random.Random(7)
    for _ in range(50):
        split, found, at = session(spoken), [], 0
        while at < len(data):
            size = chance.choice((1, 2, 3, 10, 100))
            split.receive_data(data[at : at + size])
            if chance.random() < 0.7:
                found += messages(events_of(split))
            at += size
        assert expected == found + messages(events_of(split))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_kinds_of_bytes(kind):
    """Whatever holds bytes is taken, and may be reused at once."""
    spoken, data = stream_of(2)
    reader = session(spoken)
    held = bytearray(data)
    reader.receive_data(kind(held))
    held[:] = bytes(len(held))
    assert [Ping(0), Text(bytes(3))] == messages(events_of(reader))


def test_out_of_order():
    """Responses find their requests in any order."""
    pair = Pair.speaking(protocol())
    for i in range(50):
        pair.client.send(Ping(i))
    asked = pair.to_server()
    random.Random(1).shuffle(asked)
    for event in asked:
        pair.server.send(Pong(event.message.value), reply_to=event.header)
    for event in pair.to_client():
        assert event.message.value == event.request.value


def test_push():
    """A server sends at any time; such a message answers nothing."""
    pair = Pair.speaking(protocol())
    pair.server.send(Text(b"news"), header=Header(0, 99))
    (event,) = pair.to_client()
    assert (Text(b"news"), None) == (event.message, event.request)


def test_half_close():
    """After the end of the peer's side, what it sent is there, and we may send."""
    pair = Pair.speaking(protocol())
    pair.client.send(Ping(1))
    pair.client.send(Ping(2))
    pair.server.receive_data(b"".join(pair.client.data_to_send()))
    pair.server.receive_eof()
    first, second, last, *none = events_of(pair.server)
    assert [Ping(1), Ping(2)] == [first.message, second.message]
    assert (PeerClosed(), []) == (last, none)
    pair.server.send(Pong(1), reply_to=first.header)
    assert [Pong(1)] == messages(pair.to_client())


def test_end_in_the_middle_of_a_frame():
    """A frame that the end of the stream cuts is told as such."""
    spoken, data = stream_of(2)
    reader = session(spoken)
    reader.receive_data(data[:-1])
    reader.receive_eof()
    first, broken, *none = events_of(reader)
    assert Ping(0) == first.message
    assert isinstance(broken, StreamBroken)
    assert isinstance(broken.error, IncompleteFrameError)
    assert [] == none


def test_frame_that_the_end_delimits():
    """A last frame without its delimiter comes before the end."""
    spoken = Protocol(
        "lines", framing=Delimited(b"\n", accept_unterminated=True), messages=Text
    )
    reader = session(spoken)
    reader.receive_data(b"one\ntwo")
    assert [Text(b"one")] == messages(events_of(reader))
    reader.receive_eof()
    last, closed = events_of(reader)
    assert (Text(b"two"), PeerClosed()) == (last.message, closed)


def test_too_long():
    """Nothing comes of a stream after a frame that is too long."""
    reader = session(protocol())
    reader.receive_data(b"\xff\xff")
    (broken,) = events_of(reader)
    assert isinstance(broken, StreamBroken)
    assert isinstance(broken.error, FrameTooLongError)
    reader.receive_data(stream_of(3)[1])
    assert [] == events_of(reader)
    reader.send(Text(b"what?"), header=Header(0, 0))


def test_rejected_frames_do_not_end_the_stream():
    """Malformed and unknown frames are events between others."""
    spoken, good = stream_of(1)
    reader = session(spoken)
    unknown, short = bytes.fromhex("0003 ff 0007"), bytes.fromhex("0003 01 0008")
    reader.receive_data(good + unknown + short + b"\0\1\1" + good)
    first, strange, cut, headless, last = events_of(reader)
    assert Ping(0) == first.message == last.message
    assert isinstance(strange.error, UnknownMessageError)
    assert (Header(0xFF, 7), Header(1, 8)) == (strange.header, cut.header)
    assert isinstance(headless, MessageRejected)
    assert None is headless.header
    assert b"\1" == headless.frame.data


def test_buffered():
    """The bytes of an unfinished frame are counted."""
    spoken, data = stream_of(1)
    reader = session(spoken)
    assert 0 == reader.buffered
    reader.receive_data(data + data[:3])
    events_of(reader)
    assert 3 == reader.buffered


def test_no_framing():
    """A protocol without framing is for datagrams only."""
    with pytest.raises(DeclarationError, match="pingpong has no framing="):
        session(protocol(framing=None))
    session(protocol(framing=None), stream=False)
    with pytest.raises(DeclarationError, match="no stream framing"):
        session(protocol(framing=Datagram()))


# Sending -------------------------------------------------------------------


def test_flush_and_closer():
    """What is sent goes to the transport, if there is one, and closing tells it."""
    told = []
    speaker = session(protocol(), Role.CLIENT)
    speaker.flush = lambda: told.extend(speaker.data_to_send())
    speaker.closer = lambda: told.append("closed")
    speaker.send(Ping(1))
    speaker.close()
    assert [bytes.fromhex("0004 01 0000 01"), "closed"] == told
    assert [] == speaker.data_to_send()
    with pytest.raises(SessionClosedError, match="is closed"):
        speaker.send(Ping(2))
    assert [] == events_of(speaker)


def test_held():
    """What is sent while it is held leaves together, but not without a bound."""
    told = []
    speaker = session(protocol(), Role.CLIENT)
    speaker.flush = lambda: told.append(len(speaker.data_to_send()))
    speaker.held = True
    for _ in range(150):
        speaker.send(Ping(1))
    assert [64, 64] == told
    speaker.held = False
    speaker.send(Ping(1))
    assert [64, 64, 23] == told


def test_what_cannot_be_sent():
    """Nothing is sent, remembered or moved when a message does not fit."""
    spoken = protocol(states={"new": {Ping: "asked", Text: "new"}, "asked": {}})
    speaker = session(spoken, Role.CLIENT)
    for message, error in (
        (Pong(), LocalProtocolError),
        (Ping(256), InvalidMessageError),
        (Text(bytes(1000)), LocalProtocolError),
    ):
        with pytest.raises(error):
            speaker.send(message)
    assert "new" == speaker.phase
    assert [] == speaker.data_to_send()
    assert {} == speaker._requests


def test_too_long_to_send():
    """A message that its framing cannot carry is told with its name."""
    speaker = session(protocol(framing=LengthPrefixed(Int8ub)))
    with pytest.raises(LocalProtocolError, match="Text: "):
        speaker.send(Text(bytes(300)), header=Header(0, 0))


# Correlation ---------------------------------------------------------------


class Small(Message, bits=True):
    kind: int = wire(Nibble)
    sequence: int = wire(Nibble, default=0)


def keys_of(client):
    framed = client.data_to_send()
    return [
        client.protocol.parse(f[2:], client.outbound).header.sequence for f in framed
    ]


def test_keys_are_fresh():
    """Keys count up, skip those in use, and start again."""
    client = session(protocol(header=Small), Role.CLIENT)
    client.send(Ping(1), header=Small(0, 2))
    for _ in range(15):
        client.send(Ping())
    assert [2, 0, 1, *range(3, 16)] == keys_of(client)
    client.send(Ping())
    assert [2] == keys_of(client)


def test_keys_of_datagrams_are_drawn():
    """On datagrams keys cannot be foretold; all of them are used before one is again."""
    client = session(protocol(header=Small), Role.CLIENT, stream=False)
    for _ in range(16):
        client.send(Ping())
    drawn = [
        client.protocol.parse(f, client.outbound).header.sequence
        for f in client.data_to_send()
    ]
    assert set(range(16)) == set(drawn)
    drawn = {
        session(protocol(), Role.CLIENT, stream=False).ask(Ping())[1] for _ in range(64)
    }
    assert len(drawn) > 48


def test_asking():
    """Who finds answers himself is given the key, which is none that is taken."""
    client = session(protocol(), Role.CLIENT)
    taken = {0, 1, 3}
    asked = [client.ask(Ping(7), taken=taken) for _ in range(2)]
    assert [
        (bytes.fromhex("0004 01 0002 07"), 2),
        (bytes.fromhex("0004 01 0004 07"), 4),
    ] == asked
    assert {} == client._requests
    assert [] == client.data_to_send()
    given, key = client.ask(Ping(7), header=Header(0, 900))
    assert (bytes.fromhex("0004 01 0005 07"), 5) == (given, key)
    client.close()
    with pytest.raises(SessionClosedError):
        client.ask(Ping())


def test_requests_are_not_kept_for_ever():
    """A peer that never answers costs a bounded amount of memory and time."""
    for spoken, most in ((protocol(header=Small), 16), (protocol(), 1 << 15)):
        client = session(spoken, Role.CLIENT)
        for _ in range(most + 100):
            client.encode(Ping())
        assert most == len(client._requests)


def test_oldest_request_is_forgotten_first():
    """When all keys are in use, the longest unanswered request makes room."""
    pair = Pair.speaking(protocol(header=Small))
    for value in range(17):
        pair.client.send(Ping(value))
    first, second, *_, last = pair.to_server()
    assert (0, 0) == (first.header.sequence, last.header.sequence)
    pair.server.send(Pong(), reply_to=second.header)
    pair.server.send(Pong(), reply_to=last.header)
    assert [1, 16] == [event.request.value for event in pair.to_client()]


@pytest.mark.parametrize(
    "correlate",
    ["sequence", ("sequence",), ("kind", "sequence"), lambda h, m: h.sequence],
)
def test_kinds_of_keys(correlate):
    """A client need not give a header, whatever ties responses to requests."""

    class Defaulted(Message):
        kind: int = wire(Int8ub, default=0)
        sequence: int = wire(Int16ub, default=5)

    spoken = protocol(
        header=Defaulted, correlate=correlate, requests={1: Ping}, responses={1: Pong}
    )
    pair = Pair.speaking(spoken)
    pair.client.send(Ping(4))
    (asked,) = pair.to_server()
    pair.server.send(Pong(), reply_to=asked.header)
    (answered,) = pair.to_client()
    assert Ping(4) == answered.request


def test_key_that_is_no_number():
    """A key of bytes comes from the header's own default."""
    drawn = iter([b"aaaa", b"bbbb"])

    class Drawn(Message):
        ident: bytes = wire(Bytes(4), factory=lambda: next(drawn))

    spoken = protocol(header=Drawn, tag=None, correlate="ident", requests=Ping,
                      responses=Pong, messages={})  # fmt: skip
    pair = Pair.speaking(spoken)
    pair.client.send(Ping(1))
    pair.client.send(Ping(2))
    asked = pair.to_server()
    for event in reversed(asked):
        pair.server.send(Pong(), reply_to=event.header)
    assert [2, 1] == [event.request.value for event in pair.to_client()]


def test_without_correlation():
    """Without correlate= nothing is remembered."""
    pair = Pair.speaking(protocol(correlate=None, header=Small))
    pair.client.send(Ping())
    (asked,) = pair.to_server()
    pair.server.send(Pong(), reply_to=asked.header)
    (answered,) = pair.to_client()
    assert None is answered.request


# States --------------------------------------------------------------------


class Login(Message):
    name: bytes = wire(GreedyBytes)


STATES = {
    "new": {Login: "waiting"},
    "waiting": {Pong: "ready"},
    "ready": {Ping: "ready", Pong: "ready", Login: "gone"},
    "gone": {},
}


@pytest.fixture
def stateful():
    spoken = protocol(requests={1: Ping, 4: Login}, states=STATES)
    return Pair.speaking(spoken)


def test_conversation(stateful):
    """Both sides follow the state table."""
    pair = stateful
    assert ("new", "new") == (pair.client.phase, pair.server.phase)
    pair.client.send(Login(b"me"))
    (login,) = pair.to_server()
    assert ("waiting", "waiting") == (pair.client.phase, pair.server.phase)
    pair.server.send(Pong(), reply_to=login.header)
    assert [Pong()] == messages(pair.to_client())
    assert ("ready", "ready") == (pair.client.phase, pair.server.phase)


def test_what_we_may_not_send_now(stateful):
    """Our own message in the wrong state is refused, and nothing is sent."""
    with pytest.raises(LocalProtocolError, match=r"Ping is not .*'new' .*Login"):
        stateful.client.send(Ping())
    with pytest.raises(LocalProtocolError, match="Pong is not allowed"):
        stateful.server.send(Pong(), header=Header(0, 0))
    assert [] == stateful.client.data_to_send() + stateful.server.data_to_send()


def test_what_the_peer_may_not_send_now(stateful):
    """The peer's message in the wrong state is rejected, the state stays."""
    rude = session(protocol(requests={1: Ping, 4: Login}), Role.CLIENT)
    rude.send(Ping(5))
    (event,) = carried(rude, stateful.server)
    assert isinstance(event, MessageRejected)
    assert Header(1, 0) == event.header
    assert "not allowed in state 'new'" in str(event.error)
    assert "new" == stateful.server.phase


def test_free_messages(stateful):
    """What the table does not speak of is legal in every state."""
    stateful.client.send(Text(b"hi"))
    assert [Text(b"hi")] == messages(stateful.to_server())
    stateful.server.phase = "gone"
    stateful.server.send(Text(b"bye"), header=Header(0, 0))
    with pytest.raises(LocalProtocolError, match="expected: nothing more"):
        stateful.server.send(Pong(), header=Header(0, 0))


# Datagrams -----------------------------------------------------------------


def test_datagrams():
    """A datagram is a frame; the stream's length prefix is not in it."""
    pair = Pair.speaking(protocol(), stream=False)
    pair.client.send(Ping(3), header=Header(1, 0))
    assert [bytes.fromhex("01 0000 03")] == list(pair.client.outgoing)
    assert [Ping(3)] == messages(pair.to_server())


def test_several_messages_in_a_datagram():
    """Where lengths are in the frame, a datagram holds several."""

    class Sized(Message):
        length: int = wire(Int8ub, value=length_of("body"))

    spoken = Protocol("p", framing=LengthField(Int8ub), header=Sized, messages=Text)
    reader = session(spoken, stream=False)
    reader.receive_data(b"\2hi\0\3you")
    assert [Text(b"hi"), Text(), Text(b"you")] == messages(events_of(reader))
    reader.receive_data(b"\2hi\3yo")
    (event,) = events_of(reader)
    assert isinstance(event.error, IncompleteFrameError)
    assert b"\2hi\3yo" == event.frame.data
    reader.receive_data(b"\2ho")
    assert [Text(b"ho")] == messages(events_of(reader))


def test_datagrams_with_a_framing_inside():
    """Another framing may cut the datagrams."""
    spoken = Protocol("p", framing=Datagram(LengthPrefixed(Int8ub)), messages=Text)
    pair = Pair.speaking(spoken, stream=False)
    pair.client.send(Text(b"hi"))
    assert [b"\2hi"] == list(pair.client.outgoing)
    assert [Text(b"hi")] == messages(pair.to_server())


def test_bad_datagram():
    """A bad datagram is one event; the next is not concerned."""
    reader = session(protocol(framing=Cobs(max_size=4)), stream=False)
    for data in (b"", b"\1", b"GET / HTTP/1.1\r\n", bytes(70_000)):
        reader.receive_data(data)
        (event,) = events_of(reader)
        assert isinstance(event, MessageRejected)
        assert data == event.frame.data
    reader.receive_data(bytes.fromhex("01 0000 03"))
    assert [Ping(3)] == messages(events_of(reader))


def test_datagram_after_the_end():
    """A closed session says nothing more of what it was given."""
    reader = session(protocol(), stream=False)
    reader.receive_eof()
    assert [PeerClosed()] == events_of(reader)


# What fields see -----------------------------------------------------------


class Level(enum.Enum):
    OLD = 1


@attrs.define
class State:
    size: int = 2
    templates: dict = attrs.field(factory=lambda: {1: 1})


class Shaped(Message):
    a: bytes = wire(Bytes(this._.session.state.size))
    b: Any = wire(Switch(this._.session.phase, {"new": Int8ub}, default=Int32ub))
    c: bytes = wire(Bytes(lambda context: context._.session.state.templates[1]))


@pytest.mark.parametrize("state", [State(), None, {"size": 2}, 5, Level.OLD])
def test_fields_see_the_session(state):
    """``this._.session`` is the session, and ``.state`` whatever is kept there."""
    spoken = Protocol("p", framing=LengthPrefixed(Int8ub), header=Small, tag="kind",
                      messages={1: Shaped}, states={"new": {Shaped: "new"}})  # fmt: skip
    reader = session(spoken)
    reader.state = state
    reader.receive_data(bytes.fromhex("05 10 6162 07 63"))
    (event,) = events_of(reader)
    if isinstance(state, State):
        assert Shaped(b"ab", 7, b"c") == event.message
        assert bytes.fromhex("05 10 6162 07 63") == reader.encode(event.message)
    else:
        assert isinstance(event, MessageRejected)
    assert state is reader.state
    if not isinstance(state, State):
        assert state is reader["state"]


def test_descriptions():
    """Peers and sessions are shown as people write addresses."""
    assert "tcp://127.0.0.1:80" == str(Peer("tcp", ("127.0.0.1", 80)))
    assert "udp://[::1]:53" == str(Peer("udp", ("::1", 53, 0, 0)))
    mapped = Peer("udp", ("::ffff:192.0.2.1", 53, 0, 0))
    assert ("192.0.2.1", "udp://192.0.2.1:53") == (mapped.host, str(mapped))
    local = Peer("udp", ("fe80::1", 53, 0, 2))
    assert ("fe80::1%2", "udp://[fe80::1%2]:53") == (local.host, str(local))
    assert "unix:///tmp/x" == str(Peer("unix", "/tmp/x"))
    assert "unixgram://(unnamed)" == str(Peer("unixgram", ""))
    assert "unixgram://@0001f" == str(Peer("unixgram", b"\x000001f"))
    assert ("::1", 53) == (Peer("udp", ("::1", 53)).host, Peer("udp", ("::1", 53)).port)
    assert ("", "unixgram://(unnamed)") == (
        Peer("unixgram", None).host,
        str(Peer("unixgram", None)),
    )
    peer = Peer("tcp", ("127.0.0.1", 80))
    shown = repr(Session(protocol(), Role.CLIENT, peer))
    assert "<Session pingpong client tcp://127.0.0.1:80>" == shown
