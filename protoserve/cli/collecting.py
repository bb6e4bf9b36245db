"""
``protoserve collect`` and ``protoserve work``: settings, signals, and their ends.

Whatever can be told beforehand is told before anything is bound or made; how it goes then
is shown by `protoserve.cli.watched`.
"""

from __future__ import annotations

import datetime as dt
import functools
import gc
import math
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protoserve.cli.logs import set_up_logging
from protoserve.cli.metrics import place_of, pushed, served, tell_metrics
from protoserve.cli.options import check_gro
from protoserve.cli.targets import CommandError, load, look_here
from protoserve.cli.watched import shown
from protoserve.limits import Limits
from protoserve.protocol import Protocol
from protoserve.serve import StartError
from protoserve.server._supervise import worker_count
from protoserve.service import Service
from protoserve.urls import Address

if TYPE_CHECKING:
    from protoserve.telemetry.collecting import Collecting, Settings

__all__ = ["collect", "work"]

_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20}
_SIZES |= {"gi": 1 << 30, "t": 10**12, "ti": 1 << 40}
_MOST_RECEIVE_BUFFER = 1 << 30
"""Bytes; Linux counts a socket's in 31 bits, and doubles what is asked for."""
_MOST_ENTRIES = 2**63 - 1
_RESPONSIVE = 0.0005
"""Seconds after which a thread that computes gives way to one that receives."""


def collect(
    options: dict[str, Any],
    *,
    as_json: bool,
    log_format: str,
    verbose: bool,
) -> int:
    """
    Collect until SIGTERM or Ctrl-C.

    Args:
        options: those of the command, by name.
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

    settings = _settings(options)
    sys.setswitchinterval(_RESPONSIVE)
    collecting = Collecting(
        settings,
        on_metrics=functools.partial(_tell_metrics, settings),
        shown=functools.partial(shown, as_json=as_json),
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


def _settings(options: dict[str, Any]) -> Settings:
    from protoserve.telemetry.collecting import Settings

    if not options["protocol"]:
        raise CommandError("there is no PROTOCOL, as in protocols.netflow:netflow")
    if not options["listen"]:
        raise CommandError("there is no --listen, as in --listen udp://0.0.0.0:2055")
    if options["gro"]:
        check_gro(options["listen"])
    protocol = load(options["protocol"], Protocol, "protocols.netflow:netflow")
    limits = Limits()
    for assignment in options["limit"] or ():
        limits = limits.with_text(assignment)
    into, workers = options["into"] or [], options["workers"]
    _check_distinct(into)
    return Settings(
        protocol=protocol,
        addresses=[Address.parse(url) for url in options["listen"]],
        into=into,
        to=options["to"],
        spool=Path(options["spool"] or f"{protocol.name}-spool"),
        spool_size=_size(options["spool_size"], "--spool-size"),
        spool_when_full=options["spool_full"],
        where=options["filter"],
        select=options["select"],
        limits=limits,
        receive_buffer=_size(
            options["receive_buffer"], "--receive-buffer", most=_MOST_RECEIVE_BUFFER
        ),
        kernel_times=options["kernel_times"],
        gro=options["gro"],
        queue=_size(options["queue"], "--queue"),
        when_full=options["queue_full"],
        rate=options["rate"],
        workers=worker_count(workers if workers == "auto" else int(workers)),
        spread=options["spread"],
        drain=options["drain"],
        metrics=place_of(options["metrics"]),
        otlp=options["otlp"],
    )


def _check_distinct(into: Sequence[str]) -> None:
    """
    Find out whether a sink is named twice: the second would wait for the first for ever.
    """
    from protoserve.telemetry.sinks.places import place_of_sink
    from protoserve.telemetry.sinks.registry import with_scheme

    before: dict[str, str] = {}
    for url in into:
        name = re.sub(r"//.*@", "//", url.partition("?")[0])
        place = place_of_sink(with_scheme(name))
        if place in before:
            also = "" if before[place] == name else f", as {before[place]} before"
            raise CommandError(f"--into: {name} is given twice{also}")
        before[place] = name


def _size(text: str, option: str, *, most: float = math.inf) -> int:
    """
    Read a number of bytes: ``64MiB``, ``8GB``.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", text.strip().lower())
    if found is None or found[2] not in _SIZES:
        raise CommandError(f"{option}: expected a size such as 64MiB, not {text!r}")
    size = int(float(found[1]) * _SIZES[found[2]])
    if size < 1:
        raise CommandError(f"{option}: expected more than 0 bytes, not {text!r}")
    if size > most:
        raise CommandError(f"{option}: expected at most {most} bytes, not {text!r}")
    return size


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
    _check_distinct(into)
    if not group:
        raise CommandError("--group: expected a name")
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
        shown(working.figures, as_json=as_json),
    ):
        working.run(lambda: tell_line(f"working for {group}"))
    return 0


def _since(text: str | None) -> int | float | None:
    """
    Read a place in a log: an entry's number, or a moment in seconds since the epoch.
    """
    if text is None:
        return None
    if text.isdecimal() and int(text) <= _MOST_ENTRIES:
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
