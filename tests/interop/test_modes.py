"""
Every mode of ``protoserve run`` serves the same to clients that others wrote.
"""

import subprocess
from urllib.parse import urlsplit

import pytest

from examples.dns_server import app as names
from protoserve.serve import MODES, make_server
from protoserve.server import BatchMixIn
from protoserve.urls import Address
from tests.certificates import Authority

pytestmark = pytest.mark.interop

assert {"pool", "prefork", "batch"} <= set(MODES)

STATION = "examples.modbus_station:app"
NAMES = "examples.dns_server:app"


@pytest.mark.parametrize("mode", MODES)
def test_dns(require_program, served, mode):
    """dig gets the address over UDP and TCP, in whatever case it asks."""
    dig = require_program("dig")
    urls = ("udp://127.0.0.1:0", "tcp://127.0.0.1:0")
    with served(NAMES, *urls, extra_args=("--mode", mode)) as bound:
        for url, option in zip(bound, ("+notcp", "+tcp"), strict=True):
            port = str(urlsplit(url).port)
            command = [dig, "@127.0.0.1", "-p", port, option, "+time=30", "+tries=1"]
            done = subprocess.run(
                [*command, "+noall", "+answer", "WwW.example.test", "A"],
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            first, second = done.stdout.splitlines()
            assert ["WwW.example.test.", "CNAME"] == [*first.split()][:4:3]
            assert "192.0.2.1" == second.split()[-1]


@pytest.mark.parametrize("mode", MODES)
def test_modbus(require_module, served, mode):
    """pymodbus writes registers and reads them back, and meets exceptions."""
    client_class = require_module("pymodbus.client").ModbusTcpClient
    options = ("--mode", mode)
    with served(STATION, "tcp://127.0.0.1:0", extra_args=options) as (url,):
        port = urlsplit(url).port
        client = client_class("127.0.0.1", port=port, timeout=60, retries=0)
        assert client.connect()
        try:
            assert not client.write_registers(10, [1, 2, 65535]).isError()
            read = client.read_holding_registers(10, count=3)
            assert [1, 2, 65535] == read.registers
            assert 2 == client.read_holding_registers(999, count=2).exception_code
        finally:
            client.close()


@pytest.mark.parametrize("mode", MODES)
def test_dns_over_tls(require_program, served, mode, tmp_path):
    """dig gets the address over TLS."""
    dig = require_program("dig")
    cert, key = map(str, Authority(tmp_path).issue("localhost"))
    options = ("--mode", mode, "--tls-cert", cert, "--tls-key", key)
    with served(NAMES, "tls://127.0.0.1:0", extra_args=options) as (url,):
        port = str(urlsplit(url).port)
        command = [dig, "@127.0.0.1", "-p", port, "+tls", "+time=30", "+tries=1"]
        done = subprocess.run(
            [*command, "+short", "example.test", "A"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert "192.0.2.1" == done.stdout.strip()


def test_batch_mode_receives_batches():
    """The datagrams of mode batch come to the mix-in that receives many at a time."""
    with make_server(names, Address("udp", "127.0.0.1", 0), "batch") as server:
        assert isinstance(server, BatchMixIn)
