"""
Losing the stream's leader and a reader at once, midway.
"""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from protoserve.telemetry.logs.registry import open_log
from tests.running import ROOT
from tests.service.kit import until
from tests.telemetry.logs import edge
from tests.telemetry.logs.cluster import nats_cluster
from tests.telemetry.logs.trials import eventually

pytest.importorskip("nats")

EDGES, ENTRIES, RECORDS = 2, 600, 250
"""Two writers of 600 entries, 250 records each: 300,000 records."""
PATIENCE = 120.0
"""Seconds for what takes ten on an idle machine."""
NAME, GROUP = "flows", "store"


@contextlib.contextmanager
def process(*words):
    """
    Run a writer or reader; afterwards it is ended, whatever it does.
    """
    with subprocess.Popen(
        [sys.executable, "-W", "error", Path(edge.__file__), *map(str, words)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            assert "ready\n" == running.stdout.readline()
            yield running
        finally:
            running.kill()


def lines(paths):
    """
    Give the entries that are noted in some files: checksums by id, all of each.
    """
    noted = {}
    for path in paths:
        text = path.read_text() if path.exists() else ""
        for line in text.rpartition("\n")[0].splitlines():
            known_by, records, checksum = line.split()
            noted.setdefault(known_by, []).append((int(records), int(checksum)))
    return noted


@pytest.mark.slow
def test_failover(tmp_path):
    """Every acknowledged record is read, though leader and reader are killed midway."""
    written = [tmp_path / f"written{n}" for n in range(EDGES)]
    readers = [tmp_path / f"read{n}" for n in range(3)]
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(nats_cluster(3, tmp_path))
        url = f"{cluster.url}?ack_wait=5&max_bytes=256MiB"
        reading = [
            stack.enter_context(process("read", url, NAME, GROUP, path))
            for path in readers
        ]
        writing = [
            stack.enter_context(process("write", url, NAME, n, ENTRIES, RECORDS, path))
            for n, path in enumerate(written)
        ]
        total = EDGES * ENTRIES
        until(lambda: len(lines(readers)) > total // 3, PATIENCE)
        leader = cluster.leader(NAME)
        for each in writing:
            print("go on", file=each.stdin, flush=True)
        reading[0].kill()
        cluster.kill(leader)
        assert len(lines(written)) < total, "the writers were done before the fault"
        for each in writing:
            assert 0 == each.wait(PATIENCE)
        acknowledged = lines(written)
        assert total == len(acknowledged)
        until(lambda: acknowledged.keys() <= lines(readers).keys(), PATIENCE)
        for each in reading[1:]:
            each.terminate()
            assert 0 == each.wait(PATIENCE)

        noted = lines(readers)
        # Without duplicates, by id: each record once, and as it was written.
        once = {each: found[0] for each, found in noted.items()}
        assert {each: found[0] for each, found in acknowledged.items()} == once
        assert EDGES * ENTRIES * RECORDS == sum(records for records, _ in once.values())
        assert all(len(set(found)) == 1 for found in noted.values())

        # The server has dropped what was sent twice: each id is in the stream once.
        with contextlib.closing(open_log(url, name=NAME)) as log:
            for group, lag in ((GROUP, 0), ("audit", total)):
                with contextlib.closing(log.consume(group)) as consumer:
                    eventually(lag, consumer.lag)
