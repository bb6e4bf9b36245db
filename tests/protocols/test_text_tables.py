"""
Metrics and log entries as others have them: a collector's tables, and plain values.
"""

import numpy as np
import pyarrow as pa
import pytest

from protocols.graphite import graphite
from protocols.influx import influx
from protocols.statsd import statsd
from protocols.syslog import syslog
from protoserve import Direction, Peer
from protoserve.plain import from_plain, to_plain
from protoserve.telemetry.tables import Frames
from protoserve.telemetry.tabulate import tabulator_of

PEER = Peer("udp", ("192.0.2.1", 40_000))
TAGS = pa.map_(pa.string(), pa.string())


def tabulated(protocol, *datagrams):
    """What has become of some datagrams."""
    lengths = np.array([len(data) for data in datagrams], "i8")
    frames = Frames(
        np.frombuffer(b"".join(datagrams), np.uint8),
        np.cumsum(lengths) - lengths,
        lengths,
        np.arange(len(datagrams), dtype="i8"),
        np.zeros(len(datagrams), "i8"),
        [PEER],
    )
    return tabulator_of(protocol).tables(frames)


@pytest.mark.parametrize(
    ("protocol", "good", "mixed", "bad", "table"),
    [
        (statsd, b"a:1|c\n", b"b:2|c\n?\nc:3|g", b"?\n?", "metrics"),
        (graphite, b"a 1 2\n", b"b 1 2\n?\nc;t=v 3 4", b"?", "metrics"),
        (influx, b"m f=1\n", b"m f=2\n?\nm f=3", b"?", "fields"),
    ],
    ids=lambda each: getattr(each, "name", None),
)
def test_fates(protocol, good, mixed, bad, table):
    """Good lines are kept, bad ones beside them too; all bad is malformed."""
    found = tabulated(protocol, good, mixed, bad, good)
    assert {table, "bad_lines"} == set(found.tables)
    assert 4 == found.tables[table].num_rows
    assert [0, 1, 1, 3] == (
        found.tables[table]["received_at"].cast(pa.int64()).to_pylist()
    )
    assert ["?"] == found.tables["bad_lines"]["line"].to_pylist()
    assert [(2, "malformed")] == [(r.index, r.reason) for r in found.refused]


def test_columns():
    """Columns have the same types whatever is in them, and say their units."""
    metrics = tabulated(statsd, b"a:u|s").tables["metrics"].schema
    assert TAGS == metrics.field("tags").type
    assert pa.float64() == metrics.field("value").type
    assert {b"unit": b"s", b"doc": b"seconds since the epoch"} == (
        metrics.field("timestamp").metadata
    )
    fields = tabulated(influx, b'm f="x"').tables["fields"].schema
    assert [pa.float64(), pa.int64(), pa.string(), TAGS, pa.int64()] == [
        fields.field(name).type
        for name in ("value", "integer", "text", "tags", "timestamp")
    ]
    logs = tabulated(syslog, b"text").tables["logs"].schema
    assert [pa.int64(), pa.int64(), pa.string(), TAGS] == [
        logs.field(name).type
        for name in ("facility", "severity", "hostname", "structured_data")
    ]


def test_entries():
    """Entries of both formats stand in one table."""
    found = tabulated(
        syslog,
        b"<34>1 - web su - - - new",
        b"<34>1 x",
        b"",
        b"<34>su: old",
        b"<34>1 - x",
    )
    rows = found.tables["logs"].to_pylist()
    assert [(1, "web", "new"), (None, None, "1 x"), (None, None, "old")] == [
        (row["version"], row["hostname"], row["message"]) for row in rows
    ]
    assert [2, 4] == [refused.index for refused in found.refused]


@pytest.mark.parametrize(
    ("protocol", "data"),
    [
        (statsd, b"a:1:2|h|@0.5|#b:c|T17\nu:x|s\n_e{1,1}:a|b|p:low\n_sc|a|1|m:x\n?"),
        (graphite, b"a;t=v 1.5 2\nb 1 -1\n?"),
        (influx, b'm,t=v f=1.5,b=t,s="x",i=3i 17\nn f=1\n?'),
        (syslog, b'<34>1 - web su - - [a b="c" b="d"] text'),
        (syslog, b"<34>Oct 11 22:14:15 web su[230]: text"),
        (syslog, b"text"),
    ],
    ids=lambda each: getattr(each, "name", None),
)
def test_plain_values(protocol, data):
    """Messages can be given, and shown, as JSON."""
    message = protocol.parse(data, Direction.REQUEST).message
    assert message == from_plain(type(message), to_plain(message))
