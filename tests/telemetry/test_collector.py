"""
What a collector does with what its tabulator cannot.
"""

import logging
import time
from types import SimpleNamespace

import attrs
import numpy as np
import pyarrow as pa

from protoserve import Peer
from protoserve.account import Account
from protoserve.journal import read_journal
from protoserve.rarelog import RareLog
from protoserve.telemetry import collector as module
from protoserve.telemetry.collector import COUNTED, Collector
from protoserve.telemetry.deadletters import DeadLetters
from protoserve.telemetry.intake import Intake
from protoserve.telemetry.packing import unpack_tables
from protoserve.telemetry.selecting import Selection
from protoserve.telemetry.tables import Frames, Tables
from tests.service.kit import until

MOMENT = 1_700_000_000_000_000_000


@attrs.define
class Choosy:
    """
    Makes a row of each frame, and raises when one of them is bad.
    """

    calls: int = 0
    sizes: list = attrs.field(factory=list)
    answers: list = attrs.field(factory=list)
    """Given by `tick`."""

    def tables(self, frames):
        self.calls += 1
        self.sizes.append(len(frames.exporters))
        data = [frames.frame(i) for i in range(len(frames))]
        if b"bad" in data:
            raise ValueError("there is one that is bad")
        hosts = [frames.exporters[i].host for i in frames.senders.tolist()]
        return Tables({"rows": pa.table({"data": data, "host": hosts})})

    def tick(self, now):
        return self.answers.pop() if self.answers else Tables()

    def preface(self, peer):
        return ()

    def close(self):
        return Tables()


@attrs.define
class Kept:
    """
    Keeps what is appended.
    """

    entries: list = attrs.field(factory=list)

    def append(self, key, payload, *, count):
        self.entries.append((key, b"".join(map(bytes, payload)), count))
        return True

    def rows(self):
        tables = [unpack_tables(payload)["rows"] for _, payload, _ in self.entries]
        return pa.concat_tables(tables).to_pylist() if tables else []


def frames(data, hosts=None):
    """
    Put datagrams into a block; each is from the host that is named, or from one.
    """
    hosts = hosts or ["192.0.2.1"] * len(data)
    names = list(dict.fromkeys(hosts))
    lengths = np.array([len(each) for each in data])
    return Frames(
        np.frombuffer(b"".join(data), np.uint8),
        np.cumsum(lengths) - lengths,
        lengths,
        np.full(len(data), MOMENT),
        np.array([names.index(host) for host in hosts]),
        [Peer("udp", (name, 1)) for name in names],
    )


def collected(tabulator, *blocks, letters=None, tables=True, select=None):
    """
    Have blocks collected; give the account, what is kept, and the collector.
    """
    account, kept = Account(COUNTED), Kept()
    collector = Collector(account, Intake(account))
    collector._tabulator, collector._dead_letters = tabulator, letters
    collector._tables = kept if tables else None
    collector._frames = None if tables else kept
    collector._select, collector._rates, collector._losses = select, None, None
    for block in blocks:
        account.receive(len(block))
        collector.collect(block)
    return account.balance(), kept, collector


def test_what_takes_long(monkeypatch):
    """Datagrams wait for others less, the longer it takes to tabulate them."""
    now, took, patience = [100.0], [0.01, 0.03, 5.0], []
    clock = SimpleNamespace(monotonic=lambda: now[0], time=time.time)
    monkeypatch.setattr(module, "time", clock)

    class Slow(Choosy):
        def tables(self, frames):
            now[0] += took.pop(0)
            return Tables()

    class Waiting(Intake):
        def gather(self, timeout, enough, seconds):
            patience.append(round(seconds, 3))
            return frames([b"x"]) if took else None

    account = Account(COUNTED)
    collector = Collector(account, Waiting(account))
    collector.start(Slow())
    until(lambda: not took)
    assert collector.stop(10)
    assert [0.0, 0.035, 0.015] == patience[:3]
    assert patience[3] < 0  # it does not wait at all


