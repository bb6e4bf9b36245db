"""
The queue between receiving and tabulating, and the rates of exporters.
"""

import contextlib
import socket
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protoserve import Peer
from protoserve.account import Account
from protoserve.server.batch import Block
from protoserve.telemetry import intake as module
from protoserve.telemetry.intake import OVERHEAD, Intake
from protoserve.telemetry.rates import Rates
from protoserve.telemetry.tables import Frames
from tests.coalescing import gro, send_together
from tests.service.kit import until

PEER = Peer("udp", ("192.0.2.1", 1))
BLOCK = st.lists(
    st.builds(bytes, st.sampled_from([0, 1, 5, 5, 5, 5, 40, 1300])),
    min_size=1,
    max_size=40,
)
OTHER = Peer("udp", ("192.0.2.2", 1))


@contextlib.contextmanager
def ends():
    """
    Give a socket that receives, and one that sends to it.
    """
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiving,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending,
    ):
        receiving.bind(("127.0.0.1", 0))
        sending.connect(receiving.getsockname())
        yield receiving, sending


def taken(intake):
    frames = intake.gather(0.0, 1 << 20, 0.0)
    return [] if frames is None else [frames.frame(i) for i in range(len(frames))]


def test_in_order():
    """What was added comes out in order, with its sender and time."""
    intake = Intake(Account())
    intake.add(b"one", PEER, 1)
    intake.add(b"two2", OTHER, 2)
    intake.add(b"", PEER, 3)
    frames = intake.gather(0.0, 1 << 20, 0.0)
    assert [b"one", b"two2", b""] == [frames.frame(i) for i in range(3)]
    assert [1, 2, 3] == frames.times.tolist()
    assert [PEER, OTHER, PEER] == [frames.exporters[i] for i in frames.senders]
    assert intake.gather(0.0, 1 << 20, 0.0) is None


@pytest.mark.parametrize(
    ("policy", "left"),
    [("drop-newest", [b"aaaa", b"bbbb"]), ("drop-oldest", [b"bbbb", b"cccc"])],
)
def test_full(policy, left):
    """A queue that is full drops by its policy, and what it drops is counted."""
    account = Account()
    intake = Intake(account, most_bytes=2 * (4 + OVERHEAD), policy=policy)
    for data in (b"aaaa", b"bbbb", b"cccc"):
        intake.add(data, PEER, 0)
    assert 2 == len(intake)
    assert left == taken(intake)
    balance = account.balance()
    assert (3, 1, 2) == (balance.received, balance.dropped["queue"], balance.in_flight)


def test_full_and_waiting():
    """With the policy block, whoever adds waits until there is room."""
    account = Account()
    intake = Intake(account, most_bytes=4 + OVERHEAD, policy="block")
    intake.add(b"aaaa", PEER, 0)
    adding = threading.Thread(target=intake.add, args=(b"bbbb", PEER, 0))
    adding.start()
    until(lambda: account.balance().received == 2)
    assert 1 == len(intake)
    assert [b"aaaa"] == taken(intake)
    adding.join()
    assert [b"bbbb"] == taken(intake)
    assert 0 == account.balance().dropped["queue"]


def test_closed():
    """Nobody waits for room in a queue that is closed."""
    account = Account()
    intake = Intake(account, most_bytes=4 + OVERHEAD, policy="block")
    intake.add(b"aaaa", PEER, 0)
    intake.close()
    intake.add(b"bbbb", PEER, 0)
    assert [b"aaaa"] == taken(intake)
    assert 1 == account.balance().dropped["queue"]


def test_small_datagrams():
    """A queue of empty datagrams is bounded, too, and so is what is taken at a time."""
    account = Account()
    intake = Intake(account, most_bytes=10 * OVERHEAD, policy="drop-newest")
    for _ in range(100):
        intake.add(b"", PEER, 0)
    assert 10 == len(intake)
    frames = intake.gather(0.0, 4 * OVERHEAD, 0.0)
    assert 4 == len(frames)


