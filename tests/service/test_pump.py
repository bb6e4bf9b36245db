"""
Answering in one pass does what answering event by event does.
"""

import logging
from collections.abc import Iterator

import attrs
import pytest
from construct import Bytes, GreedyBytes, Int8ub, Int16ub, Int32ub, Pointer, Tell, this
from hypothesis import given, settings
from hypothesis import strategies as st

from protoserve import (
    LengthField,
    LengthPrefixed,
    Message,
    Protocol,
    Request,
    Role,
    Service,
    Session,
    checksum_of,
    checksums,
    length_of,
    malformed,
    on_error,
    route,
    unknown,
    wire,
)
from protoserve.codec import generate_turn
from protoserve.dispatch import Dispatcher, complete
from protoserve.framing import Cobs, Delimited


class Head(Message):
    kind: int = wire(Int8ub)
    number: int = wire(Int16ub, default=0)


class Measured(Message):
    size: int = wire(Int16ub, value=length_of("body"))
    kind: int = wire(Int8ub)
    number: int = wire(Int16ub, default=0)


class Tail(Message):
    crc: int = wire(Int32ub, value=checksum_of("header", "body", using=checksums.crc32))


class Reply(Message):
    body: bytes = wire(GreedyBytes, default=b"")


class Other(Message):
    value: int = wire(Int16ub, default=0)


class Plain(Request[Reply]):
    body: bytes = wire(GreedyBytes, default=b"")


class Numbered(Request[Other]):
    value: int = wire(Int16ub)


class Silent(Message):
    value: int = wire(Int8ub)


class Many(Message):
    count: int = wire(Int8ub)


class Failing(Message):
    value: int = wire(Int8ub)


class Wrong(Message):
    value: int = wire(Int8ub)


class Last(Message):
    value: int = wire(Int8ub)


def protocol(framing, header=Head, trailer=None):
    return Protocol(
        "pumped",
        framing=framing,
        header=header,
        tag="kind",
        correlate="number",
        trailer=trailer,
        requests={
            1: Plain,
            2: Numbered,
            3: Silent,
            4: Many,
            5: Failing,
            6: Wrong,
            7: Last,
        },
        responses={0x81: Reply, 0x82: Other},
    )


PROTOCOLS = {
    "prefixed": protocol(LengthPrefixed(Int16ub, max_size=300)),
    "little": protocol(LengthPrefixed(Int16ub, max_size=300, inclusive=True)),
    "trailer": protocol(LengthPrefixed(Int8ub, max_size=200), trailer=Tail),
    "in the frame": protocol(
        LengthField(Int16ub, max_size=300, adjustment=3), header=Measured
    ),
    "delimited": protocol(Delimited(b"\xff\xfe", max_size=300)),
    "cobs": protocol(Cobs(max_size=300), trailer=Tail),
    "datagrams": protocol(None),
}


@attrs.define
class Handler:
    """
    All that a route may do.
    """

    seen: list = attrs.field(factory=list)

    def note(self, *what):
        self.seen.append(what)

    @route
    def plain(self, message: Plain) -> Reply:
        self.note("plain", message.body)
        return Reply(message.body.upper())

    @route
    def numbered(self, session: Session, header: Head | Measured, message: Numbered):
        self.note("numbered", header.number, message.value)
        if message.value % 3 == 0:
            session.send(Reply(b"pushed"))
        return Other(message.value) if message.value % 2 else Reply(b"even")

    @route
    def silent(self, message: Silent) -> None:
        self.note("silent", message.value)

    @route
    def many(self, message: Many) -> Iterator[Reply]:
        for number in range(message.count % 4):
            self.note("many", number)
            yield Reply(bytes([number]))

    @route
    def failing(self, message: Failing) -> Reply:
        self.note("failing", message.value)
        if message.value % 2:
            raise ValueError(message.value)
        raise KeyError(message.value)

    @route
    def wrong(self, message: Wrong) -> Reply:
        self.note("wrong", message.value)
        kinds = [Silent(1), "text", Reply("no bytes"), Reply(bytes(400)), Other(-1)]
        return kinds[message.value % len(kinds)]

    @route
    def last(self, message: Last, session: Session) -> Reply:
        self.note("last", message.value)
        if message.value % 4 == 0:
            session.close()
        return Reply(b"last")

    @unknown
    def strange(self) -> Other:
        self.note("unknown")
        return Other(404)

    @malformed
    def broken(self) -> Other:
        self.note("malformed")
        return Other(400)

    @on_error(ValueError)
    def failed(self) -> Other:
        self.note("failed")
        return Other(500)


