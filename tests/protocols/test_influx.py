"""
InfluxDB's line protocol, with the examples of its grammar.
"""

import time

import pytest

from protocols.influx import (
    BadLine,
    FieldRow,
    Point,
    Points,
    PointsInMicroseconds,
    PointsInMilliseconds,
    PointsInSeconds,
    Unsigned,
    influx,
    influx_ms,
    influx_s,
    influx_us,
)
from protoserve import Direction, InvalidMessageError, MalformedMessageError

READ = {
    b"m,t=v f=1.5 17": Point("m", {"f": 1.5}, {"t": "v"}, 17),
    b"m f=1": Point("m", {"f": 1.0}),
    b"m f=1  -5 ": Point("m", {"f": 1.0}, {}, -5),
    b"m a=-4i,b=18446744073709551615u,c=.5e-3": Point(
        "m", {"a": -4, "b": Unsigned(2**64 - 1), "c": 0.0005}
    ),
    b"m a=t,b=False,c=TRUE,d=f": Point(
        "m", {"a": True, "b": False, "c": True, "d": False}
    ),
    rb"my\ m\,x,t\ 1\,\=a=v\ 1\,\= f\ 1\,\==1": Point(
        "my m,x", {"f 1,=": 1.0}, {"t 1,=a": "v 1,="}
    ),
    rb'm s="a \"quoted\" \\ text, with = and \n",t=1i': Point(
        "m", {"s": 'a "quoted" \\ text, with = and \\n', "t": 1}
    ),
    b'm s="two\nlines" 5': Point("m", {"s": "two\nlines"}, {}, 5),
    rb'm,t=\a"b f=1': Point("m", {"f": 1.0}, {"t": '\\a"b'}),
    "x\N{LATIN SMALL LETTER E WITH ACUTE} f=1".encode(): Point(
        "x\N{LATIN SMALL LETTER E WITH ACUTE}", {"f": 1.0}
    ),
}


@pytest.mark.parametrize("line", READ)
def test_lines(line):
    """Tags, the types of fields, escapes and timestamps are read."""
    read = Points.parse(b"# a comment\n" + line + b"\n\n").lines
    assert [READ[line]] == read
    assert read == Points.parse(bytes(Points(read))).lines


REFUSED = {
    b"m": (1, "a comma, or a space and the fields"),
    b",t=v f=1": (0, "a measurement"),
    b"m,t f=1": (3, "'='"),
    b"m,t= f=1": (4, "a tag's value"),
    b"m,=v f=1": (2, "a tag's name"),
    b"m,t=v,t=w f=1": (6, "a tag's name once"),
    b"m f": (3, "'='"),
    b"m f=": (4, "a number, a whole number of 64 bits, text in '\"', true or false"),
    b"m f=1x": (4, "a number, a whole number of 64 bits, text in '\"', true or false"),
    b"m f=nan": (4, "a number, a whole number of 64 bits, text in '\"', true or false"),
    b"m f=9223372036854775808i": (
        4,
        "a number, a whole number of 64 bits, text in '\"', true or false",
    ),
    b"m f=-1u": (4, "a number, a whole number of 64 bits, text in '\"', true or false"),
    b"m f=1,f=2": (6, "a field's name once"),
    b'm f="x': (6, "'\"' at the text's end"),
    b'm f="x"y': (7, "a comma, or a space and the timestamp"),
    b"m f=1 x": (6, "a timestamp of 64 bits in nanoseconds"),
    b"m f=1 9223372036854775808": (6, "a timestamp of 64 bits in nanoseconds"),
    b"m f=1 1 1": (6, "a timestamp of 64 bits in nanoseconds"),
    b"m " + b",".join(b"f%d=1" % n for n in range(1025)): (
        7084,
        "at most 1024 of them",
    ),
}


@pytest.mark.parametrize("line", REFUSED)
def test_refused_lines(line):
    """What is wrong is told by its place in the datagram."""
    with pytest.raises(MalformedMessageError) as caught:
        Points.parse(line)
    assert REFUSED[line] == (caught.value.offset, caught.value.expected)


