"""
Prometheus: the last values, at an address that Prometheus scrapes.

This keeps no rows. Rows become series, in the memory of this process:

- Rows of StatsD (``name``, ``type``, ``value``) become counters, divided by their sample
  rate, gauges, which may be relative, and histograms of what is timed; tags are labels.
- Of every other table, each of the columns of ``value`` becomes a gauge, named after table
  and column, with the last value for each combination of the columns of ``labels``.

Both are bounded: series that have not changed for ``expire`` seconds go, and when there
are more than ``max_series``, those go that have not changed for longest, and are counted.
So labels that take ever new values (a port, a flow's address) cost neither the memory nor
Prometheus, but they push out others.

Traps: the exporter is no label unless it is asked for, as its port may be another one each
time. A name is of one type, in Prometheus: what comes with another is left out, counted.
What is known is known as long as this process lives.
"""

from __future__ import annotations

import logging
import math
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import attrs
import prometheus_client
import pyarrow as pa
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString
from pyarrow import types

from protoserve.errors import DeclarationError
from protoserve.telemetry.sinks._batches import Recent
from protoserve.telemetry.sinks.base import Sink, SinkUnavailableError
from protoserve.telemetry.sinks.options import count, seconds, split
from protoserve.telemetry.sinks.schema import already_stored, plain
from protoserve.telemetry.sinks.values import listed

__all__ = ["PrometheusSink"]

logger = logging.getLogger(__name__)

_IDS = 100_000
_PATIENCE = 10.0
"""Seconds in which a scrape has to be asked for; its connection is closed then."""
BUCKETS = tuple(step * 10.0**power for power in range(-3, 5) for step in (1, 2, 5))
"""Upper bounds of histograms, for whatever unit is sent."""
_STATSD = {"c": "counter", "g": "gauge", "ms": "histogram", "h": "histogram"}
_STATSD["d"] = "histogram"

Labels = tuple[tuple[str, str], ...]


@attrs.define(eq=False)
class _Series:
    """
    One series: what is shown, and when it last changed.
    """

    value: float = 0.0
    changed: float = 0.0
    buckets: list[float] = attrs.field(factory=list)
    """Of a histogram: how many there were up to each bound, not added up."""


