"""
How commands reach a peer: the options for it, and the client that they make.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import attrs
import typer

from protoserve.cli.options import seconds
from protoserve.cli.targets import CommandError

if TYPE_CHECKING:
    import ssl

    from protoserve.client import Client
    from protoserve.protocol import Protocol

__all__ = [
    "Insecure",
    "Retries",
    "Timeout",
    "TlsCa",
    "TlsCert",
    "TlsFiles",
    "TlsKey",
    "client_for",
    "told",
]


def _above_zero(value: str) -> float:
    found = seconds(value)
    if not found > 0:
        raise typer.BadParameter(f"expected a time above 0, not {value!r}")
    return found


Timeout = Annotated[
    str,
    typer.Option(
        metavar="TIME",
        callback=_above_zero,
        help="How long an answer may take, as in 500ms.",
    ),
]
Retries = Annotated[
    int,
    typer.Option(
        metavar="N", min=0, help="How many times a datagram is sent again, if need be."
    ),
]
TlsCa = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Trust these authorities, as PEM, for tls://."),
]
TlsCert = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="The client's own certificate, as PEM."),
]
TlsKey = Annotated[
    str | None, typer.Option(metavar="FILE", help="The certificate's private key.")
]
Insecure = Annotated[
    bool,
    typer.Option("--insecure", help="Do not check the server's certificate."),
]


@attrs.frozen
class TlsFiles:
    """
    What ``tls://`` needs of files.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    insecure: bool = False

    def context(self, url: str) -> ssl.SSLContext | None:
        """
        Make the context for a URL; `None` for those that are not for TLS.

        Raises:
            CommandError: a file cannot be used, or there is nothing to use it for.
        """
        if not url.lower().startswith("tls://"):
            if self != TlsFiles():
                raise CommandError(
                    f"--tls-… and --insecure are for tls://HOST:PORT, not {url}"
                )
            return None
        import ssl

        if self.key and not self.cert:
            raise CommandError("--tls-key is given without --tls-cert")
        name = self.ca
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.cert:
                name = self.cert
                # Without a password for it, OpenSSL would ask on the terminal.
                context.load_cert_chain(self.cert, self.key, password=lambda: b"")
        except ssl.SSLError as exc:
            reason = exc.reason or str(exc)
            raise CommandError(f"{name}: no PEM file that fits ({reason})") from exc
        except OSError as exc:
            raise CommandError(f"{name}: {exc.strerror or exc}") from exc
        return context


def client_for(
    protocol: Protocol,
    url: str,
    *,
    timeout: float = 5.0,
    retries: int = 3,
    tls: TlsFiles | None = None,
    reconnect: bool = False,
) -> Client:
    """
    Make the client of a command; it connects when it is used.

    Raises:
        CommandError: the options do not fit each other.
        DeclarationError: the protocol cannot be spoken there.
    """
    from protoserve.client import Client

    context = (tls or TlsFiles()).context(url)
    return Client(
        protocol,
        url,
        timeout=timeout,
        retries=retries,
        tls=context,
        reconnect=reconnect,
    )


@contextmanager
def told(url: str) -> Iterator[None]:
    """
    Turn what a peer, or the way to it, did wrong into a `Failed`.
    """
    import socket
    import ssl

    from protoserve.errors import (
        LocalProtocolError,
        PeerTimeoutError,
        RemoteProtocolError,
        SessionClosedError,
    )

    try:
        yield
    except LocalProtocolError as exc:
        raise CommandError(f"not sent: {exc}") from exc
    except PeerTimeoutError as exc:
        raise Failed(f"timed out: {exc}") from exc
    except RemoteProtocolError as exc:
        raise Failed(
            f"the peer broke the protocol: {str(exc).splitlines()[0]}"
        ) from exc
    except SessionClosedError as exc:
        raise Failed(f"closed: {exc}") from exc
    except ConnectionRefusedError as exc:
        raise Failed(f"refused: nobody listens at {url}") from exc
    except ConnectionResetError as exc:
        raise Failed(f"reset: {url} ended the connection") from exc
    except socket.gaierror as exc:
        raise Failed(f"{url}: the host is not known ({exc.strerror})") from exc
    except ssl.SSLError as exc:
        reason = getattr(exc, "verify_message", None) or exc.reason or str(exc)
        raise Failed(f"TLS with {url} failed: {reason}") from exc
    except OSError as exc:
        raise Failed(f"{url}: {exc.strerror or exc}") from exc


class Failed(Exception):  # noqa: N818 - it is told, not handled
    """
    It was tried, and did not work out: one line and exit code 1.
    """
