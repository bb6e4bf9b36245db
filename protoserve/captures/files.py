"""
The packets of a capture file, pcap or pcapng, one after the other.

dpkt knows the formats; what it reads through here is watched. Each read is counted,
so that what cannot be read is told with the packet's number and its place in the
file, and bounded, as lengths in a file may say anything. A file that ends early has
the packets before its end. In a pcapng file each interface has a link type and a clock
of its own, and there may be several sections.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import attrs

from protoserve.errors import ProtoserveError

__all__ = ["CaptureError", "CaptureFile", "Packet", "is_capture"]

MAX_PACKET = 1 << 18
"""Bytes of one packet: libpcap's own limit, MAXIMUM_SNAPLEN."""

MAX_BLOCK = 1 << 24
"""Bytes of one pcapng block, as in Wireshark; some hold secrets, names or scripts."""

MAX_INTERFACES = 1 << 12
"""Interfaces of one section."""

_PCAP = (b"\xa1\xb2\xc3\xd4", b"\xa1\xb2\x3c\x4d", b"\xa1\xb2\xcd\x34")
_MAGICS = (*_PCAP, *(magic[::-1] for magic in _PCAP))
_PCAPNG = b"\n\r\r\n"
_GZIP = b"\x1f\x8b"


class CaptureError(ProtoserveError):
    """
    A capture, or the rest of one, cannot be read.
    """


@attrs.frozen
class Packet:
    """
    One packet as it was captured.
    """

    number: int
    """From 1, as Wireshark numbers them."""
    time: float
    """Seconds since the epoch."""
    linktype: int
    """What the bytes start with, by libpcap's numbers."""
    data: bytes


def is_capture(start: bytes) -> bool:
    """
    Say whether a file that starts with these four bytes is a capture.
    """
    return start in _MAGICS or start == _PCAPNG or start.startswith(_GZIP)


