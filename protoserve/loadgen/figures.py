"""
What is measured: how many answers, how late, and what went wrong.

While it runs, times are counted by the microsecond, or by three digits where they are
longer, which is one dictionary access an answer. Afterwards an HDR histogram is made
of the counts, which answers for the percentiles.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs

__all__ = ["PERCENTILES", "Figures", "Second", "Times", "histogram"]

PERCENTILES = (50.0, 75.0, 90.0, 99.0, 99.9, 99.99)
_LONGEST = 3_600_000_000
"""Microseconds that a histogram can hold; longer times count as this."""

Times = dict[int, int]
"""How often an answer took so many microseconds."""


@attrs.frozen
class Second:
    """
    What was measured in a short time, a second or less.
    """

    at: float
    """Seconds since measuring began, at its end."""
    length: float
    """Seconds."""
    sent: int
    answered: int
    errors: int
    p50: float
    """Seconds; 0 if nothing was answered."""
    p99: float


@attrs.define
class Figures:
    """
    All that was measured.
    """

    seconds: float = 0.0
    """How long was measured."""
    sent: int = 0
    answered: int = 0
    """Requests that were answered; by an error response, too."""
    bytes_sent: int = 0
    bytes_received: int = 0
    errors: Counter[str] = attrs.field(factory=Counter)
    """What went wrong, by kind."""
    unsent: int = 0
    """In an open loop: requests that were due, but could not be sent in time."""
    late: int = 0
    """Answers that came after their request had been given up, or for none."""
    times: Times = attrs.field(factory=dict, repr=False)
    course: list[Second] = attrs.field(factory=list, repr=False)
    """How it went, in order."""

    @property
    def rate(self) -> float:
        """
        Answers a second.
        """
        return self.answered / self.seconds if self.seconds else 0.0

    @property
    def failed(self) -> int:
        """
        How much went wrong.
        """
        return sum(self.errors.values()) + self.unsent

    def percentile(self, percent: float) -> float:
        """
        Give the time that this part of the answers took at most, in seconds.
        """
        return percentile(self.times, percent)

    def as_plain(self) -> dict[str, Any]:
        """
        Give it in terms of JSON; times are in seconds.
        """
        made = histogram(self.times)
        latency = {
            "min": made.get_min_value() / 1e6,
            "mean": made.get_mean_value() / 1e6,
            **{f"p{p:g}": made.get_value_at_percentile(p) / 1e6 for p in PERCENTILES},
            "max": made.get_max_value() / 1e6,
        }
        return {
            "seconds": round(self.seconds, 6),
            "sent": self.sent,
            "answered": self.answered,
            "rate": round(self.rate, 3),
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
            "latency": latency if self.answered else None,
            "errors": dict(self.errors),
            "unsent": self.unsent,
            "late": self.late,
        }


def shortened(microseconds: int) -> int:
    """
    Round a time so that there are not too many different ones.

    >>> [shortened(number) for number in (9_999, 123_456, 7_654_321)]
    [9999, 123400, 7650000]
    """
    if microseconds < 10_000:
        return microseconds
    unit = 100 if microseconds < 1_000_000 else 10_000
    return microseconds - microseconds % unit


def percentile(times: Times, percent: float) -> float:
    """
    Give the time that some percent of the answers took at most, in seconds.
    """
    left = sum(times.values()) * percent / 100
    for time in sorted(times):
        left -= times[time]
        if left <= 0:
            return time / 1e6
    return 0.0


def histogram(times: Times) -> Any:
    """
    Make an `hdrh.histogram.HdrHistogram` of microseconds, to three digits.

    Raises:
        ModuleNotFoundError: the library is not there.
    """
    from hdrh.histogram import HdrHistogram

    made = HdrHistogram(1, _LONGEST, 3)
    for time, count in times.items():
        made.record_value(min(max(time, 1), _LONGEST), count)
    return made
