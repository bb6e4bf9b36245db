"""
The numbers of DNS by name, as IANA's registry "Domain Name System (DNS)
Parameters" has them.

All are tolerant in messages: a number that no member has stays a number, as
RFC 3597 section 3 asks for record types and classes.
"""

from __future__ import annotations

import enum

__all__ = ["Opcode", "OptionCode", "RRClass", "RRType", "Rcode"]


class Opcode(enum.IntEnum):
    """
    What is asked for (RFC 1035 section 4.1.1, RFC 1996, RFC 2136, RFC 8490).
    """

    QUERY = 0
    IQUERY = 1
    STATUS = 2
    NOTIFY = 4
    UPDATE = 5
    DSO = 6


class Rcode(enum.IntEnum):
    """
    How it went (RFC 1035 section 4.1.1, RFC 2136, RFC 6891, RFC 8945).

    The header has four bits of it; numbers from 16 on take eight more bits from
    the OPT record (see `protocols.dns.Edns`) or stand in a TSIG record.
    """

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    YXDOMAIN = 6
    YXRRSET = 7
    NXRRSET = 8
    NOTAUTH = 9
    NOTZONE = 10
    DSOTYPENI = 11
    BADVERS = 16
    BADKEY = 17
    BADTIME = 18
    BADMODE = 19
    BADNAME = 20
    BADALG = 21
    BADTRUNC = 22
    BADCOOKIE = 23


class RRClass(enum.IntEnum):
    """
    The class of a record or question (RFC 1035 section 3.2.4, RFC 2136).
    """

    IN = 1
    CH = 3
    HS = 4
    NONE = 254
    ANY = 255


class RRType(enum.IntEnum):
    """
    The type of a record or question.
    """

    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    NULL = 10
    WKS = 11
    PTR = 12
    HINFO = 13
    MX = 15
    TXT = 16
    RP = 17
    AFSDB = 18
    SIG = 24
    KEY = 25
    AAAA = 28
    LOC = 29
    NXT = 30
    SRV = 33
    NAPTR = 35
    KX = 36
    CERT = 37
    DNAME = 39
    OPT = 41
    APL = 42
    DS = 43
    SSHFP = 44
    IPSECKEY = 45
    RRSIG = 46
    NSEC = 47
    DNSKEY = 48
    DHCID = 49
    NSEC3 = 50
    NSEC3PARAM = 51
    TLSA = 52
    SMIMEA = 53
    HIP = 55
    CDS = 59
    CDNSKEY = 60
    OPENPGPKEY = 61
    CSYNC = 62
    ZONEMD = 63
    SVCB = 64
    HTTPS = 65
    SPF = 99
    EUI48 = 108
    EUI64 = 109
    TKEY = 249
    TSIG = 250
    IXFR = 251
    AXFR = 252
    ANY = 255
    URI = 256
    CAA = 257


class OptionCode(enum.IntEnum):
    """
    What an EDNS option is about (RFC 6891 section 6.1.2 and later).
    """

    LLQ = 1
    UL = 2
    NSID = 3
    DAU = 5
    DHU = 6
    N3U = 7
    CLIENT_SUBNET = 8
    EXPIRE = 9
    COOKIE = 10
    TCP_KEEPALIVE = 11
    PADDING = 12
    CHAIN = 13
    KEY_TAG = 14
    EXTENDED_ERROR = 15
