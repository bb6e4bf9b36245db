"""
What every framing is: a value that says how a stream is cut into frames.

A `Framing` is immutable and shared; it makes one `Framer` for each stream, and
the framer holds that stream's unfinished bytes. Framers know nothing of
meaning and never touch a socket. "Need more bytes" is `None`, never an
exception. Work is linear in the bytes fed, whatever the split, and a frame
longer than `Framing.max_size` is refused as soon as that is known.
"""

from __future__ import annotations

import abc

from protoserve.codec.frame import LengthHead
from protoserve.errors import CorruptedFrameError, FrameTooLongError
from protoserve.framing.diagnosis import SHOWN, diagnose
from protoserve.types import BytesLike

__all__ = ["DEFAULT_MAX_SIZE", "Framer", "Framing"]

DEFAULT_MAX_SIZE = 1 << 20
"""1 MiB, which is Netty's usual choice; HTTP/2 starts with 16 KiB, gRPC with 4 MiB."""


class Framing(abc.ABC):
    """
    How a byte stream is cut into frames. Subclass it to add a strategy.

    Subclasses are ``attrs.frozen`` values with a `max_size`, and implement
    `framer` and `encode`. The framer is best built on `BufferedFramer`.
    """

    max_size: int
    """The longest frame allowed, in bytes."""

    @property
    def in_frame(self) -> bool:
        """
        Whether what cuts the stream is a part of the frame itself (a length field
        in the header). Then datagrams carry it too and are cut by it.
        """
        return False

    @property
    def length_head(self) -> LengthHead | None:
        """
        How a length of fixed size cuts the stream, if that is all there is to it.

        Then generated code may cut it too (`BufferedFramer.unread` and `consume`).
        """
        return None

    @abc.abstractmethod
    def framer(self) -> Framer:
        """
        Make the decoder for one stream.
        """

    @abc.abstractmethod
    def encode(self, frame: bytes) -> bytes:
        """
        Make a frame ready for the stream.

        Raises:
            InvalidMessageError: the frame does not fit this framing (it is longer
                than `max_size`, or of another size than the fixed one). It is
                also a `ValueError`.
        """

    def split(self, datagram: bytes) -> list[bytes]:
        """
        Cut a datagram into its frames.

        Where nothing in the frame cuts it, the datagram is the frame. Where
        `in_frame` says otherwise, the datagram holds one or several whole frames
        and not a byte more.

        Raises:
            FrameTooLongError: a frame is longer than `max_size`.
            IncompleteFrameError: the datagram ends in the middle of a frame.
            CorruptedFrameError: there is something between the frames, or a
                frame's checksum is wrong.
        """
        if self.in_frame:
            return cut(self.framer(), datagram)
        return check_datagram(datagram, self.max_size)

    def pack(self, frame: bytes) -> bytes:
        """
        Make a frame ready for a datagram; several are joined by concatenation
        where `in_frame` is true.

        Raises:
            InvalidMessageError: the frame does not fit this framing.
        """
        return self.encode(frame) if self.in_frame else frame


class Framer(abc.ABC):
    """
    The frames of one stream, made from its bytes as they come.

    Feed what was read, then call `decode` until it returns `None`. Once a method
    has raised an error, the stream is over: `decode` and `end` raise the same
    error again, and what is fed is dropped.
    """

    discarded: int = 0
    """Bytes that were skipped while looking for the start of a frame."""

    corrupted: int = 0
    """Frames that were dropped because their checksum or escapes were wrong."""

    @abc.abstractmethod
    def feed(self, data: BytesLike) -> None:
        """
        Take the next bytes of the stream.
        """

    @abc.abstractmethod
    def decode(self) -> bytes | None:
        """
        Cut off the next whole frame.

        Returns:
            The frame without what delimits it (but with its length field where
            `Framing.in_frame` says so), or `None`: more bytes are needed.

        Raises:
            FrameTooLongError: the length is above `Framing.max_size` or makes no
                sense. The stream cannot be used any more.
            CorruptedFrameError: the frame is damaged and the strategy has no way
                to find the next one.
        """

    @property
    @abc.abstractmethod
    def buffered(self) -> int:
        """
        How many bytes of the next frame have arrived, once `decode` has
        returned `None`.
        """

    @abc.abstractmethod
    def end(self) -> bytes | None:
        """
        Tell the framer that the stream has ended, after `decode` has returned
        `None`.

        Returns:
            A last frame that only the end of the stream delimits, where the
            strategy knows such a thing; else `None`.

        Raises:
            IncompleteFrameError: it ended in the middle of a frame.
        """


def check_datagram(datagram: bytes, limit: int) -> list[bytes]:
    """
    Take a datagram as one frame, unless it is too long for that.
    """
    size = len(datagram)
    if size > limit:
        found = bytes(datagram[:SHOWN])
        raise FrameTooLongError(size, limit, 0, found, diagnose(found))
    return [datagram]


def cut(framer: Framer, datagram: bytes) -> list[bytes]:
    """
    Cut a datagram completely into frames, with a framer made for it alone.
    """
    frames = []
    framer.feed(datagram)
    while (frame := framer.decode()) is not None:
        frames.append(frame)
    if (frame := framer.end()) is not None:
        frames.append(frame)
    if framer.corrupted or framer.discarded:
        reason = (
            f"the datagram holds {framer.corrupted} damaged frames and "
            f"{framer.discarded} bytes that belong to no frame"
        )
        raise CorruptedFrameError(reason, 0, bytes(datagram[:SHOWN]))
    return frames
