"""
What the tests of NetFlow share: datagrams as the blocks that a tabulator takes.
"""

import numpy as np
import pyarrow as pa

from protocols.netflow import (
    IPFIX,
    V9,
    Header,
    Ipfix,
    IpfixSet,
    NetFlow9,
    NetFlow9Set,
    Template,
    netflow,
)
from protoserve import Direction, Peer, ProtocolError, Role, Session
from protoserve.captures import CaptureFile
from protoserve.captures.links import Links
from protoserve.telemetry.tables import Frames

START = 1_767_225_600.0
"""When the first datagram comes: seconds since 1970."""


class Exporters:
    """The senders of blocks, each the same object always."""

    def __init__(self, transport="udp"):
        self.peers, self.places, self.transport = [], {}, transport

    def place(self, host, port=40_000):
        if (host, port) not in self.places:
            self.places[host, port] = len(self.peers)
            self.peers.append(Peer(self.transport, (host, port)))
        return self.places[host, port]

    def block(self, datagrams, at=START, hosts="192.0.2.1", gap=0):
        """Make a block; `hosts` may be one for all, or one for each."""
        if isinstance(hosts, str):
            hosts = [hosts] * len(datagrams)
        # As in a receiver's block, there are other bytes between them.
        gaps = b"\xee" * gap
        lengths = np.array([len(each) for each in datagrams], np.int64)
        return Frames(
            np.frombuffer(b"".join(each + gaps for each in datagrams), np.uint8),
            np.cumsum(lengths + gap) - lengths - gap,
            lengths,
            np.full(len(datagrams), int(at * 1e9), np.int64),
            np.array([self.place(host) for host in hosts], np.int64),
            self.peers,
        )


def ipfix(*sets, domain=0, sequence=0, at=START):
    """Make a datagram of IPFIX of pairs of id and content."""
    made = [IpfixSet(*each) for each in sets]
    message = Ipfix(int(at), sequence, domain, made)
    return netflow.build(message, Direction.REQUEST, header=Header(IPFIX))


def v9(*sets, domain=0, sequence=0, at=START):
    """Make a datagram of version 9 of pairs of id and content."""
    made = [NetFlow9Set(*each) for each in sets]
    message = NetFlow9(len(sets), 60_000, int(at), sequence, domain, made)
    return netflow.build(message, Direction.REQUEST, header=Header(V9))


PORTS = Template.of(256, [(7, 2), (11, 2)])
"""A small template."""


def ports(*pairs, template=PORTS):
    """Make records of it."""
    rows = [{"sourceTransportPort": a, "destinationTransportPort": b} for a, b in pairs]
    return template.encode(rows)


def rows(tables, name="flows", columns=None):
    """Give the rows of a table, without what its datagrams say."""
    table = tables.tables.get(name)
    if table is None:
        return []
    return [plain(row) for row in as_rows(table.select(columns or table.column_names))]


def as_rows(table):
    """Make plain values; moments are whole numbers in their unit."""
    columns = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.int64())
        columns[name] = column.to_pylist()
    return [
        dict(zip(columns, each, strict=True))
        for each in zip(*columns.values(), strict=True)
    ]


def plain(row):
    return {key: value for key, value in row.items() if value is not None}


def captured(path):
    """Give the datagrams of a capture, as segments."""
    links = Links()
    with path.open("rb") as file:
        for packet in CaptureFile(file, path.name):
            segment = links.segment(packet)
            if segment is not None and segment.transport == "udp":
                yield segment


def parsed(datagrams, sessions=None):
    """Parse datagrams one by one, each host's in a session: messages, or errors."""
    sessions = {} if sessions is None else sessions
    for host, datagram in datagrams:
        if host not in sessions:
            sessions[host] = Session(netflow, Role.SERVER, stream=False)
        try:
            yield netflow.parse(
                datagram, Direction.REQUEST, session=sessions[host]
            ).message
        except ProtocolError as exc:
            yield exc
