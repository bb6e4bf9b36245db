"""
NATS JetStream as a sink, in a real nats-server.
"""

import asyncio
import itertools
import json

import pyarrow as pa
import pytest

from protoserve.errors import DeclarationError
from protoserve.telemetry.sinks.base import SinkRefusedError, SinkUnavailableError
from protoserve.telemetry.sinks.registry import open_sink
from tests.telemetry.logs.cluster import nats_cluster
from tests.telemetry.sinks.messages import rows_of
from tests.telemetry.sinks.servers import gone, importable, stopped
from tests.telemetry.sinks.trials import Case, Trials, numbers

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    importable("nats")
    with nats_cluster(1, tmp_path_factory.mktemp("nats")) as cluster:
        yield cluster.servers[0]


@pytest.fixture
def stream():
    return f"trial{next(NUMBERS)}"


@pytest.fixture
def url(server, stream):
    # What a stream may need is put aside, and the server has 8 GB.
    return f"nats://127.0.0.1:{server.port}/{stream}?max_bytes=50000000"


@pytest.fixture
def ask(server):
    """Give what asks the server something."""
    import nats

    def ask(subject, body=None):
        async def work():
            client = await nats.connect(f"nats://127.0.0.1:{server.port}")
            try:
                answer = await client.request(
                    subject, json.dumps(body or {}).encode(), timeout=30.0
                )
                return json.loads(answer.data)
            finally:
                await client.close()

        return asyncio.run(work())

    return ask


@pytest.fixture
def messages(server, stream):
    """Give what reads all messages of a table."""
    import nats

    async def read(subject):
        client = await nats.connect(f"nats://127.0.0.1:{server.port}")
        try:
            reader = client.jetstream()
            last = (await reader.stream_info(stream)).state.last_seq
            found = [await reader.get_msg(stream, seq) for seq in range(1, last + 1)]
            return [each.data for each in found if each.subject == subject]
        finally:
            await client.close()

    return lambda table: asyncio.run(read(f"{stream}.{table}"))


@pytest.fixture
def case(server, url, messages, monkeypatch):
    # Each trial of a server that is away waits as long as this.
    monkeypatch.setattr("protoserve.telemetry.sinks.nats.CONNECT_TIMEOUT", 2.0)
    return Case(
        url, lambda table: rows_of(messages(table)), lambda: gone(server), refuses=False
    )


class TestNATS(Trials):
    pass


class TestMessages:
    def test_large_batches_are_several_messages(self, case, messages):
        """A batch that is larger than a message may be is cut, and stays one batch."""
        rows = pa.table({"n": range(400_000)})
        with case.opened() as sink:
            sink.store({"readings": rows}, ["a"])
        bodies = messages("readings")
        assert len(bodies) > 3
        assert max(map(len, bodies)) < 1 << 20
        assert list(range(400_000)) == [row["n"] for row in rows_of(bodies)]

    def test_a_row_that_is_too_large(self, case):
        """A row that no message holds is refused, with what there is room for."""
        rows = {"readings": pa.table({"text": ["x" * (1 << 20)]})}
        with case.opened() as sink:
            with pytest.raises(SinkRefusedError, match="table readings: expected rows"):
                sink.store(rows, ["a"])
            assert set() == sink.known(["a"])

    def test_a_batch_that_was_not_answered(self, case):
        """The server stores the same batch once, if the sink does not know of it too."""
        with case.opened() as sink:
            assert set() == sink.known(["a"])
            with case.opened() as other:
                other.store(numbers(1), ["a"])
            sink.store(numbers(1), ["a"])
        assert [{"n": 1}] == case.rows()

    def test_workers_know_of_each_other(self, case):
        """What another has stored meanwhile is known when it is asked for."""
        with case.opened() as sink, case.opened() as other:
            assert set() == sink.known(["a", "b"])
            other.store(numbers(1), ["a"])
            other.store(numbers(2), ["b"])
            assert {"a", "b"} == sink.known(["a", "b"])

    def test_the_stream_is_made_as_it_was_asked(self, url, stream, ask):
        """A stream has a bound in time and size, and is kept on the disk."""
        sink = open_sink(f"{url}&keep=300")
        sink.open()
        sink.close()
        config = ask(f"$JS.API.STREAM.INFO.{stream}")["config"]
        assert 300_000_000_000 == config["max_age"]
        assert 50_000_000 == config["max_bytes"]
        assert "file" == config["storage"]

    def test_a_stream_that_is_deleted(self, case, stream, ask):
        """A stream that somebody deletes is made anew."""
        with case.opened() as sink:
            sink.store(numbers(1), ["a"])
            ask(f"$JS.API.STREAM.DELETE.{stream}")
            with pytest.raises(SinkUnavailableError):
                sink.known(["b"])
            assert set() == sink.known(["b"])
            sink.store(numbers(2), ["b"])
        assert [{"n": 2}] == case.rows()


class TestTrouble:
    def test_a_stream_that_cannot_be_atomic(self, url, stream, ask):
        """A stream without atomic batches is refused, as half a batch may be stored."""
        config = {"name": stream, "subjects": [f"{stream}.>"]}
        assert "config" in ask(f"$JS.API.STREAM.CREATE.{stream}", config)
        sink = open_sink(url)
        with pytest.raises(
            SinkRefusedError, match="expected a stream with allow_atomic"
        ):
            sink.open()
        sink.close()

    def test_it_does_not_answer(self, server, case, monkeypatch):
        """A server that has stopped without being gone is given up in time."""
        monkeypatch.setattr("protoserve.telemetry.sinks.nats.TIMEOUT", 0.5)
        with case.opened() as sink:
            with (
                stopped(server),
                pytest.raises(SinkUnavailableError, match="no answer"),
            ):
                sink.store(numbers(1), ["a"])
            monkeypatch.setattr("protoserve.telemetry.sinks.nats.TIMEOUT", 60.0)
            if "a" not in sink.known(["a"]):
                sink.store(numbers(1), ["a"])
        assert [{"n": 1}] == case.rows()

    def test_a_password_is_shown_nowhere(self, server, monkeypatch):
        """Neither the error nor the sink's own address has the password."""
        monkeypatch.setattr("protoserve.telemetry.sinks.nats.CONNECT_TIMEOUT", 0.3)
        sink = open_sink("nats://me:sesame@127.0.0.1:1")
        with pytest.raises(SinkUnavailableError) as caught:
            sink.open()
        sink.close()
        assert "sesame" not in f"{caught.value}{caught.value!r}{sink.url}"

    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("nats://127.0.0.1/a.b", "a stream's name"),
            ("nats://127.0.0.1?replicas=x", "option replicas: expected"),
            ("nats://127.0.0.1?replica=1", "did you mean replicas?"),
        ],
    )
    def test_urls_that_are_none(self, url, said):
        """One line says what is wrong with a URL."""
        with pytest.raises(DeclarationError) as caught:
            open_sink(url)
        assert said in str(caught.value)
