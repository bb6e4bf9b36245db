"""
Servers at a path in the file system, for clients on the same machine.

A path outlives the socket that was bound to it. It is left in place, as it has
always been, because another process may be about to take it over; a server
that owns its path says so by `unlink_on_close`. Even then only the very file
that this server's bind made is removed, never one that a successor has put at
the same path.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

from protoserve.server.tcp import TCPServer
from protoserve.server.udp import UDPServer

if TYPE_CHECKING:
    _Base = TCPServer
else:
    _Base = object

__all__ = ["UnixDatagramServer", "UnixStreamServer"]


def _identity(path: object) -> tuple[int, int] | None:
    # Abstract addresses, which begin with a zero byte, are not files.
    if not isinstance(path, str) or not path or path.startswith("\0"):
        return None
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class _PathAddress(_Base):
    """
    The part that stream and datagram servers at a path have in common.
    """

    address_family: int = socket.AF_UNIX
    """The protocol family of the socket."""

    unlink_on_close: bool = False
    """Whether `server_close` removes the path that the server made."""

    __identity: tuple[int, int] | None = None

    def _on_address_bound(self) -> None:
        super()._on_address_bound()
        self.__identity = _identity(self.server_address)

    def _on_address_released(self) -> None:
        super()._on_address_released()
        made, self.__identity = self.__identity, None
        if not self.unlink_on_close or made is None:
            return
        if made == _identity(self.server_address):
            from pathlib import Path

            with contextlib.suppress(OSError):
                Path(self.server_address).unlink()


class UnixStreamServer(_PathAddress, TCPServer):
    """
    A stream server at a path, which must not exist yet.

    May be overridden, as class variables, beside those of `TCPServer`:

    - `unlink_on_close`
    """


class UnixDatagramServer(_PathAddress, UDPServer):
    """
    A datagram server at a path, which must not exist yet.

    May be overridden, as class variables, beside those of `UDPServer`:

    - `unlink_on_close`
    """
