"""
A service under test runs on the real stack, and ends with the test.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from examples import ntp_server, sensor_station
from protocols import ntp
from protoserve import DeclarationError, Service, Session, route
from protoserve.client import AsyncClient, Client
from protoserve.serve import MODES, StartError
from protoserve.testing import live
from protoserve.testing._failures import portable
from tests.service.kit import Ping, Pong, Text, descriptors, spoken, until

TRANSPORTS = ("tcp", "tls", "udp", "unix", "unixgram")
ROOT = Path(__file__).parents[2]


class Handler:
    """Answers; says what it should not."""

    @route
    def ping(self, message: Ping) -> Pong:
        if message.value == 13:
            raise LookupError("unlucky")
        return Pong(message.value + 1)

    @route
    async def text(self, message: Text, session: Session) -> Text:
        await asyncio.sleep(0)
        return Text(str(os.getpid()).encode())


def made():
    return Service(spoken, Handler())


CASES = [(mode, transport) for mode in MODES for transport in ("tcp", "udp")]
CASES += [(mode, transport) for transport in TRANSPORTS for mode in ("loop", "prefork")]


@pytest.mark.parametrize(("mode", "transport"), sorted(set(CASES)))
def test_everywhere(mode, transport):
    """A client is answered in each mode; where it is by processes, by another one."""
    with live(made(), mode=mode, transport=transport) as server:
        assert server.url.startswith(f"{transport}://")
        with server.client() as client:
            assert Pong(4) == client.call(Ping(3))
            client.send(Text())
            pid = int(client.receive().text)
        assert (os.getpid() == pid) == (server.pid == os.getpid())
        assert ("fork" in mode) == (server.pid != os.getpid())
    assert not is_there(server)


def is_there(server):
    """Say whether anybody listens where a server was."""
    transport, _, place = server.url.partition("://")
    if transport in ("unix", "unixgram"):
        return Path(place).exists()
    kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
    host, _, port = place.rpartition(":")
    with socket.socket(socket.AF_INET, kind) as probe:
        if transport != "udp":
            return probe.connect_ex((host, int(port))) == 0
        try:
            probe.bind((host, int(port)))
        except OSError:
            return True
        return False


def test_readme_station():
    """The first example of all is served, and its handler can be looked at."""
    with (
        live(sensor_station.app) as server,
        Client(sensor_station.sensors, server.url) as client,
    ):
        client.call(sensor_station.Reading(9, 19.5))
    assert 19.5 == sensor_station.app.handler.last[9]


def test_ntp():
    """A protocol of datagrams is served over them, and over nothing else."""
    with live(ntp_server.app, transport="udp") as server, server.client() as client:
        answer = client.call(ntp.ClientRequest(), header=ntp.Header(mode=3))
        assert 10 == answer.stratum
    with pytest.raises(DeclarationError, match="use udp://"), live(ntp_server.app):
        pass


def test_from_coroutines():
    """A test that is a coroutine may serve and ask."""

    async def test():
        with live(made(), mode="loop") as server:
            async with AsyncClient(spoken, server.url) as client:
                return await client.call(Ping(1))

    assert Pong(2) == asyncio.run(test())


@pytest.mark.parametrize("mode", MODES)
def test_exceptions_surface(mode):
    """What a route raises is raised by the test, also from another process."""
    with (
        pytest.raises(LookupError, match="unlucky") as caught,
        live(made(), mode=mode) as server,
        server.client() as client,
    ):
        client.send(Ping(13))
    told = "".join(getattr(caught.value, "__notes__", ()))
    assert ("in the server's process:" in told) == ("fork" in mode)
    if "fork" in mode:
        assert 'raise LookupError("unlucky")' in told


def test_consequences():
    """A test that fails by itself keeps its exception, and is told the server's."""
    with (
        pytest.raises(ZeroDivisionError) as caught,
        live(made()) as server,
        server.client() as client,
    ):
        client.send(Ping(13))
        until(lambda: server.failures)
        1 / 0  # noqa: B018
    assert "meanwhile the server failed:" in caught.value.__notes__[0]
    assert "LookupError: unlucky" in caught.value.__notes__[0]


