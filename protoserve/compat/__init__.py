"""
Whether two versions of a protocol understand each other, and what breaks if not.

Two snapshots are compared. A difference breaks something if there is a message that
one side may send and the other refuses, or reads otherwise; it is told for whom: a
field that is added at the end stops old readers, one that is no longer sent stops
those that need it. What cannot be judged (a format of one's own that has changed, a
function that is another) counts as a break in both ways: compatible means that it was
shown to be.
"""

from __future__ import annotations

from typing import Any

import attrs

from protoserve.compat._protocols import differences
from protoserve.compat._report import NEW, OLD, Difference
from protoserve.protocol import Protocol
from protoserve.snapshots import Snapshot, snapshot_of

__all__ = ["Break", "Verdict", "compare"]


@attrs.frozen
class Break:
    """
    A message that one side sends and the other does not understand.
    """

    where: str
    """The direction, the message and the field."""

    what: str
    """What has changed, and what the reader makes of it."""

    sender: str
    """``"old client"``, ``"new server"`` and so on."""

    reader: str


@attrs.frozen
class Verdict:
    """
    What a comparison has found.
    """

    old_clients: tuple[Break, ...]
    """What breaks between old clients and new servers."""

    new_clients: tuple[Break, ...]
    """What breaks between new clients and old servers."""

    notes: tuple[str, ...]
    """What has changed and breaks nothing."""

    @property
    def compatible(self) -> bool:
        """
        Whether nothing breaks either way.
        """
        return not self.old_clients and not self.new_clients

    def as_plain(self) -> dict[str, Any]:
        """
        Give it in terms of JSON.
        """
        return {
            "compatible": self.compatible,
            "old_clients_with_new_servers": [attrs.asdict(b) for b in self.old_clients],
            "new_clients_with_old_servers": [attrs.asdict(b) for b in self.new_clients],
            "notes": list(self.notes),
        }


def compare(old: Protocol | Snapshot, new: Protocol | Snapshot) -> Verdict:
    """
    Compare two versions of a protocol.

    Args:
        old: the one that peers have already, or its snapshot.
        new: the one that shall take its place.
    """
    snapshots = [snapshot_of(p) if isinstance(p, Protocol) else p for p in (old, new)]
    breaks: dict[str, dict[Break, None]] = {OLD: {}, NEW: {}}
    notes: dict[str, None] = {}
    for found in differences(*snapshots):
        if not found.readers:
            notes[f"{found.where}: {found.what}"] = None
        for reader in found.readers:
            for each in _breaks(found, reader):
                client = each.sender if "client" in each.sender else each.reader
                breaks[client.partition(" ")[0]][each] = None
    return Verdict(tuple(breaks[OLD]), tuple(breaks[NEW]), tuple(notes))


def _breaks(found: Difference, reader: str) -> list[Break]:
    """
    Say who reads what: requests are read by servers, responses by clients.
    """
    sender = NEW if reader == OLD else OLD
    made = []
    for way, sending, reading in (
        ("request", "client", "server"),
        ("response", "server", "client"),
    ):
        if way in found.ways:
            who = f"{sender} {sending}", f"{reader} {reading}"
            made.append(Break(found.where, found.what, *who))
    return made
