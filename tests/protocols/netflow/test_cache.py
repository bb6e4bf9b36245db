"""
The template cache: bounded, expiring, safe from strangers, kept across restarts.
"""

import resource
import sqlite3

import pytest

from protocols.netflow import IPFIX, Template, Withdrawal
from protocols.netflow.cache import TemplateCache, TemplateLimits, template_key
from protocols.netflow.tabulator import NetFlowTabulator
from tests.protocols.netflow.blocks import PORTS, START, Exporters, ipfix, ports, rows

FIELDS = [(element, 4) for element in range(1, 21)]


def key(number=256, domain=0):
    return template_key(IPFIX, domain, number)


def known(cache, host, now=START, number=256):
    return cache.find(host, key(number), now) is not None


def prove(cache, host, template=PORTS):
    cache.learn(host, 0, template, START - 2)
    cache.learn(host, 0, template, START)
    assert host in cache.proven


def test_expiry():
    """A template that is not sent again is forgotten, one that is lives on."""
    cache = TemplateCache(TemplateLimits(lifetime=60))
    cache.learn("a", 0, PORTS, START)
    cache.learn("b", 0, PORTS, START)
    assert not cache.learn("b", 0, PORTS, START + 50)
    assert known(cache, "a", START + 60)
    assert not known(cache, "a", START + 61)
    assert known(cache, "b", START + 110)
    cache.tick(START + 61)
    assert 1 == len(cache)
    assert cache.learn("b", 0, PORTS, START + 200)


def test_a_second_template_proves():
    """An exporter is proven when its template comes again a while later, not at once."""
    cache = TemplateCache(TemplateLimits())
    cache.learn("a", 0, PORTS, START)
    cache.learn("a", 0, PORTS, START + 0.5)
    assert [] == list(cache.proven)
    cache.learn("a", 0, PORTS, START + 1)
    assert ["a"] == list(cache.proven)


def test_data_proves():
    """An exporter that sends data by its template a while later is proven, not at once."""
    cache = TemplateCache(TemplateLimits())
    cache.learn("a", 0, PORTS, START)
    assert cache.use("a", key(), START + 0.5) == PORTS
    assert cache.use("a", key(number=300), START + 2) is None
    assert [] == list(cache.proven)
    assert cache.use("a", key(), START + 1) == PORTS
    assert ["a"] == list(cache.proven)
    assert cache.use("a", key(), START + 2) == PORTS


def test_storm():
    """Strangers push out each other; who is proven or allowed loses nothing."""
    limits = TemplateLimits(exporters=50, allowed=["allowed"])
    cache = TemplateCache(limits)
    prove(cache, "proven")
    cache.learn("allowed", 0, PORTS, START)
    for i in range(20_000):
        cache.learn(f"stranger {i}", 0, PORTS, START)
    assert 50 == len(cache)
    assert known(cache, "proven")
    assert known(cache, "allowed")
    assert not known(cache, "stranger 1")


def test_strangers_have_what_is_left():
    """Where all places are taken by those that are known, a sixteenth is for others."""
    cache = TemplateCache(TemplateLimits(exporters=160))
    for i in range(100):
        cache.learn(f"stranger {i}", 0, PORTS, START)
    assert known(cache, "stranger 0")
    for i in range(155):
        prove(cache, f"proven {i}")
    for i in range(1000):
        cache.learn(f"other {i}", 0, PORTS, START + 2)
    assert (155, 165) == (len(cache.proven), len(cache))
    assert [False, True] == [known(cache, f"other {i}", START + 2) for i in (989, 990)]


def test_strangers_are_stored_in_the_end(tmp_path):
    """While it runs only the proven reach the store; a storm is no work for the disk."""
    cache = TemplateCache(TemplateLimits(exporters=50), tmp_path)
    prove(cache, "proven")
    for i in range(1000):
        cache.learn(f"stranger {i}", 0, PORTS, START)
    cache.tick(START)
    connection = sqlite3.connect(tmp_path / "templates.sqlite")
    question = "SELECT DISTINCT exporter FROM templates"
    assert [("proven",)] == connection.execute(question).fetchall()
    assert len(cache._changed) <= 50
    cache.close(START)
    assert 50 == len(connection.execute(question).fetchall())
    connection.close()


def test_no_place_for_another():
    """Where all places are taken newcomers stay strangers, until one is free."""
    cache = TemplateCache(TemplateLimits(exporters=1, lifetime=60))
    prove(cache, "first")
    cache.learn("second", 0, PORTS, START)
    cache.learn("second", 0, PORTS, START + 30)
    assert ["first"] == list(cache.proven)
    assert known(cache, "second", START + 30)
    cache.learn("second", 0, PORTS, START + 61)
    assert ["second"] == list(cache.proven)


def test_templates_of_one_exporter_are_limited():
    """An exporter's oldest template goes when there are too many of it."""
    cache = TemplateCache(TemplateLimits(templates=3))
    prove(cache, "b")
    for number in range(256, 260):
        cache.learn("a", 0, Template.of(number, FIELDS), START)
    assert [False, True, True, True] == [
        known(cache, "a", number=number) for number in range(256, 260)
    ]
    assert known(cache, "b")


def test_bytes_are_limited():
    """Long templates push out others of strangers, or the exporter's own."""
    long = [(element % 500 + 1, 4) for element in range(512)]
    cache = TemplateCache(TemplateLimits(size=100_000))
    prove(cache, "proven")
    for number in range(256, 356):
        cache.learn("stranger", 0, Template.of(number, long), START)
        cache.learn("proven", 0, Template.of(number + 1, long), START)
    assert known(cache, "proven", number=356)
    kept = cache._proven.size, cache._strangers.size
    assert max(kept) <= 100_000
    assert all(ring.size >= 0 for ring in (cache._proven, cache._strangers))


