"""
What is remembered of datagram peers: a bounded table that forgets.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import attrs

__all__ = ["PeerTable"]


@attrs.define
class PeerTable:
    """
    Values by peer; the least recently used make room, the silent are forgotten.

    It is not locked: whoever shares it between threads guards it.

    Args:
        most: how many are kept; `None` for no bound.
        idle: seconds after which a silent one is forgotten; `None` for never.
        forgotten: is called with each value that leaves.
        clock: seconds that never go back.
    """

    most: int | None
    idle: float | None
    forgotten: Callable[[Any], None]
    clock: Callable[[], float] = time.monotonic
    _entries: OrderedDict[Hashable, tuple[float, Any]] = attrs.field(
        factory=OrderedDict, init=False
    )

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Any]:
        return iter([value for _, value in self._entries.values()])

    def get(self, peer: Hashable, make: Callable[[], Any]) -> Any:
        """
        Find a peer's value, or make it.
        """
        now = self.clock()
        self._expire(now)
        known = self._entries.pop(peer, None)
        value = make() if known is None else known[1]
        self._entries[peer] = (now, value)
        if self.most is not None and len(self._entries) > self.most:
            _, (_, oldest) = self._entries.popitem(last=False)
            self.forgotten(oldest)
        return value

    def forget(self, peer: Hashable, value: Any) -> None:
        """
        Forget one peer, if it is known by this value.
        """
        known = self._entries.get(peer)
        if known is not None and known[1] is value:
            del self._entries[peer]
            self.forgotten(value)

    def clear(self) -> None:
        """
        Forget all.
        """
        while self._entries:
            _, (_, value) = self._entries.popitem(last=False)
            self.forgotten(value)

    def _expire(self, now: float) -> None:
        while self.idle is not None and self._entries:
            peer, (seen, value) = next(iter(self._entries.items()))
            if now - seen < self.idle:
                return
            del self._entries[peer]
            self.forgotten(value)
