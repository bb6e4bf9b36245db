"""
What is counted, for Prometheus.

The names are those of `COUNTERS` and `GAUGES`; the figures are read when they are asked
for, and are the sums over all processes. Serving them takes a thread and
``prometheus-client``, which the extra ``protoserve[prometheus]`` brings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from protoserve.account import Balance
from protoserve.errors import DeclarationError

if TYPE_CHECKING:
    from prometheus_client.registry import CollectorRegistry

__all__ = ["Figures", "MetricsServer", "SinkFigures"]

_PREFIX = "protoserve_"
_COUNTED = {
    "bytes": ("received_bytes", "Bytes of the datagrams that were received."),
    "rows": ("rows", "Rows that were made of datagrams."),
    "missing": (
        "sequence_missing",
        "What exporters have counted and has not come, in the units of their counters.",
    ),
    "duplicates": ("sequence_duplicates", "Datagrams that came twice."),
    "reordered": ("sequence_reordered", "Datagrams that came late."),
    "restarts": ("sequence_restarts", "How often exporters' counters began anew."),
}


@attrs.frozen(kw_only=True)
class SinkFigures:
    """
    How one sink, or log, is doing.
    """

    name: str
    rows: int = 0
    """Rows that are stored."""
    lag: int = 0
    """Entries that are not stored yet."""
    lag_bytes: int = 0
    lag_seconds: float = 0.0
    """The age of the oldest of them."""
    retries: int = 0
    refused: int = 0
    """Entries that the store does not take."""
    error: str = ""
    """The last one, while there is one."""


@attrs.frozen(kw_only=True)
class Figures:
    """
    Everything that is told of a service or collector at one moment.
    """

    balance: Balance
    counted: Mapping[str, int] = attrs.field(factory=dict)
    sinks: tuple[SinkFigures, ...] = ()
    spool_bytes: int | None = None


class MetricsServer:
    """
    Serves figures over HTTP, at ``/metrics``.

    Args:
        host: where to listen.
        port: 0 lets the system choose.
        read: gives the figures.

    Raises:
        DeclarationError: prometheus-client is not installed.
        OSError: the address cannot be had.
    """

    def __init__(self, host: str, port: int, read: Callable[[], Figures]) -> None:
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ModuleNotFoundError as exc:
            raise DeclarationError(
                "metrics need prometheus-client; install it with "
                "pip install 'protoserve[prometheus]'"
            ) from exc
        registry: CollectorRegistry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(read))
        self._server, self._thread = start_http_server(port, host, registry=registry)
        self.port: int = self._server.server_port
        """Where it listens."""

    def close(self) -> None:
        """
        Serve no more.
        """
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Collector:
    """
    Gives figures in the form of prometheus-client.
    """

    def __init__(self, read: Callable[[], Figures]) -> None:
        self._read = read

    def describe(self) -> Iterable[Any]:
        """
        Say beforehand what there will be: nothing is certain.
        """
        return ()

    def collect(self) -> Iterator[Any]:
        """
        Give all figures.
        """
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        figures = self._read()
        balance = figures.balance

        def counter(name: str, text: str, value: float) -> Any:
            return CounterMetricFamily(_PREFIX + name, text, value=value)

        def gauge(name: str, text: str, value: float) -> Any:
            return GaugeMetricFamily(_PREFIX + name, text, value=value)

        yield counter(
            "datagrams_received",
            "Datagrams that came, those included that the kernel dropped.",
            balance.received,
        )
        yield counter(
            "datagrams_delivered",
            "Datagrams whose rows are where they should go.",
            balance.delivered,
        )
        dropped = CounterMetricFamily(
            _PREFIX + "datagrams_dropped",
            "Datagrams that were dropped, by reason.",
            labels=["reason"],
        )
        for reason, number in balance.dropped.items():
            dropped.add_metric([reason], number)
        yield dropped
        yield gauge(
            "datagrams_in_flight",
            "Datagrams that are neither delivered nor dropped yet.",
            balance.in_flight,
        )
        for key, (name, text) in _COUNTED.items():
            if key in figures.counted:
                yield counter(name, text, figures.counted[key])
        if figures.spool_bytes is not None:
            yield gauge("spool_bytes", "Bytes of the spool.", figures.spool_bytes)
        if "exporters" in figures.counted:
            known = figures.counted["exporters"]
            yield gauge("exporters", "Exporters that have sent something.", known)
        if figures.sinks:
            yield from self._sinks(figures.sinks)

    def _sinks(self, sinks: Iterable[SinkFigures]) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        kinds: tuple[tuple[Any, str, str, str], ...] = (
            (CounterMetricFamily, "rows", "sink_rows", "Rows stored."),
            (GaugeMetricFamily, "lag", "sink_lag_entries", "Entries not stored yet."),
            (GaugeMetricFamily, "lag_bytes", "sink_lag_bytes", "Bytes of them."),
            (
                GaugeMetricFamily,
                "lag_seconds",
                "sink_lag_seconds",
                "Age of the oldest of them.",
            ),
            (CounterMetricFamily, "retries", "sink_retries", "Attempts that failed."),
            (CounterMetricFamily, "refused", "sink_refused", "Entries not taken."),
        )
        for kind, key, name, text in kinds:
            family = kind(_PREFIX + name, text, labels=["sink"])
            for sink in sinks:
                family.add_metric([sink.name], getattr(sink, key))
            yield family
