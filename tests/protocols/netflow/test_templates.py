"""
Templates: what applies to which data, and what is refused.
"""

import struct

import pytest

from protocols.netflow import IPFIX, V9, VARIABLE, Field, Template
from protocols.netflow.held import HeldLimits
from protocols.netflow.tabulator import NetFlowTabulator
from tests.protocols.netflow.blocks import (
    PORTS,
    START,
    Exporters,
    ipfix,
    parsed,
    ports,
    rows,
    v9,
)

OTHER = Template.of(256, [(11, 2), (7, 2)])
PORT = "sourceTransportPort"


@pytest.fixture
def senders():
    return Exporters()


@pytest.fixture
def tabulator():
    return NetFlowTabulator()


def first_ports(tables):
    return [row[PORT] for row in rows(tables, columns=[PORT])]


def test_order_in_a_datagram(tabulator, senders):
    """A template that changes applies to what comes behind it, and not before."""
    sent = ipfix(
        (2, PORTS.definition()),
        (256, ports((1, 2))),
        (2, OTHER.definition()),
        (256, ports((1, 2))),
    )
    tables = tabulator.tables(senders.block([sent, ipfix((256, ports((5, 6))))]))
    assert [1, 2, 6] == sorted(first_ports(tables))


def test_exporters_and_domains_are_apart(tabulator, senders):
    """The same id means something else for another exporter, domain and version."""
    plain = Template.of(256, [(7, 2), (11, 2)], version=V9)
    sent = [
        ipfix((2, PORTS.definition())),
        ipfix((2, OTHER.definition())),
        ipfix((2, OTHER.definition()), domain=1),
        v9((0, plain.definition())),
    ]
    hosts = ["192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.2"]
    tabulator.tables(senders.block(sent, hosts=hosts))
    data = [(256, ports((1, 2)))]
    sent = [ipfix(*data), ipfix(*data), ipfix(*data, domain=1), v9(*data)]
    tables = tabulator.tables(senders.block(sent, hosts=hosts))
    found = {
        (row["exporter"], row["version"], row.get("observationDomainId")): row[PORT]
        for row in rows(tables)
    }
    assert {
        ("192.0.2.1", 10, 0): 1,
        ("192.0.2.2", 10, 0): 2,
        ("192.0.2.1", 10, 1): 2,
        ("192.0.2.2", 9, None): 1,
    } == found


@pytest.mark.parametrize("withdrawal", [(256, 0), (2, 0)])
def test_withdrawal(withdrawal, tabulator, senders):
    """A template that is taken back, alone or with all others, applies no more."""
    sent = [
        ipfix((2, PORTS.definition())),
        ipfix((256, ports((1, 2)))),
        ipfix((2, struct.pack(">HH", *withdrawal))),
        ipfix((256, ports((3, 4)))),
    ]
    tables = tabulator.tables(senders.block(sent))
    assert [1] == first_ports(tables)
    assert 1 == tables.held


def test_options(tabulator, senders):
    """What options templates describe is in a table of its own, scopes by name."""
    sampling = Template.of(257, [(1, 4), (34, 4), (35, 1)], version=V9, scopes=1)
    row = {"scope_system": 7, "samplingInterval": 100, "samplingAlgorithm": 1}
    sent = v9((1, sampling.definition()), (257, sampling.encode([row])))
    tables = tabulator.tables(senders.block([sent]))
    assert [row] == rows(tables, "options", list(row))
    assert {"options"} == set(tables.tables)


def test_variable_length(tabulator, senders):
    """A field may say its own length, in one byte or in three."""
    template = Template.of(256, [(7, 2), (82, VARIABLE), Field(1, VARIABLE, 4242)])
    values = [(1, "eth0", b""), (2, "x" * 254, b"a" * 255), (3, "y" * 400, b"b")]
    made = [dict(zip(template.names, each, strict=True)) for each in values]
    sent = ipfix((2, template.definition()), (256, template.encode(made)))
    tables = tabulator.tables(senders.block([sent]))
    assert made == rows(tables, columns=list(template.names))


def test_reduced_size(tabulator, senders):
    """Integers may be shorter than their type, and the column is as wide as ever."""
    template = Template.of(256, [(1, 3), (434, 2), (2, 8)])
    found = []
    for set_of in (template, Template.of(256, [(1, 8), (434, 4), (2, 1)])):
        row = {"octetDeltaCount": 200, "mibObjectValueInteger": -2}
        row["packetDeltaCount"] = 3
        sent = ipfix((2, set_of.definition()), (256, set_of.encode([row])))
        tables = tabulator.tables(senders.block([sent]))
        assert [row] == rows(tables, columns=list(row))
        found.append(tables.tables["flows"].schema)
    assert found[0].field("octetDeltaCount") == found[1].field("octetDeltaCount")


