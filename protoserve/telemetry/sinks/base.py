"""
Where tables go: the port that each sink fills in.

A sink gets whole batches of rows, with the ids of the log entries from which they come.
`store` is atomic: rows and ids are there together, or neither is. Asked by `known`
before, a sink says which ids it has, so that an entry which is delivered again, after a
crash or a lost acknowledgement, is not stored twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from protoserve.errors import ProtoserveError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Sink", "SinkRefusedError", "SinkUnavailableError"]


class SinkUnavailableError(ProtoserveError):
    """
    A store cannot be reached, or is full: the same may be stored later.
    """


class SinkRefusedError(ProtoserveError):
    """
    A store does not take these rows, now or later.
    """


class Sink:
    """
    A place for tables. One thread uses it, from `open` to `close`.
    """

    url: str
    """What it was asked for by."""
    max_rows: int | None = None
    """How many rows it wants at a time, if it was told: ``?max_rows=``."""
    max_age: float | None = None
    """How long rows may wait for others, in seconds, likewise: ``?max_age=``."""

    def open(self) -> None:
        """
        Connect, and make what has to be there.

        Raises:
            SinkUnavailableError: it cannot be reached.
            SinkRefusedError: it is nothing that rows can be stored in.
        """
        raise NotImplementedError

    def known(self, ids: Sequence[str]) -> set[str]:
        """
        Say which entries are stored already.
        """
        raise NotImplementedError

    def store(self, tables: Mapping[str, pa.Table], ids: Sequence[str]) -> None:
        """
        Store rows, durably and all together; tables and columns are made as needed.

        Args:
            tables: rows by the name of their table.
            ids: the entries that they come from.

        Raises:
            SinkUnavailableError: it may work later; nothing was stored.
            SinkRefusedError: it will not; nothing was stored.
        """
        raise NotImplementedError

    def close(self) -> None:
        """
        Disconnect. It may be opened again.
        """
        raise NotImplementedError
