"""
DNS messages made to hurt: each is parsed or refused, at once.
"""

import contextlib
import random
import sys
import tomllib
from pathlib import Path

import pytest

from protocols import dns
from protocols.dns.messages import MAX_ELEMENTS
from protoserve import Direction, MalformedMessageError, ProtoserveError

VECTORS = Path(__file__).parents[1] / "vectors/dns/messages.toml"
MESSAGES = [
    bytes.fromhex(vector["hex"])
    for vector in tomllib.loads(VECTORS.read_text())["message"]
]
MOST_LINES = 1_000_000
"""Lines of code that may be run for a message: some 50 ms, without what counts them."""

BEFORE = bytes.fromhex("00 00 80 00")
LONG_NAME = b"\1a" * 127 + b"\0"


def lines_of(data):
    """
    Parse something; give how many lines of code are run for that.
    """
    way = Direction.RESPONSE if data[2] & 0x80 else Direction.REQUEST
    with contextlib.suppress(MalformedMessageError):
        dns.dns.parse(data, way)  # what is done once is done
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with contextlib.suppress(MalformedMessageError):
            dns.dns.parse(data, way)
    finally:
        sys.settrace(before)
    return count


def message(answers, body, questions=0):
    counts = b"".join(n.to_bytes(2, "big") for n in (questions, answers, 0, 0))
    return BEFORE + counts + body


def record(kind, data, name=b"\0"):
    return (
        name
        + kind.to_bytes(2, "big")
        + bytes.fromhex("0001 00000000")
        + len(data).to_bytes(2, "big")
        + data
    )


def filled(piece, size=65_500):
    return piece * (size // len(piece))


WINDOWS = b"".join(bytes((i, 32)) + b"\xff" * 32 for i in range(256))
CHAIN = b"".join((0xC00C | 2 * i).to_bytes(2, "big") for i in range(8000))
HOSTILE = {
    "every count at its most": BEFORE + b"\xff" * 8,
    "questions for the root": message(0, filled(b"\0\0\1\0\1"), 13_000),
    "records without data": message(5000, filled(record(255, b""))),
    "as many records as there may be": message(
        MAX_ELEMENTS, record(dns.RRType.TSIG, bytes(17)) * MAX_ELEMENTS
    ),
    "as many, and one octet more": message(
        MAX_ELEMENTS, record(dns.RRType.A, bytes(4)) * MAX_ELEMENTS + b"\0"
    ),
    "as many questions as there may be": message(
        0, (LONG_NAME + b"\0\1\0\1") * 250, 250
    ),
    "long names behind pointers": message(
        MAX_ELEMENTS - 1,
        LONG_NAME
        + b"\0\1\0\1"
        + record(255, b"", name=b"\xc0\x0c") * (MAX_ELEMENTS - 1),
        1,
    ),
    "octets that need escapes": message(0, filled(b"\x3f" + bytes(63), 65_000), 1),
    "names that need escapes": message(
        0, filled((b"\x3f" + bytes(63)) * 3 + b"\0\0\1\0\1", 65_000), 300
    ),
    "one long chain of pointers": message(
        1, record(65_280, b"\0" + CHAIN) + b"\xff\xff\0\1\0\1", 0
    ),
    "strings of nothing": message(1, record(dns.RRType.TXT, bytes(65_000))),
    "options of nothing": message(1, record(dns.RRType.OPT, bytes(65_000))),
    "parameters of nothing": message(
        1, record(dns.RRType.SVCB, b"\0\1\0" + bytes(65_000))
    ),
    "bitmaps full of types": message(7, record(dns.RRType.NSEC, b"\0" + WINDOWS) * 7),
    "the most types there may be": message(
        1, record(dns.RRType.NSEC, b"\0" + WINDOWS[: 34 * 64])
    ),
    "pointers to themselves": message(0, filled(b"\xc0\x0c\0\1\0\1"), 10_000),
    "pointers forwards": message(0, filled(b"\xfb\x03\1"), 0xFFEF),
    "nothing but ones": BEFORE + b"\xff" * 65_000,
    "nothing but zeros": bytes(65_535),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_work(data):
    """
    No message makes much work.
    """
    assert lines_of(data) < MOST_LINES


def test_largest_message_is_read():
    """
    As much as there may be in a message is read, not refused.
    """
    data = HOSTILE["as many records as there may be"]

    assert len(dns.dns.parse(data, Direction.RESPONSE).message.answers) == MAX_ELEMENTS


def mutated(generator, data):
    """
    Change some octets, cut, repeat or put in some.
    """
    changed = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 4, 8))):
        place = generator.randrange(len(changed) + 1)
        match generator.randrange(6):
            case 0 if place < len(changed):
                changed[place] ^= 1 << generator.randrange(8)
            case 1 if place < len(changed):
                changed[place] = generator.choice((0, 1, 0x3F, 0x40, 0xC0, 0xFF))
            case 2:
                del changed[place : place + generator.randrange(1, 9)]
            case 3:
                changed[place:place] = generator.randbytes(generator.randrange(1, 9))
            case 4:
                end = place + generator.randrange(1, 30)
                changed[place:place] = changed[place:end]
            case 5 if place + 1 < len(changed):
                changed[place : place + 2] = b"\xc0" + bytes((generator.randrange(60),))
    return bytes(changed)


@pytest.mark.parametrize("seed", range(8))
def test_mutations(seed):
    """
    Whatever is done to a message, it is parsed or refused; what is parsed comes back.
    """
    generator = random.Random(seed)
    parsed = 0
    for _ in range(1000):
        data = mutated(generator, generator.choice(MESSAGES))
        way = generator.choice(list(Direction))
        try:
            found = dns.dns.parse(data, way)
        except ProtoserveError:
            continue
        parsed += 1
        again = dns.dns.build(found.message, way, header=found.header)
        reparsed = dns.dns.parse(again, way)
        assert (reparsed.header, reparsed.message) == (found.header, found.message)

    assert parsed > 50


@pytest.mark.parametrize("seed", range(2))
def test_noise(seed):
    """
    Random octets are parsed or refused.
    """
    generator = random.Random(seed)
    for _ in range(1000):
        data = generator.randbytes(generator.randrange(200))
        with pytest.raises(ProtoserveError):
            dns.dns.parse(b"\0\0" + data, Direction.REQUEST)
