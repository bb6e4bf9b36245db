"""
collectd's binary protocol: what its plugin `network` sends.

`collectd` is the protocol: datagrams only, all of them a `Packet` of parts. A
collector stores a row for each value and each notification
(`protocols.collectd.rows`).

Passwords are not needed to read what is signed: without one it is marked as not
verified. What is encrypted, or signed wrongly, is refused. They are found in the file
that the environment variable ``COLLECTD_AUTH_FILE`` names, or given to
`with_passwords`.

Specification: https://github.com/collectd/collectd/wiki/Binary-protocol.

>>> from protocols.collectd import Packet, Part, PartType, Values, ValueType
>>> packet = Packet(
...     [
...         Part(PartType.HOST, "web-1"),
...         Part(PartType.VALUES, Values([ValueType.GAUGE], [0.5])),
...     ]
... )
>>> bytes(packet).hex(" ", -4)
'0000000a 7765622d 31000006 000f0001 01000000 000000e0 3f'
>>> [(row.host, row.value) for row in packet.rows()]
[('web-1', 0.5)]
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import attrs
from construct import GreedyRange

from protocols.collectd import security
from protocols.collectd.parts import (
    Encrypted,
    Part,
    PartType,
    Severity,
    Signature,
    Values,
    ValueType,
    name_bytes,
)
from protocols.collectd.rows import NotificationRow, ValueRow, rows_of
from protocols.collectd.security import PasswordFile, Passwords, UntrustedError
from protoserve import Message, Protocol, wire

__all__ = [
    "Encrypted",
    "NotificationRow",
    "Opened",
    "Packet",
    "Part",
    "PartType",
    "PasswordFile",
    "Passwords",
    "Severity",
    "Signature",
    "UntrustedError",
    "ValueRow",
    "ValueType",
    "Values",
    "collectd",
    "with_passwords",
]


class Opened(NamedTuple):
    """
    What a packet holds once its signature or encryption was dealt with.
    """

    parts: list[Part]
    """The parts in the clear."""
    verified: bool
    """Whether a signature or a password was checked."""
    username: str | None
    """Who has signed or encrypted it."""


class Packet(Message):
    """
    What one datagram holds.
    """

    parts: list[Part] = wire(GreedyRange(Part.construct), factory=list)

    def opened(self, passwords: Passwords) -> Opened:
        """
        Check the signature, or decrypt.

        Args:
            passwords: of the users that may send.

        Raises:
            UntrustedError: the signature is wrong, or it is encrypted and cannot be
                decrypted.
        """
        parts: list[Part] = []
        verified, username = False, None
        for i, part in enumerate(self.parts):
            value = part.value
            if isinstance(value, Signature):
                if i:  # it covers only what is behind it
                    raise UntrustedError(
                        "expected a signature before all other parts, found "
                        f"{i} before it"
                    )
                username = value.username
                verified = _verify(value, passwords.get(username), username)
            elif isinstance(value, Encrypted):
                if len(self.parts) > 1:
                    raise UntrustedError(
                        "expected one encrypted part and no other in a datagram, "
                        f"found {i} before it and {len(self.parts) - i - 1} behind it"
                    )
                username = value.username
                inner = _decrypt(value, passwords.get(username), username)
                return Opened(inner, verified=True, username=username)
            else:
                parts.append(part)
        return Opened(parts, verified, username)

    def rows(self) -> Iterator[ValueRow | NotificationRow]:
        """
        Give what a collector stores: a row for each value and each notification.

        Raises:
            UntrustedError: see `opened`.
        """
        return _rows(self, security.from_environment())

    @classmethod
    def signed(cls, parts: Sequence[Part], username: str, password: str) -> Self:
        """
        Make a packet with a signature.
        """
        covered = b"".join(map(bytes, parts))
        mac = security.mac(password, name_bytes(username), covered)
        signature = Signature(mac, username, covered=covered)
        return cls([Part(PartType.SIGNATURE, signature), *parts])

    @classmethod
    def encrypted(
        cls,
        parts: Sequence[Part],
        username: str,
        password: str,
        *,
        iv: bytes | None = None,
    ) -> Self:
        """
        Make a packet that is encrypted.

        Args:
            parts: what it holds.
            username: who sends it.
            password: the user's.
            iv: 16 bytes that are never used twice; by default random ones.
        """
        iv = os.urandom(16) if iv is None else iv
        text = security.encrypted(password, iv, b"".join(map(bytes, parts)))
        sealed = Encrypted(username, iv, text)
        return cls([Part(PartType.ENCRYPTION, sealed)])


def _rows(packet: Packet, passwords: Passwords) -> Iterator[Any]:
    opened = packet.opened(passwords)
    return rows_of(opened.parts, verified=opened.verified, username=opened.username)


def _verify(signature: Signature, password: str | None, username: str) -> bool:
    if password is None:
        return False
    name, covered = name_bytes(username), signature.covered or b""
    if not hmac.compare_digest(signature.mac, security.mac(password, name, covered)):
        raise UntrustedError(
            f"expected the signature of the user {username!r}, found another one: the "
            "password is wrong or the data was changed"
        )
    return True


def _decrypt(sealed: Encrypted, password: str | None, username: str) -> list[Part]:
    if password is None:
        raise UntrustedError(
            f"encrypted by the user {username!r}, whose password is not known: it has "
            f"to be in the file that the environment variable {security.AUTH_FILE} names"
        )
    try:
        plain = security.decrypted(password, sealed.iv, sealed.ciphertext)
    except UntrustedError as exc:
        raise UntrustedError(f"encrypted by the user {username!r}: {exc}") from exc
    parts = Packet.parse(plain).parts
    if any(isinstance(part.value, Signature | Encrypted) for part in parts):
        raise UntrustedError("expected plain parts inside of encryption, found others")
    return parts


collectd = Protocol(
    "collectd",
    messages=Packet,
    ports={"udp": 25826},
    doc="collectd's binary protocol, of its plugin network",
)


def with_passwords(
    passwords: Mapping[str, str] | PasswordFile | str | Path,
) -> Protocol:
    """
    Make the protocol for a collector that knows passwords.

    Args:
        passwords: by the users' names, or the file that has them (see `PasswordFile`).

    >>> protocol = with_passwords({"alice": "secret"})
    >>> protocol
    <Protocol collectd>
    """
    known: Passwords = (
        PasswordFile(passwords) if isinstance(passwords, str | Path) else passwords
    )

    class KnownPacket(Packet):
        """
        What one datagram holds.
        """

        def rows(self) -> Iterator[ValueRow | NotificationRow]:
            return _rows(self, known)

    return attrs.evolve(collectd, messages=KnownPacket)
