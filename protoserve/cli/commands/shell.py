"""
``protoserve shell``: talk to a server, a line at a time.
"""

from __future__ import annotations

from protoserve.cli.connecting import (
    Insecure,
    Retries,
    Timeout,
    TlsCa,
    TlsCert,
    TlsFiles,
    TlsKey,
)
from protoserve.cli.options import AsJsonLines, ServerUrl, Spoken

__all__ = ["shell"]


def shell(
    protocol: Spoken,
    url: ServerUrl,
    timeout: Timeout = "5s",
    retries: Retries = 3,
    as_json: AsJsonLines = False,
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
