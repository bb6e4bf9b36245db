"""
A collector as a whole: servers, tabulation, the spool, and what delivers from there.

In one process the servers' threads receive, one thread tabulates, one brings the spool to
the disk, and each sink has a thread of its own. With workers each of them receives and
tabulates into a spool of its own, and one process more delivers from all of them; the main
process supervises.

What is in the spool is in flight until every sink has it. A run accounts for what it has
received itself: what an earlier one has left in the spool is delivered, and not counted
again. What the last one had in memory when it was killed is counted as killed.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import attrs

from protoserve.account import Account
from protoserve.errors import DeclarationError
from protoserve.limits import Limits
from protoserve.protocol import Protocol
from protoserve.serve import Runner, StartError
from protoserve.service import Service
from protoserve.telemetry.books import Books, lost_before
from protoserve.telemetry.collector import COUNTED, ENOUGH, Collector
from protoserve.telemetry.columns import check_columns
from protoserve.telemetry.deadletters import DeadLetters
from protoserve.telemetry.delivery import Delivery, Refusals
from protoserve.telemetry.forwarding import Forwarding
from protoserve.telemetry.intake import Intake
from protoserve.telemetry.logs.base import Log, LogUnavailableError
from protoserve.telemetry.logs.registry import open_log
from protoserve.telemetry.losses import read_losses
from protoserve.telemetry.metrics import Figures, MetricsServer, SinkFigures
from protoserve.telemetry.putaside import PutAside
from protoserve.telemetry.rates import Rates
from protoserve.telemetry.receiving import CollectingService
from protoserve.telemetry.selecting import Selection
from protoserve.telemetry.sinks.places import check_place
from protoserve.telemetry.sinks.registry import open_sink
from protoserve.telemetry.spool import Spool
from protoserve.telemetry.tabulate import tabulator_of
from protoserve.telemetry.targets import without_secrets
from protoserve.telemetry.together import Together
from protoserve.urls import Address

__all__ = ["Collecting", "Settings"]

logger = logging.getLogger("protoserve")

_ENTRIES = 64
"""Entries that a spool holds, at least."""
_MAX_ROWS = 50_000
_MAX_AGE = 1.0
_LOOK = 0.2
"""Seconds between two looks at how far the sinks are."""


@attrs.frozen(kw_only=True)
class Settings:
    """
    What a collector is to do.
    """

    protocol: Protocol
    addresses: Sequence[Address]
    """Where it listens."""
    into: Sequence[str] = ()
    """The URLs of the sinks."""
    to: str | None = None
    """The URL of the log that datagrams are forwarded to."""
    spool: Path
    """The folder of everything that is kept between runs."""
    where: str | None = None
    """Which rows are wanted, as an expression of SQL."""
    select: str | None = None
    """Which columns are wanted, as expressions of SQL."""
    limits: Limits = attrs.field(factory=Limits)
    receive_buffer: int = 32 << 20
    """Bytes of the kernel's queue to ask for, for each socket."""
    kernel_times: bool = False
    """Whether the kernel says when each datagram came, to the nanosecond."""
    gro: bool = False
    """Whether the kernel may put datagrams together, see `BatchMixIn.gro`."""
    queue: int = 64 << 20
    """Bytes of datagrams that may wait to be tabulated."""
    when_full: str = "block"
    """What happens when that queue is full, see `Intake`."""
    spool_size: int = 8 << 30
    """Bytes of the spool, at most."""
    spool_when_full: str = "drop-oldest"
    rate: float | None = None
    """Datagrams a second that one exporter may send."""
    workers: int = 1
    """How many processes receive."""
    spread: str = "exporter"
    """Whether each exporter has its own worker, or each ``datagram`` any."""
    drain: float = 10.0
    """Seconds in which everything is to end."""
    metrics: tuple[str, int] | None = None
    """Where metrics are served."""
    otlp: str | None = None
    """The URL that metrics are pushed to."""


