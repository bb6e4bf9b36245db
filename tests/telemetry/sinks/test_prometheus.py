"""
Prometheus: what a scrape of the sink's address reads.
"""

import contextlib
import socket
import urllib.request

import pyarrow as pa
import pytest

from protoserve.errors import DeclarationError
from protoserve.telemetry.sinks.base import SinkUnavailableError
from protoserve.telemetry.sinks.registry import open_sink
from tests.telemetry.sinks.servers import importable


@pytest.fixture(autouse=True, scope="module")
def client():
    importable("prometheus_client")


@contextlib.contextmanager
def opened(options=""):
    sink = open_sink(f"prometheus:127.0.0.1:0{options}")
    sink.open()
    try:
        yield sink
    finally:
        sink.close()


def scrape(sink):
    """Give the samples of a scrape, by name and labels."""
    from prometheus_client.parser import text_string_to_metric_families

    host, port = sink.address
    with urllib.request.urlopen(
        f"http://{host}:{port}/metrics", timeout=60.0
    ) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def shown(sink):
    """Give a scrape without what the sink says of itself."""
    found = scrape(sink)
    return {k: v for k, v in found.items() if not k[0].startswith("protoserve_")}


def evicted(sink):
    return scrape(sink)["protoserve_prometheus_series_evicted_total",]


def left_out(sink):
    return scrape(sink)["protoserve_prometheus_rows_left_out_total",]


def values(**columns):
    return {"values": pa.table(columns)}


def statsd(*rows):
    fields = {
        "exporter": pa.string(),
        "name": pa.string(),
        "value": pa.float64(),
        "type": pa.string(),
        "sample_rate": pa.float64(),
        "tags": pa.map_(pa.string(), pa.string()),
        "relative": pa.bool_(),
    }
    base = {"exporter": "udp://192.0.2.1:4000", "sample_rate": 1.0, "tags": []}
    return {
        "metrics": pa.Table.from_pylist([base | row for row in rows], pa.schema(fields))
    }


class TestGauges:
    def test_the_last_value_by_labels(self):
        """Of rows with the same labels the last one that has a value is shown."""
        with opened("?labels=host,plugin") as sink:
            sink.store(
                values(
                    host=["a", "b", "a", "a"],
                    plugin=["cpu", "cpu", "cpu", "cpu"],
                    other=["1", "2", "3", "4"],
                    value=[1.0, 2.0, 3.0, None],
                ),
                ["1"],
            )
            assert {
                ("values_value", ("host", "a"), ("plugin", "cpu")): 3.0,
                ("values_value", ("host", "b"), ("plugin", "cpu")): 2.0,
            } == shown(sink)

    def test_texts_are_labels_unless_others_are_named(self):
        """Without options, texts but the exporter are labels and `value` is shown."""
        with opened() as sink:
            sink.store(
                values(exporter=["udp://h:1"], host=["a"], n=[5], value=[7]), ["1"]
            )
            sink.store({"flows": pa.table({"srcaddr": ["a"], "dPkts": [1]})}, ["2"])
            assert {("values_value", ("host", "a")): 7.0} == shown(sink)

    def test_columns_that_are_named(self):
        """Several columns of one table are gauges of their own; others have none."""
        rows = {
            "flow.s": pa.table({"to": ["a", "b"], "dPkts": [1, 2], "up": [True] * 2})
        }
        with opened("?table=flow.s&value=dPkts,up,to&labels=exporter,to") as sink:
            sink.store(rows | values(value=[1]), ["1"])
            assert {
                ("flow_s_dPkts", ("to", "a")): 1.0,
                ("flow_s_dPkts", ("to", "b")): 2.0,
                ("flow_s_up", ("to", "a")): 1.0,
                ("flow_s_up", ("to", "b")): 1.0,
            } == shown(sink)

    def test_names_that_prometheus_does_not_take(self):
        """Names of labels and metrics are made legal, values are as they are."""
        with opened("?labels=le,a.b") as sink:
            rows = pa.table({"le": ["x"], "a.b": ['q"\n\\'], "value": [1]})
            sink.store({"1 x/y".replace("/", "-"): rows}, ["1"])
            labels = (("a_b", 'q"\n\\'), ("le_", "x"))
            assert {("_1_x_y_value", *labels): 1.0} == shown(sink)


