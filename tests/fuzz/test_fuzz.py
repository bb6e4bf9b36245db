"""
A short fuzz run on every commit, and all that longer ones have found.
"""

from __future__ import annotations

import pathlib
import random

import pytest

from protoserve import Direction
from tests.fuzz import run
from tests.fuzz.judge import Finding, Judge, load

CORPUS = pathlib.Path(__file__).parent / "corpus"
CASES = 1_500
FOUND = sorted(CORPUS.glob("*/*.hex"))


@pytest.mark.parametrize("task", run.tasks(run.shipped(), CASES, 1), ids=str)
def test_short_run(task):
    """No input does what it may not."""
    report = run.run(task)
    assert [] == report.findings
    assert report.accepted > CASES // 100


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_corpus(path):
    """What was found once stays fixed."""
    direction, transport, data = load(path)
    judge = Judge(run.protocol_named(path.parent.name), direction)
    if transport == "stream":
        finding = judge.stream(data, random.Random(1))
    else:
        finding = judge.frame(data)
    assert finding is None, finding


def test_findings_can_be_replayed(tmp_path):
    """What is saved is what is loaded."""
    data = bytes(range(100))
    finding = Finding("dns", "response", "stream", "KeyError", "some\ntext", data)
    path = finding.save(tmp_path)
    assert "dns" == path.parent.name
    assert (Direction.RESPONSE, "stream", data) == load(path)


def test_command_line(capsys):
    """The run says how many cases it tried, and that nothing was found."""
    name = run.shipped()[0]
    assert 0 == run.main([name, "--cases", "200"])
    shown = capsys.readouterr().out
    assert "200 cases" in shown
    assert "nothing found" in shown


def test_unknown_protocol(capsys):
    """A wrong name is answered by the right ones."""
    assert 2 == run.main(["dsn"])
    assert "no such protocol: dsn" in capsys.readouterr().out
