"""
Rows a second that the embedded sinks store, as ratios to Arrow IPC in the same run.

    python -m benchmarks.telemetry.sinks [--seconds 1.0] [--rounds 3] [--only duckdb,…]

Each `store` is durable, with the ids of its entries. Sinks take turns, for a fraction of
the time each; a ratio is the median of the rounds' ratios. Flows are like those of
NetFlow: addresses, ports, counters, two points in time, the exporter.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pyarrow as pa

from protoserve.telemetry.sinks.registry import open_sink

URLS = {
    "arrow": "arrow:{}/arrow",
    "parquet": "parquet:{}/parquet",
    "duckdb": "duckdb:{}/flows.duckdb",
    "sqlite": "sqlite:{}/flows.sqlite",
    "jsonl": "jsonl:{}/flows.jsonl",
}
SIZES = (1_000, 10_000, 100_000)
MOST_ROWS = 4_000_000
"""Rows that a sink is given in a round at most; the disk is not endless."""


def flows(rows):
    chance = np.random.default_rng(7)
    now = 1_795_000_000_000_000_000
    times = now + np.arange(rows) * 1_000
    numbers = {
        "srcport": np.uint16,
        "dstport": np.uint16,
        "dPkts": np.uint32,
        "dOctets": np.uint32,
        "prot": np.uint8,
        "tcp_flags": np.uint8,
        "src_as": np.uint16,
    }
    columns = {
        name: chance.integers(0, min(np.iinfo(kind).max, 100_000), rows, dtype=kind)
        for name, kind in numbers.items()
    }
    hosts = pa.array([f"10.0.{n >> 8}.{n & 255}" for n in range(2_000)])
    for name in ("srcaddr", "dstaddr"):
        columns[name] = hosts.take(pa.array(chance.integers(0, len(hosts), rows)))
    columns["First"] = pa.array(times - 5_000_000, pa.timestamp("ns", "UTC"))
    columns["received_at"] = pa.array(times, pa.timestamp("ns", "UTC"))
    columns["exporter"] = hosts.take(pa.array(np.arange(rows) % 8))
    return pa.table(columns)


@attrs.define
class Runner:
    """
    A sink that is being measured.
    """

    name: str
    folder: Path
    table: pa.Table
    stored: int = 0
    calls: int = 0
    rates: list[float] = attrs.field(factory=list)
    shares: list[float] = attrs.field(factory=list)
    worst: float = 0.0
    sink: Any = None

    def __attrs_post_init__(self):
        self.sink = open_sink(URLS[self.name].format(self.folder))
        self.sink.open()
        self.store()

    def store(self):
        began = time.perf_counter()
        self.sink.store({"flows": self.table}, [f"entry-{self.calls}"])
        self.worst = max(self.worst, time.perf_counter() - began)
        self.calls += 1
        self.stored += len(self.table)

    def run(self, seconds):
        before = self.stored
        clock, cpu = time.perf_counter(), time.process_time()
        self.worst = 0.0 if not self.rates else self.worst
        while time.perf_counter() - clock < seconds:
            self.store()
            if self.stored - before >= MOST_ROWS:
                break
        took = time.perf_counter() - clock
        self.rates.append((self.stored - before) / took)
        self.shares.append((time.process_time() - cpu) / (self.stored - before) * 1e6)

    def close(self):
        self.sink.close()
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in files) / self.stored


def measure(names, size, seconds, rounds):
    with tempfile.TemporaryDirectory() as place:
        table = flows(size)
        runners = []
        for name in names:
            folder = Path(place, name)
            folder.mkdir()
            runners.append(Runner(name, folder, table))
        for _ in range(rounds):
            for runner in runners:
                runner.run(seconds / rounds)
        base = runners[0]
        for runner in runners:
            pairs = zip(runner.rates, base.rates, strict=True)
            ratio = statistics.median(mine / theirs for mine, theirs in pairs)
            rate = statistics.median(runner.rates)
            share = statistics.median(runner.shares)
            print(
                f"| {runner.name} | {size:,} | {ratio:.3f} | {rate:,.0f} | {share:.2f} "
                f"| {runner.worst * 1e3:.0f} | {runner.close():.0f} |",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(URLS))
    options = parser.parse_args()
    names = ["arrow", *(name for name in options.only.split(",") if name != "arrow")]
    print(
        "| sink | rows a store | of Arrow IPC | rows/s | CPU µs a row | worst ms | B a row |"
    )
    print("|---|---|---|---|---|---|---|")
    for size in SIZES:
        measure(names, size, options.seconds, options.rounds)


if __name__ == "__main__":
    main()
