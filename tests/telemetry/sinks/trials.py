"""
The shared trials: every sink, the same questions.

A test module derives a class from `Trials` and gives it a fixture `case`.
"""

import contextlib
import datetime as dt
import errno
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pyarrow as pa
import pytest

from protoserve.telemetry.sinks.base import SinkRefusedError, SinkUnavailableError
from protoserve.telemetry.sinks.commits import Commits
from protoserve.telemetry.sinks.registry import open_sink
from tests.telemetry.sinks import storing

ROOT = Path(__file__).parents[3]
MOMENT = dt.datetime(2026, 11, 22, 16, 30, 1, 123456, dt.UTC)


@attrs.define
class Case:
    """
    A sink, and how its store is looked at.

    Rows are read back as plain values: numbers, text, bytes, times in UTC, lists, dicts
    (maps and structs). A sink need not be closed for it, unless `closed` says so.
    """

    url: str
    read_back: Callable[[str], list[dict[str, Any]]]
    """Gives all rows of a table, with all its columns; none if there is no table."""
    away: Callable[[], contextlib.AbstractContextManager[None]]
    """Keeps the store from being used."""
    biggest: int = 2**64 - 1
    """The largest integer that is stored exactly."""
    place: Path | None = None
    """The file or folder, in one of the test's own."""
    refuses: bool = True
    """Whether columns have one type, so that others are refused."""
    kills: int = 2
    """How often a process that stores is killed."""
    remembers: bool = True
    """Whether ids are known after the sink was closed."""

    def make(self):
        return open_sink(self.url)

    @contextlib.contextmanager
    def opened(self):
        sink = self.make()
        sink.open()
        try:
            yield sink
        finally:
            sink.close()

    def rows(self, table="readings"):
        return self.read_back(table)


def numbers(*values, name="n", kind=None, **others):
    columns = {name: pa.array(values, kind or pa.int64()), **others}
    return {"readings": pa.table(columns)}


def every_type(case):
    """
    One row with a value for each type, and one without any.
    """
    values = {
        "a_bool": (True, pa.bool_()),
        "an_int8": (-128, pa.int8()),
        "an_int16": (-(2**15), pa.int16()),
        "an_int32": (-(2**31), pa.int32()),
        "an_int64": (-(2**63) + 1, pa.int64()),
        "an_uint8": (255, pa.uint8()),
        "an_uint16": (2**16 - 1, pa.uint16()),
        "an_uint32": (2**32 - 1, pa.uint32()),
        "an_uint64": (case.biggest, pa.uint64()),
        "a_half": (0.5, pa.float16()),
        "a_float": (1.5, pa.float32()),
        "a_double": (0.1, pa.float64()),
        "a_text": ('häß\n\t"lich" \'\\N', pa.string()),
        "a_large_text": ("x", pa.large_string()),
        "a_word": ("again", pa.dictionary(pa.int8(), pa.string())),
        "some_bytes": (b"\x00\xff'", pa.binary()),
        "an_address": (b"\xc0\x00\x02\x01", pa.binary(4)),
        "received_at": (MOMENT, pa.timestamp("ns", "UTC")),
        "a_list": ([1, 2, 3], pa.list_(pa.uint16())),
        "a_pair": ([1, 2], pa.list_(pa.int32(), 2)),
        "a_map": ([("k", "v"), ("l", "w")], pa.map_(pa.string(), pa.string())),
        "a_struct": ({"x": 1, "y": "z"}, pa.struct([("x", pa.int32()), ("y", "str")])),
    }
    table = pa.table(
        {name: pa.array([value, None], kind) for name, (value, kind) in values.items()}
    )
    expected = {name: value for name, (value, _) in values.items()}
    expected["a_map"] = dict(expected["a_map"])
    return table, expected


