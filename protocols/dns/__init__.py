"""
DNS, the Domain Name System (RFC 1034, RFC 1035), over UDP and TCP.

`dns` is the protocol. The types of records stand in `protocols.dns.records`, names
in `protocols.dns.names`, EDNS in `protocols.dns.edns`, and what a server knows in
`protocols.dns.zone`. Later RFCs are cited where they are followed.
"""

from __future__ import annotations

from construct import Int16ub

from protocols.dns.codes import Opcode, OptionCode, Rcode, RRClass, RRType
from protocols.dns.edns import Edns, fit, full_rcode
from protocols.dns.messages import (
    Header,
    Query,
    Question,
    ResourceRecord,
    Response,
    record,
)
from protocols.dns.names import Name, folded, to_labels, to_text
from protocols.dns.records import (
    AAAA,
    CAA,
    CNAME,
    DNAME,
    DNSKEY,
    DS,
    HINFO,
    HTTPS,
    MX,
    NAPTR,
    NS,
    NSEC,
    NSEC3,
    NSEC3PARAM,
    OPT,
    PTR,
    RDATA,
    RRSIG,
    SOA,
    SRV,
    SVCB,
    TSIG,
    TXT,
    A,
    Option,
    SvcParam,
    SvcParamKey,
)
from protocols.dns.zone import Answer, Zone
from protoserve import LengthPrefixed, Protocol

__all__ = [
    "AAAA",
    "CAA",
    "CNAME",
    "DNAME",
    "DNSKEY",
    "DS",
    "HINFO",
    "HTTPS",
    "MX",
    "NAPTR",
    "NS",
    "NSEC",
    "NSEC3",
    "NSEC3PARAM",
    "OPT",
    "PTR",
    "RDATA",
    "RRSIG",
    "SOA",
    "SRV",
    "SVCB",
    "TSIG",
    "TXT",
    "A",
    "Answer",
    "Edns",
    "Header",
    "Name",
    "Opcode",
    "Option",
    "OptionCode",
    "Query",
    "Question",
    "RRClass",
    "RRType",
    "Rcode",
    "ResourceRecord",
    "Response",
    "SvcParam",
    "SvcParamKey",
    "Zone",
    "dns",
    "fit",
    "folded",
    "full_rcode",
    "record",
    "to_labels",
    "to_text",
]

dns = Protocol(
    "dns",
    # RFC 1035 section 4.2.2: the length prefix has two octets.
    framing=LengthPrefixed(Int16ub, max_size=65_535),
    header=Header,
    tag="response",
    requests={0: Query},
    responses={1: Response},
    correlate="id",
    ports={"udp": 53, "tcp": 53},
    doc="The Domain Name System (RFC 1035)",
)
