"""
From packets to datagrams and segments: link types, IP, fragments.
"""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protoserve.captures import Packet
from protoserve.captures import links as linking
from protoserve.captures.links import Links, address_text
from tests.packets import (
    CLIENT,
    COOKED,
    COOKED_2,
    ETHERNET,
    IPV4,
    IPV6,
    LOOP,
    NULL,
    RAW,
    SERVER,
    ipv4,
    ipv6,
    tcp,
    udp,
    udp_body,
)

MACS = bytes(range(12))
CLIENT_6, SERVER_6 = ("2001:db8::7", 40_000), ("2001:db8::1", 53)


def packet(data, linktype=RAW, time=0.0, number=1):
    return Packet(number, time, linktype, data)


def found(data, linktype=RAW):
    return Links().segment(packet(data, linktype))


def tagged(kind, *tags):
    """
    Make what stands behind the addresses of an Ethernet frame.
    """
    return b"".join(struct.pack(">HH", tag, 7) for tag in tags) + struct.pack(
        ">H", kind
    )


DATAGRAM = udp(CLIENT, SERVER, b"hello")
DATAGRAM_6 = udp(CLIENT_6, SERVER_6, b"hello")


@pytest.mark.parametrize(
    ("linktype", "data"),
    [
        (ETHERNET, MACS + tagged(IPV4) + DATAGRAM),
        (ETHERNET, MACS + tagged(IPV6) + DATAGRAM_6),
        (ETHERNET, MACS + tagged(IPV4, 0x8100) + DATAGRAM),
        (ETHERNET, MACS + tagged(IPV6, 0x88A8, 0x8100) + DATAGRAM_6),
        (ETHERNET, MACS + tagged(IPV4) + DATAGRAM + bytes(13)),
        (RAW, DATAGRAM),
        (RAW, DATAGRAM_6),
        (12, DATAGRAM),
        (14, DATAGRAM),
        (228, DATAGRAM),
        (229, DATAGRAM_6),
        (NULL, struct.pack("<I", 2) + DATAGRAM),
        (NULL, struct.pack(">I", 2) + DATAGRAM),
        (NULL, struct.pack("<I", 30) + DATAGRAM_6),
        (LOOP, struct.pack(">I", 24) + DATAGRAM_6),
        (COOKED, bytes(14) + tagged(IPV4) + DATAGRAM),
        (COOKED, bytes(14) + tagged(IPV6, 0x8100) + DATAGRAM_6),
        (COOKED_2, tagged(IPV4) + bytes(18) + DATAGRAM),
        (COOKED_2, tagged(IPV6) + bytes(18) + DATAGRAM_6),
    ],
)
def test_link_types(linktype, data):
    """
    The datagram is found behind each link type's header, padding left off.
    """
    segment = found(data, linktype)

    assert ("udp", b"hello", 0) == (
        segment.transport,
        segment.payload,
        segment.missing,
    )
    ends = (CLIENT_6, SERVER_6) if segment.target_port == 53 else (CLIENT, SERVER)
    wanted = [f"[{h}]:{p}" if ":" in h else f"{h}:{p}" for h, p in ends]
    assert wanted == [
        address_text(segment.source, segment.source_port),
        address_text(segment.target, segment.target_port),
    ]


@pytest.mark.parametrize(
    ("linktype", "data"),
    [
        (ETHERNET, MACS + tagged(0x0806) + bytes(28)),
        (ETHERNET, MACS),
        (RAW, b""),
        (RAW, b"\x4f" + bytes(10)),
        (RAW, ipv4("192.0.2.1", "192.0.2.2", 1, bytes(8))),
        (RAW, ipv4("192.0.2.1", "192.0.2.2", 17, bytes(7))),
        (RAW, ipv4("192.0.2.1", "192.0.2.2", 6, bytes(19))),
        (RAW, b"\x44" + ipv4("192.0.2.1", "192.0.2.2", 17, bytes(8))[1:]),
        (RAW, ipv6("::1", "::2", 58, bytes(8))),
        (NULL, bytes(30)),
        (NULL, b"\2"),
    ],
)
def test_nothing(linktype, data):
    """
    What is neither UDP nor TCP, or no whole header of one, is nothing.
    """
    assert found(data, linktype) is None


def test_unknown_link_type():
    """
    Packets of link types that are not known are counted.
    """
    links = Links()
    for _ in range(3):
        links.segment(packet(DATAGRAM, 147))

    assert {147: 3} == links.unknown


def test_tcp():
    """
    A segment has its number and its flags; options are no payload.
    """
    data = bytearray(tcp(CLIENT, SERVER, 77, bytes(8) + b"abc", 0x18))
    data[32] = 0x70  # two words of options
    segment = found(bytes(data))

    assert ("tcp", 77, 0x18, b"abc") == (
        segment.transport,
        segment.sequence,
        segment.flags,
        segment.payload,
    )


