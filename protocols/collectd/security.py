"""
Signed and encrypted datagrams, and the passwords of their users.

A signature is HMAC-SHA-256 with the password as its key. Encryption is AES-256 in
mode OFB, whose key is the SHA-256 of the password; what is encrypted begins with the
SHA-1 of the rest, by which a wrong password is noticed. That only guards against
accidents: OFB lets whoever guesses a plain text change it, SHA-1 included.

OFB is CBC over zeros, XORed with the text, which is how it is done here: the
library has put OFB itself aside.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
from collections.abc import Mapping
from pathlib import Path

from protoserve import DeclarationError

__all__ = [
    "AUTH_FILE",
    "PasswordFile",
    "Passwords",
    "UntrustedError",
    "decrypted",
    "encrypted",
    "from_environment",
    "mac",
]

AUTH_FILE = "COLLECTD_AUTH_FILE"
"""The environment variable that names the password file."""

_BLOCK = 16
_SHA1 = 20


class UntrustedError(ValueError):
    """
    A datagram is not from whom it says, or cannot be read without a password.
    """


class PasswordFile:
    """
    The passwords in a file, in the form of collectd's option ``AuthFile``.

    Each line is ``user: password``; lines that begin with ``#`` are comments. The file
    is read again when it has changed.

    Args:
        path: the file.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._read: tuple[int, int] | None = None
        self._passwords: dict[str, str] = {}

    def get(self, user: str) -> str | None:
        """
        Give a user's password, or `None`.

        Raises:
            UntrustedError: the file cannot be read.
        """
        try:
            status = self._path.stat()
            version = status.st_mtime_ns, status.st_size
            if version != self._read:
                self._passwords = _parsed(self._path.read_text("utf-8"))
                self._read = version
        except (OSError, ValueError) as exc:
            raise UntrustedError(
                f"the password file {str(self._path)!r} cannot be read: {exc}"
            ) from exc
        return self._passwords.get(user)


Passwords = Mapping[str, str] | PasswordFile
"""Where passwords are looked up by the user's name."""


def _parsed(text: str) -> dict[str, str]:
    found = {}
    for line in text.splitlines():
        user, colon, password = line.partition(":")
        if colon and not line.lstrip().startswith("#"):
            found[user.strip()] = password.strip()
    return found


def from_environment() -> Passwords:
    """
    Give the passwords of the file that the environment names; none if it names none.
    """
    path = os.environ.get(AUTH_FILE)
    if not path:
        return {}
    return _file(path)


@functools.lru_cache(maxsize=1)
def _file(path: str) -> PasswordFile:
    return PasswordFile(path)


def mac(password: str, user: bytes, covered: bytes) -> bytes:
    """
    Work out a signature.

    Args:
        password: the user's.
        user: the name as it is sent.
        covered: all that follows the part with the signature.
    """
    return hmac.digest(password.encode(), user + covered, "sha256")


def encrypted(password: str, iv: bytes, plain: bytes) -> bytes:
    """
    Encrypt parts.

    Args:
        password: the user's.
        iv: 16 bytes that are never used twice.
        plain: the parts.
    """
    digest = hashlib.sha1(plain, usedforsecurity=False).digest()
    return _ofb(password, iv, digest + plain)


def decrypted(password: str, iv: bytes, ciphertext: bytes) -> bytes:
    """
    Decrypt parts.

    Raises:
        UntrustedError: it was encrypted with another password, or damaged.
    """
    text = _ofb(password, iv, ciphertext)
    digest, plain = text[:_SHA1], text[_SHA1:]
    if hashlib.sha1(plain, usedforsecurity=False).digest() != digest:
        raise UntrustedError("the password is another one, or the data is damaged")
    return plain


def _ofb(password: str, iv: bytes, text: bytes) -> bytes:
    try:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    except ImportError as exc:
        raise DeclarationError(
            "collectd's encryption needs the package cryptography: "
            "pip install 'protoserve[collectd]'"
        ) from exc
    key = hashlib.sha256(password.encode()).digest()
    zeros = bytes(-(-len(text) // _BLOCK) * _BLOCK)
    stream = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor().update(zeros)
    size = len(text)
    number = int.from_bytes(text) ^ int.from_bytes(stream[:size])
    return number.to_bytes(size)
