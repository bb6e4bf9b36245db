"""
DNSSEC: DS, DNSKEY, RRSIG, NSEC (RFC 4034), NSEC3 and NSEC3PARAM (RFC 5155).

Names in them are never compressed.
"""

from __future__ import annotations

from construct import GreedyBytes, Int8ub, Int16ub, Int32ub

from protocols.dns.bitmaps import TypeBitmaps
from protocols.dns.codes import RRType
from protocols.dns.names import Name
from protocols.dns.strings import CharacterString
from protoserve import Message, wire

__all__ = ["DNSKEY", "DS", "NSEC", "NSEC3", "NSEC3PARAM", "RRSIG"]


class DS(Message):
    """
    The digest of a key of the delegated zone.
    """

    key_tag: int = wire(Int16ub)
    algorithm: int = wire(Int8ub)
    digest_type: int = wire(Int8ub)
    digest: bytes = wire(GreedyBytes)


class DNSKEY(Message):
    """
    A public key of a zone.
    """

    flags: int = wire(Int16ub, doc="256: zone key, 1: secure entry point")
    protocol: int = wire(Int8ub, doc="3")
    algorithm: int = wire(Int8ub)
    public_key: bytes = wire(GreedyBytes)


class RRSIG(Message):
    """
    The signature of a set of records.
    """

    type_covered: RRType | int = wire(Int16ub, enum=RRType)
    algorithm: int = wire(Int8ub)
    labels: int = wire(Int8ub)
    original_ttl: int = wire(Int32ub, unit="s")
    expiration: int = wire(Int32ub, unit="s", doc="since 1970, modulo 2**32")
    inception: int = wire(Int32ub, unit="s", doc="since 1970, modulo 2**32")
    key_tag: int = wire(Int16ub)
    signer: str = wire(Name())
    signature: bytes = wire(GreedyBytes)


class NSEC(Message):
    """
    The next name of the zone, and the types that the owner has.
    """

    next_name: str = wire(Name())
    types: list[RRType | int] = wire(TypeBitmaps)


class NSEC3(Message):
    """
    The next name's hash, and the types that the owner has.
    """

    hash_algorithm: int = wire(Int8ub)
    flags: int = wire(Int8ub)
    iterations: int = wire(Int16ub)
    salt: bytes = wire(CharacterString)
    next_hash: bytes = wire(CharacterString)
    types: list[RRType | int] = wire(TypeBitmaps)


class NSEC3PARAM(Message):
    """
    How the names of a zone are hashed.
    """

    hash_algorithm: int = wire(Int8ub)
    flags: int = wire(Int8ub)
    iterations: int = wire(Int16ub)
    salt: bytes = wire(CharacterString)
