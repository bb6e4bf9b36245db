"""
Modbus/TCP: the standard's examples, round trips, bounds, hostile bytes.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

import pytest
from construct import Int16ub
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocols import modbus as mb
from protocols.modbus import ExceptionCode, Mbap, ReadDeviceIdCode, modbus
from protoserve import (
    Direction,
    FrameTooLongError,
    InvalidMessageError,
    LengthField,
    LocalProtocolError,
    MalformedMessageError,
    Role,
    Session,
    UnknownMessageError,
)
from protoserve.events import NEED_DATA, MessageReceived, StreamBroken
from protoserve.testing import from_message, from_protocol

VECTORS = Path(__file__).parents[1] / "vectors" / "modbus" / "specification.json"
SPECIFICATION = json.loads(VECTORS.read_text())
NESTED = {
    "DeviceIdentification": mb.DeviceObject,
    "FileRecords": mb.FileData,
    "FileRecordsWritten": mb.FileRecord,
    "ReadFileRecord": mb.FileReference,
    "WriteFileRecord": mb.FileRecord,
}
WAYS = [Direction.REQUEST, Direction.RESPONSE]
thorough = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def frame_of(pdu: str | bytes, *, unit: int = 1, transaction: int = 0x1501) -> bytes:
    """Put an MBAP header before a PDU."""
    data = bytes.fromhex(pdu) if isinstance(pdu, str) else pdu
    head = transaction.to_bytes(2, "big") + bytes(2)
    return head + (len(data) + 1).to_bytes(2, "big") + bytes([unit]) + data


def message_of(vector: dict) -> mb.ReadCoils:
    """Make the message that a vector describes."""
    fields = dict(vector["fields"])
    inner = NESTED.get(vector["message"])
    for name, value in fields.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            fields[name] = [inner(**plain(item)) for item in value]
    return getattr(mb, vector["message"])(**plain(fields))


def plain(fields: dict) -> dict:
    """Bytes stand as hex in JSON."""
    return {k: bytes.fromhex(v) if type(v) is str else v for k, v in fields.items()}


@pytest.mark.parametrize(
    "vector", SPECIFICATION, ids=lambda v: f"{v['section']}-{v['message']}"
)
def test_specification(vector):
    """Every example of the standard is parsed and built."""
    way = Direction(vector["direction"])
    frame = frame_of(vector["pdu"])
    expected = message_of(vector)
    parsed = modbus.parse(frame, way)
    assert expected == parsed.message
    assert (0x1501, 1, frame[7]) == (
        parsed.header.transaction,
        parsed.header.unit,
        parsed.header.function,
    )
    assert len(frame) - 6 == parsed.header.length
    assert frame == modbus.build(expected, way, header=parsed.header)


def test_every_message_has_an_example():
    """Only the server's id has none, as its layout is the device's own."""
    seen = {vector["message"] for vector in SPECIFICATION}
    known = {cls.__name__ for cls in modbus.classes()}
    assert {"ReportServerId", "ServerId"} == known - seen


@pytest.mark.parametrize("cls", modbus.classes(), ids=lambda cls: cls.__name__)
@thorough
@given(data=st.data())
def test_round_trip(cls, data):
    """Whatever can be said comes back as it was."""
    message = data.draw(from_message(cls))
    encoded = bytes(message)
    assert message == cls.parse(encoded)
    assert encoded == bytes(cls.parse(encoded))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.value)
@thorough
@given(data=st.data())
def test_frames(way, data):
    """Whole frames come back, header and all, over datagrams and over streams."""
    example = data.draw(from_protocol(modbus, way))
    parsed = modbus.parse(example.frame, way)
    assert example.message == parsed.message
    assert example.header.transaction == parsed.header.transaction
    role = Role.SERVER if way is Direction.REQUEST else Role.CLIENT
    session = Session(modbus, role)
    cut = data.draw(st.integers(0, len(example.frame)))
    session.receive_data(example.frame[:cut])
    session.receive_data(example.frame[cut:])
    event = session.next_event()
    assert isinstance(event, MessageReceived)
    assert example.message == event.message


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.value)
@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_hostile(way, data):
    """Damaged and random bytes raise nothing but the two errors, and soon."""
    frame = bytearray(
        data.draw(st.sampled_from(SPECIFICATION).map(lambda v: frame_of(v["pdu"])))
    )
    if data.draw(st.booleans()):
        for at in data.draw(st.lists(st.integers(0, len(frame) - 1), max_size=4)):
            frame[at] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(0, len(frame)))
        frame = frame[:cut] + data.draw(st.binary(max_size=8))
    else:
        frame = frame[:8] + data.draw(st.binary(max_size=252))
        frame[4:6] = (len(frame) - 6).to_bytes(2, "big")
    started = time.thread_time()
    with contextlib.suppress(MalformedMessageError, UnknownMessageError):
        modbus.parse(frame, way)
    assert time.thread_time() - started < 2


def values(count: int) -> str:
    return "0001" * count


LONG_BITS = f"{1969:04x} f7" + "00" * 247


@pytest.mark.parametrize(
    ("pdu", "path"),
    [
        ("01 0000 0000", "ReadCoils.count"),
        ("01 0000 07d1", "ReadCoils.count"),
        ("02 0000 0000", "ReadDiscreteInputs.count"),
        ("02 0000 07d1", "ReadDiscreteInputs.count"),
        ("03 0000 0000", "ReadHoldingRegisters.count"),
        ("03 0000 007e", "ReadHoldingRegisters.count"),
        ("04 0000 0000", "ReadInputRegisters.count"),
        ("04 0000 007e", "ReadInputRegisters.count"),
        ("03 0000 00", "ReadHoldingRegisters.count"),
        ("03 0000 0001 00", "ReadHoldingRegisters"),
        ("05 0000 0001", "WriteSingleCoil.value"),
        ("05 0000 ff01", "WriteSingleCoil.value"),
        ("06 0000 00", "WriteSingleRegister.value"),
        ("0f 0000 0000 00", "WriteMultipleCoils.values"),
        (f"0f 0000 {LONG_BITS}", "WriteMultipleCoils.values"),
        ("0f 0000 0008 02 ff", "WriteMultipleCoils.byte_count"),
        ("0f 0000 0009 01 ff", "WriteMultipleCoils.values"),
        ("0f 0000 0009 01 ff00", "WriteMultipleCoils.byte_count"),
        ("0f 0000 0008 01 ff00", "WriteMultipleCoils"),
        ("10 0000 0000 00", "WriteMultipleRegisters.values"),
        (f"10 0000 007c f8 {values(124)}"[:516], "WriteMultipleRegisters.values"),
        ("10 0000 0002 02 0001", "WriteMultipleRegisters.values[1]"),
        ("10 0000 0002 02 0001 0002", "WriteMultipleRegisters.byte_count"),
        ("10 0000 0001 03 0001", "WriteMultipleRegisters.byte_count"),
        ("16 0000 0000", "MaskWriteRegister.or_mask"),
        ("17 0000 0000 0000 0001 02 0001", "ReadWriteMultipleRegisters.read_count"),
        ("17 0000 007e 0000 0001 02 0001", "ReadWriteMultipleRegisters.read_count"),
        ("17 0000 0001 0000 0000 00", "ReadWriteMultipleRegisters.values"),
        (
            f"17 0000 0001 0000 007a f4 {values(122)}",
            "ReadWriteMultipleRegisters.values",
        ),
        ("17 0000 0001 0000 0001 04 0001", "ReadWriteMultipleRegisters.byte_count"),
        ("2b 0d 01 00", "ReadDeviceIdentification.mei_type"),
        ("2b 0e 00 00", "ReadDeviceIdentification.code"),
        ("2b 0e 05 00", "ReadDeviceIdentification.code"),
        ("2b 0e 01", "ReadDeviceIdentification.object_id"),
        ("14 00", "ReadFileRecord.records"),
        ("14 07 05 0004 0001 0002", "ReadFileRecord.records[0].reference_type"),
        ("14 07 06 0000 0001 0002", "ReadFileRecord.records[0].file"),
        ("14 07 06 0004 2710 0002", "ReadFileRecord.records[0].record"),
        ("15 07 06 0004 0007 0001", "WriteFileRecord.records[0].values[0]"),
        ("08 0000 00", "Diagnostics.data[0]"),
        ("07 00", "ReadExceptionStatus"),
    ],
)
def test_bounds_of_requests(pdu, path):
    """What the standard bounds is malformed beyond it, and named."""
    with pytest.raises(MalformedMessageError) as caught:
        modbus.parse(frame_of(pdu), Direction.REQUEST)
    assert path == caught.value.path
    assert caught.value.header.function == int(pdu[:2], 16)


@pytest.mark.parametrize(
    ("pdu", "path"),
    [
        ("01 00", "Coils.values"),
        ("01 02 00", "Coils.values"),
        ("01 01 00 00", "Coils"),
        ("03 00", "HoldingRegisters.values"),
        ("03 03 000102", "HoldingRegisters.byte_count"),
        ("03 04 0001", "HoldingRegisters.values[1]"),
        ("05 0000 1234", "CoilWritten.value"),
        ("0c 05 0000 0000 00", "CommEventLog.message_count"),
        ("0c 05 0000 0000 0000", "CommEventLog.events"),
        ("0f 0000 07b1", "CoilsWritten.count"),
        ("10 0000 007c", "RegistersWritten.count"),
        ("11 05 00", "ServerId.data"),
        ("14 01 00", "FileRecords.records[0].reference_type"),
        ("14 02 00 06", "FileRecords.records[0].values"),
        ("14 03 02 06 00", "FileRecords.records[0].length"),
        ("18 0042 0020" + "0000" * 32, "FifoQueue.values"),
        ("18 0004 0002 0000 0000", "FifoQueue.byte_count"),
        ("2b 0e 01 01 01 00 00", "DeviceIdentification.more_follows"),
        ("2b 0e 01 01 00 00 01 00 05 41", "DeviceIdentification.objects[0].value"),
        ("2b 0e 01 01 00 00 00 00", "DeviceIdentification"),
        ("83", "ModbusException.code"),
    ],
)
def test_bounds_of_responses(pdu, path):
    """A client is told the same way."""
    with pytest.raises(MalformedMessageError) as caught:
        modbus.parse(frame_of(pdu), Direction.RESPONSE)
    assert path == caught.value.path


@pytest.mark.parametrize(
    "make",
    [
        lambda: mb.ReadCoils(0, 0),
        lambda: mb.ReadCoils(0, 2001),
        lambda: mb.ReadHoldingRegisters(0, 126),
        lambda: mb.WriteMultipleRegisters(0, []),
        lambda: mb.WriteMultipleRegisters(0, [0] * 124),
        lambda: mb.WriteMultipleCoils(0, [True] * 1969),
        lambda: mb.HoldingRegisters([0] * 126),
        lambda: mb.Coils([]),
        lambda: mb.DeviceObject(0, bytes(245)),
    ],
)
def test_illegal_messages_cannot_be_made(make):
    """Nobody sends by mistake what every device refuses."""
    with pytest.raises(ValueError, match=r"must be|Length of"):
        make()


@pytest.mark.parametrize(
    "message",
    [
        mb.ReadCoils(0x10000, 1),
        mb.WriteSingleRegister(0, -1),
        mb.WriteSingleCoil(0, 0xFF00),
        mb.WriteMultipleRegisters(0, [0x10000]),
    ],
)
def test_values_that_do_not_fit(message):
    """Numbers of more than 16 bits are refused when the message is built."""
    with pytest.raises(InvalidMessageError):
        bytes(message)


def test_largest_frames():
    """The largest message of each kind fits the standard's 253 bytes of PDU."""
    largest = [
        mb.WriteMultipleRegisters(0, [0xFFFF] * 123),
        mb.WriteMultipleCoils(0, [True] * 1968),
        mb.ReadWriteMultipleRegisters(0, 125, 0, [0xFFFF] * 121),
    ]
    session = Session(modbus, Role.CLIENT)
    sizes = [len(session.encode(message)) for message in largest]
    assert sizes == [7 + 252, 7 + 252, 7 + 252]
    response = mb.HoldingRegisters([0xFFFF] * 125)
    reply = Session(modbus, Role.SERVER).encode(response, reply_to=Mbap(function=3))
    assert len(reply) == 7 + 252
    echo = mb.WriteFileRecord([mb.FileRecord(1, 0, [0] * 123)])
    with pytest.raises(LocalProtocolError, match="260"):
        session.encode(echo)


