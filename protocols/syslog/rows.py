"""
What a collector stores of an entry.
"""

# ruff: noqa: RUF009 - what is called declares a column

from __future__ import annotations

from typing import ClassVar

import attrs

from protocols.syslog.entries import Entry
from protoserve.telemetry.tables import column

__all__ = ["LogRow", "row_of"]


@attrs.define
class LogRow:
    """
    One entry.
    """

    __table__: ClassVar[str] = "logs"

    facility: int | None = column(doc="0 to 23; null: it had no priority")
    severity: int | None = column(doc="0 (emergency) to 7 (debug)")
    hostname: str | None = column(doc="the host that it names")
    app_name: str | None = column(doc="the application; in RFC 3164 the tag")
    procid: str | None = column(doc="the process")
    msgid: str | None = column(doc="the kind of message")
    message: str = column(doc="the message")
    timestamp: str | None = column(doc="the time, as it was sent")
    structured_data: dict[str, str] = column(doc="values by 'id.name'")
    version: int | None = column(doc="1: RFC 5424; null: RFC 3164")
    sequence: int | None = column(doc="the number that Cisco's devices send")


def row_of(entry: Entry) -> LogRow:
    """
    Give an entry's row; values of one name have a comma between them.
    """
    data: dict[str, str] = {}
    for element in entry.structured_data:
        if not element.params:
            data.setdefault(element.id, "")
        for name, value in element.params:
            key = f"{element.id}.{name}"
            data[key] = f"{data[key]},{value}" if key in data else value
    return LogRow(
        entry.facility,
        entry.severity,
        entry.hostname,
        entry.app_name,
        entry.procid,
        entry.msgid,
        entry.message,
        entry.timestamp,
        data,
        entry.version,
        entry.sequence,
    )
