"""
NTP on random messages and random bytes.
"""

import tomllib
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import ntp
from protoserve import Direction, MalformedMessageError, UnknownMessageError

PACKETS = [
    bytes.fromhex(packet["hex"])
    for packet in tomllib.loads(
        (Path(__file__).parents[1] / "vectors/ntp/packets.toml").read_text()
    )["packet"]
]


def unsigned(bits):
    return st.integers(0, 2**bits - 1)


def digests(sizes=(0, 8, 16, 20)):
    return st.sampled_from(sizes).flatmap(lambda n: st.binary(min_size=n, max_size=n))


def values(least):
    words = st.integers(least // 4, 20)
    return words.flatmap(lambda n: st.binary(min_size=4 * n, max_size=4 * n))


def extension_fields(least):
    return st.builds(ntp.ExtensionField, unsigned(16), values(least - 4))


macs = st.builds(ntp.Mac, unsigned(32), digests())
tails = st.one_of(
    st.fixed_dictionaries({"extensions": st.lists(extension_fields(24)), "mac": macs}),
    st.fixed_dictionaries(
        {
            "extensions": st.lists(extension_fields(16)),
            "mac": st.builds(ntp.Mac, unsigned(32), digests((8, 16, 20))),
        }
    ),
    st.fixed_dictionaries({"extensions": st.lists(extension_fields(28))}),
)
numbers = st.fixed_dictionaries(
    {
        "stratum": unsigned(8),
        "poll": st.integers(-128, 127),
        "precision": st.integers(-128, 127),
        "root_delay": unsigned(32),
        "root_dispersion": unsigned(32),
        "reference_id": st.binary(min_size=4, max_size=4),
        "reference_timestamp": unsigned(64),
        "origin_timestamp": unsigned(64),
        "receive_timestamp": unsigned(64),
        "transmit_timestamp": unsigned(64),
    }
)
classes = {
    c for way in Direction for c in ntp.ntp.table(way).values() if issubclass(c, ntp.TimePacket)
}  # fmt: skip
time_packets = st.builds(
    lambda cls, fields, tail: cls(**fields, **tail),
    st.sampled_from(sorted(classes, key=lambda c: c.__name__)),
    numbers,
    tails,
)
controls = st.builds(
    ntp.Control,
    response=unsigned(1),
    error=unsigned(1),
    more=unsigned(1),
    opcode=unsigned(5),
    sequence=unsigned(16),
    status=unsigned(16),
    association=unsigned(16),
    offset=unsigned(16),
    data=st.binary(max_size=100),
    mac=st.none() | st.builds(ntp.Mac, unsigned(32), digests((8, 16, 20))),
)
headers = st.builds(ntp.Header, leap=unsigned(2), version=unsigned(3))
messages = time_packets | controls | st.builds(ntp.Private, st.binary(max_size=100))


@given(messages, headers)
def test_round_trip(message, header):
    """
    Every message comes back from its bytes, in each direction that it has.
    """
    cls = type(message)
    tags = {w: t for w in Direction for t, c in ntp.ntp.table(w).items() if c is cls}
    assert tags
    for way, mode in tags.items():
        data = ntp.ntp.build(message, way, header=header)
        parsed = ntp.ntp.parse(data, way)
        assert message == parsed.message
        assert attrs.evolve(header, mode=mode) == parsed.header


@st.composite
def damaged(draw):
    """
    A packet with some bytes changed, cut out or put in.
    """
    data = bytearray(draw(st.sampled_from(PACKETS)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        size = draw(st.integers(0, 4))
        data[place : place + size] = draw(st.binary(max_size=5))
    return bytes(data)


@pytest.mark.parametrize("direction", Direction)
@given(data=damaged() | st.binary(max_size=160))
def test_any_bytes(direction, data):
    """
    Any bytes are a packet that is built to the same bytes, or one of two errors.
    """
    try:
        parsed = ntp.ntp.parse(data, direction)
    except (MalformedMessageError, UnknownMessageError):
        return
    built = ntp.ntp.build(parsed.message, direction, header=parsed.header)
    assert data == built
