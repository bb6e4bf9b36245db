"""
OSC: messages, type tags, bundles, and their rows.
"""

import contextlib
import json
import math
import struct

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import osc as o
from protocols.osc.arguments import MOST_ARGUMENTS, MOST_LISTS
from protoserve import (
    Direction,
    InvalidMessageError,
    MalformedMessageError,
    Service,
    Session,
    UnknownMessageError,
    route,
)
from protoserve.testing import TestClient


def parsed(data):
    return o.osc.parse(data, Direction.REQUEST).message


def single(value):
    """Round a number to 32 bits."""
    return struct.unpack(">f", struct.pack(">f", value))[0]


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(width=32, allow_nan=False),
    TEXTS,
    st.binary(max_size=20),
)
ARGUMENTS = st.lists(
    st.recursive(VALUES, lambda inner: st.lists(inner, max_size=3), max_leaves=6),
    max_size=6,
)
MESSAGES = st.builds(o.OscMessage, TEXTS.map("/{}".format), ARGUMENTS)
PACKETS = st.recursive(
    MESSAGES,
    lambda inner: st.builds(
        o.Bundle,
        time=st.integers(0, (1 << 64) - 1),
        elements=st.lists(inner, max_size=3),
    ),
    max_leaves=5,
)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(PACKETS)
def test_packets(packet):
    """Whatever is built is whole words, and comes back as it was."""
    data = o.osc.build(packet, Direction.REQUEST)
    assert data == bytes(packet)
    assert 0 == len(data) % 4
    assert packet == parsed(data)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(PACKETS, st.data())
def test_cut_packets(packet, data):
    """A packet that ends early is refused, or is another one."""
    whole = bytes(packet)
    end = data.draw(st.integers(0, len(whole) - 1))
    with contextlib.suppress(MalformedMessageError, UnknownMessageError):
        assert packet != parsed(whole[:end])


def test_bytes():
    """The example of the specification has its bytes."""
    message = o.OscMessage("/oscillator/4/frequency", [440.0])
    expected = b"/oscillator/4/frequency\0,f\0\0\x43\xdc\0\0"
    assert expected == bytes(message)
    bundle = o.Bundle(elements=[message])
    head = b"#bundle\0" + (1).to_bytes(8) + len(expected).to_bytes(4)
    assert head + expected == bytes(bundle)


def test_types():
    """Every type has its own form on the wire."""
    args = [-1, 1 << 40, 1, 0.5, 0.1, "text", "sym", b"\1\2\3\4\5", "c", 0xFF]
    args += [b"\x01\x90\x3c\x7f", True, False, None, math.inf, [1, ["a"]]]
    message = o.OscMessage("/a", args, types="ihtfdsSbcrmTFNI[i[s]]")
    data = bytes(message)
    assert message == parsed(data)
    expected = (
        "ffffffff 0000010000000000 0000000000000001 3f000000 3fb999999999999a"
        "7465787400000000 73796d00 000000050102030405000000 00000063 000000ff"
        "01903c7f 00000001 61000000"
    )
    assert bytes.fromhex(expected) == data[4 + 24 :]


def test_tags_by_value():
    """Without type tags they follow from the values; a float is one of 32 bits."""
    message = o.OscMessage("/a", [1, 1 << 31, 0.1, "s", b"b", True, None, [False]])
    assert "ihfsbTN[F]" == message.types
    assert single(0.1) == parsed(bytes(message)).args[2]


def test_a_message_without_tags():
    """A message of an old sender, without type tags, is read if it has no arguments."""
    message = parsed(b"/a\0\0")
    assert o.OscMessage("/a") == message
    assert b"/a\0\0" == bytes(message)
    assert "" == parsed(b"/a\0\0,\0\0\0").types
    with pytest.raises(MalformedMessageError, match="types at offset 4: expected b','"):
        parsed(b"/a\0\0\0\0\0\x07")


@pytest.mark.parametrize(
    ("tags", "match"),
    [
        ("i", "requested|expected 4"),
        ("x", "found b'x'"),
        ("[", r"a '\[' among the tags has no '\]'"),
        ("]", r"tag 0 is a '\]' without a '\['"),
        ("[" * (MOST_LISTS + 1), f"at most {MOST_LISTS} lists"),
        ("T" * (MOST_ARGUMENTS + 1), f"at most {MOST_ARGUMENTS} arguments"),
    ],
)
def test_malformed(tags, match):
    """Type tags that cannot be followed are refused, and so are too many of them."""
    text = b"," + tags.encode() + b"\0"
    data = b"/a\0\0" + text + bytes(-len(text) % 4)
    with pytest.raises(MalformedMessageError, match=match):
        parsed(data)


