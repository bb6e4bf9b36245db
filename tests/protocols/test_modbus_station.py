"""
The example station: what it answers, how requests may arrive, what it refuses.
"""

from __future__ import annotations

import itertools
import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import modbus_station
from examples.modbus_station import DEVICE, Station
from protocols import modbus as mb
from protocols.modbus import ExceptionCode, Mbap, ReadDeviceIdCode, modbus
from protoserve import Message, Role, Service, Session
from protoserve.events import NEED_DATA
from protoserve.server import ThreadingTCPServer


class Talk:
    """A client's and a station's session, joined in memory."""

    def __init__(self) -> None:
        self.station = Station()
        self.app = Service(modbus, self.station, on_malformed="skip")
        self.client = Session(modbus, Role.CLIENT)
        self.server = Session(modbus, Role.SERVER)

    def feed(self, data: bytes) -> bytes:
        """Hand over bytes of the stream; give what was answered to them."""
        self.server.receive_data(data)
        while (event := self.server.next_event()) is not NEED_DATA:
            assert self.app.done(self.app.dispatcher.handle(self.server, event))
        return b"".join(self.server.data_to_send())

    def call(self, request: Message, **header: int) -> Message:
        """Ask, and parse the answer."""
        if header:
            self.client.send(request, header=Mbap(**header))
        else:
            self.client.send(request)
        (data,) = self.client.data_to_send()
        self.client.receive_data(self.feed(data))
        return self.client.next_event().message

    def exchange(self, pdu: str, head: str = "0007 0000 {:04x} 01") -> str:
        """Send a PDU behind a header; give the answer's PDU."""
        data = bytes.fromhex(pdu)
        answer = self.feed(bytes.fromhex(head.format(len(data) + 1)) + data)
        assert not answer or answer[:2] == b"\0\7"
        return answer[7:].hex()


@pytest.fixture
def talk():
    return Talk()


def test_coils(talk):
    """Functions 1, 5 and 15."""
    assert mb.CoilWritten(3, True) == talk.call(mb.WriteSingleCoil(3, True))
    assert mb.CoilsWritten(8, 3) == talk.call(
        mb.WriteMultipleCoils(8, [True, False, True])
    )
    answer = talk.call(mb.ReadCoils(3, 9))
    assert "".join(str(int(v)) for v in answer.first(9)) == "100001010"
    assert mb.CoilWritten(3, False) == talk.call(mb.WriteSingleCoil(3, False))
    assert not talk.station.coils[3]
    assert len(talk.station.coils) == 1000


def test_discrete_inputs(talk):
    """Function 2."""
    talk.station.inputs[999] = True
    answer = talk.call(mb.ReadDiscreteInputs(998, 2))
    assert answer.first(2) == [False, True]


def test_holding_registers(talk):
    """Functions 3, 6 and 16."""
    assert mb.RegisterWritten(0, 7) == talk.call(mb.WriteSingleRegister(0, 7))
    written = talk.call(mb.WriteMultipleRegisters(1, [8, 0xFFFF]))
    assert mb.RegistersWritten(1, 2) == written
    answer = talk.call(mb.ReadHoldingRegisters(0, 4))
    assert mb.HoldingRegisters([7, 8, 0xFFFF, 0]) == answer
    assert len(talk.station.holding) == 1000


def test_input_registers(talk):
    """Function 4, the whole 125 of it."""
    talk.station.readings[:] = range(1000)
    answer = talk.call(mb.ReadInputRegisters(875, 125))
    assert mb.InputRegisters(list(range(875, 1000))) == answer


def test_mask(talk):
    """Function 22, the example of section 6.16."""
    talk.station.holding[4] = 0x12
    answer = talk.call(mb.MaskWriteRegister(4, 0xF2, 0x25))
    assert mb.RegisterMasked(4, 0xF2, 0x25) == answer
    assert talk.station.holding[4] == 0x17


def test_exchange(talk):
    """Function 23 writes before it reads (section 6.17)."""
    answer = talk.call(mb.ReadWriteMultipleRegisters(9, 3, 10, [1, 2]))
    assert mb.RegistersExchanged([0, 1, 2]) == answer


def test_exchange_is_all_or_nothing(talk):
    """Nothing is written where the read is refused."""
    answer = talk.call(mb.ReadWriteMultipleRegisters(999, 2, 10, [1, 2]))
    assert mb.ModbusException(ExceptionCode.ILLEGAL_DATA_ADDRESS) == answer
    assert talk.station.holding[10] == 0


