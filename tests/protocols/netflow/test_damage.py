"""
Datagrams that something has happened to.
"""

import random
import time

from examples.netflow_exporter import NAMES, datagrams
from protocols.netflow.cache import TemplateLimits
from protocols.netflow.tabulator import NetFlowTabulator
from tests.protocols.netflow.blocks import START, Exporters
from tests.protocols.netflow.making import conversation

COUNT, EACH = 10_000, 500


def mutated(chance, datagram):
    """Damage a datagram, mostly a little."""
    data = bytearray(datagram)
    for _ in range(chance.choice((1, 1, 2, 8))):
        if not data:
            break
        place = chance.randrange(min(len(data), chance.choice((4, 24, 40, 2000))))
        what = chance.randrange(6)
        if what < 3:
            data[place] = chance.choice((0, 1, 2, 3, 4, 127, 128, 255))
        elif what == 3:
            data[place] ^= 1 << chance.randrange(8)
        elif what == 4:
            del data[place : place + chance.choice((1, 2, 4, 100))]
        else:
            data[place:place] = data[: chance.choice((1, 2, 4, 30))]
    return bytes(data)


def seeds(chance):
    found = [d for version in NAMES.values() for d in datagrams(version, 40, each=8)]
    for _ in range(60):
        found += conversation(chance)
    return found


def test_damaged_datagrams():
    """Damaged datagrams each have one fate, and nothing is raised."""
    chance, senders = random.Random(1), Exporters()
    tabulator, whole = NetFlowTabulator(), seeds(chance)
    hosts = [f"192.0.2.{i}" for i in range(50)]
    received = refused = held = released = expired = 0
    for start in range(0, COUNT, EACH):
        some = [mutated(chance, chance.choice(whole)) for _ in range(EACH)]
        at = START + start / 1000
        block = senders.block(some, at, chance.choices(hosts, k=EACH))
        begin = time.process_time()
        found = tabulator.tables(block)
        assert time.process_time() - begin < 20
        places = [each.index for each in found.refused]
        assert len(places) == len(set(places))
        assert {each.reason for each in found.refused} <= {"malformed", "template"}
        assert all(table.num_rows for table in found.tables.values())
        for table in found.tables.values():
            table.validate(full=True)
        received += EACH
        refused += len(places)
        held += found.held
        released += found.released
        expired += found.expired + tabulator.tick(at).expired
        assert held - released - expired == len(tabulator.held)
    assert received == COUNT
    assert COUNT // 10 < refused < COUNT
    assert held
    assert released
    assert expired


def test_storm_of_sources():
    """Templates from 20,000 addresses take no template from who was there before."""
    tabulator = NetFlowTabulator(templates=TemplateLimits(exporters=1000))
    template, data = list(datagrams(9, 40))
    for at in (0, 2):
        tabulator.tables(Exporters().block([template], START + at))
    for start in range(0, 20_000, 2000):
        hosts = [f"10.0.{i // 256}.{i % 256}" for i in range(start, start + 2000)]
        storm = [template] * len(hosts)
        tabulator.tables(Exporters().block(storm, START + 3, hosts))
    assert len(tabulator.cache) == 1000
    found = tabulator.tables(Exporters().block([data], START + 4))
    assert 10 == found.tables["flows"].num_rows