def test_one_that_fails(tmp_path):
    """A datagram at which the tabulator raises costs itself, and is explained."""
    data = [b"%03d" % number for number in range(1000)]
    data[137] = data[801] = b"bad"
    hosts = [f"192.0.2.{number % 7}" for number in range(1000)]
    letters = DeadLetters(tmp_path / "letters.jsonl")
    tabulator = Choosy()
    balance, kept, _ = collected(tabulator, frames(data, hosts), letters=letters)
    letters.close()
    assert (1000, 2) == (balance.received, balance.dropped["malformed"])
    good = [(d, h) for d, h in zip(data, hosts, strict=True) if d != b"bad"]
    assert good == [(row["data"], row["host"]) for row in kept.rows()]
    assert 998 == sum(count for _, _, count in kept.entries)
    assert tabulator.calls < 50
    found = list(read_journal(letters.path))
    assert [b"bad", b"bad"] == [letter.raw for letter in found]
    assert {"malformed: ValueError: there is one that is bad"} == {
        letter.outcome for letter in found
    }


def test_a_filter_that_fails(monkeypatch, caplog):
    """Rows that a filter cannot be evaluated with are lost, by no fault of the sender."""
    monkeypatch.setattr(module, "_rare", RareLog(module.logger))
    selection = Selection("data::varchar::int > 5")
    balance, kept, _ = collected(Choosy(), frames([b"a", b"b"]), select=selection)
    selection.close()
    assert (2, 0, 2) == (
        balance.received,
        balance.dropped["malformed"],
        balance.dropped["sink"],
    )
    assert [] == kept.entries
    assert "filter or select: Conversion Error" in caplog.text


def test_all_that_fail(monkeypatch, caplog):
    """However many fail, they are tried again so often in a second, and no more."""
    monkeypatch.setattr(module, "_TRIES", 20)
    monkeypatch.setattr(module, "_rare", RareLog(module.logger))
    tabulator = Choosy()
    with caplog.at_level(logging.INFO, "protoserve"):
        blocks = [frames([b"bad"] * 500)] * 3
        balance, kept, _ = collected(tabulator, *blocks)
    assert (1500, 1500) == (balance.received, balance.dropped["malformed"])
    assert [] == kept.entries
    # Each block once, and twice for each time that something is cut in two.
    assert tabulator.calls == 3 + 2 * 20
    assert "datagrams cannot be tabulated: ValueError: there is one" in caplog.text
    assert "Traceback" not in caplog.text


def test_many_exporters(monkeypatch):
    """Blocks with many exporters are tabulated in parts, in their order."""
    monkeypatch.setattr(module, "_MOST_AT_ONCE", 100)
    hosts = [f"10.0.{number >> 8}.{number & 255}" for number in range(1000)]
    data = [b"%03d" % number for number in range(1000)]
    tabulator = Choosy()
    balance, kept, _ = collected(tabulator, frames(data, hosts))
    assert max(tabulator.sizes) <= 100
    pairs = [(row["data"], row["host"]) for row in kept.rows()]
    assert list(zip(data, hosts, strict=True)) == pairs
    assert 0 == sum(balance.dropped.values())


def test_forwarded_by_exporter():
    """What is forwarded has an entry for each exporter, with its datagrams in order."""
    data = [b"<%03d>" % number for number in range(90)]
    hosts = [f"192.0.2.{number % 3}" for number in range(90)]
    _, kept, _ = collected(Choosy(), frames(data, hosts), tables=False)
    assert [f"192.0.2.{n}" for n in range(3)] == [key for key, _, _ in kept.entries]
    for n, (_, payload, count) in enumerate(kept.entries):
        assert 30 == count
        places = [payload.index(each) for each in data[n::3]]
        assert sorted(places) == places


def test_more_is_released_than_was_held():
    """What a tabulator says of datagrams that it was not given does not count."""
    tabulator = Choosy()
    _, _, collector = collected(tabulator, frames([b"one"]))
    collector._settle(Tables(released=3, expired=2), None)
    balance = collector._account.balance()
    assert 0 == balance.dropped["template"]
    assert balance.delivered + sum(balance.dropped.values()) <= balance.received
