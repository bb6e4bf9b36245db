"""
``protoserve simulate``: a server made from a protocol's declaration.
"""

from __future__ import annotations

from typing import Annotated

import typer

from protoserve.cli.commands.run import _finite
from protoserve.cli.logs import FORMATS
from protoserve.cli.options import one_of

__all__ = ["simulate"]

FAULT_HELP = (
    "What goes wrong, as in drop=5%, delay=50ms±20 or, for some messages only, "
    "truncate=2%@Reading. There are also duplicate, reorder, corrupt-checksum, wrong-id, "
    "split-every-byte, coalesce, reset and slow-loris. May be given often."
)
LISTEN_HELP = (
    "Where to listen: tcp://HOST:PORT, tls://HOST:PORT, udp://HOST:PORT, unix:///PATH "
    "or unixgram:///PATH. Port 0 lets the system choose. May be given often."
)


def simulate(
    protocol: Annotated[
        str, typer.Argument(metavar="PROTOCOL", help="The protocol, as MODULE:NAME.")
    ],
    listen: Annotated[list[str], typer.Option(metavar="URL", help=LISTEN_HELP)],
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND[=VALUE][@MESSAGE]", help=FAULT_HELP),
    ] = None,
    script: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.yaml|.py", help="What is answered, in place of what is drawn."
        ),
    ] = None,
    errors: Annotated[
        str,
        typer.Option(
            metavar="SHARE",
            help="Which part of the requests is answered by a declared error, as in 5%.",
        ),
    ] = "0%",
    seed: Annotated[
        int, typer.Option(metavar="N", help="The same seed gives the same answers.")
    ] = 0,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Set a limit, as in idle=60; VALUE none switches it off.",
        ),
    ] = None,
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
        typer.Option(metavar="FILE", help="The certificate for tls://, as PEM."),
    ] = None,
    tls_key: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The certificate's private key, as PEM."),
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
    Serve generated or scripted answers, with faults if wanted, until SIGTERM or Ctrl-C.
    """
    from protoserve.cli.simulating import simulate as work

    work(
        protocol,
        listen,
        faults=fault or [],
        script=script,
        errors=errors,
        seed=seed,
        limits=limit or [],
        drain=drain,
        tls_cert=tls_cert,
        tls_key=tls_key,
        log_format=log_format,
        verbose=verbose,
    )
