"""
What every log has to do, whichever it is: the same trials for brokers and the spool.

A trial is given a `Backend`: how to open the log, and what it promises.
"""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import attrs
import pytest

from protoserve.telemetry.logs.base import LogUnavailableError
from protoserve.telemetry.logs.registry import open_log
from tests.running import ROOT
from tests.service.kit import descriptors, until

PATIENCE = 60.0
"""Seconds until something must have happened, on a busy machine."""


@attrs.frozen
class Backend:
    """
    A kind of log under trial.
    """

    open: Callable
    """Opens the log, the same one each time; `ack_wait` is the seconds after which what
    a dead reader held goes to others, if it has such."""
    url: str = ""
    name: str = ""
    """What it is opened by, with a few seconds until what a dead reader held goes to
    others."""
    stop: Callable | None = None
    """Has the broker vanish, with SIGKILL; `None`: there is none to stop."""
    start: Callable | None = None
    """Has it come back."""
    drops_duplicates: bool = True
    """Whether an id that is appended twice is there once."""
    shares: bool = True
    """Whether several members of a group are given entries at a time."""


def drained(consumer, count, *, ack=True, most=50):
    """
    Take so many entries, acknowledged or not.
    """
    entries = []
    deadline = time.monotonic() + PATIENCE
    while len(entries) < count:
        assert time.monotonic() < deadline, f"{len(entries)} of {count} came"
        with contextlib.suppress(LogUnavailableError):
            found = consumer.take(min(most, count - len(entries)), 1.0)
            entries += found
            if ack and found:
                consumer.ack(found)
    return entries


def quiet(consumer):
    """
    Say that there is nothing more.
    """
    return consumer.take(10, 0.3) == []


def eventually(expected, found):
    """
    Wait for a value: acknowledgements are on their way for a moment.
    """
    deadline = time.monotonic() + PATIENCE
    value = None
    while value != expected:
        assert time.monotonic() < deadline, f"expected {expected}, found {value}"
        with contextlib.suppress(LogUnavailableError):
            value = found()


def filled(log, count, start=0, keys=3):
    for number in range(start, start + count):
        log.append(
            f"192.0.2.{number % keys}", f"entry {number}".encode(), f"e/{number}"
        )
    log.flush()


def ids(entries):
    return [entry.id for entry in entries]


def expected_ids(count, start=0):
    return [f"e/{number}" for number in range(start, start + count)]