class _Outlets:
    """
    What delivers from the spools: for each sink, and for a log, a thread of its own.

    Args:
        settings: which there are.
        account: where it is written down what is delivered.
        folders: the spools' folders, with what was in them when the run began.
        lost: what their groups had lost by then.
    """

    def __init__(
        self,
        settings: Settings,
        account: Account,
        folders: Mapping[Path, int],
        lost: Mapping[tuple[Path, str], int],
    ) -> None:
        self._settings = settings
        self._account = account
        self._folders = folders
        self._lost = dict(lost)
        self._refusals = Refusals()
        self._refused = 0
        """What of this process's has been written down as refused."""
        self._spools: list[Spool] = []
        self._ways: list[tuple[Delivery | Forwarding, list[Spool]]] = []
        self._lock = threading.Lock()

    def start(self) -> None:
        """
        Begin to deliver.
        """
        settings = self._settings
        aside = PutAside(settings.spool / "refused")
        for url in settings.into:
            spools, log = self._readers(ROWS)
            sink = open_sink(url)
            delivery = Delivery(
                log,
                without_secrets(url),
                sink,
                max_rows=sink.max_rows or _MAX_ROWS,
                max_age=sink.max_age or _MAX_AGE,
                aside=aside,
                refusals=self._refusals,
            )
            self._ways.append((delivery, spools))
        if settings.to is not None:
            spools, log = self._readers(DATAGRAMS)
            to, name = settings.to, settings.protocol.name
            forwarding = Forwarding(
                log, without_secrets(to), lambda: open_log(to, name=name), aside
            )
            self._ways.append((forwarding, spools))
        for way, _ in self._ways:
            way.start()

    def _readers(self, name: str) -> tuple[list[Spool], Log]:
        """
        Open all spools of a name, as one log.
        """
        folders = [folder for folder in self._folders if folder.name == name]
        spools = [_spool(self._settings, folder) for folder in folders]
        self._spools += spools
        return spools, spools[0] if len(spools) == 1 else Together(spools)

    def is_written(self) -> bool:
        """
        Say whether any process still writes to one of the spools.
        """
        for folder in self._folders:
            try:
                with _spool(self._settings, folder) as spool:
                    spool.claim()
            except LogUnavailableError:
                return True
        return False

    def close(self, deadline: float) -> None:
        """
        Deliver what is there; what is not done by then stays in the spools.
        """
        left = max(0.1, deadline - time.monotonic())
        enders = [
            threading.Thread(target=way.close, args=(left,), daemon=True)
            for way, _ in self._ways
        ]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join()
        self.settle()
        for spool in self._spools:
            spool.close()

    def settle(self) -> None:
        """
        Account for what all sinks have stored, and for what one of them never will.
        """
        for way, _ in self._ways:
            way.look()
        with self._lock:
            settled = [self._settled(way, spools) for way, spools in self._ways]
            workers = {worker for dones, _ in settled for worker in dones}
            done = sum(
                min(dones.get(worker, 0) for dones, _ in settled) for worker in workers
            )
            # In shared memory: whoever did this before may have been killed.
            dropped_each = (way.stats.dropped for way, _ in self._ways)
            refused = max(self._refusals.count, *dropped_each)
            self._account.add("settled_refused", refused - self._refused)
            self._refused = refused
            lost = max(lost for _, lost in settled)
            lost += self._account.sum("settled_refused")
            dropped = self._account.sum("settled_sink")
            new = max(0, done - dropped - self._account.sum("settled_delivered"))
            more = min(new, max(0, lost - dropped))
            for name, number in (("sink", more), ("delivered", new - more)):
                if number:
                    self._account.add(f"settled_{name}", number, name)

    def _settled(
        self, way: Delivery | Forwarding, spools: Sequence[Spool]
    ) -> tuple[dict[Path, int], int]:
        """
        Say how many datagrams of this run are done with, by worker, and how many of all
        were lost on the way.
        """
        done: dict[Path, int] = {}
        lost = 0
        for spool in spools:
            position, gone = spool.progress(way.group)
            come = max(0, position - self._folders[spool.folder])
            done[spool.folder.parent] = come
            # What was lost beyond what has come is of earlier runs.
            before = max(self._lost[spool.folder, way.group], gone - come)
            self._lost[spool.folder, way.group] = before
            lost += max(0, gone - before)
        return done, lost

    def figures(self) -> tuple[SinkFigures, ...]:
        """
        Say how each of them is doing.
        """
        return tuple(
            SinkFigures(
                name=way.group,
                rows=way.stats.rows,
                lag=way.stats.lag,
                retries=way.stats.retries,
                refused=way.stats.refused,
                error=way.stats.last_error,
            )
            for way, _ in self._ways
        )

    def size(self) -> int:
        """
        Say how many bytes the spools have.
        """
        folders = {spool.folder: spool for spool in self._spools}
        return sum(spool.stats.size for spool in folders.values())


