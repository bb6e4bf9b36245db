"""
Texts of protocols that do not always send text.
"""

from __future__ import annotations

__all__ = ["clean"]


def clean(text: str) -> str:
    r"""
    Replace what is no text: bytes that were kept as lone surrogates (PEP 383).

    >>> clean("B\udcfcro")
    'B\ufffdro'
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
