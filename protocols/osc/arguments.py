"""
The arguments of an OSC message, and the type tags that say what they are.

===  =======================  =============================
tag  on the wire              here
===  =======================  =============================
i h  int of 32, 64 bits       `int`
t    NTP timestamp            `int`, in 2**-32 s since 1900
f d  float of 32, 64 bits     `float`
s S  text (a symbol)          `str`
b    bytes, with their count  `bytes`
c    a character              `str` of one character
r    a colour                 `int`, 0xRRGGBBAA
m    a MIDI message           `bytes`, 4 of them
T F  nothing                  `True`, `False`
N    nothing                  `None`
I    nothing                  `math.inf`
[ ]  what is between them     `list`
===  =======================  =============================

Everything fills whole words of four bytes. Most tags take bytes, so that the length
of a message bounds how many arguments it has; for the others, and for lists inside
of lists, there are limits.

Source: The Open Sound Control 1.0 Specification, "OSC Type Tag String"; 1.1, "OSC
Features".
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import construct
from construct import (
    Aligned,
    Bytes,
    Const,
    CString,
    ExprAdapter,
    GreedyRange,
    Mapping,
    NullTerminated,
    Sequence,
)

__all__ = [
    "MOST_ARGUMENTS",
    "MOST_LISTS",
    "Address",
    "Arguments",
    "TypeTags",
    "tags_of",
]

MOST_ARGUMENTS = 16_384
"""Arguments of one message: what a datagram of 64 KiB has room for."""
MOST_LISTS = 16
"""Lists inside one another."""

OscString = Aligned(4, CString("utf8"))
"""A text; the specification says ASCII, and UTF-8 is what is sent."""

Address = ExprAdapter(
    Aligned(4, Sequence(Const(b"/"), CString("utf8"))),
    lambda parts, _context: f"/{parts[1]}",
    lambda text, _context: [b"/", _behind_slash(text)],
)
"""An OSC-string that begins with a slash."""

_TAGS = {tag: tag.encode() for tag in "ihtfdsSbcrmTFNI[]"}

TypeTags = ExprAdapter(
    Aligned(
        4,
        Sequence(Const(b","), NullTerminated(GreedyRange(Mapping(Bytes(1), _TAGS)))),
    ),
    lambda parts, _context: "".join(parts[1]),
    lambda tags, _context: [b",", list(tags)],
)
"""The type tags, without the comma before them."""


def _behind_slash(address: str) -> str:
    if not address.startswith("/"):
        raise ValueError(f"expected an address that begins with '/', got {address!r}")
    return address[1:]


_NOTHING: dict[str, Any] = {"T": True, "F": False, "N": None, "I": math.inf}
_NUMBERS = {"i": ">i", "h": ">q", "t": ">Q", "f": ">f", "d": ">d", "r": ">I"}
_INT32 = range(-(1 << 31), 1 << 31)


def tags_of(arguments: Iterable[Any]) -> str:
    """
    Choose type tags by the arguments' Python types.

    Integers are ``i`` where they fit and ``h`` otherwise, floats are ``f``: who wants
    ``d`` gives the tags himself.

    Raises:
        ValueError: there is no tag for an argument.

    >>> tags_of([1, 2.5, "on", None, [True, 1 << 40]])
    'ifsN[Th]'
    """
    return "".join(map(_tag_of, arguments))


def _tag_of(value: Any) -> str:
    if value is None:
        return "N"
    if isinstance(value, bool):
        return "T" if value else "F"
    if isinstance(value, int):
        return "i" if value in _INT32 else "h"
    if isinstance(value, float):
        return "f"
    if isinstance(value, str):
        return "s"
    if isinstance(value, bytes | bytearray | memoryview):
        return "b"
    if isinstance(value, list | tuple):
        return f"[{tags_of(value)}]"
    raise ValueError(f"no OSC type for {value!r}")


class Arguments(construct.Construct):  # type: ignore[misc] # construct is untyped
    """
    The arguments that type tags announce.

    Args:
        types: the tags, or what gives them in a context; `None`: there are none.
    """

    def __init__(self, types: Any) -> None:
        super().__init__()
        self.types = types

    def _parse(self, stream: Any, context: Any, path: str) -> list[Any]:
        tags = construct.evaluate(self.types, context) or ""
        return _arranged(tags, lambda tag: _read(tag, stream, context, path))

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> Any:
        tags = construct.evaluate(self.types, context) or ""
        values = _flat(obj)

        def write(tag: str) -> None:
            try:
                value = next(values)
            except StopIteration:
                raise ValueError(f"expected an argument for each of {tags!r}") from None
            _write(tag, value, stream, context, path)

        shape = _arranged(tags, write)
        if _shape(obj) != shape or next(values, _NOTHING) is not _NOTHING:
            raise ValueError(f"expected arguments as in {tags!r}, got {obj!r}")
        return obj

    def _sizeof(self, context: Any, path: str) -> int:  # noqa: ARG002 # construct's signature
        raise construct.SizeofError("it depends on the tags", path=path)


def _arranged(tags: str, each: Callable[[str], Any]) -> list[Any]:
    """
    Call a function for each argument's tag, and arrange what it gives in lists.
    """
    if len(tags) > MOST_ARGUMENTS:
        raise ValueError(
            f"expected at most {MOST_ARGUMENTS} arguments, found {len(tags)}"
        )
    open_lists: list[list[Any]] = [[]]
    for i, tag in enumerate(tags):
        if tag == "[":
            if len(open_lists) > MOST_LISTS:
                raise ValueError(f"expected at most {MOST_LISTS} lists in lists")
            inner: list[Any] = []
            open_lists[-1].append(inner)
            open_lists.append(inner)
        elif tag == "]":
            if len(open_lists) == 1:
                raise ValueError(f"tag {i} is a ']' without a '['")
            open_lists.pop()
        else:
            open_lists[-1].append(each(tag))
    if len(open_lists) > 1:
        raise ValueError("a '[' among the tags has no ']'")
    return open_lists[0]


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def _shape(values: Any) -> list[Any]:
    return [_shape(v) if isinstance(v, list | tuple) else None for v in values]


def _read(tag: str, stream: Any, context: Any, path: str) -> Any:
    if tag in _NOTHING:
        return _NOTHING[tag]
    if tag in _NUMBERS:
        form = _NUMBERS[tag]
        data = construct.stream_read(stream, struct.calcsize(form), path)
        return struct.unpack(form, data)[0]
    if tag in "sS":
        return OscString._parsereport(stream, context, path)  # noqa: SLF001 # construct's way to go on
    if tag == "b":
        return _Blob._parsereport(stream, context, path)  # noqa: SLF001 # as above
    if tag == "m":
        return construct.stream_read(stream, 4, path)
    if tag == "c":
        code = int.from_bytes(construct.stream_read(stream, 4, path))
        if code > 0x7F:
            raise ValueError(f"expected an ASCII character, found {code:#x}")
        return chr(code)
    raise ValueError(f"expected a type tag of OSC, found {tag!r}")


_Blob = Aligned(4, construct.Prefixed(construct.Int32ub, construct.GreedyBytes))


def _write(tag: str, value: Any, stream: Any, context: Any, path: str) -> None:
    if tag in _NOTHING:
        wanted = _NOTHING[tag]
        if value is not wanted and value != wanted:
            raise ValueError(f"expected {wanted!r} for tag {tag!r}, got {value!r}")
    elif tag in _NUMBERS:
        try:
            data = struct.pack(_NUMBERS[tag], value)
        except (struct.error, OverflowError) as exc:
            raise ValueError(f"{value!r} for tag {tag!r}: {exc}") from exc
        construct.stream_write(stream, data, len(data), path)
    elif tag in "sS":
        OscString._build(value, stream, context, path)  # noqa: SLF001 # construct's way to go on
    elif tag == "b" and isinstance(value, bytes | bytearray | memoryview):
        _Blob._build(bytes(value), stream, context, path)  # noqa: SLF001 # as above
    elif tag == "m" and isinstance(value, bytes) and len(value) == 4:
        construct.stream_write(stream, value, 4, path)
    elif tag == "c" and isinstance(value, str) and len(value) == 1 and value.isascii():
        construct.stream_write(stream, ord(value).to_bytes(4), 4, path)
    else:
        raise ValueError(f"{value!r} does not fit tag {tag!r}")
