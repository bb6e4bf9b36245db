"""
Sinks by their URLs.

A sink's module, and with it the library that it needs, is imported when the sink is
asked for. Errors name the scheme and never the whole URL, in which there may be a
password.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any

import attrs

from protoserve.errors import DeclarationError
from protoserve.telemetry.sinks.base import Sink
from protoserve.telemetry.sinks.options import count, nearest, seconds

__all__ = ["SCHEMES", "open_sink", "with_scheme"]


@attrs.frozen
class _Kind:
    """
    Where a kind of sink is made.
    """

    module: str
    name: str
    """The class, which takes the URL."""
    extra: str
    """What to install for it."""


_DUCKDB = _Kind("duckdb", "DuckDBSink", "duckdb")
_POSTGRESQL = _Kind("postgresql", "PostgreSQLSink", "postgresql")
_CLICKHOUSE = _Kind("clickhouse", "ClickHouseSink", "clickhouse")
_REDIS = _Kind("redis", "RedisSink", "redis")

SCHEMES = {
    "arrow": _Kind("arrow", "ArrowSink", "arrow"),
    "clickhouse": _CLICKHOUSE,
    "clickhouses": _CLICKHOUSE,
    "duckdb": _DUCKDB,
    "jsonl": _Kind("jsonl", "JSONLinesSink", "arrow"),
    "kafka": _Kind("kafka", "KafkaSink", "kafka"),
    "nats": _Kind("nats", "NATSSink", "nats"),
    "parquet": _Kind("parquet", "ParquetSink", "arrow"),
    "postgres": _POSTGRESQL,
    "postgresql": _POSTGRESQL,
    "prometheus": _Kind("prometheus", "PrometheusSink", "prometheus"),
    "redis": _REDIS,
    "rediss": _REDIS,
    "sqlite": _Kind("sqlite", "SQLiteSink", "arrow"),
}
"""The kinds of sinks, by the schemes of their URLs."""

_ENDINGS = {".duckdb": "duckdb", ".jsonl": "jsonl", ".sqlite": "sqlite"}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def open_sink(url: str) -> Sink:
    """
    Make the sink that a URL names. Its `open` connects.

    Args:
        url: ``duckdb:FILE`` or ``FILE.duckdb``, ``parquet:DIR``, ``sqlite:FILE``,
            ``arrow:DIR``, ``jsonl:FILE``, ``jsonl:-``, ``postgresql://…``,
            ``clickhouse://…``, ``redis://…``, ``nats://…``, ``kafka://…`` or
            ``prometheus:…``, with options behind ``?``. Every sink takes ``max_rows``
            and ``max_age`` (seconds): how rows are gathered for it.

    Raises:
        DeclarationError: there is no such sink, an option is wrong, or a library is
            not installed.
    """
    path, _, _ = url.partition("?")
    url = with_scheme(url)
    scheme = url.partition(":")[0].lower()
    if scheme not in SCHEMES:
        if ":" not in url:
            raise DeclarationError(
                f"{path!r}: expected the URL of a sink, as in duckdb:FILE or parquet:DIR"
            )
        raise DeclarationError(f"unknown sink {scheme!r}; {nearest(scheme, SCHEMES)}")
    url, wishes = _wishes(scheme, url)
    kind = SCHEMES[scheme]
    try:
        module = importlib.import_module(f"{__package__}.{kind.module}")
        sink: Sink = getattr(module, kind.name)(url)
    except ImportError as exc:  # a library may be there, and not what it needs itself
        if str(exc.name).startswith("protoserve"):
            raise
        missing = exc.name if isinstance(exc, ModuleNotFoundError) else exc
        raise DeclarationError(
            f"the sink {scheme}: needs {missing}; install it with "
            f"pip install 'protoserve[{kind.extra}]'"
        ) from exc
    sink.max_rows = wishes.get("max_rows", sink.max_rows)
    sink.max_age = wishes.get("max_age", sink.max_age)
    return sink


def with_scheme(url: str) -> str:
    """
    Put a sink's scheme in front of a file that is named by its ending only.

    What looks like another scheme stays as it is: it is a misspelt one.
    """
    path, _, _ = url.partition("?")
    if not _SCHEME.match(path):
        for ending, scheme in _ENDINGS.items():
            if path.endswith(ending):
                return f"{scheme}:{url}"
    return url


def _wishes(scheme: str, url: str) -> tuple[str, dict[str, Any]]:
    """
    Take out of a URL what every sink may be told.
    """
    readers: dict[str, Callable[[str], Any]] = {"max_rows": count, "max_age": seconds}
    where, _, query = url.partition("?")
    rest, wishes = [], {}
    for piece in query.split("&") if query else ():
        name, _, text = piece.partition("=")
        if name not in readers:
            rest.append(piece)
            continue
        try:
            wishes[name] = readers[name](text)
        except ValueError as exc:
            raise DeclarationError(
                f"{scheme}: option {name}: expected {exc}, found {text!r}"
            ) from exc
    return "?".join([where, "&".join(rest)] if rest else [where]), wishes
