"""
The memory that a parsed message takes, values included.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.codec.case import HAND, INTERPRETED, OURS
from benchmarks.codec.messages import fixed, netflow
from benchmarks.codec.rows import Reach, Row


def _records(count: int) -> list[bytes]:
    return [
        fixed.LAYOUT.pack(
            3, 0x81, 1000 + i, 3 * 10**9 + i, 10**15 + i, 21.5 + i, 3.25 + i, -1234 - i
        )
        for i in range(count)
    ]


def _each(parse: Callable[[bytes], Any], data: Sequence[bytes]) -> float:
    """
    Give the bytes that one parsed message takes.
    """
    parse(data[0])
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = [parse(one) for one in data]
        gc.collect()
        size = tracemalloc.get_traced_memory()[0] - before - sys.getsizeof(kept)
    finally:
        tracemalloc.stop()
    return size / len(data)


def rows() -> Iterator[Row]:
    """
    Measure a record and a packet of records.
    """
    parsers: dict[str, dict[str, Callable[[bytes], Any]]] = {
        "A": {
            HAND: fixed.parse,
            OURS: fixed.Telemetry.parse,
            INTERPRETED: fixed.FORMAT.parse,
        },
        "D": {
            HAND: netflow.parse,
            OURS: netflow.Packet.parse,
            INTERPRETED: netflow.FORMAT.parse,
        },
    }
    data = {"A": _records(3000), "D": [netflow.DATA] * 40}
    for key, candidates in parsers.items():
        found = {name: _each(parse, data[key]) for name, parse in candidates.items()}
        for name, size in found.items():
            yield Row("memory", key, name, size, "bytes")
        share = found[OURS] / found[INTERPRETED]
        reach = Reach(0.55) if key == "A" else None
        note = "" if reach else "the numbers themselves take most of it"
        name = "protoserve / Construct's Container"
        yield Row("memory", key, name, share, reach=reach, note=note)
