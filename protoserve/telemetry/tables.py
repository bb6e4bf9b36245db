"""
What a collector makes of frames: tables of rows.

A `Tabulator` takes many frames at once, as they were received, and gives Arrow tables.
Protocols whose layout the declaration gives need none of their own. One whose layout
arrives with the data (templates) brings one: ``Protocol(tabulator=…)``.

Every frame has exactly one fate: it is in the tables, refused with a reason, or held
until what it waits for has come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from protoserve.session import Peer

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

__all__ = [
    "Frames",
    "MakeTabulator",
    "Origins",
    "Refused",
    "Sequences",
    "Tables",
    "Tabulator",
    "column",
]


@attrs.frozen(eq=False)
class Frames:
    """
    Many frames as they were received, in that order.
    """

    data: NDArray[np.uint8]
    """All their bytes; there may be others between them."""
    starts: NDArray[np.int64]
    """Where each begins in `data`."""
    lengths: NDArray[np.int64]
    """How many bytes each has."""
    times: NDArray[np.int64]
    """When each came: nanoseconds since the epoch."""
    senders: NDArray[np.int64]
    """Who sent each: a place in `exporters`."""
    exporters: Sequence[Peer]
    """The senders, each once."""

    def __len__(self) -> int:
        return len(self.starts)

    def frame(self, index: int) -> bytes:
        """
        Give one frame's bytes.
        """
        start = int(self.starts[index])
        return self.data[start : start + int(self.lengths[index])].tobytes()


class Origins:
    """
    Makes the columns that every table ends with: ``exporter`` and ``received_at``.

    Args:
        frames: what the rows of all tables come from.
    """

    def __init__(self, frames: Frames) -> None:
        import pyarrow as pa

        self._frames = frames
        self._hosts = pa.array([peer.host for peer in frames.exporters], pa.string())

    def columns(
        self,
        places: NDArray[np.int64],
        spread: Callable[[NDArray[Any]], NDArray[Any]] = lambda values: values,
    ) -> dict[str, pa.Array]:
        """
        Say who sent each row, as text, and when it came, in UTC.

        Args:
            places: the places of the rows' frames.
            spread: makes of one value for each of these places one for each row.
        """
        import numpy as np
        import pyarrow as pa

        senders = spread(self._frames.senders[places].astype(np.int32))
        # They are places in that very list.
        exporters = pa.DictionaryArray.from_arrays(senders, self._hosts, safe=False)
        times = pa.array(spread(self._frames.times[places]))
        return {
            "exporter": exporters,
            "received_at": times.cast(pa.timestamp("ns", "UTC")),
        }


@attrs.frozen
class Refused:
    """
    A frame that cannot be used.
    """

    index: int
    """Its place among the frames that were given."""
    reason: str
    """``malformed`` or ``template``."""
    error: Exception | str
    """What was wrong with it."""


@attrs.frozen(eq=False)
class Sequences:
    """
    The numbers by which exporters count what they send; all arrays are of one length.
    """

    senders: NDArray[np.int64]
    """Who counts: a place in the frames' `exporters`."""
    streams: NDArray[np.int64]
    """Which of its counters it is: an engine, an observation domain, a sub-agent."""
    numbers: NDArray[np.int64]
    """What was counted before this frame."""
    steps: NDArray[np.int64]
    """What this frame counts for: the next one's number is that much greater."""
    bits: int = 32
    """The counter's width."""


@attrs.define(eq=False)
class Tables:
    """
    What has become of some frames.
    """

    tables: Mapping[str, pa.Table] = attrs.field(factory=dict)
    """Rows by the name of their table; see `Origins` for two columns of each."""
    refused: Sequence[Refused] = ()
    """Those of the given frames that are dropped."""
    held: int = 0
    """How many of the given frames wait for something."""
    released: int = 0
    """How many that have waited are in the tables now."""
    expired: int = 0
    """How many that have waited are given up, for want of a template."""
    sequences: Sequence[Sequences] = ()


class Tabulator(Protocol):
    """
    Makes tables of one protocol's frames. One thread at a time calls it.
    """

    def tables(self, frames: Frames) -> Tables:
        """
        Make tables of frames.
        """

    def tick(self, now: float) -> Tables:
        """
        Give up what has waited too long; `now` is seconds since the epoch.
        """

    def preface(self, peer: Peer) -> Sequence[bytes]:
        """
        Give frames that tell whoever begins now what a sender's frames refer to.
        """

    def close(self) -> Tables:
        """
        Give up all that waits, and keep what is to be known the next time.
        """


class MakeTabulator(Protocol):
    """
    Makes a tabulator, whose state is kept in a folder; `None`: it is not kept.
    """

    def __call__(self, folder: Path | None) -> Tabulator:
        """
        Make one.
        """


def column(**said: Any) -> Any:
    """
    Declare a column of a row class: ``doc``, ``unit`` and what `attrs.field` takes.
    """
    metadata = {key: said.pop(key) for key in ("doc", "unit") if key in said}
    return attrs.field(metadata=metadata, **said)