@pytest.mark.parametrize(
    ("types", "args"),
    [
        ("", [1]),
        ("i", []),
        ("i", ["text"]),
        ("i", [1 << 31]),
        ("s", [1]),
        ("b", ["text"]),
        ("c", ["two"]),
        ("c", ["é"]),
        ("m", [b"123"]),
        ("T", [False]),
        ("I", [0.0]),
        ("ii", [[1, 2]]),
        ("[ii]", [1, 2]),
        ("[i]i", [1, [2]]),
        ("x", [1]),
    ],
)
def test_arguments_that_do_not_fit(types, args):
    """Arguments that are not of their types are not built."""
    with pytest.raises(InvalidMessageError, match=r"OscMessage\.(args|types)"):
        bytes(o.OscMessage("/a", args, types=types))


def test_what_has_no_type():
    """A value that OSC has no type for is refused at once, as is a wrong address."""
    with pytest.raises(ValueError, match=r"no OSC type for \{\}"):
        o.OscMessage("/a", [{}])
    with pytest.raises(InvalidMessageError, match="begins with '/', got 'a'"):
        bytes(o.OscMessage("a"))
    with pytest.raises(InvalidMessageError, match="an OscMessage or a Bundle, got 5"):
        bytes(o.Bundle(elements=[5]))


def nested(depth):
    """Make bundles inside of one another."""
    data = b"/a\0\0,\0\0\0"
    for _ in range(depth):
        data = b"#bundle\0" + (1).to_bytes(8) + len(data).to_bytes(4) + data
    return data


def test_bundles_in_bundles():
    """Bundles are nested to a limit, and no further."""
    assert 1 == len(list(parsed(nested(15)).rows()))
    for depth in (16, 3000):
        with pytest.raises(MalformedMessageError, match="at most 16 levels of nesting"):
            parsed(nested(depth))


def test_elements_are_whole():
    """An element of a bundle has the length that is before it."""
    data = bytearray(bytes(o.Bundle(elements=[o.OscMessage("/a", [1])])))
    data[19] += 4
    with pytest.raises(MalformedMessageError, match=r"elements\[0\]"):
        parsed(bytes(data))
    data[19] -= 8
    with pytest.raises(MalformedMessageError, match=r"elements\[0\]"):
        parsed(bytes(data))


def test_what_is_neither():
    """A packet is a message or a bundle, which its first byte tells."""
    for data in (b"", b"a\0\0\0", b"\0\0\0\0"):
        with pytest.raises(UnknownMessageError):
            parsed(data)


def test_rows():
    """Each message is a row, with the time of the bundle that it is in."""
    later = o.Bundle(time=0xE8FD6E8080000000, elements=[o.OscMessage("/b", ["x", 2])])
    bundle = o.Bundle(elements=[o.OscMessage("/a", [b"\1", math.inf, None]), later])
    first, second = bundle.rows()
    assert ("/a", "bfN", None) == (first.address, first.types, first.time)
    assert ["01", "inf", None] == json.loads(first.args)
    assert math.inf == first.value
    assert ("/b", 2.0) == (second.address, second.value)
    assert 500_000 == second.time.microsecond
    (row,) = o.OscMessage("/c").rows()
    assert ("[]", None, "messages") == (row.args, row.value, type(row).__table__)


@attrs.define
class Lamp:
    """Keeps what was set, also by the messages of a bundle."""

    levels: list = attrs.field(factory=list)

    @route
    def message(self, message: o.OscMessage, session: Session) -> None:
        self.levels.append(message.args[0])

    @route
    def bundle(self, bundle: o.Bundle, session: Session) -> None:
        for _, message in bundle.messages():
            self.message(message, session)


@pytest.mark.parametrize("protocol", [o.osc, o.osc_1_0], ids=["1.1", "1.0"])
def test_routes(protocol):
    """A server's routes go by message and by bundle, over both forms of streams."""
    lamp = Lamp()
    with TestClient(Service(protocol, lamp)) as client:
        client.send(o.OscMessage("/lamp", [0.5]))
        inner = o.Bundle(elements=[o.OscMessage("/lamp", [3])])
        client.send(o.Bundle(elements=[o.OscMessage("/lamp", [2]), inner]))
    assert [0.5, 2, 3] == lamp.levels
