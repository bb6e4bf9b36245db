"""
ClickHouse: its engine runs here (chDB); what speaks HTTP in front of it is the test's own.

So statements, types, what an insert stores and what a delete removes are ClickHouse's;
its users, its server's limits and its replication are not shown by any of this.
"""

import contextlib
import itertools
import json
import logging
import urllib.parse
import urllib.request

import pyarrow as pa
import pytest

from protoserve.errors import DeclarationError
from protoserve.telemetry.sinks.base import SinkRefusedError, SinkUnavailableError
from protoserve.telemetry.sinks.registry import open_sink
from tests.telemetry.sinks.servers import (
    clickhouse_server,
    gone,
    importable,
    stopped,
)
from tests.telemetry.sinks.trials import MOMENT, Case, Trials, numbers

NUMBERS = itertools.count()
BYTES = {"some_bytes", "an_address"}
NESTED = {"a_list", "a_pair", "a_map", "a_struct"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    importable("clickhouse_connect")
    with clickhouse_server(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server


@pytest.fixture
def database(server):
    return f"trial{next(NUMBERS)}"


@pytest.fixture
def execute(server, database):
    """Give what runs a statement in the trial's database."""

    def execute(statement, **asked):
        asked = urllib.parse.urlencode({"database": database} | asked)
        url = f"http://127.0.0.1:{server.port}/?{asked}"
        with urllib.request.urlopen(url, statement.encode(), timeout=60.0) as answer:
            return answer.read()

    execute(f"CREATE DATABASE {database}", database="default")
    return execute


@pytest.fixture
def case(server, database, execute):
    def plain(name, value):
        if isinstance(value, bytes) and name not in BYTES:
            value = value.decode()
        return json.loads(value) if name in NESTED and value else value

    def read_back(table):
        if b"1" not in execute(f"EXISTS TABLE `{table}`"):
            return []
        execute("SET output_format_arrow_string_as_string = 0")
        body = execute(f"SELECT * EXCEPT _protoserve_batch FROM `{table}` FORMAT Arrow")
        rows = pa.ipc.open_file(body).read_all().to_pylist() if body else []
        return [{name: plain(name, row[name]) for name in row} for row in rows]

    # What a table is sorted by has no nulls, and one trial has them everywhere.
    url = f"clickhouse://tester:sesame@127.0.0.1:{server.port}/{database}?order_by="
    return Case(url, read_back, lambda: gone(server), kills=2)


class TestClickHouse(Trials):
    pass


def left_behind(sink, number, monkeypatch):
    """Have a sink give up between its rows and its commit."""

    def note(ids, batch, tables, *, done):
        if done:
            raise ConnectionResetError("it was killed")
        return original(ids, batch, tables, done=done)

    original = sink._note
    with monkeypatch.context() as patch:
        patch.setattr(sink, "_note", note)
        with pytest.raises(SinkUnavailableError, match="it was killed"):
            sink.store(
                numbers(number) | {"more": pa.table({"n": [number]})}, ["a", "b"]
            )


class TestCommits:
    def test_a_batch_that_was_begun(self, case, monkeypatch):
        """What is left of a batch that was not done goes when its entries come again."""
        with case.opened() as sink:
            sink.store(numbers(1), ["z"])
            left_behind(sink, 2, monkeypatch)
            assert {"z"} == sink.known(["a", "b", "z"])
        assert [1, 2] == sorted(row["n"] for row in case.rows())
        with case.opened() as sink:
            # They come in other company, as after a restart.
            sink.store(numbers(3), ["b", "c"])
            assert [1, 3] == sorted(row["n"] for row in case.rows())
            assert [] == case.rows("more")
            sink.store(numbers(4), ["a"])
            assert {"a", "b", "c", "z"} == sink.known(["a", "b", "c", "z"])
        assert [1, 3, 4] == sorted(row["n"] for row in case.rows())

    def test_the_same_batch_again(self, case, monkeypatch):
        """A batch that is stored again, after it was left behind, is there once."""
        with case.opened() as sink:
            left_behind(sink, 2, monkeypatch)
            sink.store(numbers(2), ["a", "b"])
            assert {"a", "b"} == sink.known(["a", "b"])
        assert [{"n": 2}] == case.rows()

    def test_a_batch_that_is_refused_in_the_middle(self, case, execute):
        """Of a batch of which one table's rows are refused, no other's are there."""
        with case.opened() as sink:
            sink.store(numbers(1), ["a"])
            execute("ALTER TABLE readings ADD CONSTRAINT small CHECK n < 100")
            rows = {"more": pa.table({"z": [1]})} | numbers(100)
            with pytest.raises(SinkRefusedError, match="small"):
                sink.store(rows, ["b"])
            assert set() == sink.known(["b"])
        assert [] == case.rows("more")
        assert [{"n": 1}] == case.rows()

    def test_equal_rows_of_different_entries(self, case, execute, monkeypatch):
        """Where blocks are compared, rows that are equal to earlier ones are stored too."""
        with case.opened() as sink:
            sink.store(numbers(1), ["x"])
            for table in ("readings", "_protoserve_entries"):
                execute(
                    f"ALTER TABLE {table} MODIFY SETTING "
                    "non_replicated_deduplication_window = 100"
                )
            sink.store(numbers(1), ["y"])
            sink.store(numbers(1), ["z"])
            # What was deleted is remembered there, and is not to be missed.
            left_behind(sink, 1, monkeypatch)
            sink.store(numbers(1), ["a", "b"])
            assert {"a", "b"} == sink.known(["a", "b"])
        assert [{"n": 1}] * 4 == case.rows()

    def test_many_ids(self, case):
        """A batch may come from many thousand entries."""
        ids = [f"an entry with a long id {number}" for number in range(5_000)]
        with case.opened() as sink:
            sink.store(numbers(1), ids)
            sink.store(numbers(1), ids)
            assert set(ids) == sink.known(ids)
        assert [{"n": 1}] == case.rows()


class TestSchema:
    def test_tables_are_sorted_and_described(self, case, execute):
        """Tables are sorted by time, or as asked; comments say what a column is."""
        fields = [
            pa.field("celsius", pa.float32(), metadata={"doc": "It's", "unit": "°C"}),
            pa.field("received_at", pa.timestamp("ns", "UTC")),
            pa.field("exporter", pa.string()),
        ]
        rows = pa.table([[1.5], [MOMENT], ["::1"]], schema=pa.schema(fields))
        url = case.url.removesuffix("?order_by=")
        for table, option in (
            ("readings", ""),
            ("others", "?order_by=exporter,received_at"),
        ):
            with contextlib.closing(open_sink(url + option)) as sink:
                sink.open()
                sink.store({table: rows}, [table])
        made = json.loads(
            execute("SHOW CREATE TABLE readings FORMAT JSONCompactEachRow")
        )
        assert "`celsius` Nullable(Float32) COMMENT 'It\\'s [°C]'" in made[0]
        assert "ORDER BY (received_at)" in made[0]
        made = json.loads(execute("SHOW CREATE TABLE others FORMAT JSONCompactEachRow"))
        assert "ORDER BY (exporter, received_at)" in made[0]

    def test_a_table_of_somebody_else_s(self, case, execute):
        """A column of a type that is not ours is refused by name."""
        execute(
            "CREATE TABLE readings (n Int64, address IPv4, _protoserve_batch UInt64) "
            "ENGINE = MergeTree ORDER BY n"
        )
        with case.opened() as sink:
            sink.store(numbers(1), ["a"])
            with pytest.raises(
                SinkRefusedError, match="column address: expected String"
            ):
                sink.store(numbers(2, address=pa.array(["192.0.2.1"])), ["b"])
            assert set() == sink.known(["b"])
        assert [1] == [row["n"] for row in case.rows()]


class TestTrouble:
    def test_it_does_not_answer(self, server, case, monkeypatch):
        """A server that has stopped without being gone is given up in time."""
        monkeypatch.setattr("protoserve.telemetry.sinks.clickhouse.TIMEOUT", 1.0)
        with case.opened() as sink:
            with stopped(server), pytest.raises(SinkUnavailableError):
                sink.store(numbers(1), ["a"])
            monkeypatch.setattr("protoserve.telemetry.sinks.clickhouse.TIMEOUT", 60.0)

    def test_a_database_that_is_not_there(self, server):
        """A database that is missing is said in one line, which has no password."""
        url = f"clickhouse://tester:sesame@127.0.0.1:{server.port}/nothing"
        with contextlib.closing(open_sink(url)) as sink:
            with pytest.raises(SinkUnavailableError, match="nothing") as caught:
                sink.open()
            assert "sesame" not in f"{caught.value}{caught.value!r}{sink.url}"
            assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("clickhouse://127.0.0.1?order=x", "did you mean order_by?"),
            ("clickhouse:///x", "found no host"),
        ],
    )
    def test_urls_that_are_none(self, url, said):
        """One line says what is wrong with a URL."""
        with pytest.raises(DeclarationError) as caught:
            open_sink(url)
        assert said in str(caught.value)


def test_away(caplog):
    """Of a server that is away one line tells, and no logger of a library's."""
    importable("clickhouse_connect")
    sink = open_sink("clickhouse://127.0.0.1:1/nothing")
    with caplog.at_level(logging.INFO), pytest.raises(SinkUnavailableError) as caught:
        sink.open()
    assert "clickhouse://127.0.0.1:1/nothing: Connection refused" == str(caught.value)
    assert [] == caplog.records
    logging.getLogger("urllib3.connectionpool").warning("of somebody else")
    assert 1 == len(caplog.records)
