"""
The protocol: its functions by number, and how their frames are cut and told apart.

A frame is the MBAP header with the function code, and the body. On a stream the
header's length cuts it; a datagram is one frame, and the same length is checked.
A response is one of the table, or an exception if the function code's highest
bit is set: that bit is the response's tag, whatever function it refuses.
"""

from __future__ import annotations

from collections.abc import Hashable

from construct import Int16ub

from protocols.modbus.coils import (
    Coils,
    CoilsWritten,
    CoilWritten,
    DiscreteInputs,
    ReadCoils,
    ReadDiscreteInputs,
    WriteMultipleCoils,
    WriteSingleCoil,
)
from protocols.modbus.device import DeviceIdentification, ReadDeviceIdentification
from protocols.modbus.diagnostics import (
    CommEventCounter,
    CommEventLog,
    Diagnostics,
    DiagnosticsResult,
    ExceptionStatus,
    GetCommEventCounter,
    GetCommEventLog,
    ReadExceptionStatus,
    ReportServerId,
    ServerId,
)
from protocols.modbus.exceptions import ModbusException
from protocols.modbus.files import (
    FileRecords,
    FileRecordsWritten,
    ReadFileRecord,
    WriteFileRecord,
)
from protocols.modbus.header import EXCEPTION_BIT, MAX_ADU, Mbap
from protocols.modbus.registers import (
    FifoQueue,
    HoldingRegisters,
    InputRegisters,
    MaskWriteRegister,
    ReadFifoQueue,
    ReadHoldingRegisters,
    ReadInputRegisters,
    ReadWriteMultipleRegisters,
    RegisterMasked,
    RegistersExchanged,
    RegistersWritten,
    RegisterWritten,
    WriteMultipleRegisters,
    WriteSingleRegister,
)
from protoserve import LengthField, Protocol

__all__ = ["modbus"]


def _tag(header: Mbap) -> Hashable:
    return "exception" if header.function & EXCEPTION_BIT else header.function


modbus = Protocol(
    "modbus",
    framing=LengthField(Int16ub, offset=4, max_size=MAX_ADU),
    header=Mbap,
    tag=_tag,
    requests={
        1: ReadCoils,
        2: ReadDiscreteInputs,
        3: ReadHoldingRegisters,
        4: ReadInputRegisters,
        5: WriteSingleCoil,
        6: WriteSingleRegister,
        7: ReadExceptionStatus,
        8: Diagnostics,
        11: GetCommEventCounter,
        12: GetCommEventLog,
        15: WriteMultipleCoils,
        16: WriteMultipleRegisters,
        17: ReportServerId,
        20: ReadFileRecord,
        21: WriteFileRecord,
        22: MaskWriteRegister,
        23: ReadWriteMultipleRegisters,
        24: ReadFifoQueue,
        43: ReadDeviceIdentification,
    },
    responses={
        1: Coils,
        2: DiscreteInputs,
        3: HoldingRegisters,
        4: InputRegisters,
        5: CoilWritten,
        6: RegisterWritten,
        7: ExceptionStatus,
        8: DiagnosticsResult,
        11: CommEventCounter,
        12: CommEventLog,
        15: CoilsWritten,
        16: RegistersWritten,
        17: ServerId,
        20: FileRecords,
        21: FileRecordsWritten,
        22: RegisterMasked,
        23: RegistersExchanged,
        24: FifoQueue,
        43: DeviceIdentification,
        "exception": ModbusException,
    },
    correlate="transaction",
    ports={"tcp": 502},
    doc="Modbus/TCP: coils and registers of industrial devices",
)
