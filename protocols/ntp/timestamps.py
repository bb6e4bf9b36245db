"""
NTP's fixed-point times, as plain integers with conversions beside them.

Fields of messages hold the integer of the wire, so that nothing is lost and a
timestamp that is echoed is echoed exactly. A timestamp counts 2**-32 s since
1900-01-01 00:00 UTC and wraps every 136 years (RFC 5905 section 6); a short time
counts 2**-16 s. The value 0 means that a time is not known.

The era is not on the wire. It is taken from a *pivot*, the moment that the result
shall be nearest to. The default pivot is the end of era 0 on 2036-02-07, by which
timestamps are read as 1968-01-20 to 2104-02-26: the convention of RFC 4330
section 3, which looks at the first bit. Differences need no era.
"""

from __future__ import annotations

import datetime as dt

__all__ = [
    "PIVOT",
    "difference",
    "from_datetime",
    "from_unix",
    "from_unix_ns",
    "offset_and_delay",
    "short_from_seconds",
    "short_to_seconds",
    "to_datetime",
    "to_unix",
    "to_unix_ns",
]

_UNIX_EPOCH = 2_208_988_800
"""Seconds from 1900-01-01 to 1970-01-01 (RFC 5905 figure 4)."""

_ERA = 1 << 64
_NANOSECONDS = 10**9

PIVOT = (1 << 32) - _UNIX_EPOCH
"""The start of era 1, 2036-02-07 06:28:16 UTC, in seconds since 1970."""

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def to_unix_ns(timestamp: int, *, pivot: float = PIVOT) -> int:
    """
    Convert a timestamp to UNIX time.

    Args:
        timestamp: in 2**-32 s, 0 to 2**64 - 1.
        pivot: what the result shall be nearest to, in seconds since 1970.

    Returns:
        Nanoseconds since 1970, rounded to the nearest.
    """
    near = from_unix(pivot)
    ahead = _signed(timestamp - near)
    exact = round(pivot * (1 << 32)) + ahead
    return (exact * _NANOSECONDS + (1 << 31)) >> 32


def from_unix_ns(nanoseconds: int) -> int:
    """
    Convert UNIX time to a timestamp.

    Args:
        nanoseconds: since 1970; any era, before 1970 too.

    Returns:
        The timestamp in 2**-32 s, rounded to the nearest. `to_unix_ns` gives the
        very same nanosecond back.

    >>> hex(from_unix_ns(1_497_883_632_000_000_000))
    '0xdcf2627000000000'
    """
    since_1900 = nanoseconds + _UNIX_EPOCH * _NANOSECONDS
    return ((since_1900 << 32) + _NANOSECONDS // 2) // _NANOSECONDS % _ERA


def to_unix(timestamp: int, *, pivot: float = PIVOT) -> float:
    """
    Convert a timestamp to UNIX time as `time.time` gives it.

    Args:
        timestamp: in 2**-32 s, 0 to 2**64 - 1.
        pivot: what the result shall be nearest to, in seconds since 1970.

    Returns:
        Seconds since 1970; a float holds some 0.2 µs of it today.
    """
    return to_unix_ns(timestamp, pivot=pivot) / _NANOSECONDS


def from_unix(seconds: float) -> int:
    """
    Convert UNIX time as `time.time` gives it to a timestamp.

    Args:
        seconds: since 1970; any era, before 1970 too.

    Returns:
        The timestamp in 2**-32 s.

    >>> hex(from_unix(0.5))
    '0x83aa7e8080000000'
    """
    return (round(seconds * (1 << 32)) + (_UNIX_EPOCH << 32)) % _ERA


def to_datetime(timestamp: int, *, pivot: float = PIVOT) -> dt.datetime:
    """
    Convert a timestamp to a date, for people.

    Args:
        timestamp: in 2**-32 s, 0 to 2**64 - 1.
        pivot: what the result shall be nearest to, in seconds since 1970.

    Returns:
        The UTC date, cut to microseconds.

    >>> str(to_datetime(0xDCF2627080000000))
    '2017-06-19 14:47:12.500000+00:00'
    """
    microseconds = to_unix_ns(timestamp, pivot=pivot) // 1000
    return _EPOCH + dt.timedelta(microseconds=microseconds)


def from_datetime(date: dt.datetime) -> int:
    """
    Convert a date to a timestamp.

    Args:
        date: with a time zone.

    Returns:
        The timestamp in 2**-32 s.

    Raises:
        ValueError: the date has no time zone, so it is no moment.
    """
    if date.tzinfo is None:
        raise ValueError(f"expected a date with a time zone, got {date!r}")
    microseconds = (date - _EPOCH) // dt.timedelta(microseconds=1)
    return from_unix_ns(microseconds * 1000)


def short_to_seconds(short: int) -> float:
    """
    Convert a short time (root delay, root dispersion) to seconds.

    Args:
        short: in 2**-16 s, 0 to 2**32 - 1.

    Returns:
        Seconds, exactly.

    >>> short_to_seconds(0x00018000)
    1.5
    """
    return short / (1 << 16)


def short_from_seconds(seconds: float) -> int:
    """
    Convert seconds to a short time.

    Args:
        seconds: 0 to 65535.99998.

    Returns:
        The short time in 2**-16 s, rounded to the nearest.

    Raises:
        ValueError: it is negative or too long.
    """
    short = round(seconds * (1 << 16))
    if not 0 <= short < 1 << 32:
        raise ValueError(f"expected 0 to 65535.99998 seconds, got {seconds!r}")
    return short


def difference(later: int, earlier: int) -> float:
    """
    Subtract timestamps, across the end of an era too.

    Args:
        later: in 2**-32 s.
        earlier: in 2**-32 s, less than 68 years away.

    Returns:
        Seconds; negative if `later` is earlier.

    Source: RFC 5905 section 6.

    >>> difference(0x0000000080000000, 0xFFFFFFFF80000000)
    1.0
    """
    return _signed(later - earlier) / (1 << 32)


def offset_and_delay(
    origin: int, receive: int, transmit: int, destination: int
) -> tuple[float, float]:
    """
    Work out what one exchange says about the server's clock.

    Args:
        origin: when the request left, by the client's clock, in 2**-32 s.
        receive: when it came to the server, by the server's clock.
        transmit: when the response left, by the server's clock.
        destination: when it came to the client, by the client's clock.

    Returns:
        How far the server's clock is ahead, and how long the way there and back
        took, both in seconds.

    Source: RFC 5905 section 8.
    """
    there = difference(receive, origin)
    back = difference(transmit, destination)
    return (there + back) / 2, there - back


def _signed(steps: int) -> int:
    """
    Bring a difference of timestamps to half an era on either side.
    """
    return (steps + _ERA // 2) % _ERA - _ERA // 2
