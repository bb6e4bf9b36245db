"""
``protoserve send``: send a message and wait for nothing.
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

__all__ = ["send"]


def send(
    protocol: Annotated[
        str, typer.Argument(metavar="PROTOCOL", help="The protocol, as MODULE:NAME.")
    ],
    url: Annotated[str, typer.Argument(metavar="URL", help="Where to send it.")],
    message: Annotated[
        str, typer.Argument(metavar="MESSAGE", help="The message to send.")
    ],
    fields: Annotated[
        list[str] | None,
        typer.Argument(metavar="FIELD=VALUE", help="Its fields, as for call."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="The fields as one object; - reads it."),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HEADER=VALUE", help="A field of the header. May be given often."
        ),
    ] = None,
    timeout: Timeout = "5s",
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    insecure: Insecure = False,
) -> None:
    """
    Send a message and wait for nothing. Exit code 1: it could not be sent.
    """
    from protoserve.cli import calling

    calling.send(
        protocol,
        url,
        message,
        fields or (),
        data=data,
        header=header or (),
        timeout=float(timeout),
        tls=TlsFiles(tls_ca, tls_cert, tls_key, insecure),
    )
