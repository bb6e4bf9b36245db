r"""
Points, and the lines that they are written as.

::

    weather,location=us\ midwest temperature=82.5,wet=f,note="rain, \"soon\"" 1700000000
    measurement,tag=value field=value,field=value timestamp

Which characters a backslash makes ordinary depends on where it stands: commas and
spaces everywhere, equals signs in keys and tags, quotes and backslashes in quoted
text. Before any other character it is itself. Quoted text may have the end of a line
in it, so the lines are not to be had by splitting.

A collector stores a row for each field, not one for each point: measurements have
different fields, a sender may make up new ones at any time, and the types of two
senders' fields may differ; columns for them would grow without a bound and contradict
each other. A row a field is what a database of columns filters and aggregates well,
and ``PIVOT`` gives points when they are wanted.
"""

# ruff: noqa: RUF009 - what is called declares a column

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, ClassVar

import attrs

from protocols.lines import (
    NUMBER,
    BadLine,
    Lines,
    UnreadableError,
    number_text,
    shown,
    text_of,
)
from protoserve.telemetry.tables import column

__all__ = ["FieldRow", "Point", "PointLines", "Unsigned", "rows_of"]

_MOST_PAIRS = 1024
"""Tags of a point, and fields of one."""


class Unsigned(int):
    """
    A whole number that is written with ``u``.
    """


def _typed(fields: dict[str, Any]) -> dict[str, Any]:
    """
    Tell 1, 1.0 and true apart when points are compared.
    """
    return {name: (type(value), value) for name, value in fields.items()}


@attrs.define
class Point:
    """
    One point: some values that were measured together.
    """

    measurement: str
    fields: dict[str, Any] = attrs.field(eq=_typed)
    """Numbers, whole numbers (`Unsigned` ones too), text, true or false, by name."""
    tags: dict[str, str] = attrs.field(factory=dict)
    timestamp: int | None = None
    """Nanoseconds since the epoch; `None`: when it was received."""


@attrs.define
class FieldRow:
    """
    One field of a point.
    """

    __table__: ClassVar[str] = "fields"

    measurement: str = column(doc="what was measured")
    field: str = column(doc="the field's name")
    type: str = column(doc="f, i, u (whole numbers), b (true or false) or s (text)")
    value: float | None = column(doc="the value as a number; null for text")
    integer: int | None = column(doc="the exact value of i, and of u below 2**63")
    text: str | None = column(doc="the value of s")
    tags: dict[str, str] = column(doc="tags by name")
    timestamp: int | None = column(doc="since the epoch", unit="ns")


def rows_of(line: Point | BadLine) -> Iterator[FieldRow | BadLine]:
    """
    Give a line's rows.
    """
    if isinstance(line, BadLine):
        yield line
        return
    for name, value in line.fields.items():
        kind = _kind(value)
        yield FieldRow(
            line.measurement,
            name,
            kind,
            None if kind == "s" else float(value),
            int(value) if kind in "iu" and value < 1 << 63 else None,
            value if kind == "s" else None,
            line.tags,
            line.timestamp,
        )


def _kind(value: Any) -> str:
    for kind, name in ((bool, "b"), (Unsigned, "u"), (int, "i"), (float, "f")):
        if isinstance(value, kind):
            return name
    return "s"


# Reading -----------------------------------------------------------------------

# Possessive (++, *+): what was taken is not tried in shorter forms.
# Only behind an equals sign a quote begins text; in names it is itself. One that nothing
# closes is the last that is not escaped, so that what is behind it is searched once.
_LINE = re.compile(
    rb'(?:\\.|[^ \n\\])*+(?: (?:="(?:\\.|[^"\\])*+"|\\.|[^\n\\])*+)?+', re.DOTALL
)
_NAME = re.compile(rb"(?:\\.|[^, \\]|\\)++", re.DOTALL)
_KEY = re.compile(rb"(?:\\.|[^,= \\]|\\)++", re.DOTALL)
_TEXT = re.compile(rb'"((?:\\.|[^"\\])*+)"', re.DOTALL)
_WORD = re.compile(rb"[^, ]++")
_WHOLE = re.compile(rb"(-?\d{1,20})([iu])")
_MOMENT = re.compile(rb"-?\d{1,19}")
_TRUTH = {
    **dict.fromkeys((b"t", b"T", b"true", b"True", b"TRUE"), True),
    **dict.fromkeys((b"f", b"F", b"false", b"False", b"FALSE"), False),
}
_NAME_ESCAPE = re.compile(r"\\([, ])")
_KEY_ESCAPE = re.compile(r"\\([,= ])")
_TEXT_ESCAPE = re.compile(r'\\(["\\])')


