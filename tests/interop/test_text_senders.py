"""
What real senders of metrics and logs send arrives as they were told to send it.
"""

import contextlib
import json
import logging.handlers
import socket
import subprocess
import sys

import attrs
import pytest

from protocols import graphite, influx, statsd, syslog
from protoserve import Service, route
from protoserve.testing import live
from tests.interop.conftest import START, STOP, free_port, program
from tests.running import bound, ended, started
from tests.service.kit import until

pytestmark = pytest.mark.interop


@attrs.define
class Metrics:
    """Keeps the lines of all messages."""

    got: list = attrs.field(factory=list)

    @route
    def statsd(self, message: statsd.Metrics) -> None:
        self.got += message.lines


@attrs.define
class Paths:
    got: list = attrs.field(factory=list)

    @route
    def graphite(self, message: graphite.Metrics) -> None:
        self.got += message.lines


@attrs.define
class Points:
    got: list = attrs.field(factory=list)

    @route
    def influx(self, message: influx.Points) -> None:
        self.got += message.lines


@attrs.define
class Logs:
    got: list = attrs.field(factory=list)

    @route
    def syslog(self, message: syslog.Log) -> None:
        self.got.append(message.entry)


@contextlib.contextmanager
def receiving(protocol, handler, transport):
    """Serve on the loopback; give the port."""
    with live(Service(protocol, handler), transport=transport) as server:
        yield int(server.url.rpartition(":")[2])


def wait_for(handler, count):
    until(lambda: len(handler.got) >= count, START)
    assert count == len(handler.got)
    return handler.got


# StatsD ------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_statsd(require_module, transport):
    """The usual client's counters, timers, gauges and sets."""
    statsd_client = require_module("statsd")
    kinds = {"udp": statsd_client.StatsClient, "tcp": statsd_client.TCPStatsClient}
    handler = Metrics()
    with receiving(statsd.statsd, handler, transport) as port:
        client = kinds[transport]("127.0.0.1", port, prefix="web")
        client.incr("hits", 3)
        client.timing("wait", 320.5)
        client.gauge("queue", -3, delta=True)
        client.gauge("heat", 21.5)
        client.set("users", "u1")
        with client.pipeline() as pipe:
            pipe.incr("a")
            pipe.decr("b")
        got = wait_for(handler, 7)
        client.close()
    found = {line.name: line for line in got}
    assert statsd.Metric("web.hits", "c", [3.0]) == found["web.hits"]
    assert statsd.Metric("web.wait", "ms", [320.5]) == found["web.wait"]
    assert found["web.queue"].relative
    assert [-3.0] == found["web.queue"].values
    assert statsd.Metric("web.heat", "g", [21.5]) == found["web.heat"]
    assert statsd.Metric("web.users", "s", member="u1") == found["web.users"]
    assert [-1.0] == found["web.b"].values


def test_dogstatsd(require_module):
    """Tags, events, service checks and distributions of Datadog's client."""
    datadog = require_module("datadog.dogstatsd")
    handler = Metrics()
    with receiving(statsd.statsd, handler, "udp") as port:
        client = datadog.DogStatsd(
            "127.0.0.1",
            port,
            constant_tags=["env:test"],
            disable_telemetry=True,
            container_id="ci-1a2b",
        )
        client.increment("hits", tags=["web"])
        client.distribution("size", 12.5)
        client.event("title", "two\nlines", alert_type="error", tags=["a:b"])
        client.service_check("db", 2, message="down | out", hostname="h1")
        client.flush()
        got = wait_for(handler, 4)
        client.close_socket()
    metrics = {line.name: line for line in got if isinstance(line, statsd.Metric)}
    assert {"env:test", "web"} == set(metrics["hits"].tags)
    assert ("d", [12.5]) == (metrics["size"].type, metrics["size"].values)
    (event,) = (line for line in got if isinstance(line, statsd.Event))
    assert ("title", "two\nlines", "error") == (
        event.title,
        event.text,
        event.alert_type,
    )
    assert {"a:b", "env:test"} == set(event.tags)
    (check,) = (line for line in got if isinstance(line, statsd.ServiceCheck))
    assert ("db", 2, "h1", "down | out") == (
        check.name,
        check.status,
        check.hostname,
        check.message,
    )
    assert {"ci-1a2b"} == {line.container for line in got}


