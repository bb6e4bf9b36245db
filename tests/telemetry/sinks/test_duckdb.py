"""
DuckDB.
"""

import contextlib
import subprocess
import sys

import duckdb
import pyarrow as pa
import pytest

from protoserve.telemetry.sinks.base import SinkRefusedError, SinkUnavailableError
from protoserve.telemetry.sinks.registry import open_sink
from tests.telemetry.sinks.trials import MOMENT, Case, FileTrials, numbers

HOLDER = """
import duckdb, sys
connection = duckdb.connect(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def read(path, query):
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.sql(query).to_arrow_table()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "readings.duckdb"


@pytest.fixture
def case(path):
    def read_back(table):
        with duckdb.connect(str(path), read_only=True) as connection:
            names = {row[0] for row in connection.execute("show tables").fetchall()}
            if table not in names:
                return []
            rows = connection.sql(f'from "{table}"').to_arrow_table()
        return rows.to_pylist(maps_as_pydicts="strict")

    @contextlib.contextmanager
    def away():
        with subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert "held\n" == process.stdout.readline()
            yield
            process.stdin.close()

    return Case(f"duckdb:{path}", read_back, away, place=path)


class TestDuckDB(FileTrials):
    pass


def test_the_file_of_another_process(case, path):
    """A file that another process has open is unavailable; the error says whose it is."""
    with case.opened() as sink:
        sink.store(numbers(1), ["a"])
    with case.away(), pytest.raises(SinkUnavailableError, match=r"\(PID \d+\)"):
        case.make().open()


def test_a_file_that_is_not_held(case, path):
    """With hold=no others have the file between stores; while they do, it is away."""
    sink = open_sink(f"{path}?hold=no")
    sink.open()
    sink.store(numbers(1), ["a"])
    with case.away(), pytest.raises(SinkUnavailableError, match=r"\(PID \d+\)"):
        sink.store(numbers(2), ["b"])
    assert [{"n": 1}] == case.rows()
    assert {"a"} == sink.known(["a", "b"])
    sink.store(numbers(2), ["b"])
    assert [{"n": 1}, {"n": 2}] == case.rows()
    sink.close()


def test_what_is_no_database(path):
    """A file that is something else is refused in one line, and left as it is."""
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(SinkRefusedError, match="not a valid DuckDB database") as caught:
        open_sink(str(path)).open()
    assert "\n" not in str(caught.value)
    assert b"no database" * 1000 == path.read_bytes()


def test_a_folder_that_is_not_there(tmp_path):
    """A folder that may be mounted later is waited for."""
    with pytest.raises(SinkUnavailableError, match="No such file"):
        open_sink(f"{tmp_path}/nowhere/x.duckdb").open()


def test_a_damaged_file(case, path):
    """A file whose first pages are damaged is refused in one line."""
    with case.opened() as sink:
        sink.store(numbers(*range(100_000)), ["a"])
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(range(256)) * 64)
    with pytest.raises(SinkRefusedError) as caught, case.opened() as sink:
        sink.store(numbers(1), ["b"])
    assert "\n" not in str(caught.value)


def test_what_columns_are(case, path):
    """Columns have DuckDB's own types; what the declaration says of them is a comment."""
    said = {"doc": "it's octets", "unit": "B"}
    schema = pa.schema(
        [
            pa.field("octets", pa.uint64(), metadata=said),
            pa.field("received_at", pa.timestamp("ns", "UTC")),
            pa.field("tags", pa.map_(pa.string(), pa.string())),
        ]
    )
    rows = pa.table(
        {"octets": [1], "received_at": [MOMENT], "tags": [{"a": "b"}]}, schema
    )
    with case.opened() as sink:
        sink.store({"flows": rows}, ["a"])
    query = (
        "select column_name, data_type, comment from duckdb_columns() "
        "where table_name = 'flows' order by column_index"
    )
    assert [
        ("octets", "UBIGINT", "it's octets [B]"),
        ("received_at", "TIMESTAMP WITH TIME ZONE", None),
        ("tags", "MAP(VARCHAR, VARCHAR)", None),
    ] == [tuple(row.values()) for row in read(path, query).to_pylist()]


def test_structs_and_lists_are_widened(case):
    """A struct that gets a field, and a list of longer numbers, widen their columns."""
    with case.opened() as sink:
        first = {"s": [{"x": 1}], "l": pa.array([[1]], pa.list_(pa.int8()))}
        second = {"s": [{"x": 2, "y": "z"}], "l": [[2**40]]}
        sink.store({"readings": pa.table(first)}, ["a"])
        sink.store({"readings": pa.table(second)}, ["b"])
        sink.store({"readings": pa.table(first)}, ["c"])
    old = {"s": {"x": 1, "y": None}, "l": [1]}
    assert [old, {"s": {"x": 2, "y": "z"}, "l": [2**40]}, old] == case.rows()


def test_a_table_that_somebody_else_has_made(case, path):
    """A table that is there already is added to, its own columns are kept."""
    with duckdb.connect(str(path)) as connection:
        connection.execute("create table readings (mine interval, n smallint)")
    with case.opened() as sink:
        sink.store(numbers(2**40), ["a"])
    assert [{"mine": None, "n": 2**40}] == case.rows()


def test_old_ids_are_forgotten(case, path):
    """Ids older than a week are deleted, so they do not gather without bound."""
    with case.opened() as sink:
        sink.store(numbers(1), ["old"])
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            """update _protoserve_entries set "at" = now() - interval 8 days"""
        )
    with case.opened() as sink:
        sink.store(numbers(2), ["new"])
        assert {"new"} == sink.known(["old", "new"])


def test_files_for_older_programs(tmp_path):
    """The file's format is that of another version of DuckDB, if that is asked for."""
    path = tmp_path / "x.duckdb"
    sink = open_sink(f"{path}?storage_compatibility_version=v1.2.0&memory_limit=1GB")
    sink.open()
    sink.store(numbers(1), ["a"])
    sink.close()
    query = "select tags from duckdb_databases() where database_name = 'x'"
    assert "v1.2.0" in str(read(path, query).to_pylist())
