"""
Registers, 16 bits each, the high byte first: functions 3, 4, 6, 16, 22, 23, 24.
"""

from __future__ import annotations

from construct import Array, Int8ub, Int16ub, this

from protocols.modbus.packing import amount, between
from protoserve import Message, Request, count_of, length_of, wire

__all__ = [
    "FifoQueue",
    "HoldingRegisters",
    "InputRegisters",
    "MaskWriteRegister",
    "ReadFifoQueue",
    "ReadHoldingRegisters",
    "ReadInputRegisters",
    "ReadWriteMultipleRegisters",
    "RegisterMasked",
    "RegisterWritten",
    "RegistersExchanged",
    "RegistersWritten",
    "WriteMultipleRegisters",
    "WriteSingleRegister",
]

_BY_BYTES = Array(this.byte_count // 2, Int16ub)


class HoldingRegisters(Message):
    """
    The registers asked for; section 6.3.
    """

    byte_count: int = wire(Int8ub, value=length_of("values"))
    values: list[int] = wire(_BY_BYTES, validator=amount(1, 125))


class ReadHoldingRegisters(Request[HoldingRegisters], idempotent=True):
    """
    Function 3, section 6.3.
    """

    address: int = wire(Int16ub, doc="of the first register, counted from 0")
    count: int = wire(Int16ub, validator=between(1, 125))


class InputRegisters(Message):
    """
    The registers asked for; section 6.4.
    """

    byte_count: int = wire(Int8ub, value=length_of("values"))
    values: list[int] = wire(_BY_BYTES, validator=amount(1, 125))


class ReadInputRegisters(Request[InputRegisters], idempotent=True):
    """
    Function 4, section 6.4.
    """

    address: int = wire(Int16ub, doc="of the first register, counted from 0")
    count: int = wire(Int16ub, validator=between(1, 125))


class RegisterWritten(Message):
    """
    The echo of the request; section 6.6.
    """

    address: int = wire(Int16ub)
    value: int = wire(Int16ub)


class WriteSingleRegister(Request[RegisterWritten]):
    """
    Function 6, section 6.6.
    """

    address: int = wire(Int16ub)
    value: int = wire(Int16ub)


class RegistersWritten(Message):
    """
    Where registers were written, and how many; section 6.12.
    """

    address: int = wire(Int16ub)
    count: int = wire(Int16ub, validator=between(1, 123))


class WriteMultipleRegisters(Request[RegistersWritten]):
    """
    Function 16, section 6.12.
    """

    address: int = wire(Int16ub, doc="of the first register, counted from 0")
    count: int = wire(Int16ub, value=count_of("values"))
    byte_count: int = wire(Int8ub, value=length_of("values"))
    values: list[int] = wire(Array(this.count, Int16ub), validator=amount(1, 123))


class RegisterMasked(Message):
    """
    The echo of the request; section 6.16.
    """

    address: int = wire(Int16ub)
    and_mask: int = wire(Int16ub)
    or_mask: int = wire(Int16ub)


class MaskWriteRegister(Request[RegisterMasked]):
    """
    Function 22, section 6.16.
    """

    address: int = wire(Int16ub)
    and_mask: int = wire(Int16ub, default=0xFFFF, doc="the bits to keep")
    or_mask: int = wire(Int16ub, default=0, doc="what the others are set to")

    def applied(self, value: int) -> int:
        """
        Work out what becomes of a register's value.

        >>> MaskWriteRegister(4, and_mask=0xF2, or_mask=0x25).applied(0x12)
        23
        """
        return value & self.and_mask | self.or_mask & ~self.and_mask & 0xFFFF


class RegistersExchanged(Message):
    """
    The registers read, after the others were written; section 6.17.
    """

    byte_count: int = wire(Int8ub, value=length_of("values"))
    values: list[int] = wire(_BY_BYTES, validator=amount(1, 125))


class ReadWriteMultipleRegisters(Request[RegistersExchanged]):
    """
    Function 23, section 6.17: the write is done before the read.
    """

    read_address: int = wire(Int16ub)
    read_count: int = wire(Int16ub, validator=between(1, 125))
    write_address: int = wire(Int16ub)
    write_count: int = wire(Int16ub, value=count_of("values"))
    byte_count: int = wire(Int8ub, value=length_of("values"))
    values: list[int] = wire(
        Array(this.write_count, Int16ub), validator=amount(1, 121), doc="to write"
    )


class FifoQueue(Message):
    """
    What is in the queue, the oldest first; section 6.18.
    """

    byte_count: int = wire(Int16ub, value=length_of("count", "values"))
    count: int = wire(Int16ub, value=count_of("values"))
    values: list[int] = wire(Array(this.count, Int16ub), validator=amount(0, 31))


class ReadFifoQueue(Request[FifoQueue], idempotent=True):
    """
    Function 24, section 6.18: the queue is read, not cleared.
    """

    address: int = wire(Int16ub, doc="of the register that counts the queue")
