"""
Clients as ``protoserve export`` writes them, unedited, against servers that others
wrote and against our own.
"""

import asyncio
import contextlib
import threading
import time
from pathlib import Path

import pytest

from protocols import dns, modbus, ntp
from protoserve import ErrorResponse

ROOT = Path(__file__).parents[2]

PATIENCE = 60.0

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def ours(served):
    """The URLs of the example servers, by protocol and transport."""
    listen = "://127.0.0.1:0"
    with (
        served("examples.dns_server:app", f"udp{listen}", f"tcp{listen}") as names,
        served("examples.modbus_station:app", f"tcp{listen}") as (station,),
        served("examples.ntp_server:app", f"udp{listen}") as (clock,),
    ):
        dns_urls = dict(zip(("udp", "tcp"), names, strict=True))
        yield {"dns": dns_urls, "modbus": station, "ntp": clock}


# DNS -------------------------------------------------------------------------


def resolved(client, name, kind):
    """Ask for records; give their data."""
    answer = client.query([dns.Question(name, kind)])
    return [record.rdata for record in answer.answers]


def check_names(client):
    address = dns.A("192.0.2.1")
    assert [address] == resolved(client, "www.example.test", dns.RRType.A)
    (text,) = resolved(client, "example.test", dns.RRType.TXT)
    assert isinstance(text, dns.TXT)
    (mail,) = resolved(client, "example.test", dns.RRType.MX)
    assert "www.example.test" == mail.exchange
    # NXDOMAIN is an answer, no error.
    assert [] == resolved(client, "nowhere.example.test", dns.RRType.A)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_dnsmasq(client_of, dnsmasq, transport):
    """A generated client resolves names at dnsmasq."""
    check_names(client_of("protocols.dns:dns", f"{transport}://{dnsmasq}"))


def test_header_fields_are_set_by_the_caller(client_of, dnsmasq):
    """What a header says reaches the server, and the key is the client's own all the same."""
    client = client_of("protocols.dns:dns", f"udp://{dnsmasq}")
    header = dns.Header(id=7, opcode=dns.Opcode.STATUS)
    question = [dns.Question("www.example.test")]
    answer = client.query(question, header=header)
    assert not answer.answers


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_our_dns_server(client_of, ours, transport):
    """A generated client resolves names at the example server."""
    client = client_of("protocols.dns:dns", ours["dns"][transport])
    answer = client.query([dns.Question("www.example.test")])
    kinds = [record.type for record in answer.answers]
    assert [dns.RRType.CNAME, dns.RRType.A] == kinds


# Modbus ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def pymodbus(require_module):
    """The URL of pymodbus's server, which has the units 1 and 5."""
    simulator = require_module("pymodbus.simulator")
    server = require_module("pymodbus.server").ModbusTcpServer
    data, kind = simulator.SimData, simulator.DataType

    def device(unit):
        blocks = (
            [data(0, values=[True, False] * 100, datatype=kind.BITS)],
            [data(0, values=[False, True] * 100, datatype=kind.BITS)],
            [data(0, count=200, values=10 + unit, datatype=kind.REGISTERS)],
            [data(0, count=200, values=20 + unit, datatype=kind.REGISTERS)],
        )
        return simulator.SimDevice(unit, blocks)

    started = []
    ready = threading.Event()

    async def serve():
        running = server([device(1), device(5)], address=("127.0.0.1", 0))
        await running.serve_forever(background=True)
        started.append((running, asyncio.get_running_loop()))
        ready.set()
        with contextlib.suppress(asyncio.CancelledError):
            await running.serving

    thread = threading.Thread(target=asyncio.run, args=[serve()], daemon=True)
    thread.start()
    assert ready.wait(PATIENCE)
    ((running, loop),) = started
    (listener,) = running.transport.sockets
    host, port = listener.getsockname()
    yield f"tcp://{host}:{port}"
    asyncio.run_coroutine_threadsafe(running.shutdown(), loop).result(PATIENCE)
    thread.join(PATIENCE)


def test_pymodbus(client_of, pymodbus):
    """A generated client reads and writes at pymodbus's server."""
    client = client_of("protocols.modbus:modbus", pymodbus)
    assert [11, 11] == client.read_holding_registers(100, 2).values
    assert modbus.RegisterWritten(5, 0xABCD) == client.write_single_register(5, 0xABCD)
    assert [0xABCD, 11] == client.read_holding_registers(5, count=2).values
    assert [True, False, True] == client.read_coils(100, 3).first(3)
    written = client.write_multiple_coils(8, [True] * 9)
    assert modbus.CoilsWritten(8, 9) == written
    echoed = client.diagnostics(modbus.Diagnostic.RETURN_QUERY_DATA, [0x1234])
    assert [0x1234] == echoed.data


def test_the_unit_is_chosen_with_the_header(client_of, pymodbus):
    """Two devices behind one address are told apart by the unit in the header."""
    client = client_of("protocols.modbus:modbus", pymodbus)
    units = [modbus.Mbap(unit=1), None, modbus.Mbap(unit=5)]
    values = [
        client.read_holding_registers(100, 1, header=header).values for header in units
    ]
    assert [[11], [11], [15]] == values


def test_a_modbus_exception_is_an_error(client_of, pymodbus):
    """A declared error is raised with what the server said, and the client goes on."""
    client = client_of("protocols.modbus:modbus", pymodbus)
    with pytest.raises(ErrorResponse) as caught:
        client.read_holding_registers(5000, 1)
    code = modbus.ExceptionCode.ILLEGAL_DATA_ADDRESS
    assert code == caught.value.response.code
    assert [11] == client.read_holding_registers(0, 1).values


def test_our_modbus_station(client_of, ours):
    """A generated client reads and writes at the example station."""
    client = client_of("protocols.modbus:modbus", ours["modbus"])
    client.write_multiple_registers(10, [1, 2, 3])
    assert [1, 2, 3] == client.read_holding_registers(10, 3).values


# NTP -------------------------------------------------------------------------


def check_time(client, stratum):
    sent = ntp.from_unix_ns(time.time_ns())
    answer = client.client_request(transmit_timestamp=sent)
    assert sent == answer.origin_timestamp
    assert stratum == answer.stratum
    assert abs(ntp.difference(answer.transmit_timestamp, sent)) < PATIENCE


def test_chronyd(client_of, chronyd_address):
    """A generated client asks chronyd for the time, in more than one version."""
    client = client_of("protocols.ntp:ntp", f"udp://{chronyd_address}")
    check_time(client, 5)
    old = client.client_request(transmit_timestamp=9, header=ntp.Header(version=3))
    assert 9 == old.origin_timestamp


def test_our_ntp_server(client_of, ours):
    """A generated client asks the example server for the time."""
    client = client_of("protocols.ntp:ntp", ours["ntp"])
    answer = client.client_request(transmit_timestamp=77)
    assert 77 == answer.origin_timestamp
