"""
Memory that is free is given back.
"""

import ctypes

import pytest

from protoserve.telemetry import trimming
from tests.running import ran

# In a process of its own, whose heap nobody else has used.
PROGRAM = """
import os
from pathlib import Path
from protoserve.telemetry.trimming import give_back

def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")

kept, freed = [], []
for number in range(640):
    each = bytes([number % 251])
    freed.append(each * 100_000)
    kept.append(each * 1000)
freed.clear()
before = resident()
give_back()
print(before - resident())
"""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc"
)
def test_holes_are_given_back():
    """What is free between what is there to stay goes back to the system."""
    done = ran(PROGRAM)
    assert int(done.stdout) > 32 << 20


def test_when_it_is_given_back(monkeypatch):
    """Once a second when there is nothing to do, each ten seconds while there is."""
    now, times = 100.0, []
    monkeypatch.setattr(trimming, "give_back", lambda: times.append(now - 100.0))
    monkeypatch.setattr(trimming.time, "monotonic", lambda: now)
    trimmer = trimming.Trimmer()
    work = [True] * 50 + [False] * 20 + [True, False] * 10 + [False] * 10
    for worked in work:
        now += 0.5
        trimmer.after(worked=worked)
    busy, idle, now_and_then = [10.0, 20.0], [25.5], [35.5, *range(37, 46)]
    assert times == [*busy, *idle, *now_and_then]
