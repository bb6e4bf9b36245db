"""
Parquet.
"""

import contextlib
import datetime as dt
import fcntl
import os
from collections import Counter

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from protoserve.telemetry.sinks import commits
from protoserve.telemetry.sinks.base import SinkRefusedError, SinkUnavailableError
from protoserve.telemetry.sinks.parquet import ParquetSink
from protoserve.telemetry.sinks.registry import open_sink
from tests.telemetry.sinks.trials import Case, DiskTrials, fail_to_commit, numbers


@contextlib.contextmanager
def locked(folder, monkeypatch):
    """
    Hold the lock of a journal, as a process does that was stopped.
    """
    with monkeypatch.context() as patch, (folder / "lock").open() as file:
        patch.setattr(commits, "_PATIENCE", 0.02)
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "readings"


@pytest.fixture
def case(folder, monkeypatch):
    def read_back(table):
        paths = sorted(folder.joinpath(table).rglob("*.parquet"))
        parts = [pq.ParquetFile(path).read() for path in paths]
        if not parts:
            return []
        table = pa.concat_tables(parts, promote_options="permissive")
        return table.to_pylist(maps_as_pydicts="strict")

    return Case(
        f"parquet:{folder}",
        read_back,
        lambda: locked(folder / "_protoserve", monkeypatch),
        place=folder,
    )


class TestParquet(DiskTrials):
    pass


def at(*hours):
    """
    Make rows that were received in some hours of the first of November.
    """
    moments = [dt.datetime(2026, 11, 1, hour, 59, 59, 0, dt.UTC) for hour in hours]
    times = pa.array(moments, pa.timestamp("ns", "UTC"))
    return {"flows": pa.table({"hour_of": hours, "received_at": times})}


def test_files_are_where_their_hour_says(case, folder):
    """Rows are parted by the hour, UTC, in which they were received."""
    with case.opened() as sink:
        sink.store(at(7, 23, 7), ["a"])
        sink.store(at(7), ["b"])
    found = Counter(path.parent for path in folder.rglob("*.parquet"))
    day = folder / "flows" / "date=2026-11-01"
    assert {day / "hour=07": 2, day / "hour=23": 1} == found


def test_anybody_reads_it(case, folder):
    """DuckDB reads the folder as one table, with the columns of the partition."""
    with case.opened() as sink:
        sink.store(at(7, 23), ["a"])
        more = at(8)["flows"].append_column("more", pa.array(["x"]))
        sink.store({"flows": more}, ["b"])
        query = f"""
            select date::varchar, hour, hour_of, more
            from read_parquet('{folder}/flows/**/*.parquet', union_by_name = true)
            order by hour"""
        with duckdb.connect() as connection:
            rows = connection.execute(query).fetchall()
    assert [
        ("2026-11-01", 7, 7, None),
        ("2026-11-01", 8, 8, "x"),
        ("2026-11-01", 23, 23, None),
    ] == [(date, int(hour), *rest) for date, hour, *rest in rows]


def test_docs_stay_with_the_columns(case, folder):
    """What a declaration says of a column is in the files."""
    said = {b"doc": b"octets", b"unit": b"B"}
    schema = pa.schema([pa.field("octets", pa.uint64(), metadata=said)])
    with case.opened() as sink:
        sink.store({"flows": pa.table({"octets": [1]}, schema)}, ["a"])
    (path,) = folder.rglob("*.parquet")
    assert said.items() <= pq.read_schema(path).field("octets").metadata.items()


def test_dictionaries_with_nulls_in_them(case):
    """Dictionaries of several kinds are one column of text, whatever is in them."""
    words = [["a", None], ["b", "a"], [None, "c"]]
    column = pa.chunked_array(
        pa.DictionaryArray.from_arrays(pa.array([1, 0, None], pa.int32()), each)
        for each in words
    )
    with case.opened() as sink:
        sink.store({"flows": pa.table({"word": column})}, ["a"])
    found = [row["word"] for row in case.rows("flows")]
    assert [None, "a", None, "a", "b", None, "c", None, None] == found


