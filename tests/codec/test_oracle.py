"""
Construct itself is the oracle: random declarations, random bytes, the same values.
"""

from __future__ import annotations

import io
import os

import attrs
import construct
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from protoserve import (
    Caps,
    DeclarationError,
    InvalidMessageError,
    MalformedMessageError,
)
from protoserve.codec.boundary import parse_message
from protoserve.testing import from_message
from tests.codec.declarations import STRICTER, normal, structures

TIMES = int(os.environ.get("PROTOSERVE_TRIALS", "1"))
"""How many times more declarations to try than usual, and other ones each time."""

thorough = settings(
    max_examples=100 * TIMES,
    deadline=None,
    derandomize=TIMES == 1,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)

declarations = structures(2, tail=True)


@attrs.frozen
class Outcome:
    """What a parser made of some bytes."""

    value: object = None
    error: Exception | None = None


def interpreted(structure, data):
    """Construct's own parse; all bytes must be used."""
    STRICTER.clear()
    stream = io.BytesIO(data)
    try:
        value = construct.Struct(*structure.parts(True)).parse_stream(stream)
    except Exception as exc:  # KeyError, struct.error, RecursionError and others leak
        return Outcome(error=exc)
    if stream.tell() != len(data):
        return Outcome(error=construct.TerminatedError("bytes are left"))
    return Outcome(normal(value))


def message(cls, data):
    """What users call: the generated codec."""
    try:
        return Outcome(normal(cls.parse(data)))
    except MalformedMessageError as error:
        return Outcome(error=error)


def guarded(cls, data):
    """The fall-back: Construct's own objects, guarded."""
    try:
        return Outcome(normal(parse_message(cls.construct, data, Caps())))
    except MalformedMessageError as error:
        return Outcome(error=error)


IMPLEMENTATIONS = {"message": message, "guarded": guarded}
"""Everything that must agree with Construct."""

every = pytest.mark.parametrize(
    "implementation", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS
)


@st.composite
def inputs(draw, cls):
    """Bytes of a message, whole or damaged, or any bytes."""
    kind = draw(st.integers(0, 5))
    if kind == 0:
        return draw(st.binary(max_size=40))
    if kind == 1:
        return bytes(draw(st.lists(st.integers(0, 4), max_size=40)))
    try:
        data = bytearray(bytes(draw(from_message(cls))))
    except DeclarationError:  # there is none, as of FixedSized(0, Int8ub)
        return draw(st.binary(max_size=40))
    if kind == 2 and data:
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    elif kind == 3 and data:
        del data[draw(st.integers(0, len(data) - 1)) :]
    elif kind == 4:
        data += draw(st.binary(min_size=1, max_size=3))
    return bytes(data)


@every
@thorough
@given(st.data())
def test_parse(implementation, data):
    """The same values for good bytes, and an error where Construct has one."""
    structure = data.draw(declarations)
    cls = structure.message()
    raw = data.draw(inputs(cls))
    ours, theirs = implementation(cls, raw), interpreted(structure, raw)
    if theirs.error is not None:
        assert ours.error is not None, (theirs.error, ours.value)
    elif STRICTER:
        assume(ours.error is None)  # it means to be stricter; what it takes is equal
        assert theirs.value == ours.value
    else:
        assert ours.error is None, (ours.error, theirs.value)
        assert theirs.value == ours.value
    if ours.error is not None:
        assert 0 <= ours.error.offset <= len(raw), ours.error
        assert ours.error.path.startswith("Drawn"), ours.error


@thorough
@given(st.data())
def test_build(data):
    """A message builds to the bytes that Construct builds of the same values."""
    structure = data.draw(declarations)
    # Construct itself does not get back what it builds of these.
    assume("include=True" not in repr(structure))
    assume("consume=False" not in repr(structure))
    cls = structure.message()
    try:
        drawn = data.draw(from_message(cls))
    except DeclarationError:
        assume(False)
    built = bytes(drawn)
    again = cls.parse(built)
    assert normal(drawn) == normal(again)
    # Construct builds an absent Optional from None where that can be built.
    assume("Select(" not in repr(structure))
    assume(interpreted(structure, built).error is None)
    reference = construct.Struct(*structure.parts(True))
    assert reference.build(reference.parse(built)) == bytes(again)


@thorough
@given(st.data())
def test_build_of_nonsense(data):
    """Values that do not fit are refused by one error only."""
    structure = data.draw(declarations)
    cls = structure.message()
    anything = st.one_of(
        st.none(), st.integers(), st.binary(max_size=3), st.text(max_size=3),
        st.floats(), st.lists(st.integers(), max_size=3), st.just({"n": 1}),
    )  # fmt: skip
    names = [name for name, _ in structure.fields]
    broken = cls(**{name: data.draw(anything) for name in names})
    path = "Drawn"
    try:
        bytes(broken)
    except InvalidMessageError as error:
        path = error.path
    assert path.startswith("Drawn")
