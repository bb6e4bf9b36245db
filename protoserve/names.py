"""
Names as other places write them.
"""

from __future__ import annotations

import re

__all__ = ["snake_case"]


def snake_case(name: str) -> str:
    """
    Write a class's name as a method's, or a table's.

    >>> snake_case("ReadDNSNames2")
    'read_dns_names2'
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return re.sub(r"_+", "_", words).lower().strip("_") or "message"
