"""
``protoserve call``: ask a server of any protocol.
"""

from __future__ import annotations

from typing import Annotated

import typer

from protoserve.cli.connecting import (
    Insecure,
    Retries,
    Timeout,
    TlsCa,
    TlsCert,
    TlsFiles,
    TlsKey,
)

__all__ = ["call"]


def call(
    protocol: Annotated[
        str, typer.Argument(metavar="PROTOCOL", help="The protocol, as MODULE:NAME.")
    ],
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            help="The server: tcp://HOST:PORT, tls://HOST:PORT, udp://HOST:PORT, "
            "unix:///PATH or unixgram:///PATH.",
        ),
    ],
    message: Annotated[
        str, typer.Argument(metavar="MESSAGE", help="The request to send.")
    ],
    fields: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FIELD=VALUE",
            help="Its fields: JSON values or text; questions.0.name=… for what is "
            "inside, hex:0a0b for bytes.",
        ),
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
    retries: Retries = 3,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write the answer as one JSON object.")
    ] = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    insecure: Insecure = False,
) -> None:
    """
    Send a request and show the answer. Exit code 1: there was none, or an error.
    """
    from protoserve.cli import calling

    calling.call(
        protocol,
        url,
        message,
        fields or (),
        data=data,
        header=header or (),
        timeout=float(timeout),
        retries=retries,
        as_json=as_json,
        tls=TlsFiles(tls_ca, tls_cert, tls_key, insecure),
    )
