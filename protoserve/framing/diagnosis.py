"""
Say why a frame's length is absurd, in words that stand after a semicolon.
"""

from __future__ import annotations

from protoserve.codec.explain import guess

__all__ = ["SHOWN", "diagnose"]

SHOWN = 16
"""How many of a frame's first bytes an error shows."""


def diagnose(
    found: bytes, swapped: int | None = None, note: str | None = None
) -> str | None:
    r"""
    Guess what is wrong with a stream.

    Args:
        found: the first bytes of the frame.
        swapped: the length in the other byte order, if that is a sane one.
        note: something that is known for sure, said first.

    >>> diagnose(b"GET / HTTP/1.1")
    'these bytes look like an HTTP request'
    >>> diagnose(b"\x0c\0\0\0HELLO", swapped=12)
    'the length is sane in the other byte order (12)'
    """
    look = guess(found)
    if look is not None:
        why = f"these bytes look like {look}"
    elif swapped is not None:
        why = f"the length is sane in the other byte order ({swapped})"
    else:
        return note
    return why if note is None else f"{note}; {why}"