def test_too_long(tabulator, senders):
    """A field longer than its type is null where it does not fit, bytes beyond 8."""
    template = Template.of(256, [(4, 4), (7, 16)])
    sent = [(256, bytes([0, 0, 0, 6]) + bytes(16)), (256, b"\1\0\0\6" + bytes(16))]
    sent = ipfix((2, template.definition()), *sent)
    found = tabulator.tables(senders.block([sent])).tables["flows"]
    assert [6, None] == found["protocolIdentifier"].to_pylist()
    assert [bytes(16)] * 2 == found["sourceTransportPort_bytes"].to_pylist()


def test_unknown_columns_are_limited(tabulator, senders):
    """Made-up elements become columns, but not any number of them."""
    names = set()
    for start in range(0, 2000, 100):
        fields = [Field(1 + start + i, 1, 4242) for i in range(100)]
        template = Template.of(256, [*fields, (7, 2)])
        sent = ipfix((2, template.definition()), (256, bytes(102)))
        names |= set(
            tabulator.tables(senders.block([sent])).tables["flows"].schema.names
        )
    made_up = {name for name in names if name.startswith("enterprise_4242_")}
    assert 256 == len(made_up)
    assert PORT in names


def specifiers(count, length=4):
    return struct.pack(">HH", 8, length) * count


HOSTILE = {
    "expected 1 to 512 fields, found 65535": struct.pack(">HH", 256, 65_535),
    "expected 1 to 512 fields, found 513": struct.pack(">HH", 256, 513)
    + specifiers(513),
    "field 1 has no length": struct.pack(">HH", 256, 2)
    + specifiers(1)
    + specifiers(1, 0),
    "found the set's end behind 1": struct.pack(">HH", 256, 2) + specifiers(1),
    "expected a template id from 256 on, found 255": struct.pack(">HH", 255, 1)
    + specifiers(1),
    "fit a datagram, found 130000": struct.pack(">HH", 256, 2) + specifiers(2, 65_000),
}


@pytest.mark.parametrize(("transport", "most"), [("udp", 5400), ("tcp", 10_000)])
def test_templates_over_connections(transport, most, tmp_path):
    """A template that came once holds as long as its exporter sends over a connection."""
    senders, tabulator = Exporters(transport), NetFlowTabulator(tmp_path)
    rare = Template.of(257, [(7, 2), (11, 2)])
    first = ipfix((2, PORTS.definition() + rare.definition()))
    tabulator.tables(senders.block([first], START))
    good = []
    for age in range(100, 10_001, 100):
        sent = ipfix((256 if age % 1000 else 257, ports((1, 2))))
        tables = tabulator.tables(senders.block([sent], START + age))
        tabulator.tick(START + age)
        if first_ports(tables):
            good.append(age)
        if age == 9000:  # and through a restart
            tabulator.close()
            tabulator = NetFlowTabulator(tmp_path)
            tabulator.tick(START + age + 50)
    assert list(range(100, most + 1, 100)) == good
    tabulator.close()


def test_scope_without_length(tabulator, senders):
    """Juniper's firewalls send a scope without bytes: it says nothing, all else is read."""
    options = Template.of(257, [(1, 0), (34, 4), (36, 2)], version=V9, scopes=1)
    flows = Template.of(256, [(7, 2), (11, 2)], version=V9)
    sent = v9(
        (0, flows.definition()),
        (1, options.definition()),
        (256, ports((1, 2))),
        (257, struct.pack(">IH", 1000, 60)),
    )
    (message,) = parsed([("here", sent)])
    assert {"samplingInterval": 1000, "flowActiveTimeout": 60} == (
        message.sets[3].content[0]
    )
    tables = tabulator.tables(senders.block([sent]))
    assert [] == tables.refused
    assert [1] == first_ports(tables)
    (found,) = rows(tables, "options", options.names)
    assert {"samplingInterval": 1000, "flowActiveTimeout": 60} == found


@pytest.mark.parametrize("why", HOSTILE)
def test_hostile_templates(why, tabulator, senders):
    """A bad template costs its own datagram, and no template that was good."""
    tabulator.tables(senders.block([ipfix((2, PORTS.definition()))]))
    good = ipfix((256, ports((1, 2))))
    redefined = OTHER.definition()
    sent = [good, ipfix((2, redefined + HOSTILE[why]), (256, ports((3, 4)))), good]
    tables = tabulator.tables(senders.block(sent))
    assert [1, 1] == first_ports(tables)
    (refused,) = tables.refused
    assert (1, "malformed") == (refused.index, refused.reason)
    assert why in str(refused.error)


