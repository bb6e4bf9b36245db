"""
``protoserve collect`` with a spool that makes room while a store is away.
"""

from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest

from protoserve.telemetry.collecting import _Outlets
from tests.service.kit import until
from tests.telemetry.processes import PATIENCE, balanced, collect, sender
from tests.telemetry.stations import reading
from tests.telemetry.test_collect import UDP, query, send_all

duckdb = pytest.importorskip("duckdb")
pytest.importorskip("prometheus_client")

WORDS = (*UDP, "--into", "a.duckdb", "--spool", "spool")
SMALL = ("--spool-size", "20KB", "--spool-full", "drop-oldest")
SINK = 'datagrams_dropped_total{reason="sink"}'
DATAGRAMS = 1000


def fill(running, sock, first=0):
    """
    Send more than the spool holds, and wait until it is told that some is lost.
    """
    send_all(sock, running, [reading(first + n) for n in range(DATAGRAMS)])
    until(lambda: running.metrics()["rows_total"] == 2 * DATAGRAMS, PATIENCE)
    until(lambda: running.metrics()[SINK] > 0, PATIENCE)


@pytest.fixture
def away(tmp_path):
    """
    Hold the store's file, so that nobody else has it.
    """
    return duckdb.connect(str(tmp_path / "a.duckdb"))


def test_loss_is_told_while_the_store_is_away(tmp_path, away):
    """What makes room counts as dropped at once, and the rest is stored in the end."""
    with (
        away,
        collect(tmp_path, *WORDS, *SMALL) as running,
        sender(running.port) as sock,
    ):
        fill(running, sock)
        figures = running.metrics()
        assert 0 == figures["datagrams_delivered_total"]
        assert DATAGRAMS == figures[SINK] + figures["datagrams_in_flight"]
        away.close()
        running.await_metric("datagrams_in_flight", 0)
        assert 0 == running.stop()
        last = running.last()
        assert (DATAGRAMS, DATAGRAMS) == balanced(last)
        assert last["delivered"] > 0
    counts = "select count(*), count(distinct device) from readings"
    stored = query(tmp_path / "a.duckdb", counts)
    assert [(2 * last["delivered"], last["delivered"])] == stored


def test_over_a_restart(tmp_path, away):
    """Each run tells what it has lost itself; what is left is stored by the next."""
    words = (*WORDS, *SMALL, "--drain", "0.3")
    with away:
        with collect(tmp_path, *words) as running, sender(running.port) as sock:
            fill(running, sock)
            assert 0 == running.stop()
            first = running.last()
        assert 0 == first["delivered"]
        assert DATAGRAMS == first["dropped"]["sink"] + first["in_flight"]
        with collect(tmp_path, *words) as running, sender(running.port) as sock:
            fill(running, sock, DATAGRAMS)
            away.close()
            running.await_metric("datagrams_in_flight", 0)
            assert 0 == running.stop()
            second = running.last()
    assert (DATAGRAMS, DATAGRAMS) == balanced(second)
    of_second = f"select count(*) from readings where device >= {DATAGRAMS}"
    assert [(2 * second["delivered"],)] == query(tmp_path / "a.duckdb", of_second)


@attrs.define
class Read:
    """
    A spool of which a group has read so far, and lost so much of that.
    """

    folder: Path
    progress: object = None


def test_losses_of_earlier_runs(tmp_path):
    """What a run that began at 100 has lost is none of what was there before."""
    folder = tmp_path / "rows"
    outlets = _Outlets(None, None, {folder: 100}, {(folder, "g"): 10})
    way = SimpleNamespace(group="g")
    found = []
    for progress in [(60, 10), (100, 50), (130, 80), (150, 80), (170, 85)]:
        spool = Read(folder, lambda _, progress=progress: progress)
        done, lost = outlets._settled(way, [spool])
        found.append((done[tmp_path], lost))
    assert [(0, 0), (0, 0), (30, 30), (50, 30), (70, 35)] == found


def test_all_is_lost_at_once(tmp_path):
    """Where one look shows all that was there before gone, and more, that is told apart."""
    folder = tmp_path / "rows"
    outlets = _Outlets(None, None, {folder: 100}, {(folder, "g"): 10})
    spool = Read(folder, lambda _: (180, 170))
    done, lost = outlets._settled(SimpleNamespace(group="g"), [spool])
    assert (80, 80) == (done[tmp_path], lost)
