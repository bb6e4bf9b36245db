"""
What every framer must pass, and the framings that pass it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import attrs
from construct import Int8ub, Int16ub, Int16ul, Int24ub, Int32ub, Int64ul, VarInt
from hypothesis import strategies as st

from protoserve.checksums import crc16_modbus, crc16_xmodem, crc32, sum8
from protoserve.framing import (
    AtLeast,
    Cobs,
    Datagram,
    Delimited,
    FixedSize,
    Framer,
    Framing,
    Hdlc,
    LengthField,
    LengthPrefixed,
    Netstring,
    OctetCounted,
    SelfDelimiting,
    Slip,
    SyncWord,
)

PAYLOAD = b"HELLO, WORLD"


def counted(buffer: bytearray) -> int:
    """A byte that counts what follows it."""
    return 1 + buffer[0]


def line(buffer: bytearray) -> int | None:
    """A line of text."""
    return buffer.find(b"\n") + 1 or None


def two_parts(buffer: bytearray) -> int | AtLeast:
    """Two parts, each behind a byte that counts it."""
    first = 1 + buffer[0]
    if len(buffer) <= first:
        return AtLeast(first + 1)
    return first + 1 + buffer[first]


def sync_size(head: bytes) -> int | None:
    """The whole size stands in the third byte."""
    return head[2] if len(head) > 2 else None


@attrs.frozen
class Case:
    """A framing, and what it is tried with."""

    name: str
    framing: Framing
    wire: str
    """The running payload on the stream, in hex."""
    dress: Callable[[bytes], bytes] = lambda payload: payload
    """Makes a whole frame of a payload."""
    smallest: int = 0
    """The size of the smallest payload."""
    largest: int = 60
    alphabet: bytes | None = None
    """The bytes that a payload is made of; None for all."""
    too_long: bool = True
    """Whether a frame can be refused for its length."""
    linear: bool = True

    def frames(self) -> st.SearchStrategy[list[bytes]]:
        sizes = {"min_size": self.smallest, "max_size": self.largest}
        if self.alphabet is None:
            payloads = st.binary(**sizes)
        else:
            payloads = st.lists(st.sampled_from(self.alphabet), **sizes).map(bytes)
        return st.lists(payloads.map(self.ready), max_size=8)

    def ready(self, payload: bytes) -> bytes:
        """Dress a payload as it is when it has been decoded."""
        frame = self.dress(payload)
        return self.framing.encode(frame) if self.framing.in_frame else frame


def _field(frame: bytes, at: int, size: int = 2) -> Callable[[bytes], bytes]:
    return lambda payload: frame + bytes(size) + payload


SYNC = b"\xb5\x62"
NOT_LINES = bytes(set(range(256)) - set(b"\r\n"))

CASES = [
    Case("byte prefix", LengthPrefixed(Int8ub), "0c 48454c4c4f2c20574f524c44"),
    Case("big prefix", LengthPrefixed(Int16ub), "000c 48454c4c4f2c20574f524c44"),
    Case("little prefix", LengthPrefixed(Int16ul), "0c00 48454c4c4f2c20574f524c44"),
    Case("odd prefix", LengthPrefixed(Int24ub), "00000c 48454c4c4f2c20574f524c44"),
    Case(
        "long prefix",
        LengthPrefixed(Int64ul),
        "0c00000000000000 48454c4c4f2c20574f524c44",
    ),
    Case(
        "inclusive prefix",
        LengthPrefixed(Int16ub, inclusive=True),
        "000e 48454c4c4f2c20574f524c44",
    ),
    Case(
        "adjusted prefix",
        LengthPrefixed(Int16ub, adjustment=1),
        "000b 48454c4c4f2c20574f524c44",
        smallest=1,
    ),
    Case("varint prefix", LengthPrefixed(VarInt), "0c 48454c4c4f2c20574f524c44"),
    Case(
        "inclusive varint prefix",
        LengthPrefixed(VarInt, inclusive=True),
        "0d 48454c4c4f2c20574f524c44",
        largest=300,
    ),
    Case(
        "length field",
        LengthField(Int16ub, offset=1),
        "ca 000c 48454c4c4f2c20574f524c44",
        dress=lambda payload: b"\xca\0\0" + payload,
    ),
    Case(
        "inclusive length field",
        LengthField(Int32ub, offset=1, inclusive=True),
        "ca 00000011 48454c4c4f2c20574f524c44",
        dress=lambda payload: b"\xca\0\0\0\0" + payload,
    ),
    Case(
        "adjusted length field",
        LengthField(Int16ul, adjustment=4),
        "0c00 00000000 48454c4c4f2c20574f524c44",
        dress=lambda payload: b"\0\0\0\0\0\0" + payload,
    ),
    Case(
        "varint length field",
        LengthField(VarInt, offset=1),
        "30 0c 48454c4c4f2c20574f524c44",
        dress=lambda payload: b"\x30\0" + payload,
        largest=300,
    ),
    Case(
        "inclusive varint length field",
        LengthField(VarInt, offset=1, inclusive=True),
        "30 0e 48454c4c4f2c20574f524c44",
        dress=lambda payload: b"\x30\0" + payload,
        largest=300,
    ),
    Case(
        "line",
        Delimited(b"\n"),
        "48454c4c4f2c20574f524c44 0a",
        alphabet=NOT_LINES,
    ),
    Case(
        "long delimiter",
        Delimited(b"\r\n\r\n"),
        "48454c4c4f2c20574f524c44 0d0a0d0a",
        alphabet=NOT_LINES + b"\n",
    ),
    Case(
        "several delimiters",
        Delimited((b"\r\n", b"\n", b"\0")),
        "48454c4c4f2c20574f524c44 0d0a",
        alphabet=b"\rabc",
    ),
    Case(
        "kept delimiter",
        Delimited((b"\r\n", b"\n"), keep=True),
        "48454c4c4f2c20574f524c44 0a",
        dress=lambda payload: payload + b"\n",
        alphabet=b"abc ",
    ),
    Case(
        "escaped delimiter",
        Delimited(b",", escape=b"\\"),
        "48454c4c4f 5c2c 20574f524c44 2c",
    ),
    Case(
        "escapes all over",
        Delimited((b"aa", b"\r\n"), escape=b"\\", keep=False),
        "48454c4c4f2c20574f524c44 6161",
        alphabet=b"a\r\n\\x",
    ),
    Case(
        "fixed size",
        FixedSize(12),
        "48454c4c4f2c20574f524c44",
        smallest=12,
        largest=12,
        too_long=False,
    ),
    Case("netstring", Netstring(), "31323a 48454c4c4f2c20574f524c44 2c"),
    Case(
        "octet counted", OctetCounted(), "313220 48454c4c4f2c20574f524c44", smallest=1
    ),
    Case("slip", Slip(), "c0 48454c4c4f2c20574f524c44 c0", smallest=1),
    Case(
        "slip escapes",
        Slip(),
        "c0 48454c4c4f2c20574f524c44 c0",
        smallest=1,
        alphabet=b"\xc0\xdb\xdc\xdd",
    ),
    Case("cobs", Cobs(), "0d 48454c4c4f2c20574f524c44 00", largest=600),
    Case("cobs zeros", Cobs(), "0d 48454c4c4f2c20574f524c44 00", alphabet=b"\0\1\2"),
    Case("hdlc", Hdlc(), "7e 48454c4c4f2c20574f524c44 666a 7e", smallest=1),
    Case(
        "hdlc fcs-32",
        Hdlc(crc=crc32),
        "7e 48454c4c4f2c20574f524c44 800788a2 7e",
        smallest=1,
        alphabet=b"\x7d\x7e\x5d\x5e",
    ),
    Case(
        "hdlc without fcs",
        Hdlc(crc=None),
        "7e 48454c4c4f2c20574f524c44 7e",
        smallest=1,
    ),
    Case(
        "sync word",
        SyncWord(SYNC, Int16ub, adjustment=2, checksum=crc16_xmodem),
        "b562 000c 48454c4c4f2c20574f524c44 5b68",
        dress=lambda payload: SYNC + b"\0\0" + payload + b"\0\0",
        too_long=False,
    ),
    Case(
        "sync word with all options",
        SyncWord(
            (SYNC, b"\xb5\x63"),
            Int8ub,
            offset=3,
            inclusive=True,
            checksum=crc16_modbus,
            checksum_order="little",
            checksum_start=2,
            trailer=1,
        ),
        "b562 01 13 48454c4c4f2c20574f524c44 cabe 0d",
        dress=lambda payload: SYNC + b"\1\0" + payload + b"\0\0\r",
        too_long=False,
    ),
    Case(
        "sync word and a function",
        SyncWord(SYNC, sync_size, verify=lambda frame: frame[-1] == sum8(frame[:-1])),
        "b562 10 48454c4c4f2c20574f524c44 6f",
        dress=lambda payload: summed(
            SYNC + bytes((len(payload) + 4,)) + payload,
        ),
        too_long=False,
    ),
    Case(
        "self-delimiting",
        SelfDelimiting(counted),
        "0c 48454c4c4f2c20574f524c44",
        dress=lambda payload: bytes((len(payload),)) + payload,
    ),
    Case(
        "self-delimiting line",
        SelfDelimiting(line),
        "48454c4c4f2c20574f524c44 0a",
        dress=lambda payload: payload + b"\n",
        alphabet=NOT_LINES,
        linear=False,
    ),
    Case(
        "self-delimiting parts",
        SelfDelimiting(two_parts),
        "0c 48454c4c4f2c20574f524c44 0c 48454c4c4f2c20574f524c44",
        dress=lambda payload: 2 * (bytes((len(payload),)) + payload),
    ),
]

DATAGRAMS = [
    Datagram(),
    Datagram(LengthPrefixed(Int8ub)),
    Datagram(Delimited(b"\n", accept_unterminated=True)),
]


def summed(frame: bytes) -> bytes:
    """Append the sum of the bytes."""
    return frame + bytes((sum8(frame),))


def drain(framer: Framer) -> list[bytes]:
    """Decode all that is there."""
    frames = []
    while (frame := framer.decode()) is not None:
        frames.append(frame)
    return frames


def run(framer: Framer, pieces: Iterable[bytes]) -> list[bytes]:
    """Feed the pieces one by one, decoding all after each."""
    frames = []
    for piece in pieces:
        framer.feed(piece)
        frames += drain(framer)
    return frames


def outcome(framing: Framing, pieces: Iterable[bytes]) -> tuple[Any, ...]:
    """Everything that can be seen of a stream: frames, counters, the error."""
    framer = framing.framer()
    frames = []
    error = None
    try:
        for piece in pieces:
            framer.feed(piece)
            while (frame := framer.decode()) is not None:
                frames.append(frame)
        last = framer.end()
        if last is not None:
            frames.append(last)
    except Exception as exc:  # the caller looks at it
        error = exc
    return frames, framer.discarded, framer.corrupted, error


def bytewise(data: bytes) -> list[bytes]:
    """Split into single bytes."""
    return [data[i : i + 1] for i in range(len(data))]


def pieces_of(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Split at the places given."""
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


