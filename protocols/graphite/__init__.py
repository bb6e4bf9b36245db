r"""
Graphite: a path, a value and a moment, as lines of text or pickled.

`graphite` is the plaintext protocol, over UDP and TCP: a datagram is a `Metrics`
message of lines, over TCP each line is one of its own. `graphite_pickle` is what
carbon's relays speak to each other over TCP: `PickledMetrics`, whose pickle is read
by a reader that knows numbers, text, lists and tuples and nothing else, so that no
pickle can run anything. Nothing is answered in either.

Specifications: https://graphite.readthedocs.io/en/latest/feeding-carbon.html,
https://graphite.readthedocs.io/en/latest/tags.html.

>>> sent = Metrics.parse(b"disk.used;host=web 42.5 1700000000\n")
>>> sent.lines[0].path, sent.lines[0].value, sent.lines[0].tags
('disk.used', 42.5, {'host': 'web'})
"""

from __future__ import annotations

from collections.abc import Iterator

from construct import Int32ub

from protocols.graphite.metrics import Metric, MetricLines
from protocols.graphite.pickles import PickledList
from protocols.lines import BadLine
from protoserve import Delimited, LengthPrefixed, Message, Protocol, wire

__all__ = [
    "BadLine",
    "Metric",
    "MetricLines",
    "Metrics",
    "PickledList",
    "PickledMetrics",
    "graphite",
    "graphite_pickle",
]


class Metrics(Message):
    """
    Lines of the plaintext protocol.
    """

    lines: list[Metric | BadLine] = wire(MetricLines(), doc="one metric a line")

    def rows(self) -> Iterator[Metric | BadLine]:
        """
        Give what a collector stores: a row for each line.
        """
        return iter(self.lines)


class PickledMetrics(Message):
    """
    A pickled list of metrics.
    """

    metrics: list[Metric] = wire(PickledList(), doc="(path, (timestamp, value)), …")

    def rows(self) -> Iterator[Metric]:
        """
        Give what a collector stores: a row for each metric.
        """
        return iter(self.metrics)


graphite = Protocol(
    "graphite",
    # As much as a datagram has; `Lines.longest` caps the lines.
    framing=Delimited((b"\n", b"\r\n"), max_size=65_535, accept_unterminated=True),
    requests=Metrics,
    ports={"udp": 2003, "tcp": 2003},
    doc="Graphite's plaintext protocol",
)

graphite_pickle = Protocol(
    "graphite_pickle",
    # carbon's own limit
    framing=LengthPrefixed(Int32ub, max_size=1 << 20),
    requests=PickledMetrics,
    ports={"tcp": 2004},
    doc="Graphite's pickle protocol",
)
