"""
TLS on an event loop: between a transport and the protocol that is spoken.

Encrypted bytes go through OpenSSL in memory, so that the rules are those of TCP, on
every event loop: all records of one read are delivered in one piece, an end of the
stream that TLS announces is one of our side only when we say so, and what was cut off
without being announced is an end too. (asyncio's own layer takes 256 KiB for each
connection, ends our side together with the peer's, and keeps some ends to itself.)
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterable
from typing import Any

from protoserve.server._handshake import HandshakeError, choose, failure, look

__all__ = ["TLSStream"]

_PORTION = 256 * 1024
"""Bytes that are handed over together, at most about."""
_GOODBYE = 0.5
"""Seconds that a peer is given to read why its handshake was refused."""


class TLSStream(asyncio.BufferedProtocol):
    """
    A protocol for the encrypted side, and a transport for the plain one.

    Args:
        loop: where it lives.
        context: what the server shows.
        buffer: what encrypted bytes are read into; may be shared.
        seconds: how long the handshake may take; `None` for no limit.
        make: makes the protocol for the plain side when the handshake is done.
        done: is called once, with why the handshake failed, or `None`.
    """

    __slots__ = (
        "_buffer",
        "_context",
        "_done",
        "_ended",
        "_ending",
        "_error",
        "_first",
        "_incoming",
        "_inner",
        "_loop",
        "_make",
        "_outgoing",
        "_paused",
        "_seconds",
        "_timer",
        "_tls",
        "_told",
        "_transport",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: ssl.SSLContext,
        buffer: memoryview,
        seconds: float | None,
        make: Callable[[], Any],
        done: Callable[[HandshakeError | None], None],
    ) -> None:
        self._loop = loop
        self._context = context
        self._buffer = buffer
        self._seconds = seconds
        self._make = make
        self._done: Callable[[HandshakeError | None], None] | None = done
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._first: bytes | None = b""
        self._error: HandshakeError | None = None
        self._tls: Any = None
        self._inner: Any = None
        self._transport: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._ended = False
        """Whether all that the peer has sent is delivered."""
        self._told = False
        """Whether the plain side knows, or need not."""
        self._ending = False
        """Whether our side has ended."""

    # The encrypted side ----------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """
        Wait for the ClientHello.
        """
        self._transport = transport
        if self._error is not None:  # it was stopped before it began
            transport.abort()
            return
        if self._seconds is not None:
            text = f"the handshake exceeded {self._seconds} s"
            self._timer = self._loop.call_later(
                self._seconds, self.stop, HandshakeError("timeout", text)
            )

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's
        """
        Give the buffer that encrypted bytes are read into.
        """
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """
        Take encrypted bytes.
        """
        if self._ending or self._error is not None:
            return  # read only so that the peer can read what we have sent
        self._incoming.write(self._buffer[:nbytes])
        if self._first is not None:
            self._first += self._buffer[:nbytes]
        self._advance()

    def eof_received(self) -> bool:
        """
        Take note that nothing more comes; our side goes on if the plain one does.
        """
        self._incoming.write_eof()
        if self._inner is None:
            self._fail(HandshakeError("closed", "it went away"))
            return False
        if self._ending:
            return False
        self._deliver()
        return not self._transport.is_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        """
        Tell the plain side, or whoever waits for the handshake.
        """
        if self._inner is None:
            self._finish(self._error or HandshakeError("closed", "it went away"))
        else:
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """
        Tell the plain side that the peer does not take what was sent.
        """
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """
        Tell the plain side that more can be sent.
        """
        if self._inner is not None:
            self._inner.resume_writing()

    # The handshake ---------------------------------------------------------

    def stop(self, error: HandshakeError) -> None:
        """
        End the connection, if its handshake is still under way.
        """
        if self._inner is None:
            self._error = self._error or error
            if self._transport is not None:
                self._transport.abort()

    def _advance(self) -> None:
        if self._inner is None:
            try:
                if not self._shake():
                    return
            except HandshakeError as error:
                self._fail(error)
                return
            except OSError as error:
                self._fail(failure(error))
                return
            self._finish(None)
            self._inner = self._make()
            self._inner.connection_made(self)
        self._deliver()

    def _shake(self) -> bool:
        """
        Go on with the handshake; say whether it is done.
        """
        if self._first is not None:
            needed, name = look(self._first)
            if len(self._first) < needed:
                return False
            self._first = None
            context = choose(self._context, name)
            self._tls = context.wrap_bio(
                self._incoming, self._outgoing, server_side=True
            )
            self._tls.server_name = name
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self._flush()
        return True

    def _fail(self, error: HandshakeError) -> None:
        """
        End the connection; a peer that was refused gets the time to read why.
        """
        self._error = self._error or error
        if error.kind != "refused":
            self._transport.abort()
            return
        with contextlib.suppress(OSError, RuntimeError):
            self._transport.write_eof()
        self._loop.call_later(_GOODBYE, self._transport.abort)

    def _finish(self, error: HandshakeError | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._done is not None:
            done, self._done = self._done, None
            done(error)

    # The plain side --------------------------------------------------------

    def _deliver(self) -> None:
        """
        Hand over what has been decrypted, all of it together.
        """
        while not (self._paused or self._ended or self._transport.is_closing()):
            data = self._decrypt()
            if data:
                self._inner.data_received(data)
            if len(data) < _PORTION:
                break
        # After a request to renew keys there is something to answer.
        self._flush()
        if self._ended and not self._told:
            self._told = True
            if not self._inner.eof_received():
                self.close()

    def _decrypt(self) -> bytes:
        """
        Give what has been decrypted, a good part of it; take note of the stream's end.
        """
        pieces: list[bytes] = []
        left = _PORTION
        while left > 0:
            try:
                read = self._tls.read(left)
            except ssl.SSLWantReadError:
                break
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                read = b""
            except ssl.SSLError:  # no TLS any more; an alert that says so is on its way
                read = b""
                self._told = True
                self._loop.call_soon(self._transport.close)
            if not read:
                self._ended = True
                break
            pieces.append(read)
            left -= len(read)
        return b"".join(pieces)

    def _flush(self) -> None:
        if self._outgoing.pending and not self._transport.is_closing():
            self._transport.write(self._outgoing.read())

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """
        Encrypt and send bytes.
        """
        if self._ending or not data:
            return
        with contextlib.suppress(ssl.SSLError):  # the connection is lost already
            self._tls.write(data)
        self._flush()

    def writelines(self, pieces: Iterable[bytes]) -> None:
        """
        Encrypt and send several pieces together.
        """
        self.write(b"".join(pieces))

    def can_write_eof(self) -> bool:
        """
        Whether our side can be ended before the peer's.
        """
        return True

    def write_eof(self) -> None:
        """
        End our side, as TLS has it; what the peer still sends is thrown away.
        """
        if self._ending:
            return
        self._ending = True
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._flush()
        if not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> None:
        """
        End the connection after what was sent.
        """
        with contextlib.suppress(OSError, RuntimeError):
            self.write_eof()
        self._transport.close()

    def abort(self) -> None:
        """
        End the connection now.
        """
        self._ending = True
        self._transport.abort()

    def is_closing(self) -> bool:
        """
        Whether it was closed.
        """
        return bool(self._transport.is_closing())

    def pause_reading(self) -> None:
        """
        Hand nothing over, and take nothing from the network.
        """
        self._paused = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """
        Go on, beginning with what has been received already.
        """
        if self._paused:
            self._paused = False
            # Whoever calls may be in the middle of handling the last piece.
            self._loop.call_soon(self._go_on)
        self._transport.resume_reading()

    def _go_on(self) -> None:
        if not self._ending and not self._transport.is_closing():
            self._deliver()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """
        Tell about the connection; ``ssl_object`` is what knows the peer.
        """
        if name == "ssl_object":
            return self._tls
        return self._transport.get_extra_info(name, default)

    def __getattr__(self, name: str) -> Any:
        # What is said about buffers and sockets holds for the encrypted side.
        return getattr(self._transport, name)