class PrometheusSink(Sink):
    """
    An address that Prometheus scrapes.

    Args:
        url: ``prometheus:HOST:PORT``; options are ``table`` (the only ones to take),
            ``value`` and ``labels`` (columns, with commas between them), ``max_series``
            and ``expire``, in seconds.
    """

    def __init__(self, url: str) -> None:
        readers: dict[str, Callable[[str], Any]] = {
            "table": _names,
            "value": _names,
            "labels": _names,
            "max_series": count,
            "expire": seconds,
        }
        where, options = split(url, readers)
        where = where.removeprefix("//")
        host, colon, port = where.rpartition(":")
        if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
            raise DeclarationError(
                f"prometheus: expected prometheus:HOST:PORT, found {where!r}"
            )
        self.url = f"prometheus:{where}"
        self.address = (host.strip("[]"), int(port))
        """Where it listens; the port is the real one once it is open."""
        self._options = options
        self._known = Recent(_IDS)
        self._registry = CollectorRegistry()
        self._shown = _Shown(
            options.get("max_series", 10_000), options.get("expire", 300.0)
        )
        self._registry.register(self._shown)
        self._server: Any = None

    def open(self) -> None:
        if self._server is not None:
            return
        host, port = self.address
        try:
            server = _Server(host, port)
        except OSError as exc:
            raise SinkUnavailableError(f"{self.url}: {exc.strerror or exc}") from None
        server.set_app(prometheus_client.make_wsgi_app(self._registry))
        thread = threading.Thread(
            target=server.serve_forever, args=[0.05], name=self.url, daemon=True
        )
        thread.start()
        self._server = server, thread
        self.address = (host, server.server_port)
        logger.info("metrics at http://%s:%s/metrics", *self.address)

    def known(self, ids: Sequence[str]) -> set[str]:
        return self._known.among(ids)

    def store(self, tables: Mapping[str, pa.Table], ids: Sequence[str]) -> None:
        if ids and (there := self._known.among(ids)):
            already_stored(self.url, there, ids)
            return
        wanted = self._options.get("table")
        ready = {name: plain(name, rows) for name, rows in tables.items()}
        with self._shown.lock:
            for name, rows in ready.items():
                if wanted is None or name in wanted:
                    self._take(name, rows)
            self._shown.evict()
        self._known.add(ids)

    def close(self) -> None:
        if self._server is not None:
            server, thread = self._server
            server.shutdown()
            server.server_close()
            thread.join()
            self._server = None

    def _take(self, name: str, rows: pa.Table) -> None:
        there = rows.column_names
        if {"name", "type", "value"}.issubset(there) and "value" not in self._options:
            self._take_statsd(rows)
            return
        labels = self._options.get("labels")
        if labels is None:
            text = [field.name for field in rows.schema if types.is_string(field.type)]
            labels = [each for each in text if each != "exporter"]
        labels = [each for each in labels if each in there]
        for column in self._options.get("value", ["value"]):
            if column not in there or column in labels or not _is_number(rows, column):
                continue
            last = rows.group_by(labels, use_threads=False).aggregate(
                [(column, "last")]
            )
            values = listed(last.column(f"{column}_last"))
            keys = [listed(last.column(each)) for each in labels]
            for value, *key in zip(values, *keys, strict=True):
                if value is not None:
                    pairs = _labels(zip(labels, key, strict=True))
                    self._shown.set("gauge", f"{name}_{column}", pairs, float(value))

    def _take_statsd(self, rows: pa.Table) -> None:
        asked = self._options.get("labels", ())
        names = rows.schema.names
        columns = [listed(column) for column in rows.columns]
        for values in zip(*columns, strict=True):
            row = dict(zip(names, values, strict=True))
            kind, value = _STATSD.get(row["type"] or ""), row["value"]
            if kind is None or value is None or not row["name"]:
                self._shown.left_out += 1
                continue
            pairs = _labels(
                [
                    *(row.get("tags") or {}).items(),
                    *((each, row.get(each)) for each in asked),
                ]
            )
            weight = 1.0 / (row.get("sample_rate") or 1.0)
            if kind == "gauge":
                self._shown.set(
                    kind, row["name"], pairs, value, add=bool(row.get("relative"))
                )
            elif kind == "counter":
                self._shown.set(kind, row["name"], pairs, value * weight, add=True)
            else:
                self._shown.observe(row["name"], pairs, value, weight)


class _Handler(WSGIRequestHandler):
    # Without one, whoever connects and says nothing keeps a thread for ever.
    timeout = _PATIENCE

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name
        """
        Say nothing of each scrape.
        """


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family = found[0]
        super().__init__((str(found[4][0]), port), _Handler)

    def server_bind(self) -> None:
        """
        Bind, without asking a name server for our name.
        """
        TCPServer.server_bind(self)
        host, port = self.socket.getsockname()[:2]
        self.server_address, self.server_name, self.server_port = (
            (host, port),
            host,
            port,
        )
        self.setup_environ()


