"""
Schemas that grow.
"""

import pyarrow as pa
import pytest

from protoserve.telemetry.sinks.base import SinkRefusedError
from protoserve.telemetry.sinks.schema import (
    Dialect,
    comment_of,
    conform,
    evolve,
    plain,
    quoted,
)
from protoserve.telemetry.sinks.widening import widened

UTC = pa.timestamp("ns", "UTC")
WIDENED = [
    (pa.uint8(), pa.uint8(), pa.uint8()),
    (pa.uint8(), pa.uint32(), pa.uint32()),
    (pa.uint8(), pa.int8(), pa.int16()),
    (pa.uint16(), pa.int8(), pa.int32()),
    (pa.uint32(), pa.int64(), pa.int64()),
    (pa.uint64(), pa.int8(), pa.decimal128(20, 0)),
    (pa.decimal128(20, 0), pa.int64(), pa.decimal128(20, 0)),
    (pa.decimal128(20, 0), pa.decimal128(10, 4), pa.decimal128(24, 4)),
    (pa.decimal128(38, 0), pa.decimal128(10, 4), None),
    (pa.uint64(), pa.float32(), pa.float64()),
    (pa.float32(), pa.float64(), pa.float64()),
    (pa.bool_(), pa.int8(), None),
    (pa.string(), pa.int8(), None),
    (pa.string(), pa.binary(), None),
    (pa.binary(4), pa.binary(16), pa.binary()),
    (pa.binary(4), pa.binary(), pa.binary()),
    (pa.timestamp("ms", "UTC"), UTC, UTC),
    (pa.timestamp("ns"), UTC, None),
    (UTC, pa.int64(), None),
    (pa.time32("s"), pa.time64("us"), pa.time64("us")),
    (pa.list_(pa.int8()), pa.list_(pa.int32()), pa.list_(pa.int32())),
    (pa.list_(pa.int8(), 2), pa.list_(pa.int16(), 2), pa.list_(pa.int16(), 2)),
    (pa.list_(pa.int8(), 2), pa.list_(pa.int8(), 3), pa.list_(pa.int8())),
    (pa.list_(pa.int8()), pa.list_(pa.string()), None),
    (pa.list_(pa.null()), pa.list_(pa.string()), pa.list_(pa.string())),
    (
        pa.map_(pa.string(), pa.int8()),
        pa.map_(pa.string(), pa.int16()),
        pa.map_(pa.string(), pa.int16()),
    ),
    (pa.map_(pa.string(), pa.int8()), pa.map_(pa.string(), pa.string()), None),
    (
        pa.struct([("a", pa.int8())]),
        pa.struct([("b", pa.int8()), ("a", pa.int16())]),
        pa.struct([("a", pa.int16()), ("b", pa.int8())]),
    ),
    (pa.struct([("a", pa.int8())]), pa.struct([("a", pa.string())]), None),
]


@pytest.mark.parametrize(("have", "new", "both"), WIDENED, ids=str)
def test_the_smallest_type_that_holds_both(have, new, both):
    """Two types have one that holds the values of both, or none; in either order."""
    assert both == widened(have, new)
    turned = widened(new, have)
    assert both == turned or {*both} == {*turned}


def test_a_table_is_made_of_its_first_rows():
    """A table that is not there has all columns added."""
    schema = pa.schema([("a", pa.int8())])
    assert tuple(schema) == evolve("t", None, schema).added


def test_evolution_keeps_what_is_there():
    """Columns stay in their order, new ones come behind, only wider types count."""
    have = pa.schema([("a", pa.int64()), ("b", pa.int8())])
    new = pa.schema([("c", pa.string()), ("b", pa.int32()), ("a", pa.int8())])
    change = evolve("t", have, new)
    assert ["a", "b", "c"] == change.schema.names
    assert [pa.field("c", pa.string())] == list(change.added)
    assert [pa.field("b", pa.int32())] == list(change.widened)
    assert not evolve("t", change.schema, new).widened


def test_a_refusal_names_column_expected_and_found():
    """Types without anything in common are refused in one line."""
    have, new = (pa.schema([("a", kind)]) for kind in (pa.int8(), pa.string()))
    with pytest.raises(SinkRefusedError) as caught:
        evolve("flows", have, new)
    assert "table flows, column a: expected int8, found string" == str(caught.value)


def test_tables_do_not_grow_without_bound():
    """Whoever makes up a thousand columns gets his rows refused; others go on."""
    many = pa.schema([(f"c{number}", pa.int8()) for number in range(1001)])
    with pytest.raises(SinkRefusedError, match="at most 1000 columns, found 1001"):
        evolve("flows", None, many)
    full = evolve("flows", None, pa.schema(list(many)[:-1])).schema
    with pytest.raises(SinkRefusedError, match="at most 1000 columns, found 1001"):
        evolve("flows", full, pa.schema([many[-1]]))
    assert not evolve("flows", full, pa.schema([many[0]])).added


def test_types_that_no_store_has():
    """A type that cannot be stored is refused by name."""
    table = pa.table({"took": pa.array([1], pa.duration("s"))})
    with pytest.raises(SinkRefusedError, match=r"column took: .* found duration\[s\]"):
        plain("flows", table)


def test_values_that_do_not_fit():
    """A time that is too far away for the column is refused, never wrapped."""
    rows = pa.table({"at": pa.array([2**60], pa.timestamp("s"))})
    schema = pa.schema([("at", pa.timestamp("ns"))])
    with pytest.raises(SinkRefusedError, match="column at: expected timestamp"):
        conform("flows", rows, schema)


def test_integers_among_doubles_are_the_nearest():
    """An integer that no double holds is stored as the nearest, not refused."""
    rows = pa.table({"n": [2**60 + 1], "l": [[2**60 + 1]]})
    schema = pa.schema([("n", pa.float64()), ("l", pa.list_(pa.float64()))])
    expected = [{"n": float(2**60), "l": [float(2**60)]}]
    assert expected == conform("t", rows, schema).to_pylist()


def test_docs_and_units_are_comments():
    """A column's comment has what the declaration says of it."""
    said = {"doc": "octets", "unit": "B"}
    assert "octets [B]" == comment_of(pa.field("a", pa.int8(), metadata=said))
    assert "[B]" == comment_of(pa.field("a", pa.int8(), metadata={"unit": "B"}))
    assert "" == comment_of(pa.field("a", pa.int8()))


def test_plain_keeps_docs():
    """What is said of a column is kept when its type changes."""
    field = pa.field("a", pa.large_string(), metadata={"doc": "a name"})
    rows = pa.table([pa.array(["x"], pa.large_string())], schema=pa.schema([field]))
    found = plain("t", rows).schema.field("a")
    assert (pa.string(), {b"doc": b"a name"}) == (found.type, found.metadata)


def test_a_dialect_says_what_a_store_holds():
    """Types that share a name in the store are one type there: the widest."""
    names = {"uint8": "SMALLINT", "int16": "SMALLINT", "nested": "JSON"}
    dialect = Dialect(names)
    schema = pa.schema([("a", pa.uint8()), ("b", pa.list_(pa.int8()))])
    assert [pa.int16(), pa.struct([])] == dialect.stored(schema).types
    assert "SMALLINT" == dialect.sql(pa.uint8())
    assert pa.null() == dialect.arrow("geometry")


def test_names_are_quoted():
    """A quote in a name is doubled."""
    assert '"a""b"' == quoted('a"b')
