"""
Our clients against pymodbus's server, and the example station.
"""

import asyncio
import contextlib
import threading

import pytest

from protocols import modbus as mb
from protocols.modbus import ExceptionCode, Mbap, modbus
from protoserve import ErrorResponse
from protoserve.client import AsyncClient, Client

pytestmark = pytest.mark.interop

PATIENCE = 60.0


@pytest.fixture(scope="module")
def pymodbus(require_module):
    """
    pymodbus's server, of device 1; its URL.
    """
    simulator = require_module("pymodbus.simulator")
    server = require_module("pymodbus.server").ModbusTcpServer
    data, kind = simulator.SimData, simulator.DataType
    blocks = (
        [data(0, values=[True, False] * 100, datatype=kind.BITS)],
        [data(0, values=[False, True] * 100, datatype=kind.BITS)],
        [data(0, count=200, values=17, datatype=kind.REGISTERS)],
        [data(0, count=200, values=18, datatype=kind.REGISTERS)],
    )
    started = []
    ready = threading.Event()

    async def serve():
        running = server(simulator.SimDevice(1, blocks), address=("127.0.0.1", 0))
        await running.serve_forever(background=True)
        started.append((running, asyncio.get_running_loop()))
        ready.set()
        with contextlib.suppress(asyncio.CancelledError):
            await running.serving

    thread = threading.Thread(target=asyncio.run, args=[serve()], daemon=True)
    thread.start()
    assert ready.wait(PATIENCE)
    ((running, loop),) = started
    port = running.transport.sockets[0].getsockname()[1]
    yield f"tcp://127.0.0.1:{port}"
    asyncio.run_coroutine_threadsafe(running.shutdown(), loop).result(PATIENCE)
    thread.join(PATIENCE)


@pytest.fixture(scope="module")
def station(served):
    with served("examples.modbus_station:app", "tcp://127.0.0.1:0") as (url,):
        yield url


@pytest.fixture(params=["pymodbus", "station"])
def url(request):
    return request.getfixturevalue(request.param)


def test_registers_and_coils(url):
    """What is written is read again."""
    with Client(modbus, url) as client:
        written = client.call(mb.WriteMultipleRegisters(7, [1, 2, 3]))
        assert mb.RegistersWritten(7, 3) == written
        read = client.call(mb.ReadHoldingRegisters(7, 3))
        assert mb.HoldingRegisters([1, 2, 3]) == read
        assert mb.CoilWritten(6, True) == client.call(mb.WriteSingleCoil(6, True))
        assert [True] == client.call(mb.ReadCoils(6, 1)).first(1)


def test_exception(url):
    """A Modbus exception is raised with what came, and the client goes on."""
    with Client(modbus, url) as client:
        with pytest.raises(ErrorResponse) as caught:
            client.call(mb.ReadHoldingRegisters(5000, 1))
        expected = mb.ModbusException(ExceptionCode.ILLEGAL_DATA_ADDRESS)
        assert expected == caught.value.response
        client.call(mb.ReadHoldingRegisters(0, 1))


def test_unit(url):
    """The header's own fields can be given: here, the unit behind a gateway."""
    with Client(modbus, url) as client:
        request = mb.ReadHoldingRegisters(100, 1)
        answer = client.ask(request, header=Mbap(unit=1))
        assert (1, 3) == (answer.header.unit, answer.header.function)
        assert request is answer.request


def test_awaited(url):
    """The same, awaited."""

    async def main():
        async with AsyncClient(modbus, url) as client:
            for n in range(20):
                await client.call(mb.WriteSingleRegister(30, n))
                read = await client.call(mb.ReadHoldingRegisters(30, 1))
                assert mb.HoldingRegisters([n]) == read

    asyncio.run(main())


def test_pipelining(station):
    """The example station takes many requests at once."""
    with Client(modbus, station) as client:
        for _ in client.call_many(mb.WriteSingleRegister(n, n) for n in range(300)):
            pass
        many = client.call_many(mb.ReadHoldingRegisters(n, 1) for n in range(300))
        assert [mb.HoldingRegisters([n]) for n in range(300)] == list(many)
