"""
A clock that stands still until a test moves it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

__all__ = ["Clock"]


class Clock:
    """
    Gives the time that it was set to; for everything that takes ``clock=``.

    Args:
        now: the time to begin with, in seconds.

    >>> clock = Clock(100.0)
    >>> clock.advance(2.5)
    >>> clock()
    102.5
    """

    def __init__(self, now: float = 1_000_000_000.0) -> None:
        self.now = now
        """The present, in seconds."""
        self._listeners: list[Callable[[], object]] = []

    def __repr__(self) -> str:
        return f"Clock({self.now!r})"

    def __call__(self) -> float:
        """
        Tell the time.
        """
        return self.now

    def advance(self, seconds: float) -> None:
        """
        Let time pass, at once. Whatever is due by then happens.

        Args:
            seconds: how many; time never goes back.
        """
        if not 0 <= seconds < inf:
            raise ValueError(
                f"a clock goes on by seconds of 0 or more, not {seconds!r}"
            )
        self.now += seconds
        for listener in list(self._listeners):
            listener()

    def listen(self, listener: Callable[[], object]) -> Callable[[], None]:
        """
        Call a function each time that time has passed.

        Returns:
            What ends that.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)
