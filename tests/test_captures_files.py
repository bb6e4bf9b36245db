"""
Capture files: the packets in them, and what is told of damaged ones.
"""

import gzip
import io
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protoserve.captures import CaptureError, CaptureFile, is_capture
from tests.packets import (
    ETHERNET,
    RAW,
    block,
    enhanced,
    interface,
    pcap,
    section,
)

pytest.importorskip("dpkt", reason="captures are read with dpkt")

PACKETS = [b"one", b"and another", bytes(60)]


def opened(data):
    """
    Open a capture that is in memory.
    """
    return CaptureFile(io.BufferedReader(io.BytesIO(data)), "a.pcap")


def read(data):
    return list(opened(data))


class TestPcap:
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("nano", [False, True])
    def test_packets(self, order, nano):
        """
        Both byte orders and both clocks are read.
        """
        packets = read(pcap(PACKETS, ETHERNET, order=order, nano=nano))

        assert PACKETS == [packet.data for packet in packets]
        assert [1, 2, 3] == [packet.number for packet in packets]
        assert [1000.0, 1000.25, 1000.5] == [packet.time for packet in packets]
        assert {ETHERNET} == {packet.linktype for packet in packets}

    def test_frame_check_sequence(self):
        """
        What the upper bits of the link type tell is left out of it.
        """
        data = bytearray(pcap(PACKETS))
        data[20:24] = struct.pack("<I", 0xF4000000 | RAW)

        assert {RAW} == {packet.linktype for packet in read(bytes(data))}

    def test_compressed(self):
        """
        A file that gzip has compressed is unpacked.
        """
        assert 3 == len(read(gzip.compress(pcap(PACKETS))))

    def test_no_packets(self):
        """
        A file may have none.
        """
        assert [] == read(pcap([]))


class TestPcapng:
    def test_interfaces(self):
        """
        Each interface has a link type and a clock of its own.
        """
        data = section() + interface(ETHERNET) + interface(RAW, resolution=9)
        data += interface(RAW, resolution=0x80 | 10, offset=100)
        data += enhanced(0, 2_500_000, b"a") + block(0xBAD, b"what nobody knows")
        data += enhanced(1, 2_500_000_000, b"bc") + enhanced(2, 5 << 9, b"d")

        packets = read(data)
        assert [b"a", b"bc", b"d"] == [packet.data for packet in packets]
        assert [ETHERNET, RAW, RAW] == [packet.linktype for packet in packets]
        assert [2.5, pytest.approx(2.5), 102.5] == [packet.time for packet in packets]

    def test_sections(self):
        """
        A section has its own byte order and its own interfaces.
        """
        data = section() + interface(ETHERNET) + enhanced(0, 0, b"a")
        data += section(">") + interface(RAW, ">") + enhanced(0, 1 << 32, b"b", ">")

        first, second = read(data)
        assert (ETHERNET, RAW) == (first.linktype, second.linktype)
        assert 4294.967296 == pytest.approx(second.time)

    def test_simple_packets(self):
        """
        A packet without a time has the length that there was room for.
        """
        data = section() + interface(RAW, snaplen=4)
        data += block(3, struct.pack("<I", 9) + b"abcd")

        assert [b"abcd"] == [packet.data for packet in read(data)]


class TestDamage:
    @pytest.mark.parametrize("data", [b"", b"GET", b"\x7fELF" + bytes(60)])
    def test_no_capture(self, data):
        """
        What is no capture is told by its first bytes.
        """
        with pytest.raises(CaptureError, match=r"a\.pcap: expected a pcap or pcapng"):
            opened(data)

    def test_cut_header(self):
        """
        A file that ends in its header is no capture.
        """
        with pytest.raises(CaptureError, match="its header is cut"):
            opened(pcap([])[:13])

    @pytest.mark.parametrize("lost", [1, 2, 12, 17])
    def test_cut_packet(self, lost):
        """
        Of a file that ends early the packets before are read, and its end is told.
        """
        file = opened(pcap(PACKETS[:2])[:-lost])

        assert [b"one"] == [packet.data for packet in file]
        assert "a.pcap: packet 2 at byte 43: the file ends inside of it" == (
            file.truncated
        )

    def test_cut_block(self):
        """
        So it is with blocks.
        """
        data = section() + interface(RAW) + enhanced(0, 0, b"a")
        file = opened(data + enhanced(0, 0, b"b")[:-3])

        assert [b"a"] == [packet.data for packet in file]
        assert f"packet 2 at byte {len(data)}" in file.truncated

    def test_absurd_length(self):
        """
        A packet that claims more than there can be ends the reading, with its place.
        """
        data = pcap(PACKETS) + struct.pack("<IIII", 0, 0, 0xFFFFFFF0, 60) + bytes(99)
        file = opened(data)
        found = []
        with pytest.raises(CaptureError, match="packet 4 at byte 162: it claims 429"):
            found.extend(file)

        assert 3 == len(found)

    @pytest.mark.parametrize(
        ("bad", "reason"),
        [
            (enhanced(7, 0, b"a"), "there is no interface 7"),
            (struct.pack("<II", 6, 13) + bytes(60), "a block of 13 bytes"),
            (struct.pack("<II", 6, 1 << 28) + bytes(60), "it claims 268435448 bytes"),
            (enhanced(0, 0, b"a")[:-4] + b"\1\1\1\1", "ends with another length"),
            (b"\n\r\r\n\0\0\0\0wxyz", "no byte order is told by 77 78 79 7a"),
        ],
    )
    def test_bad_block(self, bad, reason):
        """
        A block that makes no sense ends the reading, with its place and the reason.
        """
        data = section() + interface(RAW) + enhanced(0, 0, b"a")
        with pytest.raises(CaptureError, match=reason) as caught:
            read(data + bad)

        assert "a.pcap: packet 2 at byte" in str(caught.value)

    def test_damaged_gzip(self):
        """
        A compressed file that is damaged is told so.
        """
        whole = gzip.compress(bytes(range(256)) * 400)
        with pytest.raises(CaptureError):
            read(whole[:40] + bytes(8) + whole[48:])

    @settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @given(st.sampled_from(["pcap", "pcapng"]), st.data())
    def test_anything(self, kind, drawn):
        """
        Whatever stands in a file, packets come, or the one error.
        """
        whole = pcap(PACKETS)
        if kind == "pcapng":
            whole = section() + interface(RAW, resolution=6, offset=1)
            whole += b"".join(enhanced(0, i, p) for i, p in enumerate(PACKETS))
        data = bytearray(whole)
        for _ in range(drawn.draw(st.integers(1, 4))):
            at = drawn.draw(st.integers(4, len(data) - 1))
            data[at] = drawn.draw(st.integers(0, 255))
        try:
            assert 3 * len(PACKETS) >= len(read(bytes(data)))
        except CaptureError as error:
            assert "\n" not in str(error)


def test_is_capture():
    """
    A capture is known by its first four bytes.
    """
    assert is_capture(pcap([])[:4])
    assert is_capture(section(">")[:4])
    assert not is_capture(b"0001")
