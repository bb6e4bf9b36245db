"""
Metrics, pushed by OTLP to a receiver, and the names that all metrics have.
"""

import http.server
import threading

import pytest

from protoserve.account import REASONS, Account
from protoserve.errors import DeclarationError
from protoserve.telemetry.losses import Losses
from protoserve.telemetry.metrics import MEASURES, Figures, MetricsServer, SinkFigures
from tests.interop.conftest import missing
from tests.telemetry.processes import PATIENCE, collect, sender
from tests.telemetry.stations import reading
from tests.test_docs import table

try:
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as otlp

    from protoserve.telemetry.otel import MetricsPusher
except ImportError:
    otlp = None


@pytest.fixture
def receiver():
    """
    What listens for OTLP over HTTP, and a list of what was pushed, by name and labels.
    """
    if otlp is None:
        missing("the library opentelemetry-sdk")
    pushes = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = otlp.ExportMetricsServiceRequest.FromString(body)
            pushes.append((self.path, _values(request)))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", pushes
    server.shutdown()
    thread.join()
    server.server_close()


def _values(request):
    found = {}
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                if kind == "sum":
                    assert metric.sum.is_monotonic
                for point in getattr(metric, kind).data_points:
                    labels = tuple(each.value.string_value for each in point.attributes)
                    found[metric.name.removeprefix("protoserve_"), *labels] = (
                        point.as_int or int(point.as_double)
                    )
    return found


def figures():
    """
    Give figures in which there is one of everything.
    """
    account = Account()
    account.receive(5)
    account.deliver(3)
    account.drop("rate")
    counted = ("bytes", "rows", "missing", "duplicates", "reordered", "restarts")
    return Figures(
        balance=account.balance(),
        counted=dict.fromkeys((*counted, "exporters"), 7),
        sinks=(SinkFigures(name="a", rows=2, lag=4), SinkFigures(name="b")),
        spool_bytes=9,
        losses=(Losses("a", missing=1),),
    )


def test_a_push(receiver):
    """All figures are pushed, those of one push are of one moment."""
    url, pushes = receiver
    reads = []

    def read():
        reads.append(None)
        return figures()

    pusher = MetricsPusher(url, read)
    pusher.close()
    assert 1 == len(reads)
    ((path, values),) = pushes
    assert "/v1/metrics" == path
    assert 5 == values["datagrams_received",]
    assert 3 == values["datagrams_delivered",]
    assert {**dict.fromkeys(REASONS, 0), "rate": 1} == {
        key[1]: value for key, value in values.items() if "dropped" in key[0]
    }
    assert (2, 4) == (values["sink_rows", "a"], values["sink_lag_entries", "a"])
    assert {measure.name.removeprefix("protoserve_") for measure in MEASURES} == {
        key[0] for key in values
    }


def test_a_collector_pushes(receiver, tmp_path):
    """A collector pushes what has become of its datagrams, at the latest when it ends."""
    url, pushes = receiver
    words = ("--listen", "udp://127.0.0.1:0", "--into", "jsonl:a.jsonl", "--otlp", url)
    with collect(tmp_path, *words) as running, sender(running.port) as sock:
        for number in range(10):
            sock.send(reading(number))
        sock.send(b"no message")
        running.await_metric("datagrams_delivered_total", 10)
        assert 0 == running.stop()
    _, values = pushes[-1]
    assert (11, 10, 1) == (
        values["datagrams_received",],
        values["datagrams_delivered",],
        values["datagrams_dropped", "malformed"],
    )


def test_a_receiver_that_is_away(receiver, tmp_path):
    """Nobody there to push to costs a line of log, and no collecting."""
    del receiver
    away = "http://127.0.0.1:1"
    words = ("--listen", "udp://127.0.0.1:0", "--into", "jsonl:a.jsonl", "--otlp", away)
    with collect(tmp_path, *words, "--log-format", "console") as running:
        with sender(running.port) as sock:
            sock.send(reading(1))
            running.await_metric("datagrams_delivered_total", 1)
        assert 0 == running.stop()
        assert "Traceback" not in running.errors


@pytest.mark.parametrize("url", ["127.0.0.1:4318", "grpc://a:1", "http://"])
def test_no_url(url):
    """What cannot be pushed to is an error that says what is expected."""
    from protoserve.telemetry.otel import check_url

    with pytest.raises(DeclarationError, match="expected http://HOST:PORT, found"):
        check_url(url)


def test_names_are_documented():
    """The page of collectors has all metrics, by the names that Prometheus gets."""
    pytest.importorskip("prometheus_client")
    import urllib.request

    server = MetricsServer("127.0.0.1", 0, figures)
    try:
        url = f"http://127.0.0.1:{server.port}/metrics"
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            lines = answer.read().decode().splitlines()
    finally:
        server.close()
    served = {line.split("{")[0].split(" ")[0] for line in lines if line[0] != "#"}
    rows = [
        cells[0].strip("`").split("{")[0]
        for cells in table("docs/collect.md", "Metric")
    ]
    assert sorted(served) == sorted(rows)


def test_reasons_are_documented():
    """The page of collectors has all reasons for which datagrams are dropped."""
    rows = [cells[0].strip("`") for cells in table("docs/collect.md", "Reason")]
    assert list(REASONS) == rows
