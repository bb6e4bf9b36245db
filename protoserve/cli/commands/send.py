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
from protoserve.cli.options import AsJson, Data, Fields, Header, Spoken

__all__ = ["send"]


def send(
    protocol: Spoken,
    url: Annotated[str, typer.Argument(metavar="URL", help="Where to send it.")],
    message: Annotated[
        str, typer.Argument(metavar="MESSAGE", help="The message to send.")
    ],
    fields: Fields = None,
    data: Data = None,
    header: Header = None,
    timeout: Timeout = "5s",
    as_json: AsJson = False,
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
        as_json=as_json,
        tls=TlsFiles(tls_ca, tls_cert, tls_key, insecure),
    )
