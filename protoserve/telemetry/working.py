"""
The far end of a log: what one machine has received, handled by another.

Each entry holds datagrams of one exporter as they came, with times and addresses. They go
through a service as if a server had just received them, so a handler needs not know where
it runs; or they are tabulated, for sinks. Templates that they refer to stand in front of
them, without a time; a handler that looks at templates sees them again. An entry is acknowledged when all of it has been
dealt with, so whatever a worker leaves undone is given to another one.

Answers go nowhere: whoever asked does not wait any more.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from protoserve.protocol import Protocol
from protoserve.rarelog import RareLog
from protoserve.service import Service
from protoserve.session import Peer
from protoserve.telemetry.delivery import DeliveryStats
from protoserve.telemetry.logs.base import Consumer, Entry, Log, LogUnavailableError
from protoserve.telemetry.packing import unpack_frames
from protoserve.telemetry.putaside import PutAside
from protoserve.telemetry.tables import Frames
from protoserve.telemetry.tabulate import tabulator_of

__all__ = ["Handling", "Unpacking"]

logger = logging.getLogger("protoserve")

_GRACE = 2.0
"""Seconds in which a log that is not there may say so."""
_MOST = 32
"""Entries that are taken at a time."""
_LOOK = 0.2
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 10.0


class Unpacking:
    """
    Makes tables of entries that hold datagrams, for a `Delivery`.

    Args:
        protocol: what they speak.
        folder: where templates are kept.
    """

    def __init__(self, protocol: Protocol, folder: Path | None) -> None:
        self.received = self.refused = self.good = 0
        """Datagrams: all, those that are no messages, and the last entry's others."""
        self._tabulator = tabulator_of(protocol, folder)
        self._rare = RareLog(logger)

    def __call__(self, payload: bytes) -> dict[str, Any]:
        """
        Make tables; datagrams that cannot be used are logged.
        """
        self.good = 0
        frames = unpack_frames(payload)
        made = self._tabulator.tables(frames)
        count = int(np.count_nonzero(frames.times))
        self.received += count
        self.refused += len(made.refused)
        self.good = count - len(made.refused)
        for refused in made.refused:
            text = "a datagram is %s: %s"
            self._rare.log(logging.WARNING, text, refused.reason, refused.error)
        return dict(made.tables)

    def close(self) -> None:
        """
        Keep what is to be known the next time.
        """
        self._tabulator.close()


class Handling:
    """
    Lets a service handle the entries of a log.

    Args:
        log: where entries come from.
        group: as which group they are read.
        service: has the handler.
        aside: where entries are kept that hold no datagrams.
    """

    def __init__(
        self, log: Log, group: str, service: Service, aside: PutAside | None = None
    ) -> None:
        self.group = group
        self.stats = DeliveryStats()
        self._log = log
        self._service = service
        self._aside = aside
        self._rare = RareLog(logger, 60.0)
        self._closing = threading.Event()
        self._cut_off = False
        """Whether the log could not be reached the last time."""
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """
        Handle entries in a thread, until `close`.
        """
        self._thread = threading.Thread(
            target=self._run, name=f"work {self.group}", daemon=True
        )
        self._thread.start()

    def close(self, drain: float = 5.0) -> bool:
        """
        Finish what is begun; the rest stays in the log.

        Returns:
            Whether the thread has ended in time.
        """
        self._closing.set()
        if self._thread is None:
            return True
        self._thread.join(min(drain, _GRACE) if self._cut_off else drain)
        return not self._thread.is_alive()

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        self._service.open()
        while not self._closing.is_set():
            try:
                consumer = self._log.consume(self.group)
                try:
                    self._read(consumer)
                    pause = _FIRST_PAUSE
                finally:
                    consumer.close()
            except LogUnavailableError as error:
                self._cut_off = True
                self.stats.retries += 1
                self.stats.last_error = str(error)
                text = "%s: %s; it is tried again"
                self._rare.log(logging.WARNING, text, self.group, error)
                self._closing.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        self._service.close()

    def _read(self, consumer: Consumer) -> None:
        side = self._service.RequestHandlerClass.batch_side(_NoServer())
        while not self._closing.is_set():
            entries = consumer.take(_MOST, _LOOK)
            self._cut_off = False
            side.attend()
            for entry in entries:
                self._handle(side, entry)
            if entries:
                while side.busy:
                    side.attend()
                    time.sleep(0.005)
                self._service.flush()
                consumer.ack(entries)
                self.stats.entries += len(entries)
            self.stats.lag = consumer.lag()

    def _handle(self, side: Any, entry: Entry) -> None:
        try:
            frames = unpack_frames(entry.payload)
        except Exception as error:
            self.stats.refused += 1
            self.stats.last_error = str(error)
            if self._aside is not None:
                self._aside.put(entry.id, entry.payload, str(error))
            self._rare.log(logging.ERROR, "entry %s: %s", entry.id, error)
            return
        side.batch(FramesBlock(frames))
        self.stats.delivered += int(np.count_nonzero(frames.times))


class _NoServer:
    """
    Stands where a server is otherwise: there is no socket to answer by.
    """

    def __init__(self) -> None:
        self.socket = self
        self.family = socket.AF_INET

    def sendto(self, *arguments: Any) -> None:
        """
        Drop an answer.
        """

    def send_batch(self, replies: Sequence[Any]) -> None:
        """
        Drop answers.
        """

    def _loop_wake(self) -> None:
        """
        Nobody waits for it.
        """


class FramesBlock:
    """
    Frames in the form of a `Block`, as a batch side takes it.
    """

    gro = False

    def __init__(self, frames: Frames) -> None:
        self.rows = self.count = self.total = len(frames)
        self.is_internet = all(p.transport == "udp" for p in frames.exporters)
        self.data = frames.data.tobytes()
        self.starts = array("q", frames.starts.tolist())
        self.lengths = array("q", frames.lengths.tolist())
        seconds = frames.times // 1_000_000_000
        self.seconds = array("q", seconds.tolist())
        self.nanoseconds = array("q", (frames.times % 1_000_000_000).tolist())
        self.name_stride = 8
        names = [int(sender).to_bytes(8, "big") for sender in frames.senders.tolist()]
        self.names = b"".join(names)
        self._names = names
        self.addresses = _Addresses(frames.exporters)

    def datagrams(self) -> Iterator[tuple[int, int, bytes]]:
        """
        Give start, length and sender of each.
        """
        return zip(self.starts, self.lengths, self._names, strict=True)


class _Addresses:
    def __init__(self, exporters: Sequence[Peer]) -> None:
        self._exporters = exporters

    def plain(self, name: bytes) -> Any:
        """
        Translate a sender.
        """
        return self._exporters[int.from_bytes(name, "big")].address
