"""
What torture has found, and how it is told.
"""

from __future__ import annotations

from typing import Any

import attrs

from protoserve.testing.torturing.cases import Case, Send

__all__ = ["Finding", "Report"]


@attrs.frozen
class Finding:
    """
    One fault of the server.
    """

    category: str
    """One of `CATEGORIES`."""
    kind: str
    """The class of the case that shows it."""
    text: str
    """What was seen."""
    what: str
    """What is special about the case."""
    cause: tuple[str, ...]
    case: Case | None
    """The smallest case that shows it; `None` if no single one does."""
    suspects: tuple[Case, ...] = ()
    """Without such a case: what was sent last."""
    answer: bytes = b""
    """The answer that is wrong, where it is one."""

    @property
    def title(self) -> str:
        """
        What it is, in a line.
        """
        return f"{self.category}: {self.text}"

    @property
    def name(self) -> str:
        """
        A short name, for files.
        """
        return f"{self.category}_{self.kind}".replace("-", "_")

    def as_json(self) -> dict[str, Any]:
        """
        Give it in JSON's terms.
        """
        cases = () if self.case is None else (self.case,)
        return {
            "category": self.category,
            "kind": self.kind,
            "text": self.text,
            "what": self.what,
            "sent": [
                step.data.hex()
                for case in cases or self.suspects
                for step in case.steps
                if isinstance(step, Send)
            ],
            "reproduced": self.case is not None,
            "answer": self.answer.hex() or None,
        }

    def __str__(self) -> str:
        return f"{self.title} (class {self.kind}: {self.what})"


@attrs.define
class Report:
    """
    What came of a run.
    """

    protocol: str
    url: str
    seed: int
    cases: int = 0
    """How many were played."""
    seconds: float = 0.0
    by_kind: dict[str, int] = attrs.field(factory=dict)
    """How many of each class."""
    findings: list[Finding] = attrs.field(factory=list)
    more: int = 0
    """Cases that show more of a category that has enough findings."""
    unconfirmed: list[str] = attrs.field(factory=list)
    """What looked wrong once and did not when it was tried again."""
    notes: list[str] = attrs.field(factory=list)
    """What a reader has to know: requests that are never answered, and the like."""
    probe: bytes = b""
    """A frame that the server answers."""
    stopped: str = ""
    """Why it has ended before its budget; empty if it has not."""

    @property
    def rate(self) -> float:
        """
        Cases a second.
        """
        return self.cases / self.seconds if self.seconds else 0.0

    def count(self, category: str) -> int:
        """
        Say how many findings there are of a category.
        """
        return sum(finding.category == category for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """
        Give it in JSON's terms.
        """
        plain = attrs.asdict(self, recurse=False)
        plain["findings"] = [finding.as_json() for finding in self.findings]
        plain["probe"] = self.probe.hex()
        plain["seconds"] = round(self.seconds, 3)
        return plain

    def __str__(self) -> str:
        speed = f"{self.cases:,} cases in {self.seconds:.1f} s ({self.rate:,.0f}/s)"
        lines = [f"{speed}, {len(self.findings) or 'no'} findings"]
        lines += [str(finding) for finding in self.findings]
        lines += [f"stopped: {self.stopped}"] if self.stopped else []
        return "\n".join(lines)