def test_production_deals_with_exceptions():
    """On demand exceptions are logged only."""
    with live(made(), raise_errors=False) as server, server.client() as client:
        client.send(Ping(13))


def test_each_exception_counts():
    """Failures are not held back, as lines of the log are."""
    app = made()
    for _ in range(2):
        with pytest.raises(LookupError), live(app) as server, server.client() as client:
            client.send(Ping(13))


@pytest.mark.parametrize("mode", ["threads", "fork", "prefork"])
def test_lifespan(mode, tmp_path):
    """It is entered and left; one that fails is told, in a line."""
    said = tmp_path / "said"

    def lifespan(service):
        with said.open("a") as file:
            file.write("opened ")
        yield
        with said.open("a") as file:
            file.write("closed ")

    with live(Service(spoken, Handler(), lifespan=lifespan), mode=mode, workers=None):
        assert "opened" in said.read_text()
    words = said.read_text().split()
    assert words.count("opened") == words.count("closed") >= 1

    def broken(service):
        raise LookupError("no database")
        yield

    app = Service(spoken, Handler(), lifespan=broken)
    with pytest.raises(StartError, match="no database"), live(app, mode=mode):
        pass


def test_open_service_stays_open():
    """Who has opened the service closes it."""
    said = []

    def lifespan(service):
        yield
        said.append("closed")

    with Service(spoken, Handler(), lifespan=lifespan) as app:
        with live(app) as server, server.client() as client:
            client.call(Ping())
        assert [] == said


def test_clients_that_stay():
    """A connection that is left open does not keep the server from ending."""
    with live(made()) as server:
        client = server.client()
        client.call(Ping())
    client.close()


def test_two_at_a_time():
    """Servers do not know of each other, and each has its own failures."""
    first, second = made(), made()
    with (
        pytest.raises(LookupError),
        live(first) as broken,
        live(second, mode="prefork") as server,
        server.client() as client,
    ):
        assert Pong(1) == client.call(Ping())
        with broken.client() as other:
            other.send(Ping(13))


def test_ends_with_its_process():
    """A server's process does not outlive that of a test which was killed."""
    program = """
        import os, signal
        from protoserve.testing import live
        from examples.sensor_station import app
        with live(app, mode="prefork") as server:
            print(server.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert -signal.SIGKILL == ran.returncode
    until(lambda: not Path(f"/proc/{int(ran.stdout)}/cmdline").exists() or gone(ran))


def gone(ran):
    """Say whether only the entry of a process is left, as nobody waits for it."""
    return not Path(f"/proc/{int(ran.stdout)}/cmdline").read_bytes()


def test_server_that_dies():
    """The test is told of a server whose process has ended."""
    ended = pytest.raises(RuntimeError, match="process was ended by SIGKILL")
    with ended, live(made(), mode="fork") as server:
        os.kill(server.pid, signal.SIGKILL)


def test_nothing_is_left():
    """Threads and descriptors are as before."""
    gc.collect()  # services have descriptors, and are part of cycles
    before = threading.active_count(), descriptors()
    for mode in ("threads", "prefork"):
        with live(made(), mode=mode) as server, server.client() as client:
            client.call(Ping())
    del server, client
    until(lambda: threading.active_count() <= before[0])
    gc.collect()
    assert descriptors() <= before[1]


def test_exceptions_that_cannot_travel():
    """One that cannot be pickled is told by its text."""

    class LocalError(Exception):
        pass

    found = portable(LocalError("here"))
    assert "LocalError: here" == str(found)
    assert isinstance(found, RuntimeError)


def test_wrong_use():
    """One line says what is wrong, and the nearest that is right."""
    with pytest.raises(DeclarationError, match=r"no mode 'thread'; did you mean 'thre"):
        live(made(), mode="thread")
    with pytest.raises(DeclarationError, match="no transport 'http'; known: tcp, tls"):
        live(made(), transport="http")
    with pytest.raises(DeclarationError, match="takes a Service"):
        live(Handler())
    with pytest.raises(DeclarationError, match="workers"), live(made(), workers=2):
        pass