class Collecting:
    """
    Collects until `stop` is called.

    Args:
        settings: what to do.
        on_metrics: is told the port at which metrics are served.
        shown: a context manager function that shows figures, which it is given a
            function for, while something runs.

    Raises:
        DeclarationError: a sink, a log, an expression or the protocol makes no sense.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_metrics: Callable[[int], object] = bool,
        shown: Callable[[Callable[[], Figures]], AbstractContextManager[Any]] = (
            contextlib.nullcontext
        ),
    ) -> None:
        if not settings.into and settings.to is None:
            raise DeclarationError(
                "there is nowhere to collect into: give a sink (--into) or a log (--to)"
            )
        self.settings = settings
        self.account = Account(
            (*COUNTED, "settled_delivered", "settled_sink", "settled_refused")
        )
        self._on_metrics = on_metrics
        self._shown = shown
        self._check()
        intake = Intake(
            self.account, most_bytes=settings.queue, policy=settings.when_full
        )
        several = settings.workers > 1
        is_split = several and settings.spread == "datagram"
        self._collector = Collector(self.account, intake, sees_all=not is_split)
        self._service = CollectingService(
            settings.protocol,
            intake,
            self._collector.refuse,
            self.account,
            lifespan=self._receive,
            limits=settings.limits,
        )
        self.runner = Runner(
            self._service,
            settings.addresses,
            "batch",
            settings.drain,
            settings.workers if several else None,
            per_worker=None if settings.spread == "exporter" else False,
            beside=self._deliver if several else None,
            receive_buffer=settings.receive_buffer,
        )
        self._folders: dict[Path, int] = {}
        self._lost: dict[tuple[Path, str], int] = {}

    def _check(self) -> None:
        """
        Find out now what could only be told later.
        """
        settings = self.settings
        for url in settings.into:
            check_place(open_sink(url).url)
        if settings.to is not None:
            open_log(settings.to, name=settings.protocol.name).close()
        if settings.otlp is not None:
            from protoserve.telemetry.otel import check_url

            check_url(settings.otlp)
        if settings.where is not None or settings.select is not None:
            selection = Selection(settings.where, settings.select)
            selection.close()
            check_columns(settings.protocol, selection.names)
        _prepare(settings.protocol)

    def bind(self) -> None:
        """
        Take the addresses and the spools.

        Raises:
            StartError: a spool cannot be had.
            OSError: an address cannot be had.
        """
        for folder in self._all_folders():
            try:
                with _spool(self.settings, folder) as spool:
                    self._folders[folder] = spool.total
                    for url in (*self.settings.into, self.settings.to or ""):
                        group = without_secrets(url)
                        self._lost[folder, group] = spool.progress(group)[1]
            except LogUnavailableError as exc:
                raise StartError(str(exc)) from exc
        self.runner.bind()
        self._keep_books()
        for server in self.runner.datagram_servers():
            server.timestamps = self.settings.kernel_times
            server.gro = self.settings.gro

    def _keep_books(self) -> None:
        """
        Account for what the last run had in memory when it was killed.
        """
        name = ROWS if self.settings.into else DATAGRAMS
        spooled = sum(at for each, at in self._folders.items() if each.name == name)
        path = self.settings.spool / f"{name}.account"
        lost = lost_before(path, spooled)
        self._books = Books(path, self.account, spooled)
        if lost:
            text = "%d datagrams that the last run had in memory when it ended are lost"
            logger.warning(text, lost)
            self.account.lose("killed", lost)

    def _all_folders(self) -> list[Path]:
        """
        Name the folders of all spools, those of former workers included.
        """
        settings = self.settings
        names = [name for name, used in _used(settings).items() if used]
        own = [self._own_folder(number) for number in range(settings.workers)]
        others = [*settings.spool.glob("worker-*"), settings.spool]
        left = [each for each in others if each not in own]
        return [
            *(folder / name for folder in own for name in names),
            *(each / name for each in left for name in names if (each / name).is_dir()),
        ]

    def _own_folder(self, worker: int) -> Path:
        spool = self.settings.spool
        return spool if self.settings.workers == 1 else spool / f"worker-{worker}"

    def serve(self, on_ready: Callable[[], object] | None = None) -> None:
        """
        Collect until `stop`, then bring what has come to where it goes.

        Raises:
            StartError: it cannot begin.
        """
        with contextlib.closing(self._books):
            if self.settings.workers > 1:
                self.runner.serve(on_ready)
            else:
                self._serve(on_ready)

    def _serve(self, on_ready: Callable[[], object] | None) -> None:
        """
        Receive and deliver in this process.
        """
        self.runner.open()
        with self._delivering() as outlets:
            try:
                self.runner.serve(on_ready)
            finally:
                self._service.close()
                outlets.close(time.monotonic() + self.settings.drain)

    def stop(self) -> None:
        """
        Ask to stop; to be called from a signal handler or any thread.
        """
        self.runner.stop()

    # Receiving -----------------------------------------------------------------

    @contextlib.contextmanager
    def _receive(self, _service: Service) -> Iterator[None]:
        """
        Tabulate, in each process that receives, as long as that lives.
        """
        settings, worker = self.settings, self._service.worker
        folder = self._own_folder(worker)
        used = _used(settings)
        spools = {name: _spool(settings, folder / name) for name in used if used[name]}
        selection = None
        if settings.where is not None or settings.select is not None:
            selection = Selection(settings.where, settings.select)
        for spool in spools.values():
            spool.claim()
        if settings.workers > 1:
            main = spools.get(ROWS) or spools[DATAGRAMS]
            handed_over = main.total - self._folders[main.folder]
            self.account.join(worker, handed_over)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOSSES).unlink(missing_ok=True)  # that is of another run
        self._collector.start(
            tabulator_of(settings.protocol, folder),
            tables=spools.get(ROWS),
            frames=spools.get(DATAGRAMS),
            dead_letters=DeadLetters(folder / "dead-letters.jsonl"),
            select=selection,
            rates=None if settings.rate is None else Rates(settings.rate),
            losses=folder / LOSSES,
            # An entry has to be small beside the spool, which makes room by segments.
            enough=max(1, min(ENOUGH, settings.spool_size // _ENTRIES)),
        )
        try:
            yield
        finally:
            if not self._collector.stop(settings.drain):
                logger.warning("not all that was received could be tabulated in time")
            for spool in spools.values():
                with contextlib.suppress(LogUnavailableError):
                    spool.flush()
                spool.close()
            if selection is not None:
                selection.close()

    # Delivering ----------------------------------------------------------------

    @contextlib.contextmanager
    def _delivering(self) -> Iterator[_Outlets]:
        """
        Deliver, count and show, as long as what is within lasts.
        """
        outlets = _Outlets(self.settings, self.account, self._folders, self._lost)

        def figures() -> Figures:
            self._account_now(outlets)
            return Figures(
                balance=self.account.balance(),
                counted={name: self.account.sum(name) for name in COUNTED},
                sinks=outlets.figures(),
                spool_bytes=outlets.size(),
                losses=tuple(
                    read_losses(
                        self._own_folder(number) / LOSSES
                        for number in range(self.settings.workers)
                    )
                ),
            )

        metrics = None
        if self.settings.metrics is not None:
            host, port = self.settings.metrics
            try:
                metrics = MetricsServer(host, port, figures)
            except OSError as exc:
                why = exc.strerror or exc
                raise StartError(f"cannot listen on {host}:{port}: {why}") from exc
            self._on_metrics(metrics.port)
        pusher = None
        if self.settings.otlp is not None:
            from protoserve.telemetry.otel import MetricsPusher

            pusher = MetricsPusher(self.settings.otlp, figures)
        outlets.start()
        ended = threading.Event()
        watcher = threading.Thread(
            target=self._watch, args=(outlets, ended), daemon=True
        )
        watcher.start()
        try:
            with self._shown(figures):
                yield outlets
        finally:
            ended.set()
            watcher.join()
            if metrics is not None:
                metrics.close()
            if pusher is not None:
                pusher.close()

    def _watch(self, outlets: _Outlets, ended: threading.Event) -> None:
        while not ended.wait(_LOOK):
            self._account_now(outlets)

    def _account_now(self, outlets: _Outlets) -> None:
        self.runner.count_kernel_drops()
        self.account.settle()
        outlets.settle()

    def _deliver(self, ready: Callable[[], None], stopping: Callable[[], bool]) -> None:
        """
        Deliver in a process of its own, beside those that receive.
        """
        with self._delivering() as outlets:
            ready()
            while not stopping():
                time.sleep(_LOOK)
            deadline = time.monotonic() + self.settings.drain
            while outlets.is_written() and time.monotonic() < deadline:
                time.sleep(_LOOK)
            self._account_now(outlets)
            outlets.close(deadline)


LOSSES = "losses.json"
"""What is missing of each exporter, in the folder of each receiving process."""
ROWS, DATAGRAMS = "rows", "datagrams"
"""The spools' folders: tables for sinks, datagrams for a log."""


def _used(settings: Settings) -> dict[str, bool]:
    return {ROWS: bool(settings.into), DATAGRAMS: settings.to is not None}


def _spool(settings: Settings, folder: Path) -> Spool:
    return Spool(
        folder,
        max_size=settings.spool_size,
        when_full=settings.spool_when_full,  # type: ignore[arg-type] # checked there
    )


def _prepare(protocol: Protocol) -> None:
    """
    Have now what the first rows need, and not while they wait in memory.

    PyArrow looks for pandas when it makes its first array of Python's values. Where there
    is one, that takes half a second.
    """
    tabulator_of(protocol).close()
    with contextlib.suppress(ModuleNotFoundError):  # a log takes datagrams without it
        import pyarrow as pa
        import pyarrow.compute

        pa.array([b""])