def handler_for(spoken):
    """
    A handler whose header is the protocol's.
    """
    made = type("Handler", (Handler,), {})

    def numbered(self, session, header, message):
        return Handler.numbered(self, session, header, message)

    numbered.__annotations__ = {
        "session": Session,
        "header": spoken.header,
        "message": Numbered,
    }
    made.numbered = route(numbered)
    return made()


def conversation(spoken, pieces, *, stream, pumped, policy):
    """
    Feed pieces to a server's session; give what it answered and what routes saw.
    """
    handler = handler_for(spoken)
    policies = {"on_malformed": policy, "on_unknown": policy, "on_failed": policy}
    service = Service(spoken, handler, **policies)
    dispatcher = service.dispatcher
    if not pumped:
        dispatcher._pumps.update({True: (None, False), False: (None, False)})
    session = Session(spoken, Role.SERVER, stream=stream, clock=lambda: 1.0)
    sent = []
    session.flush = lambda: sent.extend(session.data_to_send())
    going = True
    for piece in [*pieces, None]:
        if not going:
            break
        if piece is None:
            session.receive_eof()
            outcome = dispatcher.answer(session)
        elif stream:
            outcome = dispatcher.take(session, piece)
        else:
            session.receive_data(piece)
            outcome = dispatcher.answer(session)
        while outcome is not True and going:
            going = complete(outcome, pytest.fail)
            outcome = dispatcher.answer(session) if going else True
    together = b"".join(sent) if stream else sent
    return together, handler.seen, session.closed, going


@st.composite
def streams(draw, spoken, *, stream):
    """
    Frames good and bad, as they may come.
    """
    client = Session(spoken, Role.CLIENT, stream=stream)
    numbers = st.integers(0, 255)
    messages = st.one_of(
        st.binary(max_size=20).map(Plain),
        st.integers(0, 65_535).map(Numbered),
        numbers.map(Silent),
        numbers.map(Many),
        numbers.map(Failing),
        numbers.map(Wrong),
        numbers.map(Last),
    )
    pieces = []
    for message in draw(st.lists(messages, max_size=8)):
        data = bytearray(client.encode(message))
        if draw(st.integers(0, 4)) == 0:  # some damage
            at = draw(st.integers(0, len(data) - 1))
            data[at] = draw(numbers)
        pieces.append(bytes(data))
    if not stream:
        return pieces
    whole = b"".join(pieces)
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    return [part for part in parts if part]


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "datagrams"])
@given(data=st.data())
@settings(max_examples=40)
def test_the_same_answers(name, stream, data):
    """What is sent, what routes are given and how it ends do not differ."""
    spoken = PROTOCOLS[name]
    if stream and spoken.framing is None:
        pytest.skip("it is not spoken over streams")
    logging.disable(logging.CRITICAL)
    try:
        pieces = data.draw(streams(spoken, stream=stream))
        policy = data.draw(st.sampled_from([None, "skip", "close"]))
        options = {"stream": stream, "policy": policy}
        expected = conversation(spoken, pieces, pumped=False, **options)
        assert expected == conversation(spoken, pieces, pumped=True, **options)
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_nothing_is_left_to_make(name, monkeypatch):
    """What is prepared needs no generator when messages come, in forked children too."""
    spoken = PROTOCOLS[name]
    stream = spoken.framing is not None
    dispatcher = Service(spoken, handler_for(spoken)).dispatcher
    dispatcher.prepare(stream)  # as others may have
    dispatcher.prepare_all(stream)
    for made in ("make_pump", "_make_turn"):
        monkeypatch.setattr(generate_turn, made, pytest.fail)
    monkeypatch.setattr(Dispatcher, "handle", pytest.fail)  # the way of what has none
    client = Session(spoken, Role.CLIENT, stream=stream)
    session = Session(spoken, Role.SERVER, stream=stream)
    session.receive_data(client.encode(Plain(b"a")))
    assert True is dispatcher.answer(session)
    (answer,) = session.data_to_send()
    client.receive_data(answer)
    assert Reply(b"A") == client.next_event().message


