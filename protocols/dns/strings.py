"""
Character strings (RFC 1035 section 3.3): up to 255 octets of any kind, as bytes.
"""

from __future__ import annotations

from construct import GreedyBytes, Int8ub, Prefixed

__all__ = ["CharacterString"]

CharacterString = Prefixed(Int8ub, GreedyBytes)
