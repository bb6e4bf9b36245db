"""
The journal of sinks that write files.
"""

import contextlib
import os

import pytest

from protoserve.telemetry.sinks import commits
from protoserve.telemetry.sinks.base import SinkUnavailableError
from protoserve.telemetry.sinks.commits import Commits


@contextlib.contextmanager
def opened(folder, **options):
    journal = Commits(folder, **options)
    journal.open()
    try:
        yield journal
    finally:
        journal.close()


def commit(journal, *ids, **lengths):
    with journal.alone():
        journal.commit(ids, lengths)


def test_it_is_read_again(tmp_path):
    """Ids and files are known to whoever opens it next."""
    with opened(tmp_path / "new" / "one") as journal:
        commit(journal, "a", "b", x=1)
        commit(journal, "c", x=2, y=0)
    with opened(tmp_path / "new" / "one") as journal:
        assert {"a", "c"} == journal.known(["a", "c", "d"])
        assert {"x": 2, "y": 0} == journal.files


def test_what_others_commit_is_known(tmp_path):
    """Two that have it open know each other's entries and files, also behind a roll."""
    with opened(tmp_path) as one, opened(tmp_path, segment_ids=2) as other:
        commit(one, "a", "b", x=1)
        assert {"a"} == other.known(["a"])
        commit(other, "c", x=2)
        commit(one, "d", y=3)
        assert {"a", "b", "c", "d"} == other.known(["a", "b", "c", "d", "e"])
        assert {"x": 2, "y": 3} == other.files == one.files


def test_an_unfinished_line_is_cut(tmp_path):
    """A line that was not finished counts for nothing, and the next one is whole."""
    with opened(tmp_path) as journal:
        commit(journal, "a")
    (path,) = tmp_path.glob("entries-*")
    with path.open("ab") as file:
        file.write(b'{"at":1,"ids":["torn"],"fi')
    with opened(tmp_path) as journal:
        assert {"a"} == journal.known(["a", "torn"])
        commit(journal, "b")
    with opened(tmp_path) as journal:
        assert {"a", "b"} == journal.known(["a", "b", "torn"])


@pytest.mark.parametrize("line", [b"rubbish", b"{}", b"[]", b'{"ids":5,"files":{}}'])
def test_a_damaged_line_is_skipped(tmp_path, line, caplog):
    """A damaged line is skipped, which is said; those around it count."""
    with opened(tmp_path) as journal:
        commit(journal, "a")
    (path,) = tmp_path.glob("entries-*")
    path.write_bytes(line + b"\n" + path.read_bytes())
    with opened(tmp_path) as journal:
        assert {"a"} == journal.known(["a"])
    assert "a line is damaged" in caplog.text


def test_it_does_not_grow_without_bound(tmp_path, monkeypatch):
    """The oldest segments are deleted; the newest ids and all files stay known."""
    monkeypatch.setattr(commits, "KEEP_IDS", 10)
    with opened(tmp_path, segment_ids=5) as journal:
        for number in range(100):
            commit(journal, f"{number}", **{f"f{number % 3}": number})
    newest = {f"{number}" for number in range(90, 100)}
    assert 4 >= len(list(tmp_path.glob("entries-*")))
    with opened(tmp_path) as journal:
        assert newest == journal.known([f"{number}" for number in range(100)])
        assert {"f0": 99, "f1": 97, "f2": 98} == journal.files


def test_old_segments_are_deleted(tmp_path):
    """Segments that nobody has written to for a week go when a new one begins."""
    with opened(tmp_path, segment_ids=1) as journal:
        commit(journal, "a", x=1)
        (path,) = tmp_path.glob("entries-*")
        os.utime(path, (0, 0))
        commit(journal, "b")
        assert not path.exists()
    with opened(tmp_path) as journal:
        assert {"b"} == journal.known(["a", "b"])
        assert {"x": 1} == journal.files


def test_the_lock_of_another(tmp_path, monkeypatch):
    """A lock that another holds is waited for, but not for ever."""
    monkeypatch.setattr(commits, "_PATIENCE", 0.02)
    with (
        opened(tmp_path) as one,
        opened(tmp_path) as other,
        one.alone(),
        pytest.raises(SinkUnavailableError, match="another process holds"),
    ):
        commit(other, "a")


def test_a_journal_that_is_deleted(tmp_path):
    """A journal may be deleted when it is closed; it is begun anew."""
    with opened(tmp_path / "x") as journal:
        commit(journal, "a")
    for path in (tmp_path / "x").iterdir():
        path.unlink()
    with opened(tmp_path / "x") as journal:
        assert set() == journal.known(["a"])
        commit(journal, "b")
        assert {"b"} == journal.known(["b"])
