"""
Arrow IPC.
"""

import os

import pyarrow as pa
import pytest

from protoserve.telemetry.sinks.arrow import ArrowSink
from protoserve.telemetry.sinks.base import SinkRefusedError
from protoserve.telemetry.sinks.registry import open_sink
from tests.telemetry.sinks.test_parquet import locked
from tests.telemetry.sinks.trials import Case, DiskTrials, fail_to_commit, numbers


def read_file(path):
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
        return stream.read_all()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "readings"


@pytest.fixture
def case(folder, monkeypatch):
    def read_back(table):
        parts = [read_file(p) for p in sorted(folder.joinpath(table).glob("*.arrows"))]
        if not parts:
            return []
        table = pa.concat_tables(parts, promote_options="permissive")
        return table.to_pylist(maps_as_pydicts="strict")

    return Case(
        f"arrow:{folder}",
        read_back,
        lambda: locked(folder / "_protoserve", monkeypatch),
        place=folder,
    )


class TestArrow(DiskTrials):
    pass


def segments(folder, table="readings"):
    return sorted(folder.joinpath(table).glob("*.arrows"))


def test_it_is_read_while_it_is_written(case, folder):
    """A segment can be read up to the last store while its sink goes on."""
    with case.opened() as sink:
        for number in range(3):
            sink.store(numbers(number), [f"{number}"])
            (path,) = segments(folder)
            assert [*range(number + 1)] == read_file(path)["n"].to_pylist()
    assert path.read_bytes().endswith(b"\xff\xff\xff\xff\0\0\0\0")


def test_what_does_not_count_is_cut(case, folder):
    """What a crash has left behind the last whole store is cut when it is opened."""
    with case.opened() as sink:
        sink.store(numbers(1), ["a"])
    (path,) = segments(folder)
    whole = path.read_bytes()
    path.write_bytes(whole + b"torn")
    with case.opened():
        assert whole == path.read_bytes()


def test_a_segment_of_which_nothing_counts(case, folder, monkeypatch):
    """A segment whose first store never was one is gone."""
    with case.opened() as sink, monkeypatch.context() as patch:
        patch.setattr(ArrowSink, "_append", append_and_die)
        patch.setattr(ArrowSink, "_forget", lambda *_: None)
        with pytest.raises(ZeroDivisionError):
            sink.store(numbers(1), ["a"])
        assert 1 == len(segments(folder))
        left = sink._segments.popitem()[1]
    os.close(left.handle)
    with case.opened() as sink:
        assert [] == segments(folder)
        assert set() == sink.known(["a"])


def append_and_die(sink, name, rows, append=ArrowSink._append):
    append(sink, name, rows)
    return 1 / 0


def test_segments_end(tmp_path):
    """A segment ends when it is long, old, or of another schema."""
    sink = open_sink(f"arrow:{tmp_path}?segment_size=1k&segment_age=3600")
    sink.open()
    sink.store(numbers(1), ["a"])
    sink.store(numbers(2), ["b"])
    assert 1 == len(segments(tmp_path))
    sink.store(numbers(*range(1000)), ["c"])
    sink.store(numbers(3), ["d"])
    assert 2 == len(segments(tmp_path))
    sink.store(numbers(4, more=pa.array([1])), ["e"])
    assert 3 == len(segments(tmp_path))
    sink._segments["readings"].began -= 3601
    sink.store(numbers(5, more=pa.array([1])), ["f"])
    assert 4 == len(segments(tmp_path))
    sink.close()
    lengths = [len(read_file(path)) for path in segments(tmp_path)]
    assert [1002, 1, 1, 1] == lengths


@pytest.mark.parametrize("how", ["none", "lz4", "zstd"])
def test_dictionaries_stay(tmp_path, how):
    """Text that comes in a dictionary is stored as one, a new one with each store."""
    sink = open_sink(f"arrow:{tmp_path}?compression={how}")
    sink.open()
    for words in (["a", "b"], [], ["b", None, "c"]):
        column = pa.array(words, pa.string()).dictionary_encode()
        sink.store({"readings": pa.table({"word": column})}, [f"{words}"])
    sink.store({"readings": pa.table({"word": ["d"]})}, ["text"])
    sink.close()
    first, second = map(read_file, segments(tmp_path))
    assert pa.types.is_dictionary(first.schema.field("word").type)
    assert ["a", "b", "b", None, "c"] == first["word"].to_pylist()
    assert ["d"] == second["word"].to_pylist()


def test_a_table_without_rows(case, folder):
    """Of no rows there is no file, which could not be read."""
    with case.opened() as sink:
        sink.store(numbers(), ["a"])
        assert {"a"} == sink.known(["a"])
    assert [] == segments(folder)


def test_docs_stay_with_the_columns(case, folder):
    """What a declaration says of a column is in the file."""
    said = {b"doc": b"octets", b"unit": b"B"}
    schema = pa.schema([pa.field("octets", pa.uint64(), metadata=said)])
    with case.opened() as sink:
        sink.store({"flows": pa.table({"octets": [1]}, schema)}, ["a"])
    (path,) = segments(folder, "flows")
    assert said == read_file(path).schema.field("octets").metadata


def test_two_that_write(case):
    """Two sinks in one folder know what the other has stored, and cut nothing of it."""
    with case.opened() as one:
        one.store(numbers(1), ["a"])
        with case.opened() as other:
            one.store(numbers(2), ["b"])
            other.store(numbers(2), ["b"])
            other.store(numbers(3), ["c"])
            assert {"a", "b", "c"} == one.known(["a", "b", "c"])
        one.store(numbers(4), ["d"])
    assert [1, 2, 3, 4] == sorted(row["n"] for row in case.rows())


def test_a_file_that_is_damaged(case, folder, caplog):
    """A damaged file is nobody's trouble but its own: the one before tells the schema."""
    for number in range(2):
        with case.opened() as sink:
            sink.store(numbers(number), [f"{number}"])
    newest = segments(folder)[-1]
    newest.write_bytes(b"rubbish")
    with (
        case.opened() as sink,
        pytest.raises(SinkRefusedError, match="column n: expected int64"),
    ):
        sink.store(numbers("x", kind=pa.string()), ["c"])
    assert f"{newest}: cannot be read" in caplog.text


def test_a_commit_that_fails(case, folder, monkeypatch):
    """Rows whose commit fails are not there, also when the same sink goes on."""
    fail_to_commit(case, monkeypatch)