# Graphite and InfluxDB ---------------------------------------------------------


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_graphyte(require_module, transport):
    """A Graphite client's metrics, with tags."""
    graphyte = require_module("graphyte")
    handler = Paths()
    with receiving(graphite.graphite, handler, transport) as port:
        sender = graphyte.Sender(
            "127.0.0.1", port, protocol=transport, tags={"host": "web"}
        )
        sender.send("disk.used", 42.5, timestamp=1_700_000_000, tags={"disk": "a"})
        sender.send("load", 1, timestamp=1_700_000_001)
        got = wait_for(handler, 2)
    # Over TCP each is sent by a connection of its own.
    assert [
        graphite.Metric(
            "disk.used", 42.5, 1_700_000_000.0, {"host": "web", "disk": "a"}
        ),
        graphite.Metric("load", 1.0, 1_700_000_001.0, {"host": "web"}),
    ] == sorted(got, key=lambda metric: metric.path)


def test_influx(require_module):
    """Points as InfluxDB's own client writes them."""
    point = require_module("influxdb_client").Point
    handler = Points()
    written = (
        point("cpu load")
        .tag("host", "web 1,a=b")
        .field("load", 0.5)
        .field("cores", 4)
        .field("up", True)
        .field("note", 'say "hello", \\ and go')
        .time(1_700_000_000_000_000_000)
    )
    with (
        receiving(influx.influx, handler, "udp") as port,
        socket.socket(type=socket.SOCK_DGRAM) as sock,
    ):
        sock.sendto(written.to_line_protocol().encode(), ("127.0.0.1", port))
        got = wait_for(handler, 1)
    fields = {
        "load": 0.5,
        "cores": 4,
        "up": True,
        "note": 'say "hello", \\ and go',
    }
    expected = influx.Point(
        "cpu load", fields, {"host": "web 1,a=b"}, 1_700_000_000_000_000_000
    )
    assert [expected] == got


# Syslog ------------------------------------------------------------------------


def log(path, port, *options, message="x\N{LATIN SMALL LETTER E WITH ACUTE} [x]"):
    command = [path, "-n", "127.0.0.1", "-P", str(port), "-p", "local0.warning"]
    command += ["-t", "app", *options, "--", message]
    subprocess.run(command, check=True, timeout=60)


@pytest.mark.parametrize(
    ("transport", "options"),
    [
        ("udp", ["-d"]),
        ("tcp", ["-T"]),
        ("tcp", ["-T", "--octet-count"]),
    ],
    ids=["udp", "lines", "counted"],
)
def test_logger(require_program, transport, options):
    """util-linux's logger, in both formats, over UDP and in both framings of TCP."""
    path = require_program("logger")
    handler = Logs()
    data = ["--msgid", "ID47", "--sd-id", "x@32473", "--sd-param", 'a="b"']
    with receiving(syslog.syslog, handler, transport) as port:
        log(path, port, *options, "--rfc3164", "--id=17")
        wait_for(handler, 1)
        log(path, port, *options, "--rfc5424", "--id=17", *data)
        old, new = wait_for(handler, 2)
    for entry in (old, new):
        assert (syslog.Facility.LOCAL0, syslog.Severity.WARNING) == (
            entry.facility,
            entry.severity,
        )
        assert ("app", "17") == (entry.app_name, entry.procid)
        assert entry.message == "x\N{LATIN SMALL LETTER E WITH ACUTE} [x]"
        assert socket.gethostname().partition(".")[0] in entry.hostname
    assert (None, 1) == (old.version, new.version)
    assert new.msgid == "ID47"
    assert syslog.Element("x@32473", [["a", "b"]]) in new.structured_data