class _Shown(Collector):
    """
    The series that are shown; who changes them has the lock.
    """

    def __init__(self, most: int, expire: float) -> None:
        self.lock = threading.Lock()
        self.left_out = 0
        self._most = most
        self._expire = expire
        self._evicted = 0
        self._kinds: dict[str, str] = {}
        self._of: Counter[str] = Counter()
        """How many series there are of each name."""
        # Whatever changes goes to the end.
        self._series: dict[tuple[str, Labels], _Series] = {}

    def set(
        self, kind: str, name: str, labels: Labels, value: float, *, add: bool = False
    ) -> None:
        """
        Set a series, or add to it.
        """
        if (series := self._find(kind, name, labels)) is not None:
            series.value = series.value + value if add else value

    def observe(self, name: str, labels: Labels, value: float, weight: float) -> None:
        """
        Add to a histogram.
        """
        series = self._find("histogram", name, labels)
        if series is None:
            return
        if not series.buckets:
            series.buckets = [0.0] * (len(BUCKETS) + 1)
        place = sum(value > bound for bound in BUCKETS)
        series.buckets[place] += weight
        series.value += value * weight

    def evict(self) -> None:
        """
        Remove what is too old or too much.
        """
        oldest = time.monotonic() - self._expire
        while self._series:
            key = next(iter(self._series))
            old = self._series[key].changed < oldest
            if not old and len(self._series) <= self._most:
                return
            del self._series[key]
            self._evicted += not old
            self._of[key[0]] -= 1
            if not self._of[key[0]]:
                del self._of[key[0]], self._kinds[key[0]]

    def collect(self) -> Iterator[Metric]:
        """
        Give what is shown; the scraper's thread calls it.
        """
        with self.lock:
            self.evict()
            families: dict[str, Any] = {}
            for (name, labels), series in self._series.items():
                kind = self._kinds[name]
                family = families.get(name)
                if family is None:
                    family = families[name] = _FAMILIES[kind](name, f"{kind} {name}")
                _ADD[kind](family, dict(labels), series)
            evicted, left_out = self._evicted, self.left_out
        yield from families.values()
        yield CounterMetricFamily(
            "protoserve_prometheus_series_evicted",
            "Series that were removed because there were more than max_series.",
            value=evicted,
        )
        yield CounterMetricFamily(
            "protoserve_prometheus_rows_left_out",
            "Rows that no series could be made of.",
            value=left_out,
        )

    def describe(self) -> Iterable[Metric]:
        """
        Say nothing in advance.
        """
        return ()

    def _find(self, kind: str, name: str, labels: Labels) -> _Series | None:
        name = _legal(name)
        if kind == "counter":
            name = name.removesuffix("_total")
        if self._kinds.setdefault(name, kind) != kind:
            self.left_out += 1
            return None
        series = self._series.pop((name, labels), None)
        if series is None:
            series = _Series()
            self._of[name] += 1
        self._series[name, labels] = series
        series.changed = time.monotonic()
        return series


def _add_value(family: Any, labels: dict[str, str], series: _Series) -> None:
    suffix = "_total" if family.type == "counter" else ""
    family.add_sample(family.name + suffix, labels, series.value)


def _add_histogram(family: Any, labels: dict[str, str], series: _Series) -> None:
    total = 0.0
    for bound, number in zip([*BUCKETS, math.inf], series.buckets, strict=True):
        total += number
        edge: str = floatToGoString(bound)  # type: ignore[no-untyped-call]
        family.add_sample(f"{family.name}_bucket", labels | {"le": edge}, total)
    family.add_sample(f"{family.name}_count", labels, total)
    family.add_sample(f"{family.name}_sum", labels, series.value)


_FAMILIES: dict[str, Callable[[str, str], Any]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}
_ADD = {"counter": _add_value, "gauge": _add_value, "histogram": _add_histogram}


def _legal(name: str) -> str:
    """
    Make a name one that Prometheus takes.
    """
    name = re.sub(r"[^a-zA-Z0-9_]", "_", name)
    return f"_{name}" if name[:1].isdigit() else name


def _labels(pairs: Iterable[tuple[str, object]]) -> Labels:
    legal = {
        # `le` is the histograms', and two underscores are Prometheus' own.
        _legal(name).lstrip("_") or "_": "" if value is None else str(value)
        for name, value in pairs
    }
    return tuple(sorted((f"{k}_" if k == "le" else k, v) for k, v in legal.items()))


def _is_number(rows: pa.Table, column: str) -> bool:
    kind = rows.schema.field(column).type
    return bool(
        types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    )


def _names(text: str) -> list[str]:
    names = [each.strip() for each in text.split(",") if each.strip()]
    if not names:
        raise ValueError("names with commas between them")
    return names
