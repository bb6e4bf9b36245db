"""
Logs by their URLs.

A log's module, and with it the library that it needs, is imported when the log is asked
for. Errors never show the whole URL, in which there may be a password.
"""

from __future__ import annotations

import importlib

from protoserve.errors import DeclarationError
from protoserve.telemetry.logs.base import Log
from protoserve.telemetry.sinks.options import nearest

__all__ = ["SCHEMES", "open_log"]

SCHEMES = {
    "kafka": ("kafka", "KafkaLog"),
    "nats": ("nats", "NatsLog"),
    "redis": ("redis", "RedisLog"),
    "rediss": ("redis", "RedisLog"),
}
"""Modules and classes of logs, by the schemes of their URLs."""


def open_log(url: str, *, name: str) -> Log:
    """
    Open the log that a URL names. It connects when it is first used.

    Args:
        url: ``nats://host:port,host:port,host:port``, ``kafka://broker,broker/topic``
            or ``redis://host:port``, with options behind ``?``.
        name: what it is called there: the stream, its subjects, the keys; the topic,
            unless the URL has one.

    Raises:
        DeclarationError: there is no such log, the URL or an option is wrong, or a
            library is not installed.
    """
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise DeclarationError(
            "expected the URL of a log, as in nats://host:port, found "
            f"{url.partition('?')[0]!r}"
        )
    scheme = scheme.lower()
    if scheme not in SCHEMES:
        raise DeclarationError(f"unknown log {scheme!r}; {nearest(scheme, SCHEMES)}")
    module, made = SCHEMES[scheme]
    try:
        found = importlib.import_module(f"{__package__}.{module}")
    except ModuleNotFoundError as exc:
        if str(exc.name).startswith("protoserve"):
            raise
        raise DeclarationError(
            f"the log {scheme}: needs {str(exc.name).partition('.')[0]}; install it with "
            f"pip install 'protoserve[{module}]'"
        ) from exc
    log: Log = getattr(found, made)(url, name=name)
    return log
