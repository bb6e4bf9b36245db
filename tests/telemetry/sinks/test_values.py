"""
Columns as values and as text.
"""

import datetime as dt
from decimal import Decimal

import pyarrow as pa
import pytest

from protoserve.telemetry.sinks.values import json_able, listed, text_of_times
from tests.running import ran


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


WITHOUT_PANDAS = """
import sys

class Missing:
    def find_spec(self, name, *_):
        if name == "pandas":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
import pyarrow as pa
from protoserve.telemetry.sinks.values import listed

moment = pa.timestamp("ns", "UTC")
for kind, values in (
    (moment, [1, None]),
    (pa.list_(moment), [[1, 2], None]),
    (pa.struct([("at", moment), ("n", pa.int8())]), [{"at": 1, "n": 2}]),
    (pa.map_(pa.string(), moment), [[("a", 1)]]),
):
    print(listed(pa.chunked_array([pa.array(values, kind)])))
"""


def test_times_without_pandas():
    """Nanoseconds are Python's microseconds, whether or not there is pandas."""
    done = ran(WITHOUT_PANDAS)
    assert 4 == done.stdout.count("\n")
    assert 5 == done.stdout.count("datetime.datetime(1970, 1, 1, 0, 0")
