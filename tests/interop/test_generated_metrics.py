"""
Clients of StatsD, Graphite and InfluxDB's lines as ``protoserve export`` writes them,
unedited, against servers that others wrote: what these have stored is what was sent.
"""

import time

import pytest

from protocols import graphite, influx, statsd
from protoserve import LocalProtocolError
from tests.interop import metric_stores, receivers
from tests.interop.receivers import assert_soon

pytestmark = pytest.mark.interop


# StatsD ------------------------------------------------------------------------


def messages(lines, transport):
    """Give the lines of each message: over TCP each line is one of its own."""
    return [lines] if transport == "udp" else [[line] for line in lines]


@pytest.fixture(scope="module")
def statsd_server(require_program, tmp_path_factory):
    folder = tmp_path_factory.mktemp("statsd")
    with metric_stores.statsd(require_program("statsd"), folder) as receiver:
        yield receiver


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_statsd(client_of, statsd_server, unique, transport):
    """StatsD's own server counts what was sent."""
    client = client_of("protocols.statsd:statsd", statsd_server.urls[transport])
    lines = [
        statsd.Metric(f"{unique}.hits", "c", [3], sample_rate=0.5),
        statsd.Metric(f"{unique}.heat", "g", [21.5]),
        statsd.Metric(f"{unique}.heat", "g", [-1.25], relative=True),
        statsd.Metric(f"{unique}.wait", "ms", [320.5]),
    ]
    for message in messages(lines, transport):
        client.metrics(message)

    def stored():
        counters, gauges, timers = map(
            statsd_server.stored, ("counters", "gauges", "timers")
        )
        return (
            counters.get(f"{unique}.hits"),
            gauges.get(f"{unique}.heat"),
            timers.get(f"{unique}.wait"),
        )

    assert_soon(("6", "20.25", "[ 320.5 ]"), stored)


@pytest.fixture(scope="module")
def collectd(require_program, tmp_path_factory):
    folder = tmp_path_factory.mktemp("collectd")
    with receivers.collectd(require_program("collectd"), folder, {}) as receiver:
        yield receiver


def test_statsd_of_collectd(client_of, collectd, unique):
    """collectd's plugin for StatsD counts what was sent."""
    client = client_of("protocols.statsd:statsd", collectd.urls["statsd"])
    client.metrics(
        [
            statsd.Metric(f"{unique}.hits", "c", [3], sample_rate=0.5),
            statsd.Metric(f"{unique}.heat", "g", [21.5]),
            statsd.Metric(f"{unique}.heat", "g", [-1.25], relative=True),
        ]
    )

    def last(name):
        rows = collectd.stored(f"receiver/statsd/{name}")
        return rows[-1][1] if rows else None

    assert_soon(6, lambda: last(f"derive-{unique}.hits"))
    assert_soon(20.25, lambda: last(f"gauge-{unique}.heat"))


# Graphite ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def carbon(require_program, tmp_path_factory):
    folder = tmp_path_factory.mktemp("carbon")
    programs = map(require_program, ("carbon-cache", "whisper-fetch"))
    with metric_stores.carbon(*programs, folder) as receiver:
        yield receiver


def minutes():
    now = int(time.time()) // 60 * 60
    return now - 120, now - 60


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_carbon(client_of, carbon, unique, transport):
    """carbon stores the values."""
    client = client_of("protocols.graphite:graphite", carbon.urls[transport])
    first, second = minutes()
    lines = [
        graphite.Metric(f"{unique}.heat", 21.5, first),
        graphite.Metric(f"{unique}.heat", -1e-9, second),
        graphite.Metric(f"{unique}.disk", 3, second, {"host": "web", "disk": "a"}),
    ]
    for message in messages(lines, transport):
        client.metrics(message)
    tagged = f"_tagged/*/*/{unique}_DOT_disk;disk=a;host=web"
    assert_soon({second: 3.0}, lambda: carbon.stored(tagged))
    heat = {first: 21.5, second: -1e-9}
    assert_soon(heat, lambda: carbon.stored(f"{unique}/heat"))


def test_carbon_over_tcp_takes_a_line_a_message(client_of, carbon, unique):
    """A message of two lines is refused over TCP, and the client goes on."""
    client = client_of("protocols.graphite:graphite", carbon.urls["tcp"])
    _, now = minutes()
    lines = [graphite.Metric(f"{unique}.{name}", 1, now) for name in ("a", "b")]
    with pytest.raises(LocalProtocolError, match="no delimiter inside"):
        client.metrics(lines)
    client.metrics(lines[1:])
    assert_soon({now: 1.0}, lambda: carbon.stored(f"{unique}/b"))
    assert {} == carbon.stored(f"{unique}/a")


def test_carbon_pickle(client_of, carbon, unique):
    """carbon stores the values of a pickle."""
    client = client_of("protocols.graphite:graphite_pickle", carbon.urls["pickle"])
    first, second = minutes()
    client.pickled_metrics(
        [
            graphite.Metric(f"{unique}.heat", 21.5, first),
            graphite.Metric(f"{unique}.heat", -7, second),
        ]
    )
    heat = {first: 21.5, second: -7.0}
    assert_soon(heat, lambda: carbon.stored(f"{unique}/heat"))


# InfluxDB ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def influxd(require_program, tmp_path_factory):
    folder = tmp_path_factory.mktemp("influxd")
    with metric_stores.influxd(require_program("influxd"), folder) as receiver:
        yield receiver


@pytest.mark.parametrize(
    ("name", "unit", "scale"),
    [("influx", "nanoseconds", 1), ("influx_s", "seconds", 10**9)],
)
def test_influxd(client_of, influxd, unique, name, unit, scale):
    """InfluxDB stores tags, fields and times."""
    client = client_of(f"protocols.influx:{name}", influxd.urls[unit])
    fields = {
        "load, 1m": 0.5,
        "cores": -(1 << 60),
        "up": True,
        "note": 'say "hello", \\ and go',
    }
    tags = {"host": "web 1,a=b", "zone": "\N{LATIN SMALL LETTER E WITH ACUTE}"}
    times = [1_700_000_000 * 10**9, 1_700_000_001 * 10**9]
    points = [influx.Point(unique, fields, tags, moment) for moment in times]
    method = client.points if scale == 1 else client.points_in_seconds
    method(points)
    query = f'SELECT * FROM "{unique}"'
    expected = [{"time": moment, **fields, **tags} for moment in times]
    assert_soon(expected, lambda: influxd.stored(query))
