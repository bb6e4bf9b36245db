"""
How fast flow tables are made: ``python -m benchmarks.telemetry.tabulate``.

NetFlow v5, v9 and IPFIX with 30 flows a datagram, the same flows and nearly the same
columns, from one exporter; the three take turns, and the best round of each counts. It
prints rows a second, and the rates as shares of the one of v5.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from examples.netflow_exporter import NAMES, datagrams
from protocols.netflow.tabulator import NetFlowTabulator
from protoserve import Peer
from protoserve.telemetry.tables import Frames

EACH = 30


def frames_of(version: int, count: int) -> Frames:
    """Make a block of datagrams, as one exporter sends them."""
    some = list(datagrams(version, EACH * min(count, 400)))
    made = [some[i % len(some)] for i in range(count)]
    lengths = np.array([len(each) for each in made])
    return Frames(
        np.frombuffer(b"".join(made), np.uint8),
        np.cumsum(lengths) - lengths,
        lengths,
        np.full(count, 1_767_225_600_000_000_000),
        np.zeros(count, np.int64),
        [Peer("udp", ("192.0.2.1", 40000))],
    )


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--datagrams", type=int, default=2000)
    parser.add_argument("--numeric", action="store_true", help="addresses as numbers")
    given = parser.parse_args()
    blocks = {name: frames_of(v, given.datagrams) for name, v in NAMES.items()}
    makers = {name: NetFlowTabulator(numeric=given.numeric) for name in blocks}
    best = dict.fromkeys(blocks, float("inf"))
    rows = dict.fromkeys(blocks, 0)
    for _ in range(given.rounds):
        for name, block in blocks.items():
            start = time.process_time()
            found = makers[name].tables(block)
            best[name] = min(best[name], time.process_time() - start)
            rows[name] = found.tables["flows"].num_rows
    rates = {name: rows[name] / best[name] for name in blocks}
    for name, rate in rates.items():
        share = rate / rates["v5"]
        print(f"{name:6} {rate / 1e6:6.2f} M rows/s  {share:5.2f} of v5")


if __name__ == "__main__":
    main()
