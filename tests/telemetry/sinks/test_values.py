"""
Columns as values and as text.
"""

import datetime as dt
from decimal import Decimal

import pyarrow as pa
import pytest

from protoserve.telemetry.sinks.values import json_able, listed, text_of_times


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (pa.timestamp("ns", "UTC"), "1970-01-01T00:00:01.000000000Z"),
        (pa.timestamp("us", "Europe/Berlin"), "1970-01-01T00:00:01.000000Z"),
        (pa.timestamp("s"), "1970-01-01T00:00:01"),
    ],
)
def test_times(kind, text):
    """Points in time are written in UTC; those without a zone have none."""
    second = {"s": 1, "us": 10**6, "ns": 10**9}[kind.unit]
    column = pa.chunked_array([pa.array([second, None], kind)])
    assert [text, None] == text_of_times(column).to_pylist()


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        (2**64, 2**64),
        (float("nan"), None),
        (float("-inf"), None),
        (b"\x00\xff", "00ff"),
        (Decimal(2**64), 2**64),
        (Decimal("1.5"), 1.5),
        (dt.date(2026, 11, 22), "2026-11-22"),
        (dt.time(1, 2, 3), "01:02:03"),
        ([{"a": b"\x01"}, float("inf")], [{"a": "01"}, None]),
    ],
    ids=repr,
)
def test_what_json_knows(value, plain):
    """What JSON has not is text, or null."""
    assert plain == json_able(value)


def test_columns():
    """A column's values are Python's, whether some are missing or none."""
    whole = pa.chunked_array([[1, 2], [3]], pa.uint64())
    assert [1, 2, 3] == listed(whole)
    assert [int] * 3 == [type(value) for value in listed(whole)]
    assert [1, None] == listed(pa.chunked_array([[1, None]]))
    assert [] == listed(pa.chunked_array([], pa.float64()))
