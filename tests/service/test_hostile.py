"""
Peers that mean harm: afterwards a good client is served, and nothing is left over.
"""

import contextlib
import random
import socket
import struct
import threading

import pytest

from protoserve import Limits, route
from protoserve.server import ThreadingTCPServer, ThreadingUnixStreamServer, UDPServer
from tests.service.kit import Ping, Pong, Text, descriptors, until


class Station:
    @route
    def ping(self, message: Ping) -> Pong:
        return Pong(message.value)

    @route
    def text(self, message: Text) -> Text:
        return message


@pytest.fixture(params=[ThreadingTCPServer, ThreadingUnixStreamServer])
def stream(serve, request):
    """
    A server that is checked for life and leftovers after the test.
    """
    running = serve(Station(), request.param, limits=Limits(first_frame=5, frame=5))
    with running.client() as client:
        assert Pong(1) == client.call(Ping(1))
    until(lambda: not running.service.connections)
    threads, files = threading.active_count(), descriptors()
    yield running
    with running.client() as client:
        assert Pong(7) == client.call(Ping(7))
    until(lambda: not running.service.connections)
    until(lambda: threading.active_count() <= threads)
    until(lambda: descriptors() <= files)


def hurl(running, data):
    """
    Send bytes whatever becomes of them, and read to the end.
    """
    with running.client() as client:
        with contextlib.suppress(ConnectionError):
            client.sock.sendall(data)
            client.sock.shutdown(socket.SHUT_WR)
        client.rest()


def test_garbage(stream):
    """Random bytes, of all sizes."""
    chance = random.Random(5)
    for _ in range(150):
        hurl(stream, chance.randbytes(chance.choice((0, 1, 2, 3, 10, 1000, 100_000))))


def test_mutations(stream):
    """Good requests with some bytes changed."""
    chance = random.Random(6)
    good = bytes.fromhex("0004 01 0000 05") * 10
    for _ in range(150):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        hurl(stream, bytes(data))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: example.test\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\xff\xff\xff\xff",
        b"\x3e\x80\x03\x00\x00",
        b"\0\0" * 5000,
        b"\0",
    ],
)
def test_other_protocols_and_lengths(stream, data):
    """What belongs to another protocol, or claims too much."""
    hurl(stream, data)


def test_byte_by_byte(stream):
    """A request in single bytes is a request."""
    with stream.client() as client:
        for byte in bytes.fromhex("0004 01 0000 05") * 20:
            client.sock.sendall(bytes((byte,)))
        assert [Pong(5)] * 20 == [client.receive() for _ in range(20)]


def test_many_quick_connections(stream):
    """Connections that do nothing, closed or reset."""
    linger = struct.pack("ii", 1, 0)
    for i in range(600):
        client = stream.client()
        if i % 2:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        if i % 3:
            client.sock.sendall(b"\0\4\1"[: i % 4])
        client.sock.close()


def test_requests_without_reading(stream):
    """Peers that ask, and go without having read the answers."""
    for _ in range(50):
        client = stream.client()
        client.send(*(Text(bytes(1000)) for _ in range(20)))
        client.reset()


def test_datagrams(serve):
    """Random datagrams, from many ports."""
    running = serve(Station(), UDPServer, limits=Limits(peers=10))
    chance = random.Random(8)
    with running.client() as client:
        assert Pong(7) == asked(client)
    files = descriptors()
    for _ in range(100):
        with running.client() as client:
            for _ in range(5):
                client.sock.send(
                    chance.randbytes(chance.choice((0, 1, 3, 4, 50, 5000)))
                )
            assert Pong(7) == asked(client)
    assert 10 >= len(next(iter(running.service._tables.values())))
    assert files >= descriptors()


def asked(client):
    client.send(Ping(7))
    answer = client.receive()
    while answer != Pong(7):
        answer = client.receive()  # some of the garbage was a message
    return answer
