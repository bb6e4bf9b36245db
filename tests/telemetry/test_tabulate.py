"""
Tables out of frames, by the declaration.
"""

import datetime as dt
import math

import attrs
import numpy as np
import pyarrow as pa
import pytest
from construct import GreedyBytes, Int8ub, Int32ub, PascalString
from hypothesis import given
from hypothesis import strategies as st

from protoserve import Delimited, Message, Numbered, Peer, Protocol, wire
from protoserve.arrow import Column, table_of
from protoserve.telemetry.rows import RowTable
from protoserve.telemetry.tables import Frames, column
from protoserve.telemetry.tabulate import DeclaredTabulator, table_name, tabulator_of
from tests.telemetry.stations import Notes, Reading, Status, framed, reading, stations

PEER = Peer("udp", ("192.0.2.1", 1))
MOMENT = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


def framed_together(datagrams, *, gap=0):
    """
    Put datagrams one behind the other, with some bytes between them.
    """
    lengths = np.array([len(data) for data in datagrams], "i8")
    return Frames(
        np.frombuffer(b"".join(data + bytes(gap) for data in datagrams), np.uint8),
        np.cumsum(lengths + gap) - lengths - gap,
        lengths,
        np.full(len(datagrams), int(MOMENT.timestamp() * 1e9)),
        np.zeros(len(datagrams), "i8"),
        [PEER],
    )


def tables(datagrams, protocol=stations, **options):
    return DeclaredTabulator(protocol).tables(framed_together(datagrams, **options))


def test_columns():
    """Records are rows, with what the frame has beside each, and where it came from."""
    made = tables([reading(7, 1), reading(8, 2, volts=(5.0,))])
    table = made.tables["readings"]
    assert [7, 7, 8] == table["device"].to_pylist()
    assert [1.0, 2.0, 5.0] == table["volts"].to_pylist()
    assert {b"unit": b"V", b"doc": b"as measured"} == table.schema.field(
        "volts"
    ).metadata
    assert ["192.0.2.1"] * 3 == table["exporter"].to_pylist()
    assert [MOMENT] * 3 == table["received_at"].to_pylist()


def test_rows_of_objects():
    """A message that says what its rows are gives a table of their class."""
    made = tables([framed(Notes(3, ["one", "two"]), 2), framed(Notes(4, []), 2)])
    rows = made.tables["lines"].select(["device", "text"]).to_pylist()
    assert [{"device": 3, "text": "one"}, {"device": 3, "text": "two"}] == rows
    assert [] == [*made.refused]


def test_varying_messages():
    """A message of varying length is a row of its fields."""
    made = tables([framed(Status(1, "a"), 3), framed(Status(2, "bcd"), 3)])
    assert ["a", "bcd"] == made.tables["status"]["name"].to_pylist()


def test_bad_frames():
    """A frame that is no message is refused with what is wrong; others are not."""
    datagrams = [
        reading(1),
        b"\xff",
        reading(2)[:-1],
        framed(Notes(1, ["fail"]), 2),
        b"",
    ]
    made = tables(datagrams)
    assert [1, 2, 3, 4] == sorted(refused.index for refused in made.refused)
    assert {"malformed"} == {refused.reason for refused in made.refused}
    assert [1, 1] == made.tables["readings"]["device"].to_pylist()
    by_place = {refused.index: str(refused.error) for refused in made.refused}
    assert "a line that fails" == by_place[3]


@given(
    st.lists(
        st.one_of(
            st.builds(
                reading, st.integers(0, 9), volts=st.lists(st.just(1.0), max_size=9)
            ),
            st.builds(lambda n: framed(Status(1, "x" * n), 3), st.integers(0, 255)),
            st.binary(max_size=30),
        ),
        max_size=20,
    ),
    st.integers(0, 3),
)
def test_together_as_alone(datagrams, gap):
    """It makes no difference what frames are tabulated with others, or where they lie."""
    made = tables(datagrams, gap=gap)
    alone = [tables([data]) for data in datagrams]
    for name in ("readings", "status"):
        together = made.tables[name].num_rows if name in made.tables else 0
        singly = sum(a.tables[name].num_rows for a in alone if name in a.tables)
        assert singly == together
    bad = [place for place, each in enumerate(alone) if each.refused]
    assert bad == sorted(refused.index for refused in made.refused)