@pytest.mark.parametrize(
    ("datagram", "why"),
    [
        (b"", "expected a version in 2 bytes, found 0"),
        (b"\0\7" + bytes(60), "expected version 5, 9 or 10, found 7"),
        (b"\0\x05\0\1" + bytes(20), "expected 1 flows of 48 bytes, found 0 bytes"),
        (b"\0\x09" + bytes(10), "expected a head of 20 bytes, found 12"),
        (b"\0\x0a\0\x11" + bytes(12), "expected a message of 17 bytes, found 16"),
        (b"\0\x0a\0\x14" + bytes(12) + b"\1\0\0\x05", "set's length"),
        (b"\0\x0a\0\x14" + bytes(12) + b"\1\0\0\x03", "set's length"),
        (b"\0\x0a\0\x12" + bytes(12) + b"\1\0", "head cut"),
        (b"\0\x09" + bytes(18) + b"\1\0\0\4" * 1025, "at most 1024 sets"),
    ],
)
def test_malformed(datagram, why, tabulator, senders):
    """What is no datagram of the three versions is refused in one clear line."""
    tables = tabulator.tables(senders.block([datagram]))
    assert {} == tables.tables
    (refused,) = tables.refused
    assert "malformed" == refused.reason
    assert why in refused.error


def test_held_until_the_template_comes(tabulator, senders):
    """Data before its template is held, and is in the tables when that has come."""
    sent = ipfix((256, ports((1, 2))), (257, ports((3, 4))))
    tables = tabulator.tables(senders.block([sent], at=START + 5))
    assert (1, 0, {}) == (tables.held, tables.released, tables.tables)
    tables = tabulator.tables(senders.block([ipfix((2, PORTS.definition()))]))
    assert ([1], 0) == (first_ports(tables), tables.released)
    last = Template.of(257, [(7, 2), (11, 2)]).definition()
    tables = tabulator.tables(senders.block([ipfix((2, last))]))
    assert ([3], 1, 0) == (first_ports(tables), tables.released, len(tabulator.held))
    (moment,) = tables.tables["flows"]["received_at"].cast("int64").to_pylist()
    assert int((START + 5) * 1e9) == moment


def test_template_in_the_same_block(tabulator, senders):
    """What is before its template in the same block has simply come."""
    sent = [ipfix((256, ports((1, 2)))), ipfix((2, PORTS.definition()))]
    tables = tabulator.tables(senders.block(sent))
    assert [1] == first_ports(tables)
    assert (0, 0) == (tables.held, tables.released)