class PointLines(Lines):
    """
    The lines of a datagram: a list of `Point` and `BadLine`.

    Args:
        unit: how many nanoseconds a timestamp counts by.
    """

    longest = 65_535  # a line of text may be as long as its datagram
    comment = b"#"

    def __init__(self, unit: int = 1) -> None:
        super().__init__()
        self.unit = unit

    def end_of(self, data: bytes, start: int) -> int:
        """
        Find where a line ends; quoted text may have ends of lines in it.
        """
        if data.startswith(self.comment, start):
            return super().end_of(data, start)
        found = _LINE.match(data, start)
        return data.find(b"\n", found.end() if found else start)

    def read(self, line: bytes) -> Point:
        """
        Read a line.
        """
        name, at = _take(_NAME, line, 0, "a measurement")
        tags: dict[str, str] = {}
        while line[at : at + 1] == b",":
            key, at = _key(line, at + 1, tags, "a tag's name")
            value, at = _take(_KEY, line, at, "a tag's value")
            tags[key] = _KEY_ESCAPE.sub(r"\1", value)
        at = _space(line, at, "a comma, or a space and the fields")
        fields: dict[str, Any] = {}
        while True:
            key, at = _key(line, at, fields, "a field's name")
            fields[key], at = _value(line, at)
            if line[at : at + 1] != b",":
                break
            at += 1
        point = Point(_NAME_ESCAPE.sub(r"\1", name), fields, tags)
        rest = line[at:].rstrip(b" ")
        if rest:
            at = _space(line, at, "a comma, or a space and the timestamp")
            moment = line[at:].rstrip(b" ")
            number = int(moment) * self.unit if _MOMENT.fullmatch(moment) else None
            if number is None or not _fits(number):
                expected = "a timestamp of 64 bits in nanoseconds"
                raise UnreadableError(at, expected, shown(moment))
            point.timestamp = number
        return point

    def write(self, value: Any) -> str:
        """
        Write a line.
        """
        if not isinstance(value, Point):
            raise ValueError(f"expected a Point, found {value!r}")  # noqa: TRY004 - what a construct refuses is a value
        tags = "".join(f",{_keyed(k)}={_keyed(v)}" for k, v in value.tags.items())
        fields = ",".join(f"{_keyed(k)}={_written(v)}" for k, v in value.fields.items())
        moment = ""
        if value.timestamp is not None:
            moment = f" {value.timestamp // self.unit}"
        return f"{re.sub('([, ])', _BEHIND, value.measurement)}{tags} {fields}{moment}"


def _take(
    pattern: re.Pattern[bytes], line: bytes, at: int, what: str
) -> tuple[str, int]:
    found = pattern.match(line, at)
    if found is None:
        raise UnreadableError(at, what, shown(line[at:]))
    return text_of(found[0]), found.end()


def _key(line: bytes, at: int, known: dict[str, Any], what: str) -> tuple[str, int]:
    """
    Take a name and the equals sign behind it.
    """
    text, end = _take(_KEY, line, at, what)
    name = _KEY_ESCAPE.sub(r"\1", text)
    if line[end : end + 1] != b"=":
        raise UnreadableError(end, "'='", shown(line[end:]))
    if name in known:
        raise UnreadableError(at, f"{what} once", f"{name!r} twice")
    if len(known) == _MOST_PAIRS:
        raise UnreadableError(at, f"at most {_MOST_PAIRS} of them", "more")
    return name, end + 1


def _space(line: bytes, at: int, what: str) -> int:
    """
    Pass one space or more.
    """
    end = at
    while line[end : end + 1] == b" ":
        end += 1
    if end == at:
        raise UnreadableError(at, what, shown(line[at:]))
    return end


def _value(line: bytes, at: int) -> tuple[Any, int]:
    """
    Take a field's value.
    """
    if line[at : at + 1] == b'"':
        quoted = _TEXT.match(line, at)
        if quoted is None:
            raise UnreadableError(len(line), "'\"' at the text's end", "nothing")
        return _TEXT_ESCAPE.sub(r"\1", text_of(quoted[1])), quoted.end()
    found = _WORD.match(line, at)
    word = b"" if found is None else found[0]
    end = at + len(word)
    if word in _TRUTH:
        return _TRUTH[word], end
    whole = _WHOLE.fullmatch(word)
    if whole is not None:
        number = int(whole[1])
        if whole[2] == b"u" and 0 <= number < 1 << 64:
            return Unsigned(number), end
        if whole[2] == b"i" and _fits(number):
            return number, end
    elif NUMBER.fullmatch(word) and math.isfinite(float(word)):
        return float(word), end
    expected = "a number, a whole number of 64 bits, text in '\"', true or false"
    raise UnreadableError(at, expected, shown(word))


def _fits(number: int) -> bool:
    return -(1 << 63) <= number < 1 << 63


# Writing -----------------------------------------------------------------------

_BEHIND = r"\\\1"


def _keyed(text: str) -> str:
    return re.sub("([,= ])", _BEHIND, text)


def _written(value: Any) -> str:
    kind = _kind(value)
    if kind == "b":
        return "t" if value else "f"
    if kind in "iu":
        return f"{int(value)}{kind}"
    if kind == "f":
        return number_text(value)
    return '"' + re.sub(r'(["\\])', _BEHIND, str(value)) + '"'
