"""
From a URL to a socket that speaks to one peer only.

Datagram sockets are connected: the kernel then drops what comes from anybody else,
and tells when nobody listens there. Nothing here decides about trying again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from protoserve.errors import DeclarationError, PeerTimeoutError
from protoserve.framing import Datagram
from protoserve.protocol import Protocol
from protoserve.session import Peer
from protoserve.urls import Address

__all__ = [
    "Target",
    "connected_datagrams",
    "found",
    "naming",
    "opened",
    "target_of",
    "without_delay",
]


@attrs.frozen
class Target:
    """
    Whom to connect to, and how.
    """

    address: Address
    tls: ssl.SSLContext | None

    @property
    def stream(self) -> bool:
        """
        Whether bytes come as a stream from there.
        """
        return self.address.is_stream

    def timed_out(self, seconds: float | None) -> PeerTimeoutError:
        """
        Make the error of a connection that was not made in time.
        """
        return PeerTimeoutError(f"no connection to {self.address} within {seconds:g} s")


def target_of(
    protocol: Protocol, url: str, tls: bool | ssl.SSLContext | None
) -> Target:
    """
    Check that a protocol can be spoken at a URL.

    Raises:
        DeclarationError: it cannot, or the URL and `tls` contradict each other.
    """
    if not isinstance(protocol, Protocol):
        raise DeclarationError(f"a client takes a Protocol first, not {protocol!r}")
    address = Address.parse(url)
    context: ssl.SSLContext | None = None
    if address.transport == "tls":
        if tls is False:
            raise DeclarationError(f"{url!r} is for TLS, but tls=False is given")
        given = isinstance(tls, ssl.SSLContext)
        context = tls if given else ssl.create_default_context()  # type: ignore[assignment]
    elif tls:
        raise DeclarationError(
            f"{url!r}: tls= is for URLs that start with tls://, not "
            f"{address.transport}://"
        )
    framing = protocol.framing
    if address.is_stream and (framing is None or isinstance(framing, Datagram)):
        raise DeclarationError(
            f"{protocol.name} exists on datagrams only, so it cannot be spoken at "
            f"{url!r}; use udp:// or unixgram://"
        )
    if address.port == 0:
        raise DeclarationError(f"{url!r}: port 0 is no port to connect to")
    return Target(address, context)


def opened(target: Target, timeout: float | None) -> tuple[socket.socket, Peer]:
    """
    Connect; the handshake of TLS is done too.

    Args:
        target: whom to connect to.
        timeout: seconds for all of it; `None` waits for ever.

    Returns:
        A socket that does not block, and who is at its other end.

    Raises:
        PeerTimeoutError: it took too long.
        OSError: the system's own error, with the URL.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    address = target.address
    with naming(address):
        if not target.stream:
            return connected_datagrams(address, found(address))
        failure: OSError | None = None
        for family, where in found(address):
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                limit(sock, deadline)
                sock.connect(where)
                return secured(sock, target, deadline)
            except TimeoutError as exc:
                sock.close()
                raise target.timed_out(timeout) from exc
            except OSError as exc:
                sock.close()
                failure = exc
            except BaseException:
                sock.close()
                raise
        assert failure is not None
        raise failure


def limit(sock: socket.socket, deadline: float | None) -> None:
    """
    Let a socket's next step take until a deadline.
    """
    if deadline is None:
        sock.settimeout(None)
        return
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    sock.settimeout(left)


def secured(
    sock: socket.socket, target: Target, deadline: float | None
) -> tuple[socket.socket, Peer]:
    """
    Do the handshake of TLS, if there is one to do.
    """
    address = target.address
    without_delay(sock)
    where = sock.getpeername()
    if target.tls is None:
        sock.setblocking(False)
        return sock, Peer(address.transport, where)
    limit(sock, deadline)
    tls = target.tls.wrap_socket(
        sock, server_hostname=address.host, do_handshake_on_connect=False
    )
    try:
        tls.do_handshake()
        tls.setblocking(False)
        return tls, Peer.over_tls(tls, where)
    except BaseException:
        tls.close()
        raise


def without_delay(sock: socket.socket) -> None:
    """
    Let a request be sent at once, though the one before is not acknowledged.
    """
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def found(address: Address) -> list[tuple[int, Any]]:
    """
    Look a stream's or datagram's address up; this may ask a name server.
    """
    if address.port is None:
        return [(socket.AF_UNIX, address.host)]
    kind = socket.SOCK_STREAM if address.is_stream else socket.SOCK_DGRAM
    infos = socket.getaddrinfo(address.host or "localhost", address.port, type=kind)
    return [(info[0], info[4]) for info in infos]


def connected_datagrams(
    address: Address, where: Sequence[tuple[int, Any]]
) -> tuple[socket.socket, Peer]:
    """
    Make a datagram socket that speaks to one peer.

    Args:
        address: who it is.
        where: its addresses. Nobody answers when a datagram socket is connected, so a
            wrong choice would not be noticed; servers that have a name and listen at
            one of its addresses only do so at that of IPv4.
    """
    family, place = min(where, key=lambda found: found[0] != socket.AF_INET)
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_UNIX:
            sock.bind("")  # a name that the kernel chooses, so that answers arrive
        sock.connect(place)
    except BaseException:
        sock.close()
        raise
    return sock, Peer(address.transport, place)


@contextlib.contextmanager
def naming(address: Address) -> Iterator[None]:
    """
    Put the URL into the system's errors, which do not say whom they are about.
    """
    try:
        yield
    except TimeoutError:
        raise
    except UnicodeError as exc:
        said = f"no name of a host: {address}"
        raise socket.gaierror(socket.EAI_NONAME, said) from exc
    except socket.gaierror as exc:
        raise socket.gaierror(exc.errno, f"{exc.strerror}: {address}") from exc
    except OSError as exc:
        # asyncio gives no number when the peer closes in the handshake; ssl one of its
        # own.
        ended = type(exc) in (ssl.SSLEOFError, ConnectionResetError)
        number = errno.ECONNRESET if ended else exc.errno
        if number is None or (isinstance(exc, ssl.SSLError) and not ended):
            raise
        raise OSError(number, os.strerror(number), str(address)) from exc