def test_coils_are_packed_lowest_bit_first():
    """Section 6.1: the first coil is the lowest bit of the first byte."""
    states = [True, False, True, True, False, False, True, True, True, False]
    answer = mb.Coils(states)
    assert bytes.fromhex("02 cd 01") == bytes(answer)
    assert states + [False] * 6 == answer.values
    assert states == answer.first(10)
    assert states == mb.DiscreteInputs(states).first(10)
    assert bytes.fromhex("0013 000a 02 cd 01") == bytes(
        mb.WriteMultipleCoils(19, states)
    )


def test_padding_bits_of_a_request_are_ignored():
    """What a client leaves in the last byte is not data."""
    message = mb.WriteMultipleCoils.parse(bytes.fromhex("0000 0003 01 fd"))
    assert message.values == [True, False, True]


def test_mask():
    """Section 6.16: (current AND and_mask) OR (or_mask AND NOT and_mask)."""
    assert mb.MaskWriteRegister(4, 0xF2, 0x25).applied(0x12) == 0x17
    assert mb.MaskWriteRegister(4, 0, 0xBEEF).applied(0x1234) == 0xBEEF
    assert mb.MaskWriteRegister(4).applied(0x1234) == 0x1234


def test_exception_keeps_the_request_in_its_header():
    """Section 7: the function comes back with its highest bit set."""
    asked = Mbap(transaction=7, unit=17, function=3)
    refusal = mb.ModbusException(ExceptionCode.ILLEGAL_DATA_ADDRESS)
    frame = modbus.build(refusal, Direction.RESPONSE, reply_to=asked)
    assert bytes.fromhex("0007 0000 0003 11 83 02") == frame
    parsed = modbus.parse(frame, Direction.RESPONSE)
    assert refusal == parsed.message
    assert parsed.message.is_error


