"""
The DNS message: header, questions and three sections of records (RFC 1035
section 4).

The header's QR bit tells a query from a response; both have the same form, of
every operation: in a dynamic update the sections are the zone, its prerequisites,
the updates and additional records (RFC 2136 section 2). The four counts belong to
the body, next to what they count.
"""

from __future__ import annotations

from typing import Any

from construct import (
    Array,
    BitsInteger,
    FixedSized,
    FocusedSeq,
    GreedyBytes,
    IfThenElse,
    Int16ub,
    Int32ub,
    Mapping,
    Switch,
    Terminated,
    this,
)

from protocols.dns.codes import Opcode, Rcode, RRClass, RRType
from protocols.dns.names import Name
from protocols.dns.records import RDATA
from protoserve import Caps, Message, Request, count_of, length_of, wire

__all__ = ["Header", "Query", "Question", "ResourceRecord", "Response", "record"]

MAX_ELEMENTS = 600
"""
Questions, records, strings and options in one message. A real one has few of them
(servers send zone transfers by 16 or 20 KiB), while 64 KiB have room for 60,000,
which take their time.
"""

_Bit = Mapping(BitsInteger(1), {False: 0, True: 1})


class Header(Message):
    """
    The identifier and the flags (RFC 1035 section 4.1.1, RFC 4035 section 3).
    """

    id: int = wire(Int16ub, default=0, doc="ties a response to its query")
    response: bool = wire(_Bit, default=False, doc="QR")
    opcode: Opcode | int = wire(BitsInteger(4), enum=Opcode, default=Opcode.QUERY)
    authoritative: bool = wire(_Bit, default=False, doc="AA")
    truncated: bool = wire(_Bit, default=False, doc="TC")
    recursion_desired: bool = wire(_Bit, default=False, doc="RD")
    recursion_available: bool = wire(_Bit, default=False, doc="RA")
    reserved: bool = wire(_Bit, default=False, doc="Z, zero")
    authentic_data: bool = wire(_Bit, default=False, doc="AD")
    checking_disabled: bool = wire(_Bit, default=False, doc="CD")
    rcode: Rcode | int = wire(BitsInteger(4), enum=Rcode, default=Rcode.NOERROR)

    def clear(self) -> None:
        """
        Clear what is the answering server's to say, in a copy of a query's header.
        """
        self.authoritative = self.truncated = self.recursion_available = False
        self.reserved = self.authentic_data = False
        self.rcode = Rcode.NOERROR


class Question(Message):
    """
    What is asked for (RFC 1035 section 4.1.2).
    """

    name: str = wire(Name(compress=True))
    type: RRType | int = wire(Int16ub, enum=RRType, default=RRType.A)
    rrclass: RRClass | int = wire(Int16ub, enum=RRClass, default=RRClass.IN)


def _is_raw(context: Any) -> bool:
    """
    Say whether a record's data is taken as bytes, whatever its type.

    Updates have records without data (RFC 2136 section 2.4), and the data of A
    records has this form in the Internet class only (RFC 1035 section 3.4).
    """
    if context["_building"]:
        return isinstance(context.rdata, bytes)
    if not context.rdlength:
        return bool(context.type != RRType.OPT)
    return bool(
        context.type == RRType.A and context.rrclass in (RRClass.CH, RRClass.HS)
    )


_Rdata = Switch(
    this._.type,
    {kind: data.construct for kind, data in RDATA.items()},
    default=GreedyBytes,
)


class ResourceRecord(Message):
    """
    One record (RFC 1035 section 4.1.3); `record` makes one from its data.

    Its data is an instance of the type's class (see `protocols.dns.RDATA`). It is
    bytes for other types, and where there is none; bytes may be given for any
    type.
    """

    name: str = wire(Name(compress=True))
    type: RRType | int = wire(Int16ub, enum=RRType, default=RRType.A)
    rrclass: RRClass | int = wire(Int16ub, enum=RRClass, default=RRClass.IN)
    ttl: int = wire(Int32ub, default=0, unit="s")
    rdlength: int = wire(Int16ub, value=length_of("rdata"))
    rdata: Any = wire(
        FixedSized(
            this.rdlength,
            IfThenElse(
                _is_raw,
                GreedyBytes,
                # What a type's format does not use up is an error.
                FocusedSeq("rdata", "rdata" / _Rdata, Terminated),
            ),
        ),
        default=b"",
    )


class _Sections(Message, caps=Caps(elements=MAX_ELEMENTS)):
    """
    What follows the header.
    """

    question_count: int = wire(Int16ub, value=count_of("questions"))
    answer_count: int = wire(Int16ub, value=count_of("answers"))
    authority_count: int = wire(Int16ub, value=count_of("authorities"))
    additional_count: int = wire(Int16ub, value=count_of("additionals"))
    questions: list[Question] = wire(
        Array(this.question_count, Question.construct), factory=list
    )
    answers: list[ResourceRecord] = wire(
        Array(this.answer_count, ResourceRecord.construct), factory=list
    )
    authorities: list[ResourceRecord] = wire(
        Array(this.authority_count, ResourceRecord.construct), factory=list
    )
    additionals: list[ResourceRecord] = wire(
        Array(this.additional_count, ResourceRecord.construct), factory=list
    )


class Response(_Sections):
    """
    What a server answers.
    """


class Query(_Sections, Request[Response]):
    """
    What a client asks: a query, an update, a notification.
    """


_TYPES = {data: kind for kind, data in RDATA.items()}


def record(
    name: str, rdata: Message, *, ttl: int = 3600, rrclass: RRClass = RRClass.IN
) -> ResourceRecord:
    """
    Make a record of the type that its data is of.

    Args:
        name: the owner.
        rdata: an instance of a class in `protocols.dns.RDATA`.
        ttl: how long it may be cached, in seconds.
        rrclass: its class.
    """
    return ResourceRecord(name, _TYPES[type(rdata)], rrclass, ttl, rdata)
