"""
From the spool to a log on other machines.

Entries keep their ids, so that one that is appended twice, because nobody knows whether
the first attempt has arrived, counts once. They are acknowledged to the spool when the log
has them for good. A log that is away is tried again for as long as it takes.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable

from protoserve.rarelog import RareLog
from protoserve.telemetry.delivery import DeliveryStats
from protoserve.telemetry.logs.base import Consumer, Entry, Log, LogUnavailableError
from protoserve.telemetry.logs.window import EntryTooLargeError
from protoserve.telemetry.putaside import PutAside

__all__ = ["Forwarding"]

logger = logging.getLogger("protoserve")

_MOST = 64
"""Entries that are appended before they are waited for."""
_LOOK = 0.2
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 10.0


class Forwarding:
    """
    Brings the entries of one log to another.

    Args:
        log: where entries come from.
        group: as which group they are read.
        open_target: opens the log to which they go.
        aside: where entries are kept that are too large for it.
    """

    def __init__(
        self,
        log: Log,
        group: str,
        open_target: Callable[[], Log],
        aside: PutAside | None = None,
    ) -> None:
        self.group = group
        self.stats = DeliveryStats()
        self._log = log
        self._open_target = open_target
        self._target: Log | None = None
        self._aside = aside
        self._too_large: set[str] = set()
        self._rare = RareLog(logger, 60.0)
        self._closing = threading.Event()
        self._deadline = 0.0
        self._consumer: Consumer | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """
        Forward from a thread of its own, until `close`.
        """
        self._thread = threading.Thread(
            target=self._run, name=f"forward {self.group}", daemon=True
        )
        self._thread.start()

    def look(self) -> None:
        """
        Take note of what is yet to be forwarded, and of what is gone; from any thread.
        """
        consumer = self._consumer
        if consumer is not None:
            with contextlib.suppress(LogUnavailableError, OSError):
                self.stats.lag = consumer.lag()

    def close(self, drain: float = 5.0) -> bool:
        """
        Forward what is there, for so many seconds at most; the rest stays in the spool.

        Returns:
            Whether the thread has ended.
        """
        self._deadline = time.monotonic() + drain
        self._closing.set()
        if self._thread is None:
            return True
        self._thread.join(drain + 2.0)
        return not self._thread.is_alive()

    def _run(self) -> None:
        consumer = self._consumer = self._log.consume(self.group)
        try:
            while True:
                closing = self._closing.is_set()
                entries = consumer.take(_MOST, 0.0 if closing else _LOOK)
                self.look()
                if entries:
                    if not self._forward(entries):
                        return
                    consumer.ack(entries)
                    self.stats.entries += len(entries)
                    self.stats.delivered += sum(entry.count for entry in entries)
                    self.stats.batches += 1
                elif closing:
                    return
                if closing and time.monotonic() >= self._deadline:
                    return
        finally:
            self._consumer = None
            consumer.close()
            self._let_go()

    def _forward(self, entries: list[Entry]) -> bool:
        """
        Append entries until the log has them; say whether it came to that.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                if self._target is None:
                    self._target = self._open_target()
                for entry in entries:
                    self._append(self._target, entry)
                self._target.flush()
            except LogUnavailableError as error:
                self.stats.retries += 1
                self.stats.last_error = str(error)
                text = "%s: %s; it is tried again"
                self._rare.log(logging.WARNING, text, self.group, error)
            else:
                self._too_large.clear()
                return True
            if self._closing.is_set():
                left = self._deadline - time.monotonic()
                if left <= 0:
                    return False
                time.sleep(min(pause, left))
            else:
                self._closing.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _append(self, target: Log, entry: Entry) -> None:
        """
        Append an entry; one that the log never takes is put aside.
        """
        try:
            target.append(entry.key, entry.payload, entry.id)
        except EntryTooLargeError as error:
            if entry.id in self._too_large:
                return  # it was put aside when the others were tried before
            self._too_large.add(entry.id)
            self.stats.refused += 1
            self.stats.dropped += entry.count
            self.stats.last_error = str(error)
            self._rare.log(logging.ERROR, "%s: %s", self.group, error, kind="large")
            if self._aside is not None:
                self._aside.put(entry.id, entry.payload, str(error))

    def _let_go(self) -> None:
        target, self._target = self._target, None
        if target is not None:
            try:
                target.close()
            except Exception as error:
                logger.debug("%s: closing the log: %s", self.group, error)
