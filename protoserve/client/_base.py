"""
What clients have in common, whether they block or are awaited.
"""

from __future__ import annotations

import math
import ssl
import time
from collections import deque
from typing import Any

from protoserve.client._call import Options, Stats, Unread
from protoserve.client._calls import Calls
from protoserve.client._connecting import target_of
from protoserve.errors import LocalProtocolError, PeerTimeoutError, SessionClosedError
from protoserve.messages import Message
from protoserve.protocol import Protocol

__all__ = ["ClientBase", "remaining"]


class ClientBase:
    """
    Options, and what is decided by them.
    """

    def __init__(
        self,
        protocol: Protocol,
        url: str,
        *,
        timeout: float | None = 5.0,
        retries: int = 3,
        backoff: float = 0.5,
        tls: bool | ssl.SSLContext | None = None,
        reconnect: bool = False,
        backlog: int = 1024,
    ) -> None:
        self.protocol = protocol
        self.url = url
        self.stats = Stats()
        """What has happened so far, counted."""
        self._options = Options(timeout, retries, backoff, backlog)
        self._target = target_of(protocol, url, tls)
        self._reconnect = reconnect
        self._unread: Unread = deque()
        self._keyed = protocol.correlate is not None
        self._link: Any = None
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._link else "unused"
        return f"<{type(self).__name__} {self.protocol.name} {self.url} {state}>"

    def _seconds(self, timeout: float | None) -> float | None:
        seconds = self._options.timeout if timeout is None else timeout
        return None if seconds == math.inf else seconds

    def _check_open(self) -> None:
        if self._closed:
            raise SessionClosedError(f"the client of {self.url} is closed")

    def _closing(self) -> SessionClosedError:
        """
        Make what those are told who wait while the client is closed.
        """
        self._closed = True
        return SessionClosedError(f"the client of {self.url} was closed")

    def _no_turn(self, timeout: float | None) -> PeerTimeoutError:
        return PeerTimeoutError(
            f"{self.url}: another exchange was not over within {timeout:g} s"
        )

    def _may_repeat(self, request: Message, *, sent: bool) -> bool:
        """
        Say whether a request whose connection was lost is asked on a new one.
        """
        if not self._reconnect or self._closed:
            return False
        return request.is_idempotent or not sent

    @property
    def _one_conversation(self) -> bool:
        """
        Whether the peer knows us by our socket, so that it is not just replaced.
        """
        return self._target.stream or self.protocol.states is not None

    def _unsettled(self, calls: Calls) -> SessionClosedError | None:
        """
        Say whether the connection cannot be used on, as an answer might be taken for
        that of another request.

        Where one datagram is like another, a new socket does: what is late then goes
        to a port that is closed.
        """
        if not calls.doubtful or calls.failure is not None:
            return None
        reason = "answers are missing, and it cannot be told which"
        return SessionClosedError(f"{self.url}: {reason}")

    @staticmethod
    def _check_window(window: int) -> None:
        if window < 1:
            raise LocalProtocolError(f"window: expected 1 or more, found {window!r}")


def remaining(timeout: float | None, started: float) -> float | None:
    """
    Give what is left of a time; never nothing, as that would not even be tried.

    Args:
        timeout: seconds in all; `None` for ever.
        started: when it began, by `time.monotonic`.
    """
    if timeout is None:
        return None
    return max(timeout - (time.monotonic() - started), 0.001)
