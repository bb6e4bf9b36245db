"""
``protoserve work``: handle elsewhere what a collector has forwarded.
"""

from __future__ import annotations

from typing import Annotated

import typer

from protoserve.cli.metrics import Metrics, Otlp
from protoserve.cli.options import AsJsonLines, Drain, LogFormat, Verbose

__all__ = ["work"]


def work(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:APP",
            help="The service whose handler gets them, or a protocol for --into.",
        ),
    ],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="LOG",
            help="Where they come from: nats://HOST:PORT,…, kafka://… or redis://….",
        ),
    ],
    group: Annotated[
        str,
        typer.Option(metavar="NAME", help="Workers of one group share what there is."),
    ],
    into: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SINK", help="Where rows go, as for collect. May be given often."
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|TIME",
            help="Have the group go on from that entry of the log, or that moment "
            "(2026-11-22T12:00:00, in UTC without an offset); all is 1.",
        ),
    ] = None,
    spool: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Where templates and what is refused are kept; by default NAME-work, "
            "here.",
        ),
    ] = None,
    metrics: Metrics = None,
    otlp: Otlp = None,
    drain: Drain = 10.0,
    as_json: AsJsonLines = False,
    log_format: LogFormat = "console",
    verbose: Verbose = False,
) -> None:
    """
    Handle what collectors have forwarded to a log, until SIGTERM or Ctrl-C.

    The handler is the one that a server has, unchanged; what it answers goes nowhere.
    """
    from protoserve.cli.collecting import work as run

    raise typer.Exit(
        run(
            target,
            source,
            group,
            into=into or [],
            since=since,
            spool=spool,
            metrics=metrics,
            otlp=otlp,
            drain=drain,
            as_json=as_json,
            log_format=log_format,
            verbose=verbose,
        )
    )
