"""
Simulated servers: what they answer, generated or scripted, and what faults do to it.
"""

import random
import re
import tempfile
import textwrap
import threading
from pathlib import Path

import pytest
from construct import Int8ub, Int16ub

from protocols import dns, modbus, ntp
from protoserve import (
    DeclarationError,
    Direction,
    LengthPrefixed,
    Message,
    Protocol,
    Request,
    wire,
)
from protoserve.client import Client
from protoserve.errors import ErrorResponse, PeerTimeoutError
from protoserve.testing import simulated
from protoserve.testing._answers import Answers
from protoserve.testing.scripts import ScriptError, load_rules
from tests.service.kit import PATIENCE
from tests.testing.faulty import Ack, Fetch, Header, Nak, Reading, Samples, Tick, plain


@pytest.fixture
def script(tmp_path):
    """
    Give a function that writes a script, and gives its path.
    """

    def write(text, name="script.yaml"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    return write


def asked(protocol, *requests, **options):
    """
    Give the answers of a simulator, asked one after the other.
    """
    with (
        simulated(protocol, **options) as simulator,
        Client(protocol, simulator.url, timeout=PATIENCE) as client,
    ):
        return [client.call(request) for request in requests]


# Generated answers -----------------------------------------------------------------


@pytest.mark.parametrize("protocol", [modbus.modbus, dns.dns, ntp.ntp, plain])
def test_every_answer_is_valid(protocol):
    """Every request has valid answers, quickly, whatever the request."""
    answers = Answers(protocol)
    for cls in protocol.table(Direction.REQUEST).values():
        for answer in answers.classes(cls) + answers.classes(cls, errors=True):
            for seed in range(5):
                made = answers.answer(answer, random.Random(seed), None)
                header = answers.header(answer)
                frame = protocol.build(made, Direction.RESPONSE, header=header)
                again = protocol.parse(frame, Direction.RESPONSE)
                assert type(again.message) is answer


def test_what_the_request_says_is_believed():
    """Fields of the same name and kind are the request's, and so is the key."""
    ack, written, mask = (
        asked(plain, Reading(99))[0],
        asked(modbus.modbus, modbus.WriteMultipleRegisters(5, [1, 2, 3]))[0],
        asked(modbus.modbus, modbus.MaskWriteRegister(4, 0xF2, 0x25))[0],
    )
    assert ack.device == 99
    assert modbus.RegistersWritten(5, 3) == written
    assert modbus.RegisterMasked(4, 0xF2, 0x25) == mask


def test_as_many_as_asked_for():
    """A list has as many elements as the request counts, where that is valid."""
    requests = (
        modbus.ReadHoldingRegisters(0, 17),
        modbus.ReadWriteMultipleRegisters(1, 4, 2, [1, 2]),
        modbus.ReadCoils(0, 9),
    )
    registers, exchanged, coils = asked(modbus.modbus, *requests)
    assert (17, 4, 16) == (
        len(registers.values),
        len(exchanged.values),
        len(coils.values),
    )
    assert [5] == [len(asked(plain, Fetch(5))[0].samples)]


def test_the_question_comes_back():
    """A DNS answer has the question, and the key that is in the header."""
    query = dns.Query([dns.Question("www.example.test", dns.RRType.AAAA)])
    (answer,) = asked(dns.dns, query, listen="udp://127.0.0.1:0")
    assert query.questions == answer.questions


def test_a_key_that_a_function_works_out():
    """An NTP answer is tied to its request by the time that the client sent."""
    (answer,) = asked(ntp.ntp, ntp.ClientRequest(transmit_timestamp=12345))
    assert answer.origin_timestamp == 12345


def test_the_same_seed():
    """The same seed gives the same answers, to each who asks; another one others."""
    requests = [modbus.ReadInputRegisters(n, 8) for n in range(5)]
    first = asked(modbus.modbus, *requests, seed=1)
    assert first == asked(modbus.modbus, *requests, seed=1)
    assert first != asked(modbus.modbus, *requests, seed=2)
    assert len({tuple(answer.values) for answer in first}) > 1
    with simulated(modbus.modbus, seed=1) as simulator:
        for _ in range(2):
            with Client(modbus.modbus, simulator.url) as client:
                assert first == [client.call(request) for request in requests]


def test_many_answers_a_second():
    """Answers take no time to speak of."""
    with (
        simulated(modbus.modbus) as simulator,
        Client(modbus.modbus, simulator.url) as client,
    ):
        requests = [modbus.ReadInputRegisters(n, 8) for n in range(500)]
        assert 500 == len(list(client.call_many(requests)))
        assert simulator.answered["ReadInputRegisters"] == 500


def test_no_errors_unless_asked():
    """Declared errors come as often as asked for, and not otherwise."""
    requests = [modbus.ReadCoils(0, 1)] * 40
    assert {modbus.Coils} == {type(a) for a in asked(modbus.modbus, *requests)}
    refused = 0
    with (
        simulated(modbus.modbus, errors=0.5, seed=3) as simulator,
        Client(modbus.modbus, simulator.url) as client,
    ):
        for request in requests:
            try:
                client.call(request)
            except ErrorResponse as exc:
                assert isinstance(exc.response, modbus.ModbusException)
                refused += 1
    assert 10 <= refused <= 30


def test_what_needs_no_answer():
    """Messages that are not requests get no answer, and do no harm."""
    with simulated(plain) as simulator, Client(plain, simulator.url) as client:
        client.send(Tick(1))
        assert client.call(Reading(3)).device == 3


class Hello(Message):
    version: int = wire(Int8ub, default=1)


class Welcome(Message):
    version: int = wire(Int8ub)


class Refused(Message, error=True):
    reason: int = wire(Int8ub)


class Get(Request["Value | Refused"]):
    key: int = wire(Int8ub)


class Value(Message):
    key: int = wire(Int8ub)


class Kind(Message):
    kind: int = wire(Int8ub)
    sequence: int = wire(Int16ub, default=0)


class Look(Request[Value | Welcome]):
    pass


stateful = Protocol(
    "stateful",
    framing=LengthPrefixed(Int8ub),
    header=Kind,
    tag="kind",
    correlate="sequence",
    requests={1: Hello, 2: Look},
    responses={1: Welcome, 3: Value, 4: Refused},
    states={
        "new": {Hello: "greeted"},
        "greeted": {Welcome: "ready"},
        "ready": {Look: "ready", Value: "ready"},
    },
)


def test_states():
    """What is answered is legal in the conversation's state."""
    with (
        simulated(stateful) as simulator,
        Client(stateful, simulator.url) as client,
    ):
        client.send(Hello(5))
        assert Welcome(5) == client.receive()
        for _ in range(20):
            assert isinstance(client.call(Look()), Value)


def test_requests_that_promise_nothing():
    """A plain message is answered by the response with its tag, or the only one."""
    tables = {"requests": {1: Hello}, "responses": {1: Welcome, 3: Value}}
    by_tag = Protocol("by_tag", header=Kind, tag="kind", **tables)
    assert (Welcome,) == Answers(by_tag).classes(Hello)
    lone = Protocol("lone", requests=Hello, responses=Welcome)
    assert (Welcome,) == Answers(lone).classes(Hello)
    several = Protocol(
        "several",
        header=Kind,
        tag="kind",
        requests={1: Hello},
        responses={2: Welcome, 3: Value},
    )
    assert () == Answers(several).classes(Hello)


def test_answers_by_name():
    """What a request promises may be named before it is defined."""
    protocol = Protocol(
        "named",
        header=Kind,
        tag="kind",
        requests={1: Look, 2: Reading},
        responses={1: Welcome, 3: Value, 4: Ack, 5: Nak},
    )
    assert (Value, Welcome) == Answers(protocol).classes(Look)
    assert (Ack,) == Answers(protocol).classes(Reading)
    assert (Nak,) == Answers(protocol).classes(Reading, errors=True)


def test_nothing_to_answer():
    """A protocol without requests, or without the errors wanted, is refused."""
    with pytest.raises(DeclarationError, match="one_way has no requests to answer"):
        asked(Protocol("one_way", responses=Welcome))
    with pytest.raises(DeclarationError, match="dns declares no errors"):
        asked(dns.dns, errors=0.5)


# Scripts ---------------------------------------------------------------------------


def test_rules(script):
    """The first rule that fits decides; what none fits is generated."""
    path = script(
        """
        rules:
          - when: {message: ReadHoldingRegisters, address: 0}
            answer: {message: HoldingRegisters, values: [1, 2, 3]}
          - when: {message: ReadHoldingRegisters, header: {unit: 9}}
            answer: {fields: {values: [9]}}
          - when: ReadHoldingRegisters
            answers:
              - values: [10]
              - {message: ModbusException, code: SERVER_DEVICE_BUSY}
              - values: [20]
          - when: ReadInputRegisters
            error: {code: ILLEGAL_DATA_ADDRESS}
          - when: {message: ReadDiscreteInputs}
            nothing: true
        """
    )
    read = modbus.ReadHoldingRegisters
    with (
        simulated(modbus.modbus, script=path) as simulator,
        Client(modbus.modbus, simulator.url, timeout=PATIENCE) as client,
    ):
        assert [1, 2, 3] == client.call(read(0, 3)).values
        assert [10] == client.call(read(1, 1)).values
        with pytest.raises(ErrorResponse) as caught:
            client.call(read(1, 1))
        assert caught.value.response.code is modbus.ExceptionCode.SERVER_DEVICE_BUSY
        assert [20] == client.call(read(1, 1)).values
        assert [20] == client.call(read(2, 1)).values
        with pytest.raises(ErrorResponse) as caught:
            client.call(modbus.ReadInputRegisters(1, 1))
        assert caught.value.response.code is modbus.ExceptionCode.ILLEGAL_DATA_ADDRESS
        with pytest.raises(PeerTimeoutError):
            client.call(modbus.ReadDiscreteInputs(1, 1), timeout=0.2)
        assert modbus.CoilWritten(5, True) == client.call(
            modbus.WriteSingleCoil(5, True)
        )


def test_page():
    """The script on the page is one."""
    page = (Path(__file__).parents[2] / "docs" / "simulate.md").read_text("utf-8")
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.yaml"
        path.write_text(text)
        rules = load_rules(path, modbus.modbus)
    assert 4 == len(rules)
    found = [rules[2].next_reply() for _ in range(5)]
    assert modbus.ModbusException is found[1].cls
    assert [10] == found[0].fields["values"]
    assert found[2] is None
    assert found[3] is found[4]


def test_nested_values(script):
    """Conditions and values reach into nested messages and the header."""
    path = script(
        """
        - when: {message: Query, questions.0.name: gone.example.test}
          answer: {header: {rcode: NXDOMAIN}}
        - when: {message: Query, questions: [{type: mx}]}
          answer:
            header: {authoritative: true}
            answers:
              - name: example.test
                type: MX
                ttl: 60
                rdata: {preference: 10, exchange: mail.example.test}
        - when: {message: Query, questions.0.type: 28}
          nothing: true
        """
    )
    with (
        simulated(dns.dns, script=path, listen="udp://127.0.0.1:0") as simulator,
        Client(dns.dns, simulator.url, timeout=PATIENCE) as client,
    ):

        def ask(name, kind):
            client.send(dns.Query([dns.Question(name, kind)]))
            return client.receive()

        assert [] == ask("gone.example.test", dns.RRType.A).answers
        answer = ask("www.example.test", dns.RRType.MX)
        (record,) = answer.answers
        assert (
            dns.record("example.test", dns.MX(10, "mail.example.test"), ttl=60)
            == record
        )
        assert [dns.Question("www.example.test", dns.RRType.MX)] == answer.questions
        with pytest.raises(PeerTimeoutError):
            client.call(
                dns.Query([dns.Question("a.test", dns.RRType.AAAA)]), timeout=0.2
            )


def test_answers_after_a_while(script):
    """An answer may come late, and others are not held up by it."""
    path = script(
        """
        - when: {message: Reading, device: 1}
          after: 700ms±10
        """
    )
    order = []
    with simulated(plain, script=path) as simulator:

        def ask(device):
            with Client(plain, simulator.url, timeout=PATIENCE) as client:
                order.append(client.call(Reading(device)).device)

        late = threading.Thread(target=ask, args=(1,))
        other = threading.Thread(target=ask, args=(2,))
        late.start()
        other.start()
        late.join()
        other.join()
    assert [2, 1] == order


def test_pushes(script):
    """Messages are pushed on connecting, and after a request; as often as told."""
    path = script(
        """
        - when: connected
          push: {message: Tick, number: 7, every: 5ms, times: 2}
        - when: {message: Reading}
          push:
            - {message: Tick, number: 8, every: 5ms}
        """
    )
    with (
        simulated(plain, script=path) as simulator,
        Client(plain, simulator.url, timeout=PATIENCE) as client,
    ):
        assert [Tick(7), Tick(7)] == [client.receive(), client.receive()]
        client.send(Reading(3))
        came = [client.receive() for _ in range(4)]
        assert 3 == next(m for m in came if isinstance(m, Ack)).device
        assert [Tick(8)] * 3 == [m for m in came if isinstance(m, Tick)]


def test_a_push_is_begun_once(script):
    """A request that comes again does not begin what it has begun already."""
    path = script(
        """
        - when: {message: Reading}
          push: {message: Tick, number: 8, every: 200ms, times: 2}
        """
    )
    with (
        simulated(plain, script=path) as simulator,
        Client(plain, simulator.url, timeout=PATIENCE) as client,
    ):
        for _ in range(5):
            client.send(Reading(3))
        came = [client.receive() for _ in range(7)]
        assert [Tick(8)] * 2 == [m for m in came if isinstance(m, Tick)]
        with pytest.raises(PeerTimeoutError):
            client.receive(timeout=0.5)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("- {", "line 1: expected the node content"),
        ("", "expected a list of rules under rules:"),
        ("rules: 3", "expected a list of rules under rules:"),
        ("- 3", "rule 1: a rule: expected names with values, found 3"),
        ("- {wen: Reading}", "rule 1: there is no 'wen' in a rule; did you mean when?"),
        ("- {answer: Ack}", "rule 1: it has no when"),
        ("- when: Readingz", "there is no request 'Readingz'; did you mean Reading?"),
        (
            "- when: {device: 1}",
            "when: expected message: with one of Reading, Fetch, Tick",
        ),
        ("- when: {message: Reading, device: -1}", "when: Reading.device: expected"),
        ("- when: {message: Reading, device: x}", "when: Reading.device: expected"),
        ("- when: {message: Reading, header: {unit: 900}}", "when: Header.unit: exp"),
        ("- when: {message: Reading, devise: 1}", "Reading has no field 'devise'; did"),
        (
            "- when: {message: Reading, header: {units: 1}}",
            "Header has no field 'units'; did you mean unit?",
        ),
        (
            "- {when: Reading, answer: Akk}",
            "answer: there is no response 'Akk'; did you",
        ),
        (
            "- {when: Reading, answer: {devise: 1}}",
            "expected a field of Ack (device, unit)",
        ),
        ("- {when: Reading, answer: {device: x}}", "answer: Ack.device: expected"),
        ("- {when: Reading, answer: {device: -1}}", "Ack.device"),
        ("- {when: Reading, answers: []}", "answers: expected a list, found []"),
        (
            "- {when: Reading, answer: {}, nothing: true}",
            "it has both answer and nothing",
        ),
        ("- {when: Reading, nothing: 3}", "nothing: expected true, found 3"),
        ("- {when: Reading, after: soon}", "after: expected a time such as 50ms"),
        ("- {when: Tick, answer: {}}", "answer: expected message: with one of Ack"),
        ("- {when: connected, answer: Ack}", "there is only push"),
        ("- {when: connected, push: Tick}", "push: expected names with values"),
        ("- {when: connected, push: {message: Tick}}", "push: it has no every"),
        (
            "- {when: connected, push: {message: Tick, every: 0ms}}",
            "expected 1ms or more",
        ),
        (
            "- {when: connected, push: {message: Tick, every: 1s, times: 0}}",
            "times: expected a number above 0, found 0",
        ),
    ],
)
def test_wrong_rules(script, text, complaint):
    """A script that makes no sense is refused, with the rule and what was meant."""
    with pytest.raises(ScriptError) as caught:
        load_rules(script(text), plain)
    assert complaint in str(caught.value)
    assert "script.yaml" in str(caught.value)


