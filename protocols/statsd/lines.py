r"""
The lines of StatsD and DogStatsD.

::

    page.views:1|c|@0.1|#env:test,web|c:ci-1a2b|T1656581400
    latency:12.5:13:14|ms                      several values (DogStatsD 1.1)
    queue:+3|g                                 a gauge that is moved, not set
    _e{5,4}:title|text|p:low|#env:test
    _sc|db.up|0|m:fine

A line is taken apart at its bars. Sections behind the type begin with a character
that tells which they are; those that are not known are kept as they are, so that a
newer client is not refused. A gauge's value with a sign in front moves the gauge:
so a gauge cannot be set to a number below zero, which is how StatsD has it.
"""

from __future__ import annotations

import re
from typing import Any

import attrs

from protocols.lines import NUMBER, Lines, UnreadableError, number_text, shown, text_of

__all__ = ["TYPES", "Event", "Metric", "MetricLines", "ServiceCheck"]

TYPES = {
    "c": "counter",
    "g": "gauge",
    "ms": "timer",
    "h": "histogram",
    "d": "distribution",
    "s": "set",
}
"""The types of metrics, as they are written."""

_MOST_TAGS = 256
_DIGITS = re.compile(rb"\d{1,18}")
_EVENT = re.compile(rb"_e\{(\d{1,5}),(\d{1,5})\}:")
_BEHIND_MESSAGE = re.compile(rb"(?:\|(?:c|e|card):[^|]*+)+\Z")
"""Where a service check comes from, which clients write behind its message."""


@attrs.define
class Metric:
    """
    One or several values of one metric.
    """

    name: str
    type: str
    """One of `TYPES`."""
    values: list[float] = attrs.field(factory=list)
    """The values; a set has none."""
    member: str | None = None
    """What is put into a set."""
    relative: bool = False
    """Whether the values are added to a gauge."""
    sample_rate: float = 1.0
    """How much of what happened is sent, above 0 and at most 1."""
    tags: list[str] = attrs.field(factory=list)
    """As they are written: ``name:value``, or a name alone."""
    container: str | None = None
    """The container that it comes from."""
    timestamp: int | None = None
    """When it was, in seconds since the epoch."""
    extensions: list[str] = attrs.field(factory=list)
    """Sections that are not known, as they are written."""


@attrs.define
class Event:
    """
    Something that happened (DogStatsD).
    """

    title: str
    text: str = ""
    timestamp: int | None = None
    """Seconds since the epoch."""
    hostname: str | None = None
    aggregation_key: str | None = None
    priority: str | None = None
    """``normal`` or ``low``; `None` is normal."""
    source_type: str | None = None
    alert_type: str | None = None
    """``error``, ``warning``, ``info`` or ``success``; `None` is info."""
    tags: list[str] = attrs.field(factory=list)
    container: str | None = None
    extensions: list[str] = attrs.field(factory=list)


@attrs.define
class ServiceCheck:
    """
    How a service is (DogStatsD).
    """

    name: str
    status: int
    """0 is good, 1 a warning, 2 critical, 3 unknown."""
    timestamp: int | None = None
    """Seconds since the epoch."""
    hostname: str | None = None
    message: str | None = None
    tags: list[str] = attrs.field(factory=list)
    container: str | None = None
    extensions: list[str] = attrs.field(factory=list)


class MetricLines(Lines):
    """
    The lines of a datagram: a list of `Metric`, `Event`, `ServiceCheck`, `BadLine`.
    """

    def read(self, line: bytes) -> Metric | Event | ServiceCheck:
        """
        Read a line.
        """
        if line.startswith(b"_e{"):
            return _read_event(line)
        if line.startswith(b"_sc|"):
            return _read_check(line)
        return _read_metric(line)

    def write(self, value: Any) -> str:
        """
        Write a line.
        """
        match value:
            case Metric():
                return _write_metric(value)
            case Event():
                return _write_event(value)
            case ServiceCheck():
                return _write_check(value)
        raise ValueError(f"expected a Metric, Event or ServiceCheck, found {value!r}")


# Metrics -----------------------------------------------------------------------


