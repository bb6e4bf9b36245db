"""
Gaps in exporters' numbers.
"""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protoserve import Peer
from protoserve.telemetry import gaps as module
from protoserve.telemetry.gaps import Gaps, Stream
from protoserve.telemetry.tables import Sequences

PEERS = [Peer("udp", ("192.0.2.1", 1)), Peer("udp", ("192.0.2.2", 1))]


def sequences(numbers, *, senders=None, steps=1, bits=32):
    count = len(numbers)
    return Sequences(
        np.array(senders or [0] * count),
        np.zeros(count, "i8"),
        np.array(numbers, "i8"),
        np.full(count, steps),
        bits,
    )


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        ([5, 6, 7, 8], (0, 0, 0, 0)),
        ([5, 6, 9, 10], (2, 0, 0, 0)),
        ([5, 6, 9, 8, 10], (1, 0, 1, 0)),
        ([5, 6, 9, 7, 8, 10], (0, 0, 2, 0)),
        ([5, 6, 6, 7], (0, 1, 0, 0)),
        ([5, 6, 9, 7, 7, 10], (1, 1, 1, 0)),
        ([5, 6, 1 << 30, 6], (0, 0, 0, 2)),
        ([(1 << 32) - 2, (1 << 32) - 1, 0, 1], (0, 0, 0, 0)),
        ([(1 << 32) - 2, 0, (1 << 32) - 1, 1], (0, 0, 1, 0)),
    ],
)
def test_one_exporter(numbers, found):
    """Missing, double and late datagrams, and counters that begin anew, are told apart."""
    gaps = Gaps()
    gaps.follow(sequences(numbers), PEERS, 0.0)
    assert found == (gaps.missing, gaps.duplicates, gaps.reordered, gaps.restarts)


def test_steps():
    """A counter of records goes on by as many as a datagram has."""
    gaps = Gaps()
    gaps.follow(sequences([0, 30, 90], steps=30), PEERS, 0.0)
    assert 30 == gaps.missing


def test_many_that_are_lost_at_once():
    """However many a datagram counts for, it is datagrams that make a gap a long one."""
    gaps = Gaps()
    gaps.follow(sequences([0, 30 * 50_000], steps=30), PEERS, 0.0)
    assert (30 * 49_999, 0) == (gaps.missing, gaps.restarts)


@pytest.mark.parametrize("step", [1, 30])
@pytest.mark.parametrize("lost", [range(0), range(1000, 2000)])
def test_an_exporter_that_is_started_again(step, lost):
    """Few as its numbers were, they begin anew, and what is lost before and then counts."""
    before = [step * number for number in range(5000) if number not in lost]
    after = [step * number for number in range(3000) if not 100 <= number < 200]
    gaps = Gaps()
    gaps.follow(sequences(before, steps=step), PEERS, 0.0)
    gaps.follow(sequences(after, steps=step), PEERS, 0.0)
    assert (module._AGAIN, 1) == (gaps.duplicates, gaps.restarts)
    assert step * (100 + len(lost)) == gaps.missing


def test_all_that_comes_twice():
    """Where each datagram comes a second time soon, its counter does not begin anew."""
    numbers = [number + late for number in range(100) for late in (20, 0)]
    gaps = Gaps()
    gaps.follow(sequences([*range(20), *numbers]), PEERS, 0.0)
    assert (0, 100, 0) == (gaps.missing, gaps.duplicates, gaps.restarts)


def test_narrow_counters():
    """A counter of 16 bits begins anew at zero."""
    gaps = Gaps()
    gaps.follow(sequences([65_534, 65_535, 1], bits=16), PEERS, 0.0)
    assert 1 == gaps.missing


def test_exporters_are_told_apart():
    """Each exporter has a counter of its own, whatever order they come in."""
    gaps = Gaps()
    gaps.follow(sequences([1, 100, 2, 101, 103], senders=[0, 1, 0, 1, 1]), PEERS, 0.0)
    gaps.follow(sequences([3, 104], senders=[0, 1]), PEERS, 0.0)
    assert (1, 2) == (gaps.missing, len(gaps))


