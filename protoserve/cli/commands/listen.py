"""
``protoserve listen``: show what arrives.
"""

from __future__ import annotations

from typing import Annotated

import typer

from protoserve.cli.connecting import (
    Insecure,
    Timeout,
    TlsCa,
    TlsCert,
    TlsFiles,
    TlsKey,
)
from protoserve.cli.options import AsJsonLines, Spoken, one_of

__all__ = ["listen"]


def listen(
    protocol: Spoken,
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            help="Where to listen: tcp://HOST:PORT, udp://HOST:PORT, unix:///PATH or "
            "unixgram:///PATH; or the server, with --connect.",
        ),
    ],
    connect: Annotated[
        bool,
        typer.Option(
            "--connect", help="Connect there, and show what the server sends."
        ),
    ] = False,
    direction: Annotated[
        str | None,
        typer.Option(
            callback=one_of(("request", "response")),
            metavar="request|response",
            help="Which messages arrive; by default requests, or with --connect "
            "responses.",
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="End after so many messages.")
    ] = None,
    as_json: AsJsonLines = False,
    timeout: Timeout = "5s",
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    insecure: Insecure = False,
) -> None:
    """
    Show what arrives, byte by byte, and answer nothing. Ends with Ctrl-C.
    """
    from protoserve.cli import listening

    listening.listen(
        protocol,
        url,
        connecting=connect,
        direction=direction,
        count=count,
        as_json=as_json,
        timeout=float(timeout),
        tls=TlsFiles(tls_ca, tls_cert, tls_key, insecure),
    )
