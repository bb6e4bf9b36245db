"""
StatsD: counters, gauges, timers and sets as lines of text, over UDP and TCP.

`statsd` is the protocol. A datagram is a `Metrics` message of lines: metrics, and what
DogStatsD has added to them (tags, events, service checks, several values a line,
timestamps). Nothing is answered. A line that cannot be read is kept as a `BadLine`
beside those that can. Over TCP each line is a message of its own.

Specifications: https://github.com/statsd/statsd/blob/master/docs/metric_types.md,
https://docs.datadoghq.com/developers/dogstatsd/datagram_shell (protocol 1.0 to 1.4).

>>> sent = Metrics.parse(b"page.views:1|c|@0.5|#env:test")
>>> sent.lines[0].values, sent.lines[0].sample_rate, sent.lines[0].tags
([1.0], 0.5, ['env:test'])
"""

from __future__ import annotations

from collections.abc import Iterator

from protocols.lines import BadLine
from protocols.statsd.lines import (
    TYPES,
    Event,
    Metric,
    MetricLines,
    ServiceCheck,
)
from protocols.statsd.rows import EventRow, MetricRow, ServiceCheckRow, rows_of
from protoserve import Delimited, Message, Protocol, wire

__all__ = [
    "TYPES",
    "BadLine",
    "Event",
    "EventRow",
    "Metric",
    "MetricLines",
    "MetricRow",
    "Metrics",
    "ServiceCheck",
    "ServiceCheckRow",
    "statsd",
]


class Metrics(Message):
    """
    What one datagram holds.
    """

    lines: list[Metric | Event | ServiceCheck | BadLine] = wire(
        MetricLines(), doc="metrics, events and service checks"
    )

    def rows(self) -> Iterator[MetricRow | EventRow | ServiceCheckRow]:
        """
        Give what a collector stores: a row for each value, event and check.
        """
        for line in self.lines:
            yield from rows_of(line)


statsd = Protocol(
    "statsd",
    # As much as a datagram has; `Lines.longest` caps the lines.
    framing=Delimited((b"\n", b"\r\n"), max_size=65_535, accept_unterminated=True),
    requests=Metrics,
    ports={"udp": 8125, "tcp": 8125},
    doc="StatsD and DogStatsD metrics",
)
