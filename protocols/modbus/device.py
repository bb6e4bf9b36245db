"""
What the device is, object by object: function 43 with MEI type 14.

Objects 0x00 to 0x02 are the basic ones, those to 0x7F the regular ones, the rest
is the vendor's. A client streams a category, which may take several exchanges,
or asks for one object; `identify` answers both from a plain mapping.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from attrs import validators
from construct import Array, Const, GreedyBytes, Int8ub, Prefixed, this
from construct import Mapping as Values

from protocols.modbus.exceptions import ExceptionCode, ModbusError
from protocols.modbus.header import MAX_PDU
from protoserve import Message, Request, count_of, wire

__all__ = [
    "DeviceIdentification",
    "DeviceObject",
    "ReadDeviceIdCode",
    "ReadDeviceIdentification",
    "identify",
]

_MEI_TYPE = 14
_ROOM = MAX_PDU - 7
"""Bytes for objects in one response: a PDU without what stands before them."""

_INDIVIDUAL = 0x80
"""Added to the conformity level of a device that gives single objects too."""


class ReadDeviceIdCode(enum.IntEnum):
    """
    What is asked for; section 6.21.
    """

    BASIC = 1
    REGULAR = 2
    EXTENDED = 3
    INDIVIDUAL = 4


_LAST = {
    ReadDeviceIdCode.BASIC: 0x02,
    ReadDeviceIdCode.REGULAR: 0x7F,
    ReadDeviceIdCode.EXTENDED: 0xFF,
}
"""The last object of each category; each has those before it in it."""


class DeviceObject(Message):
    """
    One fact about the device.
    """

    id: int = wire(Int8ub, doc="0 vendor, 1 product code, 2 revision, 3 URL …")
    value: bytes = wire(
        Prefixed(Int8ub, GreedyBytes),
        validator=validators.max_len(_ROOM - 2),
        doc="ASCII for ids to 0x7F",
    )


class DeviceIdentification(Message):
    """
    Some of the objects asked for; section 6.21.
    """

    mei_type: int = wire(Const(_MEI_TYPE, Int8ub), init=False)
    code: ReadDeviceIdCode = wire(Int8ub, enum=ReadDeviceIdCode, strict=True)
    conformity_level: int = wire(
        Int8ub, doc="the highest category, and 0x80 for access to single objects"
    )
    more_follows: bool = wire(Values(Int8ub, {False: 0x00, True: 0xFF}), default=False)
    next_object_id: int = wire(
        Int8ub, default=0, doc="what to ask for next, if more follows"
    )
    count: int = wire(Int8ub, value=count_of("objects"))
    objects: list[DeviceObject] = wire(
        Array(this.count, DeviceObject.construct), factory=list
    )


class ReadDeviceIdentification(Request[DeviceIdentification], idempotent=True):
    """
    Function 43 with MEI type 14, section 6.21.
    """

    mei_type: int = wire(Const(_MEI_TYPE, Int8ub), init=False)
    code: ReadDeviceIdCode = wire(
        Int8ub, default=ReadDeviceIdCode.BASIC, enum=ReadDeviceIdCode, strict=True
    )
    object_id: int = wire(Int8ub, default=0, doc="the first one, or the only one")


def identify(
    request: ReadDeviceIdentification, objects: Mapping[int, bytes]
) -> DeviceIdentification:
    """
    Answer a request by the rules of section 6.21.

    A category above what the device has is answered with what it has. A stream
    that starts at an object which is not there starts at the beginning.

    Args:
        request: what is asked for.
        objects: the device's objects, 244 bytes at most each; 0 to 2 are mandatory.

    Raises:
        ModbusError: ILLEGAL_DATA_ADDRESS, there is no such single object.

    >>> asked = ReadDeviceIdentification(ReadDeviceIdCode.INDIVIDUAL, 1)
    >>> identify(asked, {0: b"maker", 1: b"X-7", 2: b"1.0"}).objects
    [DeviceObject(id=1, value=b'X-7')]
    """
    highest = max(objects)
    level = next(code for code, last in _LAST.items() if highest <= last)
    answer = DeviceIdentification(request.code, level | _INDIVIDUAL)
    if request.code is ReadDeviceIdCode.INDIVIDUAL:
        if request.object_id not in objects:
            raise ModbusError(ExceptionCode.ILLEGAL_DATA_ADDRESS)
        found = DeviceObject(request.object_id, objects[request.object_id])
        answer.objects.append(found)
        return answer
    known = sorted(number for number in objects if number <= _LAST[request.code])
    start = request.object_id if request.object_id in known else 0
    room = _ROOM
    for number in known:
        if number < start:
            continue
        found = DeviceObject(number, objects[number])
        room -= len(bytes(found))
        if room < 0:
            answer.more_follows, answer.next_object_id = True, number
            break
        answer.objects.append(found)
    return answer
