"""
Captures of real devices, field by field as tshark reads them.
"""

from __future__ import annotations

import subprocess
from collections import Counter

import pytest

from protocols import modbus as mb
from protocols.modbus import modbus
from protoserve import Role, Session
from protoserve.events import NEED_DATA, MessageReceived
from tests.captures import captures

pytestmark = pytest.mark.interop

CAPTURES = {path.name: path for path in captures("modbus")}
FIELDS = {
    "number": "frame.number",
    "port": "tcp.dstport",
    "payload": "tcp.payload",
    "transaction": "mbtcp.trans_id",
    "length": "mbtcp.len",
    "unit": "mbtcp.unit_id",
    "function": "modbus.func_code",
    "code": "modbus.exception_code",
    "address": "modbus.reference_num",
    "words": "modbus.word_cnt",
    "bits": "modbus.bit_cnt",
    "bytes": "modbus.byte_cnt",
    "registers": "modbus.regval_uint16",
    "states": "modbus.bitval",
    "diagnostic": "modbus.diagnostic_code",
    "data": "modbus.data",
    "read_code": "modbus.read_device_id",
    "object_id": "modbus.object_id",
}


def dissected(tshark: str, name: str) -> list[dict[str, list[str]]]:
    """Read what tshark sees in each packet: a list of values for each field."""
    asked = [part for field in FIELDS.values() for part in ("-e", field)]
    done = subprocess.run(
        [tshark, "-r", CAPTURES[name], "-Y", "modbus", "-T", "fields", *asked],
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
    )
    packets = []
    for line in done.stdout.splitlines():
        values = line.split("\t")
        shown = zip(FIELDS, values, strict=True)
        packets.append({name: v.split(",") if v else [] for name, v in shown})
    return packets


def decoded(packet: dict[str, list[str]]) -> list:
    """Cut and parse a packet's bytes."""
    role = Role.SERVER if packet["port"] == ["502"] else Role.CLIENT
    session = Session(modbus, role)
    session.receive_data(bytes.fromhex(packet["payload"][0]))
    events = []
    while (event := session.next_event()) is not NEED_DATA:
        events.append(event)
    return events


def numbers(values: list[str]) -> list[int]:
    return [int(value, 0) for value in values]


def attributes(messages: list, *names: str) -> list:
    """Give the fields of some names, of all messages that have them."""
    found = []
    for message in messages:
        found += [getattr(message, name) for name in names if hasattr(message, name)]
    return found


WORDS = (mb.ReadHoldingRegisters, mb.ReadInputRegisters)
BITS = (mb.ReadCoils, mb.ReadDiscreteInputs, mb.WriteMultipleCoils, mb.CoilsWritten)
REGISTERS = (mb.HoldingRegisters, mb.InputRegisters)


def compare(packet: dict[str, list[str]], events: list) -> None:
    """Hold the messages of one packet against what tshark has shown."""
    headers = [event.header for event in events]
    messages = [event.message for event in events]
    assert numbers(packet["transaction"]) == attributes(headers, "transaction")
    assert numbers(packet["length"]) == attributes(headers, "length")
    assert numbers(packet["unit"]) == attributes(headers, "unit")
    functions = [function & 0x7F for function in attributes(headers, "function")]
    assert numbers(packet["function"]) == functions
    assert numbers(packet["code"]) == [
        m.code for m in messages if isinstance(m, mb.ModbusException)
    ]
    # tshark repeats a request's address, and the single coil, with the response
    addressed = [m for m in messages if hasattr(m, "address")]
    if addressed:
        assert numbers(packet["address"]) == attributes(addressed, "address")
    counts = [m.count for m in messages if isinstance(m, WORDS)]
    assert numbers(packet["words"]) == counts
    assert numbers(packet["bits"]) == [m.count for m in messages if isinstance(m, BITS)]
    counted = [m for m in messages if not isinstance(m, mb.ServerId)]
    assert numbers(packet["bytes"]) == attributes(counted, "byte_count")
    registers = [v for m in messages if isinstance(m, REGISTERS) for v in m.values]
    if packet["registers"]:  # shown where it knows the request
        assert numbers(packet["registers"]) == registers
    diagnostics = attributes(messages, "diagnostic")
    assert numbers(packet["diagnostic"]) == diagnostics
    requests = [m for m in messages if isinstance(m, mb.ReadDeviceIdentification)]
    assert numbers(packet["read_code"]) == [m.code for m in requests]
    assert numbers(packet["object_id"]) == [m.object_id for m in requests]
    written = [m for m in messages if isinstance(m, mb.RegisterWritten)]
    for message in written:
        assert packet["data"] == [f"{message.value:04x}"]
    for message in messages:
        if isinstance(message, mb.ServerId):
            assert packet["data"] == [bytes(message).hex()]
    coils = [m for m in messages if isinstance(m, mb.Coils)]
    if coils and packet["states"]:
        states = [value == "1" for value in packet["states"]]
        assert [states] == [m.first(len(states)) for m in coils]


@pytest.mark.parametrize(
    ("name", "kinds", "refused"),
    [
        ("zeek__modbusSmall.pcap", {mb.Coils: 8, mb.WriteMultipleCoils: 8}, []),
        ("zeek__modbus-eit.pcap", {mb.ReadDeviceIdentification: 2}, ["2"]),
        ("zeek__fuzz-1011.pcap", {mb.InputRegisters: 2}, ["1"]),
        (
            "ics-security-tools__modbus_test.pcap",
            {mb.InputRegisters: 1053, mb.RegisterWritten: 63},
            [],
        ),
        (
            "ics-security-tools__modbus_test_data_part1.pcap",
            {mb.ModbusException: 14, mb.DiagnosticsResult: 4, mb.ServerId: 2},
            ["32", "34", "111"],
        ),
    ],
)
def test_capture(require_program, name, kinds, refused):
    """
    Every packet is parsed as tshark does, but for those that are wrong.

    These are: in eit frame 2, a reply that says that there are no objects and has
    four more bytes; in fuzz frame 1, a request for 147 registers; in part1 frames 32
    and 34 a byte behind the object's number, in frame 111 function 42 with a length
    that is three bytes short.
    """
    if name not in CAPTURES:
        pytest.skip(f"the capture {name} is not beside this checkout")
    seen: Counter[type] = Counter()
    rejected = []
    for packet in dissected(require_program("tshark"), name):
        events = decoded(packet)
        if all(isinstance(event, MessageReceived) for event in events):
            assert len(events) == len(packet["function"])
            compare(packet, events)
            seen.update(type(event.message) for event in events)
        else:
            rejected += packet["number"]
    assert refused == rejected
    assert kinds == {kind: seen[kind] for kind in kinds}
