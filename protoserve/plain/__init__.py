"""
Messages as plain values, and back: what JSON, the command line and journals hold.

`to_plain` goes by the values alone: enum members by name, bytes as hex text, messages
as dicts. `from_plain` is its reverse and goes by the declaration, as only that knows
that ``"0a0b"`` are two bytes in one field and four letters in another. Where a format
has a choice, the choice's own expression decides, among the values read so far.
"""

from __future__ import annotations

from protoserve.plain._errors import PlainError
from protoserve.plain._reading import from_plain
from protoserve.plain._text import assign, read_value
from protoserve.plain._writing import to_plain

__all__ = ["PlainError", "assign", "from_plain", "read_value", "to_plain"]
