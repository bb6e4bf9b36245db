"""
What has become of the entries of a spool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from protoserve.telemetry.groups import SpoolConsumer

__all__ = ["Amount", "SpoolStats"]


@attrs.define
class Amount:
    """
    How much of something there was.
    """

    entries: int = 0
    count: int = 0
    """The datagrams, or whatever else the entries stand for."""

    def add(self, entries: int, count: int) -> None:
        """
        Count some more.
        """
        self.entries += entries
        self.count += count

    def plus(self, other: Amount) -> Amount:
        """
        Give the sum of both.
        """
        return Amount(self.entries + other.entries, self.count + other.count)


@attrs.define
class SpoolStats:
    """
    What has become of entries, since this process has opened the spool.
    """

    appended: Amount = attrs.field(factory=Amount)
    dropped: dict[str, Amount] = attrs.field(factory=dict)
    """Those that were never in it: ``full``, ``disk`` or ``size``."""
    acknowledged: dict[str, Amount] = attrs.field(factory=dict)
    """By group, of those that are read here."""
    lost: dict[str, dict[str, Amount]] = attrs.field(factory=dict)
    """By group, those that were in it and were never read: ``full`` or ``damaged``."""
    cut: int = 0
    """Ends of segments that were not whole, and are cut off."""
    damaged: int = 0
    """Damaged places that readers have passed over; each group counts them."""
    size: int = 0
    """Bytes of all segments."""
    segments: int = 0

    def copy(self) -> SpoolStats:
        """
        Give figures that do not change any more.
        """
        return attrs.evolve(
            self,
            appended=attrs.evolve(self.appended),
            dropped={why: attrs.evolve(each) for why, each in self.dropped.items()},
            acknowledged=dict(self.acknowledged),
            lost=dict(self.lost),
        )

    def add(self, consumer: SpoolConsumer) -> None:
        """
        Add what a consumer has counted.
        """
        group = consumer.group
        before = self.acknowledged.get(group, Amount())
        self.acknowledged[group] = before.plus(consumer.acknowledged)
        lost = self.lost.get(group, {})
        self.lost[group] = {
            why: lost.get(why, Amount()).plus(amount)
            for why, amount in consumer.lost.items()
        }
        self.damaged += consumer.damaged
        self.cut += consumer.cut
