"""
One failure on its way from the field that saw it to the caller.

A `Fault` is a `ConstructError`, so that Construct's own combinators, and users'
subclasses of them, treat it as they treat any failure. It becomes a
`MalformedMessageError` or an `InvalidMessageError` at the codec's boundary.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import construct
from construct import core

from protoserve.errors import MalformedMessageError

__all__ = ["Fault", "build_fault", "describe", "parse_fault", "plural", "size_of"]


class Fault(construct.ConstructError):  # type: ignore[misc] # construct is untyped
    """
    Where something went wrong, what should have been there and what was.
    """

    def __init__(self, path: str, offset: int, expected: str, found: str) -> None:
        super().__init__(f"{path}: expected {expected}, found {found}")
        self.path = path
        self.offset = offset
        self.expected = expected
        self.found = found
        self.is_told = False
        """Whether a construct itself has told the place: it knows what its bytes are."""


def plural(count: int, noun: str) -> str:
    """
    Write a number of things.

    >>> plural(1, "byte"), plural(2, "byte")
    ('1 byte', '2 bytes')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


_ALIASES = frozenset(
    [
        "Byte",
        "Short",
        "Int",
        "Long",
        "Half",
        "Single",
        "Double",
        "Bit",
        "Nibble",
        "Octet",
    ]
)
_NAMES = {
    id(value): name
    for name, value in vars(core).items()
    if isinstance(value, construct.Construct) and name not in _ALIASES
}


def describe(subcon: Any) -> str:
    """
    Name a Construct object as its user would.
    """
    while isinstance(subcon, construct.Renamed):
        subcon = subcon.subcon
    name = _NAMES.get(id(subcon))
    if name is not None:
        return str(name)
    kind = type(subcon).__name__
    if isinstance(subcon, construct.BytesInteger | construct.BitsInteger):
        return f"{kind}({subcon.length})"
    if isinstance(subcon, construct.FormatField):
        return f"struct {subcon.fmtstr!r}"
    return kind


def _left(stream: Any, start: int) -> int:
    """
    Count the bytes from a place to the end of the stream.
    """
    stream.seek(0, 2)
    return max(0, int(stream.tell()) - start)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _after(exc: Exception, marker: str) -> str:
    """
    Take what Construct's message says it found; or what one that is not its own says.
    """
    _, marked, found = str(exc).rpartition(marker)
    return found.strip() if marked else f"another ({_said(exc)})"


def _said(exc: Exception) -> str:
    """
    Take what an error says behind the path that Construct puts in front.
    """
    return str(exc).split("\n", maxsplit=1)[-1].strip() or "no details"


_REASONS: dict[type[Exception], Callable[[Any, Any], tuple[str, str]]] = {
    KeyError: lambda _, exc: (
        f"a field named {exc.args[0]!r} in what encloses this one",
        "none (a message that refers to its header is parsed by its Protocol)",
    ),
    RecursionError: lambda _, __: (
        "a structure that the interpreter's stack can hold",
        "deeper nesting",
    ),
    construct.ExplicitError: lambda _, __: (
        "one of the cases that the format knows",
        "another (it declares an Error there)",
    ),
    OSError: lambda _, __: ("more bytes", "the end of the data"),
    construct.CheckError: lambda _, __: ("the declared check to hold", "it fails"),
    construct.TerminatedError: lambda _, __: ("the end of the data", "more bytes"),
    construct.ConstError: lambda subcon, exc: (
        repr(subcon.value),
        _after(exc, "but parsed "),
    ),
    construct.ValidationError: lambda _, exc: (
        "a value that the declared check accepts",
        _after(exc, "failed validation: "),
    ),
    construct.MappingError: lambda subcon, exc: (
        f"a value that {describe(subcon)} maps",
        _after(exc, "mapping for "),
    ),
    construct.StringError: lambda subcon, exc: (
        f"{getattr(subcon, 'encoding', 'valid')} text",
        _after(exc, "to decode "),
    ),
}


def _reason(subcon: Any, exc: Exception) -> tuple[str, str]:
    for kind, compose in _REASONS.items():
        if isinstance(exc, kind):
            return compose(subcon, exc)
    return f"a valid {describe(subcon)}", f"{type(exc).__name__}: {_said(exc)}"


def size_of(subcon: Any) -> int | None:
    """
    Give what a Construct object's own `sizeof` gives, or `None`.

    That would leave a context that refers to itself to the cycle collector.
    """
    context = construct.Container(_parsing=False, _building=False, _sizing=True)
    context["_params"] = context
    try:
        size: int = subcon._sizeof(context, "")
    except Exception:
        return None
    else:
        return size
    finally:
        context.clear()


def parse_fault(
    subcon: Any, exc: Exception, stream: Any, start: int, path: str
) -> Fault:
    """
    Say why a Construct object could not be parsed.

    Args:
        subcon: the object that failed.
        exc: what it raised.
        stream: what it read from.
        start: where in the stream it started.
        path: the field's path.
    """
    if isinstance(exc, MalformedMessageError):
        told = Fault(exc.path, exc.offset, exc.expected, exc.found)
        told.is_told = True
        return told
    if isinstance(exc, construct.StreamError | construct.FormatFieldError):
        needed = size_of(subcon)
        left = _left(stream, start)
        if needed is not None and needed > left:
            expected = f"{plural(needed, 'byte')} ({describe(subcon)})"
            return Fault(path, start, expected, plural(left, "byte"))
    expected, found = _reason(subcon, exc)
    return Fault(path, start, expected, found)


def build_fault(subcon: Any, exc: Exception, value: object, path: str) -> Fault:
    """
    Say why a value could not be built.
    """
    expected, found = f"a value that {describe(subcon)} can hold", _short(value)
    if isinstance(subcon, construct.FormatField):
        code = subcon.fmtstr[-1]
        if code in "BHLQbhlq":
            bits = 8 * struct.calcsize(subcon.fmtstr)
            low = -(1 << bits - 1) if code.islower() else 0
            high = low + (1 << bits) - 1
            expected = f"an integer in {low}..{high} ({describe(subcon)})"
        else:
            expected = f"a number ({describe(subcon)})"
    elif not isinstance(exc, construct.ConstructError | TypeError | AttributeError):
        expected, found = _reason(subcon, exc)
    elif isinstance(exc, construct.ConstructError):
        text = str(exc).split("\n", maxsplit=1)[-1].strip()
        found = f"{found} ({text})" if text else found
    return Fault(path, 0, expected, found)
