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
from protoserve.cli.options import AsJson, Data, Fields, Header, ServerUrl, Spoken

__all__ = ["call"]


def call(
    protocol: Spoken,
    url: ServerUrl,
    message: Annotated[
        str, typer.Argument(metavar="MESSAGE", help="The request to send.")
    ],
    fields: Fields = None,
    data: Data = None,
    header: Header = None,
    timeout: Timeout = "5s",
    retries: Retries = 3,
    as_json: AsJson = False,
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
