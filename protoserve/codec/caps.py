"""
How much one message may ask for, whatever its bytes claim.

Construct believes every count and length that it reads: four bytes can make a
million objects. These caps are applied before anything is allocated.
"""

from __future__ import annotations

from typing import Any

import attrs
from attrs import validators

from protoserve.codec.fault import Fault

__all__ = ["Caps", "Usage", "usage_of"]


def _cap(default: int) -> Any:
    return attrs.field(
        default=default, validator=[validators.instance_of(int), validators.ge(1)]
    )


@attrs.frozen(kw_only=True)
class Caps:
    """
    Ceilings for parsing one message; give them as ``class M(Message, caps=…)``.
    """

    size: int = _cap(16 << 20)
    """Bytes handed to `Message.parse`. (Streams are capped by their framing.)"""

    elements: int = _cap(65_536)
    """Elements of all arrays and ranges of one message together."""

    depth: int = _cap(50)
    """Messages and recursive structures inside one another; protobuf allows 100."""

    decompressed: int = _cap(16 << 20)
    """Bytes that one compressed field may unfold to."""

    varint: int = _cap(10)
    """Bytes of one variable-length integer: 10 hold 64 bits, as in protobuf."""


@attrs.define
class Usage:
    """
    What one parse has used of its caps so far.
    """

    caps: Caps
    elements: int = 0
    depth: int = 0

    def take_elements(self, count: int, offset: int, path: str) -> None:
        """
        Count elements that are about to be made.

        Raises:
            Fault: there are more of them than the cap allows.
        """
        self.elements += count
        if self.elements > self.caps.elements:
            raise Fault(
                path,
                offset,
                f"at most {self.caps.elements} elements in one message "
                "(caps=Caps(elements=…) allows more)",
                f"{self.elements}",
            )

    def enter(self, offset: int, path: str) -> None:
        """
        Go one level deeper.

        Raises:
            Fault: that is deeper than the cap allows.
        """
        self.depth += 1
        if self.depth > self.caps.depth:
            raise Fault(
                path,
                offset,
                f"at most {self.caps.depth} levels of nesting "
                "(caps=Caps(depth=…) allows more)",
                f"{self.depth}",
            )


def usage_of(context: Any) -> Usage:
    """
    Find the counters of the parse that a Construct context belongs to.
    """
    params = context.get("_params", context)
    usage = params.get("_usage")
    if usage is None:
        # A message's Construct form was used inside a plain Construct parse.
        usage = params["_usage"] = Usage(Caps())
    return usage  # type: ignore[no-any-return] # construct is untyped
