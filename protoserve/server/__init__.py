"""
The classic server stack: any `socketserver` handler runs here unchanged.

A server class says where requests come from; a mix-in, put before it, says
where they are handled. The eight usual combinations have names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protoserve.server.base import BaseServer
from protoserve.server.eventloop import EventLoopMixIn
from protoserve.server.fork import ForkingMixIn
from protoserve.server.handlers import (
    BaseRequestHandler,
    DatagramRequestHandler,
    StreamRequestHandler,
)
from protoserve.server.pool import PoolMixIn
from protoserve.server.prefork import PreforkMixIn
from protoserve.server.tcp import TCPServer
from protoserve.server.threads import ThreadingMixIn
from protoserve.server.udp import UDPServer
from protoserve.server.unix import UnixDatagramServer, UnixStreamServer

if TYPE_CHECKING:
    from protoserve.server.batch import BatchMixIn
    from protoserve.server.tls import HandshakeError, TLSMixIn, server_context
else:
    from protoserve.late import late

    # To import ssl or ctypes takes as long as half of the rest.
    __getattr__, __dir__ = late(
        __name__,
        {"batch": "BatchMixIn", "tls": "HandshakeError TLSMixIn server_context"},
    )

__all__ = [
    "BaseRequestHandler",
    "BaseServer",
    "BatchMixIn",
    "DatagramRequestHandler",
    "EventLoopMixIn",
    "ForkingMixIn",
    "ForkingTCPServer",
    "ForkingUDPServer",
    "ForkingUnixDatagramServer",
    "ForkingUnixStreamServer",
    "HandshakeError",
    "PoolMixIn",
    "PreforkMixIn",
    "StreamRequestHandler",
    "TCPServer",
    "TLSMixIn",
    "ThreadingMixIn",
    "ThreadingTCPServer",
    "ThreadingUDPServer",
    "ThreadingUnixDatagramServer",
    "ThreadingUnixStreamServer",
    "UDPServer",
    "UnixDatagramServer",
    "UnixStreamServer",
    "server_context",
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
