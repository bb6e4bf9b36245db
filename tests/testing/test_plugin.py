"""
The pytest plugin, tried by runs of pytest inside of the tests.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]

CONFIGURATION = """
[pytest]
filterwarnings = error
addopts = --strict-markers --strict-config
"""
STATION = """
import pytest
from examples.sensor_station import Ack, Reading, Station, app, sensors
from protoserve import Direction, Service, route
from protoserve.testing import on_wire

class Broken:
    @route
    def reading(self, message: Reading) -> Ack:
        raise LookupError("no such device")

broken = Service(sensors, Broken())
"""


@pytest.fixture
def run(pytester, monkeypatch):
    """Run pytest on a module; give the result."""
    known = importlib.metadata.entry_points(group="pytest11", name="protoserve")
    options = [] if known else ["-p", "protoserve.testing.plugin"]
    pytester.makeini(CONFIGURATION)
    # Not in this process: what is imported there first would be forgotten again.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(module, *arguments):
        pytester.makepyfile(STATION + module)
        return pytester.runpytest_subprocess(
            "-p", "no:cacheprovider", *options, *arguments
        )

    return run


def test_fixtures(run):
    """Servers and clients are made by one call, and work together."""
    result = run("""
def test_in_memory(protoserve_client):
    assert Ack(7) == protoserve_client(app).call(Reading(7))

def test_live(protoserve_server, protoserve_client):
    server = protoserve_server(app)
    assert Ack(7) == protoserve_client(server).call(Reading(7))
    assert Ack(7) == protoserve_client(sensors, server.url).call(Reading(7))

def test_several(protoserve_server, protoserve_client):
    for mode in ("threads", "loop"):
        protoserve_client(protoserve_server(app, mode=mode)).call(Reading(1))
""")
    result.assert_outcomes(passed=3)


def test_marks(run):
    """A mark has options for the server; lists run the test with each."""
    result = run(
        """
@pytest.mark.protoserve_server(transport="udp")
def test_one(protoserve_server):
    assert protoserve_server(app).url.startswith("udp:")
    assert protoserve_server(app, transport="tcp").url.startswith("tcp:")

@pytest.mark.protoserve_server(mode=["threads", "prefork"], transport=("tcp", "unix"))
def test_many(protoserve_server, protoserve_client):
    server = protoserve_server(app)
    assert Ack(7) == protoserve_client(server).call(Reading(7))

@pytest.mark.parametrize("protoserve_server", ["single", "pool"], indirect=True)
def test_by_mode(protoserve_server):
    assert protoserve_server(app).mode in ("single", "pool")
""",
        "-v",
    )
    result.assert_outcomes(passed=7)
    result.stdout.fnmatch_lines(["*test_many?prefork-unix? PASSED*"])


def test_failures_of_handlers(run):
    """What a handler has raised is a failure of the test, and not an error after it."""
    result = run("""
def test_in_memory(protoserve_client):
    protoserve_client(broken).send(Reading(7))

def test_live(protoserve_server, protoserve_client):
    protoserve_client(protoserve_server(broken)).send(Reading(7))

def test_as_in_production(protoserve_server, protoserve_client):
    server = protoserve_server(broken, raise_errors=False)
    protoserve_client(server).send(Reading(7))
""")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["*LookupError: no such device*"])


def test_tests_that_fail(run):
    """Everything is closed behind a test that fails or is not run."""
    result = run("""
@pytest.fixture
def client(protoserve_client):
    return protoserve_client(app)

@pytest.fixture
def nothing(client):
    raise ZeroDivisionError

def test_fails(client):
    assert client.call(Reading(7)) == Ack(8)

def test_is_not_run(nothing): ...

def test_all_closed():
    assert 0 == app.connections
    assert app._leave is None
""")
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*Ack.device at offset 0: expected 7, found 8*"])


def test_seed(run):
    """Streams are cut by the seed that the command line gives."""
    module = """
def test_seed(protoserve_client, pytestconfig):
    assert protoserve_client(app).seed == 42
    assert protoserve_client(app, seed=7).seed == 7
    assert 0
"""
    result = run(module, "--protoserve-seed=42")
    result.stdout.fnmatch_lines(["*streams were cut as they are*(seed=7)*"])
    result.stdout.fnmatch_lines(["*streams were cut as they are*(seed=42)*"])


def test_assertions(run):
    """Messages, and bytes that are known to be some, are compared by their fields."""
    result = run(
        """
def test_messages():
    assert Reading(1, samples=[1, 2]) == Reading(1, samples=[1, 3])

def test_bytes():
    assert on_wire(Reading(1)) == bytes(Reading(2))

@pytest.mark.wire(sensors, direction=Direction.RESPONSE)
def test_marked():
    assert bytes.fromhex("81 0000 00000001") == bytes.fromhex("81 0000 00000002")

def test_lists():
    assert [Ack(1), Ack(2)] == [Ack(1), Ack(3)]

def test_others():
    assert 1 == 2

def test_plain_bytes():
    assert b"abc" == b"xbc"

def test_other_operators():
    assert Ack(1) != Ack(1)
""",
        "-vv",
    )
    result.assert_outcomes(failed=7)
    for line in (
        "*Reading.samples?1? at offset 11: expected 2, found 3",
        "*> 000b  00 02 * samples?1?  2",
        "*Reading.device at offset 0: expected 1, found 2",
        "*Ack.device at offset 3: expected 1, found 2",
        "*at index 1: Ack(device=2) == Ack(device=3)",
        "*assert b'abc' == b'xbc'*",
    ):
        result.stdout.fnmatch_lines([line])


def test_wrong_use(run):
    """Wrong arguments are told in a line."""
    result = run("""
def test_url_for_nothing(protoserve_client):
    protoserve_client(app, "tcp://127.0.0.1:1")

def test_protocol_alone(protoserve_client):
    protoserve_client(sensors)

def test_mode(protoserve_server):
    protoserve_server(app, mode="treads")
""")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(["*protoserve_client takes a Service, a live server*"])
    result.stdout.fnmatch_lines(["*no mode 'treads'; did you mean 'threads'?*"])


def test_plugin_is_light():
    """A run that uses nothing of it pays for nothing of it."""
    heavy = {"asyncio", "hypothesis", "socket", "construct"}
    before = "import sys, pytest; before = set(sys.modules); "
    program = f"{before}import protoserve.testing.plugin; "
    program += f"print(sorted({heavy!r} & (set(sys.modules) - before)))"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "[]" == ran.stdout.strip()


def test_entry_point():
    """pytest finds the plugin by itself where the package is installed."""
    import tomllib
    from pathlib import Path

    file = Path(__file__).parents[2] / "pyproject.toml"
    points = tomllib.loads(file.read_text())["project"]["entry-points"]["pytest11"]
    assert {"protoserve": "protoserve.testing.plugin"} == points
