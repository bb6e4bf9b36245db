"""
How a sender numbers what it sends, so that a gap shows what has been lost.
"""

from __future__ import annotations

import attrs

__all__ = ["Numbered"]


@attrs.frozen
class Numbered:
    """
    Which field counts what a sender has sent.

    ``Protocol(numbered=Numbered("sequence"))`` says so of all messages; a mapping of
    message classes says it of each.
    """

    field: str
    """The header's or the message's field that holds the number of this message."""
    step: int | str = attrs.field(default=1, kw_only=True)
    """By how much the next one's is greater, or the field that says so."""
    streams: tuple[str, ...] = attrs.field(default=(), kw_only=True)
    """Fields that tell one sender's counters apart."""
    bits: int = attrs.field(
        default=32, kw_only=True, validator=attrs.validators.in_(range(1, 65))
    )
    """The counter's width: it begins anew at zero."""
