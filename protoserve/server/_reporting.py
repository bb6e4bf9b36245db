"""
Decide who is told of trouble, and how often.

A peer that went away is news for `handle_disconnect`; every other exception is
news for `handle_error`. What can repeat at the rate of the traffic is logged
at most once a second, with a count of what was held back, so that an attacker
cannot fill the disk with log lines.
"""

from __future__ import annotations

import logging
import time
from typing import Any

__all__ = ["DISCONNECTS", "RareLog", "logger", "tell_failure"]

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


class RareLog:
    """
    Logs a line of each kind at most once in an interval.

    Args:
        interval: seconds between two lines of one kind.
    """

    def __init__(self, interval: float = 1.0) -> None:
        self._interval = interval
        self._next: dict[str, float] = {}
        self._held_back: dict[str, int] = {}

    def log(self, level: int, text: str, *args: object) -> None:
        """
        Log `text`, which also names the kind, or count it as held back.
        """
        now = time.monotonic()
        if now < self._next.get(text, now):
            self._held_back[text] = self._held_back.get(text, 0) + 1
            return
        self._next[text] = now + self._interval
        held_back = self._held_back.pop(text, 0)
        if held_back:
            text = f"{text} ({held_back} more since the last such line)"
        logger.log(level, text, *args)
