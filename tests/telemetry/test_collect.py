"""
``protoserve collect`` as its users see it.
"""

import contextlib
import json
import os
import signal
import socket
import sqlite3
import struct
import sys
from pathlib import Path

import pytest

from examples.netflow_exporter import datagrams
from protoserve.journal import read_journal
from protoserve.telemetry.collecting import Collecting, Settings
from protoserve.urls import Address
from tests.coalescing import gro, send_together
from tests.service.kit import until
from tests.telemetry.processes import PATIENCE, balanced, collect, command, sender
from tests.telemetry.stations import Notes, Status, framed, reading, stations

duckdb = pytest.importorskip("duckdb")
pytest.importorskip("prometheus_client")

UDP = ("--listen", "udp://127.0.0.1:0")
NETFLOW = "protocols.netflow:netflow"


def query(path, sql):
    """
    Ask a DuckDB file something; give all rows.
    """
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.sql(sql).fetchall()


def send_all(sock, running, datagrams):
    """
    Send datagrams, a few at a time, so that the kernel's queue holds them.
    """
    before = running.metrics()["datagrams_received_total"]
    for start in range(0, len(datagrams), 200):
        for datagram in datagrams[start : start + 200]:
            sock.send(datagram)
        count = before + min(start + 200, len(datagrams))
        running.await_metric("datagrams_received_total", count)


