"""
Tags and keys: where in a header they are, and how they get there.

Reading is a matter of attributes. Writing goes the same way back for names, and for
a function by search: it is shown headers whose numbers have a few bits changed,
those that it reads, nearest to what they were first.
"""

from __future__ import annotations

import enum
import inspect
import itertools
import operator
import types
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, TypeAlias

import attrs
import construct as constructs

from protoserve.codec.record import Field, Record
from protoserve.errors import (
    InvalidMessageError,
)
from protoserve.messages import Message

__all__ = [
    "Direction",
    "Table",
    "Tag",
    "bits_of",
    "field_of",
    "fields_read",
    "is_given",
    "is_number",
    "item_of",
    "key_reader",
    "made_header",
    "nearby",
    "number_at",
    "part_of",
    "plain_tag",
    "replaced",
    "tag_reader",
    "tag_text",
    "zero_of",
]

Tag: TypeAlias = str | tuple[str, ...] | Callable[[Any], Hashable]
Table: TypeAlias = Mapping[Any, type[Message]] | type[Message]


class Direction(enum.Enum):
    """
    Which way a message goes.
    """

    REQUEST = "request"
    """From the client to the server."""

    RESPONSE = "response"
    """From the server to the client."""

    __hash__ = object.__hash__  # Enum's own is looked up and run in Python


def plain_tag(tag: Any) -> Any:
    """
    Bring enum members, Python's and Construct's, to what is on the wire.
    """
    if isinstance(tag, tuple):
        return tuple(map(plain_tag, tag))
    if isinstance(tag, enum.Enum):
        return tag.value
    if isinstance(tag, constructs.EnumIntegerString):
        return tag.intvalue
    return tag


def tag_text(tag: Any) -> str:
    """
    Write a tag for people, numbers as they stand in specifications.
    """
    return f"{tag:#x}" if type(tag) is int and tag > 9 else repr(tag)


def tag_reader(tag: Tag | None) -> Callable[[Any], Any]:
    """
    Make the function that reads a tag from a header.
    """
    if tag is None:
        return lambda _header: None
    if isinstance(tag, str):
        return operator.attrgetter(tag)
    if isinstance(tag, tuple):
        getters = [operator.attrgetter(name) for name in tag]
        return lambda header: tuple(get(header) for get in getters)
    return tag


def key_reader(correlate: Any) -> Callable[[Any, Any], Any] | None:
    """
    Make the function that reads a correlation key; `None` if there is none.
    """
    if correlate is None:
        return None
    if isinstance(correlate, str | tuple):
        read = tag_reader(correlate)

        def key(header: Any, _message: Any) -> Any:
            value = read(header)
            return value if type(value) is int else plain_tag(value)

        return key
    return correlate  # type: ignore[no-any-return]


def made_header(
    cls: type[Message], values: dict[str, Any], *, lenient: bool = False
) -> Any:
    """
    Make a header from defaults and some values given by dotted names.

    Args:
        cls: the header's class.
        values: what is known.
        lenient: fields that have no default become 0.
    """
    arguments: dict[str, Any] = {}
    for field in attrs.fields(cls):  # type: ignore[arg-type] # the metaclass made it one
        inner = {
            path.partition(".")[2]: value
            for path, value in values.items()
            if path.partition(".")[0] == field.name
        }
        nested = field_of(cls, field.name).construct
        if "" in inner:
            arguments[field.name] = inner[""]
        elif field.init and field.default is attrs.NOTHING:
            if isinstance(nested, Record):
                arguments[field.name] = made_header(
                    nested.owner, inner, lenient=lenient
                )
            elif inner or lenient:
                arguments[field.name] = zero_of(nested)
            else:
                raise InvalidMessageError(
                    f"{cls.__name__}.{field.name}",
                    "a value (it has no default, so give header=)",
                    "none",
                )
    return cls(**arguments)


def replaced(value: Any, changes: Mapping[str, Any]) -> Any:
    """
    Copy a message with some fields, given by dotted names, changed.
    """
    direct = {k: v for k, v in changes.items() if "." not in k}
    for path, change in changes.items():
        name, _, rest = path.partition(".")
        if rest:
            inner = direct.get(name, item_of(value, name))
            direct[name] = replaced(inner, {rest: change})
    if isinstance(value, dict):
        return constructs.Container(value, **direct)
    return attrs.evolve(value, **direct)


def item_of(value: Any, name: str) -> Any:
    """
    Take a part of a message or of a Construct container.
    """
    return value[name] if isinstance(value, dict) else getattr(value, name)


def field_of(cls: type[Message], name: str) -> Field:
    """
    Find a field of a message class by name.
    """
    return next(f for f in cls._record.fields if f.name == name)


