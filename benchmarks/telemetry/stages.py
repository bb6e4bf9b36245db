"""
Where a collector's time goes: each step by itself, on the same flows, in one process.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.telemetry.receivers import SINKS
from benchmarks.telemetry.tabulate import frames_of
from protocols.netflow.tabulator import NetFlowTabulator
from protoserve.telemetry.packing import pack_tables, unpack_tables
from protoserve.telemetry.sinks.direct import Appender, open_direct
from protoserve.telemetry.sinks.files import write_all
from protoserve.telemetry.sinks.registry import open_sink
from protoserve.telemetry.spool import Spool

TITLE = "Where a collector's time goes"
SEEN = (
    "The steps behind receiving, each by itself on 2,400 datagrams of NetFlow v5 at a "
    "time, as many as come in 40 ms: the median of the processor time of the whole "
    "process, the kernel's part in it. A sink is given six such pieces at once. What is "
    "new to the kernel's cache takes fresh memory, which costs many times more where "
    "a host gives it to a virtual machine page by page."
)
DATAGRAMS = 2400
_TOGETHER = 6


def measure(rounds: int) -> list[tuple[str, float]]:
    """
    Give the microseconds of each step for a datagram.
    """
    frames = frames_of(5, DATAGRAMS)
    tabulator = NetFlowTabulator()
    found = []

    def timed(name: str, work: Callable[[], Any], many: int = 1) -> Any:
        work()
        times = []
        for _ in range(rounds):
            start = time.process_time()
            result = work()
            times.append(time.process_time() - start)
        found.append((name, statistics.median(times) / many / DATAGRAMS * 1e6))
        return result

    made = timed("make tables", lambda: tabulator.tables(frames))
    packed = timed("pack tables", lambda: pack_tables(made.tables))
    with tempfile.TemporaryDirectory() as name:
        with Spool(Path(name, "spool")) as spool:
            timed("append to the spool", lambda: spool.append("", packed))
            spool.flush()
            reader = spool.consume("bench")

            def take() -> Any:
                (entry,) = reader.take(1, 1.0)
                reader.ack([entry])
                return entry

            entry = timed("take from the spool", take)
            reader.close()
        _write(Path(name), packed, timed)
        import pyarrow as pa

        flows = unpack_tables(entry.payload)["flows"]
        many = pa.concat_tables([flows] * _TOGETHER)
        for kind, url in SINKS.items():
            sink = open_sink(url.format(name))
            sink.open()
            calls = iter(range(1 << 30))
            timed(
                f"store, {kind}",
                lambda sink=sink, calls=calls: sink.store(
                    {"flows": many}, [f"entry-{next(calls)}"]
                ),
                _TOGETHER,
            )
            sink.close()
    return found


def _write(folder: Path, buffers: Sequence[Any], timed: Callable[..., Any]) -> None:
    """
    Bring as many bytes to new files, through the kernel's cache and past it.
    """
    views = [memoryview(buffer) for buffer in buffers]
    names = (folder / f"file-{number}" for number in range(1 << 30))
    appender = Appender()

    def cached() -> None:
        with next(names).open("wb", buffering=0) as file:
            write_all(file.fileno(), views)

    def direct() -> None:
        handle = open_direct(next(names), os.O_RDWR | os.O_CREAT)
        try:
            appender.append(handle, views, 0)
        finally:
            os.close(handle)

    timed("write as many bytes to a new file", cached)
    timed("likewise, past the cache and synced", direct)


def table(found: Sequence[tuple[str, float]]) -> Iterator[str]:
    """
    Write how long each step takes.
    """
    yield "| step | CPU µs for each datagram |"
    yield "|---|---:|"
    for name, each in found:
        yield f"| {name} | {each:.2f} |"
