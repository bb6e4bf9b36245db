"""
The example configuration of a deployment.
"""

import inspect
import re
import subprocess

import pytest

from protoserve.telemetry.logs.options import read
from tests.running import ROOT
from tests.telemetry.logs.cluster import program

DEPLOY = ROOT / "examples" / "deploy"


def test_nats():
    """The server takes its configuration, and writes before it confirms."""
    checked = subprocess.run(
        [program("nats-server"), "-c", DEPLOY / "nats.conf", "-t"],
        env={"NODE": "nats1", "STORE": "store", "PASSWORD": "secret"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert 0 == checked.returncode, checked.stderr
    assert "sync_interval: always" in (DEPLOY / "nats.conf").read_text()


def test_collect():
    """What the collector's file sets are options that it has, and the log is one."""
    yaml = pytest.importorskip("yaml")
    command = pytest.importorskip("protoserve.cli.commands.collect").collect
    settings = yaml.safe_load((DEPLOY / "collect.yaml").read_text())
    assert settings.keys() <= inspect.signature(command).parameters.keys()
    target, _ = read(settings["to"], port=4222, options={})
    assert 3 == len(target.hosts)


@pytest.mark.parametrize("unit", sorted(DEPLOY.glob("*.service")), ids=lambda u: u.name)
def test_units(unit):
    """A unit restarts what it runs, and its commands have the options it gives."""
    text = unit.read_text()
    assert "Restart=always" in text
    for name, rest in re.findall(r"bin/protoserve (\w+) (.*)", text):
        module = pytest.importorskip(f"protoserve.cli.commands.{name}")
        known = {
            each.replace("_", "-")
            for each in inspect.signature(getattr(module, name)).parameters
        } | {"from"}
        assert set(re.findall(r"--([a-z-]+)", rest)) <= known
