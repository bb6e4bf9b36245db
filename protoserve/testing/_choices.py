"""
Choices that either Hypothesis makes, which can then shrink them, or a random generator.

The rules for drawing values state their choices with the functions here, which are named
as Hypothesis's own. Tests need its search for the smallest example that fails; a
simulator needs thousands of values a second, and Hypothesis need not be installed for
it. Hypothesis is imported when it is asked first.
"""

from __future__ import annotations

import random
import string
import struct
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import attrs

if TYPE_CHECKING:
    from hypothesis import strategies as st

__all__ = [
    "Choice",
    "Source",
    "binary",
    "booleans",
    "chosen",
    "floats",
    "integers",
    "is_strategy",
    "letters",
    "sampled_from",
]

T = TypeVar("T")

Source: TypeAlias = "st.DrawFn | random.Random"
"""Who makes the choices: what Hypothesis gives a composite strategy, or a generator."""


@attrs.define(eq=False)
class Choice(Generic[T]):
    """
    One thing to be chosen.
    """

    make: Callable[[], st.SearchStrategy[T]]
    """Makes Hypothesis's strategy."""
    pick: Callable[[random.Random], T]
    """Makes the choice by a generator."""
    _made: st.SearchStrategy[T] | None = None

    def strategy(self) -> st.SearchStrategy[T]:
        """
        Give Hypothesis's strategy.
        """
        if self._made is None:
            self._made = self.make()
        return self._made


def chosen(source: Source, choice: Choice[T] | st.SearchStrategy[T]) -> T:
    """
    Let a choice be made, or by Hypothesis a strategy of its own.
    """
    if isinstance(source, random.Random):
        assert isinstance(choice, Choice)
        return choice.pick(source)
    return source(choice.strategy() if isinstance(choice, Choice) else choice)


def is_strategy(value: Any) -> bool:
    """
    Say whether a value is one of Hypothesis's strategies.
    """
    module: Any = sys.modules.get("hypothesis.strategies")
    return module is not None and isinstance(value, module.SearchStrategy)


def _strategies() -> Any:
    from hypothesis import strategies

    return strategies


def booleans() -> Choice[bool]:
    """
    True or false.
    """
    return _BOOLEANS


_BOOLEANS: Choice[bool] = Choice(
    lambda: _strategies().booleans(), lambda source: source.random() < 0.5
)


def integers(low: int, high: int) -> Choice[int]:
    """
    A whole number between two others, both included.
    """
    return Choice(
        lambda: _strategies().integers(low, high),
        lambda source: source.randint(low, high),
    )


def sampled_from(values: Sequence[T]) -> Choice[T]:
    """
    One of some values.
    """
    return Choice(
        lambda: _strategies().sampled_from(values), lambda source: source.choice(values)
    )


def binary(*, min_size: int = 0, max_size: int) -> Choice[bytes]:
    """
    Some bytes.
    """
    return Choice(
        lambda: _strategies().binary(min_size=min_size, max_size=max_size),
        lambda source: source.randbytes(source.randint(min_size, max_size)),
    )


def floats(width: int) -> Choice[float]:
    """
    A number of a float's width in bits; a generator gives moderate ones.
    """
    code = {16: "<e", 32: "<f", 64: "<d"}[width]

    def pick(source: random.Random) -> float:
        exact = round(source.uniform(-100.0, 100.0), 2)
        return float(struct.unpack(code, struct.pack(code, exact))[0])

    return Choice(lambda: _strategies().floats(width=width, allow_nan=False), pick)


def letters(
    alphabet: Callable[[], st.SearchStrategy[str]],
    known: Callable[[str], bool],
    longest: int,
    fit: Callable[[str], T],
) -> Choice[T]:
    """
    A text.

    Args:
        alphabet: makes Hypothesis's strategy for characters.
        known: says whether a character may be in it.
        longest: how many characters it has at most.
        fit: what is made of the text.
    """
    usual: list[str] = []

    def pick(source: random.Random) -> T:
        if not usual:
            usual.extend(filter(known, string.ascii_lowercase + string.digits))
        size = source.randint(min(1, longest), longest) if usual else 0
        return fit("".join(source.choices(usual, k=size)) if size else "")

    return Choice(
        lambda: _strategies().text(alphabet(), max_size=longest).map(fit), pick
    )