@pytest.mark.parametrize("function", range(256))
def test_exception_to_every_function(function):
    """Also to functions that nobody knows."""
    refusal = mb.ModbusException(ExceptionCode.ILLEGAL_FUNCTION)
    asked = Mbap(transaction=0xFFFF, unit=255, function=function)
    frame = modbus.build(refusal, Direction.RESPONSE, reply_to=asked)
    assert bytes.fromhex("ffff 0000 0003 ff") + bytes([function | 0x80, 1]) == frame


def test_exception_codes():
    """Codes of the standard have names, others are kept; so are bytes behind them."""
    assert ExceptionCode.SERVER_DEVICE_BUSY is mb.ModbusException.parse(b"\x06").code
    assert mb.ModbusException.parse(b"\x63").code == 0x63
    assert mb.ModbusException.parse(b"\x06\0").extra == b"\0"
    error = mb.ModbusError(ExceptionCode.ILLEGAL_DATA_VALUE)
    assert str(error) == "exception 3 (ILLEGAL_DATA_VALUE)"
    assert mb.ModbusException(ExceptionCode.ILLEGAL_DATA_VALUE) == error.response


@pytest.mark.parametrize("function", [0, 9, 42, 99, 0x81, 0xFF])
def test_unknown_functions(function):
    """A function that is not in the table is unknown, and its header is there."""
    with pytest.raises(UnknownMessageError) as caught:
        modbus.parse(frame_of(bytes([function])), Direction.REQUEST)
    assert function == caught.value.header.function