def test_withdrawal_of_all():
    """All templates of a domain go, but neither options nor those of others."""
    cache = TemplateCache(TemplateLimits())
    options = Template.of(257, FIELDS, scopes=1)
    for domain in (0, 1):
        cache.learn("a", domain, PORTS, START)
        cache.learn("a", domain, options, START)
    assert [PORTS] == cache.withdraw("a", IPFIX, 0, Withdrawal(None))
    left = [cache.find("a", key(n, d), START) for d in (0, 1) for n in (256, 257)]
    assert [None, options, PORTS, options] == left
    assert [] == cache.withdraw("nobody", IPFIX, 0, Withdrawal(256))


def test_restart(tmp_path):
    """Templates are there after a restart, for the tables too."""
    senders = Exporters()
    first = NetFlowTabulator(tmp_path)
    first.tables(senders.block([ipfix((2, PORTS.definition()))]))
    first.close()
    second = NetFlowTabulator(tmp_path)
    tables = second.tables(senders.block([ipfix((256, ports((1, 2))))], at=START + 60))
    second.close()
    assert 1 == len(rows(tables))
    third = NetFlowTabulator(tmp_path)
    late = senders.block([ipfix((256, ports((1, 2))))], at=START + 6000)
    assert 1 == third.tables(late).held
    third.close()


def test_restart_keeps_all(tmp_path):
    """What is proven, domains, options and what is gone again is as it was."""
    options = Template.of(300, FIELDS, scopes=2)
    cache = TemplateCache(TemplateLimits(), tmp_path)
    prove(cache, "a")
    cache.learn("b", 7, options, START)
    cache.learn("b", 7, PORTS, START)
    cache.tick(START)
    cache.withdraw("b", IPFIX, 7, Withdrawal(256))
    cache.close(START)
    cache = TemplateCache(TemplateLimits(), tmp_path)
    assert ["a"] == list(cache.proven)
    assert options == cache.find("b", key(300, 7), START)
    assert None is cache.find("b", key(256, 7), START)
    cache.close(START)


def test_what_expired_and_came_again_is_not_stored(tmp_path):
    """Who comes again after all has expired, and is pushed out, leaves nothing behind."""
    limits = TemplateLimits(exporters=2, lifetime=100)
    cache = TemplateCache(limits, tmp_path)
    prove(cache, "a")
    cache.tick(START)
    late = START + 101
    cache._saved = late  # so that what follows is between two writings
    cache.tick(late)
    for host in ("a", "b", "c", "d"):
        cache.learn(host, 0, PORTS, late)
    cache.close(late)
    cache = TemplateCache(limits, tmp_path)
    assert not known(cache, "a")  # which would not have expired at START
    assert known(cache, "d", late)
    cache.close(late)


def test_an_exporter_is_loaded_whole(tmp_path):
    """Whoever comes back after a restart has all of its templates."""
    limits = TemplateLimits(exporters=2, allowed=("a", "b", "c"))
    cache = TemplateCache(limits, tmp_path)
    for host in limits.allowed:
        for number in (256, 258):
            cache.learn(host, 0, Template.of(number, FIELDS), START)
    cache.close(START)
    cache = TemplateCache(limits, tmp_path)
    for host in cache.proven:
        assert [True, True] == [known(cache, host, number=n) for n in (256, 258)]
    cache.close(START)


@pytest.mark.parametrize(
    "content", [b"no database at all" * 99, b"SQLite format 3\0" + bytes(5000)]
)
def test_a_damaged_file(content, tmp_path, caplog):
    """A file that is damaged is put aside, and all goes on with a new one."""
    path = tmp_path / "templates.sqlite"
    path.write_bytes(content)
    cache = TemplateCache(TemplateLimits(), tmp_path)
    cache.learn("a", 0, PORTS, START)
    cache.close(START)
    assert "put aside" in caplog.text
    cache = TemplateCache(TemplateLimits(), tmp_path)
    assert known(cache, "a")
    cache.close(START)


def test_damaged_rows(tmp_path):
    """A template that is none is left out, and the others are taken."""
    cache = TemplateCache(TemplateLimits(), tmp_path)
    cache.learn("a", 0, PORTS, START)
    cache.learn("b", 0, PORTS, START)
    cache.close(START)
    connection = sqlite3.connect(tmp_path / "templates.sqlite")
    with connection:
        connection.execute("UPDATE templates SET definition = 7 WHERE exporter = 'a'")
    connection.close()
    cache = TemplateCache(TemplateLimits(), tmp_path)
    assert (False, True) == (known(cache, "a"), known(cache, "b"))
    cache.close(START)


def test_no_place_for_a_file(tmp_path, caplog):
    """Where no file can be, templates are kept in memory all the same."""
    (tmp_path / "file").write_bytes(b"")
    cache = TemplateCache(TemplateLimits(), tmp_path / "file" / "folder")
    cache.learn("a", 0, PORTS, START)
    cache.tick(START)
    assert known(cache, "a")
    assert "templates are not kept" in caplog.text
    cache.close(START)


def test_memory():
    """Ten thousand exporters with ten templates each take less than 100 MiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cache = TemplateCache(TemplateLimits())
    for host in range(10_000):
        for number in range(256, 266):
            # Their own bytes each, as they come out of datagrams.
            specifiers = bytes(bytearray(PORTS.specifiers * 10))
            template = Template(number, specifiers)
            cache.learn(f"10.0.{host // 256}.{host % 256}", 0, template, START)
    assert 10_000 == len(cache)
    assert known(cache, "10.0.0.0", number=256)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100 << 10  # kibibytes
