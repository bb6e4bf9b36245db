"""
Names for the shapes that several layers share. Imports nothing of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

__all__ = ["BytesLike", "ChecksumFunction"]

BytesLike: TypeAlias = bytes | bytearray | memoryview
"""What can be parsed."""

ChecksumFunction: TypeAlias = Callable[[bytes], int]
"""Bytes in, a number that is 0 or more out."""
