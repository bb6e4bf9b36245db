"""
Classic request handlers: the work is done while the object is made.

`finish` runs unless `setup` raised. Should both `handle` and `finish` fail, the
peer's going away in `finish` is only a consequence, or old news; what `handle`
raised is what the server is told.
"""

from __future__ import annotations

import contextlib
import io
import socket
from typing import TYPE_CHECKING, Any, BinaryIO

from protoserve.server._reporting import DISCONNECTS

if TYPE_CHECKING:
    from typing_extensions import Buffer  # of collections.abc since Python 3.12

__all__ = ["BaseRequestHandler", "DatagramRequestHandler", "StreamRequestHandler"]


class BaseRequestHandler:
    """
    Handles one request, then is thrown away.

    May be overridden:

    - `setup`, `handle`, `finish`

    Args:
        request: a connected socket, or the pair of a datagram and a socket.
        client_address: who sent the request.
        server: the server that received it.
    """

    def __init__(self, request: Any, client_address: Any, server: Any) -> None:
        self.request = request
        self.client_address = client_address
        self.server = server
        self.setup()
        try:
            self.handle()
        except BaseException:
            with contextlib.suppress(*DISCONNECTS):
                self.finish()
            raise
        self.finish()

    def setup(self) -> None:
        """
        Prepare; nothing by default.
        """

    def handle(self) -> None:
        """
        Do the work: `request`, `client_address` and `server` are set.
        """

    def finish(self) -> None:
        """
        Clean up; runs after `handle`, whatever happened there.
        """


class StreamRequestHandler(BaseRequestHandler):
    """
    Handles a connection through a pair of files.

    May be overridden, as class variables:

    - `rbufsize`, `wbufsize`, `timeout`, `disable_nagle_algorithm`

    May be extended, calling the one of `super()`:

    - `setup`, `finish`
    """

    rbufsize: int = -1
    """Bytes of the buffer of `rfile`; -1 for the system's choice."""

    wbufsize: int = 0
    """Bytes of the buffer of `wfile`; 0 writes all, and at once."""

    timeout: float | None = None
    """Seconds for each operation on the connection; None for no limit."""

    disable_nagle_algorithm: bool = False
    """Whether small packets are sent without waiting for acknowledgements."""

    rfile: BinaryIO
    """What the client sends."""

    wfile: BinaryIO
    """What the client is sent."""

    def setup(self) -> None:
        """
        Make `connection`, `rfile` and `wfile`.
        """
        self.connection = self.request
        if self.timeout is not None:
            self.connection.settimeout(self.timeout)
        if self.disable_nagle_algorithm:
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self.rfile = self.connection.makefile("rb", self.rbufsize)
        if self.wbufsize:
            self.wfile = self.connection.makefile("wb", self.wbufsize)
        else:
            self.wfile = _WholeWriter(self.connection)  # type: ignore[assignment]

    def finish(self) -> None:
        """
        Send what is still in the buffer, and close both files.
        """
        try:
            self.wfile.close()
        finally:
            self.rfile.close()


class _WholeWriter(io.BufferedIOBase):
    """
    A file that writes all it is given, at once.

    A raw socket file may write a part and return the count, which callers of
    an unbuffered `wfile` have never looked at.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
        with memoryview(data) as view:
            self._connection.sendall(view)
            return view.nbytes

    def fileno(self) -> int:
        return self._connection.fileno()


class DatagramRequestHandler(BaseRequestHandler):
    """
    Handles a datagram through a pair of files in memory.

    What has been written to `wfile` is sent as one datagram in the end, an
    empty one if nothing has. A handler that is to keep silent is a
    `BaseRequestHandler`.

    May be extended, calling the one of `super()`:

    - `setup`, `finish`
    """

    def setup(self) -> None:
        """
        Make `packet`, `socket`, `rfile` and `wfile`.
        """
        self.packet, self.socket = self.request
        self.rfile = io.BytesIO(self.packet)
        self.wfile = io.BytesIO()

    def finish(self) -> None:
        """
        Send the reply, if the client has an address that it can be sent to.
        """
        # A Unix peer that has not bound a path has no address.
        if self.client_address:
            self.__send(self.wfile.getvalue())

    def __send(self, reply: bytes) -> None:
        try:
            self.socket.sendto(reply, self.client_address)
        except (ConnectionRefusedError, FileNotFoundError) as exc:
            # The peer has closed its Unix socket, or has removed its path.
            raise ConnectionResetError(exc.errno, "the peer's socket is gone") from exc
