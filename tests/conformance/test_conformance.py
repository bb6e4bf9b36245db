"""
CPython's own tests of `socketserver`, and of what is built on it, pass on ours.
"""

import importlib.util
import sys
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location(
    "protoserve_conformance_run", Path(__file__).with_name("run.py")
)
run = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(run)


@pytest.mark.timeout(2 * run.TIMEOUT)
@pytest.mark.parametrize("name", run.NAMES)
@pytest.mark.parametrize("version", run.PYTHONS)
def test_conformance(version, name):
    """
    What passes with the standard library's servers passes with ours.
    """
    if reason := run.missing(version):
        pytest.skip(reason)
    stock, ours = run.compare(run.find(version).path, name)
    if isinstance(stock, run.RunError):
        pytest.skip(f"nothing to compare with: {stock}")
    if isinstance(ours, run.RunError):
        raise ours
    assert stock.passed
    assert ours.served_by.startswith("protoserve.server")
    assert ours.servers
    assert run.regressions(stock, ours) == {}
