"""
The classic server stack: any `socketserver` handler runs here unchanged.

A server class says where requests come from; a mix-in, put before it, says
where they are handled. The eight usual combinations have names.
"""

from __future__ import annotations

from protoserve.server.base import BaseServer
from protoserve.server.eventloop import EventLoopMixIn
from protoserve.server.fork import ForkingMixIn
from protoserve.server.handlers import (
    BaseRequestHandler,
    DatagramRequestHandler,
    StreamRequestHandler,
)
from protoserve.server.tcp import TCPServer
from protoserve.server.threads import ThreadingMixIn
from protoserve.server.udp import UDPServer
from protoserve.server.unix import UnixDatagramServer, UnixStreamServer

__all__ = [
    "BaseRequestHandler",
    "BaseServer",
    "DatagramRequestHandler",
    "EventLoopMixIn",
    "ForkingMixIn",
    "ForkingTCPServer",
    "ForkingUDPServer",
    "ForkingUnixDatagramServer",
    "ForkingUnixStreamServer",
    "StreamRequestHandler",
    "TCPServer",
    "ThreadingMixIn",
    "ThreadingTCPServer",
    "ThreadingUDPServer",
    "ThreadingUnixDatagramServer",
    "ThreadingUnixStreamServer",
    "UDPServer",
    "UnixDatagramServer",
    "UnixStreamServer",
]


class ThreadingTCPServer(ThreadingMixIn, TCPServer):
    """
    A `TCPServer` with a thread for each request.
    """


class ThreadingUDPServer(ThreadingMixIn, UDPServer):
    """
    A `UDPServer` with a thread for each request.
    """


class ThreadingUnixStreamServer(ThreadingMixIn, UnixStreamServer):
    """
    A `UnixStreamServer` with a thread for each request.
    """


class ThreadingUnixDatagramServer(ThreadingMixIn, UnixDatagramServer):
    """
    A `UnixDatagramServer` with a thread for each request.
    """


class ForkingTCPServer(ForkingMixIn, TCPServer):
    """
    A `TCPServer` with a process for each request.
    """


class ForkingUDPServer(ForkingMixIn, UDPServer):
    """
    A `UDPServer` with a process for each request.
    """


class ForkingUnixStreamServer(ForkingMixIn, UnixStreamServer):
    """
    A `UnixStreamServer` with a process for each request.
    """


class ForkingUnixDatagramServer(ForkingMixIn, UnixDatagramServer):
    """
    A `UnixDatagramServer` with a process for each request.
    """
