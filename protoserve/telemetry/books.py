"""
What a run has counted, in a file too: for the next one, should this one be killed.

Counts are in memory that processes share, and gone with the last of them. What had been
received by then, and was neither in the spool nor delivered nor dropped, is lost: the file
and the spool together say how much that was. It is written in place at each change, some
hundred bytes, so that a disk which is full does not matter.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from protoserve.account import REASONS, Account

__all__ = ["Books", "lost_before"]

_HEAD = 4096
"""Bytes in front of the counts: what they are, as JSON."""


class Books:
    """
    Keeps an account in a file; a disk that takes nothing keeps none.

    Args:
        path: the file, whose former contents are given up.
        account: what to keep.
        spooled: how many datagrams have ever come to the spool.
    """

    def __init__(self, path: Path, account: Account, spooled: int) -> None:
        self._file: int | None = None
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self._file = os.open(path, flags, 0o600)
            head = {"names": account.names, "spooled": spooled}
            os.pwrite(self._file, json.dumps(head).encode().ljust(_HEAD), 0)
            account.copy_to(self._write)

    def _write(self, place: int, counts: bytes) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.pwrite(self._file, counts, _HEAD + place)

    def close(self) -> None:
        """
        Keep the file as it is.
        """
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def lost_before(path: Path, spooled: int) -> int:
    """
    Say how many datagrams the last run had in memory when it ended.

    Args:
        path: the file that `Books` has kept.
        spooled: how many datagrams have ever come to the spool.
    """
    try:
        data = path.read_bytes()
        head = json.loads(data[:_HEAD])
        counts = memoryview(data)[_HEAD:].cast("q")
        names, before = head["names"], head["spooled"]
        sums = {each: sum(counts[at :: len(names)]) for at, each in enumerate(names)}
        done = sums["delivered"] + sum(sums[reason] for reason in REASONS)
        # These had been in the spool before.
        done -= sums["settled_delivered"] + sums["settled_sink"]
        lost: int = sums["received"] - done - (spooled - before)
    except (OSError, ValueError, TypeError, KeyError):
        return 0  # there was none, or it is of another version
    return max(0, lost)
