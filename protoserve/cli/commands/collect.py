"""
``protoserve collect``: telemetry from the wire into a store.
"""

from __future__ import annotations

from typing import Annotated

import typer

from protoserve.cli.configured import Config
from protoserve.cli.metrics import Metrics, Otlp
from protoserve.cli.options import (
    AsJsonLines,
    Drain,
    Gro,
    LimitSettings,
    LogFormat,
    Verbose,
    above_zero,
    one_of,
)

__all__ = ["collect"]

_MOST_WORKERS = 64
POLICIES = ("block", "drop-newest", "drop-oldest")


def _workers(value: str) -> str:
    if value != "auto" and not (value.isdecimal() and 1 <= int(value) <= _MOST_WORKERS):
        raise typer.BadParameter(
            f"expected a number from 1 to {_MOST_WORKERS} or auto, not {value!r}"
        )
    return value


def collect(
    protocol: Annotated[
        str | None,
        typer.Argument(metavar="PROTOCOL", help="The protocol, as MODULE:NAME."),
    ] = None,
    listen: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="Where to listen: udp://HOST:PORT, tcp://HOST:PORT, unix:///PATH or "
            "unixgram:///PATH. May be given often.",
        ),
    ] = None,
    into: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SINK",
            help="Where rows go: FILE.duckdb, duckdb:FILE, parquet:DIR, sqlite:FILE, "
            "arrow:DIR, jsonl:FILE or jsonl:-, postgresql://…, clickhouse://…, redis://…, "
            "nats://…, kafka://…, prometheus:…. May be given often.",
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="LOG",
            help="Forward datagrams to a log, for protoserve work: nats://HOST:PORT,…, "
            "kafka://… or redis://….",
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            "--filter", metavar="SQL", help="Which rows are wanted, as in dstport = 53."
        ),
    ] = None,
    select: Annotated[
        str | None,
        typer.Option(
            metavar="SQL",
            help="Which columns are wanted, as in srcaddr, dOctets * 8 as bits.",
        ),
    ] = None,
    workers: Annotated[
        str,
        typer.Option(
            callback=_workers,
            metavar="N|auto",
            help="How many processes receive and decode; auto: one for each CPU.",
        ),
    ] = "1",
    spread: Annotated[
        str,
        typer.Option(
            callback=one_of(("exporter", "datagram")),
            metavar="exporter|datagram",
            help="How datagrams are spread over workers: each exporter has its own, or "
            "whichever is free takes the next ones.",
        ),
    ] = "exporter",
    spool: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Where the spool is; by default NAME-spool, here."
        ),
    ] = None,
    spool_size: Annotated[
        str,
        typer.Option(metavar="SIZE", help="How large the spool may become."),
    ] = "8GiB",
    spool_full: Annotated[
        str,
        typer.Option(
            callback=one_of(POLICIES),
            metavar="|".join(POLICIES),
            help="What happens when it is full.",
        ),
    ] = "drop-oldest",
    receive_buffer: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            help="How much the kernel is to hold for each socket, its default at least.",
        ),
    ] = "32MiB",
    kernel_times: Annotated[
        bool,
        typer.Option(
            "--kernel-times",
            help="Have the kernel say when each datagram came; it costs some speed.",
        ),
    ] = False,
    gro: Gro = False,
    queue: Annotated[
        str,
        typer.Option(metavar="SIZE", help="How much may wait in memory to be decoded."),
    ] = "64MiB",
    queue_full: Annotated[
        str,
        typer.Option(
            callback=one_of(POLICIES),
            metavar="|".join(POLICIES),
            help="What happens when that is full; block leaves it with the kernel.",
        ),
    ] = "block",
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            callback=above_zero,
            help="Datagrams a second that one exporter may send.",
        ),
    ] = None,
    metrics: Metrics = None,
    otlp: Otlp = None,
    config: Config = None,  # noqa: ARG001 - it has set the others' defaults
    limit: LimitSettings = None,
    drain: Drain = 10.0,
    as_json: AsJsonLines = False,
    log_format: LogFormat = "console",
    verbose: Verbose = False,
) -> None:
    """
    Receive telemetry and store its rows, until SIGTERM or Ctrl-C.

    With --json a line about what has become of all datagrams is written each second.
    """
    from protoserve.cli.collecting import collect as work

    options = {
        "protocol": protocol,
        "listen": listen,
        "into": into,
        "to": to,
        "filter": where,
        "select": select,
        "workers": workers,
        "spread": spread,
        "spool": spool,
        "spool_size": spool_size,
        "spool_full": spool_full,
        "receive_buffer": receive_buffer,
        "kernel_times": kernel_times,
        "gro": gro,
        "queue": queue,
        "queue_full": queue_full,
        "rate": rate,
        "metrics": metrics,
        "otlp": otlp,
        "limit": limit,
        "drain": drain,
    }
    code = work(
        options,
        as_json=as_json,
        log_format=log_format,
        verbose=verbose,
    )
    raise typer.Exit(code)
