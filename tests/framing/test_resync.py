"""
SLIP, COBS, HDLC and sync words on lines that lose and garble bytes.
"""

from __future__ import annotations

import random

import pytest
from construct import Int8ub, Int16ub, Int32ub, VarInt
from hypothesis import given
from hypothesis import strategies as st

from protoserve.checksums import (
    crc16_mcrf4xx,
    crc16_x25,
    crc16_xmodem,
    fletcher16_mod256,
    sum8,
)
from protoserve.errors import (
    DeclarationError,
    FrameTooLongError,
    IncompleteFrameError,
    InvalidMessageError,
)
from protoserve.framing import Cobs, Hdlc, Slip, SyncWord
from tests.framing.trial import PAYLOAD, SYNC, Work, bytewise, drain, outcome, run

SYNCED = SyncWord(SYNC, Int16ub, adjustment=2, checksum=crc16_xmodem, max_size=4096)


def synced(payload: bytes) -> bytes:
    return SYNCED.encode(SYNC + b"\0\0" + payload + b"\0\0")


def tell(framing, stream):
    """Frames, discarded, corrupted; the same whole and byte by byte."""
    whole = outcome(framing, [stream])
    assert whole == outcome(framing, bytewise(stream))
    assert whole[3] is None
    return whole[:3]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        ("c0c0c0 6162 c0c0 63 c0", ([b"ab", b"c"], 0, 0)),
        ("6162 c0 63 c0", ([b"ab", b"c"], 0, 0)),
        ("c0 61 db 62 c0 63 c0", ([b"c"], 0, 1)),
        ("c0 61 db c0 63 c0", ([b"c"], 0, 1)),
        ("c0 db db dc c0 63 c0", ([b"c"], 0, 1)),
        ("c0 dbdd dc dbdc dd c0", ([b"\xdb\xdc\xc0\xdd"], 0, 0)),
    ],
)
def test_slip(stream, expected):
    """Noise before and between frames is idle, a bad escape costs one frame."""
    assert expected == tell(Slip(), bytes.fromhex(stream))


def test_slip_encodes():
    """END and ESC are replaced."""
    wire = Slip().encode(b"\xc0\xdb\xdc\xdd")
    assert wire.hex(" ") == "c0 db dc db dd dc dd c0"
    with pytest.raises(InvalidMessageError):
        Slip().encode(b"")


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        ("00 00 01 00 00 0101 00", ([b"", b"\0"], 0, 0)),
        ("05 6162 00 0263 00", ([b"c"], 0, 1)),
        ("0361 00 0263 00", ([b"c"], 0, 1)),
        ("ff" + "61" * 254 + "00", ([b"a" * 254], 0, 0)),
        ("ff" + "61" * 254 + "01 00", ([b"a" * 254], 0, 0)),
        ("ff" + "61" * 254 + "0101 00", ([b"a" * 254 + b"\0"], 0, 0)),
    ],
)
def test_cobs(stream, expected):
    """A block past the end costs one frame; zeros in a row are idle."""
    assert expected == tell(Cobs(), bytes.fromhex(stream))


@pytest.mark.parametrize(
    ("frame", "wire"),
    [
        (b"", "01 00"),
        (b"\0", "0101 00"),
        (b"\0\0", "010101 00"),
        (b"\x11\0", "0211 01 00"),
        (b"\x11\x22\0\x33", "031122 0233 00"),
        (b"a" * 253, "fe" + "61" * 253 + "00"),
        (b"a" * 254, "ff" + "61" * 254 + "00"),
        (b"a" * 255, "ff" + "61" * 254 + "0261 00"),
        (b"a" * 254 + b"\0", "ff" + "61" * 254 + "0101 00"),
        (b"\0" + b"a" * 254, "01 ff" + "61" * 254 + "00"),
        (b"a" * 508, 2 * ("ff" + "61" * 254) + "00"),
    ],
)
def test_cobs_encodes(frame, wire):
    """Blocks of 254 bytes need no zero, at the end not even an empty block."""
    assert bytes.fromhex(wire) == Cobs().encode(frame)
    assert [frame] == run(Cobs().framer(), [bytes.fromhex(wire)])


@given(size=st.integers(0, 800), zeros=st.sets(st.integers(0, 800)))
def test_cobs_overhead(size, zeros):
    """At most one byte in 254 is added, and no zero is left inside."""
    frame = bytes(0 if i in zeros else 1 for i in range(size))
    wire = Cobs().encode(frame)
    assert wire.index(b"\0") == len(wire) - 1
    assert len(wire) <= len(frame) + len(frame) // 254 + 2
    assert [frame] == run(Cobs(max_size=max(1, size)).framer(), [wire])


