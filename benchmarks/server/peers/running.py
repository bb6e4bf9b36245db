"""
What every server here is told, and how it says that it is there.
"""

from __future__ import annotations

import socket
import sys

import attrs

from benchmarks.server.shape import SMALL, Shape

HOST = "127.0.0.1"
BACKLOG = 4096
_SO_RCVBUFFORCE = 33  # Linux; the socket module does not name it


@attrs.frozen
class Options:
    """
    How to serve.
    """

    port: int
    every: int = 0
    """After how many datagrams a receiver says how far it is; 0: never."""
    buffer: int = 0
    """Bytes of a datagram socket's buffer; 0: the system's default."""
    shape: Shape = SMALL


def ready() -> None:
    """
    Say that clients may connect.
    """
    say("ready")


def say(line: str) -> None:
    """
    Say a line to whoever started this program, at once.
    """
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def listener(options: Options, *, blocking: bool = True) -> socket.socket:
    """
    Make a listening socket.
    """
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind((HOST, options.port))
    found.listen(BACKLOG)
    found.setblocking(blocking)
    return found


def receiver(options: Options, *, blocking: bool = True) -> socket.socket:
    """
    Make a bound datagram socket.
    """
    found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    enlarge(found, options.buffer)
    found.bind((HOST, options.port))
    found.setblocking(blocking)
    return found


def enlarge(sock: socket.socket, size: int) -> None:
    """
    Give a socket a receive buffer, as large as the system lets us have it.
    """
    if size:
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


class Tally:
    """
    Counts datagrams, and says how far it is after every so many.

    Args:
        every: after how many.
    """

    __slots__ = ("every", "last", "next", "taken")

    def __init__(self, every: int) -> None:
        self.every = self.next = every or sys.maxsize
        self.taken = self.last = 0

    def add(self, last: int, number: int = 1) -> None:
        """
        Take note of datagrams, of which the last had this number.
        """
        self.last = last
        self.taken += number
        if self.taken >= self.next:
            self.next += self.every
            say(f"{self.taken} {last}")
