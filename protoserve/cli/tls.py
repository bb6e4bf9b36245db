"""
The options for TLS: files, and what they are needed for.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from protoserve.cli.targets import CommandError
from protoserve.urls import Address

if TYPE_CHECKING:
    import ssl

__all__ = ["tls_context"]


def tls_context(
    addresses: Sequence[Address],
    certs: Sequence[str],
    keys: Sequence[str],
    client_ca: str | None,
    alpn: Sequence[str],
) -> ssl.SSLContext | None:
    """
    Make what is shown to clients; `None` if no address is for TLS.

    Args:
        addresses: where to listen.
        certs: the files of the certificates.
        keys: their keys, in the same order; none if each is in the certificate's file.
        client_ca: the file that clients' certificates are checked with.
        alpn: the application protocols.

    Raises:
        CommandError: the options do not fit each other.
        DeclarationError: a file is not what it should be.
    """
    where = next((a for a in addresses if a.transport == "tls"), None)
    if where is None:
        if certs or keys or client_ca or alpn:
            raise CommandError(
                "--tls-… is given, but nothing listens on tls://; write "
                "--listen tls://HOST:PORT"
            )
        return None
    if not certs:
        raise CommandError(f"{where} needs --tls-cert FILE and --tls-key FILE")
    if keys and len(keys) != len(certs):
        raise CommandError(
            f"{len(certs)} --tls-cert and {len(keys)} --tls-key are given; write one "
            "key for each certificate, in the same order"
        )
    from protoserve.server.tls import server_context

    (cert, key), *others = itertools.zip_longest(certs, keys)
    return server_context(cert, key, client_ca=client_ca, alpn=alpn, sni=others)