@pytest.mark.parametrize(("code", "last"), [(1, 2), (2, 0x7F), (3, 0xFF)])
def test_device(talk, code, last):
    """Function 43 gives vendor, product code and revision at least."""
    answer = talk.call(mb.ReadDeviceIdentification(ReadDeviceIdCode(code)))
    found = {o.id: o.value for o in answer.objects}
    assert found == {n: v for n, v in DEVICE.items() if n <= last}
    assert {0, 1, 2} <= found.keys()
    assert (answer.conformity_level, answer.more_follows) == (0x83, False)


READS = ["01", "02", "03", "04"]


@pytest.mark.parametrize(
    ("pdu", "answer"),
    [
        # Past the end of the 1,000.
        *[(f"{f} 03e7 0002", f"{int(f) | 0x80:02x}02") for f in READS],
        *[(f"{f} 03e8 0001", f"{int(f) | 0x80:02x}02") for f in READS],
        *[(f"{f} ffff 0001", f"{int(f) | 0x80:02x}02") for f in READS],
        ("05 03e8 ff00", "8502"),
        ("06 03e8 0000", "8602"),
        ("0f 03e7 0002 01 03", "8f02"),
        ("10 03e7 0002 04 0001 0002", "9002"),
        ("16 03e8 0000 0000", "9602"),
        ("17 0000 0001 03e8 0001 02 0001", "9702"),
        ("17 03e8 0001 0000 0001 02 0001", "9702"),
        ("2b 0e 04 03", "ab02"),
        # What cannot be asked for, checked before the address.
        *[(f"{f} 0000 0000", f"{int(f) | 0x80:02x}03") for f in READS],
        *[(f"{f} 03e8 07d1", f"{int(f) | 0x80:02x}03") for f in READS],
        ("03 0000 007e", "8303"),
        ("04 0000 007e", "8403"),
        ("03 0000", "8303"),
        ("03 0000 0001 00", "8303"),
        ("05 0000 0001", "8503"),
        ("05 0000 ff01", "8503"),
        ("0f 0000 0000 00", "8f03"),
        ("0f 0000 0009 01 ff", "8f03"),
        ("0f 0000 0008 02 ffff", "8f03"),
        ("10 0000 0001 04 0001 0002", "9003"),
        ("10 0000 0002 02 0001", "9003"),
        ("16 0000 0000", "9603"),
        ("17 0000 007e 0000 0001 02 0001", "9703"),
        ("17 0000 0001 0000 0001 04 0001", "9703"),
        ("2b 0e 05 00", "ab03"),
        ("2b 0e 01", "ab03"),
        # Functions that it does not have, whatever their data.
        *[(f"{f:02x}", f"{f | 0x80:02x}01") for f in (0, 7, 9, 11, 12, 17, 42, 99)],
        ("08 0000 1234", "8801"),
        ("08 00", "8801"),
        ("14 07 06 0004 0001 0002", "9401"),
        ("14 63", "9401"),
        ("18 0000", "9801"),
        ("2b 0d 01 00", "ab01"),
        ("81 00", "8101"),
        ("ff", "ff01"),
    ],
)
def test_exceptions(talk, pdu, answer):
    """Every refusal has the standard's code, and the conversation goes on."""
    assert answer == talk.exchange(pdu)
    assert talk.exchange("03 0000 0002") == "0304" + "0000" * 2
    assert talk.station.holding == [0] * 1000
    assert not any(talk.station.coils)


@pytest.mark.parametrize("unit", [0, 1, 255])
def test_units_of_its_own(talk, unit):
    """What is reached by its address needs no unit; the answer repeats it."""
    reply = talk.call(mb.ReadCoils(0, 1), transaction=9, unit=unit)
    assert mb.Coils([False]) == reply
    frame = bytes.fromhex(f"0009 0000 0006 {unit:02x} 01 0000 0001")
    assert bytes([unit, 1, 1, 0]) == talk.feed(frame)[6:]


@pytest.mark.parametrize(
    "request_",
    [
        mb.ReadCoils(0, 1),
        mb.WriteSingleRegister(0, 1),
        mb.ReadDeviceIdentification(),
        mb.WriteMultipleCoils(999, [True, True]),
    ],
    ids=lambda message: type(message).__name__,
)
def test_other_units(talk, request_):
    """Nobody answers behind it, as a gateway says with exception 11."""
    answer = talk.call(request_, transaction=9, unit=2)
    assert ExceptionCode.GATEWAY_TARGET_DEVICE_FAILED_TO_RESPOND is answer.code
    assert talk.station.holding[0] == 0


@pytest.mark.parametrize(
    "head", ["0007 0001 {:04x} 01", "0007 ffff {:04x} 01"], ids=["one", "many"]
)
def test_other_protocols_are_discarded(talk, head):
    """Guide section 4.4.2.2: another protocol identifier is simply discarded."""
    assert not talk.exchange("03 0000 0001", head)
    assert talk.exchange("03 0000 0001") == "03020000"


