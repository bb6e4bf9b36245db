"""
Redis Streams, in a real redis-server.
"""

import itertools
import time

import pyarrow as pa
import pytest

from protoserve.errors import DeclarationError
from protoserve.telemetry.sinks.base import SinkRefusedError, SinkUnavailableError
from protoserve.telemetry.sinks.registry import open_sink
from tests.telemetry.logs.cluster import redis_server
from tests.telemetry.sinks.messages import rows_of
from tests.telemetry.sinks.servers import gone, importable
from tests.telemetry.sinks.trials import Case, Trials, numbers

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    importable("redis")
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def client(server):
    import redis

    with redis.Redis(port=server.port) as client:
        yield client


@pytest.fixture
def prefix():
    return f"trial{next(NUMBERS)}"


@pytest.fixture
def case(server, client, prefix):
    def read_back(table):
        entries = client.xrange(f"{prefix}:{table}")
        return rows_of(fields[b"arrow"] for _, fields in entries)

    url = f"redis://127.0.0.1:{server.port}?prefix={prefix}"
    return Case(url, read_back, lambda: gone(server), refuses=False)


class TestRedis(Trials):
    pass


class TestEntries:
    def test_a_batch_is_one_entry(self, case, client, prefix):
        """However many rows there are, they are one entry of their table's stream."""
        with case.opened() as sink:
            sink.store({"readings": pa.table({"n": range(5_000)})}, ["a", "b"])
        ((_, fields),) = client.xrange(f"{prefix}:readings")
        assert b"5000" == fields[b"rows"]

    def test_old_batches_and_ids_go(self, case, client, prefix, monkeypatch):
        """Streams keep about `maxlen` batches, and ids are kept to a number."""
        monkeypatch.setattr("protoserve.telemetry.sinks.redis._KEEP_IDS", 10)
        sink = open_sink(f"{case.url}&maxlen=100")
        sink.open()
        try:
            for number in range(400):
                sink.store(numbers(number), [f"{number}"])
            assert {"399", "390"} == sink.known(["399", "390", "389", "0"])
        finally:
            sink.close()
        assert 100 <= client.xlen(f"{prefix}:readings") < 300

    def test_many_ids(self, case):
        """A batch may come from many thousand entries."""
        ids = [f"an entry with a long id {number}" for number in range(20_000)]
        with case.opened() as sink:
            sink.store(numbers(1), ids)
            sink.store(numbers(1), ids)
            assert set(ids) == sink.known(ids)
        assert [{"n": 1}] == case.rows()


class TestTrouble:
    def test_it_is_full(self, case, client):
        """A Redis without memory left takes nothing, and takes it later."""
        rows = {"readings": pa.table({"text": ["x" * 1_000] * 1_000})}
        with case.opened() as sink:
            client.config_set("maxmemory", 1 << 20)
            try:
                with pytest.raises(SinkUnavailableError, match="maxmemory"):
                    sink.store(rows | numbers(1), ["a"])
                assert set() == sink.known(["a"])
                assert [] == case.rows()
            finally:
                client.config_set("maxmemory", 0)
            sink.store(numbers(1), ["a"])
        assert [{"n": 1}] == case.rows()

    def test_something_else_is_there(self, case, client, prefix):
        """A key that is no stream is refused by name, and no other table is touched."""
        client.set(f"{prefix}:readings", "mine")
        with case.opened() as sink:
            with pytest.raises(
                SinkRefusedError, match=f"{prefix}:readings is a string"
            ):
                sink.store({"others": pa.table({"n": [1]})} | numbers(1), ["a"])
            assert set() == sink.known(["a"])
        assert [] == case.rows("others")

    def test_a_password_is_shown_nowhere(self, server):
        """Neither the error nor the sink's own address has the password."""
        sink = open_sink(f"redis://nobody:sesame@127.0.0.1:{server.port}/0")
        with pytest.raises(SinkUnavailableError) as caught:
            sink.open()
        sink.close()
        assert "sesame" not in f"{caught.value}{caught.value!r}{sink.url}"

    def test_it_does_not_answer(self, server, case, monkeypatch):
        """A server that has stopped without being gone is given up in time."""
        from tests.telemetry.sinks.servers import stopped

        monkeypatch.setattr("protoserve.telemetry.sinks.redis.TIMEOUT", 0.5)
        with case.opened() as sink:
            began = time.monotonic()
            with stopped(server), pytest.raises(SinkUnavailableError, match="imeout"):
                sink.store(numbers(1), ["a"])
            assert time.monotonic() - began < 30.0

    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("redis://127.0.0.1/x", "number of a database, found 'x'"),
            ("redis://127.0.0.1?maxlen=0", "option maxlen: expected"),
            ("redis://127.0.0.1?maxlenn=1", "did you mean maxlen?"),
            ("redis://127.0.0.1:port", "expected a port"),
            ("redis://", "found no host"),
            ("redis:x", "expected redis://HOST"),
        ],
    )
    def test_urls_that_are_none(self, url, said):
        """One line says what is wrong with a URL."""
        with pytest.raises(DeclarationError) as caught:
            open_sink(url)
        assert said in str(caught.value)