def zero_of(part: Any) -> Any:
    """
    Make the value of a format that all bytes are 0 for.
    """
    try:
        return part.parse(bytes(part.sizeof()))
    except Exception:
        return 0


def is_number(value: Any) -> bool:
    """
    Whether a value is a whole number that is 0 or more.
    """
    return isinstance(value, int) and value >= 0


def part_of(cls: Any, path: str) -> Any:
    """
    Find the format of a header's field by its dotted name; `None` if there is none.
    """
    name, _, rest = path.partition(".")
    part: Any = next((f.construct for f in cls._record.fields if f.name == name), None)
    while rest and part is not None:
        if isinstance(part, Record):
            return part_of(part.owner, rest)
        if isinstance(part, constructs.Subconstruct):
            part = part.subcon
            continue
        name, _, rest = rest.partition(".")
        parts = getattr(part, "subcons", ())
        part = next((p for p in parts if p.name == name), None)
    return part


def bits_of(cls: type[Message], path: str) -> int | None:
    """
    Say how many bits a header's number has; `None` if it is no whole number.
    """
    part = part_of(cls, path)
    while isinstance(part, constructs.Subconstruct):
        part = part.subcon
    if part is constructs.Flag:
        return 1
    try:
        size = int(part.sizeof())
    except Exception:
        return 8 if part is constructs.VarInt else None
    if isinstance(part, constructs.BitsInteger):
        return size - bool(part.signed)
    if isinstance(part, constructs.BytesInteger):
        return 8 * size - bool(part.signed)
    if isinstance(part, constructs.FormatField) and part.fmtstr[-1] not in "efd":
        return 8 * size - bool(part.fmtstr[-1].islower())
    return None


class _Recorder:
    """
    Stands in for a header to see which of its numbers a function reads.
    """

    def __init__(self, value: Any, read: dict[str, int], prefix: str = "") -> None:
        self.__dict__.update(_value=value, _read=read, _prefix=prefix)

    def __getattr__(self, name: str) -> Any:
        own = inspect.getattr_static(type(self._value), name, None)
        if isinstance(own, property) and own.fget is not None:
            return own.fget(self)
        if inspect.isfunction(own):
            return types.MethodType(own, self)
        value = getattr(self._value, name)
        if isinstance(value, Message | dict):
            return _Recorder(value, self._read, f"{self._prefix}{name}.")
        number = plain_tag(value)
        if isinstance(number, int) and is_given(self._value, name):
            self._read[f"{self._prefix}{name}"] = int(number)
        return value

    __getitem__ = __getattr__


def is_given(holder: Any, name: str) -> bool:
    """
    Say whether a part can be set, as it does not follow from others.
    """
    if isinstance(holder, dict):
        return True
    return any(a.name == name and a.init for a in attrs.fields(type(holder)))


def number_at(header: Any, path: str) -> int:
    """
    Read a number from a header by dotted name.
    """
    for name in path.split("."):
        header = item_of(header, name)
    return int(plain_tag(header))


def fields_read(function: Callable[[Any], Any], cls: type[Message]) -> dict[str, int]:
    """
    Find which numbers a function reads, with how many bits of each are searched.

    What it reads may depend on what it has read, so each bit is changed once.
    """
    header = made_header(cls, {}, lenient=True)
    found: dict[str, int] = {}
    changes: list[dict[str, int]] = [{}]
    while changes:
        change = changes.pop()
        read: dict[str, int] = {}
        try:
            function(_Recorder(replaced(header, change), read))
        except Exception:
            if not change:
                raise
        for name in read.keys() - found.keys():
            found[name] = min(bits_of(cls, name) or 8, 16)
            changes += [
                {**change, name: read[name] ^ (1 << bit)} for bit in range(found[name])
            ]
    return found


def nearby(
    fields: dict[str, int], widths: dict[str, int], numbers: list[int]
) -> Iterator[dict[str, int]]:
    """
    Give values for some numbers, those with the fewest changed bits first.

    Where there are too many bits to try them all, fields that hold one of `numbers`
    come next.
    """
    places = [(name, bit) for name in fields for bit in range(widths[name])]
    few = len(places) <= 16
    yield from _flipped(fields, places, len(places) if few else 3)
    if few:
        return
    for name, number in itertools.product(fields, numbers):
        yield from _flipped({**fields, name: number}, places, 2)
    for order in itertools.permutations(numbers, min(len(fields), len(numbers))):
        yield from _flipped(
            {**fields, **dict(zip(fields, order, strict=False))}, places, 1
        )


def _flipped(
    start: dict[str, int], places: list[tuple[str, int]], most: int
) -> Iterator[dict[str, int]]:
    for changed in range(most + 1):
        for flips in itertools.combinations(places, changed):
            values = dict(start)
            for name, bit in flips:
                values[name] ^= 1 << bit
            yield values
