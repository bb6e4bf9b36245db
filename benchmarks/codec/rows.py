"""
What is found: rows of numbers, some with a figure to reach.

Ratios are within one run, so they can be compared between machines. Milliseconds
cannot: they are shown beside their figure, and `--check` leaves them alone.
"""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen
class Reach:
    """
    A figure to reach.
    """

    limit: float
    most: bool = True
    """Whether the number may be at most the limit, or must be at least that."""
    ours: bool = False
    """Whether the figure is not among those promised, but kept by the benchmark."""

    def met(self, number: float, slack: float = 0.0) -> bool:
        """
        Say whether a number reaches the figure.

        Args:
            number: what was found.
            slack: how far it may be off, as a part of the figure.
        """
        if self.most:
            return number <= self.limit * (1 + slack)
        return number >= self.limit / (1 + slack)

    def __str__(self) -> str:
        return f"{'≤' if self.most else '≥'} {self.limit:g}"


@attrs.frozen
class Row:
    """
    One number.
    """

    group: str
    """The case, or what else was measured."""
    aspect: str
    """``parse``, ``build`` and so on."""
    name: str
    number: float
    unit: str = "ratio"
    """``ratio``, ``times`` (faster), ``count``, ``ms`` or ``bytes``."""
    low: float | None = None
    high: float | None = None
    """The quartiles."""
    seconds: float | None = None
    """The least time of one call."""
    reach: Reach | None = None
    excused: bool = False
    """Whether it is enough for another reason, which the note says."""
    note: str = ""

    @property
    def checked(self) -> bool:
        """
        Whether `--check` judges it.
        """
        return self.unit in ("ratio", "times", "count")

    def met(self, slack: float = 0.0) -> bool | None:
        """
        Say whether it reaches its figure; `None` if it has none.
        """
        if self.reach is None:
            return None
        return self.excused or self.reach.met(self.number, slack)

    def verdict(self) -> str:
        """
        Write whether it reaches its figure.
        """
        return {None: "", True: "met", False: "**not met**"}[self.met()]

    def as_json(self) -> dict[str, Any]:
        """
        Give everything for a file.
        """
        found = attrs.asdict(self)
        found["met"] = self.met()
        return found
