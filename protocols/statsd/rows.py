"""
What a collector stores of StatsD: one row a value.
"""

# ruff: noqa: RUF009 - what is called declares a column

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import attrs

from protocols.statsd.lines import Event, Metric, ServiceCheck
from protoserve.telemetry.tables import column

__all__ = ["EventRow", "MetricRow", "ServiceCheckRow", "rows_of", "tags_of"]


@attrs.define
class MetricRow:
    """
    One value of a metric.
    """

    __table__: ClassVar[str] = "metrics"

    name: str = column(doc="the metric's name")
    value: float | None = column(doc="the value; null for a set")
    type: str = column(doc="c, g, ms, h, d or s")
    sample_rate: float = column(doc="the part of what happened that is sent")
    tags: dict[str, str] = column(doc="tags; one without a value has an empty text")
    relative: bool = column(doc="whether the value is added to the gauge")
    member: str | None = column(doc="what is put into a set")
    timestamp: int | None = column(doc="seconds since the epoch", unit="s")
    container: str | None = column(doc="the container that it comes from")


@attrs.define
class EventRow:
    """
    One event.
    """

    __table__: ClassVar[str] = "events"

    title: str = column(doc="the title")
    text: str = column(doc="the text")
    timestamp: int | None = column(doc="seconds since the epoch", unit="s")
    hostname: str | None = column(doc="the host")
    aggregation_key: str | None = column(doc="what groups events")
    priority: str | None = column(doc="normal or low")
    source_type: str | None = column(doc="what kind of source it is")
    alert_type: str | None = column(doc="error, warning, info or success")
    tags: dict[str, str] = column(doc="tags")
    container: str | None = column(doc="the container that it comes from")


@attrs.define
class ServiceCheckRow:
    """
    One service check.
    """

    __table__: ClassVar[str] = "service_checks"

    name: str = column(doc="the check's name")
    status: int = column(doc="0 good, 1 a warning, 2 critical, 3 unknown")
    timestamp: int | None = column(doc="seconds since the epoch", unit="s")
    hostname: str | None = column(doc="the host")
    message: str | None = column(doc="what is said about it")
    tags: dict[str, str] = column(doc="tags")
    container: str | None = column(doc="the container that it comes from")


def tags_of(tags: list[str]) -> dict[str, str]:
    """
    Give tags by name; the values of a name that is there twice have a comma between.

    >>> tags_of(["env:test", "web", "env:b"])
    {'env': 'test,b', 'web': ''}
    """
    found: dict[str, str] = {}
    for tag in tags:
        name, _, value = tag.partition(":")
        found[name] = f"{found[name]},{value}" if name in found else value
    return found


def rows_of(line: Any) -> Iterator[MetricRow | EventRow | ServiceCheckRow]:
    """
    Give a line's rows.
    """
    match line:
        case Metric():
            tags = tags_of(line.tags)
            for value in line.values or (None,):
                yield MetricRow(
                    line.name,
                    value,
                    line.type,
                    line.sample_rate,
                    tags,
                    line.relative,
                    line.member,
                    line.timestamp,
                    line.container,
                )
        case Event():
            yield EventRow(**_fields(line))
        case ServiceCheck():
            yield ServiceCheckRow(**_fields(line))
        case _:  # a bad line is a row as it is
            yield line


def _fields(line: Any) -> dict[str, Any]:
    found = attrs.asdict(line, recurse=False)
    del found["extensions"]
    return {**found, "tags": tags_of(line.tags)}
