"""
Datagrams that the kernel takes as one, and gives as one to whoever asks for it.
"""

import socket

import pytest

_UDP_SEGMENT = 103
_UDP_GRO = 104
_MOST = 64


def coalesces():
    """
    Say whether the system can.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
            sock.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, 8)
        except OSError:
            return False
    return True


gro = pytest.mark.skipif(not coalesces(), reason="there is no UDP_GRO")


def segmented(client, data, size):
    """
    Send many datagrams as one, as programs that care for speed do.
    """
    client.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, size)
    client.send(data)
    client.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, 0)


def send_together(client, datagrams):
    """
    Send datagrams in order, as many as can be as one; say of how many each was made.
    """
    groups = []
    for datagram in datagrams:
        group = groups[-1] if groups else []
        is_open = group and len(group) < _MOST and len(group[-1]) == len(group[0])
        if is_open and 0 < len(datagram) <= len(group[0]):
            group.append(datagram)
        else:
            groups.append([datagram])
    for group in groups:
        if len(group) > 1:
            segmented(client, b"".join(group), len(group[0]))
        else:
            client.send(group[0])
    return [len(group) for group in groups]