def _read_metric(line: bytes) -> Metric:
    colon = line.find(b":")
    if colon < 1 or b"|" in line[:colon]:
        at = min(filter(lambda place: place >= 0, (colon, line.find(b"|"), len(line))))
        raise UnreadableError(at, "a name, then ':'", shown(line[at:]))
    value, *sections = line[colon + 1 :].split(b"|")
    at = colon + 1 + len(value)
    if not sections:
        raise UnreadableError(at, "'|' and a type", shown(b""))
    kind = sections[0].decode("latin-1")
    if kind not in TYPES:
        known = ", ".join(TYPES)
        raise UnreadableError(at + 1, f"a type ({known})", shown(sections[0]))
    metric = Metric(text_of(line[:colon]), kind)
    if kind == "s":
        metric.member = text_of(value)
    else:
        _read_values(metric, value, colon + 1)
    if len(sections) > 1:
        _read_sections(metric, sections[1:], at + 2 + len(kind), _OF_METRIC)
    return metric


def _read_values(metric: Metric, data: bytes, at: int) -> None:
    signs = 0
    for each in data.split(b":"):
        if not NUMBER.fullmatch(each):
            raise UnreadableError(at, "a number", shown(each))
        metric.values.append(_finite(each, at))
        signs += each[0] in b"+-"
        at += len(each) + 1
    if metric.type == "g" and signs:
        metric.relative = True
        if signs < len(metric.values):
            text = "values that all have a sign, or none of them"
            raise UnreadableError(at - len(data) - 1, text, shown(data))


def _finite(data: bytes, at: int) -> float:
    number = float(data)
    if number in (float("inf"), float("-inf")):
        raise UnreadableError(at, "a number of 64 bits", shown(data))
    return number


def _write_metric(metric: Metric) -> str:
    if metric.type == "s":
        value = metric.member or ""
    else:
        value = ":".join(map(number_text, metric.values))
        if metric.relative:
            value = ":".join(_signed(each) for each in metric.values)
    rate = number_text(metric.sample_rate)
    sampled = "" if metric.sample_rate == 1 else f"|@{rate}"
    moment = "" if metric.timestamp is None else f"|T{metric.timestamp}"
    line = f"{metric.name}:{value}|{metric.type}{sampled}"
    return f"{line}{_write_common(metric)}{moment}{_write_extensions(metric)}"


def _signed(value: float) -> str:
    text = number_text(value)
    return text if text.startswith("-") else f"+{text}"


# Events and checks -------------------------------------------------------------


def _read_event(line: bytes) -> Event:
    head = _EVENT.match(line)
    if head is None:
        text = "two lengths and a colon, as in '_e{5,4}:'"
        raise UnreadableError(2, text, shown(line[2:]))
    middle = head.end() + int(head[1])
    end = middle + 1 + int(head[2])
    if line[middle : middle + 1] != b"|" or end > len(line):
        expected = f"a title of {int(head[1])} bytes, '|', a text of {int(head[2])}"
        raise UnreadableError(head.end(), expected, shown(line[head.end() :]))
    if end < len(line) and line[end : end + 1] != b"|":
        raise UnreadableError(end, "'|' or the end", shown(line[end:]))
    title = _folded(line[head.end() : middle])
    event = Event(title, _folded(line[middle + 1 : end]))
    if end < len(line):
        sections = line[end + 1 :].split(b"|")
        _read_sections(event, sections, end + 1, _OF_EVENT)
    return event


def _write_event(event: Event) -> str:
    title, text = _unfolded(event.title), _unfolded(event.text)
    sizes = f"{len(title.encode())},{len(text.encode())}"
    given = [
        f"|{mark}:{value}"
        for mark, value in (
            ("d", event.timestamp),
            ("h", event.hostname),
            ("k", event.aggregation_key),
            ("p", event.priority),
            ("s", event.source_type),
            ("t", event.alert_type),
        )
        if value is not None
    ]
    rest = f"{_write_common(event)}{_write_extensions(event)}"
    return f"_e{{{sizes}}}:{title}|{text}{''.join(given)}{rest}"


