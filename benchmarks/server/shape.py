"""
What the frames of a load look like, told by words that any program can read.
"""

from __future__ import annotations

import attrs


@attrs.frozen
class Shape:
    """
    The layout of stream frames: length, kind, a 32-bit ident, body.
    """

    prefix: int = 2
    """Bytes of the length, which counts what follows it: 2 or 4."""
    kind: int = 1
    """Bytes of the kind; a reply has its top bit set."""
    kinds: int = 1
    """How many message types there are; they are numbered from 1 and take turns."""
    body: int = 8
    """Bytes of the body."""
    fields: int = 0
    """How many 16-bit numbers the body is declared as; 0: a run of bytes."""

    @property
    def size(self) -> int:
        """
        The bytes of a whole frame.
        """
        return self.prefix + self.kind + 4 + self.body

    @property
    def reply_bit(self) -> int:
        """
        What a reply's kind has and a request's has not.
        """
        return 1 << (8 * self.kind - 1)

    def for_load(self) -> list[str]:
        """
        Give the load generator's arguments.
        """
        return [str(n) for n in (self.prefix, self.kind, self.kinds, self.body)]

    def __str__(self) -> str:
        return ",".join(map(str, attrs.astuple(self)))

    @classmethod
    def parse(cls, text: str) -> Shape:
        """
        Read what ``str(shape)`` gives.
        """
        return cls(*map(int, text.split(",")))


SMALL = Shape()
"""15 bytes: what all but the growth of cost is measured with."""
