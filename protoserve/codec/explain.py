"""
Show people what is wrong with some bytes: hexdumps, and what they look like.

The same renderer serves exceptions, logs, tests and the command line. The
guesses name the mistakes that people make most: another protocol at this port,
text where binary belongs, a number in the other byte order.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["guess", "hexdump"]

_ROW = 16
_HTTP_VERBS = (
    b"GET ",
    b"POST ",
    b"PUT ",
    b"HEAD ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"CONNECT ",
    b"TRACE ",
)
_LOOKS: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
    ("an HTTP request", lambda b: b.startswith(_HTTP_VERBS)),
    ("the HTTP/2 preface", lambda b: b.startswith(b"PRI * HTTP/2")),
    ("an HTTP response", lambda b: b.startswith(b"HTTP/")),
    ("an SSH banner", lambda b: b.startswith(b"SSH-")),
    (
        "a TLS hello",
        lambda b: (
            len(b) >= 3 and b[0] in (0x16, 0x15, 0x17) and b[1] == 3 and b[2] <= 4
        ),
    ),
    (
        "a PROXY protocol header",
        lambda b: b.startswith((b"PROXY ", b"\r\n\r\n\x00\r\nQUIT\n")),
    ),
    (
        "text",
        lambda b: (
            len(b) >= 4
            and all(32 <= c < 127 or c in b"\t\r\n" for c in b)
            and any(chr(c).isalpha() for c in b)
        ),
    ),
)


def guess(data: bytes) -> str | None:
    """
    Say what some bytes look like, if they look like a thing people send by mistake.

    Args:
        data: the first bytes of a frame or stream; 16 are plenty.

    Returns:
        A noun phrase such as ``"an HTTP request"``, or `None`.

    >>> guess(b"GET / HTTP/1.1")
    'an HTTP request'
    """
    return next((name for name, matches in _LOOKS if matches(bytes(data[:32]))), None)


def hexdump(data: bytes, offset: int, length: int = 1, *, rows: int = 3) -> str:
    """
    Draw the bytes around one place, with carets under it.

    Args:
        data: the whole frame.
        offset: the first byte to point at, counted from 0; it may be
            ``len(data)``, the place just past the end.
        length: how many bytes to point at.
        rows: how many rows of 16 bytes to show at most.

    >>> print(hexdump(b"hello world", 6, 5))
    0000  68 65 6c 6c 6f 20 77 6f  72 6c 64                 |hello world|
                            ^^^^^  ^^^^^^^^
    """
    offset = max(0, min(offset, len(data)))
    marked = offset // _ROW
    first = max(0, marked - rows + 1)
    lines = []
    for row in range(first, marked + 1):
        chunk = data[row * _ROW : (row + 1) * _ROW]
        left = bytes(chunk[:8]).hex(" ")
        right = bytes(chunk[8:]).hex(" ")
        shown = "".join(chr(b) if 32 <= b < 127 else "." for b in chunk)
        lines.append(f"{row * _ROW:04x}  {left:<23}  {right:<23}  |{shown}|")
    column = offset % _ROW
    marks = [" "] * (6 + 2 * 24)
    for i in range(column, min(_ROW, column + max(1, length))):
        at = 6 + 3 * i + (i >= 8)
        marks[at : at + 2] = "^^"
        if i > column and i != 8:
            marks[at - 1] = "^"
    lines.append("".join(marks).rstrip())
    return "\n".join(lines)
