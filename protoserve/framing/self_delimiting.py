"""
Frames whose size only a function can tell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import attrs

from protoserve.errors import RemoteProtocolError
from protoserve.framing.base import DEFAULT_MAX_SIZE, Framer, Framing
from protoserve.framing.buffer import BufferedFramer
from protoserve.framing.checks import callable_, check_size, positive, unfit
from protoserve.types import BytesLike

__all__ = ["AtLeast", "SelfDelimiting", "SizeFunction"]


@attrs.frozen
class AtLeast:
    """
    A hint from a size function: the frame has at least so many bytes.
    """

    size: int = attrs.field(validator=positive)
    """Bytes, counted from the frame's first."""


SizeFunction: TypeAlias = Callable[[bytearray], int | AtLeast | None]
"""
Gets what has arrived from the frame's first byte on, the bytes after its end
included. Gives the frame's whole size; None or `AtLeast` for more bytes.
"""


@attrs.frozen
class SelfDelimiting(Framing):
    r"""
    A function of yours says how long the frame is; the frame is all of it.

    ::

        def size(buffer):
            return 1 + buffer[0]            # a byte that counts what follows

        SelfDelimiting(size)

        frame, and stream (13 bytes)
        +------+----------------+
        | 0x0c | "HELLO, WORLD" |
        +------+----------------+

    The function gets a `bytearray` with one byte or more. It must depend on
    nothing else, must neither keep nor change the bytes, and must not change its
    answer when more come. It may give a size that has not arrived yet: it is not
    called again for that frame. As long as it gives `None`, it is called once
    whenever bytes arrive, so a function that searches its bytes from the start
    should give ``AtLeast(n)`` where it knows more: it is called next when there
    are `n` bytes. With a function that looks only at a header of bounded size,
    or always says how much it needs, the work is linear in the bytes fed.

    A `ProtoserveError` for what the peer did may be raised in the function, any
    other exception becomes a `CorruptedFrameError`.

    >>> framer = SelfDelimiting(lambda buffer: 1 + buffer[0]).framer()
    >>> framer.feed(b"\x0cHELLO, WORLD\x0cHELLO")
    >>> framer.decode(), framer.decode()
    (b'\x0cHELLO, WORLD', None)
    """

    function: SizeFunction = attrs.field(validator=callable_)
    """Gives the size of the frame that its argument starts with."""
    max_size: int = attrs.field(
        default=DEFAULT_MAX_SIZE, kw_only=True, validator=positive
    )
    """The longest frame allowed, in bytes."""

    @property
    def in_frame(self) -> bool:
        """
        True: all of it is a part of the frame.
        """
        return True

    def framer(self) -> Framer:
        """
        Make the decoder for one stream.
        """
        return _SelfDelimitingFramer(self.max_size, self.function)

    def encode(self, frame: bytes) -> bytes:
        """
        Check that the function finds the frame's end where it is.
        """
        check_size(len(frame), self.max_size)
        if not frame:
            unfit("at least 1 byte", "0 bytes")
        try:
            size = self.function(bytearray(frame))
        except Exception as exc:
            unfit("a frame whose size can be told", repr(exc))
        if size != len(frame):
            unfit(f"a frame of the {len(frame)} bytes given", f"a size of {size}")
        return frame


class _SelfDelimitingFramer(BufferedFramer):
    """
    The buffer always is a `bytearray` that starts with the frame: the function can
    look at it without a copy. Deleting a `bytearray`'s front moves no bytes until
    half of it is gone.
    """

    _data: bytearray

    def __init__(self, max_size: int, function: SizeFunction) -> None:
        super().__init__(max_size)
        self._function = function
        self._data = self._growable()
        self._need = 1
        self._size: int | None = None

    def feed(self, data: BytesLike) -> None:
        if self._error is None:
            self._data += data

    def decode(self) -> bytes | None:
        data = self._data
        have = len(data)
        if have < self._need:
            return self._wait()
        if self._size is None:
            self._size = self._ask(have)
            if self._size is None:
                return None
        size = self._need = self._size
        if have < size:
            return None
        frame = bytes(data[:size])
        del data[:size]
        self._passed += size
        self._need = 1
        self._size = None
        return frame

    def _ask(self, have: int) -> int | None:
        try:
            size = self._function(self._data)
        except RemoteProtocolError as exc:
            self._fail(exc)
        except Exception as exc:
            self._corrupt(f"its size cannot be told: {exc!r}", cause=exc)
        if size is None or isinstance(size, AtLeast):
            reached = have if size is None else max(have, size.size)
            if reached > self.max_size:
                self._too_long(reached, self.max_size)
            self._need = max(have + 1, reached)
            return None
        if not isinstance(size, int):
            self._corrupt(f"its size cannot be told: the function gave {size!r}")
        if size <= 0:
            note = f"the function gave {size} and 1 is the smallest possible"
            self._too_long(size - 1, self.max_size, note=note)
        if size > self.max_size:
            self._too_long(size, self.max_size)
        return size
