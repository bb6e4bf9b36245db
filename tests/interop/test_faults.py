"""
Simulated servers and the fault proxy, with clients and servers that others wrote.
"""

import asyncio
import contextlib
import re
import socket
import subprocess
import threading
from urllib.parse import urlsplit

import pytest

from examples import dns_server
from protocols import dns, modbus, ntp
from protoserve.testing import fault_proxy, live, simulated
from tests.service.kit import until

pytestmark = pytest.mark.interop

PATIENCE = 60.0


@pytest.fixture
def connected(require_module):
    """Give a function that connects pymodbus's client."""
    kind = require_module("pymodbus.client").ModbusTcpClient
    with contextlib.ExitStack() as stack:

        def connect(url, timeout=PATIENCE):
            place = urlsplit(url)
            client = kind(place.hostname, port=place.port, timeout=timeout, retries=0)
            stack.callback(client.close)
            assert client.connect()
            return client

        yield connect


@pytest.fixture
def dig(require_program):
    """Give a function that runs dig and gives what it printed."""
    program = require_program("dig")

    def run(url, *arguments, seconds=30):
        place = urlsplit(url)
        tcp = "+tcp" if place.scheme == "tcp" else "+notcp"
        options = ["-p", str(place.port), tcp, "+tries=1", f"+time={seconds}"]
        done = subprocess.run(
            [program, f"@{place.hostname}", *options, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout

    return run


@pytest.fixture
def pymodbus_server(require_module):
    """pymodbus's server, in a thread; its URL."""
    server = require_module("pymodbus.server")
    simulator = require_module("pymodbus.simulator")
    data = simulator.SimData(
        address=0, count=100, values=77, datatype=simulator.DataType.REGISTERS
    )
    device = simulator.SimDevice(id=1, simdata=[data])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    loop = asyncio.new_event_loop()
    serving = []

    async def serve():
        made = server.ModbusTcpServer(device, address=("127.0.0.1", port))
        await made.serve_forever(background=True)
        serving.append(made)

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(serve(), loop).result(PATIENCE)
    yield f"tcp://127.0.0.1:{port}"
    asyncio.run_coroutine_threadsafe(serving[0].shutdown(), loop).result(PATIENCE)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_simulated_modbus(connected):
    """pymodbus's client takes simulated answers for a device's."""
    with simulated(modbus.modbus, seed=3) as simulator:
        client = connected(simulator.url)
        assert 10 == len(client.read_holding_registers(5, count=10).registers)
        assert 7 == len(client.read_input_registers(5, count=7).registers)
        assert 12 <= len(client.read_coils(5, count=12).bits)
        written = client.write_registers(8, [1, 2, 3])
        assert (8, 3) == (written.address, written.count)
        assert 500 == client.write_register(3, 500).registers[0]
        assert [True] == client.write_coil(3, True).bits
        assert not client.readwrite_registers(read_count=2, values=[1]).isError()


def test_simulated_errors(connected):
    """pymodbus's client takes a simulated refusal for one."""
    with simulated(modbus.modbus, errors=1.0) as simulator:
        assert connected(simulator.url).read_coils(0, count=1).isError()


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("kind", ["A", "MX", "TXT"])
def test_simulated_dns(dig, transport, kind):
    """dig takes a simulated answer without a complaint about its form."""
    with simulated(dns.dns, listen=f"{transport}://127.0.0.1:0") as simulator:
        said = dig(simulator.url, "www.example.test", kind)
    assert "status: NOERROR" in said
    assert re.search(rf"^;www\.example\.test\.\s+IN\s+{kind}$", said, re.MULTILINE)
    assert "malformed" not in said.lower()


def test_scripted_dns(dig, tmp_path):
    """dig shows the records of a script."""
    script = tmp_path / "zone.yaml"
    script.write_text(
        "- when: {message: Query, questions.0.type: A}\n"
        "  answer:\n"
        "    header: {authoritative: true}\n"
        "    answers:\n"
        "      - {name: a.test, type: A, ttl: 60, rdata: {address: 192.0.2.7}}\n"
    )
    with simulated(dns.dns, listen="udp://127.0.0.1:0", script=script) as simulator:
        assert "192.0.2.7\n" == dig(simulator.url, "a.test", "+short")


@pytest.mark.parametrize("version", [2, 3, 4])
def test_simulated_ntp(require_module, version):
    """ntplib takes a simulated answer for a server's."""
    ntplib = require_module("ntplib")
    with simulated(ntp.ntp) as simulator:
        place = urlsplit(simulator.url)
        answer = ntplib.NTPClient().request(
            place.hostname, port=place.port, version=version, timeout=PATIENCE
        )
    assert (answer.mode, answer.version) == (4, version)


def test_proxied_modbus(connected, pymodbus_server):
    """Between pymodbus's client and its server, harmless faults do no harm."""
    faults = ["delay=5ms±5", "split-every-byte=0ms,50%", "coalesce=5ms,30%"]
    with fault_proxy(modbus.modbus, pymodbus_server, *faults, seed=1) as proxy:
        client = connected(proxy.url)
        for count in range(1, 20):
            answer = client.read_holding_registers(0, count=count)
            assert [77] * count == answer.registers
        assert proxy.counts["delay"] == 19
        assert proxy.counts["split-every-byte"] > 0


@pytest.mark.parametrize("fault", ["drop", "wrong-id", "truncate", "reset"])
def test_proxied_modbus_that_fails(connected, require_module, pymodbus_server, fault):
    """What pymodbus must not take for an answer, it does not."""
    failures = require_module("pymodbus.exceptions").ModbusException
    with fault_proxy(modbus.modbus, pymodbus_server, fault) as proxy:
        client = connected(proxy.url, timeout=0.3)
        with pytest.raises((failures, ConnectionError)):
            client.read_holding_registers(0, count=3)
        until(lambda: proxy.counts[fault] == 1)


@pytest.mark.parametrize(
    ("fault", "expected", "seconds"),
    [
        ("delay=20ms", "192.0.2.1\n", 30),
        ("duplicate", "192.0.2.1\n", 30),
        ("drop", "timed out", 1),
        ("wrong-id", "ID mismatch", 4),
        ("truncate", "short|malformed", 4),
    ],
)
def test_proxied_dns(dig, fault, expected, seconds):
    """Between dig and our server, over UDP, dig sees each fault for what it is."""
    with (
        live(dns_server.app, mode="loop", transport="udp") as server,
        fault_proxy(dns.dns, server.url, fault) as proxy,
    ):
        said = dig(proxy.url, "example.test", "+short", seconds=seconds)
        assert re.search(expected, said)
