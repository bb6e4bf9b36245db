"""
Modbus/TCP.

«MODBUS Application Protocol Specification V1.1b3» has the functions, and the
sections that the messages cite; «MODBUS Messaging on TCP/IP Implementation Guide
V1.0b» has the header. What the standard bounds, the messages bound: whatever a
device must refuse with exception 3 is malformed, here as there. Addresses are
those of the wire, from 0; what lies behind them is the device's to say.
"""

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
from protocols.modbus.device import (
    DeviceIdentification,
    DeviceObject,
    ReadDeviceIdCode,
    ReadDeviceIdentification,
    identify,
)
from protocols.modbus.diagnostics import (
    CommEventCounter,
    CommEventLog,
    Diagnostic,
    Diagnostics,
    DiagnosticsResult,
    ExceptionStatus,
    GetCommEventCounter,
    GetCommEventLog,
    ReadExceptionStatus,
    ReportServerId,
    ServerId,
)
from protocols.modbus.exceptions import ExceptionCode, ModbusError, ModbusException
from protocols.modbus.files import (
    FileData,
    FileRecord,
    FileRecords,
    FileRecordsWritten,
    FileReference,
    ReadFileRecord,
    WriteFileRecord,
)
from protocols.modbus.header import Mbap
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
from protocols.modbus.tables import modbus

__all__ = [
    "CoilWritten",
    "Coils",
    "CoilsWritten",
    "CommEventCounter",
    "CommEventLog",
    "DeviceIdentification",
    "DeviceObject",
    "Diagnostic",
    "Diagnostics",
    "DiagnosticsResult",
    "DiscreteInputs",
    "ExceptionCode",
    "ExceptionStatus",
    "FifoQueue",
    "FileData",
    "FileRecord",
    "FileRecords",
    "FileRecordsWritten",
    "FileReference",
    "GetCommEventCounter",
    "GetCommEventLog",
    "HoldingRegisters",
    "InputRegisters",
    "MaskWriteRegister",
    "Mbap",
    "ModbusError",
    "ModbusException",
    "ReadCoils",
    "ReadDeviceIdCode",
    "ReadDeviceIdentification",
    "ReadDiscreteInputs",
    "ReadExceptionStatus",
    "ReadFifoQueue",
    "ReadFileRecord",
    "ReadHoldingRegisters",
    "ReadInputRegisters",
    "ReadWriteMultipleRegisters",
    "RegisterMasked",
    "RegisterWritten",
    "RegistersExchanged",
    "RegistersWritten",
    "ReportServerId",
    "ServerId",
    "WriteFileRecord",
    "WriteMultipleCoils",
    "WriteMultipleRegisters",
    "WriteSingleCoil",
    "WriteSingleRegister",
    "identify",
    "modbus",
]