class TestStatsD:
    def test_counters(self):
        """Counters are added up, each by how much of what happened was sent."""
        with opened() as sink:
            tags = [("env", "prod")]
            sink.store(
                statsd(
                    {"name": "hits", "type": "c", "value": 1, "tags": tags},
                    {"name": "hits", "type": "c", "value": 2, "sample_rate": 0.1},
                    {"name": "hits", "type": "c", "value": 3, "tags": tags},
                ),
                ["1"],
            )
            sink.store(statsd({"name": "hits", "type": "c", "value": 1}), ["2"])
            assert {
                ("hits_total", ("env", "prod")): 4.0,
                ("hits_total",): 21.0,
            } == shown(sink)

    def test_gauges(self):
        """A gauge has its last value, and relative ones are added to it."""
        with opened() as sink:
            sink.store(
                statsd(
                    {"name": "a", "type": "g", "value": 5},
                    {"name": "a", "type": "g", "value": -2, "relative": True},
                    {"name": "b", "type": "g", "value": 5},
                    {"name": "b", "type": "g", "value": 1},
                ),
                ["1"],
            )
            assert {("a",): 3.0, ("b",): 1.0} == shown(sink)

    def test_histograms(self):
        """What is timed is counted by its size, with how much of it was sent."""
        with opened() as sink:
            sink.store(
                statsd(
                    {"name": "t", "type": "ms", "value": 1.0},
                    {"name": "t", "type": "h", "value": 3.0, "sample_rate": 0.5},
                    {"name": "t", "type": "d", "value": 1e9},
                ),
                ["1"],
            )
            found = shown(sink)
        assert 4.0 == found["t_count",]
        assert 1e9 + 7 == found["t_sum",]
        edges = {dict(key[1:])["le"]: n for key, n in found.items() if len(key) > 1}
        assert (0.0, 1.0, 1.0, 3.0, 3.0, 4.0) == tuple(
            edges[each] for each in ("0.5", "1.0", "2.0", "5.0", "50000.0", "+Inf")
        )

    def test_what_no_series_can_be_made_of(self):
        """Sets, and a name that comes with two types, are counted and left out."""
        with opened() as sink:
            sink.store(
                statsd(
                    {"name": "a", "type": "g", "value": 1},
                    {"name": "a", "type": "ms", "value": 1},
                    {"name": "s", "type": "s", "value": None},
                ),
                ["1"],
            )
            assert {("a",): 1.0} == shown(sink)
            assert 2.0 == left_out(sink)


class TestBounds:
    def test_series_are_bounded(self):
        """The series that have not changed for longest go, and are counted."""
        with opened("?max_series=3") as sink:
            for number, host in enumerate("abcad"):
                sink.store(values(host=[host], value=[number]), [f"{number}"])
            hosts = {key[1][1] for key in shown(sink)}
            assert {"c", "a", "d"} == hosts
            assert 1.0 == evicted(sink)

    def test_a_flood_of_labels(self):
        """A million labels that are never seen again leave as many as there may be."""
        with opened("?max_series=100") as sink:
            for start in range(0, 20_000, 5_000):
                hosts = [f"h{number}" for number in range(start, start + 5_000)]
                sink.store(values(host=hosts, value=[1] * 5_000), [f"{start}"])
            assert 100 == len(shown(sink))
            assert 19_900.0 == evicted(sink)

    def test_old_series_go(self, monkeypatch):
        """A series that does not change any more is shown no longer; it may return."""
        now = [100.0]
        with opened("?expire=10") as sink:
            monkeypatch.setattr(
                "protoserve.telemetry.sinks.prometheus.time.monotonic", lambda: now[0]
            )
            sink.store(values(host=["a"], value=[1]), ["1"])
            now[0] += 8
            sink.store(values(host=["b"], value=[1]), ["2"])
            now[0] += 8
            assert {("values_value", ("host", "b")): 1.0} == shown(sink)
            now[0] += 8
            assert {} == shown(sink)
            sink.store(
                statsd({"name": "values_value", "type": "ms", "value": 1}), ["3"]
            )
            assert 0.0 == left_out(sink)
            assert 0.0 == evicted(sink)


class TestSink:
    def test_entries_count_once(self):
        """Entries that come again change nothing; with others they are asked about."""
        with opened() as sink:
            sink.store(statsd({"name": "a", "type": "c", "value": 1}), ["1", "2"])
            sink.store(statsd({"name": "a", "type": "c", "value": 1}), ["1", "2"])
            with pytest.raises(SinkUnavailableError):
                sink.store(statsd({"name": "a", "type": "c", "value": 1}), ["2", "3"])
            assert {"1", "2"} == sink.known(["1", "2", "3"])
            assert {("a_total",): 1.0} == shown(sink)

    def test_a_port_that_is_taken(self):
        """A port of somebody else's may be free later."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            sink = open_sink(f"prometheus:127.0.0.1:{port}")
            with pytest.raises(SinkUnavailableError, match="Address already in use"):
                sink.open()
        sink.open()
        sink.close()

    def test_it_may_be_closed_often_and_opened_again(self):
        """What was shown is shown again after it was closed and opened."""
        sink = open_sink("prometheus:127.0.0.1:0")
        sink.close()
        for _ in range(2):
            sink.open()
            sink.store(values(value=[1]), [])
            assert {("values_value",): 1.0} == shown(sink)
            sink.close()
            sink.close()

    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("prometheus:9464", "expected prometheus:HOST:PORT, found '9464'"),
            ("prometheus:h:99999", "expected prometheus:HOST:PORT"),
            ("prometheus:h:1?labels=", "option labels: expected names"),
            ("prometheus:h:1?label=a", "did you mean labels?"),
        ],
    )
    def test_urls_that_are_none(self, url, said):
        """One line says what is wrong with a URL."""
        with pytest.raises(DeclarationError) as caught:
            open_sink(url)
        assert said in str(caught.value)
