"""
``protoserve collect`` and ``protoserve work``: settings, signals, and how it goes.

On a terminal the last lines say what comes in, what is lost and why, and how far the sinks
are. With ``--json`` the same is written as an object each second.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import gc
import json
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from protoserve.cli.logs import set_up_logging
from protoserve.cli.metrics import place_of, pushed, served, tell_metrics
from protoserve.cli.targets import CommandError, load, look_here
from protoserve.limits import Limits
from protoserve.protocol import Protocol
from protoserve.serve import StartError
from protoserve.server._supervise import worker_count
from protoserve.service import Service
from protoserve.urls import Address

if TYPE_CHECKING:
    from protoserve.telemetry.collecting import Collecting, Settings
    from protoserve.telemetry.metrics import Figures

__all__ = ["collect", "work"]

_LISTS = ("listen", "into", "limit")
_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20}
_SIZES |= {"gi": 1 << 30, "t": 10**12, "ti": 1 << 40}
_PAUSE = 0.5
_RESPONSIVE = 0.0005
"""Seconds after which a thread that computes gives way to one that receives."""


def collect(
    options: dict[str, Any],
    given: Collection[str],
    *,
    config: str | None,
    as_json: bool,
    log_format: str,
    verbose: bool,
) -> int:
    """
    Collect until SIGTERM or Ctrl-C.

    Args:
        options: those of the command, by name.
        given: the names of those that were given.
        config: a YAML file with others.
        as_json: write what has become of datagrams, each second.
        log_format: as for `set_up_logging`.
        verbose: likewise.

    Returns:
        The exit code.

    Raises:
        CommandError: it cannot be begun.
    """
    # Until there is something to be brought to an end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    set_up_logging(log_format, verbose=verbose)
    _check_extras()
    from protoserve.telemetry.collecting import Collecting

    settings = _settings(_with_config(options, given, config))
    sys.setswitchinterval(_RESPONSIVE)
    collecting = Collecting(
        settings,
        on_metrics=functools.partial(_tell_metrics, settings),
        shown=functools.partial(_shown, as_json=as_json),
    )
    try:
        _bind(collecting)
        _on_signals(collecting.stop)
        gc.collect()
        gc.freeze()  # what is there by now stays: it need not be looked through again
        collecting.serve(lambda: _tell_addresses(collecting))
    except StartError as exc:
        raise CommandError(str(exc)) from exc
    finally:
        gc.unfreeze()
    return 0


def _check_extras() -> None:
    try:
        import numpy  # noqa: F401, ICN001 - only whether it is there
        import pyarrow  # noqa: F401, ICN001
    except ModuleNotFoundError as exc:
        raise CommandError(
            f"this needs {exc.name}; install it with pip install 'protoserve[collect]'"
        ) from exc


def _with_config(
    options: dict[str, Any], given: Collection[str], config: str | None
) -> dict[str, Any]:
    """
    Fill in what a file says where the command line says nothing.
    """
    if config is None:
        return options
    import yaml

    try:
        found = yaml.safe_load(Path(config).read_text())
    except OSError as exc:
        raise CommandError(f"cannot read {config}: {exc.strerror}") from exc
    except yaml.YAMLError as exc:
        raise CommandError(f"{config}: {exc}") from exc
    if not isinstance(found, dict):
        raise CommandError(f"{config}: expected names with values")
    merged = dict(options)
    for key, value in found.items():
        name = str(key).replace("-", "_")
        if name not in options:
            known = ", ".join(options)
            raise CommandError(f"{config}: unknown {key!r} (known: {known})")
        if name in _LISTS and not isinstance(value, list):
            value = [value]
        if name not in given:
            merged[name] = value
    return merged


def _settings(options: dict[str, Any]) -> Settings:
    from protoserve.telemetry.collecting import Settings

    if not options["protocol"]:
        raise CommandError("there is no PROTOCOL, as in protocols.netflow:netflow")
    if not options["listen"]:
        raise CommandError("there is no --listen, as in --listen udp://0.0.0.0:2055")
    protocol = load(str(options["protocol"]), Protocol, "protocols.netflow:netflow")
    limits = Limits()
    for assignment in options["limit"] or ():
        limits = limits.with_text(str(assignment))
    spool = options["spool"] or f"{protocol.name}-spool"
    return Settings(
        protocol=protocol,
        addresses=[Address.parse(str(url)) for url in options["listen"]],
        into=[str(url) for url in options["into"] or ()],
        to=options["to"],
        spool=Path(str(spool)),
        spool_size=_size(options["spool_size"], "--spool-size"),
        spool_when_full=options["spool_full"],
        where=options["filter"],
        select=options["select"],
        limits=limits,
        receive_buffer=_size(options["receive_buffer"], "--receive-buffer"),
        kernel_times=bool(options["kernel_times"]),
        queue=_size(options["queue"], "--queue"),
        when_full=options["queue_full"],
        rate=options["rate"],
        workers=_workers(options["workers"]),
        spread=options["spread"],
        drain=float(options["drain"]),
        metrics=place_of(options["metrics"]),
        otlp=options["otlp"],
    )


def _workers(asked: object) -> int:
    """
    Say how many processes receive; a file may say it as a number.
    """
    text = str(asked)
    try:
        return worker_count(text if text == "auto" else int(text))
    except ValueError as exc:
        raise CommandError(str(exc)) from exc


def _size(text: object, option: str) -> int:
    """
    Read a number of bytes: ``64MiB``, ``8GB``.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", str(text).strip().lower())
    if found is None or found[2] not in _SIZES:
        raise CommandError(f"{option}: expected a size such as 64MiB, not {text!r}")
    return int(float(found[1]) * _SIZES[found[2]])


