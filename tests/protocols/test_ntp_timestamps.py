"""
NTP's times as integers, seconds and dates.
"""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.ntp import timestamps

YEAR = 366 * 86400


@pytest.mark.parametrize(
    ("date", "era", "seconds"),
    [
        # RFC 5905 figure 4
        ("1900-01-01", 0, 0),
        ("1970-01-01", 0, 2_208_988_800),
        ("1972-01-01", 0, 2_272_060_800),
        ("1999-12-31", 0, 3_155_587_200),
        ("2036-02-08", 1, 63_104),
        ("1899-12-31", -1, 4_294_880_896),
    ],
)
def test_dates_of_the_specification(date, era, seconds):
    """
    The dates of RFC 5905 figure 4 have the numbers that it gives, in any era.
    """
    moment = dt.datetime.fromisoformat(f"{date}T00:00:00+00:00")
    timestamp = timestamps.from_datetime(moment)
    assert seconds << 32 == timestamp
    pivot = moment.timestamp() + YEAR
    assert moment == timestamps.to_datetime(timestamp, pivot=pivot)


@pytest.mark.parametrize(
    ("timestamp", "date"),
    [
        (0x80000000_00000000, "1968-01-20T03:14:08+00:00"),
        (0xFFFFFFFF_FFFFFFFF, "2036-02-07T06:28:16+00:00"),
        (0x00000000_00000000, "2036-02-07T06:28:16+00:00"),
        (0x7FFFFFFF_80000000, "2104-02-26T09:42:23.500000+00:00"),
    ],
)
def test_era_by_default(timestamp, date):
    """
    The first bit tells the era, as in RFC 4330 section 3.
    """
    assert date == timestamps.to_datetime(timestamp).isoformat()


@given(st.integers(-(2**62), 2**62))
def test_nanoseconds_round_trip(nanoseconds):
    """
    A timestamp holds a nanosecond, in every era.
    """
    timestamp = timestamps.from_unix_ns(nanoseconds)
    assert 0 <= timestamp < 2**64
    again = timestamps.to_unix_ns(timestamp, pivot=nanoseconds / 1e9)
    assert nanoseconds == again


@given(st.floats(0, 4e9))
def test_seconds_round_trip(seconds):
    """
    Seconds come back to within what a float of that size holds.
    """
    again = timestamps.to_unix(timestamps.from_unix(seconds), pivot=2e9)
    assert again == pytest.approx(seconds, rel=1e-15, abs=1e-9)


@given(st.integers(0, 130 * YEAR * 10**6))
def test_dates_round_trip(microseconds):
    """
    A date comes back to the microsecond.
    """
    date = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(
        microseconds=microseconds
    )
    assert date == timestamps.to_datetime(timestamps.from_datetime(date))


def test_date_without_zone():
    """
    A date without a time zone is no moment.
    """
    with pytest.raises(ValueError, match="time zone"):
        timestamps.from_datetime(dt.datetime.fromisoformat("2026-01-01"))


@pytest.mark.parametrize(
    ("seconds", "short"),
    [(0, 0), (1.5, 0x18000), (2**-16, 1), (0.155502, 10191), (65535.99998, 0xFFFFFFFF)],
)
def test_short(seconds, short):
    """
    Short times count 2**-16 s.
    """
    assert short == timestamps.short_from_seconds(seconds)
    assert timestamps.short_to_seconds(short) == pytest.approx(seconds, abs=2**-17)


@pytest.mark.parametrize("seconds", [-1, 65536])
def test_short_out_of_range(seconds):
    """
    What does not fit is refused.
    """
    with pytest.raises(ValueError, match="65535"):
        timestamps.short_from_seconds(seconds)


@given(st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1))
def test_difference(earlier, steps):
    """
    A difference is right across the end of an era.
    """
    later = (earlier + steps) % 2**64
    assert steps / 2**32 == timestamps.difference(later, earlier)


def test_offset_and_delay():
    """
    The formulas of RFC 5905 section 8, with the server one second ahead.
    """
    start = 2**64 - 2**31  # the era ends on the way
    ahead = 1 << 32
    there, inside, back = 1 << 30, 1 << 29, 1 << 30
    times = (start, start + there + ahead, start + there + inside + ahead,
             start + there + inside + back)  # fmt: skip
    offset, delay = timestamps.offset_and_delay(*(t % 2**64 for t in times))
    assert offset == 1.0
    assert delay == 0.5