class Trials:
    """
    What every sink has to do.
    """

    def test_all_types_are_read_back(self, case):
        """Each type's value is read back as it was, and so is the want of one."""
        table, expected = every_type(case)
        with case.opened() as sink:
            sink.store({"readings": table}, ["a"])
        full, empty = sorted(case.rows(), key=lambda row: row["a_bool"] is None)
        assert expected == full
        assert dict.fromkeys(expected) == empty

    def test_names_of_columns_may_be_anything(self, case):
        """Dots, quotes, blanks and SQL's own words are names of columns."""
        names = ["header.kind", 'q"uo`te', "group", "select", "at", "ä b"]
        with case.opened() as sink:
            rows = pa.table({name: [index] for index, name in enumerate(names)})
            sink.store({"order": rows}, ["a"])
            sink.store({"order": rows}, ["b"])
        expected = {name: index for index, name in enumerate(names)}
        assert [expected] * 2 == case.rows("order")

    @pytest.mark.parametrize("name", ["", "../up", ".x", "_protoserve_entries", "a\0b"])
    def test_names_of_tables_stay_inside(self, case, name):
        """A table whose name could leave the store, or be the sink's own, is refused."""
        with case.opened() as sink:
            with pytest.raises(SinkRefusedError, match="expected a name"):
                sink.store({name: pa.table({"n": [1]})}, ["a"])
            assert set() == sink.known(["a"])

    def test_ids_are_known(self, case):
        """What is stored is known, also by a sink that is made later."""
        with case.opened() as sink:
            assert set() == sink.known(["a", "b"])
            assert set() == sink.known([])
            sink.store(numbers(1), ["a", "b'\"\\"])
            assert {"a", "b'\"\\"} == sink.known(["a", "b'\"\\", "c"])
        if case.remembers:
            with case.opened() as sink:
                assert {"a", "b'\"\\"} == sink.known(["a", "b'\"\\", "c"])

    def test_the_same_entries_are_stored_once(self, case):
        """Entries that are stored already are left as they are."""
        with case.opened() as sink:
            sink.store(numbers(1, 2), ["a", "b"])
            sink.store(numbers(1, 2), ["a", "b"])
        if case.remembers:
            with case.opened() as sink:
                sink.store(numbers(1, 2), ["b", "a"])
        assert [1, 2] == sorted(row["n"] for row in case.rows())

    def test_entries_of_which_some_are_stored(self, case):
        """Where only some entries are stored, nothing is, until they are left out."""
        with case.opened() as sink:
            sink.store(numbers(1), ["a"])
            with pytest.raises(SinkUnavailableError):
                sink.store(numbers(1, 2), ["a", "b"])
            assert {"a"} == sink.known(["a", "b"])
            sink.store(numbers(2), ["b"])
        assert [1, 2] == sorted(row["n"] for row in case.rows())

    def test_entries_without_rows(self, case):
        """Entries from which no rows come are known too, and no rows are no trouble."""
        with case.opened() as sink:
            sink.store({}, ["a"])
            sink.store({"readings": pa.table({"n": pa.array([], pa.int64())})}, ["b"])
            sink.store(numbers(1), ["c"])
            assert {"a", "b", "c"} == sink.known(["a", "b", "c"])
        assert [{"n": 1}] == case.rows()

    def test_columns_are_added(self, case):
        """A column that comes later is null before, one that stays away is null then."""
        with case.opened() as sink:
            sink.store(numbers(1), ["a"])
            sink.store(numbers(2, more=pa.array(["x"])), ["b"])
            sink.store(numbers(3), ["c"])
        with case.opened() as sink:
            sink.store(numbers(4, other=pa.array([1.5])), ["d"])
        assert [
            (1, None, None),
            (2, "x", None),
            (3, None, None),
            (4, None, 1.5),
        ] == sorted((row["n"], row["more"], row["other"]) for row in case.rows())

    def test_a_column_without_values_gets_its_type_later(self, case):
        """A column that has never had a value takes the type of the first."""
        with case.opened() as sink:
            sink.store(numbers(1, late=pa.nulls(1)), ["a"])
            sink.store(numbers(2, late=pa.array(["x"])), ["b"])
            sink.store(numbers(3, late=pa.nulls(1)), ["c"])
        expected = [(1, None), (2, "x"), (3, None)]
        assert expected == sorted((row["n"], row["late"]) for row in case.rows())

    def test_columns_are_widened(self, case):
        """Integers that do not fit a column make it wider, and so do fractions."""
        with case.opened() as sink:
            sink.store(numbers(1, kind=pa.uint8()), ["a"])
            sink.store(numbers(-(2**40), kind=pa.int64()), ["b"])
            sink.store(numbers(2, kind=pa.uint8()), ["c"])
        with case.opened() as sink:
            sink.store(numbers(2.5, kind=pa.float64()), ["d"])
            sink.store(numbers(3, kind=pa.int32()), ["e"])
        expected = [-(2**40), 1, 2, 2.5, 3]
        assert expected == sorted(row["n"] for row in case.rows())

    def test_unlike_types_are_refused(self, case):
        """Text for a column of numbers is refused by name, and changes nothing."""
        both = {"more": pa.table({"z": [1]})} | numbers("x", kind=pa.string())
        if not case.refuses:
            with case.opened() as sink:
                sink.store(numbers(1), ["a"])
                sink.store(both, ["b"])
            assert [1, "x"] == [row["n"] for row in case.rows()]
            return
        with case.opened() as sink:
            sink.store(numbers(1), ["a"])
            with pytest.raises(SinkRefusedError, match=r"readings, column n: expected"):
                sink.store(both, ["b"])
            assert set() == sink.known(["b"])
            sink.store(numbers(2) | {"more": pa.table({"z": [2]})}, ["c"])
        assert [1, 2] == sorted(row["n"] for row in case.rows())
        assert [{"z": 2}] == case.rows("more")

    def test_columns_that_differ_by_case_are_refused(self, case):
        """Two columns that many a store takes for one are refused by name."""
        with case.opened() as sink:
            with pytest.raises(SinkRefusedError, match="'n' and 'N'"):
                sink.store(numbers(1, N=pa.array([2])), ["a"])
            assert set() == sink.known(["a"])
            if case.refuses:
                sink.store(numbers(1), ["a"])
                with pytest.raises(SinkRefusedError, match="expected column 'n'"):
                    sink.store(numbers(1, name="N"), ["b"])

    def test_several_tables_are_one_store(self, case):
        """The rows of all tables are there together."""
        with case.opened() as sink:
            for number in range(3):
                sink.store(storing.tables_of(number, 2), [f"entry-{number}"])
        for table in ("ones", "others"):
            counts = Counter(row["entry"] for row in case.rows(table))
            assert {0: 2, 1: 2, 2: 2} == counts

    def test_a_store_that_is_away_and_returns(self, case):
        """While the store cannot be used that is said; nothing is lost or stored twice."""
        with case.opened() as sink:
            sink.store(numbers(1), ["a"])
        sink = case.make()
        try:
            with case.away(), pytest.raises(SinkUnavailableError) as caught:
                sink.open()
                sink.store(numbers(2), ["b"])
            assert "\n" not in str(caught.value)
            sink.close()
            sink.open()
            assert {"a"} == sink.known(["a", "b"])
            sink.store(numbers(2), ["b"])
        finally:
            sink.close()
        assert [1, 2] == sorted(row["n"] for row in case.rows())

    def test_it_may_be_closed_often_and_opened_again(self, case):
        """Closing is harmless before opening and after closing."""
        sink = case.make()
        sink.close()
        for number in range(3):
            sink.open()
            sink.store(numbers(number), [f"{number}"])
            sink.close()
            sink.close()
        assert [0, 1, 2] == sorted(row["n"] for row in case.rows())

    def test_a_process_that_is_killed(self, case):
        """Whatever a killed process said is stored; whole entries are, and are known."""
        chance, first, rows, said = random.Random(5), 0, 500, set()
        for _ in range(case.kills):
            first, lines = _store_and_kill(case, first, rows, chance)
            said.update(lines)
            with case.opened() as sink:
                entries = [f"entry-{number}" for number in range(first)]
                known = {int(each[6:]) for each in sink.known(entries)}
            if case.remembers:
                assert said <= known
            for table in ("ones", "others"):
                counts = Counter(row["entry"] for row in case.rows(table))
                assert (
                    dict.fromkeys(known if case.remembers else counts, rows) == counts
                )


