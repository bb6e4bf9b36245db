"""
What can go wrong, sorted by what the caller does next.

::

    ProtoserveError
    ├── DeclarationError              at definition: a bad format, table or route
    ├── ProtocolError                 abstract; never raised itself
    │   ├── LocalProtocolError        we were asked to send what the protocol forbids
    │   │   └── InvalidMessageError   a field's value does not fit its format
    │   └── RemoteProtocolError       the peer sent what the protocol forbids
    │       ├── FrameTooLongError
    │       ├── CorruptedFrameError
    │       ├── IncompleteFrameError
    │       ├── UnknownMessageError
    │       ├── MalformedMessageError
    │       └── ErrorResponse         the peer answered with a declared error
    ├── SessionClosedError            (also a ConnectionError)
    └── PeerTimeoutError              (also a TimeoutError)

Facts are attributes; ``str()`` composes the sentence from them. Nothing of
protoserve is imported here.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "CorruptedFrameError",
    "DeclarationError",
    "ErrorResponse",
    "FrameTooLongError",
    "IncompleteFrameError",
    "InvalidMessageError",
    "LocalProtocolError",
    "MalformedMessageError",
    "PeerTimeoutError",
    "ProtocolError",
    "ProtoserveError",
    "RemoteProtocolError",
    "SessionClosedError",
    "UnknownMessageError",
]


class ProtoserveError(Exception):
    """
    Everything that protoserve raises on purpose.
    """


class DeclarationError(ProtoserveError, TypeError):
    """
    A message, protocol or handler is declared in a way that cannot work.

    Raised when the class, the `Protocol` or the `Service` is made, never
    while bytes flow.
    """


class ProtocolError(ProtoserveError):
    """
    The protocol was violated; one of the subclasses says by whom.
    """

    def __init__(self, *args: Any) -> None:
        if type(self) is ProtocolError:
            msg = "raise LocalProtocolError or RemoteProtocolError instead"
            raise TypeError(msg)
        super().__init__(*args)


class LocalProtocolError(ProtocolError):
    """
    We were asked to send something that the protocol forbids.
    """


class RemoteProtocolError(ProtocolError):
    """
    The peer sent something that the protocol forbids.
    """

    header: Any = None
    """The header of the frame, if that much of it could be parsed."""


def _at(path: str, offset: int | None) -> str:
    return path if offset is None else f"{path} at offset {offset}"


class InvalidMessageError(LocalProtocolError, ValueError):
    """
    A message of ours cannot be encoded: a value does not fit its format.
    """

    def __init__(self, path: str, expected: str, found: str) -> None:
        super().__init__(path, expected, found)
        self.path = path
        """The field, as in ``Reading.samples[3]``."""
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        return f"{self.path}: expected {self.expected}, found {self.found}"


class MalformedMessageError(RemoteProtocolError, ValueError):
    """
    The peer's bytes are not the message that they claim to be.
    """

    def __init__(
        self,
        path: str,
        offset: int,
        expected: str,
        found: str,
        excerpt: str = "",
        guess: str | None = None,
    ) -> None:
        super().__init__(path, offset, expected, found, excerpt, guess)
        self.path = path
        """The field, as in ``Reading.samples[3]``."""
        self.offset = offset
        """Bytes from the start of the frame, or of the parsed bytes."""
        self.expected = expected
        self.found = found
        self.excerpt = excerpt
        """A hexdump of the bytes around the offset, with a caret."""
        self.guess = guess
        """What the bytes look like instead, as in ``an HTTP request``."""

    def __str__(self) -> str:
        text = (
            f"{_at(self.path, self.offset)}: "
            f"expected {self.expected}, found {self.found}"
        )
        if self.guess:
            text += f"; these bytes look like {self.guess}"
        return f"{text}\n{self.excerpt}" if self.excerpt else text


class UnknownMessageError(RemoteProtocolError):
    """
    A frame's tag is not in the protocol's table for its direction.
    """

    def __init__(self, protocol: str, tag: Any, known: str, guess: str | None) -> None:
        super().__init__(protocol, tag, known, guess)
        self.protocol = protocol
        self.tag = tag
        """The tag that was read, as the header's field gave it."""
        self.known = known
        self.guess = guess

    what = "no message has tag"

    def __str__(self) -> str:
        tag = self.tag
        shown = f"{tag:#x}" if type(tag) is int and tag > 9 else repr(tag)
        text = f"{self.protocol}: {self.what} {shown} (known: {self.known})"
        return f"{text}; these bytes look like {self.guess}" if self.guess else text


class FrameTooLongError(RemoteProtocolError):
    """
    A frame claims, or has reached, a length that cannot be right.
    """

    def __init__(
        self,
        size: int,
        limit: int,
        offset: int,
        found: bytes,
        guess: str | None = None,
    ) -> None:
        super().__init__(size, limit, offset, found, guess)
        self.size = size
        """The length that was read, or that has been reached, in bytes."""
        self.limit = limit
        """The largest length allowed (the smallest, if `size` is below 0)."""
        self.offset = offset
        """Where in the stream the length was read, in bytes since its start."""
        self.found = found
        """The first bytes of the frame, at most 16."""
        self.guess = guess
        """What the bytes look like instead, as in ``an HTTP request``."""

    def __str__(self) -> str:
        shown = "".join(chr(b) if 32 <= b < 127 else "." for b in self.found)
        text = (
            f"frame length {self.size} read at stream offset {self.offset} "
            f"is outside 0..{self.limit}; the frame starts with "
            f"{self.found.hex(' ') or 'nothing'} |{shown}|"
        )
        return f"{text}; {self.guess}" if self.guess else text


class CorruptedFrameError(RemoteProtocolError):
    """
    A frame was delimited, but its escapes or its checksum are wrong.
    """

    def __init__(self, reason: str, offset: int, found: bytes) -> None:
        super().__init__(reason, offset, found)
        self.reason = reason
        self.offset = offset
        """Bytes since the start of the stream."""
        self.found = found
        """The first bytes of the frame, at most 16."""

    def __str__(self) -> str:
        return (
            f"corrupted frame at stream offset {self.offset}: {self.reason}; "
            f"it starts with {self.found.hex(' ') or 'nothing'}"
        )


class IncompleteFrameError(RemoteProtocolError):
    """
    The stream ended in the middle of a frame.
    """

    def __init__(self, buffered: int, found: bytes, guess: str | None = None) -> None:
        super().__init__(buffered, found, guess)
        self.buffered = buffered
        """How many bytes of the frame had arrived."""
        self.found = found
        """The first of them, at most 16."""
        self.guess = guess
        """What is likely wrong, as in ``these bytes look like an HTTP request``."""

    def __str__(self) -> str:
        text = (
            f"the stream ended {self.buffered} bytes into a frame "
            f"that starts with {self.found.hex(' ')}"
        )
        return f"{text}; {self.guess}" if self.guess else text


class ErrorResponse(RemoteProtocolError):  # noqa: N818 - the name is public
    """
    The peer answered with a message that is declared as an error.
    """

    def __init__(self, response: Any) -> None:
        super().__init__(response)
        self.response = response
        """The message that came."""
        self.frame: Any = None
        """The `Frame` that it came in."""

    def __str__(self) -> str:
        return f"the peer answered {self.response!r}"


class SessionClosedError(ProtoserveError, ConnectionError):
    """
    The session is over: nothing can be sent or received any more.
    """


class PeerTimeoutError(ProtoserveError, TimeoutError):
    """
    The peer did not answer in time.
    """
