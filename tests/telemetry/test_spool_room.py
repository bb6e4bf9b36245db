"""
What makes room in a spool while its reader waits: lost at once, and counted once.
"""

import random

import pytest

from protoserve.telemetry.segments import list_segments
from protoserve.telemetry.spool import Spool
from tests.telemetry.test_spool import all_of, fill, numbers

EACH = 7
"""Datagrams that an entry stands for."""


def small(folder):
    """A spool of four segments, with some eight entries each."""
    return Spool(folder, max_size=40_000, segment_size=10_000)


def first(spool):
    """The sequence of the oldest entry that is there."""
    return list_segments(spool.folder)[0].first


def test_lost_as_soon_as_it_is_gone(tmp_path):
    """What was never read and is gone is lost, whatever is still in hand."""
    with small(tmp_path) as spool:
        consumer = spool.consume("g")
        fill(spool, range(100, 110), count=EACH)
        held = consumer.take(3, 0.0)
        fill(spool, range(110, 200), count=EACH)
        assert (0, 0) == spool.progress("g")
        consumer.lag()
        gone = (first(spool) - 1 - len(held)) * EACH
        assert (gone, gone) == spool.progress("g")
        consumer.ack(held)
        assert (gone + 3 * EACH, gone) == spool.progress("g")
        rest = all_of(consumer)
        assert first(spool) + 99 <= numbers(rest)[0]
        assert (spool.total, gone) == spool.progress("g")
        assert 100 * EACH == spool.total
        assert gone + (3 + len(rest)) * EACH == spool.total
        assert gone == spool.stats.lost["g"]["full"].count
        consumer.close()


def test_nothing_is_read_that_counts_as_lost(tmp_path):
    """What was read ahead of what is gone is not given any more once it counts as lost."""
    with small(tmp_path) as spool:
        consumer = spool.consume("g")
        fill(spool, range(100, 105), count=EACH)
        assert [100] == numbers(consumer.take(1, 0.0))
        fill(spool, range(105, 200), count=EACH)
        consumer.lag()
        assert first(spool) + 99 == numbers(consumer.take(1, 0.0))[0]
        consumer.close()


def test_many_times(tmp_path):
    """However often room is made meanwhile, it is all one gap."""
    with small(tmp_path) as spool:
        consumer = spool.consume("g")
        fill(spool, range(10), count=EACH)
        held = consumer.take(1, 0.0)
        for start in range(10, 400, 10):
            fill(spool, range(start, start + 10), count=EACH)
            consumer.lag()
        assert 1 == len(consumer._gaps)
        consumer.ack(held)
        all_of(consumer)
        position, lost = spool.progress("g")
        assert (spool.total, 400 * EACH) == (position, position)
        assert lost == spool.stats.lost["g"]["full"].count
        consumer.close()


def test_who_leaves_gives_up_what_is_gone(tmp_path):
    """What was in hand and is gone is lost when its reader leaves, and not once more."""
    with small(tmp_path) as spool:
        consumer = spool.consume("g")
        fill(spool, range(100, 110), count=EACH)
        consumer.take(3, 0.0)
        fill(spool, range(110, 200), count=EACH)
        consumer.lag()
        consumer.close()
        gone = (first(spool) - 1) * EACH
        assert (gone, gone) == spool.progress("g")
        again = spool.consume("g")
        assert again.lag() == len(all_of(again))
        assert (spool.total, gone) == spool.progress("g")
        again.close()


@pytest.mark.parametrize("seed", range(8))
def test_all_is_dealt_with_once(tmp_path, seed):
    """Whatever is done in whatever order, each datagram is acknowledged or lost."""
    chance = random.Random(seed)
    acknowledged = 0
    before = (0, 0)
    with small(tmp_path) as spool:
        consumer = spool.consume("g")
        held = []
        for number in range(0, 1500, 5):
            fill(spool, range(number, number + 5), count=EACH)
            step = chance.choice(
                ["take", "ack", "ack some", "look", "leave", "", "", ""]
            )
            if step == "take":
                held += consumer.take(chance.randrange(1, 9), 0.0)
            elif step == "ack":
                acknowledged += sum(entry.count for entry in held)
                consumer.ack(held)
                held = []
            elif step == "ack some":
                chance.shuffle(held)
                some, held = held[:2], held[2:]
                acknowledged += sum(entry.count for entry in some)
                consumer.ack(some)
            elif step == "look":
                consumer.lag()
                assert before <= spool.progress("g")
                before = spool.progress("g")
            elif step == "leave":  # what is in hand comes again, or is gone
                consumer.close()
                held = []
                consumer = spool.consume("g")
        consumer.ack(held)
        acknowledged += sum(entry.count for entry in held)
        acknowledged += sum(entry.count for entry in all_of(consumer))
        position, lost = spool.progress("g")
        assert spool.total == position
        assert spool.total == acknowledged + lost
        consumer.close()
