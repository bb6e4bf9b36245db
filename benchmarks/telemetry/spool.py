"""
The spool against a plain `os.write` of the same bytes, in the same run.

Each round writes the same entries in turns: by `os.write` to a file (the floor), by
`Spool.append`, and then reads them through a group. What counts is the processor time,
user and system, of this process with its threads; the megabytes a second by the clock
are shown beside it. Ratios are medians over the rounds.

    python -m benchmarks.telemetry.spool [--size MB] [--rounds N] [--folder DIR]
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from protoserve.telemetry.spool import Spool

SIZES = (100_000, 500_000, 2_000_000)
"""Bytes of an entry."""


def timed(work):
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - cpu


def plain_write(path, payload, count):
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for _ in range(count):
        os.write(file, payload)
    os.close(file)


def append(spool, payload, count):
    for _ in range(count):
        spool.append("udp://127.0.0.1:2055", payload)


def read(consumer, count):
    while count:
        entries = consumer.take(64, 1.0)
        consumer.ack(entries)
        count -= len(entries)


def measure(folder, payload, count):
    """Give (seconds, processor seconds) of the floor, of appending and of reading."""
    floor = timed(lambda: plain_write(folder / "plain", payload, count))
    (folder / "plain").unlink()
    with Spool(folder / "spool") as spool:
        written = timed(lambda: append(spool, payload, count))
        synced = timed(spool.flush)
        consumer = spool.consume("bench")
        taken = timed(lambda: read(consumer, count))
    shutil.rmtree(folder / "spool")
    return floor, written, synced, taken


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", type=int, default=256, help="MB in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    options = parser.parse_args()
    print(
        "| entry | os.write MB/s | append MB/s | read MB/s | append/os.write CPU |"
        " read/os.write CPU | core at 150 MB/s: append, read |"
    )
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        for size in SIZES:
            payload = os.urandom(size)
            count = max(options.size * 1_000_000 // size, 1)
            rounds = [
                measure(Path(name), payload, count) for _ in range(options.rounds)
            ]
            total = count * size / 1e6
            median = statistics.median
            clock = [median(r[i][0] for r in rounds) for i in (0, 1, 3)]
            cpu = [median(r[i][1] for r in rounds) for i in (1, 3)]
            more = [median(r[i][1] / r[0][1] for r in rounds) for i in (1, 3)]
            rates = " | ".join(f"{total / each:.0f}" for each in clock)
            ratios = " | ".join(f"{each:.2f}" for each in more)
            cores = ", ".join(f"{150 * each / total:.1%}" for each in cpu)
            print(f"| {size / 1000:.0f} kB | {rates} | {ratios} | {cores} |")


if __name__ == "__main__":
    main()