class Trials:
    """
    The trials; a subclass has a fixture `backend`.
    """

    def test_entries_survive(self, backend):
        """Id, key, payload and time of an entry come out as they went in."""
        before = time.time()
        with contextlib.closing(backend.open()) as log:
            payload = bytes(range(256)) * 100
            log.append("[2001:db8::1]", payload, "edge-1:7/4096 ä%")
            log.flush()
            with contextlib.closing(log.consume("g")) as consumer:
                (entry,) = drained(consumer, 1)
        assert "edge-1:7/4096 ä%" == entry.id
        assert "[2001:db8::1]" == entry.key
        assert payload == entry.payload
        assert before - 5 <= entry.time <= time.time() + 5

    def test_in_order(self, backend):
        """One reader has the entries of each key in the order of their appending."""
        with contextlib.closing(backend.open()) as log:
            filled(log, 300)
            with contextlib.closing(log.consume("g")) as consumer:
                entries = drained(consumer, 300)
        for key in {entry.key for entry in entries}:
            own = [entry for entry in entries if entry.key == key]
            numbers = [int(entry.id[2:]) for entry in own]
            assert sorted(numbers) == numbers
            sequences = [entry.sequence for entry in own]
            assert sorted(set(sequences)) == sequences
        assert sorted(expected_ids(300)) == sorted(ids(entries))

    def test_not_acknowledged(self, backend):
        """What a reader took and did not acknowledge goes to another when it leaves."""
        with contextlib.closing(backend.open(ack_wait=600)) as log:
            filled(log, 20, keys=1)
            first = log.consume("g")
            taken = drained(first, 10, ack=False)
            first.ack(taken[:4])
            first.close()
            with contextlib.closing(log.consume("g")) as second:
                again = drained(second, 16)
                assert quiet(second)
        assert sorted(expected_ids(16, 4)) == sorted(ids(again))

    def test_groups(self, backend):
        """Each group has all entries, however late it comes."""
        with contextlib.closing(backend.open()) as log:
            filled(log, 10)
            for group in ("one", "two"):
                with contextlib.closing(log.consume(group)) as consumer:
                    assert set(expected_ids(10)) == set(ids(drained(consumer, 10)))

    def test_goes_on(self, backend):
        """A group goes on where it was, after everybody has left."""
        with contextlib.closing(backend.open()) as log:
            filled(log, 10)
            with contextlib.closing(log.consume("g")) as consumer:
                drained(consumer, 10)
        with contextlib.closing(backend.open()) as log:
            filled(log, 5, start=10)
            with contextlib.closing(log.consume("g")) as consumer:
                found = drained(consumer, 5)
                assert quiet(consumer)
        assert set(expected_ids(5, 10)) == set(ids(found))

    def test_members(self, backend):
        """Members of a group have all entries between them, and each has some."""
        if not backend.shares:
            pytest.skip("one member at a time is given entries")
        with contextlib.closing(backend.open()) as log:
            filled(log, 100)
            one, two = log.consume("g"), log.consume("g")
            with contextlib.closing(one), contextlib.closing(two):
                found = {one: [], two: []}
                deadline = time.monotonic() + PATIENCE
                while len(found[one]) + len(found[two]) < 100:
                    assert time.monotonic() < deadline, found
                    for consumer, own in found.items():
                        taken = consumer.take(10, 0.5)
                        consumer.ack(taken)
                        own += ids(taken)
        assert sorted(expected_ids(100)) == sorted(found[one] + found[two])
        assert found[one]
        assert found[two]

    def test_duplicates(self, backend):
        """An entry that is appended twice is there once."""
        if not backend.drops_duplicates:
            pytest.skip("this log knows ids from one run of a writer only")
        with contextlib.closing(backend.open()) as log:
            filled(log, 10)
            filled(log, 12)
        with contextlib.closing(backend.open()) as log:
            filled(log, 14)
            with contextlib.closing(log.consume("g")) as consumer:
                found = drained(consumer, 14)
                assert quiet(consumer)
        assert sorted(expected_ids(14)) == sorted(ids(found))

    def test_replay(self, backend):
        """A group goes back to the first entry, and to any it has seen."""
        with contextlib.closing(backend.open()) as log:
            filled(log, 30, keys=1)
            with contextlib.closing(log.consume("g")) as consumer:
                first = drained(consumer, 30)
                for beginning in (0, 1):
                    consumer.seek(sequence=beginning)
                    assert ids(first) == ids(drained(consumer, 30))
                consumer.seek(sequence=first[12].sequence)
                assert expected_ids(18, 12) == ids(drained(consumer, 18))
                consumer.seek(sequence=first[-1].sequence + (1 << 20))
                assert quiet(consumer)

    def test_replay_by_time(self, backend):
        """A group goes to a moment: what was appended before it is left out."""
        with contextlib.closing(backend.open()) as log:
            filled(log, 10, keys=1)
            with contextlib.closing(log.consume("g")) as consumer:
                latest = drained(consumer, 10)[-1].time
                # Times are whole milliseconds in some logs.
                while time.time() <= latest + 0.002:
                    time.sleep(0.001)
                moment = time.time()
                filled(log, 5, start=10, keys=1)
                drained(consumer, 5)
                consumer.seek(time=moment)
                assert expected_ids(5, 10) == ids(drained(consumer, 5))
                consumer.seek(time=0.0)
                assert expected_ids(15) == ids(drained(consumer, 15))

    def test_lag(self, backend):
        """The lag counts what is not acknowledged, taken or not."""
        with contextlib.closing(backend.open()) as log:
            filled(log, 30, keys=1)
            with contextlib.closing(log.consume("g")) as consumer:
                taken = drained(consumer, 10, ack=False)
                eventually(30, consumer.lag)
                consumer.ack(taken)
                eventually(20, consumer.lag)
                drained(consumer, 20)
                eventually(0, consumer.lag)
                consumer.seek(sequence=taken[5].sequence)
                eventually(25, consumer.lag)

    def test_slow_reader(self, backend):
        """A reader that takes long does not hold up writing, and misses nothing."""
        with contextlib.closing(backend.open()) as log:
            filled(log, 100, keys=1)
            with contextlib.closing(log.consume("g")) as consumer:
                held = drained(consumer, 5, ack=False)
                filled(log, 900, start=100, keys=1)
                eventually(1000, consumer.lag)
                consumer.ack(held)
                rest = drained(consumer, 995, most=200)
        assert expected_ids(1000) == ids(held + rest)

    def test_too_large(self, backend):
        """An entry that no log takes is refused, and says how large it may be."""
        with contextlib.closing(backend.open()) as log:
            limit = log.max_entry
            log.append("a", bytes(limit), "e/0")
            with pytest.raises(
                ValueError, match=rf"e/1: expected at most {limit} byte"
            ):
                log.append("a", bytes(limit + 1), "e/1")
            log.flush()
            with contextlib.closing(log.consume("g")) as consumer:
                assert [limit] == [len(e.payload) for e in drained(consumer, 1)]

    def test_given_back(self, backend):
        """What a dead reader held goes to others; what a living one holds does not."""
        if not backend.url:
            pytest.skip("who has what is the broker's business, or there is one reader")
        with (
            contextlib.closing(open_log(backend.url, name=backend.name)) as log,
            contextlib.closing(log.consume("g")) as living,
            contextlib.closing(log.consume("g")) as other,
        ):
            filled(log, 15, keys=1)
            held = drained(living, 5, ack=False)
            # It takes 10, acknowledges 4, says so, and is killed.
            words = [sys.executable, __file__, backend.url, backend.name]
            with subprocess.Popen(
                words, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
            ) as reader:
                assert b"held\n" == reader.stdout.readline()
                reader.kill()
            # The living one has its own for longer than the time that is given now.
            assert set(expected_ids(6, 9)) == set(ids(drained(other, 6)))
            assert quiet(other)
            living.ack(held)
            eventually(0, other.lag)

    def test_threads(self, backend):
        """Several threads append and flush at once, and all of it is there."""
        failed = []

        def write(log, start):
            try:
                for begin in range(start, start + 60, 20):
                    filled(log, 20, begin)
            except Exception as exc:
                failed.append(exc)

        with contextlib.closing(backend.open()) as log:
            threads = [
                threading.Thread(target=write, args=(log, n * 60)) for n in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
            with contextlib.closing(log.consume("g")) as consumer:
                found = ids(drained(consumer, 240))
        assert [] == failed
        assert sorted(expected_ids(240)) == sorted(found)

    def test_frees(self, backend):
        """Closing leaves no thread and no descriptor behind, and may be done twice."""
        with contextlib.closing(backend.open()) as log:  # what is opened once for all
            filled(log, 1)
        before = descriptors(), threading.active_count()
        log = backend.open()
        filled(log, 10, start=1)
        consumer = log.consume("g")
        drained(consumer, 3, ack=False)
        for _ in range(2):
            consumer.close()
            log.close()
        until(lambda: threading.active_count() <= before[1], PATIENCE)
        until(lambda: descriptors() <= before[0], PATIENCE)
        with pytest.raises(LogUnavailableError):
            filled(log, 1)

    def test_broker_returns(self, backend):
        """While the broker is away, writing says so; then nothing has been lost."""
        if backend.stop is None:
            pytest.skip("no broker to stop")
        with contextlib.closing(backend.open(patience=1.0)) as log:
            filled(log, 50)
            with contextlib.closing(log.consume("g")) as consumer:
                taken = drained(consumer, 20)
                backend.stop()
                with pytest.raises(LogUnavailableError, match=r"^\w+://[^\n]*$"):
                    filled(log, 50, start=50)
                with pytest.raises(LogUnavailableError, match=r"^\w+://[^\n]*$"):
                    while True:
                        consumer.take(1, 0.1)
                backend.start()
                deadline = time.monotonic() + PATIENCE
                while True:
                    with contextlib.suppress(LogUnavailableError):
                        filled(log, 50, start=50)
                        break
                    assert time.monotonic() < deadline
                found = set(ids(taken))
                while len(found) < 100:
                    assert time.monotonic() < deadline, len(found)
                    with contextlib.suppress(LogUnavailableError):
                        some = consumer.take(50, 1.0)
                        consumer.ack(some)
                        found |= set(ids(some))
        assert set(expected_ids(100)) == found


def hold(url, name):
    """
    Take ten entries, acknowledge four, and wait to be killed.
    """
    log = open_log(url, name=name)
    consumer = log.consume("g")
    consumer.ack(drained(consumer, 10, ack=False)[:4])
    print("held", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    hold(*sys.argv[1:])
