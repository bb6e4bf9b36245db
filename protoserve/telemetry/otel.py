"""
What is counted, pushed to an OpenTelemetry collector by OTLP over HTTP.

The instruments are those of `MEASURES`, observable ones: they are asked when it is time to
push. All of one push are of one moment, so that the account adds up: the figures are read
for the first instrument and kept for the others.

The SDK does the pushing, in a thread, and reads from the environment what it always does:
``OTEL_METRIC_EXPORT_INTERVAL`` (milliseconds), ``OTEL_EXPORTER_OTLP_HEADERS``,
``OTEL_RESOURCE_ATTRIBUTES``, ``OTEL_SERVICE_NAME`` and others. A receiver that is away
costs a line of log; what is counted is told with the next push. The extra
``protoserve[otel]`` brings the SDK.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from protoserve.errors import DeclarationError
from protoserve.telemetry.metrics import MEASURES, Figures, Measure

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader

__all__ = ["MetricsPusher", "check_url"]

_PATH = "/v1/metrics"
_PATIENCE = 3.0
"""Seconds for a push: an end that is to come soon may wait for one."""


class MetricsPusher:
    """
    Pushes figures, until it is closed.

    Args:
        url: the receiver, ``http://HOST:PORT`` or ``https://…``; without a path it is
            ``/v1/metrics``.
        read: gives the figures.

    Raises:
        DeclarationError: it is no such URL, or the SDK is not installed.
    """

    def __init__(self, url: str, read: Callable[[], Figures]) -> None:
        reader = _reader(url)
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.resources import Resource

        self._read = read
        self._figures: Figures | None = None
        name = os.environ.get("OTEL_SERVICE_NAME", "protoserve")
        self._provider = MeterProvider(
            [reader], Resource.create({"service.name": name}), shutdown_on_exit=False
        )
        meter = self._provider.get_meter("protoserve")
        for measure in MEASURES:
            make: Any = (
                meter.create_observable_counter
                if measure.is_counter
                else meter.create_observable_gauge
            )
            make(measure.name, [self._observer(measure)], description=measure.text)

    def _observer(self, measure: Measure) -> Callable[[Any], Iterator[Any]]:
        def observe(_options: object) -> Iterator[Any]:
            from opentelemetry.metrics import Observation

            if measure is MEASURES[0] or self._figures is None:
                self._figures = self._read()
            for labels, value in measure.values(self._figures):
                yield Observation(value, labels)

        return observe

    def close(self) -> None:
        """
        Push once more, and no longer.
        """
        self._provider.shutdown(timeout_millis=2 * _PATIENCE * 1000)


def check_url(url: str) -> None:
    """
    Find out whether figures could be pushed to a URL.

    Raises:
        DeclarationError: as `MetricsPusher`.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DeclarationError(f"otlp: expected http://HOST:PORT, found {url!r}")
    try:
        import opentelemetry.exporter.otlp.proto.http
        import opentelemetry.sdk.metrics  # noqa: F401 - only whether they are there
    except ModuleNotFoundError as exc:
        raise DeclarationError(
            "pushing metrics needs the OpenTelemetry SDK; install it with "
            "pip install 'protoserve[otel]'"
        ) from exc


def _reader(url: str) -> MetricReader:
    check_url(url)
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import (
        OTLPMetricExporter,
    )
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    if urlsplit(url).path in ("", "/"):
        url = url.rstrip("/") + _PATH
    exporter = OTLPMetricExporter(endpoint=url, timeout=_PATIENCE)
    return PeriodicExportingMetricReader(exporter)
