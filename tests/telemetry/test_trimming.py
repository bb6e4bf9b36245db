"""
Memory that is free is given back.
"""

import ctypes

import pytest

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
