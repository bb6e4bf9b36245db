"""
How much of a message's codec is generated, and why the rest is left to Construct.

Nothing is told twice: the functions are made as they always are, and their source
says which objects it calls upon. Why that is so follows from the plan.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from typing import Any

import attrs
import construct

from protoserve.codec.caps import Caps
from protoserve.codec.compiled import builder_of, parser_of, source_of
from protoserve.codec.fault import describe
from protoserve.codec.generate_build import POSITIONED, movable
from protoserve.codec.nodes import Traced, children
from protoserve.codec.plan import Opaque, has_rule, plan_of
from protoserve.codec.record import Record

__all__ = ["Coverage", "Level", "coverage_of"]


class Level(enum.Enum):
    """
    What parses or builds a message.
    """

    GENERATED = "generated"
    PARTLY = "a field by Construct"
    """Generated code, which lets Construct do some of the fields."""
    INTERPRETED = "the message by Construct"


@attrs.frozen
class Coverage:
    """
    What of a message is generated.
    """

    parse: Level
    build: Level
    reasons: tuple[tuple[str, str], ...]
    """Why some of it is not: the name of a Construct object, and a verb phrase."""


def coverage_of(record: Record, caps: Caps) -> Coverage:
    """
    Make both functions of a message, and see what they leave to Construct.

    Args:
        record: the message's Construct form.
        caps: its ceilings.
    """
    parse, left = _level(parser_of(record, caps))
    build, also = _level(builder_of(record))
    reasons = [_why(subcon) for subcon in [*left, *also]]
    if Level.INTERPRETED in (parse, build):
        reasons += _blockers(record)
    return Coverage(parse, build, tuple(dict.fromkeys(reasons)))


def _level(function: Callable[..., Any]) -> tuple[Level, list[Any]]:
    source = source_of(function)
    if source is None:
        return Level.INTERPRETED, []
    names = re.findall(r"(?:parse|build)_opaque\((\w+)", source)
    left = [function.__globals__[name] for name in dict.fromkeys(names)]
    return (Level.PARTLY if left else Level.GENERATED), left


def _blockers(record: Record) -> list[tuple[str, str]]:
    """
    Say what keeps a whole message from being generated.
    """
    fixed = [field.construct for field in record.fields if not movable(field.construct)]
    return [_why(subcon) for subcon in fixed]


def _why(subcon: Any) -> tuple[str, str]:
    found = _culprit(subcon, set())
    if found is None:
        return describe(_bare(subcon)), "refers to what only Construct's context has"
    return describe(found[0]), found[1]


def _bare(subcon: Any) -> Any:
    """
    Take off names, and what the guard puts around things.
    """
    while True:
        if isinstance(subcon, Traced):
            subcon = subcon.original
        elif isinstance(subcon, construct.Renamed) and subcon.parsed is None:
            subcon = subcon.subcon
        else:
            return subcon


def _culprit(subcon: Any, seen: set[int]) -> tuple[Any, str] | None:
    """
    Find the innermost part that has no generated code, and say why.
    """
    if id(subcon) in seen:
        return None
    seen.add(id(subcon))
    subcon = _bare(subcon)
    for child in children(subcon):
        if found := _culprit(child, seen):
            return found
    reason = _reason(subcon)
    return None if reason is None else (subcon, reason)


def _reason(subcon: Any) -> str | None:
    if not type(subcon).__module__.startswith(("construct.", "protoserve.")):
        return "is a class of yours"
    if subcon.parsed is not None:
        return "has a hook of yours"
    if isinstance(subcon, construct.LazyBound):
        return "is recursive, and its depth is counted"
    if isinstance(subcon, POSITIONED):
        return "asks where in the message it stands"
    if isinstance(subcon, construct.BitsInteger):
        return None  # that is up to the run of bits that it is in
    if not has_rule(subcon):
        return "has no rule"
    if isinstance(plan_of(subcon), Opaque):
        return "has a rule for other forms only"
    return None
