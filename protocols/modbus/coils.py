"""
Coils and discrete inputs: functions 1, 2, 5 and 15.

A response holds whole bytes, and only the request says how many of its bits were
asked for. So `Coils.values` and `DiscreteInputs.values` are always filled up to a
multiple of eight, also when they are made here, and `first` cuts them to what was
asked for.
"""

from __future__ import annotations

from construct import Int8ub, Int16ub, Mapping, this

from protocols.modbus.packing import PackedBits, amount, between, whole_bytes
from protoserve import Message, Request, count_of, length_of, wire

__all__ = [
    "CoilWritten",
    "Coils",
    "CoilsWritten",
    "DiscreteInputs",
    "ReadCoils",
    "ReadDiscreteInputs",
    "WriteMultipleCoils",
    "WriteSingleCoil",
]

_ON_OFF = Mapping(Int16ub, {False: 0x0000, True: 0xFF00})
"""A single coil; all other numbers are illegal (Specification section 6.5)."""


class Coils(Message):
    """
    The states of the coils asked for; section 6.1.
    """

    byte_count: int = wire(Int8ub, value=length_of("values"))
    values: list[bool] = wire(
        PackedBits(this.byte_count * 8),
        converter=whole_bytes,
        validator=amount(1, 2000),
        doc="the first one is that at the request's address; filled up with False",
    )

    def first(self, count: int) -> list[bool]:
        """
        Give as many states as the request asked for.
        """
        return self.values[:count]


class ReadCoils(Request[Coils], idempotent=True):
    """
    Function 1, section 6.1.
    """

    address: int = wire(Int16ub, doc="of the first coil, counted from 0")
    count: int = wire(Int16ub, validator=between(1, 2000))


class DiscreteInputs(Message):
    """
    The states of the inputs asked for; section 6.2.
    """

    byte_count: int = wire(Int8ub, value=length_of("values"))
    values: list[bool] = wire(
        PackedBits(this.byte_count * 8),
        converter=whole_bytes,
        validator=amount(1, 2000),
        doc="the first one is that at the request's address; filled up with False",
    )

    def first(self, count: int) -> list[bool]:
        """
        Give as many states as the request asked for.
        """
        return self.values[:count]


class ReadDiscreteInputs(Request[DiscreteInputs], idempotent=True):
    """
    Function 2, section 6.2.
    """

    address: int = wire(Int16ub, doc="of the first input, counted from 0")
    count: int = wire(Int16ub, validator=between(1, 2000))


class CoilWritten(Message):
    """
    The echo of the request; section 6.5.
    """

    address: int = wire(Int16ub)
    value: bool = wire(_ON_OFF)


class WriteSingleCoil(Request[CoilWritten]):
    """
    Function 5, section 6.5.
    """

    address: int = wire(Int16ub)
    value: bool = wire(_ON_OFF, doc="0xFF00 is on, 0x0000 is off")


class CoilsWritten(Message):
    """
    Where coils were written, and how many; section 6.11.
    """

    address: int = wire(Int16ub)
    count: int = wire(Int16ub, validator=between(1, 1968))


class WriteMultipleCoils(Request[CoilsWritten]):
    """
    Function 15, section 6.11.
    """

    address: int = wire(Int16ub, doc="of the first coil, counted from 0")
    count: int = wire(Int16ub, value=count_of("values"))
    byte_count: int = wire(Int8ub, value=length_of("values"))
    values: list[bool] = wire(PackedBits(this.count), validator=amount(1, 1968))
