"""
File records: functions 20 and 21.

A file is a run of records, each of one register; one request may name several
runs in several files.
"""

from __future__ import annotations

from construct import Array, Const, GreedyRange, Int8ub, Int16ub, this

from protocols.modbus.packing import amount, between
from protoserve import Message, Request, count_of, length_of, wire

__all__ = [
    "FileData",
    "FileRecord",
    "FileRecords",
    "FileRecordsWritten",
    "FileReference",
    "ReadFileRecord",
    "WriteFileRecord",
]

_RECORDS = between(0, 9999)  # section 6.14: 0x0000 to 0x270F


class FileData(Message):
    """
    What was read from one file.
    """

    length: int = wire(Int8ub, value=length_of("reference_type", "values"))
    reference_type: int = wire(Const(6, Int8ub), init=False)
    values: list[int] = wire(Array((this.length - 1) // 2, Int16ub))


class FileRecords(Message):
    """
    What was read, in the order of the request; section 6.14.
    """

    byte_count: int = wire(Int8ub, value=length_of("records"))
    records: list[FileData] = wire(
        GreedyRange(FileData.construct), validator=amount(1, 35)
    )


class FileReference(Message):
    """
    Records of one file to read.
    """

    reference_type: int = wire(Const(6, Int8ub), init=False)
    file: int = wire(Int16ub, validator=between(1, 0xFFFF))
    record: int = wire(Int16ub, validator=_RECORDS, doc="the first one")
    length: int = wire(Int16ub, doc="registers to read")


class ReadFileRecord(Request[FileRecords], idempotent=True):
    """
    Function 20, section 6.14.
    """

    byte_count: int = wire(Int8ub, value=length_of("records"))
    records: list[FileReference] = wire(
        GreedyRange(FileReference.construct), validator=amount(1, 35)
    )


class FileRecord(Message):
    """
    Records of one file to write.
    """

    reference_type: int = wire(Const(6, Int8ub), init=False)
    file: int = wire(Int16ub, validator=between(1, 0xFFFF))
    record: int = wire(Int16ub, validator=_RECORDS, doc="the first one")
    length: int = wire(Int16ub, value=count_of("values"))
    values: list[int] = wire(Array(this.length, Int16ub))


class FileRecordsWritten(Message):
    """
    The echo of the request; section 6.15.
    """

    byte_count: int = wire(Int8ub, value=length_of("records"))
    records: list[FileRecord] = wire(
        GreedyRange(FileRecord.construct), validator=amount(1, 27)
    )


class WriteFileRecord(Request[FileRecordsWritten]):
    """
    Function 21, section 6.15.
    """

    byte_count: int = wire(Int8ub, value=length_of("records"))
    records: list[FileRecord] = wire(
        GreedyRange(FileRecord.construct), validator=amount(1, 27)
    )
