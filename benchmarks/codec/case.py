"""
What is measured: a message, and the ways to parse and build it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from benchmarks.codec.timing import Call, call_each

HAND = "by hand: struct + attrs slots"
OURS = "protoserve"
INTERPRETED = "construct, interpreted"
COMPILED = "construct, .compile()"


@attrs.frozen
class Candidate:
    """
    One way to parse and build a case's messages.
    """

    name: str
    parse: Callable[..., Any] | None = None
    build: Callable[..., bytes] | None = None
    values: Callable[[Any], Any] | None = None
    """Brings what `parse` gives to plain values; by default the case's own."""
    objects: Sequence[Any] | None = None
    """What `build` takes; by default what `parse` gives."""
    data: Sequence[bytes] | None = None
    """The candidate's own bytes, for those that have a wire format of their own."""
    extra: Sequence[Any] = ()
    """What `parse` and `build` take besides."""
    options: Mapping[str, Any] = attrs.field(factory=dict)
    """What `build` takes by name."""


@attrs.frozen
class Case:
    """
    A message's bytes, its values, and who reads them.
    """

    key: str
    title: str
    data: Sequence[bytes]
    expected: Sequence[Any]
    values: Callable[[Any], Any]
    candidates: Sequence[Candidate]
    """The first is the baseline."""

    def calls(self, candidate: Candidate) -> dict[str, Call]:
        """
        Give what is timed of a candidate, once it is seen to do the right thing.

        Raises:
            AssertionError: values or bytes differ.
        """
        data = self.data if candidate.data is None else candidate.data
        values = candidate.values or self.values
        found: dict[str, Call] = {}
        objects = candidate.objects
        if candidate.parse is not None:
            parsed = [candidate.parse(item, *candidate.extra) for item in data]
            for one, expected in zip(parsed, self.expected, strict=True):
                _same(candidate.name, values(one), expected)
            objects = parsed if objects is None else objects
            found["parse"] = call_each(candidate.parse, data, *candidate.extra)
        if candidate.build is not None:
            assert objects is not None
            options = candidate.options
            for one, expected in zip(objects, data, strict=True):
                built = candidate.build(one, *candidate.extra, **options)
                _same(candidate.name, built, expected)
            found["build"] = call_each(
                candidate.build, objects, *candidate.extra, **options
            )
        return found


def _same(name: str, actual: Any, expected: Any) -> None:
    assert expected == actual, f"{name}: {actual!r} is not {expected!r}"


def attributes(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """
    Make the function that reads some attributes of an object.
    """
    return lambda value: tuple(getattr(value, name) for name in names)
