"""
Sinks by their URLs.
"""

import pytest

from protoserve import DeclarationError
from protoserve.telemetry.sinks import options
from protoserve.telemetry.sinks.arrow import ArrowSink
from protoserve.telemetry.sinks.duckdb import DuckDBSink
from protoserve.telemetry.sinks.jsonl import JSONLinesSink
from protoserve.telemetry.sinks.parquet import ParquetSink
from protoserve.telemetry.sinks.registry import open_sink
from protoserve.telemetry.sinks.sqlite import SQLiteSink


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("duckdb:flows", DuckDBSink),
        ("DuckDB:flows", DuckDBSink),
        ("flows.duckdb", DuckDBSink),
        ("/var/lib/a:b/flows.duckdb?threads=2", DuckDBSink),
        ("parquet:flows", ParquetSink),
        ("sqlite:flows.db", SQLiteSink),
        ("flows.sqlite", SQLiteSink),
        ("arrow:flows", ArrowSink),
        ("jsonl:-", JSONLinesSink),
        ("jsonl:flows.duckdb", JSONLinesSink),
        ("./a:b.duckdb", DuckDBSink),
    ],
)
def test_schemes(url, kind):
    """A URL names the kind of the sink, by its scheme or the file's ending."""
    assert kind is type(open_sink(url))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("duckbd:x", "unknown sink 'duckbd'; did you mean duckdb?"),
        ("duckbd:x.duckdb", "unknown sink 'duckbd'; did you mean duckdb?"),
        ("s3://x/y.duckdb", "unknown sink 's3'; known: arrow"),
        ("flows", "'flows': expected the URL of a sink, as in duckdb:FILE"),
        ("", "'': expected the URL of a sink"),
        ("duckdb:", "duckdb: expected duckdb:WHERE, found nothing"),
        ("duckdb:x?thread=1", "unknown option 'thread'; did you mean threads?"),
        ("parquet:x?max_agee=3", "unknown option 'max_agee'; did you mean max_age?"),
        ("duckdb:x?threads=no", "expected a whole number above 0, found 'no'"),
        ("duckdb:x?max_rows=0", "option max_rows: expected a whole number above 0"),
        ("arrow:x?max_age=inf", "option max_age: expected a number of seconds"),
        ("arrow:x?max_age=x", "option max_age: expected a number of seconds"),
        ("arrow:x?segment_size=5q", "segment_size: expected a number of bytes"),
        ("parquet:x?compression=zip", "expected one of zstd, snappy"),
    ],
)
def test_refusals(url, said):
    """What is wrong with a URL is said in one line, with what was meant."""
    with pytest.raises(DeclarationError) as caught:
        open_sink(url)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_library_that_is_not_installed(monkeypatch):
    """Where a library is missing, the extra that has it is named."""
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    monkeypatch.delitem(
        __import__("sys").modules, "protoserve.telemetry.sinks.duckdb", raising=False
    )
    with pytest.raises(DeclarationError, match=r"pip install 'protoserve\[duckdb\]'"):
        open_sink("duckdb:x")


def test_how_rows_are_gathered():
    """Every sink may be told how many rows it gets, and how old; Parquet has its own."""
    sink = open_sink("duckdb:x?max_age=2.5&threads=1&max_rows=100")
    assert (100, 2.5) == (sink.max_rows, sink.max_age)
    assert (None, None) == (
        open_sink("sqlite:x").max_rows,
        open_sink("arrow:x").max_age,
    )
    assert 10.0 == open_sink("parquet:x").max_age


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("2k", 2048), ("3MiB", 3 << 20), ("4GB", 4 << 30), ("1T", 1 << 40)],
)
def test_sizes(text, size):
    """Sizes are powers of 1024, however they are written."""
    assert size == options.size(text)