def test_nothing_is_held_of_what_failed(tabulator, senders, monkeypatch):
    """Who tries a block again, for something has failed, does not bring rows twice."""
    tabulator.tables(senders.block([ipfix((2, PORTS.definition()))]))
    sent = [ipfix((257, ports((1, 2)))), ipfix((256, ports((3, 4))))]
    with monkeypatch.context() as patch:
        patch.setattr(tabulator._rows, "table", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tabulator.tables(senders.block(sent))
    assert (0, 0) == (tabulator.held.size, len(tabulator.held))
    assert 1 == tabulator.tables(senders.block(sent)).held
    last = Template.of(257, [(7, 2), (11, 2)]).definition()
    assert [1] == first_ports(tabulator.tables(senders.block([ipfix((2, last))])))


def test_what_was_held_fails(tabulator, senders, monkeypatch):
    """What has waited and then fails is given up, counted, and costs nothing else."""
    assert 1 == tabulator.tables(senders.block([ipfix((256, ports((1, 2))))])).held
    sent = [ipfix((256, ports((3, 4)))), ipfix((2, PORTS.definition()))]
    with monkeypatch.context() as patch:
        patch.setattr(tabulator._rows, "table", lambda *_: 1 / 0)
        tables = tabulator.tables(senders.block(sent))
    assert (0, 1, {}) == (tables.released, tables.expired, tables.tables)
    (refused,) = tables.refused
    assert (0, "malformed") == (refused.index, refused.reason)
    assert "ZeroDivisionError: division by zero" == refused.error
    assert (0, 0) == (tabulator.held.size, len(tabulator.held))


def test_held_in_vain(tabulator, senders):
    """What has waited for too long is given up, and counted."""
    sent = [ipfix((256, ports((1, 2))))] * 3
    assert 3 == tabulator.tables(senders.block(sent)).held
    assert 0 == tabulator.tick(START + 29).expired
    assert 3 == tabulator.tick(START + 31).expired
    assert 0 == tabulator.held.size == len(tabulator.held)
    tables = tabulator.tables(senders.block([ipfix((2, PORTS.definition()))]))
    assert (0, {}) == (tables.released, tables.tables)


@pytest.mark.parametrize("limits", [{"datagrams": 2}, {"size": 50}])
def test_no_room_to_hold(limits, senders):
    """Only so much is held; what is beyond it is refused for want of a template."""
    tabulator = NetFlowTabulator(held=HeldLimits(**limits))
    tables = tabulator.tables(senders.block([ipfix((256, ports((1, 2))))] * 5))
    found = [(each.index, each.reason) for each in tables.refused]
    assert [(2, "template"), (3, "template"), (4, "template")] == found
    assert 2 == tables.held


def test_held_data_that_is_malformed(tabulator, senders):
    """Held data that its template does not fit is given up."""
    template = Template.of(256, [(82, VARIABLE)])
    tabulator.tables(senders.block([ipfix((256, b"\x05abc"))]))
    tables = tabulator.tables(senders.block([ipfix((2, template.definition()))]))
    assert (0, 1, {}) == (tables.released, tables.expired, tables.tables)


def numbers(tables):
    return [
        row
        for each in tables.sequences
        for row in zip(
            (each.streams & 0xFFFFFFFF).tolist(),
            each.numbers.tolist(),
            each.steps.tolist(),
            strict=True,
        )
    ]


def test_sequences(tabulator, senders):
    """v9 counts datagrams by source, IPFIX records by domain, v5 flows by engine."""
    five = struct.pack(">HHIIIIBBH", 5, 2, 0, 0, 0, 77, 1, 2, 0) + bytes(96)
    sent = [
        five,
        v9(sequence=9, domain=4),
        ipfix(
            (2, PORTS.definition()), (256, ports((1, 2), (3, 4))), sequence=6, domain=3
        ),
    ]
    tables = tabulator.tables(senders.block(sent))
    assert [(0x102, 77, 2), (4, 9, 1), (3, 6, 2)] == numbers(tables)


def test_sequences_of_each_version(tabulator, senders):
    """Counters of one exporter and domain are other ones in each version."""
    five = struct.pack(">HHIIIIBBH", 5, 1, 0, 0, 0, 0, 0, 3, 0) + bytes(48)
    sent = [five, v9((0, PORTS.definition()), domain=3), ipfix(domain=3)]
    tables = tabulator.tables(senders.block(sent))
    assert 3 == len({each.streams.item() for each in tables.sequences})


def test_sequences_of_unknown_data(tabulator, senders):
    """Records that nobody can count reach to the next datagram: no gap is made up."""
    unknown = ipfix((256, ports((1, 2), (3, 4))), sequence=10)
    assert [] == numbers(tabulator.tables(senders.block([unknown])))
    known = ipfix((2, PORTS.definition()), (256, ports((5, 6))), sequence=12)
    tables = tabulator.tables(senders.block([known]))
    assert [(0, 10, 2), (0, 12, 1)] == numbers(tables)


def test_template_names():
    """A template tells what its records' values are called, twice the same apart."""
    template = Template.of(256, [(8, 4), (8, 4), Field(1, 4, 29_305), (210, 2)])
    expected = ("sourceIPv4Address", "sourceIPv4Address_2", "reverseOctetDeltaCount")
    assert expected == template.names
    assert IPFIX == template.version


def test_encode_needs_all_values():
    """A record that lacks a value, or has one that does not fit, is not made."""
    with pytest.raises(ValueError, match="template 256 needs destinationTransportPort"):
        PORTS.encode([{PORT: 1}])
    with pytest.raises(ValueError, match="sourceTransportPort: expected a unsigned16"):
        ports((70_000, 1))


def test_preface(tabulator, senders):
    """Who begins elsewhere learns all of an exporter's templates from the preface."""
    many = [Template.of(300 + i, [(1, 4)] * 99, version=V9) for i in range(9)]
    options = Template.of(400, [(1, 4), (34, 4)], version=V9, scopes=1)
    sent = [ipfix((2, PORTS.definition()), domain=7)]
    sent += [v9((0, each.definition())) for each in many]
    sent += [v9((1, options.definition()))]
    tabulator.tables(senders.block(sent))
    (peer,) = senders.peers
    preface = list(tabulator.preface(peer))
    assert max(map(len, preface)) < 1500
    other = NetFlowTabulator()
    assert [] == list(other.tables(senders.block(preface)).refused)
    first, second = (
        set(each.cache.known(peer.host, START)) for each in (tabulator, other)
    )
    assert 11 == len(first)
    assert first == second