def test_a_bad_line_is_kept_beside_good_ones():
    """A datagram with one good line is no malformed one, wherever its quotes are."""
    first, second, third = Points.parse(b'a b="x y=" 1\nbad"x\nc d=1').lines
    assert Point("a", {"b": "x y="}, {}, 1) == first
    assert isinstance(second, BadLine)
    assert 'bad"x' == second.line
    assert Point("c", {"d": 1.0}) == third


def test_quotes_that_begin_no_text():
    """Quotes of comments and in names are themselves, and join no lines."""
    text = Point("m", {"f": "x\ny"})
    assert [text] == Points.parse(b'# a "quote\nm f="x\ny"').lines
    named = [Point('a"b', {'c"d': 1.0}), Point('a"b', {'e"f': 2.0}), text]
    assert named == Points.parse(b'a"b c"d=1\na"b e"f=2\nm f="x\ny"').lines


@pytest.mark.parametrize(
    "point",
    [
        Point("", {"f": 1.0}),
        Point("#m", {"f": 1.0}),
        Point("m", {}),
        Point("m", {"": 1.0}),
        Point("m", {"f": float("nan")}),
        Point("m", {"f": 2**63}),
        Point("m", {"f": Unsigned(2**64)}),
        Point("m", {"f": 1.0}, {"t": ""}),
        Point("m", {"f": 1.0}, {"t": "v\\"}),
        Point("m", {"f": 1.0}, {"t": "a\nb"}),
        Point("m", {"f": None}),
        "m f=1",
    ],
)
def test_what_cannot_be_written(point):
    """What would be read as something else is not built."""
    with pytest.raises(InvalidMessageError):
        bytes(Points([point]))


UNITS = {
    (Points, influx): 1,
    (PointsInMicroseconds, influx_us): 10**3,
    (PointsInMilliseconds, influx_ms): 10**6,
    (PointsInSeconds, influx_s): 10**9,
}


@pytest.mark.parametrize(("kind", "unit"), UNITS.items())
def test_units(kind, unit):
    """Timestamps are in nanoseconds, whatever the sender counts by."""
    message, protocol = kind
    read = protocol.parse(b"m f=1 170", Direction.REQUEST).message
    assert message is type(read)
    assert 170 * unit == read.lines[0].timestamp
    assert b"m f=1 170" == bytes(read)
    if unit > 1:
        read.lines[0].timestamp += 1
        with pytest.raises(InvalidMessageError):
            bytes(read)


def test_points_differ_by_their_types():
    """1, 1.0, true and an unsigned 1 are not the same value."""
    values = [1, 1.0, True, Unsigned(1)]
    for i, one in enumerate(values):
        for j, other in enumerate(values):
            assert (i == j) == (Point("m", {"f": one}) == Point("m", {"f": other}))


def test_rows():
    """A collector gets a row for each field, exact as far as columns are."""
    line = b'm,t=v a=1.5,b=2i,c=18446744073709551615u,d=t,e="x" 17\n?'
    *rows, bad = Points.parse(line).rows()
    rest = ({"t": "v"}, 17)
    assert [
        FieldRow("m", "a", "f", 1.5, None, None, *rest),
        FieldRow("m", "b", "i", 2.0, 2, None, *rest),
        FieldRow("m", "c", "u", float(2**64), None, None, *rest),
        FieldRow("m", "d", "b", 1.0, None, None, *rest),
        FieldRow("m", "e", "s", None, None, "x", *rest),
    ] == rows
    assert "?" == bad.line


@pytest.mark.parametrize(
    "pattern",
    [b'"\n', b'a \\"\n', b'a "\\\n', b'a b="\n', b"5", b"\\", b"\\\n", b"a,b=", b" "],
)
def test_hostile_lines(pattern):
    """The time for the worst lines does not grow with the square of their number."""
    for start in (b"", b"m f=", b'm f="', b"m,"):
        data = (start + pattern * 65_000)[:65_000] + b"x"
        before = time.thread_time()
        try:
            Points.parse(data)
        except MalformedMessageError as error:
            assert 0 <= error.offset <= len(data)
        # It is some tenths of a second; with the square, 20 seconds and more.
        assert time.thread_time() - before < 5
