"""
Decide who is told of trouble, and how often.

A peer that went away is news for `handle_disconnect`; every other exception is
news for `handle_error`. What can repeat at the rate of the traffic is rationed,
see `protoserve.rarelog`.
"""

from __future__ import annotations

import logging
from typing import Any

__all__ = ["DISCONNECTS", "logger", "tell_failure"]

logger = logging.getLogger("protoserve.server")

DISCONNECTS = (ConnectionResetError, BrokenPipeError, ConnectionAbortedError)
"""What an operation on a socket raises when the peer has gone."""


def tell_failure(
    server: Any, request: Any, client_address: Any, error: Exception
) -> None:
    """
    Call the server's hook for an exception that a request ended with.

    To be called while the exception is being handled. A server that has no
    `handle_disconnect`, one of the standard library's for example, is told of
    everything by `handle_error`.
    """
    hook = server.handle_error
    if isinstance(error, DISCONNECTS):
        hook = getattr(server, "handle_disconnect", hook)
    hook(request, client_address)
