"""
Data whose template has not come yet: held for a while, in bounded number and bytes.

What is held of a datagram are the sets that nothing can be made of, each as a message of
its own under the datagram's head. When the template comes they are taken from here and
go the way of all others; what has waited too long is given up. When there is no room,
what comes is not held.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container

import attrs

from protoserve import Peer

__all__ = ["Held", "HeldLimits", "Key", "Waiting"]

Key = tuple[str, int]
"""An exporter, and its template by the number of `template_key`."""


@attrs.frozen(kw_only=True)
class HeldLimits:
    """
    How much data is held.
    """

    seconds: float = 30.0
    datagrams: int = 4096
    size: int = 8 << 20
    """Bytes."""


@attrs.define(eq=False)
class Waiting:
    """
    What is held of one datagram.
    """

    peer: Peer
    """Who has sent it."""
    time: int
    """When it came: nanoseconds since the epoch."""
    messages: dict[Key, list[bytes]]
    """By what they wait for: sets, under the datagram's head."""
    size: int = 0

    def __attrs_post_init__(self) -> None:
        self.size = sum(len(m) for each in self.messages.values() for m in each)


class Held:
    """
    All that is held.
    """

    def __init__(self, limits: HeldLimits) -> None:
        self._limits = limits
        self._waiting: OrderedDict[int, Waiting] = OrderedDict()
        """By the number of their arrival."""
        self._by_key: dict[Key, list[int]] = {}
        self._next = 0
        self.size = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def hold(self, waiting: Waiting) -> bool:
        """
        Keep something; say whether there was room.
        """
        limits = self._limits
        if (
            len(self._waiting) >= limits.datagrams
            or self.size + waiting.size > limits.size
        ):
            return False
        number = self._next
        self._next += 1
        self._waiting[number] = waiting
        self.size += waiting.size
        for key in waiting.messages:
            self._by_key.setdefault(key, []).append(number)
        return True

    def take(self, key: Key) -> list[tuple[Waiting, list[bytes], bool]]:
        """
        Take what has waited for a template.

        Returns:
            For each datagram: what it was, its messages, and whether this was all
            that was held of it.
        """
        found = []
        for number in self._by_key.pop(key, ()):
            waiting = self._waiting.get(number)
            if waiting is None:
                continue
            messages = waiting.messages.pop(key)
            if not waiting.messages:
                del self._waiting[number]
                self.size -= waiting.size
            found.append((waiting, messages, not waiting.messages))
        return found

    def forget(self, those: Container[Waiting]) -> None:
        """
        Give up some of what waits, as if it had never come.
        """
        for number, waiting in list(self._waiting.items()):
            if waiting in those:
                self._remove(number)

    def expire(self, now: float) -> int:
        """
        Give up what has waited too long; say how many datagrams.
        """
        oldest = (now - self._limits.seconds) * 1e9
        gone = 0
        while self._waiting:
            number, waiting = next(iter(self._waiting.items()))
            if waiting.time > oldest:
                break
            self._remove(number)
            gone += 1
        return gone

    def _remove(self, number: int) -> None:
        waiting = self._waiting.pop(number)
        self.size -= waiting.size
        for key in waiting.messages:
            left = self._by_key.get(key)
            if left is not None:
                left.remove(number)
                if not left:
                    del self._by_key[key]
