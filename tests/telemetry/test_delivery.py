"""
From a log to a sink: each entry exactly once, whatever the sink does.
"""

import json
import logging
import os
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pytest

from protoserve.telemetry import delivery as delivery_module
from protoserve.telemetry.delivery import Delivery, Refusals
from protoserve.telemetry.logs.base import LogUnavailableError
from protoserve.telemetry.packing import pack_tables
from protoserve.telemetry.putaside import PutAside
from protoserve.telemetry.sinks.base import (
    Sink,
    SinkRefusedError,
    SinkUnavailableError,
)
from protoserve.telemetry.sinks.registry import open_sink
from protoserve.telemetry.spool import Spool

PATIENCE = 60.0


class Store(Sink):
    """
    A sink in memory, with faults.

    `troubles` are raised, one by one, by the calls that are named; a trouble
    ``after`` is raised when everything was stored.
    """

    url = "store:"

    def __init__(self, refuses=lambda table, row: False):
        self.refuses = refuses
        self.rows = {}
        self.ids = []
        self.sizes = []
        self.calls = []
        self.troubles = {}
        self.is_open = False
        self.blocked = threading.Event()
        self.blocked.set()

    def _trouble(self, name):
        self.calls.append(name)
        if troubles := self.troubles.get(name):
            if isinstance(troubles, list):
                raise troubles.pop(0)
            raise troubles

    def open(self):
        self._trouble("open")
        assert not self.is_open
        self.is_open = True

    def known(self, ids):
        assert self.is_open
        self._trouble("known")
        return {name for name in ids if name in self.ids}

    def store(self, tables, ids):
        assert self.is_open
        self._trouble("store")
        assert self.blocked.wait(PATIENCE)
        for name, table in tables.items():
            for row in table.to_pylist():
                if self.refuses(name, row):
                    raise SinkRefusedError(f"{name} does not take {row['n']}")
        for name, table in tables.items():
            self.rows.setdefault(name, []).extend(table.to_pylist())
        self.ids += ids
        self.sizes.append(sum(table.num_rows for table in tables.values()))
        self._trouble("after")

    def close(self):
        self.calls.append("close")
        self.is_open = False

    def numbers(self, name="t"):
        return [row["n"] for row in self.rows.get(name, [])]


def add(spool, *numbers, count=1, **others):
    """Append an entry of a table ``t`` of these numbers, and others."""
    tables = {"t": pa.table({"n": list(numbers)})} if numbers else {}
    tables |= {name: pa.table({"n": each}) for name, each in others.items()}
    spool.append("", pack_tables(tables), count=count)


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)


@contextmanager
def delivering(spool, sink, group="g", **options):
    delivery = Delivery(spool, group, sink, **{"max_age": 0.01, **options})
    delivery.start()
    try:
        yield delivery
    finally:
        assert delivery.close(PATIENCE)


