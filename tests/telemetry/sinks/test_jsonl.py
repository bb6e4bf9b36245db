"""
JSON lines.
"""

import datetime as dt
import json
import os

import pyarrow as pa
import pytest

from protoserve.telemetry.sinks.base import SinkUnavailableError
from protoserve.telemetry.sinks.registry import open_sink
from tests.telemetry.sinks.test_parquet import locked
from tests.telemetry.sinks.trials import (
    MOMENT,
    Case,
    DiskTrials,
    fail_to_commit,
    numbers,
)

AS_READ = {
    "some_bytes": bytes.fromhex,
    "an_address": bytes.fromhex,
    "received_at": dt.datetime.fromisoformat,
}


def lines(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "readings.jsonl"


@pytest.fixture
def case(path, monkeypatch):
    def read_back(table):
        rows = [row for row in lines(path) if row.pop("_table") == table]
        names = dict.fromkeys(name for row in rows for name in row)
        return [
            {
                name: value if value is None else AS_READ.get(name, lambda v: v)(value)
                for name, value in (dict.fromkeys(names) | row).items()
            }
            for row in rows
        ]

    return Case(
        f"jsonl:{path}",
        read_back,
        lambda: locked(path.with_name(f"{path.name}.entries"), monkeypatch),
        place=path,
        refuses=False,
    )


class TestJSONLines(DiskTrials):
    pass


def test_a_line(case, path):
    """A line has the table's name, then the columns; what JSON has not is text or null."""
    rows = pa.table(
        {
            "received_at": pa.array([MOMENT], pa.timestamp("ns", "UTC")),
            "address": [b"\xc0\x00"],
            "load": [float("nan")],
            "tags": pa.array([[("a", "b")]], pa.map_(pa.string(), pa.string())),
            "day": [MOMENT.date()],
            "text": ["\u2028\n"],
        }
    )
    with case.opened() as sink:
        sink.store({"flows": rows}, ["a"])
    expected = (
        '{"_table":"flows","received_at":"2026-11-22T16:30:01.123456000Z",'
        '"address":"c000","load":null,"tags":{"a":"b"},"day":"2026-11-22",'
        '"text":"\u2028\\n"}\n'
    )
    assert expected == path.read_text("utf-8")


def test_standard_output(capfd):
    """To standard output go lines; its ids are known as long as the sink is."""
    sink = open_sink("jsonl:-")
    sink.open()
    sink.store(numbers(1, 2), ["a"])
    sink.store(numbers(1, 2), ["a"])
    with pytest.raises(SinkUnavailableError):
        sink.store(numbers(1, 3), ["a", "b"])
    sink.store(numbers(3), ["b"])
    assert {"a", "b"} == sink.known(["a", "b", "c"])
    sink.close()
    expected = "".join(f'{{"_table":"readings","n":{n}}}\n' for n in (1, 2, 3))
    assert expected == capfd.readouterr().out


def test_a_pipe(tmp_path):
    """A pipe is unavailable until somebody reads it, and when nobody does any more."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    sink = open_sink(f"jsonl:{path}")
    with pytest.raises(SinkUnavailableError, match="No such device"):
        sink.open()
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sink.open()
    sink.store(numbers(1), ["a"])
    assert b'{"_table":"readings","n":1}\n' == os.read(reader, 100)
    os.close(reader)
    with pytest.raises(SinkUnavailableError, match="Broken pipe"):
        sink.store(numbers(2), ["b"])
    assert set() == sink.known(["b"])
    sink.close()
    assert [path] == list(tmp_path.iterdir())


def test_a_file_that_is_there_already(case, path):
    """Lines of others stay, but for a last one that does not end."""
    path.write_text('{"mine": 1}\n{"mine"')
    with case.opened() as sink:
        sink.store(numbers(1), ["a"])
    assert [{"mine": 1}, {"_table": "readings", "n": 1}] == lines(path)


def test_what_does_not_count_is_cut(case, path):
    """What a crash has left behind the last whole store is cut when it is opened."""
    with case.opened() as sink:
        sink.store(numbers(1), ["a"])
    whole = path.read_bytes()
    path.write_bytes(whole + whole + b'{"_ta')
    with case.opened():
        assert whole == path.read_bytes()


@pytest.mark.parametrize("how", ["moved", "deleted", "emptied", "shortened"])
def test_files_are_rotated(case, path, how):
    """A file that is moved, deleted or cut by others is gone on with as it is."""
    with case.opened() as sink:
        sink.store(numbers(1, 2, 3), ["a"])
        if how == "shortened":
            os.truncate(path, 40)
        elif how == "emptied":
            os.truncate(path, 0)
        elif how == "deleted":
            path.unlink()
        else:
            path.rename(path.with_suffix(".1"))
        sink.store(numbers(4), ["b"])
        sink.store(numbers(5), ["c"])
        assert {"a", "b", "c"} == sink.known(["a", "b", "c"])
    with case.opened() as sink:
        sink.store(numbers(6), ["d"])
    left = [1] if how == "shortened" else []
    assert [*left, 4, 5, 6] == [row["n"] for row in lines(path)]


def test_two_that_write(case, path):
    """Two sinks that write to one file do so in turns."""
    with case.opened() as one, case.opened() as other:
        one.store(numbers(1), ["a"])
        other.store(numbers(1), ["a"])
        other.store(numbers(2), ["b"])
        one.store(numbers(3), ["c"])
    assert [1, 2, 3] == [row["n"] for row in lines(path)]


def test_a_commit_that_fails(case, monkeypatch):
    """Rows whose commit fails are not there, also when the same sink goes on."""
    fail_to_commit(case, monkeypatch)
