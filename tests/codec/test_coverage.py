"""
What is generated of a message, and why the rest is not.
"""

from construct import (
    Aligned,
    Array,
    Bytes,
    Hex,
    Int8ub,
    Int16ub,
    LazyBound,
    Pointer,
    this,
)

from protoserve import Message, wire
from protoserve.codec.coverage import Level, coverage_of
from tests.codec import coverage_table


def coverage(cls):
    found = coverage_of(cls._record, cls._caps)
    return found.parse, found.build, found.reasons


def test_table_in_the_documentation():
    """The page's table is what the generator does with each Construct class."""
    assert coverage_table.made() in coverage_table.PAGE.read_text("utf-8")


def test_table_has_all_of_construct():
    """Each of Construct's classes and functions has a row."""
    assert set() == coverage_table.unlisted()


def test_generated():
    """A message of which all is generated has no reasons."""

    class Plain(Message):
        count: int = wire(Int8ub)
        values: list[int] = wire(Array(this.count, Int16ub))

    assert (Level.GENERATED, Level.GENERATED, ()) == coverage(Plain)


def test_one_field():
    """A field without a rule is left to Construct by itself, and is named."""

    class Shown(Message):
        before: int = wire(Int8ub)
        value: object = wire(Hex(Int16ub))

    reasons = (("Hex", "has no rule"),)
    assert (Level.PARTLY, Level.PARTLY, reasons) == coverage(Shown)


def test_innermost_part_is_blamed():
    """The reason names the part that has no code, not what it stands in."""

    class Deep(Message):
        values: list[int] = wire(Array(2, Aligned(2, Int8ub)))

    assert (("Aligned", "has no rule"),) == coverage(Deep)[2]


def test_functions():
    """A function of the user's is what only Construct can call."""

    class Counted(Message):
        count: int = wire(Int8ub)
        values: list[int] = wire(Array(lambda context: context.count, Int8ub))

    parse, build, reasons = coverage(Counted)
    assert (Level.PARTLY, Level.PARTLY) == (parse, build)
    assert (("Array", "refers to what only Construct's context has"),) == reasons


def test_whole_message():
    """A part that asks where it stands leaves building the whole message."""

    class Pointed(Message):
        at: int = wire(Pointer(1, Int8ub))
        data: bytes = wire(Bytes(2))

    parse, build, reasons = coverage(Pointed)
    assert (Level.PARTLY, Level.INTERPRETED) == (parse, build)
    assert (("Pointer", "asks where in the message it stands"),) == reasons


def test_recursion():
    """A recursive message is left to Construct, which counts the depth."""

    class Tree(Message):
        count: int = wire(Int8ub)
        trees: list[object] = wire(Array(this.count, LazyBound(lambda: Tree.construct)))

    assert ("LazyBound", "is recursive, and its depth is counted") in coverage(Tree)[2]


def test_hooks():
    """A hook of the user's is Construct's to call."""

    class Hooked(Message):
        value: int = wire(Int8ub * print)

    assert ["has a hook of yours"] == [why for _, why in coverage(Hooked)[2]]
