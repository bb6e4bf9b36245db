"""
``protoserve collect --to`` and ``protoserve work``: edges, a log, and workers.
"""

import contextlib
import json
import os
import signal
import sqlite3
import struct

import pytest

from protocols.netflow.prefacing import template_datagrams
from protocols.netflow.templates import Template
from protoserve.telemetry.workers import _groups
from tests.service.kit import until
from tests.telemetry.logs.cluster import nats_cluster
from tests.telemetry.processes import PATIENCE, balanced, collect, command, sender
from tests.telemetry.stations import Notes, framed, reading

pytest.importorskip("nats")
pytest.importorskip("prometheus_client")

UDP = ("--listen", "udp://127.0.0.1:0")
STATIONS = "tests.telemetry.stations"
SAMPLES = 200
"""Records of a datagram."""


def work(folder, log, group, *words, target=f"{STATIONS}:stations", **environment):
    """
    Run a worker.
    """
    words = ("--from", log, "--group", group, "--json", *words)
    return command(folder, "work", target, *words, **environment)


def send_readings(running, first, count):
    """
    Send datagrams of many records, as fast as the collector takes them.
    """
    with sender(running.port) as sock:
        before = running.metrics()["datagrams_received_total"]
        for start in range(0, count, 100):
            for number in range(start, min(start + 100, count)):
                sock.send(reading(first + number, number, volts=range(SAMPLES)))
            running.await_metric(
                "datagrams_received_total", before + min(start + 100, count)
            )


def test_the_same_handler(tmp_path):
    """A worker gives a handler what a collector has received, with its senders."""
    kept = tmp_path / "kept"
    with (
        nats_cluster(1, tmp_path) as cluster,
        collect(tmp_path / "edge", *UDP, "--to", cluster.url) as edge,
        work(
            tmp_path / "worker",
            cluster.url,
            "keepers",
            target=f"{STATIONS}:app",
            KEEPER_FILE=str(kept),
        ) as worker,
    ):
        send_readings(edge, 0, 300)
        with sender(edge.port) as sock:
            sock.send(b"no message")
        edge.await_metric("datagrams_delivered_total", 300)
        until(
            lambda: kept.exists() and kept.read_text().count("\n") == 300 * SAMPLES,
            PATIENCE,
        )
        assert 0 == worker.stop()
        assert 0 == edge.stop()
        assert (301, 301) == balanced(edge.last())
        assert (300, 300) == balanced(worker.last())
    lines = kept.read_text().splitlines()
    assert {f"{number} 127.0.0.1" for number in range(300)} == set(lines)


def test_from_the_beginning(tmp_path):
    """A group reads all that the log has again, and stores nothing twice."""
    with (
        nats_cluster(1, tmp_path) as cluster,
        collect(tmp_path / "edge", *UDP, "--to", cluster.url) as edge,
    ):
        send_readings(edge, 0, 50)
        edge.await_metric("datagrams_delivered_total", 50)
        for turn in range(2):
            since = ("--since", "1") if turn else ()
            into = ("--into", "sqlite:store.sqlite")
            with work(tmp_path / "worker", cluster.url, "g", *into, *since) as worker:
                until(lambda worker=worker: delivered(worker) == 50, PATIENCE)
                assert 0 == worker.stop()
            (tmp_path / "worker" / "stdout").unlink()
        assert 50 * SAMPLES == count(tmp_path / "worker")


def test_refused_by_the_store(tmp_path):
    """Datagrams whose rows the store has refused are dropped, and not delivered."""
    with contextlib.closing(sqlite3.connect(tmp_path / "store.sqlite")) as store:
        store.execute("create table lines (text boolean)")
    into = ("--into", f"sqlite:{tmp_path}/store.sqlite")
    with (
        nats_cluster(1, tmp_path) as cluster,
        collect(tmp_path / "edge", *UDP, "--to", cluster.url) as edge,
    ):
        send_readings(edge, 0, 50)
        edge.await_metric("datagrams_delivered_total", 50)
        with sender(edge.port) as sock:
            for _ in range(7):
                sock.send(framed(Notes(7, ["noted"]), 2))
            edge.await_metric("datagrams_delivered_total", 57)
        with work(tmp_path / "worker", cluster.url, "g", *into) as worker:
            until(lambda: count(tmp_path) == 50 * SAMPLES, PATIENCE)
            until(lambda: "refused" in worker.errors, PATIENCE)
            assert 0 == worker.stop()
            last = worker.last()
        assert 0 == edge.stop()
    assert (57, 57) == balanced(last)
    assert (50, 7) == (last["delivered"], last["dropped"]["sink"])


@pytest.mark.parametrize("target", ["stations", "app"])
def test_a_log_that_is_away(tmp_path, target):
    """What cannot be reached is told, and is not waited for in the end."""
    into = ("--into", "sqlite:store.sqlite") if target == "stations" else ()
    away = "nats://127.0.0.1:9"
    patient = ("--drain", "600")
    whole = f"{STATIONS}:{target}"
    with work(tmp_path, away, "g", *into, *patient, target=whole) as worker:
        until(lambda: "Connect call failed" in worker.errors, PATIENCE)
        assert 0 == worker.stop()


