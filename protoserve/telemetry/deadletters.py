"""
Datagrams that could not be used, kept with what was wrong with them.

The file is a wire journal, so ``protoserve journal`` and ``replay`` read it. A flood of
bad datagrams does not fill the disk: the file has a bound, beyond which a new one is
begun, and the one before is kept; and only so many a second are written.
"""

from __future__ import annotations

import time
from pathlib import Path

from protoserve.journal import Entry, Journal, JournalError
from protoserve.session import Peer

__all__ = ["DeadLetters"]

_MOST_A_SECOND = 100


class DeadLetters:
    """
    A file of datagrams that were dropped.

    Args:
        path: the file; when it is full, it becomes ``PATH.1``.
        most_bytes: of both files together.
    """

    def __init__(self, path: Path, *, most_bytes: int = 32 << 20) -> None:
        self.path = path
        self.written = 0
        """How many were written."""
        self.omitted = 0
        """How many were not: there were too many, or the disk is full."""
        self._most = most_bytes // 2
        self._journal: Journal | None = None
        self._size = 0
        self._second = 0
        self._left = 0

    def write(
        self, data: bytes, peer: Peer, moment: int, reason: str, error: object
    ) -> None:
        """
        Keep a datagram.

        Args:
            data: its bytes.
            peer: who sent it.
            moment: when it came, in nanoseconds since the epoch.
            reason: why it is dropped, one word.
            error: what was wrong with it.
        """
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._left = second, _MOST_A_SECOND
        if not self._left:
            self.omitted += 1
            return
        self._left -= 1
        entry = Entry(
            time=moment / 1e9,
            transport=peer.transport,
            local=f"{peer.transport}://",
            peer=str(peer),
            direction="in",
            outcome=f"{reason}: {error}",
            raw=data,
        )
        try:
            journal = self._room()
            before = journal.lost
            journal.write(entry)
            kept = journal.lost == before
        except (OSError, JournalError):
            kept = False
        self._size += 2 * len(data) + 300
        self.written += kept
        self.omitted += not kept

    def _room(self) -> Journal:
        if self._journal is not None and self._size > self._most:
            self.close()
            self.path.replace(self.path.with_name(self.path.name + ".1"))
        if self._journal is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._journal = Journal(self.path)
            self._size = self.path.stat().st_size
        return self._journal

    def close(self) -> None:
        """
        Close the file.
        """
        if self._journal is not None:
            self._journal.close()
            self._journal = None
