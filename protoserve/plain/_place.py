"""
Where a plain value stands that is being read.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

import attrs

__all__ = ["Place"]


@attrs.frozen
class Place:
    """
    Where a value stands.
    """

    path: str
    context: Any
    """What expressions see."""
    read: Callable[[Any, Any, Place], Any]
    """Reads what is inside: by a construct, a plain value, here."""
    annotation: Any = Any
    """The type that the class says the value has."""

    def element(self, i: int) -> Place:
        """
        Go to an element of a list.
        """
        self.context["_index"] = i
        types = typing.get_args(self.annotation) if self.annotation is not Any else ()
        # Of a tuple each element has its type; of lists, all have the first.
        of_tuple = len(types) > 1 and ... not in types and i < len(types)
        each = types[i] if of_tuple else types[0] if types else Any
        return Place(f"{self.path}[{i}]", self.context, self.read, each)
