"""
What sinks that are reached over a network share.
"""

from __future__ import annotations

from collections.abc import Collection

from protoserve.errors import DeclarationError
from protoserve.telemetry.sinks.base import Sink
from protoserve.telemetry.targets import Target

__all__ = ["CONNECT_TIMEOUT", "TIMEOUT", "NetworkSink"]

CONNECT_TIMEOUT = 10.0
"""Seconds that making a connection may take."""
TIMEOUT = 60.0
"""Seconds after which a store that does not answer is given up, until the next try."""


class NetworkSink(Sink):
    """
    A sink with a host, a port, and perhaps a password, which is shown nowhere.

    Args:
        url: see `Target.parse`.
        port: the one that a host has without saying.
        options: those that there are; `None` lets all pass.
    """

    def __init__(
        self, url: str, *, port: int, options: Collection[str] | None = None
    ) -> None:
        self._target = Target.parse(url, port=port, options=options)
        if not (self._target.hosts or "host" in self._target.options):
            scheme = self._target.scheme
            raise DeclarationError(f"{scheme}: expected {scheme}://HOST, found no host")
        self.url = str(self._target)

    def _line(self, said: BaseException | str) -> str:
        """
        Say what a store said, in one line that shows no secret.
        """
        text = " ".join(str(said).split()) or type(said).__name__
        return f"{self.url}: {self._target.hide(text)[:500]}"
