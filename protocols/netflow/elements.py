"""
Information elements: what the fields of NetFlow v9 and IPFIX are called, and their types.

`elements.csv` beside this file is IANA's registry "IPFIX Information Elements" with
their abstract data types (RFC 7011 section 6.1), and some of vendors'. Elements of
enterprise 0 from 32768 on exist in NetFlow v9 only, which has no enterprise numbers.
The elements of reverse flows (RFC 5103) are those of the registry with ``reverse`` in
front, and need no table of their own.

What nobody knows is still a column: ``element_ID`` or ``enterprise_PEN_ID``, of bytes,
as its type is not known either.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import NamedTuple

__all__ = ["REVERSE", "Element", "element", "known_elements", "scope"]

REVERSE = 29305
"""The enterprise number of reverse elements (RFC 5103 section 6.1)."""

UNTYPED = "octetArray"

_RAW = {"basicList", "subTemplateList", "subTemplateMultiList", "unsigned256"}
"""Types that are left as they are (RFC 6313, RFC 9740)."""

_SCOPES = {1: "system", 2: "interface", 3: "line_card", 4: "cache", 5: "template"}
"""The scopes of NetFlow v9 (RFC 3954 section 6.1)."""


class Element(NamedTuple):
    """
    What is known of one information element.
    """

    name: str
    kind: str
    """Its abstract data type."""
    is_known: bool = True


@functools.cache
def known_elements() -> dict[tuple[int, int], Element]:
    """
    Read the table: elements by enterprise number (0 is IANA's registry) and id.
    """
    text = resources.files(__package__).joinpath("elements.csv").read_text("utf-8")
    found = {}
    for line in text.splitlines()[1:]:
        enterprise, number, name, kind = line.split(",")
        plain = UNTYPED if kind in _RAW else kind
        found[int(enterprise), int(number)] = Element(name, plain)
    return found


def element(enterprise: int, number: int) -> Element:
    """
    Name an element.

    >>> element(0, 8)
    Element(name='sourceIPv4Address', kind='ipv4Address', is_known=True)
    >>> element(REVERSE, 1).name, element(4242, 7).name
    ('reverseOctetDeltaCount', 'enterprise_4242_7')
    """
    known = known_elements()
    found = known.get((enterprise, number))
    if found is None and enterprise == REVERSE and (0, number) in known:
        forward = known[0, number]
        name = f"reverse{forward.name[0].upper()}{forward.name[1:]}"
        found = Element(name, forward.kind)
    if found is not None:
        return found
    name = f"enterprise_{enterprise}_{number}" if enterprise else f"element_{number}"
    return Element(name, UNTYPED, is_known=False)


def scope(number: int) -> Element:
    """
    Name what the data of a NetFlow v9 options record is about.
    """
    name = _SCOPES.get(number)
    if name is None:
        return Element(f"scope_{number}", UNTYPED, is_known=False)
    return Element(f"scope_{name}", "unsigned64")