class TestLengths:
    def test_offload(self):
        """
        A packet without a length, as cards that cut packets get it, goes to the end.
        """
        data = ipv4(
            "192.0.2.7", "192.0.2.1", 6, tcp(CLIENT, SERVER, 1, b"xyz")[20:], size=0
        )

        assert b"xyz" == found(data).payload

    @pytest.mark.parametrize("make", [udp, lambda s, t, p: tcp(s, t, 1, p)])
    def test_cut_by_the_capture(self, make):
        """
        What the capture has cut off is told in bytes.
        """
        segment = found(make(CLIENT, SERVER, bytes(100))[:-30])

        assert (70, 30) == (len(segment.payload), segment.missing)

    def test_cut_v6(self):
        """
        So it is with IPv6.
        """
        segment = found(DATAGRAM_6[:-2])

        assert (b"hello"[:3], 2) == (segment.payload, segment.missing)


def extended(*headers):
    """
    Put extension headers before a UDP datagram in IPv6.
    """
    body, kind = udp_body(40_000, 53, b"hello"), 17
    for number, data in reversed(headers):
        body, kind = bytes([kind]) + data + body, number
    return ipv6("2001:db8::7", "2001:db8::1", kind, body)


def test_extension_headers():
    """
    IPv6's extension headers are skipped.
    """
    options = bytes([0]) + bytes(6)
    longer = bytes([1]) + bytes(14)
    authentication = bytes([1]) + bytes(10)
    data = extended((0, options), (60, longer), (43, options), (51, authentication))

    assert b"hello" == found(data).payload
    atomic = extended((44, bytes(7)))  # a fragment that is the whole
    assert b"hello" == found(atomic).payload


def fragments(size=40, payload=bytes(range(200)), ident=9):
    """
    Cut a datagram into IPv4 fragments.
    """
    body = udp_body(40_000, 502, payload)
    cut = range(0, len(body), size)
    return [
        ipv4(
            CLIENT[0],
            SERVER[0],
            17,
            body[at : at + size],
            ident=ident,
            fragment=at // 8 | (0x2000 if at != cut[-1] else 0),
        )
        for at in cut
    ]


class TestFragments:
    @settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @given(st.permutations(range(6)))
    def test_any_order(self, order):
        """
        The datagram comes with the fragment that was wanting, whatever the order.
        """
        parts = fragments()
        assert 6 == len(parts)
        links = Links()
        before = [links.segment(packet(parts[i])) for i in (*order[:5], *order[:5][:1])]

        assert [None] * 6 == before
        assert bytes(range(200)) == links.segment(packet(parts[order[5]])).payload

    def test_v6(self):
        """
        IPv6's fragments are put together as well.
        """
        body = udp_body(40_000, 53, bytes(range(100)))
        links = Links()
        whole = None
        for at in (64, 0):
            more = 0 if at else 1
            head = struct.pack(">BBHI", 17, 0, at | more, 5)
            part = body[at:] if at else body[:64]
            data = ipv6("2001:db8::7", "2001:db8::1", 44, head + part)
            whole = links.segment(packet(data))

        assert bytes(range(100)) == whole.payload

    def test_one_is_missing(self):
        """
        Without all fragments there is no datagram, and later ones are not mixed in.
        """
        links = Links()
        parts = fragments()
        assert all(links.segment(packet(part)) is None for part in parts[1:])
        late = links.segment(packet(parts[0], time=linking.PATIENCE + 1))
        assert late is None

    def test_cut_by_the_capture(self):
        """
        A fragment that the capture does not have all of is none.
        """
        links = Links()
        parts = fragments()
        parts[2] = parts[2][:-8]
        assert all(links.segment(packet(part)) is None for part in parts)

    def test_bounded(self, monkeypatch):
        """
        Only so many datagrams are waited for; the oldest makes way.
        """
        monkeypatch.setattr(linking, "MAX_DATAGRAMS", 3)
        links = Links()
        for ident in range(10):
            links.segment(packet(fragments(ident=ident)[0]))

        assert 3 == len(links._pieces)
        rest = [links.segment(packet(part)) for part in fragments(ident=9)[1:]]
        assert rest[-1] is not None

    def test_overlong(self):
        """
        Fragments that would make more than a datagram can hold are left out.
        """
        links = Links()
        part = ipv4(CLIENT[0], SERVER[0], 17, bytes(4000), fragment=0x1FFF)

        assert links.segment(packet(part)) is None
        assert not next(iter(links._pieces.values())).parts


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(st.sampled_from([0, 1, 101, 108, 113, 276]), st.binary(max_size=120))
def test_anything(linktype, data):
    """
    Whatever a packet holds, it is a segment or nothing.
    """
    Links().segment(packet(data, linktype))
    Links().segment(packet(b"\x45" + data, RAW))
    Links().segment(packet(b"\x60" + data, RAW))
