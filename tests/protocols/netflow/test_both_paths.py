"""
The two ways to decode give the same: one datagram at a time, and thousands at once.
"""

import math
import random
from ipaddress import ip_address

import numpy as np
import pytest

from examples.netflow_exporter import datagrams
from protocols.netflow import Decoded, Definition, element
from protocols.netflow.arrays import array_type
from protocols.netflow.tabulator import NetFlowTabulator
from tests.protocols.netflow.blocks import Exporters, as_rows, parsed
from tests.protocols.netflow.making import conversation

SHARED = {"observationDomainId", "templateId"}
"""Names that records have, and their datagrams."""


def kinds():
    """Give the types of columns by their names."""
    found = {}
    for enterprise in (0, 29_305):
        for number in range(1, 600):
            each = element(enterprise, number)
            found[each.name] = each.kind
    return found


KINDS = kinds()


def fitting(name, value):
    """Bring a value to what its column can hold."""
    kind = KINDS.get(name, KINDS.get(name.rpartition("_")[0]))
    if isinstance(value, int) and kind and "signed" in kind:
        limits = np.iinfo(array_type(kind).to_pandas_dtype())
        return value if limits.min <= value <= limits.max else None
    if isinstance(value, float):
        with np.errstate(over="ignore"):
            short = float(np.float32(value)) if kind == "float32" else value
        return "NaN" if math.isnan(short) else short
    return value


def from_messages(messages):
    """Give the records of parsed messages, by table."""
    found = {"flows": [], "options": []}
    known = {}
    for message in messages:
        domain = getattr(message, "source_id", None)
        domain = message.observationDomainId if domain is None else domain
        for each in message.sets:
            for item in each.content if isinstance(each.content, Decoded) else ():
                if isinstance(item, Definition):
                    known[domain, item["id"]] = item.said.layout.table
                else:
                    row = {k: fitting(k, v) for k, v in item.items()}
                    found[known[domain, each.id]].append(row)
    return found


def from_tables(tables):
    found = {"flows": [], "options": []}
    for name, table in tables.items():
        for row in as_rows(table):
            found[name].append({k: fitting(k, v) for k, v in row.items()})
    return found


def comparable(rows, keep):
    """Leave out what is null anyway, and what only datagrams say."""
    return sorted(
        sorted((k, repr(v)) for k, v in row.items() if v is not None and k in keep)
        for row in rows
    )


@pytest.mark.parametrize("seed", range(100))
def test_same_values(seed):
    """Both give the same records, wherever the blocks are cut."""
    chance = random.Random(seed)
    sent = conversation(chance)
    expected = from_messages(parsed([("here", each) for each in sent]))
    tabulator, senders = NetFlowTabulator(), Exporters()
    found = {"flows": [], "options": []}
    cut = chance.randint(0, len(sent))
    for block in (sent[:cut], sent[cut:]):
        tables = tabulator.tables(senders.block(block, gap=chance.randint(0, 3)))
        assert [] == list(tables.refused)
        assert 0 == tables.held
        for name, rows in from_tables(tables.tables).items():
            found[name] += rows
    for name, rows in expected.items():
        names = {key for row in rows for key in row} - SHARED
        assert len(rows) == len(found[name])
        assert comparable(rows, names) == comparable(found[name], names)


@pytest.mark.parametrize("seed", range(15))
def test_same_verdict(seed):
    """Both refuse the same datagrams when bytes have changed."""
    chance = random.Random(seed)
    for _ in range(10):
        sent = conversation(chance)
        damaged = bytearray(sent.pop())
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(len(damaged))
            damaged[place] = chance.choice([0, 1, 3, 4, 127, 255])
        damaged = bytes(damaged[: len(damaged) - chance.choice([0, 0, 0, 1, 30])])
        *_, message = parsed([("here", each) for each in [*sent, damaged]])
        tables = NetFlowTabulator().tables(Exporters().block([*sent, damaged]))
        last = [each for each in tables.refused if each.index == len(sent)]
        assert isinstance(message, Exception) == bool(last), (message, last)


@pytest.mark.parametrize("count", [0, 1, 30, 40])
def test_version_5(count):
    """Flows of version 5 are the same, their head's fields beside each."""
    sent = list(datagrams(5, count, each=40)) or [bytes([0, 5]) + bytes(22)]
    (message,) = parsed([("here", each) for each in sent])
    tables = NetFlowTabulator().tables(Exporters().block(sent, gap=1))
    rows = as_rows(tables.tables["flows"]) if count else []
    assert count == len(rows) == len(message.flows)
    for row, flow in zip(rows, message.flows, strict=True):
        for name, value in row.items():
            if name not in ("exporter", "received_at", "version"):
                owner = flow if hasattr(flow, name) else message
                address = name in ("srcaddr", "dstaddr", "nexthop")
                assert getattr(owner, name) == (
                    int(ip_address(value)) if address else value
                )