def test_a_crash_before_files_have_their_names(case, folder, monkeypatch):
    """Files that count but have not got their names get them when it is next opened."""
    with case.opened() as sink, monkeypatch.context() as patch:
        patch.setattr(ParquetSink, "_put", lambda *_: None)
        sink.store(at(7, 23), ["a"])
    assert [] == case.rows("flows")
    with case.opened() as sink:
        assert {"a"} == sink.known(["a"])
    assert [7, 23] == sorted(row["hour_of"] for row in case.rows("flows"))


def test_a_crash_before_files_count(case, folder, monkeypatch):
    """Files that do not count are never seen, and are deleted when they are old."""
    with case.opened() as sink, monkeypatch.context() as patch:
        patch.setattr(ParquetSink, "_discard", lambda *_: None)
        patch.setattr(commits.Commits, "commit", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sink.store(at(7), ["a"])
    with case.opened() as sink:
        assert set() == sink.known(["a"])
    (left,) = folder.joinpath("_protoserve", "temporary").iterdir()
    assert [] == list(folder.rglob("*.parquet"))
    os.utime(left, (0, 0))
    with case.opened():
        assert not left.exists()
    assert [] == case.rows("flows")


def test_two_that_write(case):
    """Two sinks in one folder know what the other has stored, and do it once."""
    with case.opened() as one, case.opened() as other:
        one.store(at(7), ["a"])
        assert {"a"} == other.known(["a"])
        other.store(at(7), ["a"])
        other.store(at(8), ["b"])
        with pytest.raises(SinkUnavailableError, match="1 of 2 entries"):
            one.store(at(8, 9), ["b", "c"])
        one.store(at(9), ["c"])
    assert [7, 8, 9] == sorted(row["hour_of"] for row in case.rows("flows"))


def test_a_file_that_is_damaged(case, folder, caplog):
    """A damaged file is nobody's trouble but its own: the one before tells the schema."""
    with case.opened() as sink:
        sink.store(numbers(1), ["a"])
        sink.store(numbers(2), ["b"])
    newest = max(folder.rglob("*.parquet"))
    newest.write_bytes(b"rubbish")
    with (
        case.opened() as sink,
        pytest.raises(SinkRefusedError, match="column n: expected int64"),
    ):
        sink.store(numbers("x", kind=pa.string()), ["c"])
    assert f"{newest}: cannot be read" in caplog.text
    newest.unlink()
    assert [{"n": 1}] == case.rows()


def test_what_is_no_folder(tmp_path):
    """A file where the folder should be is refused in one line."""
    (tmp_path / "x").touch()
    with pytest.raises(SinkRefusedError, match=r"x.*: Not a directory"):
        open_sink(f"parquet:{tmp_path}/x").open()


@pytest.mark.parametrize("how", ["none", "snappy"])
def test_compression(tmp_path, how):
    """Files are compressed as it was asked for."""
    sink = open_sink(f"parquet:{tmp_path}?compression={how}")
    sink.open()
    sink.store(numbers(1), ["a"])
    sink.close()
    (path,) = tmp_path.rglob("*.parquet")
    column = pq.read_metadata(path).row_group(0).column(0)
    assert how.replace("none", "uncompressed") == column.compression.lower()


def test_a_commit_that_fails(case, folder, monkeypatch):
    """Rows whose commit fails are not there, also when the same sink goes on."""
    fail_to_commit(case, monkeypatch)
    assert [] == list(folder.joinpath("_protoserve", "temporary").iterdir())


def test_what_parquet_does_not_know(case):
    """A type that Parquet has not is refused in one line."""
    rows = pa.table({"s": pa.array([{}], pa.struct([]))})
    with case.opened() as sink:
        with pytest.raises(SinkRefusedError, match="struct") as caught:
            sink.store({"readings": rows}, ["a"])
        assert "\n" not in str(caught.value)
        assert set() == sink.known(["a"])
