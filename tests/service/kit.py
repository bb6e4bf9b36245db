"""
What the tests of services share: a protocol, and a client over a plain socket.
"""

import contextlib
import fcntl
import socket
import struct
import termios
import threading
import time
from pathlib import Path

import attrs
from construct import GreedyBytes, Int8ub, Int16ub

from protoserve import (
    LengthPrefixed,
    Message,
    Protocol,
    Request,
    Role,
    Service,
    Session,
    wire,
)
from protoserve.events import NEED_DATA, MessageReceived

PATIENCE = 60.0
"""Seconds after which a test gives up; nothing is meant to take that long."""


class Pong(Message):
    value: int = wire(Int8ub, default=0)


class Text(Message):
    text: bytes = wire(GreedyBytes, default=b"")


class Ping(Request[Pong | Text]):
    value: int = wire(Int8ub, default=0)


class Header(Message):
    kind: int = wire(Int8ub)
    sequence: int = wire(Int16ub, default=0)


spoken = Protocol(
    "spoken",
    framing=LengthPrefixed(Int16ub, max_size=16_000),
    header=Header,
    tag="kind",
    correlate="sequence",
    requests={1: Ping},
    responses={2: Pong},
    messages={3: Text},
)


class Client:
    """
    A client over a socket of its own, blocking, with patience.
    """

    def __init__(self, sock, stream):
        self.sock = sock
        self.session = Session(spoken, Role.CLIENT, stream=stream)
        sock.settimeout(PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Forked servers hold copies of the socket, as they share our process.
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def send(self, *messages):
        self.sock.sendall(b"".join(self.session.encode(m) for m in messages))

    def receive(self):
        """
        Give the next message; `None` when the server has closed.
        """
        while (event := self.session.next_event()) is NEED_DATA:
            data = self.sock.recv(65_536)
            if not data and self.session.stream:
                return None
            self.session.receive_data(data)
        assert isinstance(event, MessageReceived), event
        return event.message

    def call(self, message):
        self.send(message)
        return self.receive()

    def rest(self):
        """
        Read to the end; a reset is an end too.
        """
        data = b""
        with contextlib.suppress(ConnectionError):
            while piece := self.sock.recv(65_536):
                data += piece
        return data

    def reset(self):
        self.sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.sock.close()


@attrs.define
class Running:
    """
    A server whose loop runs in a thread.
    """

    server: object
    thread: threading.Thread
    service: Service

    def client(self):
        return connect(self.server.server_address, self.server.socket_type)

    def stop(self):
        self.server.shutdown()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        self.server.server_close()


def connect(address, kind=socket.SOCK_STREAM):
    family = socket.AF_UNIX
    if isinstance(address, tuple):
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, kind)
    if family == socket.AF_UNIX and kind == socket.SOCK_DGRAM:
        sock.bind("")  # a name that the kernel chooses, so that answers arrive
    try:
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return Client(sock, kind == socket.SOCK_STREAM)


def until(condition, patience=PATIENCE):
    """
    Wait until `condition()` is true.
    """
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)


def unacknowledged(sock):
    """
    Count the bytes that the other end's kernel has not acknowledged.
    """
    return struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]


def descriptors():
    """
    Count the descriptors that this process has open.
    """
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
