"""
``protoserve load``: see what load a server bears.
"""

from __future__ import annotations

from typing import Annotated

import typer

from protoserve.cli.connecting import Insecure, TlsCa, TlsCert, TlsFiles, TlsKey
from protoserve.cli.options import (
    AsJson,
    Header,
    ServerUrl,
    Spoken,
    above_zero,
    seconds,
)

__all__ = ["load"]


def load(
    protocol: Spoken,
    url: ServerUrl,
    message: Annotated[
        str, typer.Argument(metavar="MESSAGE", help="The request that is sent.")
    ],
    fields: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FIELD=VALUE]...",
            help="Its fields. {n} in a value is the request's number; @FILE takes the "
            "values from a file, one a line.",
        ),
    ] = None,
    header: Header = None,
    connections: Annotated[
        int, typer.Option(metavar="N", min=1, max=65_536, help="How many there are.")
    ] = 8,
    pipeline: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=65_536,
            help="How many requests may wait for their answer on each.",
        ),
    ] = 1,
    rate: Annotated[
        float | None,
        typer.Option(
            callback=above_zero,
            metavar="R",
            help="Requests a second that are due, whatever the server does. Without "
            "it the next is sent when one is answered.",
        ),
    ] = None,
    duration: Annotated[
        str,
        typer.Option(
            callback=seconds, metavar="TIME", help="How long it is measured, as in 10s."
        ),
    ] = "10s",
    warm_up: Annotated[
        str,
        typer.Option(
            callback=seconds, metavar="TIME", help="How long before, unmeasured."
        ),
    ] = "1s",
    timeout: Annotated[
        str,
        typer.Option(
            callback=seconds, metavar="TIME", help="After which a request is given up."
        ),
    ] = "2s",
    plot: Annotated[
        str | None,
        typer.Option(metavar="FILE.svg", help="Write a picture of the latency."),
    ] = None,
    as_json: AsJson = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    insecure: Insecure = False,
) -> None:
    """
    Put load on a server and measure its answers; exit code 1 if any failed.
    """
    from protoserve.cli.loading import put_load

    code = put_load(
        protocol,
        url,
        message,
        fields or (),
        header or (),
        plot=plot,
        as_json=as_json,
        tls=TlsFiles(tls_ca, tls_cert, tls_key, insecure).context(url),
        connections=connections,
        pipeline=pipeline,
        rate=rate,
        duration=duration,
        warm_up=warm_up,
        timeout=timeout,
    )
    raise typer.Exit(code)
