"""
CAA: which authorities may issue certificates (RFC 8659 section 4.1).
"""

from __future__ import annotations

from construct import GreedyBytes, Int8ub, PascalString

from protoserve import Message, wire

__all__ = ["CAA"]


class CAA(Message):
    """
    One property, such as ``issue``.
    """

    flags: int = wire(Int8ub, doc="128: critical")
    tag: str = wire(PascalString(Int8ub, "ascii"))
    value: bytes = wire(GreedyBytes)
