"""
A server for which each datagram is a request.

One byte more than `max_packet_size` is read, so that a longer datagram can be
told from one that just fits, on every platform. It is not a request: half a
message is worse than none, because it may parse. `get_request` reports it and
then says that there is no request after all, so that it reaches no handler,
whoever called.
"""

from __future__ import annotations

import errno
import logging
import socket
from typing import Any

from protoserve.server._reporting import tell_failure
from protoserve.server.tcp import TCPServer

__all__ = ["UDPServer"]


class UDPServer(TCPServer):
    """
    A server for datagrams over the internet protocols.

    May be overridden, beside what `TCPServer` offers:

    - `max_packet_size`, as a class variable
    - `handle_truncated`

    A request is a pair of the datagram's bytes and the server's socket, which
    replies are sent by: ``socket.sendto(data, client_address)``.
    """

    socket_type: int = socket.SOCK_DGRAM
    """The type of the socket."""

    max_packet_size: int = 8192
    """Bytes of the longest datagram that is handled."""

    def server_activate(self) -> None:
        """
        Do nothing: a datagram socket does not listen.
        """

    def get_request(self) -> tuple[Any, Any]:
        """
        Receive a datagram.

        Returns:
            The pair ``((data, socket), client_address)``. The address is None
            or empty for a Unix peer that has not bound one.

        Raises:
            BlockingIOError: the datagram was too long; it has been reported.
        """
        data, client_address = self.socket.recvfrom(self.max_packet_size + 1)
        if len(data) <= self.max_packet_size:
            return (data, self.socket), client_address
        request = (data[: self.max_packet_size], self.socket)
        try:
            self.handle_truncated(request, client_address)
        except Exception as error:
            tell_failure(self, request, client_address, error)
        raise BlockingIOError(errno.EAGAIN, "the datagram was too long")

    def handle_truncated(
        self,
        request: Any,  # noqa: ARG002 - for overrides
        client_address: Any,
    ) -> None:
        """
        Called for a datagram longer than `max_packet_size`; logs a line.

        Args:
            request: the pair of the first `max_packet_size` bytes and the
                server's socket.
            client_address: who sent it.
        """
        self._loop_rare_log.log(
            logging.WARNING,
            "a datagram of more than %d bytes from %s was dropped",
            self.max_packet_size,
            client_address,
        )

    def shutdown_request(self, request: Any) -> None:
        """
        Only call `close_request`: there is no connection to end.
        """
        self.close_request(request)

    def close_request(self, request: Any) -> None:
        """
        Do nothing: the socket is the server's.
        """