GOOD = Hdlc().encode(b"a}~b")


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (GOOD, ([b"a}~b"], 0, 0)),
        (GOOD[:-1] + GOOD, ([b"a}~b"] * 2, 0, 0)),
        (b"noise" + GOOD, ([b"a}~b"], 5, 0)),
        (b"\x7e\x7e" + GOOD + b"\x7e" + GOOD, ([b"a}~b"] * 2, 0, 0)),
        (GOOD + b"noise" + GOOD, ([b"a}~b"] * 2, 0, 1)),
        (GOOD.replace(b"a", b"A") + GOOD, ([b"a}~b"], 0, 1)),
        (b"\x7eabcdef\x7d" + GOOD, ([b"a}~b"], 7, 0)),
        (b"\x7eab" + GOOD, ([b"a}~b"], 2, 0)),
        (b"\x7e\x7d\x5ea" + GOOD, ([b"a}~b"], 3, 0)),
    ],
)
def test_hdlc(stream, expected):
    """Noise, aborts and short pieces are discarded, bad checksums corrupted."""
    assert expected == tell(Hdlc(), stream)


def test_hdlc_fcs():
    """RFC 1662's residue holds, and the checksum may be of one's own."""
    wire = Hdlc().encode(PAYLOAD)
    assert crc16_x25(wire[1:-1]) ^ 0xFFFF == 0xF0B8
    own = Hdlc(crc=lambda data: sum(data) & 0xFF, crc_size=1)
    assert own.encode(PAYLOAD)[-2] == sum8(PAYLOAD)
    assert run(own.framer(), [own.encode(PAYLOAD)]) == [PAYLOAD]
    with pytest.raises(InvalidMessageError):
        Hdlc(crc=sum, crc_size=1).encode(PAYLOAD)
    with pytest.raises(InvalidMessageError):
        Hdlc().encode(b"")


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("crc", {"crc": 1}),
        ("crc_size", {"crc": sum}),
        ("crc_size", {"crc": None, "crc_size": 2}),
        ("crc_size", {"crc": sum, "crc_size": -1}),
        ("max_size", {"max_size": 0}),
    ],
)
def test_hdlc_declarations(field, options):
    """What could not work is refused by name."""
    with pytest.raises(DeclarationError, match=rf"Hdlc\.{field}: expected"):
        Hdlc(**options)


@pytest.mark.parametrize(
    ("framing", "stream"),
    [
        (Slip(max_size=20), b"\xdb" * 60),
        (Slip(max_size=20), b"\xdb" * 60 + b"\xc0"),
        (Hdlc(max_size=20), b"\x7e" + b"\x7d" * 60),
        (Hdlc(max_size=20), b"\x7e" + b"\x7d" * 60 + b"\x7e"),
        (Cobs(max_size=20), b"\x01" * 60),
        (Slip(max_size=20), b"GET /index.html HTTP/1.1"),
    ],
)
def test_what_never_ends_is_refused(framing, stream):
    """Bad stuffing cannot fill the memory."""
    for pieces in ([stream], bytewise(stream)):
        with pytest.raises(FrameTooLongError):
            run(framing.framer(), pieces)


def test_stuffing_does_not_count():
    """The maximum is that of the frame, to the byte."""
    wire = Cobs().encode(bytes(301))
    assert run(Cobs(max_size=301).framer(), [wire]) == [bytes(301)]
    for pieces in ([wire], bytewise(wire)):
        with pytest.raises(FrameTooLongError):
            run(Cobs(max_size=300).framer(), pieces)
    for framing in (Slip(max_size=9), Hdlc(max_size=9)):
        for byte in b"\xc0\xdb\x7d\x7e":
            wire = framing.encode(bytes((byte,)) * 9)
            assert run(framing.framer(), bytewise(wire)) == [bytes((byte,)) * 9]


def test_slip_guesses():
    """What is too long for SLIP is looked at."""
    framer = Slip(max_size=20).framer()
    framer.feed(b"GET /index.html HTTP/1.1")
    with pytest.raises(FrameTooLongError, match="look like an HTTP request"):
        framer.decode()


