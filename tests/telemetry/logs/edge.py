"""
A writer or a reader as a process of its own, for the test of failing over.

``edge.py write URL NAME EDGE ENTRIES RECORDS FILE`` appends entries and notes in FILE
what has been acknowledged; when it has half of them it waits for a line of
input. ``edge.py read URL NAME GROUP FILE`` notes what it is given, then acknowledges
it, until SIGTERM. A line of FILE is the id of an entry and its checksum; it is written
by one call, so that SIGKILL leaves no half of one.
"""

import contextlib
import os
import signal
import struct
import sys
import zlib
from pathlib import Path

from protoserve.telemetry.logs.base import LogUnavailableError
from protoserve.telemetry.logs.registry import open_log

FLUSH = 25
"""Entries between two flushes."""


def payload(edge, number, records):
    """
    Make an entry of records: 16 bytes each, no two alike.
    """
    first = number * records
    return b"".join(
        struct.pack("!IIQ", edge, 0xFEED, n) for n in range(first, first + records)
    )


def line(known_by, data):
    return f"{known_by} {len(data) // 16} {zlib.crc32(data)}\n".encode()


def write(url, name, edge, entries, records, file):
    edge, entries, records = int(edge), int(entries), int(records)
    with contextlib.closing(open_log(url, name=name)) as log:
        print("ready", flush=True)
        for start in range(0, entries, FLUSH):
            if start == entries // 2:
                sys.stdin.readline()
            made = [
                (f"edge{edge}/{n}", payload(edge, n, records))
                for n in range(start, min(start + FLUSH, entries))
            ]
            while True:
                try:
                    for number, (known_by, data) in enumerate(made):
                        log.append(f"192.0.2.{edge * 100 + number % 8}", data, known_by)
                    log.flush()
                    break
                except LogUnavailableError as exc:
                    print(exc, flush=True)
            os.write(file, b"".join(line(*each) for each in made))


def read(url, name, group, file):
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    with (
        contextlib.closing(open_log(url, name=name)) as log,
        contextlib.closing(log.consume(group)) as consumer,
    ):
        print("ready", flush=True)
        while not ended:
            with contextlib.suppress(LogUnavailableError):
                for entry in (taken := consumer.take(20, 0.5)):
                    os.write(file, line(entry.id, entry.payload))
                consumer.ack(taken)


if __name__ == "__main__":
    role, *words, path = sys.argv[1:]
    made = os.open(Path(path), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    {"write": write, "read": read}[role](*words, made)
