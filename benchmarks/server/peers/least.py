"""
The least that a server can do with a frame or a datagram: unpack it, and pack the
reply. What servers without objects and routes share.
"""

from __future__ import annotations

import socket
import struct

HEAD = struct.Struct("!HBI")
"""Length, kind, ident; the length counts what follows it."""
RECORD = struct.Struct("!IHBBdqII")
"""A datagram's eight fields."""
REPLY = 0x80


def answer_all(data: bytes) -> tuple[bytes, bytes]:
    """
    Answer every whole frame; give the replies and the bytes that are left.
    """
    unpack, pack = HEAD.unpack_from, HEAD.pack
    size = len(data)
    if size >= 7:
        length, kind, ident = unpack(data)
        if size == length + 2:
            return pack(length, kind | REPLY, ident) + data[7:], b""
    replies = []
    at = 0
    while size - at >= 7:
        length, kind, ident = unpack(data, at)
        end = at + 2 + length
        if end > size:
            break
        replies.append(pack(length, kind | REPLY, ident) + data[at + 7 : end])
        at = end
    return b"".join(replies), data[at:]


def answer_datagram(data: bytes) -> bytes:
    """
    Answer a datagram.
    """
    seq, device, kind, *rest = RECORD.unpack(data)
    return RECORD.pack(seq, device, kind | REPLY, *rest)


def serve_connection(sock: socket.socket) -> None:
    """
    Answer one blocking connection until it ends.
    """
    rest = b""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := sock.recv(65536):
            replies, rest = answer_all(rest + data if rest else data)
            if replies:
                sock.sendall(replies)
    except OSError:
        pass  # the client has gone
    finally:
        sock.close()
