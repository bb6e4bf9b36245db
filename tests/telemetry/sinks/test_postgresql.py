"""
PostgreSQL, in a real server with a cluster of its own.
"""

import contextlib
import datetime as dt
import decimal
import itertools
import logging
import random
import socket
import threading

import pyarrow as pa
import pytest

from protoserve.errors import DeclarationError
from protoserve.telemetry.sinks.base import SinkRefusedError, SinkUnavailableError
from protoserve.telemetry.sinks.registry import open_sink
from tests.telemetry.sinks.servers import (
    gone,
    importable,
    postgresql_server,
)
from tests.telemetry.sinks.trials import MOMENT, Case, Trials, numbers

NUMBERS = itertools.count()
CLOCK = pa.timestamp("ns", "UTC")


@pytest.fixture(scope="module")
def server():
    importable("psycopg")
    with postgresql_server() as server:
        yield server


@pytest.fixture
def base(server):
    return f"postgresql://tester:sesame@127.0.0.1:{server.port}/postgres"


@pytest.fixture
def schema():
    return f"trial{next(NUMBERS)}"


@pytest.fixture
def execute(base, schema):
    """Give what runs a statement in the trial's schema."""
    import psycopg

    def execute(statement, *values):
        with psycopg.connect(base, autocommit=True) as connection:
            connection.execute(f"set search_path to {schema}, public")
            connection.execute("set timezone to 'UTC'")
            cursor = connection.execute(statement, values or None)
            if cursor.description is None:
                return []
            names = [column.name for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    return execute


@pytest.fixture
def case(server, base, schema, execute):
    def plain(value):
        if isinstance(value, decimal.Decimal):
            return int(value)
        return value

    def read_back(table):
        import psycopg

        try:
            rows = execute(f'select * from "{table}"')
        except psycopg.errors.UndefinedTable:
            return []
        return [{name: plain(value) for name, value in row.items()} for row in rows]

    return Case(f"{base}?schema={schema}", read_back, lambda: gone(server), kills=2)


class TestPostgreSQL(Trials):
    pass


class TestCopy:
    def test_rows_are_as_a_plain_insert_has_them(self, case, execute):
        """Rows of all kinds, of many lengths and with nulls, are what NumPy made of them."""
        chance = random.Random(3)
        count = 40_000  # several bodies

        def some(make):
            return [None if chance.random() < 0.2 else make() for _ in range(count)]

        rows = pa.table(
            {
                "number": pa.array(range(count), pa.int64()),
                "exporter": [f"192.0.2.{number % 200}" for number in range(count)],
                "small": pa.array(some(lambda: chance.randrange(256)), pa.uint8()),
                "text": some(lambda: "é" * chance.randrange(20)),
                "raw": some(lambda: chance.randbytes(chance.randrange(9))),
                "fixed": pa.array(some(lambda: chance.randbytes(6)), pa.binary(6)),
                "ratio": some(chance.random),
                "flag": some(lambda: chance.random() < 0.5),
                "big": pa.array(some(lambda: chance.getrandbits(64)), pa.uint64()),
            }
        )
        with case.opened() as sink:
            # A slice whose columns do not begin where their buffers do.
            sink.store({"readings": rows.slice(7)}, ["a"])
        found = sorted(case.rows(), key=lambda row: row["number"])
        assert rows.slice(7).to_pylist() == found

    def test_decimals(self, case, execute):
        """Decimals of any sign and scale keep their digits."""
        texts = ["-123456789012345678901234567890123456.78", "0.01", "-0.05", "0.00"]
        texts += ["99999999.99", "10000.00", "-1.00", "0.10", "12345678.90"]
        values = [decimal.Decimal(text) for text in texts]
        for scale in (2, 3, 5):
            column = pa.array(values[1:], pa.decimal128(38, scale))
            with case.opened() as sink:
                sink.store({f"t{scale}": pa.table({"n": column})}, [f"{scale}"])
            rows = execute(f"select n from t{scale}")
            assert values[1:] == [row["n"] for row in rows]
        with case.opened() as sink:
            sink.store({"t": pa.table({"n": pa.array(values)})}, ["t"])
        assert values == [row["n"] for row in execute("select n from t")]

    def test_integers_of_64_bits(self, case, execute):
        """Integers from one end of 64 bits to the other are stored exactly."""
        signed = [-(2**63), -1, 0, 1, 9_999, 10_000, 2**63 - 1]
        unsigned = [0, 1, 9_999, 10_000, 2**63, 2**64 - 10_000, 2**64 - 1]
        rows = pa.table(
            {"s": pa.array(signed, pa.int64()), "u": pa.array(unsigned, pa.uint64())}
        )
        with case.opened() as sink:
            sink.store({"readings": rows}, ["a"])
            sink.store({"readings": rows.select(["s"]).rename_columns(["u"])}, ["b"])
        found = case.rows()
        assert signed == [row["s"] for row in found[:7]]
        assert unsigned + signed == [row["u"] for row in found]

    def test_times(self, case):
        """Times are stored to the microsecond, before 2000 and before 1970 too."""
        moments = [MOMENT, dt.datetime(1999, 12, 31, 23, tzinfo=dt.UTC)]
        moments.append(dt.datetime(1969, 7, 20, 20, 17, 40, 7, tzinfo=dt.UTC))
        rows = pa.table(
            {
                "at": pa.array(moments, CLOCK),
                "naive": pa.array([each.replace(tzinfo=None) for each in moments]),
                "day": pa.array([each.date() for each in moments]),
                "hour": pa.array([each.time() for each in moments]),
            }
        )
        with case.opened() as sink:
            sink.store({"readings": rows}, ["a"])
        expected = [
            (each, each.replace(tzinfo=None), each.date(), each.time())
            for each in moments
        ]
        assert expected == [tuple(row.values()) for row in case.rows()]

    def test_a_zero_byte_in_text(self, case):
        """PostgreSQL has no text with a NUL; one becomes U+FFFD and costs no batch."""
        rows = pa.table(
            {
                "text": ["a\0b", None, "c"],
                "tags": [{"k\0": "\\u0000\0\\"}, None, {"k\0": ""}],
            }
        )
        with case.opened() as sink:
            sink.store({"readings": rows}, ["a"])
        found = case.rows()
        assert ["a\ufffdb", None, "c"] == [row["text"] for row in found]
        assert {"k\ufffd": "\\u0000\ufffd\\"} == found[0]["tags"]


class TestSchema:
    def test_columns_are_described(self, case, execute):
        """What a declaration says of a column is its comment."""
        said = pa.field("celsius", pa.float32(), metadata={"doc": "Air", "unit": "°C"})
        schema = pa.schema([said])
        with case.opened() as sink:
            sink.store({"readings": pa.table([[1.5]], schema=schema)}, ["a"])
        ((row),) = execute("select col_description('readings'::regclass, 1) as said")
        assert "Air [°C]" == row["said"]

    def test_a_table_of_somebody_else_s(self, case, execute):
        """A column of a type that is not ours is refused by name; others are used."""
        with case.opened() as sink:
            execute("create table readings (n bigint, address inet, more text)")
            sink.store(numbers(1), ["a"])
            with pytest.raises(
                SinkRefusedError, match="column address: expected text, the store has"
            ):
                sink.store(numbers(2, address=pa.array(["::1"])), ["b"])
            assert set() == sink.known(["b"])
        assert [{"n": 1, "address": None, "more": None}] == case.rows()

    @pytest.mark.parametrize(
        "rule", ["more text not null", "check (n < 2)", "unique (n)"]
    )
    def test_a_table_with_a_rule(self, case, execute, rule):
        """Rows that do not meet a constraint are refused, as they will not later."""
        with case.opened() as sink:
            execute(f"create table readings (n bigint, {rule})")
            with pytest.raises(SinkRefusedError, match="constraint"):
                sink.store(numbers(2, 2), ["a"])
            assert set() == sink.known(["a"])
            execute("drop table readings")
            sink.store(numbers(2, 2), ["a"])
        assert [{"n": 2}] * 2 == case.rows()

    def test_a_table_of_another_schema(self, case, execute):
        """A table of the same name in another schema is left alone."""
        table = f"public.of_{case.url.rpartition('=')[2]}"
        execute(f"create table {table} (n text)")
        with case.opened() as sink:
            sink.store({table[7:]: pa.table({"n": [1]})}, ["a"])
        assert [{"n": 1}] == case.rows(table[7:])
        assert [] == execute(f"select * from {table}")
        execute(f"drop table {table}")

    def test_long_names(self, case, execute):
        """Names that are longer than PostgreSQL has are cut, and stay different."""
        names = ["x" * 100, "x" * 99]
        for entry in ("a", "b"):
            with case.opened() as sink:
                rows = pa.table({name: [len(name)] for name in names})
                sink.store({"y" * 100: rows}, [entry])
        (table,) = execute(
            "select relname from pg_class where relname like 'yyy%' and relkind = 'r' "
            "and relnamespace = current_schema()::regnamespace"
        )
        assert [[100, 99]] * 2 == [
            list(row.values()) for row in case.rows(table["relname"])
        ]

    def test_a_hypertable_is_made_where_that_can_be(self, case, execute, caplog):
        """A new table is given to TimescaleDB's function, or is a plain one."""
        url = f"{case.url}&hypertable=received_at"
        rows = pa.table({"received_at": pa.array([MOMENT], CLOCK)})
        with contextlib.closing(open_sink(url)) as sink:
            sink.open()
            with caplog.at_level(logging.WARNING):
                sink.store({"first": rows}, ["a"])
            assert "no TimescaleDB is there" in caplog.text
            # TimescaleDB itself is in no package here: what it is asked is seen.
            execute("create table asked (relation regclass, name name)")
            execute(
                "create function create_hypertable(relation regclass, name name) "
                "returns void language sql as "
                "'insert into asked values ($1, $2)'"
            )
            sink.store({"Second": rows}, ["b"])
            sink.store({"Second": rows}, ["c"])
            sink.store({"third": pa.table({"n": [1]})}, ["d"])
        assert [{"relation": '"Second"', "name": "received_at"}] == execute(
            "select relation::text, name from asked"
        )

    def test_old_ids_go(self, case, execute):
        """Ids are forgotten after a week."""
        with case.opened() as sink:
            sink.store(numbers(1), ["old"])
            execute("update _protoserve_entries set at = now() - interval '8 days'")
        with case.opened() as sink:
            sink.store(numbers(2), ["new"])
            assert {"new"} == sink.known(["old", "new"])


class TestTrouble:
    def test_the_server_is_killed_while_it_is_used(self, server, case):
        """A connection that breaks is said, and made anew by whatever is asked next."""
        with case.opened() as sink:
            sink.store(numbers(1), ["a"])
            with gone(server), pytest.raises(SinkUnavailableError):
                sink.store(numbers(2), ["b"])
            assert {"a"} == sink.known(["a", "b"])
            sink.store(numbers(2), ["b"])
        assert [1, 2] == sorted(row["n"] for row in case.rows())

    def test_the_server_does_not_answer(self, server, case, monkeypatch):
        """A server that has stopped without being gone is given up in time."""
        import psycopg

        # All of its processes would have to be stopped; a lock does the same.
        with (
            case.opened() as sink,
            psycopg.connect(case.url.partition("?")[0]) as other,
        ):
            sink.store(numbers(1), ["a"])
            schema = case.url.rpartition("=")[2]
            other.execute(f"lock table {schema}.readings")
            monkeypatch.setattr("protoserve.telemetry.sinks.postgresql.TIMEOUT", 0.3)
            with pytest.raises(SinkUnavailableError, match=r"no answer within"):
                sink.store(numbers(2), ["b"])
            other.rollback()
            monkeypatch.setattr("protoserve.telemetry.sinks.postgresql.TIMEOUT", 60.0)
            assert {"a"} == sink.known(["a", "b"])
            sink.store(numbers(2), ["b"])
        assert [1, 2] == sorted(row["n"] for row in case.rows())

    def test_a_server_that_only_reads(self, case, execute):
        """A server that takes no writes may take them later."""
        with case.opened() as sink:
            sink.store(numbers(1), ["a"])
            sink._connection.execute("set default_transaction_read_only to on")
            with pytest.raises(SinkUnavailableError, match="read-only"):
                sink.store(numbers(2), ["b"])
            sink.store(numbers(2), ["b"])
        assert [1, 2] == sorted(row["n"] for row in case.rows())

    def test_a_disk_that_is_full(self, case, execute):
        """A table that cannot grow keeps what it has, and the rows are for later."""
        rows = {"readings": pa.table({"text": ["x" * 100] * 5_000})}
        with case.opened() as sink:
            sink.store({"readings": pa.table({"text": ["x"]})}, ["a"])
            # As a full disk says it: there is no way to fill one here.
            execute(
                "create function full_disk() returns trigger language plpgsql as $$"
                "begin raise disk_full; end $$"
            )
            execute(
                "create trigger full_disk before insert on readings "
                "for each row execute function full_disk()"
            )
            with pytest.raises(SinkUnavailableError, match="disk_full"):
                sink.store(rows, ["b"])
            assert {"a"} == sink.known(["a", "b"])
            execute("drop trigger full_disk on readings")
            sink.store(rows, ["b"])
        assert 5_001 == len(case.rows())

    def test_a_right_that_is_missing(self, case, execute, base):
        """What a person can put right is worth another try."""
        with case.opened() as sink:
            sink.store(numbers(1), ["a"])
            role = f"role_of_{case.url.rpartition('=')[2]}"
            execute(f"create role {role}")
            execute(f"grant usage on schema {role[8:]} to {role}")
            sink._connection.execute(f"set role {role}")
            with pytest.raises(SinkUnavailableError, match="permission denied"):
                sink.known(["a"])
            assert {"a"} == sink.known(["a"])
            execute(f"drop owned by {role}")
            execute(f"drop role {role}")

    def test_workers_that_store_the_same(self, case):
        """Of several workers with the same entries, one stores them."""
        with case.opened() as sink:
            sink.store(numbers(0), ["first"])
        begin, failed = threading.Barrier(4), []

        def work():
            with case.opened() as sink:
                for turn in range(10):
                    begin.wait(60.0)
                    try:
                        sink.store(numbers(turn), [f"{turn}a", f"{turn}b"])
                    except Exception as exc:
                        failed.append(exc)

        workers = [threading.Thread(target=work) for _ in range(4)]
        for each in workers:
            each.start()
        for each in workers:
            each.join(120.0)
        assert [] == failed
        assert [0, *range(10)] == sorted(row["n"] for row in case.rows())

    def test_workers_that_make_the_same(self, case):
        """Workers that add columns at the same time do not lose rows."""
        begin, failed = threading.Barrier(4), []

        def work(worker):
            with case.opened() as sink:
                for turn in range(5):
                    begin.wait(60.0)
                    rows = numbers(turn, **{f"c{turn}": pa.array([worker])})
                    try:
                        sink.store(rows, [f"{worker}-{turn}"])
                    except Exception as exc:
                        failed.append(exc)

        workers = [threading.Thread(target=work, args=[n]) for n in range(4)]
        for each in workers:
            each.start()
        for each in workers:
            each.join(120.0)
        assert [] == failed
        assert 20 == len(case.rows())

    def test_a_password_is_shown_nowhere(self, server):
        """Neither the error nor the sink's own address has the password."""
        url = f"postgresql://nobody:sesame@127.0.0.1:{server.port}/nothing"
        with contextlib.closing(open_sink(url)) as sink:
            with pytest.raises(SinkUnavailableError) as caught:
                sink.open()
            assert "sesame" not in f"{caught.value}{caught.value!r}{sink.url}"
            assert "nobody" in str(caught.value)

    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("postgresql://me:sesame@127.0.0.1/x?sslmod=no", "sslmod"),
            ("postgresql:///x", "found no host"),
            ("postgresql:x", "expected postgresql://HOST"),
        ],
    )
    def test_urls_that_are_none(self, url, said):
        """One line says what is wrong with a URL."""
        with pytest.raises(DeclarationError) as caught:
            open_sink(url)
        assert said in str(caught.value)
        assert "sesame" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_nobody_answers():
    """Connecting to something that says nothing ends too."""
    importable("psycopg")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        url = f"postgresql://127.0.0.1:{port}/postgres?connect_timeout=2"
        with (
            contextlib.closing(open_sink(url)) as sink,
            pytest.raises(SinkUnavailableError),
        ):
            sink.open()
