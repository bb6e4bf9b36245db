"""
Values of fields, elements, and what makes tables of them.
"""

import struct
import sys

import pytest

from protocols.netflow import Template, element, netflow
from protocols.netflow.elements import known_elements, scope
from protocols.netflow.tabulator import NetFlowTabulator
from protocols.netflow.templates import V9, VARIABLE, read_templates
from protocols.netflow.values import NTP_EPOCH, read, write
from protoserve import DeclarationError
from protoserve.telemetry.tabulate import tabulator_of
from tests.protocols.netflow.blocks import START, Exporters, as_rows, ipfix, v9

VALUES = [
    ("unsigned8", 200, 1),
    ("unsigned64", 70_000, 3),
    ("signed32", -5, 4),
    ("signed32", -5, 2),
    ("float32", 1.5, 4),
    ("float64", 0.1, 8),
    ("float64", 1.5, 4),
    ("boolean", True, 1),
    ("boolean", False, 1),
    ("string", "eth0", 16),
    ("octetArray", b"\1\2", 2),
    ("macAddress", "00:1b:21:aa:bb:cc", 6),
    ("ipv4Address", "192.0.2.1", 4),
    ("ipv6Address", "2001:db8::1", 16),
    ("dateTimeSeconds", 1_767_225_600, 4),
    ("dateTimeMilliseconds", 1_767_225_600_123, 8),
    ("dateTimeMicroseconds", 1_767_225_600_123_457, 8),
    ("dateTimeNanoseconds", 1_767_225_600_123_456_789, 8),
    ("dateTimeMicroseconds", 2_300_000_000_000_001, 8),
]


@pytest.mark.parametrize(("kind", "value", "length"), VALUES)
def test_there_and_back(kind, value, length):
    """What is written is read again."""
    data = write(kind, value, length)
    assert length == len(data)
    assert value == read(kind, data)


@pytest.mark.parametrize(
    ("kind", "per_second", "unused"),
    [("dateTimeMicroseconds", 10**6, 11), ("dateTimeNanoseconds", 10**9, 0)],
)
@pytest.mark.parametrize("part", [1, 123_457, 455_865, 999_999])
def test_moments_that_were_cut_off(kind, per_second, unused, part):
    """An exporter cuts off what its fraction has no room for, or leaves bits unused."""
    seconds = 1_767_225_600
    fraction = (part << 32) // per_second >> unused << unused
    data = struct.pack(">II", seconds + NTP_EPOCH, fraction)
    assert seconds * per_second + part == read(kind, data)


@pytest.mark.parametrize(
    ("kind", "value", "length"),
    [
        ("unsigned8", 256, 1),
        ("signed8", -129, 1),
        ("string", "abc", 2),
        ("octetArray", b"a" * 3, 2),
    ],
)
def test_what_does_not_fit(kind, value, length):
    """A value that does not fit its field is not written."""
    with pytest.raises(ValueError, match="expected"):
        write(kind, value, length)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("boolean", b"\3"),
        ("ipv4Address", b"abc"),
        ("unsigned8", b""),
        ("dateTimeMilliseconds", b"\xff" * 8),
    ],
)
def test_no_value(kind, data):
    """Bytes that are no value of a type are none."""
    assert None is read(kind, data)


def test_names_are_different():
    """No store takes two elements for one."""
    names = [each.name.casefold() for each in known_elements().values()]
    assert len(names) == len(set(names))
    assert "scope_9" == scope(9).name
    assert "element_9999" == element(0, 9999).name


@pytest.mark.parametrize("version", [V9, 10])
def test_definitions(version):
    """A template is read as it was written, options with their scopes."""
    for scopes in (None, 1):
        template = Template.of(300, [(1, 4), (8, 4)], version=version, scopes=scopes)
        number = (0 if version == V9 else 2) + (scopes is not None)
        assert [template] == read_templates(template.definition(), version, number)


def test_the_protocol_makes_tables():
    """A collector finds what makes the tables in the protocol."""
    made = tabulator_of(netflow)
    assert isinstance(made, NetFlowTabulator)
    made.close()


def test_without_pyarrow(monkeypatch):
    """What is missing for tables is said in one line."""
    monkeypatch.delitem(sys.modules, "protocols.netflow.tabulator")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "protocols.netflow.rows")
    with pytest.raises(DeclarationError, match=r"pyarrow.*protoserve\[arrow\]"):
        tabulator_of(netflow)


def test_numeric_addresses():
    """Addresses are numbers where that is asked for."""
    template = Template.of(256, [(8, 4)], version=V9)
    data = template.encode([{"sourceIPv4Address": "192.0.2.1"}])
    block = Exporters().block([v9((0, template.definition()), (256, data))], START)
    (row,) = as_rows(NetFlowTabulator(numeric=True).tables(block).tables["flows"])
    assert 0xC0000201 == row["sourceIPv4Address"]


def test_numeric_addresses_of_any_length():
    """A variable field's address is a number too, beside those of fixed fields."""
    fixed = Template.of(256, [(8, 4)])
    variable = Template.of(257, [(8, VARIABLE)])
    definitions = fixed.definition() + variable.definition()
    address = bytes([192, 0, 2, 1])
    frame = ipfix(
        (2, definitions), (256, address), (257, b"\4" + address + b"\2" + address[:2])
    )
    found = NetFlowTabulator(numeric=True).tables(Exporters().block([frame]))
    column = found.tables["flows"]["sourceIPv4Address"]
    assert [0xC0000201, 0xC0000201, None] == column.to_pylist()