def test_collected(require_program, tmp_path):
    """What logger sends over UDP and TCP is in the collector's file when it ends."""
    path, file = require_program("logger"), tmp_path / "logs.jsonl"
    urls = ("udp://127.0.0.1:0", "tcp://127.0.0.1:0")
    command = [sys.executable, "-m", "protoserve", "collect", "protocols.syslog:syslog"]
    command += [word for url in urls for word in ("--listen", url)]
    command += ["--into", f"jsonl:{file}", "--spool", tmp_path / "spool"]
    with started(command) as process:
        udp, tcp = (int(url.rpartition(":")[2]) for url in bound(process, 2))
        log(path, udp, "-d", "--rfc3164", message="one")
        log(path, tcp, "-T", "--octet-count", message="two")
        log(path, tcp, "-T", message="three")
        until(lambda: file.exists() and 3 == file.read_bytes().count(b"\n"), START)
        code, _ = ended(process)
    assert 0 == code
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {"one", "two", "three"} == {row["message"] for row in rows}
    assert {("app", 16, 4, "127.0.0.1")} == {
        (row["app_name"], row["facility"], row["severity"], row["exporter"])
        for row in rows
    }


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_python(transport):
    """Python's own handler, which ends entries with a NUL on TCP."""
    kind = {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}[transport]
    received = Logs()
    with receiving(syslog.syslog, received, transport) as port:
        handler = logging.handlers.SysLogHandler(
            ("127.0.0.1", port), facility="local1", socktype=kind
        )
        handler.ident = "app: "
        for text in ("one", "two"):
            record = logging.LogRecord("x", logging.ERROR, "x", 1, text, None, None)
            handler.emit(record)
        got = wait_for(received, 2)
        handler.close()
    assert {"one", "two"} == {entry.message for entry in got}
    assert {(syslog.Facility.LOCAL1, syslog.Severity.ERR, "app")} == {
        (entry.facility, entry.severity, entry.app_name) for entry in got
    }


CONFIGURATION = """
global(workDirectory="{folder}")
module(load="imudp")
input(type="imudp" address="127.0.0.1" port="{port}")
action(type="omfwd" target="127.0.0.1" port="{to}" protocol="tcp"
       template="{template}" TCP_Framing="{framing}")
"""


@pytest.mark.parametrize("framing", ["octet-counted", "traditional"])
@pytest.mark.parametrize("version", [None, 1])
def test_rsyslog(require_program, tmp_path, framing, version):
    """What rsyslog forwards over TCP, in both formats and both framings."""
    daemon, logger = require_program("rsyslogd"), require_program("logger")
    handler = Logs()
    port = free_port()
    template = "RSYSLOG_SyslogProtocol23Format" if version else "RSYSLOG_ForwardFormat"
    with receiving(syslog.syslog, handler, "tcp") as to:
        configuration = tmp_path / "rsyslog.conf"
        configuration.write_text(
            CONFIGURATION.format(
                folder=tmp_path, port=port, to=to, template=template, framing=framing
            )
        )
        options = ["-n", "-f", configuration, "-i", tmp_path / "pid"]
        with program(daemon, *options) as process:
            until(lambda: _is_bound(port), START)
            for number in range(3):
                log(logger, port, "-d", "--id=17", message=f"number {number}")
            wait_for(handler, 3)
            process.terminate()
            process.communicate(timeout=STOP)
    for entry in handler.got:
        assert version == entry.version
        assert ("app", "17") == (entry.app_name, entry.procid)
        assert syslog.Severity.WARNING == entry.severity
    assert {f"number {n}" for n in range(3)} == {e.message for e in handler.got}


def _is_bound(port):
    """Whether a datagram's port is taken."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


WRITE_GRAPHITE = """
Hostname "web"
Interval 0.05
BaseDir "{folder}"
PIDFile "{folder}/pid"
PluginDir "/usr/lib/collectd"
TypesDB "/usr/share/collectd/types.db"
LoadPlugin load
LoadPlugin write_graphite
<Plugin write_graphite>
  <Node "here">
    Host "127.0.0.1"
    Port "{port}"
    Protocol "{transport}"
  </Node>
</Plugin>
"""


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_collectd(require_program, tmp_path, transport):
    """collectd's write_graphite sends the load again and again."""
    path = require_program("collectd")
    handler = Paths()
    with receiving(graphite.graphite, handler, transport) as port:
        configuration = tmp_path / "collectd.conf"
        configuration.write_text(
            WRITE_GRAPHITE.format(folder=tmp_path, port=port, transport=transport)
        )
        with program(path, "-f", "-C", configuration) as process:
            until(lambda: len(handler.got) >= 3, START)
            process.terminate()
            process.communicate(timeout=START)
    assert all(isinstance(each, graphite.Metric) for each in handler.got)
    paths = {each.path for each in handler.got}
    assert {f"web.load.load.{name}term" for name in ("short", "mid", "long")} == paths