def _read_check(line: bytes) -> ServiceCheck:
    _, name, *rest = line.split(b"|")
    at = 5 + len(name)
    if not name:
        raise UnreadableError(4, "a name", shown(name))
    if not rest or rest[0] not in (b"0", b"1", b"2", b"3"):
        found = shown(rest[0] if rest else b"")
        raise UnreadableError(min(at, len(line)), "a status, 0 to 3", found)
    check = ServiceCheck(text_of(name), int(rest[0]))
    # The message may have bars in it, and is the last of what the client was told.
    body, mark, message = line[at + 1 :].partition(b"|m:")
    if body:
        _read_sections(check, body[1:].split(b"|"), at + 2, _OF_CHECK)
    behind = _BEHIND_MESSAGE.search(message)
    if behind:
        start = len(line) - len(behind[0]) + 1
        _read_sections(check, behind[0][1:].split(b"|"), start, _OF_CHECK)
        message = message[: behind.start()]
    if mark:
        check.message = _folded(message.replace(rb"m\:", b"m:"))
    return check


def _write_check(check: ServiceCheck) -> str:
    given = [
        f"|{mark}:{value}"
        for mark, value in (("d", check.timestamp), ("h", check.hostname))
        if value is not None
    ]
    message = ""
    if check.message is not None:
        message = f"|m:{_unfolded(check.message).replace('m:', 'm' + chr(92) + ':')}"
    rest = f"{_write_common(check)}{_write_extensions(check)}{message}"
    return f"_sc|{check.name}|{check.status}{''.join(given)}{rest}"


def _folded(data: bytes) -> str:
    r"""
    Read text in which a line's end is written ``\n``.
    """
    return text_of(data).replace(r"\n", "\n")


def _unfolded(text: str) -> str:
    return text.replace("\n", r"\n")


# Sections ----------------------------------------------------------------------


def _read_sections(value: Any, sections: list[bytes], at: int, known: Any) -> None:
    """
    Read what follows; each section that is known may be there once.
    """
    seen = set()
    for data in sections:
        mark = data[:2] if data[:2] in known else data[:1]
        if mark in seen:
            raise UnreadableError(at, f"one section {mark!r}", "another")
        if mark in known:
            name, read = known[mark]
            seen.add(mark)
            setattr(value, name, read(data[len(mark) :], at + len(mark)))
        elif data:
            value.extensions.append(text_of(data))
        else:
            raise UnreadableError(at, "a section behind '|'", shown(data))
        at += len(data) + 1


def _read_rate(data: bytes, at: int) -> float:
    rate = float(data) if NUMBER.fullmatch(data) else 0.0
    if not 0 < rate <= 1:
        raise UnreadableError(at, "a rate above 0 and at most 1", shown(data))
    return rate


def _read_tags(data: bytes, at: int) -> list[str]:
    tags = [text_of(tag) for tag in data.split(b",") if tag]
    if len(tags) > _MOST_TAGS:
        raise UnreadableError(at, f"at most {_MOST_TAGS} tags", str(len(tags)))
    return tags


def _read_moment(data: bytes, at: int) -> int:
    if not _DIGITS.fullmatch(data):
        raise UnreadableError(at, "seconds since the epoch", shown(data))
    return int(data)


def _read_text(data: bytes, _at: int) -> str:
    return text_of(data)


_COMMON = {b"#": ("tags", _read_tags), b"c:": ("container", _read_text)}
_OF_METRIC = {
    b"@": ("sample_rate", _read_rate),
    b"T": ("timestamp", _read_moment),
    **_COMMON,
}
_OF_CHECK = {
    b"d:": ("timestamp", _read_moment),
    b"h:": ("hostname", _read_text),
    **_COMMON,
}
_OF_EVENT = {
    **_OF_CHECK,
    b"k:": ("aggregation_key", _read_text),
    b"p:": ("priority", _read_text),
    b"s:": ("source_type", _read_text),
    b"t:": ("alert_type", _read_text),
}


def _write_common(value: Any) -> str:
    tags = f"|#{','.join(value.tags)}" if value.tags else ""
    return tags if value.container is None else f"{tags}|c:{value.container}"


def _write_extensions(value: Any) -> str:
    return "".join(f"|{section}" for section in value.extensions)
