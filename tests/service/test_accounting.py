"""
What becomes of each datagram that a service receives, in every mode.
"""

import socket
import sys
import threading
import urllib.request

import attrs
import pytest

from protoserve import Batch, Service, batch_route, route
from protoserve.serve import MODES
from protoserve.urls import Address
from tests.running import started
from tests.service.gatherer import Note, Reading, gathered
from tests.service.kit import PATIENCE, Ping, Pong, spoken, until
from tests.service.test_batch_routes import note, reading
from tests.service.test_drain import client_of, running


@attrs.define
class Taker:
    """
    Takes readings, and fails for those of one device.
    """

    rows: int = 0
    release: threading.Event = attrs.field(factory=threading.Event)

    @batch_route(max_rows=100, max_age=0.05)
    def readings(self, batch: Batch[Reading]) -> None:
        if 13 in batch["device"]:
            raise ValueError("this device")
        self.rows += len(batch)

    @batch_route(max_rows=100, max_age=0.05)
    def notes(self, batch: Batch[Note]) -> None:
        self.rows += len(batch)


UDP = "udp://127.0.0.1:0"
IN_ONE_PROCESS = [mode for mode in MODES if mode not in {"prefork", "fork"}]


@pytest.mark.parametrize("mode", IN_ONE_PROCESS)
def test_batch_routes(mode):
    """Rows that a route has are delivered; bad datagrams, and failures, are dropped."""
    service = Service(gathered, Taker())
    with running(UDP, mode=mode, service=service) as (runner, _):
        address = runner.bound[0]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((address.host, address.port))
            for number in range(50):
                sock.send(reading(number, 7))
                sock.send(note(number, b"text"))
            sock.send(b"\xff\xff")
            until(lambda: service.account.balance().in_flight == 0)
            until(lambda: service.account.balance().received == 101)
            until(lambda: service.handler.rows == 100)
            sock.send(reading(0, 13))
            until(lambda: service.account.balance().dropped["sink"] == 1)
    balance = service.account.balance()
    assert (102, 100, 0) == (balance.received, balance.delivered, balance.in_flight)
    assert 1 == balance.dropped["malformed"]


class Station:
    def __init__(self):
        self.release = threading.Event()

    @route
    def ping(self, message: Ping) -> Pong:
        return Pong(message.value)


@pytest.mark.parametrize("mode", IN_ONE_PROCESS)
def test_routes(mode):
    """What a route was called for is delivered, and what is no message is dropped."""
    service = Service(spoken, Station())
    with running(UDP, mode=mode, service=service) as (runner, _):
        with client_of(runner) as client:
            for number in range(20):
                assert number == client.call(Ping(number)).value
            client.sock.send(b"")
            client.sock.send(b"\xff" * 3)
            until(lambda: service.account.balance().dropped["malformed"] == 2)
        until(lambda: service.account.balance().in_flight == 0)
    balance = service.account.balance()
    assert (22, 20) == (balance.received, balance.delivered)


@pytest.mark.parametrize("mode", ["threads", "prefork", "batch"])
def test_metrics(mode, tmp_path, monkeypatch):
    """The account of all processes together is served."""
    pytest.importorskip("prometheus_client")
    command = [sys.executable, "-m", "protoserve", "run", "tests.service.gatherer:app"]
    command += ["--mode", mode, "--listen", UDP, "--metrics", "127.0.0.1:0"]
    command += ["--workers", "2"] if mode != "threads" else []
    monkeypatch.setenv("GATHERED", str(tmp_path / "rows"))
    (tmp_path / "rows").touch()
    with started(command) as process:
        url, address = None, None
        while url is None or address is None:
            line = process.stdout.readline()
            assert line
            if line.startswith("metrics on "):
                url = line.split()[-1]
            elif line.startswith("listening on "):
                address = Address.parse(line.split()[-1])

        def figure(name):
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                lines = answer.read().decode().splitlines()
            return next(float(x.rsplit(" ", 1)[1]) for x in lines if x.startswith(name))

        socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(4)]
        for number in range(40):
            where = (address.host, address.port)
            socks[number % 4].sendto(reading(number, 7), where)
        for sock in socks:
            sock.sendto(b"\xff", where)
            sock.close()
        until(lambda: figure("protoserve_datagrams_received_total") == 44)
        until(lambda: figure("protoserve_datagrams_in_flight") == 0)
        assert 40 == figure("protoserve_datagrams_delivered_total")
        bad = 'protoserve_datagrams_dropped_total{reason="malformed"}'
        assert 4 == figure(bad)
        process.terminate()
        assert 0 == process.wait(PATIENCE)
