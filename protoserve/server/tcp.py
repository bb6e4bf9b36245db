"""
A server on a listening socket; the parent of all servers that have a socket.

The class variables are policy, and are read only while the server is made, so
a subclass sets them. A constructor that fails closes its socket.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from protoserve.server._steps import HandlerFactory
from protoserve.server.base import BaseServer

__all__ = ["TCPServer"]


class TCPServer(BaseServer):
    """
    A server for streams over the internet protocols.

    For the caller, beside what `BaseServer` offers:

    - `socket`, `server_address`, `fileno`

    May be overridden, as class variables:

    - `address_family`, `socket_type`, `request_queue_size`,
      `allow_reuse_address`, `allow_reuse_port`

    Args:
        server_address: for internet protocols a tuple of host and port, where
            port 0 lets the system choose one.
        RequestHandlerClass: makes a handler for each request.
        bind_and_activate: False leaves it to the caller to call `server_bind`
            and `server_activate`, after having set options on the socket.
    """

    address_family: int = socket.AF_INET
    """The protocol family of the socket; ``AF_INET6`` serves IPv6."""

    socket_type: int = socket.SOCK_STREAM
    """The type of the socket."""

    request_queue_size: int = 5
    """How many clients may wait for their turn before more are refused."""

    allow_reuse_address: bool = False
    """Whether an address may be bound that old connections still linger on."""

    allow_reuse_port: bool = False
    """Whether several sockets may be bound to the one address at a time."""

    def __init__(
        self,
        server_address: Any,
        RequestHandlerClass: HandlerFactory,
        bind_and_activate: bool = True,
    ) -> None:
        super().__init__(server_address, RequestHandlerClass)
        self.socket = socket.socket(self.address_family, self.socket_type)
        if bind_and_activate:
            try:
                self.server_bind()
                self.server_activate()
            except BaseException:
                self.server_close()
                raise

    def fileno(self) -> int:
        """
        Return the descriptor of the socket, for `select.select` for example.
        """
        return self.socket.fileno()

    def server_bind(self) -> None:
        """
        Bind the socket, and learn the address that it has got.
        """
        if self.allow_reuse_address:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # The option is for internet protocols; Linux refuses it on others.
        internet = self.address_family in {socket.AF_INET, socket.AF_INET6}
        if self.allow_reuse_port and internet and hasattr(socket, "SO_REUSEPORT"):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self._on_address_bound()

    def server_activate(self) -> None:
        """
        Listen, with a queue for `request_queue_size` clients.
        """
        self.socket.listen(self.request_queue_size)

    def server_close(self) -> None:
        """
        Close the socket; a loop that still runs ends.
        """
        super().server_close()
        self._on_address_released()
        self.socket.close()
        self._loop_wake()

    def get_request(self) -> tuple[Any, Any]:
        """
        Accept a connection.

        Returns:
            A new socket for talking to the client, and the client's address.
        """
        return self.socket.accept()

    def shutdown_request(self, request: Any) -> None:
        """
        End the stream to the client, and close the connection.
        """
        # The client may have gone, or the handler may have closed it.
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_WR)
        self.close_request(request)

    def close_request(self, request: Any) -> None:
        """
        Close this process's end; the stream goes on if a child holds it too.
        """
        request.close()

    # Two steps for a class whose address is more than a name. It cannot extend
    # server_bind itself: in a diamond, `super()` there is a sibling of TCPServer.
    def _on_address_bound(self) -> None:
        pass

    def _on_address_released(self) -> None:
        pass

    def _loop_orphaned(self) -> bool:
        return self.socket.fileno() < 0
