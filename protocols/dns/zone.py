"""
What an authoritative server knows, and how it answers from it (RFC 1034 section
4.3.2).

A zone finds records by name, without case; follows aliases inside itself; tells a
name that does not exist (NXDOMAIN) from one that has no such records, both with
the SOA record as RFC 2308 asks; refers to delegated zones with their glue; and
answers from wildcards (RFC 4592). Names between others exist too, if they have
no records. Answers have the name as it was asked. DNSSEC is left to others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import attrs

from protocols.dns.codes import Rcode, RRType
from protocols.dns.messages import Question, ResourceRecord
from protocols.dns.names import folded
from protocols.dns.records import CNAME, MX, NS, SOA, SRV

__all__ = ["Answer", "Zone"]

_Key: TypeAlias = tuple[bytes, ...]
_Sets: TypeAlias = dict[RRType | int, list[ResourceRecord]]

MAX_ALIASES = 16
"""CNAME records followed for one question; BIND 9 has the same in max-restarts."""


@attrs.frozen
class Answer:
    """
    What a zone says to a question.
    """

    rcode: Rcode = Rcode.NOERROR
    answers: list[ResourceRecord] = attrs.field(factory=list)
    authorities: list[ResourceRecord] = attrs.field(factory=list)
    additionals: list[ResourceRecord] = attrs.field(factory=list)
    authoritative: bool = True
    """False for a referral."""


@attrs.frozen(eq=False)
class Zone:
    """
    The records of one zone.

    Args:
        origin: the zone's name.
        records: all records, one SOA of the origin among them.

    Raises:
        ValueError: there is no such SOA record, a record's owner is outside the
            zone, or an alias has other records.
    """

    origin: str
    records: Sequence[ResourceRecord] = attrs.field(repr=False)
    soa: ResourceRecord = attrs.field(init=False, repr=False)
    _apex: _Key = attrs.field(init=False, repr=False)
    _names: dict[_Key, _Sets] = attrs.field(init=False, repr=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        put = object.__setattr__  # the value is frozen for everyone else
        put(self, "_apex", folded(self.origin))
        for record in self.records:
            self._add(record)
        found = self._names.get(self._apex, {}).get(RRType.SOA, [])
        if len(found) != 1 or not isinstance(found[0].rdata, SOA):
            raise ValueError(f"{self.origin}: a zone has one SOA record at its origin")
        put(self, "soa", found[0])

    def _add(self, record: ResourceRecord) -> None:
        if not self.covers(record.name):
            raise ValueError(f"{record.name} is not in the zone {self.origin}")
        key = folded(record.name)
        for i in range(len(key) - len(self._apex) + 1):
            self._names.setdefault(key[i:], {})
        sets = self._names[key]
        sets.setdefault(record.type, []).append(record)
        if RRType.CNAME in sets and len(sets) > 1:
            raise ValueError(
                f"{record.name}: an alias has no other records (RFC 1034 section 3.6.2)"
            )

    def covers(self, name: str) -> bool:
        """
        Say whether a name is the zone's origin or below it.
        """
        key = folded(name)
        return key[max(0, len(key) - len(self._apex)) :] == self._apex

    def transfer(self, size: int = 16_384) -> Iterator[list[ResourceRecord]]:
        """
        Give all records, the SOA first and again last (RFC 5936 section 2.2).

        Args:
            size: octets of the records that go into one message; pointers reach
                16 KiB.
        """
        part: list[ResourceRecord] = []
        octets = 0
        others = (record for record in self.records if record is not self.soa)
        for record in (self.soa, *others, self.soa):
            more = len(bytes(record))
            if part and octets + more > size:
                yield part
                part, octets = [], 0
            part.append(record)
            octets += more
        yield part

    def answer(self, question: Question, *, brief: bool = False) -> Answer:
        """
        Answer a question about a name of the zone.

        Args:
            question: its class is not looked at.
            brief: whether ANY is answered with one set of records only, as is
                wise over UDP (RFC 8482 section 4.1).
        """
        answers: list[ResourceRecord] = []
        owner = question.name
        for _ in range(MAX_ALIASES):
            key = folded(owner)
            referral = self._referral(key, question.type)
            if referral:
                glue = self._addresses(referral)
                return Answer(Rcode.NOERROR, answers, referral, glue, bool(answers))
            sets = self._find(key)
            if sets is None:
                return Answer(Rcode.NXDOMAIN, answers, [self._negative()])
            found = _matching(sets, question.type, brief=brief)
            answers += [_owned(record, owner) for record in found]
            if found:
                return Answer(Rcode.NOERROR, answers, [], self._addresses(found))
            if RRType.CNAME not in sets:
                return Answer(Rcode.NOERROR, answers, [self._negative()])
            alias = sets[RRType.CNAME][0]
            answers.append(_owned(alias, owner))
            if not isinstance(alias.rdata, CNAME) or not self.covers(
                alias.rdata.target
            ):
                break
            owner = alias.rdata.target
        return Answer(Rcode.NOERROR, answers)

    def _find(self, key: _Key) -> _Sets | None:
        """
        Give a name's records, by a wildcard if the name does not exist.
        """
        if key in self._names:
            return self._names[key]
        # The apex exists, so there is a closest encloser (RFC 4592 section 3.3.1).
        parents = (key[i:] for i in range(1, len(key) - len(self._apex) + 1))
        encloser = next(parent for parent in parents if parent in self._names)
        return self._names.get((b"*", *encloser))

    def _referral(self, key: _Key, kind: RRType | int) -> list[ResourceRecord]:
        """
        Give the NS records of the delegated zone that a name is in.

        DS records stand on the parent's side of the cut (RFC 4035 section 3.1.4.1).
        """
        for i in range(len(key) - len(self._apex) - 1, -1, -1):
            sets = self._names.get(key[i:], {})
            if RRType.NS in sets and not (i == 0 and kind == RRType.DS):
                return sets[RRType.NS]
        return []

    def _addresses(self, records: Iterable[ResourceRecord]) -> list[ResourceRecord]:
        """
        Give the addresses of hosts that records name, as far as they are known.
        """
        hosts: dict[_Key, None] = {}
        for record in records:
            match record.rdata:
                case NS(target=host) | SRV(target=host) | MX(exchange=host):
                    hosts[folded(host)] = None
        return [
            address
            for host in hosts
            for kind in (RRType.A, RRType.AAAA)
            for address in self._names.get(host, {}).get(kind, [])
        ]

    def _negative(self) -> ResourceRecord:
        """
        Make the SOA record of a negative answer (RFC 2308 section 3).
        """
        ttl = min(self.soa.ttl, self.soa.rdata.minimum)
        return ResourceRecord(
            self.soa.name, RRType.SOA, self.soa.rrclass, ttl, self.soa.rdata
        )


def _matching(sets: _Sets, kind: RRType | int, *, brief: bool) -> list[ResourceRecord]:
    if kind != RRType.ANY:
        return sets.get(kind, [])
    every = list(sets.values())
    return [record for records in every[: 1 if brief else None] for record in records]


def _owned(record: ResourceRecord, owner: str) -> ResourceRecord:
    """
    Copy a record with its owner's name as it was asked for.
    """
    return ResourceRecord(owner, record.type, record.rrclass, record.ttl, record.rdata)
