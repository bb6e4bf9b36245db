"""
Templates that are known, as datagrams: what whoever reads on elsewhere has to know.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable

from protocols.netflow.templates import IPFIX, V9, Template

__all__ = ["template_datagrams"]

_MOST = 1400
"""Bytes of template records in a datagram, about."""
_SETS = {(V9, False): 0, (V9, True): 1, (IPFIX, False): 2, (IPFIX, True): 3}
"""Set numbers of templates and options templates (RFC 3954 5.2, RFC 7011 3.3.2)."""


def template_datagrams(
    templates: Iterable[tuple[int, Template]], now: float
) -> list[bytes]:
    """
    Make datagrams of templates.

    Args:
        templates: each with its source id, or observation domain.
        now: seconds since the epoch.
    """
    groups: dict[tuple[int, int, bool], list[bytes]] = defaultdict(list)
    for domain, template in templates:
        kind = template.version, domain, template.scopes is not None
        groups[kind].append(template.definition())
    datagrams = []
    for (version, domain, is_options), records in groups.items():
        while records:
            taken = [records.pop(0)]
            while records and sum(map(len, taken)) + len(records[0]) <= _MOST:
                taken.append(records.pop(0))
            body = b"".join(taken)
            body += bytes(-len(body) % 4)
            number = _SETS[version, is_options]
            whole = struct.pack(">HH", number, 4 + len(body)) + body
            datagrams.append(_header(version, domain, len(taken), whole, now) + whole)
    return datagrams


def _header(version: int, domain: int, count: int, body: bytes, now: float) -> bytes:
    seconds = int(now) & 0xFFFFFFFF
    if version == V9:  # RFC 3954 section 5.1
        return struct.pack(">HHIIII", version, count, 0, seconds, 0, domain)
    # RFC 7011 section 3.1
    return struct.pack(">HHIII", version, 16 + len(body), seconds, 0, domain)
