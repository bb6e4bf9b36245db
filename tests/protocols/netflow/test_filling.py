"""
Zeros behind the sets of version 9, as some firewalls send them.
"""

import pytest

from protocols.netflow import netflow
from protocols.netflow.tabulator import NetFlowTabulator
from protoserve import Role, Session
from protoserve.events import MessageReceived
from tests.protocols.netflow.blocks import (
    PORTS,
    Exporters,
    ipfix,
    ports,
    rows,
    v9,
)

DEFINED = v9((0, PORTS.definition()))
FLOWS = v9((256, ports((80, 1024), (0, 0))))
"""Flows that end in zeros themselves."""


def messages(*datagrams):
    """Receive datagrams: messages, and what is wrong with others."""
    session = Session(netflow, Role.SERVER, stream=False)
    for datagram in datagrams:
        session.receive_data(datagram)
        event = session.next_event()
        yield event.message if isinstance(event, MessageReceived) else event.error


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 300])
def test_zeros(size):
    """What fills a datagram up is no part of it, in both ways to decode."""
    filled = [each + bytes(size) for each in (DEFINED, FLOWS)]
    found = NetFlowTabulator().tables(Exporters().block(filled, gap=3))
    assert not found.refused
    columns = ["sourceTransportPort", "destinationTransportPort"]
    expected = [dict(zip(columns, pair, strict=True)) for pair in ((80, 1024), (0, 0))]
    assert rows(found, columns=columns) == expected
    assert list(messages(*filled)) == list(messages(DEFINED, FLOWS))


@pytest.mark.parametrize("rest", [b"\0\1", bytes(7) + b"\1", b"\0\0\0\3"])
def test_others(rest):
    """Anything else is refused as before, in both ways."""
    block = Exporters().block([DEFINED + bytes(4), FLOWS + rest])
    assert [each.index for each in NetFlowTabulator().tables(block).refused] == [1]
    assert "NetFlow9.sets[1]" in str(list(messages(DEFINED, FLOWS + rest))[1])


def test_ipfix():
    """A message of IPFIX says how long it is, and nothing follows it."""
    data = ipfix((2, PORTS.definition())) + bytes(8)
    found = NetFlowTabulator().tables(Exporters().block([data]))
    assert [each.reason for each in found.refused] == ["malformed"]
