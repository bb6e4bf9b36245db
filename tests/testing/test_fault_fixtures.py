"""
The fixtures for faults, tried by a run of pytest inside of the tests.
"""

import importlib.metadata

from tests.running import ROOT

pytest_plugins = ["pytester"]

MODULE = """
import pytest
from examples.sensor_station import Ack, Reading, app, sensors
from protoserve.errors import PeerTimeoutError

def test_proxy(protoserve_server, protoserve_client, fault_proxy):
    server = protoserve_server(app)
    proxy = fault_proxy(sensors, server.url, "drop@Ack", seed=1)
    client = protoserve_client(sensors, proxy.url, timeout=0.1)
    with pytest.raises(PeerTimeoutError):
        client.call(Reading(7))
    assert {"drop": 1} == dict(proxy.counts)

def test_simulator(simulated, protoserve_client):
    simulator = simulated(sensors, "duplicate")
    client = protoserve_client(sensors, simulator.url)
    assert Ack(7) == client.call(Reading(7))
    assert simulator.answered["Reading"] == 1
"""


def test_fixtures(pytester):
    """Proxies and simulators are made by one call, and end with the test."""
    known = importlib.metadata.entry_points(group="pytest11", name="protoserve")
    options = [] if known else ["-p", "protoserve.testing.plugin"]
    pytester.makeini(f"[pytest]\nfilterwarnings = error\npythonpath = {ROOT}\n")
    pytester.makepyfile(MODULE)
    ran = pytester.runpytest_subprocess("-p", "no:cacheprovider", *options)
    ran.assert_outcomes(passed=2)
