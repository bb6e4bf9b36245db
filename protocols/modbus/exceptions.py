"""
How a device says no: the exception response, and what a handler raises for it.
"""

from __future__ import annotations

import enum

from construct import GreedyBytes, Int8ub

from protoserve import Message, wire

__all__ = ["ExceptionCode", "ModbusError", "ModbusException"]


class ExceptionCode(enum.IntEnum):
    """
    Why a request was refused; Specification section 7.
    """

    ILLEGAL_FUNCTION = 0x01
    ILLEGAL_DATA_ADDRESS = 0x02
    ILLEGAL_DATA_VALUE = 0x03
    SERVER_DEVICE_FAILURE = 0x04
    ACKNOWLEDGE = 0x05
    SERVER_DEVICE_BUSY = 0x06
    MEMORY_PARITY_ERROR = 0x08
    GATEWAY_PATH_UNAVAILABLE = 0x0A
    GATEWAY_TARGET_DEVICE_FAILED_TO_RESPOND = 0x0B


class ModbusException(Message, error=True):
    """
    A request was refused; its function code comes back with 0x80 added.
    """

    code: ExceptionCode | int = wire(Int8ub, enum=ExceptionCode)
    # Some devices send a zero byte behind the code; that is no reason to lose it.
    extra: bytes = wire(GreedyBytes, default=b"", doc="nothing, by the standard")


class ModbusError(Exception):
    """
    What a handler raises to refuse a request.

    A hook ``@on_error(ModbusError)`` turns it into the exception response.
    """

    def __init__(self, code: ExceptionCode) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        return f"exception {self.code.value} ({self.code.name})"

    @property
    def response(self) -> ModbusException:
        """
        The exception response.
        """
        return ModbusException(self.code)
