"""
What records hold, one message class for each type; new types are added here.

Types that are not in the table keep their data as bytes (RFC 3597).
"""

from __future__ import annotations

from protocols.dns.codes import RRType
from protocols.dns.records.address import AAAA, A
from protocols.dns.records.caa import CAA
from protocols.dns.records.dnssec import DNSKEY, DS, NSEC, NSEC3, NSEC3PARAM, RRSIG
from protocols.dns.records.mx import MX
from protocols.dns.records.naptr import NAPTR
from protocols.dns.records.opt import OPT, Option
from protocols.dns.records.pointer import CNAME, DNAME, NS, PTR
from protocols.dns.records.soa import SOA
from protocols.dns.records.srv import SRV
from protocols.dns.records.svcb import HTTPS, SVCB, SvcParam, SvcParamKey
from protocols.dns.records.text import HINFO, TXT
from protocols.dns.records.tsig import TSIG
from protoserve import Message

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
    "Option",
    "SvcParam",
    "SvcParamKey",
]

RDATA: dict[RRType, type[Message]] = {
    RRType.A: A,
    RRType.NS: NS,
    RRType.CNAME: CNAME,
    RRType.SOA: SOA,
    RRType.PTR: PTR,
    RRType.HINFO: HINFO,
    RRType.MX: MX,
    RRType.TXT: TXT,
    RRType.AAAA: AAAA,
    RRType.SRV: SRV,
    RRType.NAPTR: NAPTR,
    RRType.DNAME: DNAME,
    RRType.OPT: OPT,
    RRType.DS: DS,
    RRType.RRSIG: RRSIG,
    RRType.NSEC: NSEC,
    RRType.DNSKEY: DNSKEY,
    RRType.NSEC3: NSEC3,
    RRType.NSEC3PARAM: NSEC3PARAM,
    RRType.SVCB: SVCB,
    RRType.HTTPS: HTTPS,
    RRType.TSIG: TSIG,
    RRType.CAA: CAA,
}
"""The class of the data of each type."""