@given(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 20))
def test_any_cut_gives_the_same(numbers, size):
    """It makes no difference how many datagrams are looked at together."""
    whole, parts = Gaps(), Gaps()
    whole.follow(sequences(numbers), PEERS, 0.0)
    for start in range(0, len(numbers), size):
        parts.follow(sequences(numbers[start : start + size]), PEERS, 0.0)
    for name in ("missing", "duplicates", "reordered", "restarts"):
        assert getattr(whole, name) == getattr(parts, name)


@given(st.permutations(range(20)), st.sets(st.integers(1, 18), max_size=5))
def test_what_is_missing_in_the_end(order, lost):
    """Whatever order datagrams come in, after the first, just what is lost is missing."""
    came = [0, *(number for number in order if number and number not in lost)]
    stream = Stream(0)
    for number in came:
        stream.follow(number, 1, 1 << 32)
    assert len({each for each in lost if each < max(came)}) == stream.missing
    assert 0 == stream.duplicates


def storm(count, start=0):
    """Made-up exporters."""
    return [
        Peer("udp", (f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 1))
        for n in range(start, start + count)
    ]


def follow(gaps, peers, number, now):
    count = len(peers)
    gaps.follow(sequences([number] * count, senders=[*range(count)]), peers, now)


def test_a_storm(monkeypatch):
    """Made-up exporters push out none that is followed, and are not remembered."""
    monkeypatch.setattr(module, "_MOST_ON_PROBATION", 100)
    gaps = Gaps()
    for number in range(2):
        follow(gaps, PEERS, number, 2.0 * number)
    for turn in range(50):
        follow(gaps, storm(1000, turn * 1000), 0, 3.0 + turn / 10)
    assert len(gaps) <= 2 + 100
    follow(gaps, PEERS, 7, 20.0)
    assert (10, 0) == (gaps.missing, gaps.duplicates)


def test_places_on_probation(monkeypatch):
    """Who comes again a while later is followed for good; silence frees a place."""
    monkeypatch.setattr(module, "_MOST_ON_PROBATION", 3)
    gaps = Gaps()
    first, second = storm(3), storm(3, 3)
    follow(gaps, first, 0, 0.0)
    follow(gaps, second, 0, 0.5)  # there is no place for them
    follow(gaps, first, 5, 2.0)
    follow(gaps, second, 5, 2.5)
    follow(gaps, second, 6, 4.0)
    assert (6, 12) == (len(gaps), gaps.missing)
    others = storm(3, 6)
    follow(gaps, others, 0, 5.0)
    follow(gaps, storm(3, 9), 0, 20.0)
    assert {peer for peer, _, _ in gaps.streams()} == {*first, *second, *others}
    follow(gaps, storm(3, 12), 0, 36.0)
    assert {peer for peer, _, _ in gaps.streams()} == {*first, *second, *storm(3, 12)}


def test_places_for_good(monkeypatch):
    """When all places are taken, only one that has been silent for long is given away."""
    monkeypatch.setattr(module, "_MOST", 2)
    gaps = Gaps()
    for now in (0.0, 2.0):
        follow(gaps, PEERS, int(now / 2), now)
    for now in (3.0, 5.0, 7.0):
        follow(gaps, storm(1), int(now), now)
    assert (2, 1) == (len(gaps._streams), len(gaps._strangers))
    follow(gaps, storm(1), 700, 700.0)
    assert (2, 0) == (len(gaps._streams), len(gaps._strangers))


def test_what_is_remembered_of_one():
    """However hostile an exporter's numbers are, a kilobyte of them is remembered."""
    stream = Stream(0)
    chance = random.Random(1)
    for _ in range(5000):
        stream.follow(chance.randrange(50_000), 1, 1 << 32)
    sizes = [len(each.tobytes()) for each in (stream._holes, stream._filled) if each]
    assert sum(sizes) < 1024
