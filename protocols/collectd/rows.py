"""
Datagrams as rows: `values`, one row a value, and `notifications`.

What a part says holds for all parts behind it in the same datagram, until another
says otherwise. Nothing is carried from one datagram to the next.
"""
# ruff: noqa: RUF009 - what is called declares a column

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import attrs

from protocols.collectd.parts import Part, PartType, Severity, Values, ValueType
from protocols.texts import clean
from protoserve.telemetry.tables import column

__all__ = ["NotificationRow", "ValueRow", "rows_of"]

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_LAST = 9_223_372_036
"""Seconds that a timestamp of nanoseconds has room for."""


@attrs.define
class ValueRow:
    """
    A value.
    """

    __table__: ClassVar[str] = "values"

    host: str | None = column()
    time: dt.datetime | None = column()
    interval: float | None = column(unit="s", doc="until the next value")
    plugin: str | None = column()
    plugin_instance: str | None = column()
    type: str | None = column()
    type_instance: str | None = column()
    ds_index: int = column(doc="which of the type's data sources it is, from 0")
    ds_type: str = column(doc="counter, gauge, derive or absolute")
    value: float | None = column(doc="None: a gauge that is not known")
    verified: bool = column(doc="whether a signature or a password was checked")
    username: str | None = column(doc="who has signed or encrypted it")


@attrs.define
class NotificationRow:
    """
    A notification.
    """

    __table__: ClassVar[str] = "notifications"

    host: str | None = column()
    time: dt.datetime | None = column()
    plugin: str | None = column()
    plugin_instance: str | None = column()
    type: str | None = column()
    type_instance: str | None = column()
    severity: str | None = column(doc="failure, warning or okay")
    message: str = column()
    verified: bool = column(doc="whether a signature or a password was checked")
    username: str | None = column(doc="who has signed or encrypted it")


_NAMES: dict[int, str] = {
    PartType.HOST: "host",
    PartType.PLUGIN: "plugin",
    PartType.PLUGIN_INSTANCE: "plugin_instance",
    PartType.TYPE: "type",
    PartType.TYPE_INSTANCE: "type_instance",
}
_TYPES = {int(kind): kind.name.lower() for kind in ValueType}
_SEVERITIES = {int(kind): kind.name.lower() for kind in Severity}


def rows_of(
    parts: Iterable[Part], *, verified: bool = False, username: str | None = None
) -> Iterator[ValueRow | NotificationRow]:
    """
    Give the rows of a datagram's parts.

    Args:
        parts: in the order of the wire.
        verified: whether it was checked where they are from.
        username: who says that they are from him.
    """
    names: dict[str, Any] = dict.fromkeys(_NAMES.values())
    time: dt.datetime | None = None
    interval: float | None = None
    severity: str | None = None
    for part in parts:
        kind, value = part.type, part.value
        if kind == PartType.VALUES:
            for row in _values(value):
                yield ValueRow(
                    time=time,
                    interval=interval,
                    verified=verified,
                    username=username,
                    **names,
                    **row,
                )
        elif kind in _NAMES:
            names[_NAMES[kind]] = clean(value) or None
        elif kind == PartType.TIME:
            time = _moment(value << 30)
        elif kind == PartType.TIME_HR:
            time = _moment(value)
        elif kind == PartType.INTERVAL:
            interval = float(value)
        elif kind == PartType.INTERVAL_HR:
            interval = value / (1 << 30)
        elif kind == PartType.SEVERITY:
            severity = _SEVERITIES.get(value, str(value))
        elif kind == PartType.MESSAGE:
            yield NotificationRow(
                time=time,
                severity=severity,
                message=clean(value),
                verified=verified,
                username=username,
                **names,
            )


def _values(part: Values) -> Iterator[dict[str, Any]]:
    for index, (kind, value) in enumerate(zip(part.types, part.values, strict=True)):
        yield {
            "ds_index": index,
            "ds_type": _TYPES.get(kind, str(kind)),
            "value": None if math.isnan(value) else float(value),
        }


def _moment(ticks: int) -> dt.datetime | None:
    """
    Turn multiples of 2**-30 s since 1970 into a date; `None` where there is no room.
    """
    if ticks >> 30 >= _LAST:
        return None
    return _EPOCH + dt.timedelta(microseconds=ticks * 1_000_000 >> 30)
