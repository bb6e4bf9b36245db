"""
pymodbus at the other end: its client reads and writes the example station, and its
server answers our requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from urllib.parse import urlsplit

import pytest

from protocols import modbus as mb
from protocols.modbus import ExceptionCode, ReadDeviceIdCode, modbus
from protoserve import Role, Session
from protoserve.events import NEED_DATA

pytestmark = pytest.mark.interop

PATIENCE = 60.0


@pytest.fixture(scope="module")
def url(require_module, served):
    """The example station, run as users run it."""
    require_module("pymodbus")
    with served("examples.modbus_station:app", "tcp://127.0.0.1:0") as (url,):
        yield urlsplit(url)


@pytest.fixture
def client(url, require_module):
    """pymodbus, connected."""
    kind = require_module("pymodbus.client").ModbusTcpClient
    with kind(url.hostname, port=url.port, timeout=PATIENCE, retries=0) as client:
        assert client.connected
        yield client


@pytest.fixture(scope="module")
def raw(require_module):
    """Make requests of pymodbus's that it would not make itself."""
    pdu = require_module("pymodbus.pdu")

    def make(function: int, data: str) -> object:
        class Raw(pdu.ModbusPDU):
            function_code = function

            def encode(self) -> bytes:
                return bytes.fromhex(data)

        return Raw(dev_id=1)

    return make


def test_coils(client):
    """Functions 1, 5 and 15."""
    states = [n % 3 == 0 for n in range(984)]
    written = client.write_coils(8, states)
    assert not written.isError()
    assert (written.address, written.count) == (8, 984)
    assert states == client.read_coils(8, count=984).bits[:984]
    single = client.write_coil(999, True)
    assert (single.address, single.bits) == (999, [True])
    assert client.read_coils(999).bits[0]
    assert client.write_coil(999, False).bits == [False]
    assert not client.read_coils(999).bits[0]


def test_discrete_inputs(client):
    """Function 2."""
    answer = client.read_discrete_inputs(0, count=1000)
    assert answer.bits[:1000] == [False] * 1000


def test_registers(client):
    """Functions 3, 6 and 16."""
    assert client.write_register(100, 0xBEEF).registers == [0xBEEF]
    written = client.write_registers(101, list(range(123)))
    assert (written.address, written.count) == (101, 123)
    answer = client.read_holding_registers(100, count=125)
    assert [0xBEEF, *range(123), 0] == answer.registers


def test_input_registers(client):
    """Function 4."""
    answer = client.read_input_registers(875, count=125)
    assert answer.registers == [0] * 125


def test_mask(client):
    """Function 22."""
    client.write_register(300, 0x12)
    answer = client.mask_write_register(address=300, and_mask=0xF2, or_mask=0x25)
    assert (answer.address, answer.and_mask, answer.or_mask) == (300, 0xF2, 0x25)
    assert client.read_holding_registers(300).registers == [0x17]


def test_exchange(client):
    """Function 23."""
    answer = client.readwrite_registers(
        read_address=399, read_count=4, write_address=400, values=[7, 8]
    )
    assert answer.registers == [0, 7, 8, 0]


@pytest.mark.parametrize("code", [1, 2, 3])
def test_device(client, code):
    """Function 43 with MEI type 14, in a stream."""
    answer = client.read_device_information(read_code=code)
    assert not answer.isError()
    assert (code, 0x83, 0) == (answer.read_code, answer.conformity, answer.more_follows)
    assert answer.information[0] == b"protoserve"
    assert {0, 1, 2} <= answer.information.keys()
    assert (code == 3) == (0x80 in answer.information)


def test_one_fact_about_the_device(client):
    """Function 43 with MEI type 14, a single object."""
    answer = client.read_device_information(read_code=4, object_id=1)
    assert answer.information == {1: b"STATION"}


@pytest.mark.parametrize("unit", [0, 1, 255])
def test_units(client, unit):
    """What is reached by its address may be called what it likes."""
    answer = client.read_coils(0, device_id=unit)
    if unit:
        assert unit == answer.dev_id
    assert not answer.isError()


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        (lambda c: c.read_coils(999, count=2), 2),
        (lambda c: c.read_discrete_inputs(1000), 2),
        (lambda c: c.read_holding_registers(1000), 2),
        (lambda c: c.read_input_registers(876, count=125), 2),
        (lambda c: c.write_coil(1000, True), 2),
        (lambda c: c.write_register(65535, 1), 2),
        (lambda c: c.write_coils(999, [True, True]), 2),
        (lambda c: c.write_registers(999, [1, 2]), 2),
        (lambda c: c.mask_write_register(address=1000), 2),
        (lambda c: c.read_device_information(read_code=4, object_id=9), 2),
        (lambda c: c.read_exception_status(), 1),
        (lambda c: c.report_device_id(), 1),
        (lambda c: c.diag_query_data(b"\0\0"), 1),
        (lambda c: c.diag_get_comm_event_counter(), 1),
        (lambda c: c.diag_get_comm_event_log(), 1),
        (lambda c: c.read_fifo_queue(address=1), 1),
        (lambda c: c.read_coils(0, device_id=9), 11),
    ],
)
def test_exceptions(client, ask, code):
    """pymodbus sees the standard's exception codes."""
    answer = ask(client)
    assert answer.isError()
    assert code == answer.exception_code


