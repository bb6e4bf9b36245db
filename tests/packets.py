"""
Captures made for tests: packets of each link type, pcap and pcapng files.

Addresses are texts, ports numbers; checksums are left at 0, as network cards that
compute them leave them in captures.
"""

import ipaddress
import struct

ETHERNET, RAW, NULL, LOOP, COOKED, COOKED_2 = 1, 101, 0, 108, 113, 276
CLIENT, SERVER = ("192.0.2.7", 40_000), ("192.0.2.1", 502)
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
IPV4, IPV6 = 0x0800, 0x86DD


def ipv4(source, target, protocol, body, *, ident=0, fragment=0, size=None):
    """
    Make an IPv4 packet.
    """
    size = 20 + len(body) if size is None else size
    return (
        struct.pack(">BBHHHBBH", 0x45, 0, size, ident, fragment, 64, protocol, 0)
        + ipaddress.ip_address(source).packed
        + ipaddress.ip_address(target).packed
        + body
    )


def ipv6(source, target, protocol, body):
    """
    Make an IPv6 packet; extension headers are in the body.
    """
    return (
        struct.pack(">IHBB", 6 << 28, len(body), protocol, 64)
        + ipaddress.ip_address(source).packed
        + ipaddress.ip_address(target).packed
        + body
    )


def udp_body(source_port, target_port, payload):
    """
    Make a UDP datagram without IP.
    """
    head = struct.pack(">HHHH", source_port, target_port, 8 + len(payload), 0)
    return head + payload


def udp(source, target, payload):
    """
    Make a UDP datagram in IPv4 or IPv6.
    """
    wrap = ipv6 if ":" in source[0] else ipv4
    return wrap(source[0], target[0], 17, udp_body(source[1], target[1], payload))


def tcp(source, target, sequence, payload=b"", flags=ACK):
    """
    Make a TCP segment in IPv4.
    """
    head = struct.pack(
        ">HHIIBBHHH", source[1], target[1], sequence % 2**32, 0, 0x50, flags, 0, 0, 0
    )
    return ipv4(source[0], target[0], 6, head + payload)


def pcap(packets, linktype=RAW, *, order="<", nano=False, first=1000.0, step=0.25):
    """
    Make a pcap file of packets that are `step` seconds apart.
    """
    magic = 0xA1B23C4D if nano else 0xA1B2C3D4
    data = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 262_144, linktype)
    for i, packet in enumerate(packets):
        time = first + i * step
        part = round(time % 1 * (10**9 if nano else 10**6))
        size = len(packet)
        data += struct.pack(f"{order}IIII", int(time), part, size, size) + packet
    return data


def block(kind, body, order="<"):
    """
    Make a block of a pcapng file.
    """
    body += bytes(-len(body) % 4)
    size = struct.pack(f"{order}I", 12 + len(body))
    return struct.pack(f"{order}I", kind) + size + body + size


def section(order="<"):
    """
    Make the block that starts a pcapng file, or another section of it.
    """
    body = struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1)
    return block(0x0A0D0D0A, body, order)


def interface(linktype, order="<", *, resolution=None, offset=None, snaplen=0):
    """
    Make the block of an interface.
    """
    body = struct.pack(f"{order}HHI", linktype, 0, snaplen)
    if resolution is not None:
        body += struct.pack(f"{order}HHB3x", 9, 1, resolution)
    if offset is not None:
        body += struct.pack(f"{order}HHq", 14, 8, offset)
    return block(1, body + bytes(4), order)


def enhanced(number, steps, packet, order="<"):
    """
    Make the block of a packet, captured at a number of clock steps.
    """
    size = len(packet)
    head = struct.pack(
        f"{order}IIIII", number, steps >> 32, steps & 0xFFFFFFFF, size, size
    )
    return block(6, head + packet, order)