class Work:
    """Counts the bytes that a framer copies or scans."""

    def __init__(self) -> None:
        self.done = 0

    def watch(self, framer: Framer) -> None:
        work = self

        class Counting(bytearray):
            def __iadd__(self, other):
                work.done += len(other)
                return super().__iadd__(other)

            def __getitem__(self, index):
                found = super().__getitem__(index)
                if isinstance(index, slice):
                    work.done += len(found)
                return found

            def __delitem__(self, index):
                allocated = self.__alloc__()
                super().__delitem__(index)
                # otherwise only the start has moved
                if self.__alloc__() != allocated:
                    work.done += len(self)

            def find(self, sub, start=0):
                at = super().find(sub, start)
                work.done += max(1, (at if at >= 0 else len(self)) - start)
                return at

            def count(self, sub, start, end):
                work.done += end - start
                return super().count(sub, start, end)

        framer._growable = Counting
        if isinstance(framer._data, bytearray):
            framer._data = Counting()
        search = getattr(framer, "_search", None)
        if search is not None:

            def counting_search(data, start):
                found = search(data, start)
                end = found.end() if found else len(data)
                work.done += max(1, end - start)
                return found

            framer._search = counting_search

    def feed(self, framer: Framer, data: bytes) -> None:
        before = framer._data
        framer.feed(data)
        if framer._data is not before:
            self.done += len(framer._data)
