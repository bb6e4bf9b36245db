"""
Where the streams of a test are cut.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

__all__ = ["Splitter", "at_random", "byte_by_byte", "whole"]

Splitter: TypeAlias = Callable[[bytes], Iterable[bytes]]
"""Cuts what is sent over a stream at a time into what is read at a time."""

_FEW = 4
"""Bytes of a short piece."""


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    """
    Cut a stream between all its bytes; for ``split=``.
    """
    return (data[i : i + 1] for i in range(len(data)))


def whole(data: bytes) -> Iterator[bytes]:
    """
    Leave a stream as it is.
    """
    return iter((data,))


def at_random(seed: str) -> Splitter:
    """
    Make what cuts at random places: some pieces are short, some as long as can be.
    """
    chance = random.Random(seed)  # noqa: S311 - it hides nothing

    def split(data: bytes) -> Iterator[bytes]:
        at = 0
        while at < len(data):
            most = chance.choice((1, _FEW, len(data)))
            size = chance.randint(1, most)
            yield data[at : at + size]
            at += size

    return split