def test_python_routes(script):
    """Routes in a file answer; what they have no route for is generated."""
    path = script(
        """
        from __future__ import annotations
        from construct import this  # has every attribute, that of routes too
        from protoserve import route
        from tests.testing.faulty import Ack, Header, Reading

        @route
        def reading(message: Reading, header: Header) -> Ack:
            return Ack(message.device + 1, header.unit)
        """,
        "routes.py",
    )
    ack, samples = asked(plain, Reading(4), Fetch(3), script=path)
    assert Ack(5, 1) == ack
    assert 3 == len(samples.samples)


@pytest.mark.parametrize("ending", ["", "handler = Station(10)", "handler = Station"])
def test_python_handler(script, ending):
    """A class with routes, or an instance of one, is the handler."""
    path = script(
        """
        import attrs
        from protoserve import route
        from tests.testing.faulty import Ack, Reading

        @attrs.define
        class Station:
            plus: int = 1

            @route
            async def reading(self, message: Reading) -> Ack:
                return Ack(message.device + self.plus)

        """,
        "handler.py",
    )
    path.write_text(path.read_text() + ending)
    expected = 14 if "10" in ending else 5
    assert expected == asked(plain, Reading(4), script=path)[0].device


ROUTE = """
from protoserve import route
from tests.testing.faulty import Ack, Reading
class A:
    @route
    def reading(self, message: Reading) -> Ack:
        return Ack(1)
"""


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x = 1", "it has no class or function with @route"),
        ("1/0", "it cannot be imported: ZeroDivisionError: division by zero"),
        (f"{ROUTE}\nclass B(A): pass", "which is it, of A, B? Name it handler = …"),
        (f"{ROUTE}\n    def __init__(self, x): pass", "write handler = A(…)"),
        (ROUTE.replace("-> Ack", "-> Reading"), "reading(): it returns Reading"),
    ],
)
def test_wrong_python(script, text, complaint):
    """A Python script without a handler that fits is refused."""
    with pytest.raises(DeclarationError) as caught:
        asked(plain, script=script(text, "x.py"))
    assert complaint.replace("reading() ", "") in str(caught.value).replace(
        "it ", "", 0
    )


