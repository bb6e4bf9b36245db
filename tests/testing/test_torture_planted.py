"""
Torture finds bugs that were planted, and none where there are none.
"""

import pytest

from protoserve.testing.torturing import KINDS, torture
from tests.testing.planted import Planted, door, toy

BUDGET = 250

BUGS = {
    "length off by one": {"garbled"},
    "wrong count in the answer": {"garbled"},
    "count unchecked": {"accepted"},
    "checksum unchecked": {"accepted"},
    "forgets half a frame": {"unanswered", "closed"},
    "half a frame blocks all": {"hang"},
    "loses what came together": {"unanswered", "closed", "hang"},
    "one id for all over 255": {"wrong-key"},
    "wrong type": {"wrong-type"},
    "answers twice": {"duplicate"},
    "greets": {"unsolicited"},
    "crash on an enum": {"crash"},
    "exception on an enum": {"closed"},
    "exception on a common value": {"closed"},
    "dies on oversize": {"crash"},
    "deaf after an error": {"hang"},
    "shared buffer": {"unanswered", "closed", "hang", "wrong-key"},
    "quadratic": {"slow", "hang"},
}
"""For each bug what it may be called."""


OVERLAPS = {
    "one table for all peers": {"unanswered", "unsolicited", "wrong-key", "wrong-type"},
    "the trailer counted for elements": {"accepted"},
    "frames looked for in broken frames": {"unsolicited", "wrong-key"},
}
"""Bugs of servers to which two things lay claim to the same, with their names."""


def run(planted, protocol=toy, budget=BUDGET, deadline=0.5, only=()):
    return torture(
        protocol,
        planted.url,
        budget=budget,
        seed=3,
        deadline=deadline,
        pid=planted.pid,
        restart=planted.begin,
        most=1,
        shrink=0.5,
        only=only,
    )


@pytest.mark.parametrize("bug", BUGS)
def test_planted(bug):
    """A bug is found, and called what it is."""
    with Planted(bug) as planted:
        report = run(planted)
    assert report.findings, report
    assert {finding.category for finding in report.findings} & BUGS[bug], report


@pytest.mark.parametrize("bug", OVERLAPS)
def test_overlaps(bug):
    """Bugs that show when things overlap are found by the cases in which they do."""
    with Planted(bug) as planted:
        report = run(planted, only=["overlap"])
    assert report.findings, report
    assert {finding.category for finding in report.findings} & OVERLAPS[bug], report


def test_only_by_overlap():
    """No other class has peers that ask under the same key at the same time."""
    with Planted("one table for all peers") as planted:
        report = run(planted, deadline=5, only=KINDS.keys() - {"overlap"})
    assert [] == report.findings
    assert BUDGET == report.cases


@pytest.mark.parametrize("how", ["stream", "datagrams", "door"])
def test_healthy(how):
    """The same servers without a bug pass with the same budget."""
    with Planted("", how) as planted:
        report = run(planted, door if how == "door" else toy, BUDGET, deadline=5)
    assert [] == report.findings
    assert BUDGET == report.cases


def test_state_skipped():
    """A message that is accepted in a state that does not allow it is told as that."""
    with Planted("state skipped", "door") as planted:
        report = run(planted, door)
    assert {"state"} == {finding.category for finding in report.findings}


@pytest.mark.parametrize(
    ("bug", "category"),
    [("crash on a short datagram", "crash"), ("silent after a long datagram", "hang")],
)
def test_datagrams(bug, category):
    """Servers of datagrams crash and hang, too."""
    with Planted(bug, "datagrams") as planted:
        report = run(planted)
    assert {category} == {finding.category for finding in report.findings}


def test_leak():
    """A server whose memory grows with each request is told from one that is warm."""
    with Planted("leak") as planted:
        report = run(planted, budget=2500, deadline=5)
    assert ["memory"] == [finding.category for finding in report.findings]


def test_one_at_a_time():
    """A server of one connection at a time is none that hangs."""
    with Planted("one at a time") as planted:
        report = run(planted, deadline=5)
    assert [] == report.findings
    assert "it serves one connection at a time" in report.notes
