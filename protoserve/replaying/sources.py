"""
What is replayed, piece by piece, from a journal or a capture.

A piece is what one side has sent at a time: a message of a journal, or a datagram of a
capture, or what a segment of TCP adds to its stream once that is put in order. Nothing
is decoded here, so what was malformed is sent again as it was. One pass is made over
the file, and of a capture's connections the one that has been silent for longest makes
way for a new one.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import attrs

from protoserve.captures import CaptureError, CaptureFile, is_capture
from protoserve.captures.links import Links, Segment
from protoserve.captures.streams import Gap, HalfStream
from protoserve.errors import ProtoserveError
from protoserve.journal import JournalError, read_entries
from protoserve.urls import STREAMS

__all__ = ["Piece", "Source", "SourceError"]

_MOST_CONNECTIONS = 4096
_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16


class SourceError(ProtoserveError):
    """
    A recording cannot be read.
    """


@attrs.frozen
class Piece:
    """
    Something that one side has sent.
    """

    number: int
    """Of the journal's entry, or the capture's packet."""
    time: float
    """Seconds since the epoch."""
    conversation: Hashable
    """Tells conversations apart."""
    stream: bool
    """Whether it is a part of a stream, or a datagram."""
    from_client: bool
    data: bytes
    """Empty where there is nothing but the end of the conversation."""
    ends: bool = False
    """Whether the conversation ends with it."""


class Source:
    """
    A recording.

    Args:
        path: a journal, or a capture as pcap or pcapng.
        ports: the server's ports in a capture.

    Raises:
        SourceError: it is neither.
        OSError: it cannot be read.
    """

    def __init__(
        self, path: str | os.PathLike[str], ports: Collection[int] = ()
    ) -> None:
        self.name = os.fspath(path)
        self.ports = frozenset(ports)
        self.left_out = 0
        """Packets of a capture that are not replayed."""
        self.lacking = 0
        """Bytes of streams that the capture does not have."""
        self._file: BinaryIO = Path(path).open("rb")  # noqa: SIM115 - see close
        self.size = os.fstat(self._file.fileno()).st_size
        try:
            self._capture = None
            start: bytes = cast("Any", self._file).peek(4)[:4]  # it is buffered
            if is_capture(start):
                self._capture = CaptureFile(self._file, self.name)
        except CaptureError as error:
            self.close()
            raise SourceError(str(error)) from error
        except BaseException:
            self.close()
            raise

    @property
    def is_capture(self) -> bool:
        """
        Whether it is a capture; otherwise it is a journal.
        """
        return self._capture is not None

    @property
    def done(self) -> float:
        """
        Which part of the file was read, from 0 to 1.
        """
        try:
            return min(1.0, self._file.tell() / self.size) if self.size else 1.0
        except ValueError:
            return 1.0

    def close(self) -> None:
        """
        Close the file.
        """
        self._file.close()

    def __iter__(self) -> Iterator[Piece]:
        """
        Give the pieces, in the order of the file.

        Raises:
            SourceError: what comes next cannot be read.
        """
        try:
            if self._capture is None:
                yield from self._of_journal()
            else:
                yield from self._of_capture(self._capture)
        except (CaptureError, JournalError) as error:
            raise SourceError(str(error)) from error

    def _of_journal(self) -> Iterator[Piece]:
        for entry in read_entries(self._file, self.name):
            yield Piece(
                entry.n,
                entry.time,
                entry.session,
                entry.transport in STREAMS,
                entry.from_client,
                entry.raw,
            )

    def _of_capture(self, capture: CaptureFile) -> Iterator[Piece]:
        links, streams = Links(), _Streams(self)
        for packet in capture:
            segment = links.segment(packet)
            if segment is None:
                self.left_out += 1
            elif segment.target_port in self.ports or segment.source_port in self.ports:
                if segment.transport == "tcp":
                    yield from streams.take(segment)
                elif segment.missing:
                    self.left_out += 1
                else:
                    yield _datagram(segment, self.ports)
            else:
                self.left_out += 1
        yield from streams.finish()


def _ends(segment: Segment, ports: Collection[int]) -> tuple[Hashable, bool]:
    """
    Tell the conversation of a segment, and whether the client has sent it.
    """
    source = segment.source, segment.source_port
    target = segment.target, segment.target_port
    to_server = segment.target_port in ports
    if to_server and segment.source_port in ports:
        opens = segment.flags & (_SYN | _ACK)
        to_server = source < target if not opens & _SYN else opens == _SYN
    client, server = (source, target) if to_server else (target, source)
    return (segment.transport, client, server), to_server


def _datagram(segment: Segment, ports: Collection[int]) -> Piece:
    conversation, to_server = _ends(segment, ports)
    packet = segment.packet
    return Piece(
        packet.number, packet.time, conversation, False, to_server, segment.payload
    )


@attrs.define
class _Connection:
    """
    Both directions of a connection: the client's, and the server's.
    """

    serial: int
    """Tells connections of the same ports apart."""
    last: Segment
    halves: tuple[HalfStream, HalfStream] = attrs.field(
        factory=lambda: (HalfStream(), HalfStream())
    )


class _Streams:
    """
    The connections of a capture.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: OrderedDict[Hashable, _Connection] = OrderedDict()
        self._made = 0

    def take(self, segment: Segment) -> Iterator[Piece]:
        """
        Take a segment; give what it adds.
        """
        key, to_server = _ends(segment, self._source.ports)
        opens = segment.flags & (_SYN | _ACK) == _SYN
        connection = self._known.get(key)
        if connection is not None and opens and connection.halves[0].started:
            yield from self._end(key)  # the ports are used again
            connection = None
        if connection is None:
            if not segment.payload and not opens:
                return  # what is left of one that has ended
            self._made += 1
            connection = self._known[key] = _Connection(self._made, segment)
            if len(self._known) > _MOST_CONNECTIONS:
                yield from self._end(next(iter(self._known)))
        self._known.move_to_end(key)
        connection.last = segment
        half = connection.halves[not to_server]
        sequence = segment.sequence
        if segment.flags & _SYN:
            sequence += 1
            half.start(sequence)
        if not segment.flags & _RST or segment.payload:
            found = half.take(
                sequence % (1 << 32),
                segment.payload,
                segment.missing,
                segment.packet.time,
                last=bool(segment.flags & _FIN),
            )
            for data in found:
                yield from self._piece(connection, segment, to_server, data)
        if segment.flags & _RST or all(half.ended for half in connection.halves):
            yield from self._end(key)

    def _piece(
        self,
        connection: _Connection,
        segment: Segment,
        to_server: bool,
        data: bytes | Gap,
    ) -> Iterator[Piece]:
        if isinstance(data, Gap):
            self._source.lacking += data.size
            return
        packet = segment.packet
        yield Piece(
            packet.number, packet.time, connection.serial, True, to_server, data
        )

    def _end(self, key: Hashable) -> Iterator[Piece]:
        connection = self._known.pop(key)
        segment = connection.last
        for to_server, half in zip((True, False), connection.halves, strict=True):
            for data in half.give_up():
                yield from self._piece(connection, segment, to_server, data)
        packet = segment.packet
        yield Piece(
            packet.number, packet.time, connection.serial, True, True, b"", True
        )

    def finish(self) -> Iterator[Piece]:
        """
        Give what is left when there are no more packets.
        """
        while self._known:
            yield from self._end(next(iter(self._known)))
