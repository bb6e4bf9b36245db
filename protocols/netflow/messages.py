"""
NetFlow v9 and IPFIX, one datagram at a time.

A data set is only bytes without its template. Where there is a session, templates are
kept in ``session.state``, and data sets whose template has come are lists of records,
each a mapping from the elements' names to values; a handler that keeps something else
there gives it an attribute `templates`, a dict of its own. Template sets are lists of
`Definition`. Both kinds of list remember the bytes that they were made of, and are
built as these again.

Bytes may always be given for the content of a set, as `Template.definition` and
`Template.encode` make them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import construct
from construct import FixedSized, GreedyRange, Int16ub, Int32ub, this

from protocols.netflow.templates import (
    IPFIX,
    V9,
    Template,
    Withdrawal,
    read_templates,
    records,
)
from protoserve import Message, length_of, wire

__all__ = [
    "Content",
    "Decoded",
    "Definition",
    "Ipfix",
    "IpfixSet",
    "NetFlow9",
    "NetFlow9Set",
]

_MOST_TEMPLATES = 4096
"""Templates of one session."""
_TEMPLATE_SETS = {V9: (0, 1), IPFIX: (2, 3)}


class Decoded(list[Any]):
    """
    The templates or records of a set.

    Args:
        items: what they are.
        data: the bytes that they were made of.
    """

    def __init__(self, items: Iterable[Any], data: bytes) -> None:
        super().__init__(items)
        self.data = data

    def __eq__(self, other: object) -> bool:
        if isinstance(other, bytes | Decoded):
            return self.data == (other if isinstance(other, bytes) else other.data)
        return super().__eq__(other)

    __hash__ = None


class Definition(dict[str, Any]):
    """
    A template, or that one is taken back, as people read it.
    """

    def __init__(self, said: Template | Withdrawal) -> None:
        self.said = said
        """The template or withdrawal itself."""
        shown: dict[str, Any] = {"id": said.id}
        if isinstance(said, Withdrawal):
            shown["withdrawn"] = True
        else:
            if said.scopes is not None:
                shown["scopes"] = said.scopes
            shown["fields"] = {c.name: c.length for c in said.layout.columns}
        super().__init__(shown)


class Content(construct.Construct):  # type: ignore[misc] # construct is untyped
    """
    What is in a set: templates, records, or bytes that nobody can read yet.

    Args:
        version: `V9` or `IPFIX`.
    """

    def __init__(self, version: int) -> None:
        super().__init__()
        self.version = version

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        data = bytes(construct.stream_read_entire(stream, path))
        number = context["id"]
        known = _known(context)
        try:
            if number in _TEMPLATE_SETS[self.version]:
                found = read_templates(data, self.version, number)
                if known is not None:
                    for each in found:
                        self._learn(known, _domain(context, self.version), each)
                return Decoded(map(Definition, found), data)
            key = self.version, _domain(context, self.version), number
            template = None if known is None else known.get(key)
            if template is None:
                return data
            return Decoded(records(template.layout, data), data)
        except ValueError as exc:
            raise construct.ValidationError(f"set {number}: {exc}", path=path) from exc

    def _learn(self, known: Any, domain: int, said: Template | Withdrawal) -> None:
        if isinstance(said, Template):
            known.pop((self.version, domain, said.id), None)
            known[self.version, domain, said.id] = said
            while len(known) > _MOST_TEMPLATES:
                del known[next(iter(known))]
            return
        for key, template in list(known.items()):
            if key[:2] == (self.version, domain) and (
                said.id == template.id
                or (
                    said.id is None and said.is_options == (template.scopes is not None)
                )
            ):
                del known[key]

    def _build(self, obj: Any, stream: Any, _context: Any, path: str) -> Any:
        data = obj.data if isinstance(obj, Decoded) else obj
        if not isinstance(data, bytes | bytearray):
            raise construct.ValidationError(
                "expected bytes, as Template.encode() and Template.definition() make "
                f"them, found {type(obj).__name__}",
                path=path,
            )
        construct.stream_write(stream, bytes(data), len(data), path)
        return obj


def _known(context: Any) -> Any:
    """
    Find the session's templates; `None` where there is no session.
    """
    session = context["_"]["_"].get("session") if "_" in context["_"] else None
    if session is None:
        return None
    if session.state is None:
        session.state = OrderedDict()
    state = session.state
    return (
        state if isinstance(state, OrderedDict) else getattr(state, "templates", None)
    )


def _domain(context: Any, version: int) -> int:
    name = "source_id" if version == V9 else "observationDomainId"
    return int(context["_"][name])


class NetFlow9Set(Message):
    """
    A FlowSet (RFC 3954 section 5).
    """

    id: int = wire(
        Int16ub,
        doc="0: templates, 1: options templates, from 256 on: a template's data",
    )
    length: int = wire(Int16ub, value=length_of("id", "content"), unit="bytes")
    content: Any = wire(
        FixedSized(this.length - 4, Content(V9)),
        default=b"",
        doc="templates or records",
    )


class NetFlow9(Message):
    """
    An export packet of version 9, behind the version.

    Source: RFC 3954 section 5.1.
    """

    count: int = wire(Int16ub, default=0, doc="records in all sets, templates included")
    SysUptime: int = wire(
        Int32ub, default=0, unit="ms", doc="time since the exporter started"
    )
    unix_secs: int = wire(Int32ub, default=0, unit="s", doc="seconds since 1970, UTC")
    package_sequence: int = wire(Int32ub, default=0, doc="packets exported before")
    source_id: int = wire(Int32ub, default=0, doc="observation domain")
    sets: list[NetFlow9Set] = wire(GreedyRange(NetFlow9Set.construct), factory=list)


class IpfixSet(Message):
    """
    A Set (RFC 7011 section 3.3).
    """

    id: int = wire(
        Int16ub,
        doc="2: templates, 3: options templates, from 256 on: a template's data",
    )
    length: int = wire(Int16ub, value=length_of("id", "content"), unit="bytes")
    content: Any = wire(
        FixedSized(this.length - 4, Content(IPFIX)),
        default=b"",
        doc="templates or records",
    )


class Ipfix(Message):
    """
    A message of IPFIX, behind the version.

    Source: RFC 7011 section 3.1.
    """

    length: int = wire(
        Int16ub,
        value=length_of("length", "sets", plus=2),
        unit="bytes",
        doc="of all of it, the version included",
    )
    exportTime: int = wire(  # noqa: N815 - the standard's name
        Int32ub, default=0, unit="s", doc="seconds since 1970, UTC"
    )
    sequenceNumber: int = wire(  # noqa: N815 - the standard's name
        Int32ub, default=0, unit="records", doc="data records sent before"
    )
    observationDomainId: int = wire(Int32ub, default=0)  # noqa: N815 - the standard's name
    sets: list[IpfixSet] = wire(GreedyRange(IpfixSet.construct), factory=list)
