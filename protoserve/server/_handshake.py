"""
One TLS handshake on a server's side, a step at a time, and the socket it makes.

A `Handshake` never waits: whoever runs it waits for its descriptor and steps again.
The first step happens only when the whole ClientHello has arrived, which is looked
at and left where it is: what is no TLS at all is recognised without asking OpenSSL,
and the certificate is chosen by the server name that we have read ourselves. (The
`ssl` module's callback for that prints a traceback when a peer sends a name that is
not ASCII.) While a part of it is missing, the kernel is told to be silent until it
is there.

A `TLSSocket` mends what makes `ssl.SSLSocket` no drop-in for a socket:

- ``shutdown`` there forgets the encryption, and what is sent later goes out plain.
- Without blocking, it raises errors of its own in place of `BlockingIOError`.
- Two threads that use one at a time corrupt it, up to CPython 3.12.
- Bytes that are no TLS raise an error that nobody takes for a lost connection.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from typing import Any

from protoserve.codec.explain import guess

__all__ = [
    "Handshake",
    "HandshakeError",
    "TLSSocket",
    "acknowledge",
    "choose",
    "failure",
    "look",
]

_GOODBYE = 0.5
"""Seconds that a peer is given to read why its handshake was refused."""
_RECORD = 5
"""Bytes of a TLS record's header. Source: RFC 8446, section 5.1."""
_LARGEST_RECORD = 1 << 14
"""Bytes of the longest record's content. Source: RFC 8446, section 5.1."""
_SHOWN = 16
_IN, _OUT = select.POLLIN, select.POLLOUT
_HUNG_UP = getattr(select, "POLLRDHUP", select.POLLHUP)

_CUT_OFF = "UNEXPECTED_EOF_WHILE_READING"
_REASONS = {
    "UNSUPPORTED_PROTOCOL": "it speaks no version of TLS that is allowed here",
    "NO_SHARED_CIPHER": "it has no cipher in common with us",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not trust our certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not take our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not take our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "for it, our certificate has expired",
}


