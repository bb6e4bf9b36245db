"""
Texts that survive their encoding and what is around it: limits, terminators, pads.
"""

from __future__ import annotations

import codecs
import contextlib
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
import construct

from protoserve.testing._choices import Choice, letters
from protoserve.testing._numbers import bounds_of

if TYPE_CHECKING:
    from hypothesis import strategies as st

__all__ = ["Room", "room_of", "texts"]

_LONG = 12
"""Characters of a text whose length is free."""


@attrs.frozen
class Room:
    """
    How much encoded text fits, and what may not be in it.
    """

    most: int | None = None
    exact: bool = False
    """Whether it must be `most` bytes, no less."""
    avoid: tuple[bytes, ...] = ()
    """Terminators and pads."""
    unit: int = 1
    """What the number of bytes is a multiple of: terminators are looked for so."""


def room_of(subcon: Any, size_of: Callable[[Any], int | None]) -> Room:
    """
    Find what limits the text in a construct.

    Args:
        subcon: what the encoded text is in.
        size_of: works out a length.
    """
    if isinstance(subcon, construct.Bytes):
        size = size_of(subcon.length)
        return Room(size, exact=size is not None)
    if not isinstance(subcon, construct.Subconstruct):
        return Room()
    if isinstance(subcon, construct.FixedSized | construct.Padded):
        size = size_of(subcon.length)
        inner = room_of(subcon.subcon, size_of)
        stripped = isinstance(subcon.subcon, construct.NullStripped)
        if size is None or (inner.most is not None and inner.most <= size):
            return inner
        return attrs.evolve(inner, most=size, exact=not stripped)
    inner = room_of(subcon.subcon, size_of)
    if isinstance(subcon, construct.NullTerminated):
        unit = max(inner.unit, len(subcon.term))
        return attrs.evolve(inner, avoid=(*inner.avoid, subcon.term), unit=unit)
    if isinstance(subcon, construct.NullStripped):
        return attrs.evolve(inner, avoid=(*inner.avoid, subcon.pad))
    if isinstance(subcon, construct.Prefixed) and inner.most is None:
        bounds = bounds_of(subcon.lengthfield, {})
        return inner if bounds is None else attrs.evolve(inner, most=bounds[1])
    return inner


@functools.lru_cache(maxsize=256)
def texts(encoding: str, room: Room) -> Choice[str | None]:
    """
    Choose a text in an encoding; it is `None` where there is none.
    """
    excluded: set[str] = set()
    for part in room.avoid:
        excluded.update(part.decode(encoding, "ignore"))
    left_out = "".join(sorted(excluded))
    longest = _LONG if room.most is None else min(_LONG, room.most)
    if room.exact and room.most:
        longest = min(room.most, 64)
    return letters(
        lambda: _alphabet(encoding, left_out),
        lambda character: character not in excluded and _survives(character, encoding),
        longest,
        lambda text: _fit(text, encoding, room),
    )


def _alphabet(encoding: str, excluded: str) -> st.SearchStrategy[str]:
    from hypothesis import strategies as st

    name = codecs.lookup(encoding).name
    if name.startswith("utf"):
        # A byte order mark in front would be taken for the encoding's own.
        return st.characters(
            exclude_categories=["Cs"], exclude_characters=f"{excluded}\ufeff"
        )
    if name in {"ascii", "iso8859-1"}:
        top = 127 if name == "ascii" else 255
        return st.characters(max_codepoint=top, exclude_characters=excluded)
    return st.sampled_from([ch for ch in _repertoire(name) if ch not in excluded])


@functools.lru_cache(maxsize=32)
def _repertoire(encoding: str) -> list[str]:
    """
    List the characters that an encoding gives back as they were.
    """
    every = map(chr, range(0x1_0000))
    return [character for character in every if _survives(character, encoding)]


def _survives(character: str, encoding: str) -> bool:
    with contextlib.suppress(UnicodeError):
        return character.encode(encoding).decode(encoding) == character
    return False


def _fit(text: str, encoding: str, room: Room) -> str | None:
    """
    Shorten or lengthen a text until it fits.
    """
    while text and not _fits(text, encoding, room):
        text = text[:-1]
    if not room.exact:
        return text
    assert room.most is not None
    while len(_encoded(text, encoding)) < room.most:
        text += "x"
    return text if len(_encoded(text, encoding)) == room.most else None


def _fits(text: str, encoding: str, room: Room) -> bool:
    data = _encoded(text, encoding)
    if len(data) % room.unit or (room.most is not None and len(data) > room.most):
        return False
    for part in room.avoid:
        unit = len(part)
        if any(data[i : i + unit] == part for i in range(0, len(data), unit)):
            return False
    try:
        return data.decode(encoding) == text
    except UnicodeDecodeError:
        return False


def _encoded(text: str, encoding: str) -> bytes:
    return text.encode(encoding) if text else b""
