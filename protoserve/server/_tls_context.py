"""
What a TLS server shows and asks for, made from files and tried out.

A certificate is tried on the spot: a handshake in memory with a client that trusts
it shows whether it, its key and its dates work together, and tells the names that it
is for. So a mistake is one line at the start, not a riddle in the clients' logs.

No tickets for later sessions are sent in TLS 1.3: a client that sends and goes,
without ever reading, would close its socket with them unread, and its kernel would
then reset the connection under what it has sent.
"""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from protoserve.errors import DeclarationError
from protoserve.server._handshake import TLSSocket

__all__ = ["ServerContext", "secure", "server_context"]

_Path: TypeAlias = str | Path

_CERTIFICATE = re.compile(
    "-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL
)
_OLDEST = ssl.TLSVersion.TLSv1_2
_WRONG_KEY = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH")


class ServerContext(ssl.SSLContext):
    """
    A context that has others beside it, for other server names.
    """

    by_name: dict[str, ssl.SSLContext]
    """By the lower-case name that clients ask for; ``*.`` stands for one label."""


def server_context(
    cert: _Path,
    key: _Path | None = None,
    *,
    client_ca: _Path | None = None,
    alpn: Sequence[str] = (),
    sni: Iterable[tuple[_Path, _Path | None]] = (),
) -> ServerContext:
    """
    Make what `TLSMixIn.ssl_context` takes, for TLS 1.2 and 1.3.

    Args:
        cert: a file in PEM form with the certificate, followed by those between it
            and the root.
        key: the file with its private key, not encrypted; by default it is in the
            same file.
        client_ca: a file with the certificates that clients' ones are signed by.
            With it every client has to show one.
        alpn: names of the application protocols that are spoken, the preferred one
            first.
        sni: more pairs of certificate and key. A client that asks for a name which
            is in one of these gets that, all others get `cert`.

    Raises:
        DeclarationError: a file is missing or is not what it should be, a key belongs
            to another certificate, or a certificate is not valid now.
    """
    default = _single(cert, key, client_ca, alpn)
    for other_cert, other_key in sni:
        other = _single(other_cert, other_key, client_ca, alpn)
        if not other.by_name:
            raise DeclarationError(f"{other_cert}: the certificate is for no name")
        for name in other.by_name:
            default.by_name.setdefault(name, other)
        other.by_name = {}
    return default


def secure(context: Any) -> ssl.SSLContext:
    """
    Check a context of the user's, and see to what `TLSMixIn` promises.
    """
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(
            f"ssl_context takes an ssl.SSLContext, as server_context(cert, key) makes "
            f"one, not {context!r}"
        )
    if context.protocol == ssl.PROTOCOL_TLS_CLIENT:
        raise TypeError("ssl_context is for clients; make one by server_context()")
    context.sslsocket_class = TLSSocket
    context.options |= ssl.OP_NO_RENEGOTIATION
    # A stream that is cut off ends like one over TCP: framing knows what is missing,
    # and a peer that has only ended its own side still gets its answers.
    context.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    # What stands for the oldest and the newest that OpenSSL has are negative numbers.
    if ssl.TLSVersion.MAXIMUM_SUPPORTED != context.minimum_version < _OLDEST:
        context.minimum_version = _OLDEST
    return context


def _single(
    cert: _Path, key: _Path | None, client_ca: _Path | None, alpn: Sequence[str]
) -> ServerContext:
    key = cert if key is None else key
    shown = _CERTIFICATE.search(_text(cert))
    if shown is None:
        raise DeclarationError(f"{cert}: there is no certificate in PEM form in it")
    if "PRIVATE KEY-----" not in _text(key):
        raise DeclarationError(f"{key}: there is no private key in PEM form in it")
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    secure(context)
    context.num_tickets = 0
    _load(context, cert, key)
    if alpn:
        _offer(context, alpn)
    context.by_name = dict.fromkeys(_names(context, cert, shown[0]), context)
    if client_ca is not None:
        _trust(context, client_ca)
    return context


def _text(path: _Path) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DeclarationError(f"{path}: it cannot be read: {reason}") from error


def _load(context: ssl.SSLContext, cert: _Path, key: _Path) -> None:
    def password() -> str:
        # Without this OpenSSL would ask for it on the terminal, and wait.
        raise DeclarationError(f"{key}: the private key is encrypted; decrypt it first")

    try:
        context.load_cert_chain(cert, key, password)
    except ssl.SSLError as error:
        if error.reason in _WRONG_KEY:
            text = f"{key}: the private key does not belong to the certificate {cert}"
        else:
            reason = (error.reason or str(error)).replace("_", " ").lower()
            text = f"{cert} and {key}: no certificate and key to serve with: {reason}"
        raise DeclarationError(text) from error


def _offer(context: ssl.SSLContext, alpn: Sequence[str]) -> None:
    fits = all(name.isascii() and 0 < len(name) < 256 for name in alpn)
    if isinstance(alpn, str) or not fits:
        raise DeclarationError(
            f"alpn takes a sequence of names of 1 to 255 ASCII characters, not {alpn!r}"
        )
    context.set_alpn_protocols(list(alpn))


def _trust(context: ssl.SSLContext, client_ca: _Path) -> None:
    if _CERTIFICATE.search(_text(client_ca)) is None:
        raise DeclarationError(
            f"{client_ca}: there is no certificate in PEM form in it"
        )
    try:
        context.load_verify_locations(client_ca)
    except ssl.SSLError as error:
        raise DeclarationError(f"{client_ca}: no certificates: {error}") from error
    context.verify_mode = ssl.CERT_REQUIRED


def _names(context: ssl.SSLContext, cert: _Path, text: str) -> list[str]:
    """
    Try a certificate out, and list the host names that it is for.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        client.load_verify_locations(cadata=text)
        shown = _shake_hands(client, context)
    except ssl.SSLCertVerificationError as error:
        raise DeclarationError(
            f"{cert}: no client would take it: {error.verify_message}"
        ) from error
    except ssl.SSLError as error:
        raise DeclarationError(f"{cert}: it cannot be used: {error}") from error
    names = [value for kind, value in shown.get("subjectAltName", ()) if kind == "DNS"]
    if not names:
        parts = [pair for part in shown.get("subject", ()) for pair in part]
        names = [value for kind, value in parts if kind == "commonName"]
    return [name.lower() for name in names]


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> dict[str, Any]:
    """
    Let two contexts talk in memory; give what the client was shown.
    """
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True)]
    for end in ends * 3:
        with contextlib.suppress(ssl.SSLWantReadError):
            end.do_handshake()
    return dict(ends[0].getpeercert() or {})
