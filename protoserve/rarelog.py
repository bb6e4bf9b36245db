"""
Log lines that a peer can cause, at a rate that no peer can raise.

What can repeat at the rate of the traffic is logged at most once a second for
each kind, with a count of what was held back, so that an attacker cannot fill the
disk with log lines.
"""

from __future__ import annotations

import logging
import time
from typing import Any

__all__ = ["RareLog"]


class RareLog:
    """
    Logs a line of each kind at most once in an interval.

    Args:
        logger: where to.
        interval: seconds between two lines of one kind.
    """

    def __init__(self, logger: logging.Logger, interval: float = 1.0) -> None:
        self._logger = logger
        self._interval = interval
        self._next: dict[str, float] = {}
        self._held_back: dict[str, int] = {}

    def log(
        self, level: int, text: str, *args: object, kind: str = "", exc_info: Any = None
    ) -> None:
        """
        Log a line, or count it as held back.

        Args:
            level: as in `logging`.
            text: what to log; it also names the kind, together with `kind`.
            args: what is put into the text.
            kind: tells lines of one text apart; from a small set of values.
            exc_info: as in `logging`.
        """
        kind = text + kind
        now = time.monotonic()
        if now < self._next.get(kind, now):
            self._held_back[kind] = self._held_back.get(kind, 0) + 1
            return
        self._next[kind] = now + self._interval
        held_back = self._held_back.pop(kind, 0)
        if held_back:
            text = f"{text} ({held_back} more since the last such line)"
        self._logger.log(level, text, *args, exc_info=exc_info)
