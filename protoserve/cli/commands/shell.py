"""
``protoserve shell``: talk to a server, a line at a time.
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

__all__ = ["shell"]


def shell(
    protocol: Annotated[
        str, typer.Argument(metavar="PROTOCOL", help="The protocol, as MODULE:NAME.")
    ],
    url: Annotated[str, typer.Argument(metavar="URL", help="The server, as for call.")],
    timeout: Timeout = "5s",
    retries: Retries = 3,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write answers as JSON objects.")
    ] = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    insecure: Insecure = False,
) -> None:
    """
    Talk to a server: messages and fields are completed, lines are kept.
    """
    from protoserve.cli.shell import shell as run

    run(
        protocol,
        url,
        timeout=float(timeout),
        retries=retries,
        as_json=as_json,
        tls=TlsFiles(tls_ca, tls_cert, tls_key, insecure),
    )
