"""
StatsD's lines, as its documentation and that of DogStatsD write them.
"""

import pytest

from protocols.statsd import (
    BadLine,
    Event,
    EventRow,
    Metric,
    MetricRow,
    Metrics,
    ServiceCheck,
    ServiceCheckRow,
    statsd,
)
from protoserve import (
    InvalidMessageError,
    MalformedMessageError,
    Role,
    Session,
)
from protoserve.events import NEED_DATA, MessageReceived, StreamBroken

READ = {
    b"gorets:1|c": Metric("gorets", "c", [1.0]),
    b"gorets:1|c|@0.1": Metric("gorets", "c", [1.0], sample_rate=0.1),
    b"glork:320|ms|@0.1": Metric("glork", "ms", [320.0], sample_rate=0.1),
    b"gaugor:333|g": Metric("gaugor", "g", [333.0]),
    b"gaugor:-10|g": Metric("gaugor", "g", [-10.0], relative=True),
    b"gaugor:+4|g": Metric("gaugor", "g", [4.0], relative=True),
    b"uniques:765|s": Metric("uniques", "s", member="765"),
    b"uniques:a:b|s": Metric("uniques", "s", member="a:b"),
    b"temp:-1.5e-3|h": Metric("temp", "h", [-0.0015]),
    b"page.views:1:2:32|d": Metric("page.views", "d", [1.0, 2.0, 32.0]),
    b"users.online:1|c|#country:china,web": Metric(
        "users.online", "c", [1.0], tags=["country:china", "web"]
    ),
    b"a b/c:1|c|c:ci-83c0a99c|T1656581400": Metric(
        "a b/c", "c", [1.0], container="ci-83c0a99c", timestamp=1_656_581_400
    ),
    b"a:1|g|e:it-false|card:low": Metric(
        "a", "g", [1.0], extensions=["e:it-false", "card:low"]
    ),
    "x\N{LATIN SMALL LETTER E WITH ACUTE}:1|c".encode(): Metric(
        "x\N{LATIN SMALL LETTER E WITH ACUTE}", "c", [1.0]
    ),
    b"\xff:1|c": Metric("\\xff", "c", [1.0]),
    rb"_e{6,12}:broken|disk 3\nof 4"
    b"|t:warning|d:1437016212|h:h1|k:key|p:low|s:src|#env:test": Event(
        "broken",
        "disk 3\nof 4",
        1_437_016_212,
        "h1",
        "key",
        "low",
        "src",
        "warning",
        ["env:test"],
    ),
    b"_e{1,3}:a|b|c": Event("a", "b|c"),
    rb"_sc|db up|2|#env:dev|m:no | answer\nfrom m\:x": ServiceCheck(
        "db up", 2, message="no | answer\nfrom m:x", tags=["env:dev"]
    ),
    b"_sc|a|0|d:17|h:h1": ServiceCheck("a", 0, 17, "h1"),
    b"_sc|a|0|m:x | y|c:ci-1|card:low": ServiceCheck(
        "a", 0, message="x | y", container="ci-1", extensions=["card:low"]
    ),
}


@pytest.mark.parametrize("line", READ)
def test_lines(line):
    """Each kind of line has its values."""
    read = Metrics.parse(line).lines
    assert [READ[line]] == read
    assert read == Metrics.parse(bytes(Metrics(read))).lines


REFUSED = {
    b"abc": (3, "a name, then ':'"),
    b":1|c": (0, "a name, then ':'"),
    b"a|b:1|c": (1, "a name, then ':'"),
    b"a:1": (3, "'|' and a type"),
    b"a:1|q": (4, "a type (c, g, ms, h, d, s)"),
    b"a:|c": (2, "a number"),
    b"a:1:x:2|c": (4, "a number"),
    b"a:nan|g": (2, "a number"),
    b"a:1_0|g": (2, "a number"),
    b"a:1e999|g": (2, "a number of 64 bits"),
    b"a:1:+2|g": (2, "values that all have a sign, or none of them"),
    b"a:1|c|@0": (7, "a rate above 0 and at most 1"),
    b"a:1|c|@1.5": (7, "a rate above 0 and at most 1"),
    b"a:1|c|Tx": (7, "seconds since the epoch"),
    b"a:1|c|": (6, "a section behind '|'"),
    b"a:1|c|#a|#b": (9, "one section b'#'"),
    b"a:1|c|#" + b"a," * 257: (7, "at most 256 tags"),
    b"a" * 8193: (8192, "a line of at most 8192 bytes"),
    b"_e{1}:a|b": (2, "two lengths and a colon, as in '_e{5,4}:'"),
    b"_e{5,4}:title|tex": (8, "a title of 5 bytes, '|', a text of 4"),
    b"_e{1,1}:a|bc": (11, "'|' or the end"),
    b"_sc||0": (4, "a name"),
    b"_sc|a|4": (6, "a status, 0 to 3"),
    b"_sc|a": (5, "a status, 0 to 3"),
}


