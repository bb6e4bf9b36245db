"""
What an entry of a log has.
"""

from __future__ import annotations

import enum

import attrs

__all__ = ["Element", "Entry", "Facility", "Severity"]


class Facility(enum.IntEnum):
    """
    What part of a system it is about (RFC 5424 section 6.2.1).
    """

    KERN = 0
    USER = 1
    MAIL = 2
    DAEMON = 3
    AUTH = 4
    SYSLOG = 5
    LPR = 6
    NEWS = 7
    UUCP = 8
    CRON = 9
    AUTHPRIV = 10
    FTP = 11
    NTP = 12
    AUDIT = 13
    ALERT = 14
    CLOCK = 15
    LOCAL0 = 16
    LOCAL1 = 17
    LOCAL2 = 18
    LOCAL3 = 19
    LOCAL4 = 20
    LOCAL5 = 21
    LOCAL6 = 22
    LOCAL7 = 23


class Severity(enum.IntEnum):
    """
    How bad it is (RFC 5424 section 6.2.1).
    """

    EMERG = 0
    ALERT = 1
    CRIT = 2
    ERR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6
    DEBUG = 7


@attrs.define
class Element:
    """
    One element of structured data (RFC 5424 section 6.3).
    """

    id: str
    """As in ``origin`` or ``name@32473``."""
    params: list[list[str]] = attrs.field(factory=list)
    """Pairs of name and value; a name may be there more than once."""


@attrs.define
class Entry:
    """
    One entry. What is not there is `None`.
    """

    message: str = ""
    facility: Facility | None = Facility.USER
    """`None`, as the severity: it began with no priority."""
    severity: Severity | None = Severity.NOTICE
    version: int | None = 1
    """1: RFC 5424. `None`: as in RFC 3164."""
    timestamp: str | None = None
    """As it was sent; without a year, and in the sender's time zone, in RFC 3164."""
    hostname: str | None = None
    app_name: str | None = None
    """In RFC 3164 the tag."""
    procid: str | None = None
    msgid: str | None = None
    structured_data: list[Element] = attrs.field(factory=list)
    sequence: int | None = None
    """The number that Cisco's devices put before everything else."""
