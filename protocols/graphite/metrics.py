"""
Metrics as Graphite has them, and as lines: ``path;name=value 42.5 1700000000``.

What is between path, value and timestamp is one or more spaces or tabs. A timestamp
of -1 means that the receiver's clock is to be taken. A value that is not a number is
refused, as carbon drops it.
"""

# ruff: noqa: RUF009 - what is called declares a column

from __future__ import annotations

import math
import re
from typing import Any, ClassVar

import attrs

from protocols.lines import NUMBER, Lines, UnreadableError, number_text, shown, text_of
from protoserve.telemetry.tables import column

__all__ = ["Metric", "MetricLines", "parted"]

_WORD = re.compile(rb"[^ \t]+")
_MOST_TAGS = 256


@attrs.define
class Metric:
    """
    One value of a metric; it is a collector's row too.
    """

    __table__: ClassVar[str] = "metrics"

    path: str = column(doc="the metric's path, without tags")
    value: float = column(doc="the value")
    timestamp: float | None = column(
        default=None, doc="since the epoch; null: when it was received", unit="s"
    )
    tags: dict[str, str] = column(factory=dict, doc="tags by name")

    def full_path(self) -> str:
        """
        Give the path with the tags behind it.
        """
        return self.path + "".join(f";{k}={v}" for k, v in self.tags.items())


def parted(path: str) -> tuple[str, dict[str, str]]:
    """
    Take the tags off a path.

    Raises:
        ValueError: a tag has no name or no value, is there twice, or there are many.

    >>> parted("disk.used;host=web;disk=a")
    ('disk.used', {'host': 'web', 'disk': 'a'})
    """
    name, *given = path.split(";")
    tags: dict[str, str] = {}
    if len(given) > _MOST_TAGS:
        raise ValueError(f"expected at most {_MOST_TAGS} tags, found {len(given)}")
    for tag in given:
        key, _, value = tag.partition("=")
        if not key or not value:
            raise ValueError(f"expected a tag, as in 'name=value', found {tag!r}")
        if key in tags:
            raise ValueError(f"expected each tag once, found {key!r} twice")
        tags[key] = value
    if not name:
        raise ValueError("expected a path before the tags, found nothing")
    return name, tags


class MetricLines(Lines):
    """
    Lines of the plaintext protocol: a list of `Metric` and `BadLine`.
    """

    def read(self, line: bytes) -> Metric:
        """
        Read a line.
        """
        words = list(_WORD.finditer(line))
        if len(words) != 3:
            at = words[3].start() if len(words) > 3 else len(line)
            expected = "a path, a value and a timestamp"
            raise UnreadableError(at, expected, f"{len(words)} words")
        for word in words[1:]:
            if not NUMBER.fullmatch(word[0]):
                raise UnreadableError(word.start(), "a number", shown(word[0]))
        path = text_of(words[0][0])
        tags: dict[str, str] = {}
        if ";" in path:
            try:
                path, tags = parted(path)
            except ValueError as exc:
                raise UnreadableError(words[0].start(), *_said(exc)) from None
        value, moment = float(words[1][0]), float(words[2][0])
        for number, word in zip((value, moment), words[1:], strict=True):
            if not math.isfinite(number):
                raise UnreadableError(
                    word.start(), "a number of 64 bits", shown(word[0])
                )
        return Metric(path, value, None if moment == -1 else moment, tags)

    def write(self, value: Any) -> str:
        """
        Write a line.
        """
        if not isinstance(value, Metric):
            raise ValueError(f"expected a Metric, found {value!r}")  # noqa: TRY004 - what a construct refuses is a value
        moment = -1 if value.timestamp is None else value.timestamp
        return f"{value.full_path()} {number_text(value.value)} {number_text(moment)}"


def _said(exc: ValueError) -> tuple[str, str]:
    expected, _, found = str(exc).removeprefix("expected ").rpartition(", found ")
    return expected, found
