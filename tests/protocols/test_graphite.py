"""
Graphite's plaintext and pickle protocols.
"""

import os
import pickle
import pickletools
import random

import pytest

from protocols.graphite import (
    BadLine,
    Metric,
    Metrics,
    PickledMetrics,
    graphite,
    graphite_pickle,
)
from protocols.graphite.pickles import read_pickle
from protoserve import (
    Direction,
    InvalidMessageError,
    MalformedMessageError,
    Role,
    Session,
)
from protoserve.events import NEED_DATA, MessageReceived

READ = {
    b"local.random.diceroll 4 1700000000": Metric(
        "local.random.diceroll", 4.0, 1_700_000_000.0
    ),
    b"a\t-1.5e3  1700000000.25 ": Metric("a", -1500.0, 1_700_000_000.25),
    b"a 1 -1": Metric("a", 1.0),
    b"disk.used;rack=a1;host=web 1 2": Metric(
        "disk.used", 1.0, 2.0, {"rack": "a1", "host": "web"}
    ),
}


@pytest.mark.parametrize("line", READ)
def test_lines(line):
    """A line is a path, a value and a moment, with tags at the path."""
    read = Metrics.parse(line + b"\n").lines
    assert [READ[line]] == read
    assert read == Metrics.parse(bytes(Metrics(read))).lines
    assert read == list(Metrics(read).rows())


REFUSED = {
    b"a": (1, "a path, a value and a timestamp"),
    b"a 1": (3, "a path, a value and a timestamp"),
    b"a 1 2 3": (6, "a path, a value and a timestamp"),
    b"a x 2": (2, "a number"),
    b"a nan 2": (2, "a number"),
    b"a 1 now": (4, "a number"),
    b"a 1e999 2": (2, "a number of 64 bits"),
    b"a;b 1 2": (0, "a tag, as in 'name=value'"),
    b"a;b= 1 2": (0, "a tag, as in 'name=value'"),
    b"a;b=1;b=2 1 2": (0, "each tag once"),
    b";b=1 1 2": (0, "a path before the tags"),
    b"a" + b";b=c" * 257 + b" 1 2": (0, "at most 256 tags"),
}


@pytest.mark.parametrize("line", REFUSED)
def test_refused_lines(line):
    """What is wrong is told by its place in the datagram."""
    with pytest.raises(MalformedMessageError) as caught:
        Metrics.parse(line)
    assert REFUSED[line] == (caught.value.offset, caught.value.expected)


def test_a_bad_line_is_kept_beside_good_ones():
    """A datagram with one good line is no malformed one."""
    good, bad = Metrics.parse(b"a 1 2\nb").lines
    assert Metric("a", 1.0, 2.0) == good
    assert isinstance(bad, BadLine)
    assert 7 == bad.offset


@pytest.mark.parametrize(
    "metric",
    [
        Metric("a b", 1.0),
        Metric("a;b", 1.0),
        Metric("a", float("inf")),
        Metric("a", 1.0, -1.0),
        Metric("a", 1.0, tags={"b": ""}),
        Metric("a", 1.0, tags={"b": "c;d"}),
        "a 1 2",
    ],
)
def test_what_cannot_be_written(metric):
    """What would be read as something else is not built."""
    with pytest.raises(InvalidMessageError):
        bytes(Metrics([metric]))


# Pickles -----------------------------------------------------------------------

POINTS = [
    ("a.b;host=web", (1_700_000_000, 2.5)),
    ("a.b;host=web", (1_700_000_000, 2.5)),
    ("x\N{LATIN SMALL LETTER E WITH ACUTE}", (-1, 7)),
    ["list", [1.5, "3"]],
    (b"bytes", (-(2**40), -(2**33))),
]
METRICS = [
    Metric("a.b", 2.5, 1_700_000_000.0, {"host": "web"}),
    Metric("a.b", 2.5, 1_700_000_000.0, {"host": "web"}),
    Metric("x\N{LATIN SMALL LETTER E WITH ACUTE}", 7.0),
    Metric("list", 3.0, 1.5),
    Metric("bytes", float(-(2**33)), float(-(2**40))),
]


