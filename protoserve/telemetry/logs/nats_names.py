"""
How entries are named in NATS: subjects, headers, partitions.

A subject's parts hold no dots, spaces or wildcards, so a key's part of the subject is
only like it, for people and filters; the header has it whole. Ids and keys are quoted
there as in a URL: headers end at the end of a line, and are trimmed.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from urllib.parse import quote, unquote

import attrs

__all__ = ["ID", "Share", "headers", "named", "share", "subject", "token"]

PARTITIONS = 64
ID = "Nats-Msg-Id"
KEY = "Protoserve-Key"


def token(text: str) -> str:
    """
    Make a legal part of a subject.

    >>> token("192.0.2.1"), token("2001:db8::1")
    ('192-0-2-1', '2001_db8__1')
    """
    return re.sub(r"[^A-Za-z0-9_-]", "_", text.replace(".", "-"))[:100] or "_"


def subject(name: str, key: str) -> str:
    """
    Give the subject of an entry.
    """
    return f"{name}.{zlib.crc32(key.encode()) % PARTITIONS:02}.{token(key)}"


def headers(id: str, key: str) -> dict[str, str]:  # noqa: A002 - the port's word
    """
    Give the headers of an entry.
    """
    return {ID: quote(id, safe=":/@"), KEY: quote(key, safe="[]:/@")}


def named(found: Mapping[str, str] | None) -> tuple[str, str]:
    """
    Read id and key from headers; others' messages may have neither.
    """
    found = found or {}
    return unquote(found.get(ID, "")), unquote(found.get(KEY, ""))


@attrs.frozen
class Share:
    """
    A part of the partitions that members of a group may divide among them.
    """

    number: int = 1
    of_all: int = 1

    def consumer(self, group: str) -> str:
        """
        Name the durable consumer of those who have this share.
        """
        return group if self.of_all == 1 else f"{group}-{self.number}of{self.of_all}"

    def subjects(self, name: str) -> list[str] | None:
        """
        Say what it covers; `None` is everything.
        """
        if self.of_all == 1:
            return None
        return [
            f"{name}.{partition:02}.>"
            for partition in range(PARTITIONS)
            if partition % self.of_all == self.number - 1
        ]


def share(text: str) -> Share:
    """
    Read ``1/3``.
    """
    found = re.fullmatch(r"([0-9]{1,2})/([0-9]{1,2})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]) <= PARTITIONS:
        raise ValueError(f"1/3, 2/3 … of at most {PARTITIONS}")
    return Share(int(found[1]), int(found[2]))
