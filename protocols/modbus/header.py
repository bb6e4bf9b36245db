"""
What stands before every body: the MBAP header and the function code.

The header is that of «MODBUS Messaging on TCP/IP Implementation Guide V1.0b»
section 3.1.3. The function code belongs to the PDU (Application Protocol
Specification V1.1b3 section 4.1), but it says what follows, so it is the
header's last field here; the length counts it, as it counts the unit.
"""

from __future__ import annotations

from construct import Const, Int8ub, Int16ub

from protoserve import Message, length_of, wire

__all__ = ["EXCEPTION_BIT", "MAX_ADU", "MAX_PDU", "Mbap"]

MAX_PDU = 253
"""Function code and body, in bytes (Specification section 4.1)."""

MAX_ADU = 7 + MAX_PDU
"""A whole frame, in bytes (Specification section 4.1: 260 on TCP)."""

EXCEPTION_BIT = 0x80
"""Set in the function code of an exception response (Specification section 7)."""


class Mbap(Message):
    """
    The MODBUS application protocol header, and the function code.
    """

    transaction: int = wire(
        Int16ub, default=0, doc="ties the response to its request; the client's choice"
    )
    protocol: int = wire(Const(0, Int16ub), init=False, doc="0 is MODBUS")
    length: int = wire(
        Int16ub, value=length_of("unit", "body"), doc="what follows it", unit="byte"
    )
    # The Guide recommends 0xFF for what is reached by its IP address alone. Devices
    # ignore the unit then, but gateways, and servers that pose as several devices,
    # know a unit 1 and no unit 255.
    unit: int = wire(Int8ub, default=1, doc="the device behind a gateway")
    function: int = wire(
        Int8ub, default=0, doc="the function code; 0x80 is added in an exception"
    )