@pytest.mark.parametrize("line", REFUSED)
def test_refused_lines(line):
    """What is wrong is told by its place in the datagram."""
    at, expected = REFUSED[line]
    with pytest.raises(MalformedMessageError) as caught:
        Metrics.parse(b"\r\n" + line)
    error = caught.value
    assert "Metrics.lines[0]" == error.path
    assert (at + 2, expected) == (error.offset, error.expected)


def test_a_bad_line_is_kept_beside_good_ones():
    """A datagram with one good line is no malformed one."""
    lines = Metrics.parse(b"a:1|c\r\nbad\n\nb:2|c\n").lines
    assert [Metric("a", "c", [1.0]), Metric("b", "c", [2.0])] == [lines[0], lines[2]]
    bad = lines[1]
    assert isinstance(bad, BadLine)
    assert ("bad", 10, "a name, then ':'", "nothing") == (
        bad.line,
        bad.offset,
        bad.expected,
        bad.found,
    )
    assert lines == Metrics.parse(bytes(Metrics(lines))).lines


@pytest.mark.parametrize("data", [b"", b"\n", b"\r\n\r\n"])
def test_no_line_at_all(data):
    """A datagram without a line is malformed."""
    with pytest.raises(MalformedMessageError, match="expected a line, found none"):
        Metrics.parse(data)


def test_number_of_lines():
    """There is an end to the lines of a datagram."""
    assert 4096 == len(Metrics.parse(b"a:1|c\n" * 4096).lines)
    with pytest.raises(MalformedMessageError, match="at most 4096 lines"):
        Metrics.parse(b"a:1|c\n" * 4097)


@pytest.mark.parametrize(
    "value",
    [
        Metric("a:b", "c", [1.0]),
        Metric("a|b", "c", [1.0]),
        Metric("a\nb", "c", [1.0]),
        Metric("", "c", [1.0]),
        Metric("_e{1,1}", "c", [1.0]),
        Metric("a", "x", [1.0]),
        Metric("a", "c", []),
        Metric("a", "c", [float("nan")]),
        Metric("a", "g", [-1.0]),
        Metric("a", "s"),
        Metric("a", "c", [1.0], tags=["a,b"]),
        Metric("a", "c", [1.0], tags=[""]),
        Metric("a", "c", [1.0], sample_rate=2.0),
        Metric("a", "c", [1.0], extensions=["#x"]),
        Metric("a", "c", [1.0], container="x|y"),
        Metric("a", "c", [1.0], timestamp=-1),
        Event("a", "b", hostname="x|y"),
        ServiceCheck("a", 7),
        "a:1|c",
    ],
)
def test_what_cannot_be_written(value):
    """What would be read as something else is not built."""
    with pytest.raises(InvalidMessageError):
        bytes(Metrics([value]))


def test_nothing_cannot_be_written():
    """A message has a line or more."""
    with pytest.raises(InvalidMessageError, match="a line or more"):
        bytes(Metrics([]))


def test_rows():
    """A collector gets a row for each value, event, check and bad line."""
    data = (
        b"a:1:2|h|@0.5|#x:1,y,x:2|c:ab|T17\nu:me|s\n_e{1,1}:a|b|#x:1\n_sc|s|1|m:hm\n?"
    )
    *rows, bad = Metrics.parse(data).rows()
    tags = {"x": "1,2", "y": ""}
    assert [
        MetricRow("a", 1.0, "h", 0.5, tags, False, None, 17, "ab"),
        MetricRow("a", 2.0, "h", 0.5, tags, False, None, 17, "ab"),
        MetricRow("u", None, "s", 1.0, {}, False, "me", None, None),
        EventRow("a", "b", None, None, None, None, None, None, {"x": "1"}, None),
        ServiceCheckRow("s", 1, None, None, "hm", {}, None),
    ] == rows
    assert "?" == bad.line
    assert ["metrics", "events", "service_checks", "bad_lines"] == [
        kind.__table__ for kind in (MetricRow, EventRow, ServiceCheckRow, BadLine)
    ]


def happened(session):
    events = []
    while (event := session.next_event()) is not NEED_DATA:
        events.append(event)
    return events


def test_streams():
    """Over TCP each line is a message, the last one perhaps without its end."""
    session = Session(statsd, Role.SERVER)
    session.receive_data(b"a:1|c\nb:2|c\r\nc:3")
    assert ["a", "b"] == [e.message.lines[0].name for e in happened(session)]
    session.receive_data(b"|c")
    session.receive_eof()
    first, *_ = happened(session)
    assert isinstance(first, MessageReceived)
    assert "c" == first.message.lines[0].name


def test_a_stream_without_lines():
    """A line that does not end is not kept for ever."""
    session = Session(statsd, Role.SERVER)
    session.receive_data(b"a" * 70_000)
    (event, *_) = happened(session)
    assert isinstance(event, StreamBroken)
