"""
Messages from command lines: ``Query questions.0.name=www.example.test``.

What is wrong is one line that says how to write it right. Values are checked here, by
building the frame once, so that nothing is connected to for a request that could not
be sent.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from protoserve.cli.fields import in_short, part_at, place_of
from protoserve.cli.targets import CommandError
from protoserve.errors import InvalidMessageError, ProtoserveError
from protoserve.messages import Message, response_types
from protoserve.plain import PlainError, assign, from_plain, read_value
from protoserve.plain._errors import nearest
from protoserve.protocol import Direction, Protocol
from protoserve.session import Role, Session

__all__ = ["Outgoing", "outgoing", "sendable"]


@attrs.frozen
class Outgoing:
    """
    A message to be sent.
    """

    message: Message
    header: Any
    """`None`: it is made from the defaults."""

    @property
    def is_answered(self) -> bool:
        """
        Whether the declaration says that the message is answered.
        """
        return bool(response_types(type(self.message)))


def sendable(protocol: Protocol, name: str) -> type[Message]:
    """
    Find a message that a client may send.

    Raises:
        CommandError: there is none of that name.
    """
    known = {c.__name__: c for c in protocol.table(Direction.REQUEST).values()}
    if name in known:
        return known[name]
    if any(cls.__name__ == name for cls in protocol.classes()):
        raise CommandError(
            f"{name} is a response of {protocol.name}, which a client does not send; "
            f"requests: {', '.join(known) or 'none'}"
        )
    close = nearest(name, known)
    hint = f"did you mean {close}?" if close else f"it has {', '.join(known) or 'none'}"
    raise CommandError(f"{protocol.name} has no request {name!r}; {hint}")


def outgoing(
    protocol: Protocol,
    name: str,
    fields: Sequence[str] = (),
    *,
    data: str | None = None,
    header: Sequence[str] = (),
) -> Outgoing:
    """
    Make a message from words.

    Args:
        protocol: what is spoken.
        name: the message's class.
        fields: ``field=value`` each; they count before what `data` says.
        data: the fields as a JSON object; ``-`` is standard input.
        header: ``field=value`` for the header.

    Raises:
        CommandError: something is wrong with them; it says what.
    """
    cls = sendable(protocol, name)
    top = _header(protocol, header)
    plain = {} if data is None else _object(data)
    _assign(cls, plain, fields)
    message = _made(cls, plain, header=top)
    try:
        stream = protocol.framing is not None
        scratch = Session(protocol, Role.CLIENT, stream=stream)
        protocol.build(message, Direction.REQUEST, header=top, session=scratch)
    except InvalidMessageError as exc:
        raise CommandError(_explained(cls, exc)) from exc
    except ProtoserveError as exc:
        raise CommandError(str(exc)) from exc
    return Outgoing(message, top)


def _header(protocol: Protocol, words: Sequence[str]) -> Any:
    if not words:
        return None
    if protocol.header is None:
        raise CommandError(f"{protocol.name} has no header, so --header has no use")
    plain: dict[str, Any] = {}
    _assign(protocol.header, plain, words, "--header ")
    if protocol.key_width() is not None and any(
        word.partition("=")[0] == protocol.correlate for word in words
    ):
        raise CommandError(
            f"--header {protocol.correlate}: it ties the answer to its request, so the "
            "client chooses it; leave it out"
        )
    return _made(protocol.header, plain)


def _object(data: str) -> dict[str, Any]:
    where = "--data"
    if data == "-":
        where, data = "standard input", sys.stdin.read()
    try:
        plain = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise CommandError(f"{where}: no JSON: {exc}") from exc
    if not isinstance(plain, dict):
        raise CommandError(
            f"{where}: expected a JSON object with the message's fields, "
            f"found {type(plain).__name__}"
        )
    return plain


def _assign(
    cls: type[Message], plain: dict[str, Any], words: Sequence[str], option: str = ""
) -> None:
    given: dict[str, str] = {}
    for word in words:
        path, equals, text = word.partition("=")
        if path in given:
            raise CommandError(f"{option}{word}: it is given already, {given[path]}")
        given[path] = word
        if not equals or not path:
            part = part_at(cls, word)
            better = f", as in {option}{word}=…" if part is not None else ""
            raise CommandError(f"{option}{word!r}: expected FIELD=VALUE{better}")
        part = part_at(cls, path)
        if part is not None and part.computed:
            raise CommandError(
                f"{option}{path}: it is filled in, as {part.computed}; leave it out"
            )
        try:
            assign(plain, path, read_value(text))
        except PlainError as exc:
            raise CommandError(f"{option}{word}: {exc}") from exc


def _made(cls: type[Message], plain: Mapping[str, Any], *, header: Any = None) -> Any:
    try:
        return from_plain(cls, plain, header=header)
    except InvalidMessageError as exc:
        raise CommandError(_explained(cls, exc)) from exc


def _explained(cls: type[Message], error: InvalidMessageError) -> str:
    """
    Add to an error what the field is, and how to write it.
    """
    text = " ".join(str(error).split())
    owner, _, path = error.path.partition(".")
    if owner != cls.__name__:  # the header's
        return text
    if not path and not getattr(error, "nearest", None):
        inside = place_of(cls, error.found.strip("'"))
        return f"{text}; did you mean {inside}?" if inside else text
    part = part_at(cls, path) if path else None
    if part is None or getattr(error, "nearest", None):
        return text
    if error.found.startswith("none, "):
        place = path.replace("[", ".").replace("]", "")
        return f"{cls.__name__} needs {place}=VALUE ({in_short(part)})"
    if error.expected == "a list":
        return f"{text}; its elements go by number, as in {path}.0"
    return f"{text} ({in_short(part)})"
