"""
The spool as a log: the same trials as for brokers.
"""

import pytest

from protoserve.telemetry.spool import Spool
from tests.telemetry.logs.trials import Backend, Trials


@pytest.fixture
def backend(tmp_path):
    return Backend(
        lambda **_: Spool(tmp_path / "spool"), drops_duplicates=False, shares=False
    )


class TestTrials(Trials):
    test_too_large = None
    """A spool takes entries of any size that a broker would."""
