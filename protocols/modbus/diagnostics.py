"""
The state of the device and its line: functions 7, 8, 11, 12 and 17.

The standard has them for serial lines; devices answer them on TCP all the same.
"""

from __future__ import annotations

import enum

from construct import Bytes, GreedyRange, Int8ub, Int16ub, this

from protocols.modbus.packing import amount
from protoserve import Message, Request, length_of, wire

__all__ = [
    "CommEventCounter",
    "CommEventLog",
    "Diagnostic",
    "Diagnostics",
    "DiagnosticsResult",
    "ExceptionStatus",
    "GetCommEventCounter",
    "GetCommEventLog",
    "ReadExceptionStatus",
    "ReportServerId",
    "ServerId",
]


class Diagnostic(enum.IntEnum):
    """
    What a `Diagnostics` asks for; section 6.8.1.
    """

    RETURN_QUERY_DATA = 0
    RESTART_COMMUNICATIONS = 1
    RETURN_DIAGNOSTIC_REGISTER = 2
    CHANGE_ASCII_DELIMITER = 3
    FORCE_LISTEN_ONLY = 4
    CLEAR_COUNTERS = 10
    RETURN_BUS_MESSAGE_COUNT = 11
    RETURN_BUS_ERROR_COUNT = 12
    RETURN_BUS_EXCEPTION_COUNT = 13
    RETURN_SERVER_MESSAGE_COUNT = 14
    RETURN_SERVER_NO_RESPONSE_COUNT = 15
    RETURN_SERVER_NAK_COUNT = 16
    RETURN_SERVER_BUSY_COUNT = 17
    RETURN_OVERRUN_COUNT = 18
    CLEAR_OVERRUN_COUNTER = 20


class ExceptionStatus(Message):
    """
    Eight outputs whose meaning is the device's own; section 6.7.
    """

    status: int = wire(Int8ub, doc="the first output is the lowest bit")


class ReadExceptionStatus(Request[ExceptionStatus], idempotent=True):
    """
    Function 7, section 6.7.
    """


class DiagnosticsResult(Message):
    """
    The request's echo, or the number asked for; section 6.8.
    """

    diagnostic: Diagnostic | int = wire(Int16ub, enum=Diagnostic)
    data: list[int] = wire(GreedyRange(Int16ub), factory=list)


class Diagnostics(Request[DiagnosticsResult]):
    """
    Function 8, section 6.8.
    """

    diagnostic: Diagnostic | int = wire(Int16ub, enum=Diagnostic)
    data: list[int] = wire(GreedyRange(Int16ub), factory=lambda: [0])


class CommEventCounter(Message):
    """
    How many messages were completed; section 6.9.
    """

    status: int = wire(Int16ub, doc="0xFFFF while a program command is in progress")
    event_count: int = wire(Int16ub)


class GetCommEventCounter(Request[CommEventCounter], idempotent=True):
    """
    Function 11, section 6.9.
    """


class CommEventLog(Message):
    """
    The counters and the last events, the newest first; section 6.10.
    """

    byte_count: int = wire(Int8ub, value=length_of("status", "events"))
    status: int = wire(Int16ub, doc="0xFFFF while a program command is in progress")
    event_count: int = wire(Int16ub)
    message_count: int = wire(Int16ub)
    events: bytes = wire(Bytes(this.byte_count - 6), validator=amount(0, 64))


class GetCommEventLog(Request[CommEventLog], idempotent=True):
    """
    Function 12, section 6.10.
    """


class ServerId(Message):
    """
    What the device says it is, and whether it runs; section 6.13.
    """

    byte_count: int = wire(Int8ub, value=length_of("data"))
    data: bytes = wire(
        Bytes(this.byte_count),
        doc="the device's id, 0x00 (off) or 0xFF (on), and more; its own layout",
    )


class ReportServerId(Request[ServerId], idempotent=True):
    """
    Function 17, section 6.13.
    """
