"""
What tests of a protocol need: messages made from its declaration.

The names here need Hypothesis, which the extra ``protoserve[test]`` installs. It
is imported when one of them is used first.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from protoserve.testing.strategies import FrameExample, from_message, from_protocol

__all__ = ["FrameExample", "from_message", "from_protocol"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("protoserve.testing.strategies"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
