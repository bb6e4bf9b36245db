"""
What the soak has found, and a short one.
"""

import contextlib
import os
import signal
import sqlite3

import pytest

from tests.service.kit import until
from tests.telemetry.processes import PATIENCE, balanced, collect, sender
from tests.telemetry.soak import latest, soak
from tests.telemetry.soak_faults import holding, members
from tests.telemetry.stations import reading

pytest.importorskip("duckdb")
pytest.importorskip("prometheus_client")

WORDS = ("--listen", "udp://127.0.0.1:0", "--workers", "2", "--into", "sqlite:a.sqlite")


@contextlib.contextmanager
def stopped(pids):
    """
    Have processes do nothing.
    """
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def deliverer(running):
    """
    Wait for the process that delivers; give its number.
    """
    found = []

    def look():
        found[:] = holding(running.process.pid, ".floor")
        return found

    until(look, PATIENCE)
    return found[0]


def settled(running, count):
    """
    Say whether so many datagrams were received, and are accounted for.
    """
    figures = latest(running)
    return (figures.get("received"), figures.get("in_flight")) == (count, 0)


def kill_deliverer(running):
    """
    Kill the process that delivers, and wait for the next one.
    """
    old = deliverer(running)
    os.kill(old, signal.SIGKILL)
    until(lambda: old not in members(running.process.pid), PATIENCE)
    deliverer(running)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_the_kernel_drops_is_counted_once(tmp_path):
    """What the kernel has dropped counts once, whoever counts it and is killed."""
    words = (*WORDS, "--receive-buffer", "1MiB")
    with collect(tmp_path, *words) as running, sender(running.port) as sock:
        sock.send(reading(1))
        until(lambda: settled(running, 1), PATIENCE)
        workers = holding(running.process.pid, "writer.lock")
        with stopped(workers):
            datagram = reading(1)
            for _ in range(15_000):
                sock.send(datagram)
        until(lambda: settled(running, 15_001), PATIENCE)
        kernel = latest(running)["dropped"]["kernel"]
        assert kernel > 0
        kill_deliverer(running)
        sock.send(reading(1))
        until(lambda: settled(running, 15_002), PATIENCE)
        assert 0 == running.stop()
        assert kernel == running.last()["dropped"]["kernel"]
        assert (15_002, 15_002) == balanced(running.last())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_a_spool_has_lost_outlives_who_counts(tmp_path):
    """What had to give way in the spool is not delivered, whoever is killed afterwards."""
    words = (*WORDS, "--spool-size", "256KiB")
    count = 0
    with collect(tmp_path, *words) as running, sender(running.port) as sock:
        sock.send(reading(0))
        until(lambda: settled(running, 1), PATIENCE)
        with stopped([deliverer(running)]):

            def overflown():
                nonlocal count
                for _ in range(50):
                    count += 1
                    sock.send(reading(count, volts=range(50)))
                return "dropped to make room" in running.errors

            until(overflown, PATIENCE)
        until(lambda: settled(running, count + 1), PATIENCE)
        lost = latest(running)["dropped"]["sink"]
        assert lost > 0
        kill_deliverer(running)
        for number in range(100):
            sock.send(reading(count + 1 + number))
        until(lambda: settled(running, count + 101), PATIENCE)
        assert 0 == running.stop()
        figures = running.last()
    assert lost == figures["dropped"]["sink"]
    assert (count + 101, count + 101) == balanced(figures)
    with contextlib.closing(sqlite3.connect(tmp_path / "a.sqlite")) as store:
        sql = "select count(distinct device) from readings"
        assert (figures["delivered"],) == store.execute(sql).fetchone()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_short_soak(tmp_path):
    """Under load and faults the account is exact, and stores have each record once."""
    said = []
    wrong = soak(tmp_path, 5.0, 3, names=("netflow",), tell=said.append)
    assert [] == wrong, "\n".join(said)