@pytest.mark.parametrize("version", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles(version):
    """Every version of pickles is read, and gives what Python's own reader gives."""
    points = POINTS if version > 2 else POINTS[:-1]
    data = pickle.dumps(points, protocol=version)
    assert pickle.loads(data) == read_pickle(data)
    read = PickledMetrics.parse(data)
    assert METRICS[: len(points)] == read.metrics == list(read.rows())
    assert read == PickledMetrics.parse(bytes(read))


def test_pickles_of_python_2():
    """The strings of old relays are bytes of UTF-8."""
    name = b"x\xc3\xa9"
    data = b"(lp0\n(U\x03" + name + b"(I12\nF2.5\ntp1\ntp2\na."
    assert [Metric(name.decode(), 2.5, 12.0)] == PickledMetrics.parse(data).metrics
    data = b"(lp0\n(S'a'\n(L12L\nI2\ntp1\ntp2\na."
    assert [Metric("a", 2.0, 12.0)] == PickledMetrics.parse(data).metrics


class Bomb:
    """Does something when Python unpickles it."""

    def __init__(self, called):
        self.called = called

    def __reduce__(self):
        return os.mkdir, (self.called,)


@pytest.mark.parametrize("version", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_is_called(version, tmp_path):
    """A pickle that would call something is malformed, and calls nothing."""
    folder = tmp_path / "made"
    data = pickle.dumps([("a", (1, Bomb(str(folder))))], protocol=version)
    with pytest.raises(MalformedMessageError, match="found the opcode") as caught:
        PickledMetrics.parse(data)
    assert "GLOBAL" in caught.value.found
    assert not folder.exists()
    pickle.loads(data)
    assert folder.exists()


def test_opcodes():
    """Whatever is not one of the few opcodes is refused."""
    known = [
        "PROTO",
        "FRAME",
        "MARK",
        "STOP",
        "EMPTY_LIST",
        "LIST",
        "APPEND",
        "APPENDS",
        "EMPTY_TUPLE",
        "TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
        "PUT",
        "BINPUT",
        "LONG_BINPUT",
        "MEMOIZE",
        "GET",
        "BINGET",
        "LONG_BINGET",
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
    ]
    others = {op.name: op for op in pickletools.opcodes if op.name not in known}
    assert {"GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ"} < set(
        others
    )
    arguments = {"GLOBAL": b"os\nsystem\n", "INST": b"os\nsystem\n", "PERSID": b"1\n"}
    for name, op in others.items():
        data = op.code.encode("latin-1") + arguments.get(name, bytes(9)) + b"."
        with pytest.raises(MalformedMessageError) as caught:
            read_pickle(data)
        assert f"the opcode {name}" == caught.value.found
        assert 0 == caught.value.offset


@pytest.mark.parametrize(
    ("data", "offset", "found"),
    [
        (b"", 0, "pickle exhausted"),
        (b"]", 0, "pickle exhausted"),
        (b"].x", 2, "1 more byte"),
        (b".", 0, "0 on the stack"),
        (b"(.", 1, "1 on the stack"),
        (b"]].", 2, "2 on the stack"),
        (b"a.", 0, "the stack is too short"),
        (b"]a.", 1, "there is no list"),
        (b"](a.", 2, "the stack is too short"),
        (b"e.", 0, "there is no mark"),
        (b"h\x00.", 0, "KeyError"),
        (b"(q\x00.", 1, "a mark is no value"),
        (b"q\x00.", 0, "IndexError"),
        (b"I01\n.", 0, "at most 64 bits"),
        (b"\x8a\x09" + b"\xff" * 8 + b"\x7f.", 0, "at most 64 bits"),
        (b"L" + b"9" * 5000 + b"L\n.", 0, "ValueError"),
        (b"X\xff\xff\xff\x7fabc.", 0, "ValueError"),
    ],
)
def test_damaged_pickles(data, offset, found):
    """A pickle that is cut, or makes no sense, is malformed at that place."""
    with pytest.raises(MalformedMessageError) as caught:
        read_pickle(data)
    assert found in caught.value.found
    assert offset == caught.value.offset


@pytest.mark.parametrize(
    ("points", "path", "found"),
    [
        ("text", "PickledMetrics.metrics", "str"),
        ([5], "PickledMetrics.metrics[0]", "int"),
        ([("a", (1, 2)), ("a", 1, 2)], "PickledMetrics.metrics[1]", "tuple"),
        ([("a", (1, "x"))], "PickledMetrics.metrics[0]", "'x'"),
        ([("a", (1, []))], "PickledMetrics.metrics[0]", "a list"),
        ([("a", (float("inf"), 1))], "PickledMetrics.metrics[0]", "inf"),
        ([("a", (1, float("nan")))], "PickledMetrics.metrics[0]", "nan"),
        ([("a;b", (1, 2))], "PickledMetrics.metrics[0]", "'b'"),
    ],
)
def test_other_pickles(points, path, found):
    """What is no list of metrics is malformed as a whole."""
    with pytest.raises(MalformedMessageError) as caught:
        PickledMetrics.parse(pickle.dumps(points))
    assert path == caught.value.path
    assert found in caught.value.found


def test_a_pickle_in_itself():
    """A list that holds itself, or one inside of many, is not followed."""
    points: list = []
    points.append(points)
    with pytest.raises(MalformedMessageError, match="found list"):
        PickledMetrics.parse(pickle.dumps(points))
    with pytest.raises(MalformedMessageError, match="found tuple"):
        PickledMetrics.parse(b"]" + b")" + b"\x85" * 40_000 + b"a.")


def test_text_with_surrogates():
    """Text that is no UTF-8 can still be stored."""
    data = pickle.dumps([("a\udcff", (1, 2))])
    (metric,) = PickledMetrics.parse(data).metrics
    assert metric.path.encode()


def test_mutated_pickles():
    """Damaged pickles are malformed or read, and nothing else."""
    chance = random.Random(5)
    seeds = [
        pickle.dumps(POINTS, protocol=version)
        for version in range(3, pickle.HIGHEST_PROTOCOL + 1)
    ]
    refused = 0
    for _ in range(3000):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            PickledMetrics.parse(bytes(data))
        except MalformedMessageError as error:
            refused += 1
            assert 0 <= error.offset <= len(data)
    assert 1000 < refused < 3000


def test_streams():
    """Over TCP a line is a message, and a pickle has its length before it."""
    session = Session(graphite, Role.SERVER)
    session.receive_data(b"a 1 2\r\nb 3 4\n")
    lines = [session.next_event().message.lines for _ in range(2)]
    assert [[Metric("a", 1.0, 2.0)], [Metric("b", 3.0, 4.0)]] == lines
    session = Session(graphite_pickle, Role.SERVER)
    data = pickle.dumps(POINTS)
    session.receive_data(len(data).to_bytes(4, "big") + data)
    event = session.next_event()
    assert isinstance(event, MessageReceived)
    assert METRICS == event.message.metrics
    assert NEED_DATA is session.next_event()
    frame = graphite_pickle.build(event.message, Direction.REQUEST)
    assert METRICS == PickledMetrics.parse(frame).metrics
