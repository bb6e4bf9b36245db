"""
Metrics beside what a command does: ``--metrics HOST:PORT``.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from protoserve.cli.targets import CommandError

if TYPE_CHECKING:
    from protoserve.telemetry.metrics import Figures

__all__ = ["Metrics", "Otlp", "place_of", "pushed", "served", "tell_metrics"]

Metrics = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Serve metrics for Prometheus there."),
]
Otlp = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Push metrics to an OpenTelemetry collector there: http://HOST:4318.",
    ),
]


def place_of(text: str | None) -> tuple[str, int] | None:
    """
    Read ``HOST:PORT``.

    Raises:
        CommandError: it is something else.
    """
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65_535:
        raise CommandError(f"--metrics: expected HOST:PORT, not {text!r}")
    return host.strip("[]") or "127.0.0.1", int(port)


def tell_metrics(host: str, port: int) -> None:
    """
    Say where metrics are served.
    """
    shown = f"[{host}]" if ":" in host else host
    sys.stderr.write(f"metrics on http://{shown}:{port}/metrics\n")
    sys.stderr.flush()


@contextlib.contextmanager
def served(text: str | None, read: Callable[[], Figures]) -> Iterator[None]:
    """
    Serve figures at a place, if there is one, as long as what is within lasts.

    Raises:
        CommandError: the place cannot be had.
    """
    place = place_of(text)
    if place is None:
        yield
        return
    try:
        from protoserve.telemetry.metrics import MetricsServer
    except ModuleNotFoundError as exc:
        raise CommandError(
            f"metrics need {exc.name}; install it with pip install "
            "'protoserve[prometheus]'"
        ) from exc

    try:
        server = MetricsServer(*place, read)
    except OSError as exc:
        raise CommandError(f"cannot listen on {text}: {exc.strerror or exc}") from exc
    tell_metrics(place[0], server.port)
    try:
        yield
    finally:
        server.close()


@contextlib.contextmanager
def pushed(url: str | None, read: Callable[[], Figures]) -> Iterator[None]:
    """
    Push figures to a URL, if there is one, as long as what is within lasts.
    """
    if url is None:
        yield
        return
    from protoserve.telemetry.otel import MetricsPusher

    with contextlib.closing(MetricsPusher(url, read)):
        yield