def stuck(spool):
    """Begin to deliver an entry into a store that does not come back."""
    store = Store()
    store.blocked.clear()
    delivery = Delivery(spool, "g", store, max_age=0.01)
    delivery.start()
    add(spool, 1)
    until(lambda: "store" in store.calls)
    return delivery, store


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    """Make pauses short; what is tested is that they end."""
    monkeypatch.setattr(delivery_module, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(delivery_module, "_LONGEST_PAUSE", 0.05)


@pytest.fixture
def spool(tmp_path):
    with Spool(tmp_path / "spool") as spool:
        yield spool


def test_everything_is_delivered(spool):
    """Rows of all entries are stored, in order, and acknowledged."""
    store = Store()
    with delivering(spool, store) as delivery:
        for number in range(100):
            add(spool, 2 * number, 2 * number + 1, count=3)
        until(lambda: len(store.numbers()) == 200)
    assert list(range(200)) == store.numbers()
    stats = delivery.stats
    assert (200, 100, 300, 0) == (
        stats.rows,
        stats.entries,
        stats.delivered,
        stats.dropped,
    )
    assert (0, 0, 0, 0) == (stats.duplicates, stats.refused, stats.retries, stats.lag)
    assert 0 == spool.consume("g").lag()
    assert not store.is_open


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no such number")
def test_it_gives_way(spool):
    """A delivery is less urgent than what has begun it, however little that is."""

    class Asked(Store):
        def open(self):
            super().open()
            found.append(os.nice(0))

    def deliver():
        os.nice(3)  # of this thread
        found.append(os.nice(0))
        with delivering(spool, Asked()):
            until(lambda: len(found) == 2)

    found = []
    add(spool, 1)
    thread = threading.Thread(target=deliver)
    thread.start()
    thread.join()
    before, during = found
    assert during == min(before + delivery_module._NICE, 19)
    assert during > before or before == 19


def test_batches_by_rows(spool):
    """A backlog is stored in batches of about so many rows."""
    for number in range(100):
        add(spool, *range(number * 10, number * 10 + 10))
    store = Store()
    with delivering(spool, store, max_rows=100, max_age=PATIENCE) as delivery:
        until(lambda: len(store.numbers()) == 1000)
    assert list(range(1000)) == store.numbers()
    assert all(100 <= size <= 300 for size in store.sizes[:-1])
    assert len(store.sizes) == delivery.stats.batches


def test_batches_by_bytes(spool):
    """A batch is stored when it has so many bytes, however few its rows are."""
    for number in range(20):
        spool.append(
            "", pack_tables({"t": pa.table({"n": [number], "b": ["x" * 9000]})})
        )
    store = Store()
    with delivering(spool, store, max_size=10_000, max_rows=2, max_age=PATIENCE):
        until(lambda: len(store.numbers()) == 20)
    assert len(store.sizes) >= 10


def test_batches_by_age(spool):
    """A small batch does not wait for others for longer than it may."""
    store = Store()
    with delivering(spool, store, max_rows=10**6, max_age=0.05):
        add(spool, 1)
        until(lambda: store.numbers() == [1])
        add(spool, 2)
        until(lambda: store.numbers() == [1, 2])


def test_different_columns(spool):
    """Tables of one name whose columns differ are put together."""
    spool.append("", pack_tables({"t": pa.table({"n": pa.array([1], pa.int32())})}))
    spool.append("", pack_tables({"t": pa.table({"n": [2**40], "more": ["x"]})}))
    store = Store()
    with delivering(spool, store, max_age=PATIENCE, max_rows=2):
        until(lambda: len(store.numbers()) == 2)
    rows = [{"n": 1, "more": None}, {"n": 2**40, "more": "x"}]
    assert rows == store.rows["t"]
    assert [2] == store.sizes


def test_columns_that_do_not_fit(spool):
    """Tables whose columns have nothing in common are stored one after the other."""
    for column in ([1], ["one"], [2], [{"x": 1}]):
        spool.append("", pack_tables({"t": pa.table({"n": column})}))
    store = Store()
    with delivering(spool, store, max_age=PATIENCE, max_rows=4) as delivery:
        until(lambda: len(store.numbers()) == 4)
    assert [1, "one", 2, {"x": 1}] == store.numbers()
    assert 0 == delivery.stats.refused


def test_filter(spool):
    """A filter decides what is stored; an entry of which nothing is left is done."""
    add(spool, 1, 2, 3, other=[7])
    add(spool, 4)
    store = Store()

    def less(tables):
        return {"t": tables["t"].filter(pc.less(tables["t"]["n"], 3))}

    with delivering(spool, store, filter=less) as delivery:
        until(lambda: delivery.stats.entries == 2)
    assert {"t": [{"n": 1}, {"n": 2}]} == store.rows
    assert 2 == delivery.stats.delivered


def test_sink_that_comes_back(spool):
    """A sink that is not there is tried again, with everything, until it is."""
    store = Store()
    gone = SinkUnavailableError("connection refused")
    store.troubles = {"open": [gone, gone], "known": [gone], "store": [gone]}
    with delivering(spool, store) as delivery:
        for number in range(10):
            add(spool, number)
        until(lambda: len(store.numbers()) == 10)
    assert list(range(10)) == store.numbers()
    assert 4 == delivery.stats.retries
    assert 5 == store.calls.count("open")
    assert "connection refused" == delivery.stats.last_error


def test_store_that_worked_and_failed(spool):
    """Rows that were stored though the sink said otherwise are not stored again."""
    store = Store()
    store.troubles = {"after": [SinkUnavailableError("no answer")]}
    with delivering(spool, store) as delivery:
        add(spool, 1)
        until(lambda: delivery.stats.entries == 1)
    assert [1] == store.numbers()
    assert 1 == delivery.stats.duplicates


def test_acknowledgement_that_was_lost(spool):
    """What a delivery has stored before it died is not stored again."""
    for number in range(5):
        add(spool, number)
    first = Store()
    with delivering(spool, first):
        until(lambda: len(first.numbers()) == 5)
    consumer = spool.consume("g")
    consumer.seek(sequence=3)
    consumer.close()
    with delivering(spool, first) as delivery:
        until(lambda: delivery.stats.entries == 3)
    assert [0, 1, 2, 3, 4] == first.numbers()
    assert 3 == delivery.stats.duplicates
    assert 3 == delivery.stats.delivered


def test_entries_of_one_id(spool):
    """A log that gives an entry twice in one batch has it stored once."""
    for _ in range(2):
        spool.append("", pack_tables({"t": pa.table({"n": [5]})}), "same")
    store = Store()
    with delivering(spool, store, max_rows=2, max_age=PATIENCE) as delivery:
        until(lambda: delivery.stats.entries == 2)
    assert [5] == store.numbers()
    assert 1 == delivery.stats.duplicates


def test_refused_rows(spool, tmp_path, caplog):
    """What the sink refuses is put aside with the reason; all else is stored."""
    store = Store(lambda name, row: row["n"] in (13, 27))
    aside = PutAside(tmp_path / "aside")
    for number in range(40):
        add(spool, number, count=2)
    with delivering(spool, store, aside=aside) as delivery:
        until(lambda: delivery.stats.entries == 40)
    assert [n for n in range(40) if n not in (13, 27)] == store.numbers()
    assert (2, 4, 76) == (
        delivery.stats.refused,
        delivery.stats.dropped,
        delivery.stats.delivered,
    )
    kept = []
    for path in sorted((tmp_path / "aside").iterdir()):
        with pa.ipc.open_file(path) as file:
            table = file.read_all()
        (number,) = table["n"].to_pylist()
        assert f"t does not take {number}" == table.schema.metadata[b"refused"].decode()
        kept.append(number)
    assert [13, 27] == sorted(kept)
    assert 0 == spool.consume("g").lag()
    assert "t does not take 13" in caplog.text


def test_refused_by_several(spool, monkeypatch):
    """What several sinks refuse are entries of any of them, each counted once."""
    monkeypatch.setattr(delivery_module, "_MOST_REFUSED", 3)
    for number in range(10):
        add(spool, number, count=2)
    refusals = Refusals()
    for group, bad in {"first": (1, 2), "second": (2, 3, 4), "third": (4, 5)}.items():
        store = Store(lambda name, row, bad=bad: row["n"] in bad)
        with delivering(spool, store, group=group, refusals=refusals) as delivery:
            until(lambda delivery=delivery: delivery.stats.entries == 10)
        assert 2 * len(bad) == delivery.stats.dropped
    assert 2 * 5 == refusals.count


def test_refused_table(spool, tmp_path):
    """Of an entry with several tables only the one that is refused is put aside, and may come later."""
    store = Store(lambda name, row: name == "bad")
    aside = PutAside(tmp_path / "aside")
    add(spool, 1, bad=[2], good=[3], count=5)
    with delivering(spool, store, aside=aside) as delivery:
        until(lambda: delivery.stats.entries == 1)
    assert ([1], [3], []) == tuple(map(store.numbers, ("t", "good", "bad")))
    assert (1, 5, 0) == (
        delivery.stats.refused,
        delivery.stats.dropped,
        delivery.stats.delivered,
    )
    assert 1 == aside.kept
    consumer = spool.consume("g")
    consumer.seek(sequence=1)
    consumer.close()
    with delivering(spool, store, aside=aside) as delivery:
        until(lambda: delivery.stats.entries == 1)
    assert ([1], [3]) == tuple(map(store.numbers, ("t", "good")))
    store.refuses = lambda name, row: False
    consumer = spool.consume("g")
    consumer.seek(sequence=1)
    consumer.close()
    with delivering(spool, store, aside=aside) as delivery:
        until(lambda: delivery.stats.entries == 1)
    assert ([1], [3], [2]) == tuple(map(store.numbers, ("t", "good", "bad")))


def test_sink_with_a_bug(spool):
    """An error that no sink should raise is tried again, and then a refusal."""
    store = Store()
    store.troubles = {"store": [RuntimeError("a bug")] * 2}
    with delivering(spool, store) as delivery:
        add(spool, 1)
        until(lambda: store.numbers() == [1])
        assert 2 == delivery.stats.retries
        store.troubles = {"store": [KeyError("another")] * 5}
        add(spool, 2, count=7)
        until(lambda: delivery.stats.entries == 2)
        add(spool, 3)
        until(lambda: store.numbers() == [1, 3])
    assert 7 == delivery.stats.dropped
    assert "KeyError: 'another'" in delivery.stats.last_error


def test_payload_that_is_none(spool, tmp_path):
    """What cannot be unpacked is put aside, and does not hold up the rest."""
    aside = PutAside(tmp_path / "aside")
    store = Store()
    add(spool, 1)
    spool.append("", b"what is this", count=4)
    add(spool, 2)
    with delivering(spool, store, aside=aside) as delivery:
        until(lambda: delivery.stats.entries == 3)
    assert [1, 2] == store.numbers()
    assert (2, 4) == (delivery.stats.delivered, delivery.stats.dropped)
    payload, text = sorted((tmp_path / "aside").iterdir())
    assert b"what is this" == payload.read_bytes()
    assert "expected tables, found" in text.read_text()


def test_what_is_put_aside_has_a_bound(tmp_path):
    """Of what is refused only so much is kept; the rest is counted."""
    aside = PutAside(tmp_path / "aside", max_size=20_000)
    for number in range(10):
        aside.put_table(f"../{number}", pa.table({"n": [number]}), "no")
    assert (4, 6) == (aside.kept, aside.omitted)
    again = PutAside(tmp_path / "aside", max_size=20_000)
    again.put("large", bytes(19_000), "no")
    assert (0, 1) == (again.kept, again.omitted)
    assert 4 == len(list((tmp_path / "aside").iterdir()))
    assert {tmp_path / "aside"} == set(tmp_path.iterdir())


def test_closing_with_a_sink_that_is_away(spool, monkeypatch):
    """What cannot be delivered in time stays in the log, and is delivered later."""
    store = Store()
    store.troubles = {"open": SinkUnavailableError("away")}
    delivery = Delivery(spool, "g", store)
    delivery.start()
    for number in range(10):
        add(spool, number)
    until(lambda: delivery.stats.retries > 0)
    monkeypatch.setattr(delivery_module, "_GRACE", PATIENCE)
    assert delivery.close(0.1)
    assert [] == store.numbers()
    store.troubles = {}
    with delivering(spool, store):
        until(lambda: len(store.numbers()) == 10)
    assert list(range(10)) == store.numbers()


def test_lag_while_a_sink_is_away(spool):
    """What waits is counted while the sink is away, though it never was there."""
    store = Store()
    store.troubles = {"open": SinkUnavailableError("away")}
    delivery = Delivery(spool, "g", store)
    delivery.start()
    for number in range(10):
        add(spool, number)
    until(lambda: delivery.stats.lag == 10)
    assert delivery.close(0.0)


def test_closing_with_a_sink_that_hangs(spool, caplog, monkeypatch):
    """A sink that does not come back does not hold up whoever closes."""
    monkeypatch.setattr(delivery_module, "_GRACE", 0.0)
    delivery, store = stuck(spool)
    assert not delivery.close(0.0)
    assert "does not come back" in caplog.text
    store.blocked.set()
    assert delivery.close(PATIENCE)


def test_closing_while_the_log_goes_away(spool, monkeypatch):
    """A log that goes away while the last is stored is not waited for; it comes again."""
    delivery, store = stuck(spool)
    closing = threading.Thread(target=delivery.close, args=(PATIENCE,))
    closing.start()
    until(delivery._closing.is_set)
    with monkeypatch.context() as patch:
        patch.setattr(delivery._consumer, "ack", away)
        store.blocked.set()
        delivery._thread.join(PATIENCE / 2)
        assert not delivery._thread.is_alive()
    closing.join()
    assert 1 == delivery.stats.retries
    with delivering(spool, store) as delivery:
        until(lambda: delivery.stats.duplicates == 1)
    assert [1] == store.numbers()


def away(*_):
    raise LogUnavailableError("away")


def test_closing_delivers_what_is_there(spool):
    """On closing everything that is in the log is delivered first."""
    for number in range(1000):
        add(spool, number)
    store = Store()
    with delivering(spool, store, max_rows=50, max_age=PATIENCE):
        pass
    assert list(range(1000)) == store.numbers()


def test_group_that_is_taken(spool):
    """A delivery whose group has a reader waits until that one leaves."""
    reader = spool.consume("g")
    store = Store()
    with delivering(spool, store) as delivery:
        add(spool, 1)
        until(lambda: delivery.stats.retries > 0)
        assert "has a reader already" in delivery.stats.last_error
        reader.close()
        until(lambda: store.numbers() == [1])


def test_outage_is_told_once(spool, caplog):
    """A sink that is away is one line of log, and not one for each time."""
    store = Store()
    store.troubles = {"open": [SinkUnavailableError("away")] * 4}
    with delivering(spool, store), caplog.at_level(logging.WARNING):
        add(spool, 1)
        until(lambda: store.numbers() == [1])
    assert 1 == caplog.text.count("away")


def test_pauses_grow(monkeypatch):
    """The pauses between tries double, with some chance in them, up to a bound."""
    monkeypatch.setattr(delivery_module, "_FIRST_PAUSE", 0.1)
    monkeypatch.setattr(delivery_module, "_LONGEST_PAUSE", 30.0)
    delivery = Delivery(None, "g", None)
    pauses = []
    delivery._pause = pauses.append

    def step():
        if len(pauses) < 12:
            raise SinkUnavailableError("away")

    delivery._until_done(step)
    for number, pause in enumerate(pauses):
        most = min(0.1 * 2**number, 30.0)
        assert most / 2 <= pause <= most
    assert len(set(pauses)) == 12


@pytest.mark.parametrize(
    "kind", ["jsonl:{}/x.jsonl", "sqlite:{}/x.db", "duckdb:{}/x.db"]
)
def test_real_sinks(spool, tmp_path, kind):
    """Sinks have every row once, after a delivery that has forgotten what it did."""
    if kind.startswith("duckdb"):
        pytest.importorskip("duckdb")
    for number in range(50):
        add(spool, number, 1000 + number)
    url = kind.format(tmp_path)
    with delivering(spool, open_sink(url), max_rows=20) as delivery:
        until(lambda: delivery.stats.entries == 50)
    consumer = spool.consume("g")
    consumer.seek(sequence=20)
    consumer.close()
    add(spool, 50)
    with delivering(spool, open_sink(url)) as delivery:
        until(lambda: delivery.stats.entries == 32)
    assert 31 == delivery.stats.duplicates
    expected = [*range(51), *range(1000, 1050)]
    assert expected == sorted(rows_of(url))


def rows_of(url):
    kind, _, path = url.partition(":")
    if kind == "jsonl":
        lines = map(json.loads, Path(path).read_text("utf-8").splitlines())
        return [line["n"] for line in lines if "n" in line]
    if kind == "sqlite":
        import sqlite3 as library
    else:
        import duckdb as library
    connection = library.connect(path)
    try:
        return [n for (n,) in connection.execute("select n from t").fetchall()]
    finally:
        connection.close()
