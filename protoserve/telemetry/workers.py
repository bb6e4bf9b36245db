"""
A worker as a whole: from a log to a handler, to sinks, or to both.

Each sink reads as a group of its own, so that a slow one holds up nobody. The handler, or
the first sink where there is none, has the group's name; each of the others has the name and
its sink's kind, so that a sink that is added behind them changes nobody's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from protoserve.account import REASONS, Balance
from protoserve.protocol import Protocol
from protoserve.rarelog import RareLog
from protoserve.service import Service
from protoserve.telemetry.delivery import Delivery
from protoserve.telemetry.logs.base import Log, LogUnavailableError
from protoserve.telemetry.logs.registry import open_log
from protoserve.telemetry.metrics import Figures, SinkFigures
from protoserve.telemetry.putaside import PutAside
from protoserve.telemetry.sinks.places import check_folder, check_place
from protoserve.telemetry.sinks.registry import open_sink
from protoserve.telemetry.targets import without_secrets
from protoserve.telemetry.working import Handling, Unpacking

__all__ = ["Working"]

_rare = RareLog(logging.getLogger("protoserve"))

_MAX_ROWS = 50_000
_MAX_AGE = 1.0


class Working:
    """
    Handles the entries of a log until `stop` is called.

    Args:
        protocol: what the datagrams in them speak.
        service: whose handler gets them, if any.
        source: the log's URL.
        group: whose share of the log it is.
        into: the URLs of sinks.
        folder: where templates and what is refused are kept.
        since: from which entry (a whole number) or moment (seconds since the epoch) on
            the group is to read.
        drain: seconds in which everything is to end.

    Raises:
        DeclarationError: a URL makes no sense.
    """

    def __init__(
        self,
        protocol: Protocol,
        service: Service | None,
        source: str,
        group: str,
        *,
        into: Sequence[str] = (),
        folder: Path,
        since: float | None = None,
        drain: float = 10.0,
    ) -> None:
        sinks = [open_sink(url) for url in into]
        for sink in sinks:
            check_place(sink.url)
        check_folder(folder)
        self._log: Log = open_log(source, name=protocol.name)
        self._drain = drain
        self._stopping = threading.Event()
        self._service = service
        self._unpackings: list[Unpacking] = []
        self._ways: list[tuple[str, Handling | Delivery]] = []
        kinds = [sink.url.partition(":")[0] for sink in sinks]
        if service is not None:
            kinds.insert(0, "")
        self._groups = _groups(group, kinds)
        sink_groups = self._groups[len(kinds) - len(into) :]
        aside = PutAside(folder / "refused")
        if service is not None:
            handling = Handling(self._log, group, service, aside)
            self._ways.append((type(service.handler).__name__, handling))
        for own, url, sink in zip(sink_groups, into, sinks, strict=True):
            unpack = Unpacking(protocol, folder)
            self._unpackings.append(unpack)
            delivery = Delivery(
                self._log,
                own,
                sink,
                unpack=unpack,
                count=lambda unpack=unpack: unpack.good,  # type: ignore[misc]
                max_rows=sink.max_rows or _MAX_ROWS,
                max_age=sink.max_age or _MAX_AGE,
                aside=aside,
            )
            self._ways.append((without_secrets(url), delivery))
        self._since = since

    def _seek(self, group: str, since: float) -> None:
        """
        Have a group begin where it is to, as soon as the log can be reached.
        """
        while not self._stopping.is_set():
            try:
                consumer = self._log.consume(group)
                try:
                    if isinstance(since, int):
                        consumer.seek(sequence=since)
                    else:
                        consumer.seek(time=since)
                finally:
                    consumer.close()
            except LogUnavailableError as error:
                _rare.log(logging.WARNING, "%s; it is tried again", error)
                self._stopping.wait(1.0)
            else:
                return

    def run(self, on_ready: Callable[[], object] | None = None) -> None:
        """
        Work until `stop`.
        """
        if on_ready is not None:
            on_ready()
        if self._since is not None:
            for group in self._groups:
                self._seek(group, self._since)
        for _, way in self._ways:
            way.start()
        while not self._stopping.wait(0.5):
            pass
        enders = [
            threading.Thread(target=way.close, args=(self._drain,), daemon=True)
            for _, way in self._ways
        ]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join()
        for unpacking in self._unpackings:
            unpacking.close()
        self._log.close()

    def stop(self) -> None:
        """
        Ask to stop; to be called from a signal handler or any thread.
        """
        self._stopping.set()

    def figures(self) -> Figures:
        """
        Give everything that is counted.
        """
        if self._service is not None:
            balance = self._service.account.balance()
        else:
            unpack, stats = self._unpackings[0], self._ways[0][1].stats
            dropped = dict.fromkeys(REASONS, 0)
            dropped |= {"malformed": unpack.refused, "sink": stats.dropped}
            balance = Balance(unpack.received, stats.delivered, dropped)
        sinks = tuple(
            SinkFigures(
                name=name,
                rows=way.stats.rows,
                lag=way.stats.lag,
                retries=way.stats.retries,
                refused=way.stats.refused,
                error=way.stats.last_error,
            )
            for name, way in self._ways
        )
        return Figures(balance=balance, sinks=sinks)


def _groups(group: str, kinds: Sequence[str]) -> list[str]:
    """
    Name the group of each way: the first one's, and others' by their kinds.
    """
    found = [group]
    for place, kind in enumerate(kinds[1:], 1):
        before = kinds[1:place].count(kind)
        found.append(f"{group}-{kind}" + (f"-{before + 1}" if before else ""))
    return found[: len(kinds)]
