"""
Rows as messages: what goes to stores that keep bytes, not tables.

A message is an Arrow IPC stream of one record batch, so it says itself what its columns
are, with their docs and units, and any Arrow library reads it:
``pyarrow.ipc.open_stream(body).read_all()``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import pyarrow as pa

from protoserve.telemetry.sinks.base import SinkRefusedError

__all__ = ["Recent", "bodies", "body_of", "digest"]


def body_of(rows: pa.Table) -> bytes:
    """
    Write rows as one Arrow IPC stream.
    """
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, rows.schema) as writer:
        writer.write_table(rows.combine_chunks())
    return bytes(out.getvalue())


def bodies(name: str, rows: pa.Table, most: int) -> Iterator[bytes]:
    """
    Write rows as messages of at most so many bytes each.

    Raises:
        SinkRefusedError: one row is larger.
    """
    if not len(rows):
        return
    # Only writing says how large they are; halves are tried until they fit.
    body = body_of(rows)
    if len(body) <= most:
        yield body
        return
    if len(rows) < 2:
        raise SinkRefusedError(
            f"table {name}: expected rows of at most {most} bytes, found {len(body)}"
        )
    step = max(1, min(len(rows) // 2, int(len(rows) * most / len(body) * 0.9)))
    for start in range(0, len(rows), step):
        yield from bodies(name, rows.slice(start, step), most)


def digest(ids: Iterable[str]) -> str:
    """
    Name a batch by the entries in it; the same ones have the same name.
    """
    return hashlib.blake2b("\n".join(sorted(ids)).encode(), digest_size=16).hexdigest()


class Recent:
    """
    The ids that were seen last.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._ids: dict[str, None] = {}

    def add(self, ids: Iterable[str]) -> None:
        """
        Remember ids, and forget the oldest ones when there are too many.
        """
        for each in ids:
            self._ids.pop(each, None)
            self._ids[each] = None
        while len(self._ids) > self._most:
            del self._ids[next(iter(self._ids))]

    def among(self, ids: Iterable[str]) -> set[str]:
        """
        Say which of some ids are remembered.
        """
        return {each for each in ids if each in self._ids}
