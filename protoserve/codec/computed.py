"""
Field values that follow from other fields: lengths, counts, checksums.

Each works in both directions. On build it is filled in once the bytes that it
speaks of exist; on parse it is compared with them. They name *spans*: one
sibling field, or a first and a last one, inclusive. In a protocol's header and
trailer the names ``header``, ``body`` and ``trailer`` stand for the parts of
the frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, TypeVar

import attrs

from protoserve.errors import DeclarationError
from protoserve.types import ChecksumFunction

__all__ = [
    "FRAME_PARTS",
    "ChecksumOf",
    "Computed",
    "CountOf",
    "LengthOf",
    "Pending",
    "checksum_of",
    "count_of",
    "inner_first",
    "length_of",
]

FRAME_PARTS = frozenset({"header", "body", "trailer"})
"""Span names that a frame provides, see `protoserve.Protocol`."""


@attrs.frozen
class Computed:
    """
    A field's value that follows from other fields.
    """

    first: str
    last: str

    @property
    def names(self) -> tuple[str, ...]:
        """
        The fields it speaks of.
        """
        return (self.first,) if self.first == self.last else (self.first, self.last)

    def __str__(self) -> str:
        return " to ".join(self.names)


@attrs.frozen
class LengthOf(Computed):
    """
    The length of a span; see `length_of`.
    """

    plus: int = 0
    unit: int = 1

    def value(self, size: int) -> int | None:
        """
        Work out the number for a span of `size` bytes, `None` if there is none.
        """
        number, rest = divmod(size + self.plus, self.unit)
        return None if rest or number < 0 else number

    def __str__(self) -> str:
        plus = f" {self.plus:+d}" if self.plus else ""
        unit = f" in units of {self.unit} bytes" if self.unit != 1 else ""
        return f"the length of {super().__str__()}{plus}{unit}"


@attrs.frozen
class CountOf(Computed):
    """
    The number of a list's elements; see `count_of`.
    """

    def __str__(self) -> str:
        return f"the number of elements of {super().__str__()}"


@attrs.frozen
class ChecksumOf(Computed):
    """
    A checksum over a span; see `checksum_of`.
    """

    using: ChecksumFunction

    @property
    def function(self) -> ChecksumFunction:
        """
        The function itself, where `using` only wraps one.
        """
        engine = getattr(self.using, "engine", None)
        found: ChecksumFunction = self.using if engine is None else engine()
        return found

    def __str__(self) -> str:
        name = getattr(self.using, "__name__", repr(self.using))
        return f"{name} over {super().__str__()}"


def _span(function: str, names: tuple[str, ...]) -> tuple[str, str]:
    if not 1 <= len(names) <= 2 or not all(isinstance(n, str) for n in names):
        raise DeclarationError(
            f"{function} takes the name of one field, or of the first and the last "
            f"of several; it was given {names!r}"
        )
    return names[0], names[-1]


def length_of(*names: str, plus: int = 0, unit: int = 1) -> Any:
    """
    Declare that a field holds the length of other fields in bytes.

    Args:
        names: one field, or the first and the last of a span (inclusive).
        plus: bytes to add, as for a length that counts itself; may be negative.
        unit: bytes that one step of the number stands for, as 4 for a length
            in 32-bit words.

    Returns:
        What `wire` takes as ``value=``.

    ::

        length: int = wire(Int16ub, value=length_of("kind", "payload", plus=2))
    """
    if unit < 1:
        raise DeclarationError(f"length_of: unit must be 1 or more, not {unit}")
    return LengthOf(*_span("length_of", names), plus, unit)


def count_of(name: str) -> Any:
    """
    Declare that a field holds the number of elements of a list field.

    Args:
        name: the list's field.

    Returns:
        What `wire` takes as ``value=``.
    """
    return CountOf(*_span("count_of", (name,)))


def checksum_of(*names: str, using: ChecksumFunction) -> Any:
    """
    Declare that a field holds a checksum of other fields' bytes.

    If the span includes the field itself, its own bytes count as zeros, as in
    the Internet checksum (RFC 1071 section 1).

    Args:
        names: one field, or the first and the last of a span (inclusive).
        using: bytes in, number out; `protoserve.checksums` has the usual ones.

    Returns:
        What `wire` takes as ``value=``.
    """
    if not callable(using):
        raise DeclarationError(f"checksum_of: using must be callable, not {using!r}")
    return ChecksumOf(*_span("checksum_of", names), using)


_T = TypeVar("_T")
_Range = tuple[int, int]


def inner_first(entries: Sequence[tuple[_T, _Range, _Range]]) -> list[_T]:
    """
    Order checksums so that each comes after those that its span contains.

    Args:
        entries: what to order, with the range that it is over and its own range, in
            any unit.

    Raises:
        ValueError: two of them contain each other.
    """
    waiting = list(entries)
    ordered: list[_T] = []
    while waiting:
        ready = [
            entry
            for entry in waiting
            if not any(
                entry[1][0] <= other[2][0] < entry[1][1]
                for other in waiting
                if other is not entry
            )
        ]
        if not ready:
            raise ValueError("checksums that contain each other")
        ordered += [item for item, _, _ in ready]
        waiting = [entry for entry in waiting if entry not in ready]
    return ordered


class Pending(int):
    """
    A length that is not known yet while its own span is being built.

    Lengths given to Construct may depend on it, as in ``Bytes(this.length - 8)``;
    what they limit then takes its natural size. Compared with anything it is
    large.
    """

    def __new__(cls) -> Self:  # noqa: D102 - documented with its class
        return super().__new__(cls, 1 << 62)

    def _same(self, _other: object = None) -> Pending:
        return self

    __add__ = __radd__ = __sub__ = __mul__ = __rmul__ = _same
    __floordiv__ = __lshift__ = __rshift__ = __and__ = __or__ = _same
    __truediv__ = __mod__ = __neg__ = __rsub__ = _same
