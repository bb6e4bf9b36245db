"""
Conversations are as a protocol's state table allows them.
"""

from __future__ import annotations

import attrs
import pytest
from construct import Bytes, Int8ub, Int16ub, this
from hypothesis import HealthCheck, find, given, settings

from examples import dns_server, modbus_station, ntp_server
from examples.sensor_station import Reading, Station, sensors
from protocols.modbus import modbus
from protocols.ntp import ntp
from protoserve import (
    DeclarationError,
    Direction,
    ErrorResponse,
    LengthPrefixed,
    LocalProtocolError,
    Message,
    PeerTimeoutError,
    Protocol,
    Request,
    Role,
    Service,
    Session,
    SessionClosedError,
    length_of,
    route,
    wire,
)
from protoserve.testing import TestClient, conversations

QUICK = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),  # machines may be busy
)


class Welcome(Message):
    level: int = wire(Int8ub)


class Denied(Message, error=True):
    pass


class Login(Request[Welcome]):
    length: int = wire(Int8ub, value=length_of("name"))
    name: bytes = wire(Bytes(this.length))


class Order(Message):
    item: int = wire(Int16ub)


class Logout(Message):
    pass


class Beat(Message):
    pass


class Header(Message):
    kind: int = wire(Int8ub)
    number: int = wire(Int16ub, default=0)


STATES = {
    "new": {Login: "asked"},
    "asked": {Welcome: "open", Denied: "new"},
    "open": {Order: "open", Logout: "over"},
    "over": {},
}
shop = Protocol(
    "shop",
    framing=LengthPrefixed(Int16ub),
    header=Header,
    tag="kind",
    correlate="number",
    requests={1: Login, 2: Order, 3: Logout, 4: Beat},
    responses={0x81: Welcome, 0x82: Denied},
    states=STATES,
)


def run(strategy, check, chosen=QUICK):
    """Try a check on some examples; the same ones each time."""

    @chosen
    @given(strategy)
    def trial(conversation):
        check(conversation)

    trial()


def shortest(strategy, condition):
    """Find the simplest conversation of a kind."""
    return find(
        strategy,
        condition,
        settings=settings(
            max_examples=1_000, database=None, deadline=None, derandomize=True
        ),
    )


def names(conversation):
    return [type(step.message).__name__ for step in conversation]


def test_they_follow_the_table():
    """Two sessions, joined, accept every step of each."""

    def check(conversation):
        sides = {
            Direction.REQUEST: Session(shop, Role.CLIENT),
            Direction.RESPONSE: Session(shop, Role.SERVER),
        }
        for step in conversation:
            sender = sides[step.direction]
            receiver = next(s for s in sides.values() if s is not sender)
            sender.send(step.message, header=step.header)
            for data in sender.data_to_send():
                receiver.receive_data(data)
            event = receiver.next_event()
            assert step.message == event.message
            assert step.frame == event.frame.data
        assert 1 <= len(conversation) <= 8

    run(conversations(shop), check)


def test_answers_have_the_key_of_their_request():
    """Who finds answers by their key finds these."""

    def check(conversation):
        number = None
        for step in conversation:
            if isinstance(step.message, Login):
                number = step.header.number
            elif step.direction is Direction.RESPONSE:
                assert number == step.header.number

    run(conversations(shop), check)


@pytest.mark.parametrize(
    ("condition", "steps"),
    [
        (lambda talk: "Logout" in names(talk), ["Login", "Welcome", "Logout"]),
        (lambda talk: names(talk).count("Login") == 2, ["Login", "Denied", "Login"]),
        (lambda talk: "Beat" in names(talk), ["Beat"]),
    ],
)
def test_the_shortest_is_found(condition, steps):
    """What does not matter is dropped: steps, and values."""
    found = shortest(conversations(shop), condition)
    assert steps == names(found)
    orders = [step.message.item for step in found if isinstance(step.message, Order)]
    assert {*orders} <= {0}
    assert all(
        step.message.name == b"" for step in found[:1] if names(found)[0] == "Login"
    )


