"""
What parsing and building leave behind: nothing that waits for the cycle collector.

A flood of malformed frames is what a server can least afford to pay for twice.
"""

import contextlib
import gc

import pytest
from construct import (
    Array,
    Const,
    GreedyRange,
    Int8ub,
    Int16ub,
    Int32ub,
    LazyBound,
    Optional,
    Peek,
    Prefixed,
    Select,
    Struct,
    Switch,
    this,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.dns import Query, Question, dns
from protoserve import (
    LengthPrefixed,
    Message,
    Protocol,
    ProtoserveError,
    length_of,
    wire,
)
from protoserve.protocol import Direction
from tests.codec.declarations import structures


@contextlib.contextmanager
def collector_off():
    """Switch the cycle collector off, and hide from it what there is already."""
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.enable()


def attempt(function, argument):
    with contextlib.suppress(ProtoserveError):
        function(argument)


def left_behind(function, argument):
    """Count the objects that only the cycle collector can free, after one call."""
    attempt(function, argument)  # makes the codec, once
    with collector_off():
        attempt(function, argument)
        return gc.collect()


class Header(Message):
    kind: int = wire(Int8ub)
    length: int = wire(Int16ub, value=length_of("body"))


class Body(Message):
    count: int = wire(Int8ub)
    values: list[int] = wire(Array(this.count, Int16ub))


class Tree(Message):
    count: int = wire(Int8ub)
    trees: list[object] = wire(Array(this.count, LazyBound(lambda: Tree.construct)))


class Choices(Message):
    kind: int = wire(Int8ub)
    first: object = wire(Optional(Struct("x" / Int8ub, "y" / Const(b"Z"))))
    second: object = wire(Select(Int32ub, Struct("z" / Const(b"QQ"))))
    third: object = wire(Switch(this.kind, {1: Prefixed(Int8ub, Int16ub)}))
    fourth: object = wire(Peek(Const(b"!")))
    last: list[int] = wire(GreedyRange(Struct("v" / Int16ub)), factory=list)


framed = Protocol(
    "framed",
    framing=LengthPrefixed(Int16ub),
    header=Header,
    tag="kind",
    messages={1: Body},
)


def parse(cls):
    def latest(data):  # the class's method is another once it has been called
        cls.parse(data)

    return latest


def parse_frame(data):
    framed.parse(data, Direction.REQUEST)


def build_frame(message):
    framed.build(message, Direction.REQUEST)


QUERY = Query(questions=[Question(name="www.example.test")])
DNS = dns.build(QUERY, Direction.REQUEST)


def parse_dns(data):
    dns.parse(data, Direction.REQUEST)


@pytest.mark.parametrize(
    ("function", "argument"),
    [
        (parse(Body), b"\2\0\1\0\2"),
        (parse(Body), b"\5\0\1"),
        (parse(Body), b"\0 and more"),
        (parse(Tree), b"\1\0"),
        (parse(Tree), b"\1\2\0"),
        (parse(Tree), b"\1" * 100),
        (parse(Choices), b"\1aZQQ\2\0\1\0\1"),
        (parse(Choices), b"\1aZQQ\3\0\1!"),
        (parse(Choices), b"\1abQQQQ\2\0\1\0"),
        (parse(Choices), b"\1"),
        (bytes, Body(count=1, values=[70_000])),
        (bytes, Choices(kind=1, first=5, second="x", third=2)),
        (bytes, Choices(kind=1, first=None, second=7, third=2)),
        (parse_frame, b"\1\0\3\1\0\1"),
        (parse_frame, b"\1\0\3\5\0\1"),
        (parse_frame, b"\1\0\4\1\0\1"),
        (parse_frame, b"\7\0\3\1\0\1"),
        (build_frame, Body(count=1, values=[1])),
        (build_frame, Body(count=1, values=[-1])),
        (build_frame, Header(1)),
        (parse_dns, DNS),
        (parse_dns, DNS[:-3]),
        (parse_dns, DNS + b"x"),
    ],
)
def test_nothing_waits_for_the_collector(function, argument):
    """Good or malformed, one call leaves no reference cycle."""
    assert 0 == left_behind(function, argument)


def test_a_flood_does_not_grow():
    """With the collector off, a thousand malformed frames leave as much as none."""
    attempt(parse_frame, b"\1\0\3\5\0\1")
    with collector_off():
        before = len(gc.get_objects())
        for _ in range(1000):
            attempt(parse_frame, b"\1\0\3\5\0\1")
        assert abs(len(gc.get_objects()) - before) < 100


@settings(max_examples=150)
@given(structures(2, tail=True), st.binary(max_size=40))
def test_no_declaration_leaves_cycles(structure, data):
    """Whatever is declared, parsing any bytes leaves no reference cycle."""
    assert 0 == left_behind(parse(structure.message()), data)