@pytest.mark.parametrize(("before", "waited"), [(0.0, [4.0]), (3.0, [1.0]), (9.0, [])])
def test_patience(before, waited, monkeypatch):
    """What waits for others does so from when it came, not from when it is asked for."""
    now, waits = [100.0], []

    def wait(seconds):
        waits.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    intake = Intake(Account())
    intake._condition.wait = wait
    intake.add(b"first", PEER, 0)
    now[0] += before
    intake.add(b"other", PEER, 0)
    assert 2 == len(intake.gather(60.0, 1 << 20, 4.0))
    assert waited == waits


@pytest.mark.parametrize("coalesced", [False, pytest.param(True, marks=gro)])
@settings(max_examples=60, deadline=None)
@given(blocks=st.lists(BLOCK, min_size=1, max_size=3))
def test_blocks(coalesced, blocks):
    """What blocks bring comes out in order, however it came together."""
    account = Account()
    intake = Intake(account)
    with ends() as (receiving, sending):
        block = Block(receiving, 64, 2048, gro=coalesced)
        for datagrams in blocks:
            send_together(sending, datagrams)
            block.receive(receiving)
            intake.take(block)
        own = sending.getsockname()
    assert sum(map(len, blocks)) == account.balance().received
    frames = intake.gather(0.0, 1 << 20, 0.0)
    expected = [each for datagrams in blocks for each in datagrams]
    assert expected == [frames.frame(i) for i in range(len(frames))]
    assert [Peer("udp", own)] == list(frames.exporters)
    assert sorted(frames.times.tolist()) == frames.times.tolist()


def test_blocks_of_nothing():
    """A block whose datagrams were all too long brings nothing, and what follows comes."""
    account = Account()
    intake = Intake(account)
    with ends() as (receiving, sending):
        block = Block(receiving, 64, 100)
        for data, cut in ((bytes(101), 1), (b"short", 0)):
            sending.send(data)
            block.receive(receiving)
            assert cut == len(block.take_cut())
            intake.take(block)
    assert 1 == account.balance().received
    assert [b"short"] == taken(intake)


def test_unknown_policy():
    """A policy that there is not is refused by name."""
    with pytest.raises(ValueError, match=r"unknown policy 'drop' \(known: block,"):
        Intake(Account(), policy="drop")


def frames(senders):
    count = len(senders)
    return Frames(
        np.arange(count, dtype=np.uint8),
        np.arange(count),
        np.ones(count, "i8"),
        np.zeros(count, "i8"),
        np.array(senders),
        [PEER, OTHER],
    )


def test_rates():
    """Each exporter may send so many a second; the first of them are taken."""
    rates = Rates(3)
    kept = rates.keep(frames([0, 1, 0, 0, 0, 1]), 0.0)
    assert [0, 1, 2, 3, 5] == kept.starts.tolist()
    assert [0, 1, 0, 0, 1] == kept.senders.tolist()
    assert rates.keep(frames([1]), 0.0) is None
    assert [] == rates.keep(frames([0, 1]), 0.1).starts.tolist()
    assert rates.keep(frames([0, 1]), 0.5) is None


def many(hosts):
    count = len(hosts)
    peers = [Peer("udp", (host, 1)) for host in hosts]
    numbers = np.arange(count)
    times = np.zeros(count, "i8")
    ones = np.ones(count, "i8")
    return Frames(np.zeros(count, np.uint8), numbers, ones, times, numbers, peers)


def test_rates_in_a_storm():
    """Made-up exporters do not make it forget one that sends too much."""
    rates = Rates(2)
    assert 2 == len(rates.keep(many(["192.0.2.1"] * 5), 0.0))
    for turn in range(10):
        hosts = [f"10.{turn}.{n >> 8}.{n & 255}" for n in range(10_000)]
        assert rates.keep(many(hosts), 0.01 * turn) is None
    assert len(rates) <= 40_000
    assert 0 == len(rates.keep(many(["192.0.2.1"] * 5), 0.2))
    assert 2 == len(rates.keep(many(["192.0.2.1"] * 5), 1.2))


def test_rates_below_one():
    """A rate below one a second lets one pass at a time."""
    rates = Rates(0.5)
    assert 1 == len(rates.keep(many(["192.0.2.1"] * 3), 0.0))
    assert 0 == len(rates.keep(many(["192.0.2.1"]), 1.9))
    assert rates.keep(many(["192.0.2.1"]), 2.0) is None