class DiskTrials(Trials):
    """
    What every sink has to do that writes files.
    """

    @pytest.fixture
    def small_disk(self, tmp_path):
        """
        Make the test's folder a disk of its own, of 4 MiB.
        """
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
        yield tmp_path
        subprocess.run(["umount", str(tmp_path)], check=True)

    def test_files_that_may_not_grow(self, case):
        """Where a file cannot grow, nothing of an entry is stored, until it can."""
        with case.opened() as sink:
            sink.store(storing.tables_of(0, 10), ["entry-0"])
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
            try:
                with pytest.raises(SinkUnavailableError) as caught:
                    _fill(sink)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            assert "\n" not in str(caught.value)
            _check_whole(case, sink)
            sink.store(storing.tables_of(1000, 10), ["entry-1000"])
            _check_whole(case, sink)

    def test_a_store_that_is_begun_anew(self, case):
        """Who deletes a store while it is closed gets a new one."""
        with case.opened() as sink:
            sink.store(numbers(1), ["a"])
            sink.close()
            for path in case.place.parent.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            sink.open()
            assert set() == sink.known(["a"])
            sink.store(numbers(2), ["b"])
        assert [{"n": 2}] == case.rows()

    def test_a_full_disk(self, small_disk, case):
        """On a full disk, nothing of an entry is stored, until there is room again."""
        with case.opened() as sink:
            sink.store(storing.tables_of(0, 10), ["entry-0"])
            with pytest.raises(SinkUnavailableError) as caught:
                _fill(sink)
            assert "\n" not in str(caught.value)
            _check_whole(case, sink)
            _resize(small_disk, "64m")
            sink.store(storing.tables_of(1000, 10), ["entry-1000"])
            _check_whole(case, sink)


