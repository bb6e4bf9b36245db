"""
What comparing finds, before it is told who sends and who reads.
"""

from __future__ import annotations

import attrs

__all__ = ["BOTH", "NEW", "NOBODY", "OLD", "Difference"]

OLD = "old"
NEW = "new"
BOTH = (OLD, NEW)
NOBODY = ()


@attrs.frozen
class Difference:
    """
    Something that is not as it was.
    """

    where: str
    what: str

    readers: tuple[str, ...]
    """Whose reading of what the other version sends breaks: `OLD`, `NEW`, or both."""

    ways: tuple[str, ...] = ("request", "response")
    """The directions that it is about."""
