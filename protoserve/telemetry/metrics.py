"""
What is counted, by name, and an HTTP server that tells Prometheus.

`MEASURES` has all names; the figures are read when they are asked for, and are the sums
over all processes. Serving them takes a thread and ``prometheus-client``, which the extra
``protoserve[prometheus]`` brings. `protoserve.telemetry.otel` pushes the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from protoserve.account import Balance
from protoserve.errors import DeclarationError
from protoserve.telemetry.losses import Losses

if TYPE_CHECKING:
    from prometheus_client.registry import CollectorRegistry

__all__ = ["MEASURES", "Figures", "Measure", "MetricsServer", "SinkFigures"]


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
    losses: tuple[Losses, ...] = ()
    """What is missing of each exporter; those first that lose most."""


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


Values: TypeAlias = "list[tuple[dict[str, str], float]]"
"""Labels, and the value that has them."""


@attrs.frozen
class Measure:
    """
    One of the figures by its name, as those who watch get it.
    """

    name: str
    is_counter: bool
    """Whether it only grows; Prometheus adds ``_total`` to the name then."""
    text: str
    values: Callable[[Figures], Values]
    """Gives it; empty where there is no such thing."""
    label: str = ""
    """What its values are told apart by."""


def _one(read: Callable[[Figures], float | None]) -> Callable[[Figures], Values]:
    def values(figures: Figures) -> Values:
        value = read(figures)
        return [] if value is None else [({}, value)]

    return values


def _counted(key: str) -> Callable[[Figures], Values]:
    return _one(lambda figures: figures.counted.get(key))


def _of_sinks(field: str) -> Callable[[Figures], Values]:
    return lambda figures: [
        ({"sink": sink.name}, getattr(sink, field)) for sink in figures.sinks
    ]


def _of_exporters(field: str) -> Callable[[Figures], Values]:
    return lambda figures: [
        ({"exporter": each.exporter}, getattr(each, field)) for each in figures.losses
    ]


MEASURES = (
    Measure(
        "protoserve_datagrams_received",
        True,
        "Datagrams that came, those included that the kernel dropped.",
        _one(lambda figures: figures.balance.received),
    ),
    Measure(
        "protoserve_datagrams_delivered",
        True,
        "Datagrams whose rows are where they should go.",
        _one(lambda figures: figures.balance.delivered),
    ),
    Measure(
        "protoserve_datagrams_dropped",
        True,
        "Datagrams that were dropped, by reason.",
        lambda figures: [
            ({"reason": reason}, number)
            for reason, number in figures.balance.dropped.items()
        ],
        "reason",
    ),
    Measure(
        "protoserve_datagrams_in_flight",
        False,
        "Datagrams that are neither delivered nor dropped yet.",
        _one(lambda figures: figures.balance.in_flight),
    ),
    Measure(
        "protoserve_received_bytes",
        True,
        "Bytes of the datagrams that were received.",
        _counted("bytes"),
    ),
    Measure(
        "protoserve_rows",
        True,
        "Rows that were made of datagrams.",
        _counted("rows"),
    ),
    # No counter: what comes late is missing no more.
    Measure(
        "protoserve_sequence_missing",
        False,
        "What exporters have counted and has not come, in the units of their counters.",
        _counted("missing"),
    ),
    Measure(
        "protoserve_sequence_duplicates",
        True,
        "Datagrams that came twice.",
        _counted("duplicates"),
    ),
    Measure(
        "protoserve_sequence_reordered",
        True,
        "Datagrams that came late.",
        _counted("reordered"),
    ),
    Measure(
        "protoserve_sequence_restarts",
        True,
        "How often exporters' counters began anew.",
        _counted("restarts"),
    ),
    # Nor are these, as the list has an end: an exporter may leave it.
    *(
        Measure(
            f"protoserve_exporter_sequence_{field}",
            False,
            "The same of each exporter, for those of which most is missing.",
            _of_exporters(field),
            "exporter",
        )
        for field in ("missing", "duplicates", "reordered", "restarts")
    ),
    Measure(
        "protoserve_exporters",
        False,
        "Exporters that have sent something.",
        _counted("exporters"),
    ),
    Measure(
        "protoserve_spool_bytes",
        False,
        "Bytes of the spool.",
        _one(lambda figures: figures.spool_bytes),
    ),
    Measure("protoserve_sink_rows", True, "Rows stored.", _of_sinks("rows"), "sink"),
    Measure(
        "protoserve_sink_lag_entries",
        False,
        "Entries not stored yet.",
        _of_sinks("lag"),
        "sink",
    ),
    Measure(
        "protoserve_sink_retries",
        True,
        "Attempts that failed.",
        _of_sinks("retries"),
        "sink",
    ),
    Measure(
        "protoserve_sink_refused",
        True,
        "Entries not taken.",
        _of_sinks("refused"),
        "sink",
    ),
)
"""All of them; `docs/collect.md` has them too."""


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
        for measure in MEASURES:
            kind: Any = CounterMetricFamily if measure.is_counter else GaugeMetricFamily
            labels = [measure.label] if measure.label else []
            family = kind(measure.name, measure.text, labels=labels)
            for said, value in measure.values(figures):
                family.add_metric([*said.values()], value)
            if family.samples:
                yield family
