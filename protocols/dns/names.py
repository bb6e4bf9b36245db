r"""
Domain names: text in messages, labels on the wire.

In messages a name is text as in ``www.example.test``, without a dot at its end;
the root is ``.``. A trailing dot is accepted when a message is built. Labels may
hold any bytes: dots and backslashes in them are written ``\.`` and ``\\``, what
is not printable ASCII, spaces included, as ``\DDD`` in decimal (RFC 1035
section 5.1), so that every name comes back as it was, case included.

Compression (RFC 1035 section 4.1.4) counts offsets from the start of the DNS
message. Parsing follows pointers wherever they stand, as RFC 3597 section 4
advises, but only to places before the name (or the part of it) that they stand
in: so they end. What has been parsed is remembered for the message, so that the
work is linear in its size however many names point to the same labels. Building
compresses only where `Name` was declared with ``compress=True``, and compares
with case, so that the case is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import construct

__all__ = ["Name", "folded", "to_labels", "to_text"]

MAX_LABEL = 63
"""Octets of one label (RFC 1035 section 2.3.4)."""

MAX_NAME = 255
"""Octets of a whole name, its length octets included (RFC 1035 section 2.3.4)."""

MAX_JUMPS = 127
"""Pointers in one name: as many as the longest name has labels."""

POINTABLE = 0x4000
"""A pointer has 14 bits (RFC 1035 section 4.1.4)."""

_PLAIN = re.compile(rb"[!-\-/-\[\]-~]+")
_ESCAPED = [
    chr(octet)
    if _PLAIN.fullmatch(bytes((octet,)))
    else f"\\{octet:c}"
    if octet in b".\\"
    else f"\\{octet:03d}"
    for octet in range(256)
]
_TOKEN = re.compile(r"\\([0-9]{3})|\\([^0-9])|(\.)|([^\\.]+)", re.DOTALL)


def to_text(labels: Iterable[bytes]) -> str:
    r"""
    Write labels as the text of a name.

    >>> to_text([b"www", b"example", b"test"]), to_text([])
    ('www.example.test', '.')
    >>> print(to_text([b"a.b", b"\x00"]))
    a\.b.\000
    """
    return ".".join(map(_escape, labels)) or "."


def to_labels(text: str) -> tuple[bytes, ...]:
    r"""
    Take the text of a name apart.

    Args:
        text: the name, with or without a dot at its end.

    Raises:
        ValueError: it is no name: an empty or too long label, too many labels,
            a backslash without a character, letters beyond ASCII.

    >>> to_labels(r"a\.b.test.")
    (b'a.b', b'test')
    """
    if text in (".", ""):
        return ()
    if not text.isascii():
        raise ValueError(
            f"{text!r}: write letters beyond ASCII in their xn-- form (RFC 5890), "
            "and other bytes as \\DDD"
        )
    labels = text.encode().split(b".") if "\\" not in text else _unescape(text)
    if not labels[-1]:
        labels.pop()
    for label in labels:
        if not 1 <= len(label) <= MAX_LABEL:
            raise ValueError(f"{text!r}: a label has 1 to 63 octets, not {len(label)}")
    size = sum(map(len, labels)) + len(labels) + 1
    if size > MAX_NAME:
        raise ValueError(f"{text!r}: a name has at most 255 octets, not {size}")
    return tuple(labels)


def folded(text: str) -> tuple[bytes, ...]:
    """
    Give a name's labels in lower case, for comparing (RFC 4343 section 3).

    >>> folded("WWW.example.TEST.") == folded("www.example.test")
    True
    """
    return tuple(label.lower() for label in to_labels(text))


def _escape(label: bytes) -> str:
    if _PLAIN.fullmatch(label):
        return label.decode("ascii")
    return "".join([_ESCAPED[octet] for octet in label])


def _unescape(text: str) -> list[bytes]:
    labels = [bytearray()]
    position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None or int(token[1] or 0) > 255:
            raise ValueError(
                f"{text!r}: a backslash stands before one character that is no digit, "
                "or before three digits up to 255"
            )
        number, quoted, dot, plain = token.groups()
        if dot:
            labels.append(bytearray())
        elif number:
            labels[-1].append(int(number))
        else:
            labels[-1] += (quoted or plain).encode()
        position = token.end()
    return [bytes(label) for label in labels]


class _Known(NamedTuple):
    """
    What stands at some place of a message: a name, or the rest of one.
    """

    text: str
    size: int
    jumps: int


_ROOT = _Known("", 1, 0)


class Name(construct.Construct):  # type: ignore[misc] # construct is untyped
    """
    A domain name as text.

    Args:
        compress: whether to point to an earlier occurrence when building. RFC 3597
            section 4 allows it for owner names and the record types of RFC 1035.
    """

    def __init__(self, *, compress: bool = False) -> None:
        super().__init__()
        self.compress = compress

    def _parse(self, stream: Any, context: Any, _path: str) -> str:
        start = stream.tell()
        stream.seek(0, 2)
        end = stream.tell()  # of the part of the message that the name stands in
        message = _whole(stream)
        known = _remembered(context, "_dns_names_at", message)
        steps, rest, after = _read(message, start, end, known)
        stream.seek(after)
        return _remember(known, steps, rest) or "."

    def _build(self, obj: Any, stream: Any, context: Any, _path: str) -> Any:
        if not isinstance(obj, str):
            raise TypeError(f"a name is text, not {obj!r}")
        labels = to_labels(obj)
        places = {}
        if self.compress:
            places = _remembered(context, "_dns_places_of", stream)
        for i, label in enumerate(labels):
            rest = labels[i:]
            if rest in places:
                stream.write((0xC000 | places[rest]).to_bytes(2, "big"))
                return obj
            if (place := stream.tell()) < POINTABLE:
                places[rest] = place
            stream.write(bytes((len(label),)) + label)
        stream.write(b"\0")
        return obj


def _whole(stream: Any) -> bytes:
    """
    Give the bytes of the message that a stream is a part of.
    """
    while hasattr(stream, "parent_stream"):  # Construct's streams of nested data
        stream = stream.parent_stream
    if hasattr(stream, "getvalue"):  # BytesIO, which gives the same object each time
        return stream.getvalue()  # type: ignore[no-any-return] # the stream is untyped
    stream.seek(0)
    return stream.read()  # type: ignore[no-any-return] # the stream is untyped


def _read(
    data: bytes, start: int, end: int, known: dict[int, _Known]
) -> tuple[list[tuple[int, bytes]], _Known, int]:
    """
    Read a name's labels, along its pointers.

    Args:
        data: the message.
        start: where the name starts.
        end: where the part of the message ends that it stands in; what is pointed to
            may be anywhere before.
        known: the names that have been read already.

    Returns:
        Labels with their places, an empty one for each pointer; what the last
        pointer points to, if that is known; the place behind the name.
    """
    steps: list[tuple[int, bytes]] = []
    place = limit = start
    after = -1
    size, jumps = 1, 0
    rest = _ROOT
    while True:
        if place >= end:
            raise construct.StreamError("the data ends inside a name")
        length = data[place]
        behind = place + 1 + length
        if length == 0:
            break
        if length <= MAX_LABEL:
            if behind > end:
                raise construct.StreamError("the data ends inside a label")
            steps.append((place, data[place + 1 : behind]))
            place = behind
            size += length + 1
        elif length >= 0xC0:
            behind = place + 2
            if behind > end:
                raise construct.StreamError("the data ends inside a pointer")
            target = (length & 0x3F) << 8 | data[place + 1]
            if target >= limit:
                raise ValueError(
                    f"the pointer at offset {place} points to offset {target}, "
                    f"which is not before the name at offset {limit}"
                )
            steps.append((place, b""))
            jumps += 1
            if target in known:
                rest = known[target]
                break
            after = behind if after < 0 else after
            place = limit = target
        else:
            raise ValueError(f"no label starts with the octet {length:#04x}")
        _check_size(size, jumps)
    _check_size(size + rest.size - 1, jumps + rest.jumps)
    return steps, rest, behind if after < 0 else after


def _check_size(size: int, jumps: int) -> None:
    if size > MAX_NAME:
        raise ValueError(f"a name has at most {MAX_NAME} octets, not {size}")
    if jumps > MAX_JUMPS:
        raise ValueError(f"a name has at most {MAX_JUMPS} pointers, not {jumps}")


def _remembered(context: Any, key: str, data: Any) -> dict[Any, Any]:
    """
    Find what is kept for one message while it is parsed or built.

    Offsets in other data, as that of a part built by itself, mean nothing.
    """
    root = context.get("_root", context)
    owner, table = root.setdefault(key, (data, {}))
    return table if owner is data else {}


def _remember(
    known: dict[int, _Known], steps: list[tuple[int, bytes]], rest: _Known
) -> str:
    """
    Put a name together, and keep what stands at the place of each of its labels.
    """
    text, size, jumps = rest
    for place, label in reversed(steps):
        if label:
            text = f"{_escape(label)}.{text}" if text else _escape(label)
            size += len(label) + 1
        else:
            jumps += 1
        if place < POINTABLE:
            known[place] = _Known(text, size, jumps)
    return text