class CaptureFile:
    """
    A capture file that is being read.

    Args:
        file: where from; it is only read forwards. What gzip has compressed is
            unpacked.
        name: what it is called in errors.

    Raises:
        CaptureError: it is no capture, or dpkt is not installed.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        self.number = 0
        """Packets that were read."""
        self.truncated: str | None = None
        """Where and how the file ends early, once it has been read that far."""
        self._raw = file
        start = _start(file)
        if start.startswith(_GZIP):
            file = io.BufferedReader(gzip.GzipFile(fileobj=file))
            try:
                start = file.peek(4)[:4]
            except (OSError, EOFError, zlib.error) as exc:
                raise CaptureError(f"{name}: {exc}") from exc
        if start not in _MAGICS and start != _PCAPNG:
            found = start.hex(" ") or "nothing"
            raise CaptureError(
                f"{name}: expected a pcap or pcapng file, found one that starts with "
                f"{found}"
            )
        self._file = _Watched(file, self)
        try:
            self._packets = _pcapng(self) if start == _PCAPNG else _pcap(self)
        except ImportError as exc:
            raise CaptureError(
                "reading captures needs dpkt: pip install 'protoserve[captures]'"
            ) from exc

    @property
    def place(self) -> int:
        """
        How many bytes have been read, of a compressed file of what it unpacks to.
        """
        return self._file.place

    def __iter__(self) -> Iterator[Packet]:
        """
        Give the packets.

        Raises:
            CaptureError: what comes next cannot be read.
        """
        packets = self._packets
        while True:
            start = self._file.place
            try:
                packet = next(packets, None)
            except CaptureError:
                raise
            except Exception as exc:  # dpkt's own, struct's, zlib's, the disk's
                if self._file.ended:
                    self.truncated = self._at(start, "the file ends inside of it")
                    return
                reason = str(exc) or type(exc).__name__
                raise CaptureError(self._at(start, f"unreadable: {reason}")) from exc
            if packet is None:
                return
            yield packet

    def _at(self, start: int, what: str) -> str:
        return f"{self.name}: packet {self.number + 1} at byte {start}: {what}"


def _start(file: Any) -> bytes:
    """
    Look at a file's first bytes without taking them.
    """
    start: bytes = file.peek(4)[:4]
    return start


class _Watched:
    """
    The file, as dpkt sees it.
    """

    def __init__(self, file: Any, capture: CaptureFile) -> None:
        self._read = file.read
        self._capture = capture
        self.name = capture.name
        self.place = 0
        self.ended = False
        """Whether less was there than was asked for."""
        self.limit = MAX_PACKET

    def read(self, size: int) -> bytes:
        """
        Read some bytes; at the file's end fewer.
        """
        if not 0 <= size <= self.limit:
            raise CaptureError(
                self._capture._at(
                    self.place, f"it claims {size} bytes, more than {self.limit}"
                )
            )
        data: bytes = self._read(size)
        self.place += len(data)
        if len(data) < size:
            self.ended = True
        return data


class _EndedError(Exception):
    """
    The file ends inside a packet.
    """


def _pcap(capture: CaptureFile) -> Iterator[Packet]:
    from dpkt import pcap

    file = capture._file
    try:
        reader = pcap.Reader(file)
    except Exception as exc:
        raise CaptureError(f"{capture.name}: its header is cut") from exc
    # The upper bits may tell how long a frame check sequence is.
    linktype = reader.datalink() & 0xFFFF

    def packets() -> Iterator[Packet]:
        for time, data in reader:
            if file.ended:
                raise _EndedError
            capture.number += 1
            yield Packet(capture.number, float(time), linktype, data)

    return packets()


@attrs.frozen
class _Interface:
    linktype: int
    snaplen: int
    steps: int
    """Of its clock in one second."""
    offset: int
    """Seconds that are added."""


def _pcapng(capture: CaptureFile) -> Iterator[Packet]:
    from dpkt import pcapng

    formats: dict[str, dict[int, Any]] = {
        ">": {
            pcapng.PCAPNG_BT_IDB: pcapng.InterfaceDescriptionBlock,
            pcapng.PCAPNG_BT_EPB: pcapng.EnhancedPacketBlock,
            pcapng.PCAPNG_BT_PB: pcapng.PacketBlock,
        },
        "<": {
            pcapng.PCAPNG_BT_IDB: pcapng.InterfaceDescriptionBlockLE,
            pcapng.PCAPNG_BT_EPB: pcapng.EnhancedPacketBlockLE,
            pcapng.PCAPNG_BT_PB: pcapng.PacketBlockLE,
        },
    }

    def packets() -> Iterator[Packet]:
        interfaces: list[_Interface] = []
        order = ""
        while (found := _block(capture, order)) is not None:
            kind, order, block = found
            if kind == pcapng.PCAPNG_BT_SHB:
                interfaces = []
            elif kind == pcapng.PCAPNG_BT_IDB:
                if len(interfaces) == MAX_INTERFACES:
                    raise ValueError(f"more than {MAX_INTERFACES} interfaces")
                interfaces.append(_interface(formats[order][kind](block), order))
            elif kind in formats[order]:
                parsed = formats[order][kind](block)
                if parsed.iface_id >= len(interfaces):
                    raise ValueError(f"there is no interface {parsed.iface_id}")
                on = interfaces[parsed.iface_id]
                steps = parsed.ts_high << 32 | parsed.ts_low
                capture.number += 1
                yield Packet(
                    capture.number,
                    on.offset + steps / on.steps,
                    on.linktype,
                    parsed.pkt_data,
                )
            elif kind == pcapng.PCAPNG_BT_SPB:
                on = interfaces[0]
                (size,) = struct.unpack_from(f"{order}I", block, 8)
                size = min(size, on.snaplen or size, len(block) - 16)
                capture.number += 1
                yield Packet(capture.number, 0.0, on.linktype, block[12 : 12 + size])

    return packets()


def _block(capture: CaptureFile, order: str) -> tuple[int, str, bytes] | None:
    """
    Read the next block, whole.

    Returns:
        Its type, the section's byte order and its bytes; `None` at the end.
    """
    file = capture._file
    file.limit = MAX_BLOCK
    head = file.read(8)
    if not head:
        return None
    if head.startswith(_PCAPNG):  # a section, which tells its own byte order
        mark = file.read(4)
        orders = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}
        if mark not in orders:
            raise ValueError(f"no byte order is told by {mark.hex(' ')}")
        order, head = orders[mark], head + mark
    kind, size = struct.unpack_from(f"{order}II", head)
    if size % 4 or size < 12:
        raise ValueError(f"a block of {size} bytes")
    block = head + file.read(size - len(head))
    if file.ended:
        raise _EndedError
    if block[4:8] != block[-4:]:
        raise ValueError("its block ends with another length than it starts with")
    return kind, order, block


def _interface(block: Any, order: str) -> _Interface:
    """
    Read what an interface's packets have in common.
    """
    steps, offset = 10**6, 0
    for option in block.opts:
        if option.code == 9 and option.data:  # if_tsresol
            power = option.data[0]
            steps = 1 << (power & 0x7F) if power & 0x80 else 10**power
        elif option.code == 14 and len(option.data) == 8:  # if_tsoffset
            (offset,) = struct.unpack(f"{order}q", option.data)
    return _Interface(block.linktype, block.snaplen, steps, offset)
