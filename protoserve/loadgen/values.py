"""
Messages from values as they are typed, which may vary from one request to the next.

``{n}`` in a value is the number of the request, from 0, and ``{n:04x}`` the same in four
hex digits; ``@FILE`` is a file with a value on each line, taken one after the other. The requests begin anew after so many as
the longest file has lines, or after as many as there are frames in the cycle.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from protoserve.errors import DeclarationError
from protoserve.loadgen.requests import MOST_FRAMES
from protoserve.messages import Message
from protoserve.plain import assign, from_plain, read_value

__all__ = ["messages_of", "turns_of"]

_NUMBER = re.compile(r"\{n(?::(0?\d*[dxXob]?))?\}")


def messages_of(
    cls: type[Message], turns: Sequence[Sequence[str]], *, header: Any = None
) -> list[Message]:
    """
    Make the messages that are sent in turn.

    Args:
        cls: their class.
        turns: ``field=value`` each, for each message.
        header: the header that choices in the message look at, if they do.

    Raises:
        InvalidMessageError: a value is not what its field takes.
    """
    made = []
    for words in turns:
        plain: dict[str, Any] = {}
        for word in words:
            path, _, text = word.partition("=")
            assign(plain, path, read_value(text))
        made.append(from_plain(cls, plain, header=header))
    return made


def turns_of(words: Sequence[str]) -> list[tuple[str, ...]]:
    """
    Write out what varies.

    Args:
        words: ``field=value`` each.

    Returns:
        The words for each request.

    Raises:
        DeclarationError: a file has no values.
        OSError: a file cannot be read.

    >>> turns_of(["device=7", "sequence={n}"])[:2]
    [('device=7', 'sequence=0'), ('device=7', 'sequence=1')]
    """
    columns = [_column(word) for word in words]
    count = max(map(len, columns), default=1)
    if any(_NUMBER.search(word) for column in columns for word in column):
        count = MOST_FRAMES
    return [
        tuple(_numbered(column[n % len(column)], n) for column in columns)
        for n in range(count)
    ]


def _column(word: str) -> list[str]:
    path, equals, text = word.partition("=")
    if not equals or not text.startswith("@"):
        return [word]
    return [f"{path}={value}" for value in _lines(text[1:])]


def _numbered(text: str, n: int) -> str:
    return _NUMBER.sub(lambda found: format(n, found[1] or ""), text)


def _lines(path: str) -> list[str]:
    with Path(path).open(encoding="utf-8") as file:
        found = list(itertools.islice(_filled(file), MOST_FRAMES))
    if not found:
        raise DeclarationError(f"{path}: expected a value on each line, found none")
    return found


def _filled(lines: Iterator[str]) -> Iterator[str]:
    return (line.rstrip("\r\n") for line in lines if line.strip())