A, B = synced(b"alpha"), synced(b"beta")
BAD = A[:-1] + bytes((A[-1] ^ 1,))
INNER = synced(b"<" + SYNC + b"\0\1x" + B + b">")


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (A + B, ([A, B], 0, 0)),
        (b"noise" + A + b"more" + B, ([A, B], 9, 0)),
        (b"\xb5" + A + b"\xb5\xb5" + B, ([A, B], 3, 0)),
        (BAD + B, ([B], len(A), 1)),
        (BAD[:-1] + B, ([B], len(A) - 1, 1)),
        (SYNC + b"\xff\xff" + A, ([A], 4, 1)),
        (SYNC + A + B, ([A, B], 2, 1)),
        (INNER, ([INNER], 0, 0)),
        (INNER[:-1] + b"!" + A, ([B, A], len(INNER) - len(B), 2)),
        (SYNC + b"\0\x30" + A + B + bytes(40), ([A, B], 44, 1)),
    ],
)
def test_sync_word(stream, expected):
    """Real frames are found in noise, behind false marks, and inside false frames."""
    whole = outcome(SYNCED, [stream])
    assert expected == whole[:3]
    assert expected == outcome(SYNCED, bytewise(stream))[:3]


def test_sync_word_split_across_reads():
    """Half a sync word is kept, and dropped when the other half is missing."""
    framer = SYNCED.framer()
    assert run(framer, [b"xx\xb5"]) == []
    assert (framer.buffered, framer.discarded) == (1, 2)
    assert run(framer, [A[1:]]) == [A]
    assert run(framer, [b"\xb5", b"x"]) == []
    assert (framer.buffered, framer.discarded) == (0, 4)
    assert framer.end() is None
    assert run(framer, [b"\xb5"]) == []
    with pytest.raises(IncompleteFrameError):
        framer.end()


@given(st.lists(st.sampled_from([A, B, BAD, INNER, SYNC, b"\xb5", b"x", b"\0\5"])))
def test_sync_word_in_any_mix(parts):
    """Bytes are decoded, discarded or waiting; the split changes nothing."""
    stream = b"".join(parts)
    framer = SYNCED.framer()
    frames = run(framer, [stream])
    counted = sum(map(len, frames)) + framer.discarded + framer.buffered
    assert len(stream) == counted
    again = SYNCED.framer()
    assert frames == run(again, bytewise(stream))
    assert (framer.discarded, framer.corrupted) == (again.discarded, again.corrupted)


def test_sync_word_in_vain_is_linear():
    """A stream of false frames costs no more than a multiple of its bytes."""
    checked = 0

    def checksum(data: bytes) -> int:
        nonlocal checked
        checked += len(data)
        return 0xFFFF

    framing = SyncWord(SYNC, Int16ub, checksum=checksum, checksum_size=2, max_size=4100)
    stream = (SYNC + b"\x0f\xff") * 25_000
    results = []
    for step in (len(stream), 777):
        checked = 0
        framer = framing.framer()
        frames = run(framer, [stream[i : i + step] for i in range(0, 100_000, step)])
        results.append((frames, framer.discarded, framer.corrupted))
        assert checked < 20 * len(stream) + 20 * 4100
    assert results[0] == results[1]
    assert results[0][2] > 100


def test_searching_is_linear():
    """Noise with many first bytes of the sync word is scanned once."""
    framer = SYNCED.framer()
    work = Work()
    work.watch(framer)
    for _ in range(3000):
        work.feed(framer, b"\xb5x\xb5")
        assert drain(framer) == []
    assert work.done < 20 * 9000


UBX = SyncWord(
    SYNC,
    Int16ub,
    offset=4,
    adjustment=2,
    checksum=fletcher16_mod256,
    checksum_order="little",
    checksum_start=2,
)


def test_checksum_over_a_span():
    """The checksum covers what is declared, in the byte order declared."""
    wire = UBX.encode(SYNC + b"\x01\x07\0\0" + PAYLOAD + b"\0\0")
    assert wire[4:6] == b"\0\x0c"
    low = high = 0
    for byte in wire[2:-2]:
        low = (low + byte) % 256
        high = (high + low) % 256
    assert bytes((low, high)) == wire[-2:]
    assert run(UBX.framer(), [b"\xb5" + wire]) == [wire]


EXTRA = {0: 50, 1: 124}


def mavlink_size(head: bytes) -> int | None:
    """MAVLink 1 and 2: another header each, and a signature in some frames."""
    if len(head) < 3:
        return None
    if head[0] == 0xFE:
        return head[1] + 8
    return head[1] + 12 + 13 * (head[2] & 1)


def mavlink_check(frame: bytes) -> bool:
    """The checksum leaves the mark out and ends with a byte of the message's."""
    old = frame[0] == 0xFE
    end = frame[1] + (6 if old else 10)
    kind = frame[5] if old else int.from_bytes(frame[7:10], "little")
    crc = crc16_mcrf4xx(frame[1:end] + bytes((EXTRA[kind],)))
    return crc == int.from_bytes(frame[end : end + 2], "little")