def test_frames_too_short_for_a_function_are_discarded(talk):
    """A header that says there is nothing behind it is answered by nothing."""
    empty = bytes.fromhex("0007 0000 0000 0007 0000 0001 01")
    assert not talk.feed(empty)
    assert talk.exchange("03 0000 0001") == "03020000"


def stream(count: int) -> tuple[bytes, bytes]:
    """Make many requests of one stream, and what they are answered by."""
    client = Session(modbus, Role.CLIENT)
    bodies = itertools.cycle(
        [
            mb.WriteSingleRegister(5, 0xABCD),
            mb.ReadHoldingRegisters(5, 2),
            mb.ReadHoldingRegisters(999, 2),
            mb.WriteMultipleCoils(0, [True] * 11),
            mb.ReadCoils(0, 16),
            mb.ReadDeviceIdentification(),
        ]
    )
    for request in itertools.islice(bodies, count):
        client.send(request)
    requests = client.data_to_send()
    talk = Talk()
    return b"".join(requests), b"".join(talk.feed(data) for data in requests)


def test_byte_by_byte(talk):
    """Requests may arrive in single bytes."""
    data, expected = stream(12)
    pieces = [data[i : i + 1] for i in range(len(data))]
    assert expected == b"".join(map(talk.feed, pieces))


@settings(max_examples=50, deadline=None)
@given(cuts=st.lists(st.integers(0, 200), max_size=20))
def test_split_and_pipelined(cuts):
    """Requests may arrive cut and joined in any way."""
    data, expected = stream(12)
    talk = Talk()
    edges = [0, *sorted(cuts), len(data)]
    answers = [talk.feed(data[a:b]) for a, b in itertools.pairwise(edges)]
    assert expected == b"".join(answers)


@pytest.fixture
def address():
    """Serve a station of its own over TCP."""
    app = Service(modbus, Station(), on_malformed="skip")
    server = ThreadingTCPServer(("127.0.0.1", 0), app.RequestHandlerClass)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        app.close()


def received(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := sock.recv(65536)):
        data += piece
    return data


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_over_tcp(address, step):
    """A real server answers a stream of requests, however it is cut."""
    data, expected = stream(30)
    with socket.create_connection(address, timeout=60) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(data), step):
            sock.sendall(data[at : at + step])
        assert expected == received(sock, len(expected))


def test_trouble_over_tcp(address):
    """After exceptions of every kind the connection still serves."""
    asked = ["0d 0000", "03 0000 0000", "05 0000 1234", "01 03e8 0001", "06 0001 0002"]
    expected = ["8d01", "8303", "8503", "8102", "0600010002"]
    with socket.create_connection(address, timeout=60) as sock:
        for n, (pdu, answer) in enumerate(zip(asked, expected, strict=True)):
            data = bytes.fromhex(pdu)
            head = n.to_bytes(2, "big") + b"\0\0" + (len(data) + 1).to_bytes(2, "big")
            sock.sendall(head + b"\1" + data)
            reply = received(sock, 7 + len(answer) // 2)
            assert head[:4] == reply[:4]
            assert answer == reply[7:].hex()


def test_not_modbus_over_tcp(address):
    """Who speaks something else is cut off, others are served on."""
    with socket.create_connection(address, timeout=60) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: station\r\n\r\n")
        assert received(sock, 1) == b""
    test_over_tcp(address, 1 << 20)


def test_many_masters(address):
    """Several connections mask bits of one register, and none is lost."""

    def master(bit: int) -> None:
        client = Session(modbus, Role.CLIENT)
        request = mb.MaskWriteRegister(0, 0xFFFF ^ 1 << bit, 1 << bit)
        for _ in range(20):
            client.send(request)
        with socket.create_connection(address, timeout=60) as sock:
            sock.sendall(b"".join(client.data_to_send()))
            received(sock, 20 * 14)

    threads = [threading.Thread(target=master, args=(bit,)) for bit in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with socket.create_connection(address, timeout=60) as sock:
        sock.sendall(bytes.fromhex("0000 0000 0006 01 03 0000 0001"))
        assert bytes.fromhex("03 02 00ff") == received(sock, 11)[7:]


def test_main(monkeypatch, capsys):
    """The example runs by itself, on the port that it is given."""
    served = []

    class Server(ThreadingTCPServer):
        def serve_forever(self, poll_interval=0.5):
            served.append(self.server_address)

    monkeypatch.setattr(modbus_station, "ThreadingTCPServer", Server)
    modbus_station.main(0)
    ((host, port),) = served
    assert f"listening on tcp://{host}:{port}\n" == capsys.readouterr().out
