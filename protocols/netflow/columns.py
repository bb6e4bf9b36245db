"""
The columns that flow tables may have, by the names that registries give.

What no registry names has a name made of its number, see `elements`; there is no end of
these, so they are not here.
"""

from __future__ import annotations

from protocols.netflow import version5
from protocols.netflow.elements import REVERSE, element, known_elements, scope
from protocols.netflow.rows import _HEADS

__all__ = ["column_names"]

_MOST_SCOPES = 6


def column_names() -> frozenset[str]:
    """
    Name them.
    """
    names = {"templateId"}
    names |= {name for head in _HEADS.values() for name, _, _ in head}
    names |= {column.name for column in version5.LAYOUT.columns}
    for enterprise, number in known_elements():
        names.add(element(enterprise, number).name)
        if not enterprise:
            names.add(element(REVERSE, number).name)
    names |= {scope(number).name for number in range(1, _MOST_SCOPES)}
    return frozenset(names)