def test_rows_of_all_kinds(tmp_path):
    """Records, row objects and varying messages each have a table; bad ones are kept."""
    into = ("--into", "a.duckdb", "--into", "jsonl:rows.jsonl")
    with collect(tmp_path, *UDP, *into) as running, sender(running.port) as sock:
        good = [reading(number, number) for number in range(1000)]
        notes = framed(Notes(7, ["first", "second"]), 2)
        status = framed(Status(8, "über"), 3)
        bad = [b"", b"\xff" * 9, framed(Notes(7, ["fail"]), 2), good[0][:-1]]
        send_all(sock, running, [*good, notes, status, *bad])
        running.await_metric("datagrams_delivered_total", 1002)
        running.await_metric("datagrams_in_flight", 0)
        figures = running.metrics()
        assert 4 == figures['datagrams_dropped_total{reason="malformed"}']
        assert 0 == running.stop()
        assert (1006, 1006) == balanced(running.last())
    rows = query(
        tmp_path / "a.duckdb",
        "select device, channel, volts, exporter from readings order by all limit 3",
    )
    host = "127.0.0.1"
    assert [(0, 0, 1.0, host), (0, 1, 2.0, host), (1, 0, 1.0, host)] == rows
    assert [(2000,)] == query(tmp_path / "a.duckdb", "select count(*) from readings")
    lines = query(tmp_path / "a.duckdb", "select device, text from lines order by text")
    assert [(7, "first"), (7, "second")] == lines
    assert [(8, "über")] == query(
        tmp_path / "a.duckdb", "select device, name from status"
    )
    said = [json.loads(x) for x in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert 2003 == len(said)
    letters = [*read_journal(tmp_path / "stations-spool" / "dead-letters.jsonl")]
    assert sorted(bad) == sorted(letter.raw for letter in letters)
    assert all(letter.outcome.startswith("malformed: ") for letter in letters)


@gro
@pytest.mark.parametrize("workers", ["1", "2"])
def test_coalesced(tmp_path, workers):
    """What the kernel has put together is counted and stored one by one."""
    options = ("--gro", "--into", "a.duckdb", "--workers", workers)
    with collect(tmp_path, *UDP, *options) as running, sender(running.port) as sock:
        good = [reading(number, number) for number in range(1000)]
        notes = [framed(Notes(n, ["text"]), 2) for n in range(10)]
        for datagrams in (good[:500], notes, [b"\xff" * 9], good[500:]):
            send_together(sock, datagrams)
        running.await_metric("datagrams_delivered_total", 1010)
        assert 0 == running.stop()
        assert (1011, 1011) == balanced(running.last())
    assert [(2000,)] == query(tmp_path / "a.duckdb", "select count(*) from readings")
    assert [(10,)] == query(tmp_path / "a.duckdb", "select count(*) from lines")


def test_streams(tmp_path):
    """Frames of streams are rows too; a stream that makes no sense costs only itself."""
    listen = ("--listen", "tcp://127.0.0.1:0")
    with collect(tmp_path, *listen, "--into", "a.duckdb") as running:
        place = ("127.0.0.1", running.port)
        with socket.create_connection(place, PATIENCE) as sock:
            for number in range(50):
                datagram = reading(number)
                sock.sendall(struct.pack(">H", len(datagram)) + datagram)
            sock.sendall(struct.pack(">H", 3) + b"\xff\xff\xff")
            datagram = reading(50)
            sock.sendall(struct.pack(">H", len(datagram)) + datagram)
            running.await_metric("datagrams_delivered_total", 51)
        figures = running.metrics()
        assert 1 == figures['datagrams_dropped_total{reason="malformed"}']
        assert 0 == running.stop()
    found = query(tmp_path / "a.duckdb", "select count(distinct device) from readings")
    assert [(51,)] == found


def test_filter_and_select(tmp_path):
    """Rows and columns are chosen by SQL, and a file may say it all."""
    (tmp_path / "collect.yaml").write_text(
        "protocol: tests.telemetry.stations:stations\n"
        "listen: udp://127.0.0.1:0\n"
        "into: [jsonl:rows.jsonl]\n"
        "filter: channel = 1 and device >= 5\n"
        "select: device, volts * 1000 as millivolts\n"
        "metrics: 127.0.0.1:0\n"
    )
    with command(
        tmp_path, "collect", "--config", "collect.yaml", "--filter", "channel = 0"
    ) as running:
        with sender(running.port) as sock:
            for number in range(10):
                sock.send(reading(number))
            running.await_metric("datagrams_delivered_total", 10)
        assert 0 == running.stop()
    rows = [json.loads(x) for x in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert 10 == len(rows)
    assert {"device": 3, "millivolts": 1000.0} == {
        name: rows[3][name] for name in ("device", "millivolts")
    }


def test_refused_by_one_of_several(tmp_path):
    """What one store or another has refused is dropped, and not delivered."""
    words = list(UDP)
    for table, column in ("readings", "volts"), ("lines", "text"):
        with sqlite3.connect(tmp_path / f"{table}.sqlite") as database:
            database.execute(f"create table {table} ({column} boolean)")
        words += ["--into", f"{table}.sqlite"]
    with collect(tmp_path, *words) as running, sender(running.port) as sock:
        send_all(sock, running, [reading(number) for number in range(5)])
        running.await_metric('datagrams_dropped_total{reason="sink"}', 5)
        send_all(sock, running, [framed(Notes(7, ["noted"]), 2)] * 3)
        running.await_metric("datagrams_in_flight", 0)
        assert 0 == running.stop()
        last = running.last()
    assert (0, 8) == (last["delivered"], last["dropped"]["sink"])
    assert [1, 1] == [sink["refused"] > 0 for sink in last["sinks"]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--into", "a.duckdb"), "there is no --listen"),
        (UDP, "nowhere to collect into"),
        ((*UDP, "--into", "duckbd:a"), "did you mean duckdb"),
        ((*UDP, "--into", "a.duckdb", "--filter", "a >"), "filter or select: "),
        ((*UDP, "--into", "no/a.duckdb"), "cannot be written: no: No such file"),
        ((*UDP, "--into", "a.duckdb", "--filter", ""), "filter: expected SQL"),
        ((*UDP, "--into", "a.duckdb", "--select", " "), "select: expected SQL"),
        ((*UDP, "--into", "a.duckdb", "--queue", "many"), "expected a size"),
        (
            (*UDP, "--into", "a", "--spool-size", "0"),
            "--spool-size: expected more than",
        ),
        (("--listen", "tcp://127.0.0.1:0", "--into", "a", "--gro"), "--gro is for UDP"),
        ((*UDP, "--into", "a", "--receive-buffer", "2GiB"), "at most 1073741824 bytes"),
        ((*UDP, "--into", "a.duckdb", "--metrics", "there"), "expected HOST:PORT"),
        ((*UDP, "--to", "nast://a"), "did you mean nats"),
        ((*UDP, "--into", "a.duckdb", "--config", "no.yaml"), "cannot read no.yaml"),
    ],
)
def test_wrong_use(tmp_path, words, said):
    """What is wrong with the command is one line, and the exit code is 2."""
    with command(
        tmp_path, "collect", "tests.telemetry.stations:stations", *words
    ) as running:
        assert 2 == running.process.wait(PATIENCE)
        assert said in running.errors
        assert 1 == len(running.errors.splitlines())


def test_gaps(tmp_path):
    """What exporters have counted and was not received is told."""
    words = (*UDP, "--into", "jsonl:rows.jsonl")
    with collect(tmp_path, *words) as running, sender(running.port) as sock:
        numbers = [0, 1, 2, 5, 6, 4, 6, 7, 20]
        send_all(sock, running, [reading(1, number) for number in numbers])
        running.await_metric("datagrams_delivered_total", len(numbers))
        figures = running.metrics()
        assert 13 == figures["sequence_missing"]
        assert 1 == figures["sequence_reordered_total"]
        assert 1 == figures["sequence_duplicates_total"]
        of = '{exporter="127.0.0.1"}'
        until(lambda: "exporter_sequence_missing" + of in running.metrics(), PATIENCE)
        assert 13 == running.metrics()["exporter_sequence_missing" + of]
        assert 0 == running.stop()
        (losses,) = running.last()["losses"]
        assert {"exporter": "127.0.0.1", "missing": 13}.items() <= losses.items()


def test_killed_and_started_again(tmp_path):
    """What is in the spool when a collector is killed is stored by the next one, once."""
    words = (*UDP, "--into", "postgresql://nobody@127.0.0.1:1/nothing")
    spool = ("--spool", "spool")
    with collect(tmp_path, *words, *spool) as running, sender(running.port) as sock:
        send_all(sock, running, [reading(number) for number in range(500)])
        until(lambda: running.metrics()["sink_lag_entries" + SINK] >= 1, PATIENCE)
        until(lambda: running.metrics()["rows_total"] == 1000, PATIENCE)
        assert 500 == running.metrics()["datagrams_in_flight"]
        os.killpg(running.process.pid, signal.SIGKILL)
        running.process.wait(PATIENCE)
    for _ in range(2):
        words = (*UDP, "--into", "a.duckdb", *spool)
        with collect(tmp_path, *words) as running, sender(running.port) as sock:
            sock.send(reading(1000))
            running.await_metric("datagrams_delivered_total", 1)
            assert 0 == running.stop()
            assert (1, 1) == balanced(running.last())
    counts = "select count(*), count(distinct device) from readings"
    assert [(1004, 501)] == query(tmp_path / "a.duckdb", counts)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_killed_with_something_in_memory(tmp_path, workers):
    """What is lost with all processes is counted by the run that follows, exactly."""
    words = (*UDP, "--workers", workers, "--into", "arrow:flows", "--spool", "spool")
    flows = [*datagrams(5, 400, 10)]
    waiting = [*datagrams(10, 200, 10)][1:]
    """The template is in the first."""
    with (
        collect(tmp_path, *words, protocol=NETFLOW) as running,
        sender(running.port) as sock,
    ):
        send_all(sock, running, flows)
        running.await_metric("datagrams_delivered_total", len(flows))
        send_all(sock, running, waiting)
        assert len(waiting) == running.metrics()["datagrams_in_flight"]
        os.killpg(running.process.pid, signal.SIGKILL)
        running.process.wait(PATIENCE)
    for lost in (len(waiting), 0):
        with (
            collect(tmp_path, *words, protocol=NETFLOW) as running,
            sender(running.port) as sock,
        ):
            send_all(sock, running, flows[:1])
            running.await_metric("datagrams_delivered_total", 1)
            assert 0 == running.stop()
            assert (1 + lost, 1 + lost) == balanced(running.last())
            assert lost == running.last()["dropped"]["killed"]
            told = f"{lost} datagrams that the last run had in memory when it ended"
            assert (lost > 0) == (told in running.errors)


SINK = '{sink="postgresql://127.0.0.1:1/nothing"}'


@pytest.mark.parametrize("spread", ["exporter", "datagram"])
def test_workers(tmp_path, spread):
    """Several processes receive; one that is killed loses only what it had in hand."""
    words = ("--workers", "2", "--spread", spread)
    with (
        collect(tmp_path, *UDP, *words, "--into", "a.duckdb") as running,
        contextlib.ExitStack() as stack,
    ):
        senders = [stack.enter_context(sender(running.port)) for _ in range(8)]

        def send(first):
            before = running.metrics()["datagrams_received_total"]
            for number in range(400):
                senders[number % 8].send(reading(number % 8, first + number))
            running.await_metric("datagrams_received_total", before + 400)

        send(0)
        running.await_metric("datagrams_delivered_total", 400)
        worker = children(running.process.pid)[0]
        os.kill(worker, signal.SIGKILL)
        until(lambda: worker not in children(running.process.pid), PATIENCE)
        until(lambda: len(children(running.process.pid)) == 3, PATIENCE)
        send(1000)
        until(lambda: running.metrics()["datagrams_in_flight"] == 0, PATIENCE)
        # Each sender leaves out seven of eight numbers; who sees only some cannot tell.
        is_told = running.metrics()["sequence_missing"] > 0
        assert (spread == "exporter") == is_told
        assert 0 == running.stop()
        figures = running.last()
        assert (800, 800) == balanced(figures)
        assert 800 == figures["delivered"] + figures["dropped"]["killed"]
    stored = query(tmp_path / "a.duckdb", "select count(*) from readings")[0][0]
    assert 2 * figures["delivered"] == stored


def children(pid):
    """
    Give the numbers of a process's children.
    """
    return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def test_a_sender_that_sends_too_much(tmp_path):
    """What exceeds an exporter's rate is dropped, and counted as such."""
    words = ("--rate", "50", "--into", "jsonl:rows.jsonl")
    with collect(tmp_path, *UDP, *words) as running, sender(running.port) as sock:
        for number in range(400):
            sock.send(reading(number))
        running.await_metric("datagrams_received_total", 400)
        until(lambda: running.metrics()["datagrams_in_flight"] == 0, PATIENCE)
        figures = running.metrics()
        dropped = figures['datagrams_dropped_total{reason="rate"}']
        assert 0 < dropped <= 350
        assert 400 == dropped + figures["datagrams_delivered_total"]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux gives twice the size")
@pytest.mark.parametrize("workers", [1, 2])
def test_receive_buffer_below_the_default(tmp_path, workers):
    """Each socket asks for what is set, even if servers ask for more by default."""
    settings = Settings(
        protocol=stations,
        addresses=[Address.parse("udp://127.0.0.1:0")],
        into=[f"jsonl:{tmp_path / 'rows.jsonl'}"],
        spool=tmp_path / "spool",
        receive_buffer=1 << 20,
        workers=workers,
    )
    collecting = Collecting(settings)
    collecting.bind()
    try:
        sizes = [
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            for sock in collecting.runner._all_sockets()
        ]
    finally:
        collecting.runner._close_servers()
    assert workers == len(sizes)
    assert max(sizes) <= 2 << 20


def test_datagrams_that_the_kernel_drops(tmp_path):
    """What the kernel's queue does not hold is received, and dropped by the kernel."""
    words = (*UDP, "--into", "jsonl:rows.jsonl", "--receive-buffer", "1MiB")
    with collect(tmp_path, *words) as running:
        with sender(running.port) as sock:
            running.process.send_signal(signal.SIGSTOP)
            datagram = reading(1, volts=range(200))
            for _ in range(20_000):
                sock.send(datagram)
            running.process.send_signal(signal.SIGCONT)
            running.await_metric("datagrams_received_total", 20_000)
            until(lambda: running.metrics()["datagrams_in_flight"] == 0, PATIENCE)
            figures = running.metrics()
            assert figures['datagrams_dropped_total{reason="kernel"}'] > 0
        assert 0 == running.stop()
        assert (20_000, 20_000) == balanced(running.last())
