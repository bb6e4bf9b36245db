"""
``protoserve simulate``: a server made from a protocol's declaration.
"""

from __future__ import annotations

from typing import Annotated

import typer

from protoserve.cli.options import (
    Drain,
    Faults,
    LimitSettings,
    Listen,
    LogFormat,
    LogsAsJson,
    ServerCert,
    ServerKey,
    Spoken,
    Verbose,
    log_style,
)

__all__ = ["simulate"]


def simulate(
    protocol: Spoken,
    listen: Listen,
    fault: Faults = None,
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
    limit: LimitSettings = None,
    drain: Drain = 10.0,
    tls_cert: ServerCert = None,
    tls_key: ServerKey = None,
    log_format: LogFormat = "console",
    as_json: LogsAsJson = False,
    verbose: Verbose = False,
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
        log_format=log_style(log_format, as_json=as_json),
        verbose=verbose,
    )
