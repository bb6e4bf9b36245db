"""
Torture servers of binary protocols: break everything, and see what they make of it.

`torture` plays cases made from a protocol's declaration against a server, ours or
another's, and judges its answers by the same declaration. See ``docs/torture.md``.
"""

from __future__ import annotations

from protoserve.testing.torturing.cases import (
    Baseline,
    Case,
    End,
    Pause,
    Send,
    Settle,
)
from protoserve.testing.torturing.findings import Finding, Report
from protoserve.testing.torturing.judging import CATEGORIES
from protoserve.testing.torturing.junit import as_junit
from protoserve.testing.torturing.making import KINDS
from protoserve.testing.torturing.run import symptoms, torture
from protoserve.testing.torturing.saving import annotated, save
from protoserve.testing.torturing.seeds import requests_in

__all__ = [
    "CATEGORIES",
    "KINDS",
    "Baseline",
    "Case",
    "End",
    "Finding",
    "Pause",
    "Report",
    "Send",
    "Settle",
    "annotated",
    "as_junit",
    "requests_in",
    "save",
    "symptoms",
    "torture",
]
