"""
``protoserve proxy``: faults between a client and a real server.
"""

from __future__ import annotations

from typing import Annotated

import typer

from protoserve.cli.options import (
    Drain,
    Faults,
    Listen,
    LogFormat,
    LogsAsJson,
    ServerCert,
    ServerKey,
    Spoken,
    Verbose,
    log_style,
    one_of,
)

__all__ = ["proxy"]


def proxy(
    protocol: Spoken,
    listen: Listen,
    to: Annotated[
        list[str],
        typer.Option(
            metavar="URL",
            help="The server. May be given twice, for streams and for datagrams.",
        ),
    ],
    fault: Faults = None,
    direction: Annotated[
        str,
        typer.Option(
            callback=one_of(("request", "response", "both")),
            metavar="request|response|both",
            help="Which messages it happens to.",
        ),
    ] = "response",
    seed: Annotated[
        int, typer.Option(metavar="N", help="The same seed gives the same faults.")
    ] = 0,
    drain: Drain = 10.0,
    tls_cert: ServerCert = None,
    tls_key: ServerKey = None,
    tls_ca: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Who has signed the server's certificate, where --to is tls://.",
        ),
    ] = None,
    log_format: LogFormat = "console",
    as_json: LogsAsJson = False,
    verbose: Verbose = False,
) -> None:
    """
    Stand in front of a server and inflict faults on what is said, until SIGTERM or Ctrl-C.
    """
    from protoserve.cli.simulating import proxy as work

    work(
        protocol,
        listen,
        to,
        faults=fault or [],
        direction=direction,
        seed=seed,
        drain=drain,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_ca=tls_ca,
        log_format=log_style(log_format, as_json=as_json),
        verbose=verbose,
    )