def _bind(collecting: Collecting) -> None:
    runner = collecting.runner
    try:
        collecting.bind()
    except OSError as exc:
        place = runner.addresses[len(runner.bound)]
        raise CommandError(f"cannot listen on {place}: {exc.strerror or exc}") from exc


def _on_signals(stop: Callable[[], object]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # there is nothing to load anew


def _tell_addresses(collecting: Collecting) -> None:
    for address in collecting.runner.bound:
        tell_line(f"listening on {address}")


def _tell_metrics(settings: Settings, port: int) -> None:
    assert settings.metrics is not None
    tell_metrics(settings.metrics[0], port)


def tell_line(text: str) -> None:
    """
    Write a line on standard error.
    """
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


# How it goes ---------------------------------------------------------------------


@contextlib.contextmanager
def _shown(read: Callable[[], Figures], *, as_json: bool) -> Iterator[None]:
    """
    Show how it goes while something runs, and at the end.
    """
    if not as_json and not sys.stderr.isatty():
        yield
        return
    ended = threading.Event()
    show = _write_lines if as_json else _draw
    thread = threading.Thread(target=show, args=(read, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(5.0)


def _plain(figures: Figures) -> dict[str, Any]:
    balance = figures.balance
    return {
        "time": time.time(),
        "received": balance.received,
        "delivered": balance.delivered,
        "dropped": dict(balance.dropped),
        "in_flight": balance.in_flight,
        **figures.counted,
        "sinks": [
            {
                "name": sink.name,
                "rows": sink.rows,
                "lag": sink.lag,
                "retries": sink.retries,
                "refused": sink.refused,
                "error": sink.error,
            }
            for sink in figures.sinks
        ],
        "spool_bytes": figures.spool_bytes,
        "losses": [attrs.asdict(losses) for losses in figures.losses],
    }


def _write_lines(read: Callable[[], Figures], ended: threading.Event) -> None:
    while True:
        over = ended.wait(1.0)
        sys.stdout.write(json.dumps(_plain(read())) + "\n")
        sys.stdout.flush()
        if over:
            return


def _draw(read: Callable[[], Figures], ended: threading.Event) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    before, at = read(), time.monotonic()
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        while True:
            over = ended.wait(_PAUSE)
            now, moment = read(), time.monotonic()
            live.update(_picture(now, before, moment - at), refresh=True)
            before, at = now, moment
            if over:
                return


def _picture(now: Figures, before: Figures, seconds: float) -> Any:
    """
    Draw figures: a line of rates, a line of losses, one for each sink.
    """
    from rich.table import Table
    from rich.text import Text

    def rate(new: int, old: int) -> str:
        return _number((new - old) / max(seconds, 1e-3))

    balance, last = now.balance, before.balance
    grid = Table.grid(padding=(0, 2))
    counted, earlier = now.counted, before.counted
    grid.add_row(
        Text("in", style="bold"),
        f"{rate(balance.received, last.received)} datagrams/s",
        f"{rate(counted.get('rows', 0), earlier.get('rows', 0))} rows/s",
        f"{rate(counted.get('bytes', 0), earlier.get('bytes', 0))}B/s",
        f"{_number(counted.get('exporters', 0))} exporters",
    )
    lost = {reason: n for reason, n in balance.dropped.items() if n}
    style = "bold red" if lost else "green"
    grid.add_row(
        Text("dropped", style="bold"),
        Text(", ".join(f"{r} {_number(n)}" for r, n in lost.items()) or "0", style),
        f"{_number(counted.get('missing', 0))} missing",
        f"{_number(balance.in_flight)} in flight",
        f"{_number(balance.delivered)} delivered",
    )
    for sink in now.sinks:
        grid.add_row(
            Text("into", style="bold"),
            sink.name,
            f"{_number(sink.rows)} rows",
            f"{_number(sink.lag)} entries behind",
            Text(sink.error[:60], "red"),
        )
    return grid


def _number(value: float) -> str:
    """
    Write a number as people read it: ``1.24 M``.
    """
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= factor:
            scale = 1e3 if unit == " k" else factor
            return f"{value / scale:.3g}{unit}"
    return f"{value:,.0f} "


# work ----------------------------------------------------------------------------


def work(
    target: str,
    source: str,
    group: str,
    *,
    into: Sequence[str],
    since: str | None,
    spool: str | None,
    metrics: str | None,
    otlp: str | None,
    drain: float,
    as_json: bool,
    log_format: str,
    verbose: bool,
) -> int:
    """
    Handle the entries of a log until SIGTERM or Ctrl-C.

    Args:
        target: a service, or a protocol, as ``MODULE:NAME``.
        source: the log's URL.
        group: as which group it is read.
        into: the URLs of sinks.
        since: from where on: a sequence, or a moment.
        spool: the folder for what is kept between runs.
        metrics: where metrics are served, ``HOST:PORT``.
        otlp: the URL that they are pushed to.
        drain: seconds in which everything is to end.
        as_json: write how it goes, each second.
        log_format: as for `set_up_logging`.
        verbose: likewise.

    Returns:
        The exit code.

    Raises:
        CommandError: it cannot be begun.
    """
    # Until there is something to be brought to an end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    set_up_logging(log_format, verbose=verbose)
    _check_extras()
    from protoserve.telemetry.workers import Working

    look_here()
    found = load(target, object, "sensors:app")
    if not isinstance(found, Service | Protocol):
        raise CommandError(f"{target} is neither a Service nor a Protocol")
    service = found if isinstance(found, Service) else None
    protocol = found.protocol if isinstance(found, Service) else found
    if service is None and not into:
        raise CommandError(f"{target} is a protocol: give a sink too (--into)")
    working = Working(
        protocol,
        service,
        source,
        group,
        into=into,
        folder=Path(spool or f"{protocol.name}-work"),
        since=_since(since),
        drain=drain,
    )
    _on_signals(working.stop)
    with (
        served(metrics, working.figures),
        pushed(otlp, working.figures),
        _shown(working.figures, as_json=as_json),
    ):
        working.run(lambda: tell_line(f"working for {group}"))
    return 0


def _since(text: str | None) -> int | float | None:
    """
    Read a place in a log: an entry's number, or a moment in seconds since the epoch.
    """
    if text is None:
        return None
    if text.isdecimal():
        return int(text)
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as exc:
        raise CommandError(
            f"--since: expected an entry's number or a time such as "
            f"2026-11-22T12:00:00, not {text!r}"
        ) from exc
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return moment.timestamp()
