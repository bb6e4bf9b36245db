"""
Where things are kept, as people write it: ``postgresql://user:secret@host:5432/flows``.

One reader for the URLs of stores and brokers: several hosts, user and password, path,
options behind a question mark. Its `str` has neither password nor options, so that it can
stand in a log, an error or a status line; nothing else of a URL is ever shown there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from urllib.parse import parse_qsl, quote, unquote

import attrs

from protoserve.errors import DeclarationError
from protoserve.telemetry.sinks.options import nearest

__all__ = ["HIDDEN", "Target", "without_secrets"]

HIDDEN = "***"


@attrs.frozen
class Target:
    """
    A URL, taken apart.
    """

    scheme: str
    hosts: tuple[tuple[str, int], ...]
    """Names or numbers with ports; none if none was said."""
    path: str = ""
    """What stands behind the hosts, without the first slash."""
    user: str = ""
    password: str = attrs.field(default="", repr=False)
    options: Mapping[str, str] = attrs.field(factory=dict, repr=False)

    @classmethod
    def parse(
        cls, url: str, *, port: int, options: Collection[str] | None = None
    ) -> Target:
        """
        Read a URL.

        Args:
            url: ``SCHEME://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]…][/PATH][?OPTIONS]``.
            port: the port of a host without one.
            options: those that there are; `None` lets all pass.

        Raises:
            DeclarationError: it is none; the line does not show the password.

        >>> target = Target.parse("nats://me:it@a,[::1]:42/flows", port=4222)
        >>> target.hosts
        (('a', 4222), ('::1', 42))
        >>> str(target)
        'nats://me:***@a:4222,[::1]:42/flows'
        """
        scheme, separator, rest = url.partition("://")
        rest, _, query = rest.partition("?")
        place, _, path = rest.partition("/")
        login, _, listed = place.rpartition("@")
        user, _, password = login.partition(":")
        if not separator or not scheme:
            scheme = url.partition(":")[0]
            raise DeclarationError(f"{scheme}: expected {scheme}://HOST:PORT")
        given = dict(parse_qsl(query, keep_blank_values=True))
        for name in given:
            if options is not None and name not in options:
                hint = nearest(name, options)
                raise DeclarationError(f"{scheme}: unknown option {name!r}; {hint}")
        return cls(
            scheme.lower(),
            tuple(_host(each, port, scheme) for each in listed.split(",") if each),
            unquote(path),
            unquote(user),
            unquote(password),
            given,
        )

    def number(self, name: str, default: int, *, least: int = 1) -> int:
        """
        Give an option that is a whole number.

        Raises:
            DeclarationError: it is none, or too small.
        """
        text = self.options.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit()) or int(text) < least:
            raise DeclarationError(
                f"{self.scheme}: option {name}: expected a whole number of at least "
                f"{least}, found {text!r}"
            )
        return int(text)

    def hide(self, text: str) -> str:
        """
        Take out of a text what is secret in the URL.
        """
        secret = ("key", "password", "secret", "token")
        values = [
            value
            for name, value in self.options.items()
            if any(word in name.lower() for word in secret)
        ]
        for value in filter(None, (self.password, *values)):
            text = text.replace(value, HIDDEN)
        return text

    def __str__(self) -> str:
        login = quote(self.user) + (f":{HIDDEN}" if self.password else "")
        hosts = ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            for host, port in self.hosts
        )
        path = f"/{quote(self.path)}" if self.path else ""
        return f"{self.scheme}://{login}{'@' if login else ''}{hosts}{path}"


def _host(text: str, port: int, scheme: str) -> tuple[str, int]:
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        colon, digits = rest[:1], rest[1:]
    else:
        host, colon, digits = text.partition(":")
    if not colon:
        return unquote(host), port
    if not (digits.isascii() and digits.isdigit()) or int(digits) > 65535:
        raise DeclarationError(
            f"{scheme}://{host}…: expected a port in 0..65535, found {digits!r} "
            "(an IPv6 address stands in brackets)"
        )
    return unquote(host), int(digits)


def without_secrets(url: str) -> str:
    """
    Give a URL as it may be shown: without user, password and options.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url.partition("?")[0]
    place = rest.partition("?")[0]
    return f"{scheme}://{place.rpartition('@')[2]}"
