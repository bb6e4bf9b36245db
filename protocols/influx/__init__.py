r"""
InfluxDB's line protocol in datagrams.

`influx` is the protocol: a datagram is a `Points` message of lines, each a point with
tags and fields. Nothing is answered. A line that cannot be read is kept as a `BadLine`
beside those that can. Timestamps count nanoseconds; `influx_us`, `influx_ms` and
`influx_s` are for senders that count in other units, since a line does not say. Over
TCP InfluxDB speaks HTTP, so there is nothing for streams here.

Specification: https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/.

>>> sent = Points.parse(b"cpu,host=web load=0.5,cores=4i,up=t 1700000000000000000\n")
>>> sent.lines[0].tags, sent.lines[0].fields
({'host': 'web'}, {'load': 0.5, 'cores': 4, 'up': True})
"""

from __future__ import annotations

from collections.abc import Iterator

from protocols.influx.points import FieldRow, Point, PointLines, Unsigned, rows_of
from protocols.lines import BadLine
from protoserve import Message, Protocol, wire

__all__ = [
    "BadLine",
    "FieldRow",
    "Point",
    "PointLines",
    "Points",
    "PointsInMicroseconds",
    "PointsInMilliseconds",
    "PointsInSeconds",
    "Unsigned",
    "influx",
    "influx_ms",
    "influx_s",
    "influx_us",
]


class Points(Message):
    """
    What one datagram holds.
    """

    lines: list[Point | BadLine] = wire(PointLines(), doc="one point a line")

    def rows(self) -> Iterator[FieldRow | BadLine]:
        """
        Give what a collector stores: a row for each field of each point.
        """
        for line in self.lines:
            yield from rows_of(line)


class PointsInMicroseconds(Points):
    """
    As `Points`, from a sender that counts microseconds.
    """

    lines: list[Point | BadLine] = wire(PointLines(1_000), doc="one point a line")


class PointsInMilliseconds(Points):
    """
    As `Points`, from a sender that counts milliseconds.
    """

    lines: list[Point | BadLine] = wire(PointLines(1_000_000), doc="one point a line")


class PointsInSeconds(Points):
    """
    As `Points`, from a sender that counts seconds.
    """

    lines: list[Point | BadLine] = wire(
        PointLines(1_000_000_000), doc="one point a line"
    )


def _protocol(name: str, message: type[Points], unit: str) -> Protocol:
    return Protocol(
        name,
        requests=message,
        ports={"udp": 8089},
        doc=f"InfluxDB's line protocol; timestamps in {unit}",
    )


influx = _protocol("influx", Points, "nanoseconds")
influx_us = _protocol("influx_us", PointsInMicroseconds, "microseconds")
influx_ms = _protocol("influx_ms", PointsInMilliseconds, "milliseconds")
influx_s = _protocol("influx_s", PointsInSeconds, "seconds")
