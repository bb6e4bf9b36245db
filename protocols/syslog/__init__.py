r"""
Syslog, as RFC 5424 has it and as RFC 3164 describes what there was before.

`syslog` is the protocol, over UDP (RFC 5426), TCP and TLS. A frame is a `Log` with one
`Entry`: facility, severity, time, host, application, process, message id, structured
data and message, as far as they are there. Over TCP both of RFC 6587's framings are
taken, told apart frame by frame. Nothing is answered.

Anything that does not claim to be of RFC 5424 is taken, as RFC 3164 section 4.3.3 asks:
what is not recognised stands in the message. Malformed is only what says that it is
version 1 and then is not, and a datagram with nothing in it.

>>> Log.parse(b"<34>Oct 11 22:14:15 mymachine su: 'su root' failed").entry.hostname
'mymachine'
>>> bytes(Log(Entry("hello", app_name="test", hostname="web")))
b'<13>1 - web test - - - hello'
"""

from __future__ import annotations

from collections.abc import Iterator

from protocols.syslog.entries import Element, Entry, Facility, Severity
from protocols.syslog.framing import SyslogFraming
from protocols.syslog.rows import LogRow, row_of
from protocols.syslog.text import EntryText
from protoserve import Message, Protocol, wire

__all__ = [
    "Element",
    "Entry",
    "EntryText",
    "Facility",
    "Log",
    "LogRow",
    "Severity",
    "SyslogFraming",
    "syslog",
]


class Log(Message):
    """
    One entry of a log.
    """

    entry: Entry = wire(EntryText(), doc="what was logged")

    def rows(self) -> Iterator[LogRow]:
        """
        Give what a collector stores.
        """
        yield row_of(self.entry)


syslog = Protocol(
    "syslog",
    framing=SyslogFraming(),
    requests=Log,
    ports={"udp": 514, "tcp": 514, "tls": 6514},
    doc="Syslog (RFC 5424, RFC 3164)",
)