@pytest.mark.parametrize("name", PROTOCOLS)
def test_there_is_a_pump(name, monkeypatch):
    """Each of these protocols is answered by generated code, not event by event."""
    spoken = PROTOCOLS[name]
    dispatcher = Service(spoken, handler_for(spoken)).dispatcher
    stream = spoken.framing is not None
    session = Session(spoken, Role.SERVER, stream=stream)
    monkeypatch.setattr(Dispatcher, "handle", pytest.fail)
    client = Session(spoken, Role.CLIENT, stream=stream)
    for word in (b"one", b"two"):
        data = client.encode(Plain(word))
        session.receive_data(data)
        assert dispatcher.answer(session) is True
        (answer,) = session.data_to_send()
        client.receive_data(answer)
        assert Reply(word.upper()) == client.next_event().message


def test_a_route_is_called_once():
    """What fails after a route was called does not call it again."""
    spoken = PROTOCOLS["prefixed"]
    handler = handler_for(spoken)
    session = Session(spoken, Role.SERVER)
    client = Session(spoken, Role.CLIENT)
    dispatcher = Service(spoken, handler, on_failed="skip").dispatcher
    outcome = dispatcher.take(
        session, client.encode(Wrong(3)) + client.encode(Wrong(2))
    )
    while outcome is not True:
        assert complete(outcome, pytest.fail)
        outcome = dispatcher.answer(session)
    assert [("wrong", 3), ("wrong", 2), ("failed",)] == handler.seen


def test_the_session_is_seen_as_it_is_by_then():
    """A message whose format depends on the session is parsed after those before it."""

    class Level(Message):
        level: int = wire(Int8ub)

    class Portion(Message):
        data: bytes = wire(Bytes(this._.session.state))

    spoken = Protocol(
        "levels",
        framing=LengthPrefixed(Int8ub),
        header=Head,
        tag="kind",
        requests={1: Level, 2: Portion},
    )
    seen = []

    @attrs.define
    class Levels:
        @route
        def level(self, message: Level, session: Session) -> None:
            session.state = message.level

        @route
        def portion(self, message: Portion, session: Session) -> None:
            seen.append((session.state, message.data))

    session = Session(spoken, Role.SERVER)
    data = bytes.fromhex("04 01 0000 02  05 02 0000 6162  04 01 0000 01  04 02 0000 63")
    assert Service(spoken, Levels()).dispatcher.take(session, data) is True
    assert [(2, b"ab"), (1, b"c")] == seen


def test_places_count_from_the_frame():
    """What Construct looks up by its place is found in its own frame."""

    class Placed(Message):
        at: int = wire(Tell)
        first: bytes = wire(Pointer(0, Bytes(1)))
        rest: bytes = wire(GreedyBytes)

    spoken = Protocol(
        "placed",
        framing=LengthPrefixed(Int8ub),
        header=Head,
        tag="kind",
        requests={1: Placed},
    )
    seen = []

    @attrs.define
    class Places:
        @route
        def placed(self, message: Placed) -> None:
            seen.append((message.at, message.first, message.rest))

    session = Session(spoken, Role.SERVER)
    data = bytes.fromhex("05 01 0000 6162  04 01 0000 63  04 01 0000 64")
    assert Service(spoken, Places()).dispatcher.take(session, data) is True
    assert [(3, b"\1", b"ab"), (3, b"\1", b"c"), (3, b"\1", b"d")] == seen