@pytest.mark.parametrize(
    ("frame", "path"),
    [
        ("0000 0001 0002 01 07", "Mbap.protocol"),
        ("0000 0000 0003 01 07", "Mbap.length"),
        ("0000 0000 0001 01", "Mbap.function"),
        ("0000 0000 00", "Mbap.length"),
        ("", "Mbap.transaction"),
    ],
)
def test_header(frame, path):
    """A datagram whose header is wrong is refused as such."""
    with pytest.raises(MalformedMessageError) as caught:
        modbus.parse(bytes.fromhex(frame), Direction.REQUEST)
    assert path == caught.value.path


def test_framing():
    """Streams are cut by the header's length, of 260 bytes at most."""
    assert LengthField(Int16ub, offset=4, max_size=260) == modbus.framing
    session = Session(modbus, Role.SERVER)
    session.receive_data(bytes.fromhex("0000 0000 00ff"))
    event = session.next_event()
    assert isinstance(event, StreamBroken)
    assert isinstance(event.error, FrameTooLongError)


def test_pipelined_answers_find_their_requests():
    """Guide section 4.4.1.2: the transaction identifier ties them, in any order."""
    client = Session(modbus, Role.CLIENT)
    server = Session(modbus, Role.SERVER)
    asked = [mb.ReadHoldingRegisters(at, 1) for at in range(5)]
    for request in asked:
        client.send(request)
    server.receive_data(b"".join(client.data_to_send()))
    arrived = []
    while (event := server.next_event()) is not NEED_DATA:
        arrived.append(event)
    assert asked == [event.message for event in arrived]
    for event in reversed(arrived):
        answer = mb.HoldingRegisters([event.message.address])
        server.send(answer, reply_to=event.header)
    client.receive_data(b"".join(server.data_to_send()))
    for request in reversed(asked):
        event = client.next_event()
        assert request == event.request
        assert [request.address] == event.message.values


