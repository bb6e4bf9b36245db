"""
A soak: collectors under load while everything around them fails, and a reckoning.

``python -m tests.telemetry.soak --minutes 5 --seed 1`` runs two collectors, of a
protocol of ours and of NetFlow, each with two workers, a small spool and two stores, and
inflicts faults on them, one after the other and together. Then the load ends, all is
delivered, and this is checked:

- the account is exact: ``received = delivered + dropped``, and nothing is in flight;
- what was received is what was sent. A worker that is killed between the system call that
  gave it a block of datagrams and the line that counts them takes these with it: up to a
  block may be missing for each such kill, and is shown;
- a store has each record once, no datagram in parts, all that counts as delivered, and
  no more beside than what another store has not had;
- the processes' memory was bounded and did not keep on growing; none is left; nothing on
  standard error is a traceback.

Faults that need a file system of their own need root, and are left out elsewhere.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import attrs

from tests.service.kit import until
from tests.telemetry.processes import collect
from tests.telemetry.soak_faults import FAULTS, members, resident
from tests.telemetry.soak_load import NETFLOW, RECORDS, STATIONS, Load

PATIENCE = 60.0
"""Seconds until everything is delivered when all is well again."""
_BLOCK = 1024
"""Datagrams that one system call gives, at most, and more."""
_MOST_MEMORY = 700.0
_MOST_GROWTH = 80.0
"""MiB of one process; and how much more it may have at the end than midway."""
_PACE = 1200


@attrs.define
class Station:
    """
    A collector with what it stands on.
    """

    name: str
    running: object
    load: Load
    folder: Path
    """Its spool, and `Path`s beside it, may be small disks."""
    stores: dict
    """For each store, what counts its rows: all, different ones, different datagrams."""
    disks: list
    server: object = None
    """A store's server that may be killed."""
    kills: int = 0
    """Workers that were killed."""
    memory: dict = attrs.field(factory=dict)
    """Of each process, MiB over time."""

    def sample(self):
        """
        Write down how much memory each process has.
        """
        for pid in members(self.running.process.pid):
            size = resident(pid)
            if size:
                self.memory.setdefault(pid, []).append((time.monotonic(), size))

    def faults(self):
        """
        Give the memory's and the account's faults, after the end.
        """
        figures = self.running.last()
        dropped = figures["dropped"]
        fates = figures["delivered"] + sum(dropped.values())
        sent = self.load.good + self.load.broken
        yield from self._wrong(fates == figures["received"], f"account: {figures}")
        yield from self._wrong(figures["in_flight"] == 0, f"in flight: {figures}")
        missing = sent - figures["received"]
        bound = self.kills * _BLOCK
        yield from self._wrong(
            0 <= missing <= bound, f"sent {sent}, received {figures['received']}"
        )
        yield from self._wrong(
            dropped["malformed"] <= self.load.broken, f"malformed: {figures}"
        )
        for store, count in self.stores.items():
            rows, different, datagrams = count()
            said = f"{store}: {rows} rows, {different} different, {datagrams} datagrams"
            least = figures["delivered"]
            most = least + dropped["sink"]
            yield from self._wrong(rows == different, said)
            yield from self._wrong(rows == datagrams * RECORDS, said)
            yield from self._wrong(
                least <= datagrams <= most, f"{said}, expected {least} to {most}"
            )
        yield from self._wrong("Traceback" not in self.running.errors, "a traceback")
        left = members(self.running.process.pid)
        yield from self._wrong(not left, f"processes are left: {left}")
        for pid, samples in self.memory.items():
            sizes = [size for _, size in samples]
            middle = max(sizes[: len(sizes) // 2 + 1])
            grown = max(sizes) - middle
            lived = samples[-1][0] - samples[0][0]
            said = f"process {pid}: {middle:.0f} MiB, then {max(sizes):.0f} MiB"
            yield from self._wrong(max(sizes) < _MOST_MEMORY, said)
            yield from self._wrong(lived < 60 or grown < _MOST_GROWTH, said)

    def _wrong(self, holds, what):
        if not holds:
            yield f"{self.name}: {what}"

    def report(self):
        """
        Say in lines what has become of everything.
        """
        figures = self.running.last()
        dropped = {reason: n for reason, n in figures["dropped"].items() if n}
        yield (
            f"{self.name}: sent {self.load.good} + {self.load.broken} broken, received "
            f"{figures['received']}, delivered {figures['delivered']}, dropped {dropped}, "
            f"in flight {figures['in_flight']}, workers killed {self.kills}"
        )
        for store, count in self.stores.items():
            yield "  {}: {} rows, {} different, {} datagrams".format(store, *count())
        for pid, samples in self.memory.items():
            sizes = [size for _, size in samples]
            quarters = [sizes[len(sizes) * part // 4] for part in range(4)]
            shown = ", ".join(f"{size:.0f}" for size in [*quarters, sizes[-1]])
            yield f"  process {pid}, MiB over time: {shown}; most {max(sizes):.0f}"


@contextlib.contextmanager
def small_disk(folder, size):
    """
    Mount a small file system; where that is not allowed it is a folder like others.
    """
    folder.mkdir(parents=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = os.getuid() == 0 and shutil.which("mount") is not None
    if mounted:
        done = subprocess.run(words, check=False, capture_output=True)
        mounted = done.returncode == 0
    try:
        yield [folder] if mounted else []
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _sql(kind, source):
    number, record = kind.number, kind.record
    return (
        f"select count(*), count(distinct {number} || ' ' || {record}), "
        f"count(distinct {number}) from {source}"
    )


def _count_duckdb(kind, path, source=None):
    import duckdb

    with duckdb.connect(str(path), read_only=source is None) as store:
        return store.sql(_sql(kind, source or kind.table)).fetchall()[0]


def _count_sqlite(kind, path):
    with contextlib.closing(sqlite3.connect(path)) as store:
        return store.execute(_sql(kind, kind.table)).fetchone()


def _count_postgresql(kind, url):
    import psycopg

    with psycopg.connect(url) as store:
        return store.execute(_sql(kind, kind.table)).fetchone()


def _common(spool, *sinks):
    into = itertools.chain.from_iterable(("--into", sink) for sink in sinks)
    return (
        *("--listen", "udp://127.0.0.1:0", "--workers", "2", "--drain", "30"),
        *("--spool", str(spool), "--spool-size", "8MiB", *into),
    )


def _stations(stack, folder, server, seed):
    """
    Start a collector of a protocol of ours, whose spool is on a small disk.
    """
    disks = stack.enter_context(small_disk(folder / "spool-disk", "24m"))
    sinks = [f"{folder}/a.duckdb", f"sqlite:{folder}/b.sqlite"]
    stores = {
        "duckdb": lambda: _count_duckdb(STATIONS, folder / "a.duckdb"),
        "sqlite": lambda: _count_sqlite(STATIONS, folder / "b.sqlite"),
    }
    if server is not None:
        url = f"postgresql://tester@127.0.0.1:{server.port}/postgres"
        sinks[1] = url
        del stores["sqlite"]
        stores["postgresql"] = lambda: _count_postgresql(STATIONS, url)
    stations = folder / "stations"
    words = _common(folder / "spool-disk" / "spool", *sinks)
    running = stack.enter_context(collect(stations, *words, protocol=STATIONS.protocol))
    load = stack.enter_context(Load(STATIONS, running.port, _PACE, seed))
    return Station("stations", running, load, stations, stores, disks, server)


def _netflow(stack, folder, _server, seed):
    """
    Start a collector of NetFlow, which has a store on a small disk.
    """
    disks = stack.enter_context(small_disk(folder / "parquet-disk", "256m"))
    parquet = folder / "parquet-disk" / "flows"
    pattern = f"read_parquet('{parquet}/flows/**/*.parquet', union_by_name = true)"
    stores = {
        "parquet": lambda: _count_duckdb(NETFLOW, ":memory:", pattern),
        "sqlite": lambda: _count_sqlite(NETFLOW, folder / "c.sqlite"),
    }
    flows = folder / "netflow"
    words = _common(flows / "spool", f"parquet:{parquet}", f"sqlite:{folder}/c.sqlite")
    running = stack.enter_context(collect(flows, *words, protocol=NETFLOW.protocol))
    load = stack.enter_context(Load(NETFLOW, running.port, _PACE, seed + 1))
    return Station("netflow", running, load, flows, stores, disks)


COLLECTORS = {"stations": _stations, "netflow": _netflow}


def _inflict(stations, seconds, dice, tell):
    """
    Inflict each fault by itself, then some of them together, until the time is over.
    """
    ends = time.monotonic() + seconds
    possible = [
        (name, fault, station)
        for station in stations
        for name, (fault, can) in FAULTS.items()
        if can(station)
    ]
    dice.shuffle(possible)
    alone = list(possible)
    while time.monotonic() < ends:
        chosen = [alone.pop()] if alone else dice.sample(possible, dice.choice((2, 3)))
        tell(" + ".join(f"{station.name}: {name}" for name, _, station in chosen))
        threads = [
            threading.Thread(target=fault, args=(station,))
            for _, fault, station in chosen
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for station in stations:
            station.sample()
            assert station.running.process.poll() is None, station.running.errors
        time.sleep(min(0.5, max(0.0, ends - time.monotonic())))


def latest(running):
    """
    Give the figures that a collector wrote last; a process that is killed cuts a line.
    """
    for line in reversed(running.output.splitlines()):
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(line)
    return {}


def soak(folder, seconds, seed, *, names=tuple(COLLECTORS), server=None, tell=bool):
    """
    Run it in a folder; give what is wrong.

    Args:
        folder: an empty one.
        seconds: for how long there are faults.
        seed: what chance begins with.
        names: those of the collectors.
        server: a PostgreSQL that may be killed.
        tell: is given lines that say what happens.
    """
    with contextlib.ExitStack() as stack:
        stations = [COLLECTORS[name](stack, folder, server, seed) for name in names]
        for station in stations:
            until(lambda s=station: latest(s.running).get("delivered"), PATIENCE)
        _inflict(stations, seconds, random.Random(seed), tell)
        wrong = []
        for station in stations:
            station.load.end()
        for station in stations:
            try:
                until(
                    lambda r=station.running: latest(r).get("in_flight") == 0, PATIENCE
                )
            except AssertionError:
                wrong.append(f"{station.name}: {latest(station.running)}")
            station.sample()
            if station.running.stop() != 0:
                wrong.append(f"{station.name}: exit code")
        for station in stations:
            wrong += station.faults()
            for line in station.report():
                tell(line)
            if wrong:
                tell(station.running.errors)
        return wrong


def main():
    parser = argparse.ArgumentParser(description="Collectors under load and faults.")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()

    def tell(line):
        print(f"{time.monotonic() - began:6.1f} s  {line}", flush=True)

    with contextlib.ExitStack() as stack:
        from tests.telemetry.sinks.servers import postgresql_server

        server = None
        if Path("/usr/lib/postgresql").exists() or shutil.which("initdb"):
            server = stack.enter_context(postgresql_server())
        else:
            tell("there is no PostgreSQL here: its faults are left out")
        name = stack.enter_context(tempfile.TemporaryDirectory())
        seconds = options.minutes * 60
        wrong = soak(Path(name), seconds, options.seed, server=server, tell=tell)
    for line in wrong:
        tell(f"WRONG: {line}")
    tell("wrong" if wrong else "all is accounted for")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