def test_ends():
    """Where the table has nothing more, only what is free is said."""

    def check(conversation):
        said = names(conversation)
        if "Logout" in said:
            assert {"Beat"} >= set(said[said.index("Logout") + 1 :])

    run(conversations(shop, most=20), check)


def test_without_a_table():
    """It is any requests."""

    def check(conversation):
        assert {Direction.REQUEST} == {step.direction for step in conversation}

    for protocol in (sensors, modbus, ntp):
        run(conversations(protocol, most=4), check, settings(QUICK, max_examples=6))
    found = shortest(conversations(modbus), lambda talk: len(set(names(talk))) == 2)
    assert 2 == len(found)


def test_session_dependent_fields():
    """Fields may depend on what earlier steps have agreed on."""

    class Hello(Message):
        width: int = wire(Int8ub)

    class Value(Message):
        data: bytes = wire(Bytes(this._.session.state.width))

    @attrs.define
    class State:
        width: int = 0

    protocol = Protocol(
        "agreed",
        framing=LengthPrefixed(Int16ub),
        header=Header,
        tag="kind",
        requests={1: Hello, 2: Value},
        states={"new": {Hello: "open"}, "open": {Hello: "open", Value: "open"}},
    )

    def session():
        made = Session(protocol, Role.CLIENT)
        made.state = State()
        return made

    def follow(session, step):
        if isinstance(step.message, Hello):
            session.state.width = step.message.width

    widths = set()

    def check(conversation):
        width = 0
        for step in conversation:
            if isinstance(step.message, Hello):
                width = step.message.width
            else:
                assert width == len(step.message.data)
                widths.add(width)

    run(conversations(protocol, session=session, follow=follow), check)
    assert len(widths) > 5


def test_phase_dependent_fields():
    """By itself a conversation keeps the phase."""

    class Step(Message):
        data: bytes = wire(
            Bytes(lambda this: 1 if this._.session.phase == "first" else 2)
        )

    protocol = Protocol(
        "phases",
        requests=Step,
        states={"first": {Step: "second"}, "second": {Step: "second"}},
    )

    def check(conversation):
        assert [1, 2, 2, 2][: len(conversation)] == [
            len(step.message.data) for step in conversation
        ]

    run(conversations(protocol, most=4), check)


def talk(client, conversation):
    """Say a client's part; give what was answered to it."""
    answers = []
    for step in conversation:
        try:
            answers.append(client.exchange(step.message, header=step.header))
        except (ErrorResponse, PeerTimeoutError, LocalProtocolError) as answer:
            answers.append(answer)
        except SessionClosedError:
            break
    return answers


@pytest.mark.parametrize(
    "app",
    [
        Service(sensors, Station()),
        Service(modbus, modbus_station.Station()),
        dns_server.app,
        ntp_server.app,
    ],
    ids=lambda app: app.protocol.name,
)
def test_servers_stand_them(app):
    """No conversation makes a route of the examples fail."""

    def check(conversation):
        with TestClient(app, timeout=0.2) as client:
            talk(client, conversation)

    run(conversations(app.protocol, most=4), check, settings(QUICK, max_examples=12))


def test_bugs_are_found():
    """A server that forgets something after the second reading is found out by two."""

    class Forgetful(Station):
        @route
        def reading(self, message: Reading):
            if message.device in self.last:
                return None
            return Station.reading(self, message)

    def fails(conversation):
        with TestClient(Service(sensors, Forgetful())) as client:
            return any(
                isinstance(answer, PeerTimeoutError)
                for answer in talk(client, conversation)
            )

    found = shortest(conversations(sensors), fails)
    assert [Reading(0), Reading(0)] == [step.message for step in found]


def test_wrong_use():
    """One line says what is wrong."""
    only_answers = Protocol("answers", responses=Order)
    with pytest.raises(DeclarationError, match="answers has no message to begin with"):
        conversations(only_answers)
    with pytest.raises(DeclarationError, match="expected 1 or more steps, found 0"):
        conversations(shop, most=0)