class HandshakeError(Exception):
    """
    A TLS handshake that did not come to its end.

    Args:
        kind: ``timeout``; ``plain``, no TLS was spoken; ``closed``, the peer went
            away; ``refused``, either side did not accept the other's terms;
            ``crowded``, it made room for younger ones; ``stopped``, by the server.
        text: what happened, for people.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class _WantReadError(ssl.SSLWantReadError, BlockingIOError):
    """
    It would block until there is something to read.
    """

    event = _IN


class _WantWriteError(ssl.SSLWantWriteError, BlockingIOError):
    """
    It would block until something can be written, be it for the sake of reading.
    """

    event = _OUT


class _BrokenError(ssl.SSLError, ConnectionAbortedError):
    """
    The peer does not keep to TLS, or has cut the connection.
    """


def _translated(error: ssl.SSLError) -> ssl.SSLError:
    kind: type[ssl.SSLError] = _BrokenError
    if isinstance(error, ssl.SSLWantReadError):
        kind = _WantReadError
    elif isinstance(error, ssl.SSLWantWriteError):
        kind = _WantWriteError
    translated = kind(*error.args)
    translated.reason, translated.library = error.reason, error.library
    return translated


class TLSSocket(ssl.SSLSocket):
    """
    A connection whose bytes are encrypted; for a handler it is a socket.
    """

    server_name: str | None = None
    """The name that the client asked for, if it did."""

    _turn: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> TLSSocket:  # noqa: PYI034 - of sockets
        made = super().__new__(cls, *args, **kwargs)
        made._turn = threading.Lock()
        return made

    def _exclusively(self) -> Any:
        # A call that blocks cannot keep others away: they would wait for the peer.
        blocks = self.gettimeout() != 0.0
        return contextlib.nullcontext() if blocks else self._turn

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002 - its name in ssl
        """
        Read bytes, as `recv` and `recv_into` do.
        """
        with self._exclusively():
            try:
                return super().read(len, buffer)
            except ssl.SSLZeroReturnError:  # the end, after that of our own side
                return b"" if buffer is None else 0
            except ssl.SSLError as error:
                raise _translated(error) from None

    def send(self, data: Any, flags: int = 0) -> int:
        """
        Send bytes; without blocking, all or nothing of a record.

        What could not be sent has to be tried again as it was.
        """
        with self._exclusively():
            try:
                return super().send(data, flags)
            except ssl.SSLError as error:
                raise _translated(error) from None

    def shutdown(self, how: int) -> None:
        """
        End one direction or both; the other one stays encrypted.

        The end of ours is announced to the peer as TLS has it, if that does not
        take waiting.
        """
        if how == socket.SHUT_WR:
            self._announce_end()
        socket.socket.shutdown(self, how)

    def _announce_end(self) -> None:
        timeout = self.gettimeout()
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self.setblocking(False)
            with self._turn:
                # Not `unwrap`, after which the socket would read and write plainly.
                self._sslobj.shutdown()  # type: ignore[attr-defined] # private in ssl
        with contextlib.suppress(OSError):
            self.settimeout(timeout)


def look(first: bytes) -> tuple[int, str | None]:
    """
    Look at the first bytes of a connection.

    Args:
        first: what has arrived.

    Returns:
        How many bytes there have to be before the handshake can begin, and if they
        are here, the server name that the client asks for.

    Raises:
        HandshakeError: it is no TLS.
    """
    if first[:1] != b"\x16":
        looks = guess(first)
        shown = first[:_SHOWN].hex(" ")
        raise HandshakeError(
            "plain",
            f"these bytes look like {looks}, not TLS"
            if looks is not None
            else f"its first bytes are no TLS: {shown}",
        )
    if len(first) < _RECORD:
        return _RECORD, None
    length = int.from_bytes(first[3:_RECORD], "big")
    if first[1] != 3 or not 0 < length <= _LARGEST_RECORD:
        shown = first[:_SHOWN].hex(" ")
        raise HandshakeError("plain", f"its first bytes are no TLS: {shown}")
    if len(first) < _RECORD + length:
        return _RECORD + length, None
    return _RECORD + length, _server_name(first[_RECORD : _RECORD + length])


def _server_name(hello: bytes) -> str | None:
    """
    Read the server name in a ClientHello; what is wrong there is OpenSSL's business.

    Source: RFC 8446, section 4.1.2; RFC 6066, section 3.
    """

    def number(at: int, size: int) -> int:
        return int.from_bytes(hello[at : at + size], "big")

    at = 4 + 2 + 32  # type and length, version, random
    at += 1 + number(at, 1)  # session
    at += 2 + number(at, 2)  # ciphers
    at += 1 + number(at, 1)  # compressions
    end = at + 2 + number(at, 2)
    at += 2
    while at + 4 <= min(end, len(hello)):
        kind, length = number(at, 2), number(at + 2, 2)
        if kind == 0:
            name = hello[at + 9 : at + 9 + number(at + 7, 2)]
            return name.decode().lower() if name and name.isascii() else None
        at += 4 + length
    return None


def choose(context: ssl.SSLContext, name: str | None) -> ssl.SSLContext:
    """
    Choose the context for a server name.
    """
    by_name = getattr(context, "by_name", None)
    if not by_name or name is None:
        return context
    _, _, parent = name.partition(".")
    found: ssl.SSLContext | None = by_name.get(name) or by_name.get(f"*.{parent}")
    return context if found is None else found


def failure(error: OSError) -> HandshakeError:
    """
    Say what an exception out of a handshake means.
    """
    reason = getattr(error, "reason", None)
    gone = isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)
    if gone or not isinstance(error, ssl.SSLError) or reason == _CUT_OFF:
        return HandshakeError("closed", "it went away")
    if isinstance(error, ssl.SSLCertVerificationError):
        return HandshakeError(
            "refused", f"its certificate is not accepted: {error.verify_message}"
        )
    words = str(reason or error.args[-1])
    return HandshakeError(
        "refused", _REASONS.get(words) or words.replace("_", " ").lower()
    )


def acknowledge(sock: socket.socket) -> None:
    """
    Acknowledge at once what has ended a handshake.

    We have nothing to send then, so the kernel would wait, for 40 ms, and a client
    whose Nagle algorithm is on would hold its first request back for as long.
    """
    if hasattr(socket, "TCP_QUICKACK"):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


class Handshake:
    """
    A handshake that is under way.

    Args:
        request: the connection; it does not block until the handshake is done.
        client_address: the peer's.
        seconds: how long it may take; `None` for no limit.
    """

    def __init__(
        self, request: TLSSocket, client_address: Any, seconds: float | None
    ) -> None:
        self.request = request
        self.client_address = client_address
        self.event = _IN
        """What to wait for: ``select.POLLIN`` or ``select.POLLOUT``."""
        self.deadline: float | None = None
        """When it ends by itself, in monotonic seconds."""
        self._seconds = seconds
        if seconds is not None:
            self.deadline = time.monotonic() + seconds
        self._timeout = request.gettimeout()
        self._begun = False
        self._error: HandshakeError | None = None
        request.setblocking(False)

    def fileno(self) -> int:
        """
        Return the descriptor to wait on, -1 if it was closed.
        """
        return self.request.fileno()

    def step(self) -> bool:
        """
        Go as far as possible without waiting; say whether it is done.

        Raises:
            HandshakeError: it has failed.
        """
        if self._error is not None:
            return self._listen()
        try:
            if not self._begun and not self._begin():
                return False
            self.request.do_handshake()
        except ssl.SSLWantReadError:
            self.event = _IN
            return False
        except ssl.SSLWantWriteError:
            self.event = _OUT
            return False
        except OSError as error:
            self._error = failure(error)
            if self._error.kind != "refused":
                raise self._error from None
            # Closed with bytes of the peer's unread, the kernel would reset the
            # connection, and the alert that says why would be lost.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self.request, socket.SHUT_WR)
            self.event = _IN
            self.deadline = time.monotonic() + _GOODBYE
            return self._listen()
        self.request.settimeout(self._timeout)
        acknowledge(self.request)
        return True

    def expire(self, now: float) -> None:
        """
        Raise an error if the time is up.

        Raises:
            HandshakeError: it is.
        """
        if self.deadline is not None and now >= self.deadline:
            text = f"the handshake exceeded {self._seconds} s"
            raise self._error or HandshakeError("timeout", text)

    def run(self) -> None:
        """
        Do all of it, waiting.

        Raises:
            HandshakeError: it has failed.
        """
        while not self.step():
            now = time.monotonic()
            self.expire(now)
            wait = None if self.deadline is None else (self.deadline - now) * 1000 + 1
            poller = select.poll()
            poller.register(self.request, self.event)
            poller.poll(wait)

    def stop(self, error: HandshakeError) -> None:
        """
        Let the thread that runs it fail at once.
        """
        self._error = self._error or error
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.request, socket.SHUT_RDWR)

    def _begin(self) -> bool:
        request = self.request
        try:
            first = socket.socket.recv(
                request, _RECORD + _LARGEST_RECORD, socket.MSG_PEEK
            )
        except BlockingIOError:
            return False
        if not first:
            raise ConnectionAbortedError
        needed, name = look(first)
        if len(first) < needed:
            request.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, needed)
            poller = select.poll()
            poller.register(request, _HUNG_UP)
            if poller.poll(0):  # the rest will never come
                raise ConnectionAbortedError
            return False
        request.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        request.server_name = name
        chosen = choose(request.context, name)
        if chosen is not request.context:
            request.context = chosen
        self._begun = True
        return True

    def _listen(self) -> bool:
        """
        Read what the peer still sends to no purpose, until it has gone too.
        """
        assert self._error is not None
        try:
            while socket.socket.recv(self.request, _LARGEST_RECORD):
                if self.deadline is None or time.monotonic() >= self.deadline:
                    break
        except BlockingIOError:
            return False
        except OSError:
            pass
        raise self._error
