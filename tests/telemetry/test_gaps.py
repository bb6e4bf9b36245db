"""
Gaps in exporters' numbers.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protoserve import Peer
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
    gaps.follow(sequences(numbers), PEERS)
    assert found == (gaps.missing, gaps.duplicates, gaps.reordered, gaps.restarts)


def test_steps():
    """A counter of records goes on by as many as a datagram has."""
    gaps = Gaps()
    gaps.follow(sequences([0, 30, 90], steps=30), PEERS)
    assert 30 == gaps.missing


def test_many_that_are_lost_at_once():
    """However many a datagram counts for, it is datagrams that make a gap a long one."""
    gaps = Gaps()
    gaps.follow(sequences([0, 30 * 50_000], steps=30), PEERS)
    assert (30 * 49_999, 0) == (gaps.missing, gaps.restarts)


def test_narrow_counters():
    """A counter of 16 bits begins anew at zero."""
    gaps = Gaps()
    gaps.follow(sequences([65_534, 65_535, 1], bits=16), PEERS)
    assert 1 == gaps.missing


def test_exporters_are_told_apart():
    """Each exporter has a counter of its own, whatever order they come in."""
    gaps = Gaps()
    gaps.follow(sequences([1, 100, 2, 101, 103], senders=[0, 1, 0, 1, 1]), PEERS)
    gaps.follow(sequences([3, 104], senders=[0, 1]), PEERS)
    assert (1, 2) == (gaps.missing, len(gaps))


@given(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 20))
def test_any_cut_gives_the_same(numbers, size):
    """It makes no difference how many datagrams are looked at together."""
    whole, parts = Gaps(), Gaps()
    whole.follow(sequences(numbers), PEERS)
    for start in range(0, len(numbers), size):
        parts.follow(sequences(numbers[start : start + size]), PEERS)
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
