"""
``protoserve proxy``: faults between a client and a real server.
"""

from __future__ import annotations

from typing import Annotated

import typer

from protoserve.cli.commands.run import _finite
from protoserve.cli.commands.simulate import FAULT_HELP, LISTEN_HELP
from protoserve.cli.logs import FORMATS
from protoserve.cli.options import one_of

__all__ = ["proxy"]


def proxy(
    protocol: Annotated[
        str, typer.Argument(metavar="PROTOCOL", help="The protocol, as MODULE:NAME.")
    ],
    listen: Annotated[list[str], typer.Option(metavar="URL", help=LISTEN_HELP)],
    to: Annotated[
        list[str],
        typer.Option(
            metavar="URL",
            help="The server. May be given twice, for streams and for datagrams.",
        ),
    ],
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND[=VALUE][@MESSAGE]", help=FAULT_HELP),
    ] = None,
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
    drain: Annotated[
        float,
        typer.Option(
            callback=_finite,
            metavar="SECONDS",
            help="How long what is in flight may take to end.",
        ),
    ] = 10.0,
    tls_cert: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="What is shown to clients at tls://, as PEM."
        ),
    ] = None,
    tls_key: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The certificate's private key, as PEM."),
    ] = None,
    tls_ca: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Who has signed the server's certificate, where --to is tls://.",
        ),
    ] = None,
    log_format: Annotated[
        str,
        typer.Option(
            callback=one_of(FORMATS),
            metavar="|".join(FORMATS),
            help="Logs for people, or one JSON object a line.",
        ),
    ] = "console",
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log what happens to each peer.")
    ] = False,
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
        log_format=log_format,
        verbose=verbose,
    )
