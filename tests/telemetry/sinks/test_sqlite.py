"""
SQLite.
"""

import contextlib
import datetime as dt
import json
import sqlite3

import pyarrow as pa
import pytest

from protoserve.telemetry.sinks.base import SinkRefusedError, SinkUnavailableError
from protoserve.telemetry.sinks.registry import open_sink
from tests.telemetry.sinks.trials import MOMENT, Case, FileTrials, numbers


def read(path, query):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "readings.sqlite"


@pytest.fixture
def case(path):
    as_read = {
        "BOOLEAN": bool,
        "TIMESTAMP": dt.datetime.fromisoformat,
        "JSON": json.loads,
    }

    def read_back(table):
        described = read(path, f'pragma table_info("{table}")')
        rows = read(path, f'select * from "{table}"') if described else []
        return [
            {
                name: value if value is None else as_read.get(kind, lambda v: v)(value)
                for (_, name, kind, *_), value in zip(described, row, strict=True)
            }
            for row in rows
        ]

    @contextlib.contextmanager
    def away():
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("begin exclusive")
            yield

    return Case(
        f"sqlite:{path}?timeout=0.05", read_back, away, place=path, biggest=2**63 - 1
    )


class TestSQLite(FileTrials):
    pass


def test_integers_that_sqlite_does_not_know(case, path):
    """An integer above 63 bits is stored as the nearest double; others stay exact."""
    values = [2**64 - 1, 2**63 - 1, None]
    with case.opened() as sink:
        sink.store(numbers(*values, kind=pa.uint64()), ["a"])
    assert [(2.0**64, "real"), (2**63 - 1, "integer"), (None, "null")] == read(
        path, "select n, typeof(n) from readings"
    )


def test_what_columns_are(case, path):
    """Times are text that SQLite's functions read, lists JSON that its functions do."""
    moments = pa.array([MOMENT], pa.timestamp("ns", "UTC"))
    rows = pa.table({"received_at": moments, "path": [[64512, 64513]]})
    with case.opened() as sink:
        sink.store({"flows": rows}, ["a"])
    query = """
        select received_at, strftime('%s', received_at), json_extract(path, '$[1]')
        from flows"""
    expected = ("2026-11-22T16:30:01.123456000Z", str(int(MOMENT.timestamp())), 64513)
    assert [expected] == read(path, query)
    described = [row[2] for row in read(path, "pragma table_info(flows)")]
    assert ["TIMESTAMP", "JSON"] == described


def test_what_is_no_database(path):
    """A file that is something else is refused in one line, and left as it is."""
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(SinkRefusedError, match="not a database"):
        open_sink(str(path)).open()
    assert b"no database" * 1000 == path.read_bytes()


def test_a_damaged_file(case, path):
    """A file with a damaged page is refused in one line."""
    with case.opened() as sink:
        sink.store(numbers(*range(10_000)), ["a"])
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(range(256)) * 64)
    with pytest.raises(SinkRefusedError, match="malformed"), case.opened() as sink:
        sink.store(numbers(1), ["b"])


def test_a_folder_that_is_not_there(tmp_path):
    """A folder that may be mounted later is waited for."""
    with pytest.raises(SinkUnavailableError, match="unable to open"):
        open_sink(f"{tmp_path}/nowhere/x.sqlite").open()


def test_two_that_write(case):
    """Two sinks that write to one file know what the other has stored."""
    with case.opened() as one, case.opened() as other:
        one.store(numbers(1), ["a"])
        other.store(numbers(1), ["a"])
        other.store(numbers(2), ["b"])
        assert {"a", "b"} == one.known(["a", "b"])
    assert [1, 2] == [row["n"] for row in case.rows()]


def test_old_ids_are_forgotten(case, path):
    """Ids older than a week are deleted, so they do not gather without bound."""
    with case.opened() as sink:
        sink.store(numbers(1), ["old"])
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("update _protoserve_entries set at = at - 8 * 86400")
    with case.opened() as sink:
        sink.store(numbers(2), ["new"])
        assert {"new"} == sink.known(["old", "new"])