def test_one_long_frame():
    """A frame that is much longer than the others does not cost them their room."""
    made = tables([reading(1)] * 50 + [framed(Status(1, "x" * 255), 3)] * 2)
    assert 100 == made.tables["readings"].num_rows
    assert 2 == made.tables["status"].num_rows


def test_numbers_of_senders():
    """Senders' own numbers are taken down as the protocol says."""
    (found,) = tables([reading(1, 5), reading(2, 9)]).sequences
    assert [5, 9] == found.numbers.tolist()
    assert [1, 2] == found.streams.tolist()
    assert [1, 1] == found.steps.tolist()


def test_numbers_of_those_that_say_their_rows():
    """A message that says what its rows are is counted all the same, by text too."""

    class Said(Message):
        number: int = wire(Int8ub)
        name: str = wire(PascalString(Int8ub, "utf-8"))

        def rows(self):
            yield Row(1, None, "", b"", MOMENT, {}, [])

    said = Protocol(
        "said", messages=Said, numbered=Numbered("number", streams=("name",))
    )
    (found,) = tables([bytes(Said(5, "a")), bytes(Said(6, "b"))], said).sequences
    assert [5, 6] == found.numbers.tolist()
    assert 2 == len(set(found.streams.tolist()))


def test_framing_inside_of_datagrams():
    """A datagram may hold several frames, where the framing can tell."""

    class Word(Message):
        text: bytes = wire(GreedyBytes)

    lines = Protocol("lines", framing=Delimited(b"\n", keep=True), messages=Word)
    made = tables([b"one\ntwo\n", b"three\n"], lines)
    assert [b"one\n", b"two\n", b"three\n"] == made.tables["word"]["text"].to_pylist()


def test_own_tabulator():
    """A protocol may bring a tabulator, which is given the folder for its state."""
    given_folder = []

    class Own(Message):
        number: int = wire(Int32ub)

    def make(folder):
        given_folder.append(folder)
        return DeclaredTabulator(own)

    own = Protocol("own", messages=Own, tabulator=make)
    assert isinstance(tabulator_of(own, "here"), DeclaredTabulator)
    assert ["here"] == given_folder


def test_names_of_tables():
    """A table has the name that its class says, or the class's own."""

    class TwoWords(Message):
        number: int = wire(Int8ub)

    assert "two_words" == table_name(TwoWords)
    assert "readings" == table_name(Reading)
    assert "lines" == table_name(next(iter(Notes(1, ["a"]).rows())).__class__)


@attrs.frozen
class Row:
    number: int
    half: float | None
    text: str
    data: bytes
    when: dt.datetime
    tags: dict[str, str]
    many: list[int] = column(doc="several", unit="m")  # noqa: RUF009 - attrs' field


def test_types_of_row_classes():
    """The columns' types are those of the annotations, whatever is in them."""
    row = Row(1, None, "a", b"b", MOMENT, {"k": "v"}, [1, 2])
    table = RowTable(Row).table([row])
    assert [
        pa.int64(),
        pa.float64(),
        pa.string(),
        pa.binary(),
        pa.timestamp("ns", "UTC"),
        pa.map_(pa.string(), pa.string()),
        pa.list_(pa.int64()),
    ] == table.schema.types
    assert {b"doc": b"several", b"unit": b"m"} == table.schema.field("many").metadata
    assert [("k", "v")] == table["tags"][0].as_py()


@pytest.mark.parametrize("number", [1 << 63, -(1 << 63), math.nan])
def test_values_that_do_not_fit(number):
    """A value that does not fit the annotation is kept all the same."""
    row = Row(number, 0.5, "", b"", MOMENT, {}, [])
    found = RowTable(Row).table([row])["number"][0].as_py()
    assert found == number or math.isnan(found)


def test_text_that_is_no_utf8():
    """Text that UTF-8 has no bytes for costs those characters, not the other rows."""
    row = Row(1, 0.5, "a\udcff", b"", MOMENT, {"k\udcff": "\ud800"}, [])
    table = RowTable(Row).table([row, Row(2, 0.5, "b", b"", MOMENT, {}, [])])
    assert ["a\ufffd", "b"] == table["text"].to_pylist()
    assert [("k\ufffd", "\ufffd")] == table["tags"][0].as_py()
    (found,) = table_of([Column("text", np.array(["a\udcff"], object))]).to_pylist()
    assert {"text": "a\ufffd"} == found