def test_groups():
    """A way's group does not depend on the sinks behind it, nor on other kinds."""
    kinds = ["", "sqlite", "duckdb", "sqlite"]
    assert ["g", "g-sqlite", "g-duckdb", "g-sqlite-2"] == _groups("g", kinds)
    assert ["g", "g-duckdb"] == _groups("g", ["sqlite", "duckdb"])
    assert ["g"] == _groups("g", [""])


def test_a_place_that_cannot_be_written(tmp_path):
    """A sink that can store nothing is told before anything is begun."""
    words = ("work", f"{STATIONS}:stations", "--from", "nats://127.0.0.1:9")
    words += ("--group", "g", "--into", f"sqlite:{tmp_path}")
    with command(tmp_path, *words) as worker:
        assert 2 == worker.process.wait(PATIENCE)
        assert "it cannot be written: Is a directory" in worker.errors


def delivered(worker):
    """
    Say how many datagrams a worker has brought to where they go, by what it said last.
    """
    whole = worker.output.rpartition("\n")[0]
    return json.loads(whole.rpartition("\n")[2])["delivered"] if whole else 0


def count(folder):
    """
    Count the rows that are stored.
    """
    path = folder / "store.sqlite"
    if not path.exists():
        return 0
    with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE)) as store:
        try:
            return store.execute("select count(*) from readings").fetchone()[0]
        except sqlite3.OperationalError:  # no table yet
            return 0


def test_templates_go_along(tmp_path):
    """A worker that has never seen an exporter's templates can read its flows."""
    template = Template.of(256, [(8, 4), (12, 4), (1, 4)], version=9)
    address = {"sourceIPv4Address": "192.0.2.1", "destinationIPv4Address": "192.0.2.2"}
    body = template.encode([{**address, "octetDeltaCount": 7}])
    (templates,) = template_datagrams([(5, template)], 0.0)
    flows = struct.pack(">HHIIIIHH", 9, 1, 0, 0, 1, 5, 256, 4 + len(body)) + body
    netflow = "protocols.netflow:netflow"
    with (
        nats_cluster(1, tmp_path) as cluster,
        collect(tmp_path / "edge", *UDP, "--to", cluster.url, protocol=netflow) as edge,
        sender(edge.port) as sock,
    ):
        sock.send(templates)
        edge.await_metric("datagrams_delivered_total", 1)
        sock.send(flows)
        edge.await_metric("datagrams_delivered_total", 2)
        words = ("--into", "jsonl:flows.jsonl", "--since", "2")
        with work(tmp_path / "w", cluster.url, "g", *words, target=netflow) as worker:
            until(lambda: delivered(worker) == 1, PATIENCE)
            assert 0 == worker.stop()
    (line,) = (tmp_path / "w" / "flows.jsonl").read_text().splitlines()
    assert {**address, "octetDeltaCount": 7}.items() <= json.loads(line).items()


EDGES, DATAGRAMS = 2, 750
"""Two edges, 750 datagrams of 200 records each: 300,000 records."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_failover(tmp_path):
    """No record that was acknowledged is lost, or stored twice, whoever is killed."""
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(nats_cluster(3, tmp_path))
        edges = [
            stack.enter_context(
                collect(tmp_path / f"edge{number}", *UDP, "--to", cluster.url)
            )
            for number in range(EDGES)
        ]
        into = ("--into", f"sqlite:{tmp_path / 'store.sqlite'}?max_age=0.2")
        log = f"{cluster.url}?ack_wait=3"
        workers = [
            stack.enter_context(work(tmp_path / f"worker{number}", log, "store", *into))
            for number in range(3)
        ]
        for number, edge in enumerate(edges):
            send_readings(edge, number * 10_000, DATAGRAMS // 2)
        until(lambda: count(tmp_path) > 0, PATIENCE)
        cluster.kill(cluster.leader("stations"))
        os.killpg(workers[0].process.pid, signal.SIGKILL)
        for number, edge in enumerate(edges):
            rest = DATAGRAMS - DATAGRAMS // 2
            send_readings(edge, number * 10_000 + DATAGRAMS // 2, rest)
        for edge in edges:
            until(
                lambda edge=edge: edge.metrics()["datagrams_in_flight"] == 0,
                2 * PATIENCE,
            )
            assert (DATAGRAMS, 0) == (
                edge.metrics()["datagrams_delivered_total"],
                sum(v for k, v in edge.metrics().items() if "dropped" in k),
            )
        total = EDGES * DATAGRAMS * SAMPLES
        until(lambda: count(tmp_path) >= total, 2 * PATIENCE)
        for each in [*workers[1:], *edges]:
            assert 0 == each.stop()
    with contextlib.closing(sqlite3.connect(tmp_path / "store.sqlite")) as store:
        sql = "select count(*), count(distinct device * 1000 + channel) from readings"
        assert (300_000, 300_000) == store.execute(sql).fetchone()