OBJECTS = {0: b"maker", 1: b"product", 2: b"1.0", 4: b"name", 0x80: b"own", 0x81: b"!"}


def identified(code: int, object_id: int, objects: dict = OBJECTS) -> tuple:
    """Ask for objects; give their ids, and how it goes on."""
    asked = mb.ReadDeviceIdentification(ReadDeviceIdCode(code), object_id)
    answer = mb.identify(asked, objects)
    assert code == answer.code
    assert all(objects[o.id] == o.value for o in answer.objects)
    assert answer == mb.DeviceIdentification.parse(bytes(answer))
    return [o.id for o in answer.objects], answer.more_follows, answer.next_object_id


@pytest.mark.parametrize(
    ("code", "object_id", "expected"),
    [
        (1, 0, [0, 1, 2]),
        (1, 1, [1, 2]),
        (1, 3, [0, 1, 2]),
        (1, 0x80, [0, 1, 2]),
        (2, 0, [0, 1, 2, 4]),
        (2, 4, [4]),
        (3, 0, [0, 1, 2, 4, 0x80, 0x81]),
        (3, 0x81, [0x81]),
        (3, 0x99, [0, 1, 2, 4, 0x80, 0x81]),
        (4, 0x80, [0x80]),
        (4, 1, [1]),
    ],
)
def test_identify(code, object_id, expected):
    """Streams start at an object or at the beginning; one object comes alone."""
    assert (expected, False, 0) == identified(code, object_id)


def test_identify_an_object_that_is_not_there():
    """Section 6.21: a single object that is unknown is exception 2."""
    asked = mb.ReadDeviceIdentification(ReadDeviceIdCode.INDIVIDUAL, 3)
    with pytest.raises(mb.ModbusError) as caught:
        mb.identify(asked, OBJECTS)
    assert ExceptionCode.ILLEGAL_DATA_ADDRESS is caught.value.code


def test_identify_in_several_responses():
    """More Follows says where to go on when the objects do not fit one response."""
    objects = {n: bytes([n]) * size for n, size in enumerate([244, 120, 122, 1, 244])}
    steps = []
    following, more = 0, True
    while more:
        ids, more, following = identified(2, following, objects)
        steps.append(ids)
    assert steps == [[0], [1, 2], [3], [4]]
    assert following == 0


@pytest.mark.parametrize(
    ("last", "level"), [(0x02, 0x81), (0x06, 0x82), (0x7F, 0x82), (0x80, 0x83)]
)
def test_conformity_level(last, level):
    """The highest category that the device has, with access to single objects."""
    objects = {0: b"a", 1: b"b", 2: b"c", last: b"d"}
    asked = mb.ReadDeviceIdentification()
    assert level == mb.identify(asked, objects).conformity_level