def test_missing_script(tmp_path):
    """A script that is not there is told as such."""
    for name in ("no.yaml", "no.py"):
        with pytest.raises(ScriptError, match=r"no\.\w+: No such file or directory"):
            asked(plain, script=tmp_path / name)


# With faults -----------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["tcp", "udp", "unix", "unixgram"])
def test_faults(transport, tmp_path):
    """Faults happen to the answers, at every kind of address."""
    listen = f"{transport}://" + (
        f"{tmp_path}/s" if transport.startswith("unix") else "127.0.0.1:0"
    )
    with (
        simulated(plain, "duplicate@Ack", "delay=5ms", listen=listen) as simulator,
        Client(plain, simulator.url, timeout=PATIENCE) as client,
    ):
        client.send(Reading(7))
        first, second = client.receive(), client.receive()
        assert first == second
        assert first.device == 7
        assert {"duplicate": 1, "delay": 1} == dict(simulator.counts)


def test_streams_and_datagrams_at_once():
    """Several addresses of both kinds may be listened at, each with its faults."""
    listen = ["tcp://127.0.0.1:0", "udp://127.0.0.1:0"]
    with simulated(plain, "drop@Ack", listen=listen) as simulator:
        for url in simulator.urls:
            with Client(plain, url, timeout=0.1) as client:
                with pytest.raises(PeerTimeoutError):
                    client.call(Reading(7))
                assert isinstance(client.call(Fetch(1), timeout=PATIENCE), Samples)
    assert simulator.counts["drop"] >= 2


def test_the_header_of_an_answer():
    """The answer's header is the request's, with the answer's tag."""
    header = Answers(plain).header(Samples, Header(kind=2, unit=9, sequence=77))
    assert Header(kind=2, unit=9, sequence=77) == header