@pytest.mark.parametrize(
    ("function", "data", "code"),
    [
        (1, "0000 0000", 3),
        (1, "0000 07d1", 3),
        (2, "0000 07d1", 3),
        (3, "0000 0000", 3),
        (3, "0000 007e", 3),
        (4, "0000 007e", 3),
        (5, "0000 0001", 3),
        (15, "0000 0009 01 ff", 3),
        (16, "0000 0002 02 0001", 3),
        (23, "0000 0001 0000 0001 04 0001", 3),
        (9, "00", 1),
        (99, "0102", 1),
    ],
)
def test_illegal_requests(client, raw, function, data, code):
    """Requests that pymodbus refuses to make are refused, and the next one served."""
    answer = client.execute(False, raw(function, data))
    assert answer.isError()
    assert (function | 0x80, code) == (
        answer.function_code | 0x80,
        answer.exception_code,
    )
    assert not client.read_coils(0).isError()


@pytest.fixture(scope="module")
def peer(require_module):
    """pymodbus's server; our side of a conversation with it."""
    simulator = require_module("pymodbus.simulator")
    server = require_module("pymodbus.server").ModbusTcpServer
    data, kind = simulator.SimData, simulator.DataType
    blocks = (
        [data(0, values=[True, False] * 100, datatype=kind.BITS)],
        [data(0, values=[False, True] * 100, datatype=kind.BITS)],
        [data(0, count=200, values=17, datatype=kind.REGISTERS)],
        [data(0, count=200, values=18, datatype=kind.REGISTERS)],
    )
    started: list = []
    ready = threading.Event()

    async def serve() -> None:
        running = server(
            simulator.SimDevice(1, blocks),
            identity=require_module("pymodbus").ModbusDeviceIdentification(
                info_name={"VendorName": "peer"}
            ),
            address=("127.0.0.1", 0),
        )
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
    session = Session(modbus, Role.CLIENT)
    with socket.create_connection(listener.getsockname(), PATIENCE) as sock:

        def call(request):
            # One after the other: it does not take two requests in one segment.
            session.send(request)
            sock.sendall(b"".join(session.data_to_send()))
            while (event := session.next_event()) is NEED_DATA:
                session.receive_data(sock.recv(4096))
            assert event.request is request
            return event.message

        yield call
    asyncio.run_coroutine_threadsafe(running.shutdown(), loop).result(PATIENCE)
    thread.join(PATIENCE)


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (mb.WriteSingleRegister(5, 0xABCD), mb.RegisterWritten(5, 0xABCD)),
        (mb.ReadHoldingRegisters(100, 2), mb.HoldingRegisters([17, 17])),
        (mb.ReadInputRegisters(100, 2), mb.InputRegisters([18, 18])),
        (mb.WriteSingleCoil(6, False), mb.CoilWritten(6, False)),
        (mb.WriteMultipleRegisters(7, [1, 2, 3]), mb.RegistersWritten(7, 3)),
        (mb.WriteMultipleCoils(8, [True] * 9), mb.CoilsWritten(8, 9)),
        (mb.MaskWriteRegister(50, 0, 9), mb.RegisterMasked(50, 0, 9)),
        (
            mb.ReadWriteMultipleRegisters(60, 2, 61, [4]),
            mb.RegistersExchanged([17, 4]),
        ),
        (
            mb.ReadHoldingRegisters(5000, 1),
            mb.ModbusException(ExceptionCode.ILLEGAL_DATA_ADDRESS),
        ),
        (mb.Diagnostics(0, [0x1234]), mb.DiagnosticsResult(0, [0x1234])),
    ],
    ids=lambda message: type(message).__name__,
)
def test_server(peer, request_, answer):
    """pymodbus's server understands us, and we its answers."""
    assert answer == peer(request_)


def test_server_gives_coils_and_inputs(peer):
    """Bits arrive in their order."""
    coils = peer(mb.ReadCoils(100, 10))
    assert coils.first(10) == [True, False] * 5
    inputs = peer(mb.ReadDiscreteInputs(100, 10))
    assert inputs.first(10) == [False, True] * 5


def test_server_identifies_itself(peer):
    """Functions 17 and 43/14 arrive whole."""
    assert peer(mb.ReportServerId()).data.endswith(b"\xff")
    device = peer(mb.ReadDeviceIdentification(ReadDeviceIdCode.BASIC))
    assert device.objects[0] == mb.DeviceObject(0, b"peer")


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (mb.ReadExceptionStatus(), mb.ExceptionStatus),
        (mb.GetCommEventCounter(), mb.CommEventCounter),
        (mb.GetCommEventLog(), mb.CommEventLog),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_server_counters(peer, request_, kind):
    """Functions 7, 11 and 12 are known to both."""
    assert isinstance(peer(request_), kind)
