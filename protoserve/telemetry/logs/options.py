"""
The options behind ``?`` in the URL of a log.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any

from protoserve.errors import DeclarationError
from protoserve.telemetry.targets import HIDDEN, Target

__all__ = ["authorities", "line", "read"]


def read(
    url: str,
    *,
    port: int,
    options: Mapping[str, Callable[[str], Any]],
    others: bool = False,
) -> tuple[Target, dict[str, Any]]:
    """
    Take a log's URL apart.

    Args:
        url: ``SCHEME://HOST:PORT,…?OPTIONS``.
        port: the port of a host without one.
        options: what reads the value of each; a `ValueError` says what is expected.
        others: whether there may be more, which somebody else reads.

    Returns:
        The target, and the options that were given, as they were read.

    Raises:
        DeclarationError: it has no host, or an option is wrong.
    """
    target = Target.parse(url, port=port, options=None if others else options)
    if not target.hosts:
        raise DeclarationError(f"{target}: expected HOST:PORT, found no host")
    found: dict[str, Any] = {}
    for name, text in target.options.items():
        if name not in options:
            continue
        try:
            found[name] = options[name](text)
        except ValueError as exc:
            raise DeclarationError(
                f"{target.scheme}: option {name}: expected {exc}, found {text!r}"
            ) from exc
    return target, found


def line(target: Target, said: object) -> str:
    """
    Say what went wrong, in one line that shows no password.
    """
    text = " ".join(str(said).split()) or type(said).__name__
    if target.password:
        text = text.replace(target.password, HIDDEN)
    return f"{target}: {text[:500]}"


def authorities(text: str) -> ssl.SSLContext:
    """
    Read the certificates of those who are trusted from a file.
    """
    try:
        return ssl.create_default_context(cafile=text)
    except OSError as exc:
        raise ValueError("a file of certificates") from exc