def test_sync_words_with_different_layouts():
    """Functions for size and check cover what no number describes."""
    framing = SyncWord((b"\xfe", b"\xfd"), mavlink_size, verify=mavlink_check)
    one = b"\xfe\x02\x00\x01\x01\x01ab"
    one += crc16_mcrf4xx(one[1:] + b"\x7c").to_bytes(2, "little")
    two = b"\xfd\x02\x01\x00\x07\x01\x01\x00\x00\x00ab"
    two += crc16_mcrf4xx(two[1:] + b"\x32").to_bytes(2, "little") + bytes(13)
    unknown = b"\xfe\x00\x00\x01\x01\x63\xaa\xbb"
    stream = b"\xfe\xfd" + one + two + unknown + one + bytes(300)
    for pieces in ([stream], bytewise(stream)):
        framer = framing.framer()
        assert run(framer, pieces) == [one, two, one]
        assert framer.discarded == 2 + len(unknown) + 300
    assert framing.encode(two) is two
    assert framing.split(two + one) == [two, one]


@pytest.mark.parametrize("answer", [None, 0, -1, 2**40, "3", 1.5])
def test_functions_that_make_no_sense(answer):
    """A nonsensical size, or none within 256 bytes, means a false mark."""
    framing = SyncWord(b"\xfe", lambda head: answer, max_size=1000)
    framer = framing.framer()
    assert run(framer, [b"\xfe" + bytes(300)]) == []
    assert (framer.corrupted, framer.buffered) == (1, 0)


def test_length_may_be_a_varint():
    """Lengths of variable size work; one without an end is noise."""
    framing = SyncWord(SYNC, VarInt, max_size=1000)
    wire = framing.encode(SYNC + b"\0" + bytes(200))
    assert wire[:4] == SYNC + b"\xc8\x01"
    framer = framing.framer()
    assert run(framer, [SYNC + b"\x80" * 12 + wire]) == [wire]
    assert (framer.discarded, framer.corrupted) == (14, 1)


@pytest.mark.parametrize(
    ("framing", "frame"),
    [
        (SYNCED, b"\xb5\x63\0\0abcd"),
        (SYNCED, SYNC + b"\0"),
        (SyncWord(SYNC, Int8ub, checksum=sum8, checksum_start=4), SYNC + b"\0\0"),
        (SyncWord(SYNC, Int8ub, checksum=sum, checksum_size=1), SYNC + b"\0aaaaa"),
        (SyncWord(SYNC, Int8ub, max_size=5), SYNC + b"\0aaaaa"),
    ],
)
def test_sync_word_frames_that_do_not_fit(framing, frame):
    """A frame that would not be found is not sent."""
    with pytest.raises(InvalidMessageError):
        framing.encode(frame)


def test_frames_too_short_for_their_checksum():
    """Such a frame is a false one."""
    framing = SyncWord(SYNC, Int8ub, checksum=crc16_xmodem, checksum_start=3)
    framer = framing.framer()
    assert run(framer, [SYNC + b"\x01a"]) == []
    assert (framer.corrupted, framer.discarded) == (1, 4)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("sync", {"sync": ()}),
        ("sync", {"sync": b""}),
        ("sync", {"sync": (b"a", b"bc")}),
        ("sync", {"sync": (b"a", b"a")}),
        ("sync", {"sync": ("a",)}),
        ("sync", {"sync": 5}),
        ("length", {"length": 5}),
        ("offset", {"offset": -1}),
        ("checksum", {"checksum": 5}),
        ("checksum_size", {"checksum": sum}),
        ("checksum_order", {"checksum_order": "middle"}),
        ("checksum_start", {"checksum_start": -1}),
        ("trailer", {"trailer": None}),
        ("verify", {"verify": 5}),
        ("verify", {"verify": bool, "checksum": sum8}),
        ("max_size", {"max_size": 0}),
    ],
)
def test_sync_word_declarations(field, options):
    """What could not work is refused by name."""
    options = {"sync": SYNC, "length": Int32ub, **options}
    with pytest.raises(DeclarationError, match=rf"SyncWord\.{field}: expected"):
        SyncWord(options.pop("sync"), options.pop("length"), **options)


def test_a_noisy_line():
    """Of many frames on a line that flips and drops bytes, the others come through."""
    chance = random.Random(7)
    sent = [synced(bytes((i,)) * 20) for i in range(200)]
    stream, hurt = bytearray(), set()
    for i, wire in enumerate(sent):
        if chance.random() < 0.3:
            hurt.add(i)
            at = chance.randrange(len(wire))
            wire = wire[:at] + chance.randbytes(chance.randrange(3)) + wire[at + 1 :]
            if wire == sent[i]:
                hurt.discard(i)
        stream += wire
    frames = run(SYNCED.framer(), [bytes(stream) + bytes(70_000)])
    assert set(frames) >= {wire for i, wire in enumerate(sent) if i not in hurt}
