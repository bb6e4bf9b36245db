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
    ours = passes(version, name, "ours")
    assert ours.served_by.startswith("protoserve.server")


@pytest.mark.timeout(2 * run.TIMEOUT)
@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind, names in run.VARIANTS.items() for name in names],
)
def test_variants(kind, name):
    """
    It passes as well with a mix-in of ours in the place of the classic ones.
    """
    passes(run.VARIANT_PYTHON, name, kind)


def passes(version, name, kind):
    """
    Check that nothing is lost; give the report of ours.
    """
    if reason := run.missing(version):
        pytest.skip(reason)
    stock, ours = run.compare(run.find(version).path, name, kind)
    if isinstance(stock, run.RunError):
        pytest.skip(f"nothing to compare with: {stock}")
    if isinstance(ours, run.RunError):
        raise ours
    assert stock.passed
    assert ours.servers
    assert run.regressions(stock, ours) == {}
    return ours
