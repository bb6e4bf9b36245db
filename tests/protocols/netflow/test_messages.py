"""
Single datagrams: sessions, what is shown of them, what is built.
"""

import io
import json
import struct

import attrs
import pytest
from typer.testing import CliRunner

from protocols.netflow import (
    IPFIX,
    Decoded,
    Header,
    Ipfix,
    IpfixSet,
    NetFlow5,
    ipfix,
    netflow,
)
from protoserve import (
    Direction,
    InvalidMessageError,
    MalformedMessageError,
    Role,
    Service,
    Session,
    route,
)
from protoserve.plain import to_plain
from protoserve.testing import TestClient
from tests.protocols.netflow import blocks
from tests.protocols.netflow.blocks import PORTS, parsed, ports, v9

ROWS = [{"sourceTransportPort": 1, "destinationTransportPort": 2}]


def contents(*datagrams):
    messages = list(parsed([("here", each) for each in datagrams]))
    return [each.content for message in messages for each in message.sets]


def test_records_are_shown():
    """Templates and records are plain values, which JSON takes."""
    sent = blocks.ipfix((2, PORTS.definition()), (256, ports((1, 2))))
    (message,) = parsed([("here", sent)])
    shown = json.loads(json.dumps(to_plain(message)))
    fields = {"sourceTransportPort": 2, "destinationTransportPort": 2}
    assert [
        {"id": 2, "length": 16, "content": [{"id": 256, "fields": fields}]},
        {"id": 256, "length": 8, "content": ROWS},
    ] == shown["sets"]


def test_unknown_data_is_bytes():
    """Data without its template, or without a session, is bytes."""
    sent = blocks.ipfix((256, ports((1, 2))))
    assert [ports((1, 2))] == contents(sent)
    both = blocks.ipfix((2, PORTS.definition()), (256, ports((1, 2))))
    message = netflow.parse(both, Direction.REQUEST).message
    assert ports((1, 2)) == message.sets[1].content
    assert not isinstance(message.sets[1].content, Decoded)


@pytest.mark.parametrize("content", [struct.pack(">HH", 256, 0), b"\0\2\0\0"])
def test_withdrawal(content):
    """A template that is taken back makes its data bytes again."""
    data = (256, ports((1, 2)))
    sent = [blocks.ipfix((2, PORTS.definition()), data, (2, content), data)]
    _, first, gone, second = contents(*sent)
    assert ROWS == first
    assert gone[0]["withdrawn"]
    assert ports((1, 2)) == second


def test_build_again():
    """What was parsed is built as it came, padding and all."""
    padded = PORTS.definition() + bytes(2)
    for sent in (
        blocks.ipfix((2, padded), (256, ports((1, 2)) + bytes(3))),
        v9((1, struct.pack(">HHHHHHH", 300, 4, 4, 1, 4, 8, 4) + bytes(2))),
    ):
        session = Session(netflow, Role.SERVER, stream=False)
        made = netflow.parse(sent, Direction.REQUEST, session=session)
        assert sent == netflow.build(
            made.message, Direction.REQUEST, header=made.header
        )


def test_a_bad_template_is_explained():
    """What is wrong with a set is said, and where it is."""
    sent = blocks.ipfix((2, struct.pack(">HHHH", 256, 1, 8, 0)))
    (error,) = parsed([("here", sent)])
    assert isinstance(error, MalformedMessageError)
    assert "template 256: field 0 has no length" in str(error)


def test_content_has_to_be_bytes():
    """A set of plain records is not built: it does not say its template."""
    message = Ipfix(sets=[IpfixSet(256, ROWS)])
    with pytest.raises(InvalidMessageError, match="expected bytes"):
        netflow.build(message, Direction.REQUEST, header=Header(IPFIX))


@attrs.define
class Own:
    templates: dict = attrs.field(factory=dict)


@pytest.mark.parametrize("state", [Own, object])
def test_a_state_of_ones_own(state):
    """A handler's own state keeps the templates if it has a place for them."""
    session = Session(netflow, Role.SERVER, stream=False)
    session.state = state()
    sent = blocks.ipfix((2, PORTS.definition()), (256, ports((1, 2))))
    message = netflow.parse(sent, Direction.REQUEST, session=session).message
    assert isinstance(message.sets[1].content, Decoded) == (state is Own)


def test_routes():
    """A handler's routes get the messages of all versions, records decoded."""
    seen = []

    class Handler:
        @route
        def flows(self, message: Ipfix | NetFlow5) -> None:
            seen.append(message)

    sent = Ipfix(sets=[IpfixSet(2, PORTS.definition()), IpfixSet(256, ports((1, 2)))])
    with TestClient(Service(netflow, Handler()), transport="datagram") as client:
        client.send(sent, header=Header(IPFIX))
        client.send(NetFlow5(), header=Header(5))
    assert ROWS == seen[0].sets[1].content
    assert NetFlow5() == seen[1]


def test_ipfix_over_a_stream():
    """Messages of IPFIX follow each other on a stream."""
    sent = blocks.ipfix((2, PORTS.definition())) + blocks.ipfix((256, ports((1, 2))))
    session = Session(ipfix, Role.SERVER)
    session.receive_data(sent[:30])
    session.receive_data(sent[30:])
    session.next_event()
    assert ROWS == session.next_event().message.sets[0].content


def test_decode_command(tmp_path):
    """``protoserve decode`` shows records by their names."""
    app = pytest.importorskip("protoserve.cli.commands").app
    sent = blocks.ipfix((2, PORTS.definition()), (256, ports((1, 2))))
    done = CliRunner().invoke(app, ["decode", "protocols.netflow:netflow", sent.hex()])
    assert 0 == done.exit_code, done.output
    assert "destinationTransportPort=2" in io.StringIO(done.output).read()