class FileTrials(DiskTrials):
    """
    The questions for sinks that keep a file open; the fixture `path` is that file.
    """

    @pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
    def test_a_file_that_is_gone(self, case, path, how):
        """Rows are stored where they are looked for, not in a file without the name."""
        other = path.with_name(f"other{path.suffix}")
        if how == "replaced":
            with contextlib.closing(open_sink(str(other))) as sink:
                sink.store(numbers(3), ["c"])
        with case.opened() as sink:
            sink.store(numbers(1), ["a"])
            if how == "deleted":
                path.unlink()
            elif how == "moved":
                path.rename(other)
            else:
                other.replace(path)
            assert set() == sink.known(["a"])
            sink.store(numbers(2), ["b"])
            assert {"b"} == sink.known(["a", "b"])
            sink.store(numbers(4), ["d"])
        expected = [2, 4] if how != "replaced" else [3, 2, 4]
        assert expected == [row["n"] for row in case.rows()]
        if how == "moved":
            other.replace(path)
            assert [1] == [row["n"] for row in case.rows()]


def _resize(disk, size):
    done = subprocess.run(
        ["mount", "-o", f"remount,size={size}", str(disk)], capture_output=True
    )
    assert 0 == done.returncode, done.stderr


def _fill(sink):
    """
    Store entries of random bytes, which no store makes small, until that fails.
    """
    chance = random.Random(3)
    for number in range(1, 100):
        rows = 1000 * number
        tables = storing.tables_of(number, rows)
        noise = pa.array([chance.randbytes(300) for _ in range(rows)])
        tables["ones"] = tables["ones"].append_column("noise", noise)
        sink.store(tables, [f"entry-{number}"])


def _check_whole(case, sink):
    """
    See that entries are stored in all tables, or not at all, as the sink says.
    """
    known = sink.known([f"entry-{number}" for number in range(2000)])
    sink.close()
    for table in ("ones", "others"):
        stored = {f"entry-{row['entry']}" for row in case.rows(table)}
        assert known == stored
        counts = Counter(row["entry"] for row in case.rows(table))
        expected = {number: 1000 * number for number in counts if 0 < number < 1000}
        assert dict.fromkeys(counts, 10) | expected == counts
    sink.open()


def fail_to_commit(case, monkeypatch):
    """
    Have the journal of a sink fail once, in the middle; go on with the same sink.
    """

    def commit(journal, ids, lengths, work=Commits.commit):
        if ids:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        work(journal, ids, lengths)

    with case.opened() as sink:
        sink.store(storing.tables_of(1, 10), ["entry-1"])
        with monkeypatch.context() as patch:
            patch.setattr(Commits, "commit", commit)
            with pytest.raises(SinkUnavailableError, match="No space left"):
                sink.store(storing.tables_of(2, 10), ["entry-2"])
        sink.store(storing.tables_of(3, 10), ["entry-3"])
        assert {"entry-1", "entry-3"} == sink.known([f"entry-{n}" for n in range(5)])
    for table in ("ones", "others"):
        assert {1: 10, 3: 10} == Counter(row["entry"] for row in case.rows(table))


def _store_and_kill(case, first, rows, chance):
    """
    Run a process that stores, kill it, and give what it cannot have begun, and has said.
    """
    process = subprocess.Popen(
        [sys.executable, storing.__file__, case.url, str(first), str(rows)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        lines = [int(process.stdout.readline()) for _ in range(chance.randrange(2, 6))]
        # Somewhere in the midst of the next one, or the one behind that.
        time.sleep(chance.random() * 0.02)
        process.kill()
        lines += [int(line) for line in process.stdout.read().splitlines()]
    return lines[-1] + 2, lines
