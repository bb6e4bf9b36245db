"""
Small servers with one bug each, on plain sockets, for torture to find.

`toy` and `door` declare what they ought to speak. The server in `Planted` speaks it by
hand, in a process of its own, and does one thing wrong if told so.
"""

import contextlib
import enum
import os
import signal
import socket
import struct
import threading
import time
import warnings

import attrs
from construct import Array, Bytes, Int8ub, Int16ub, this

from protoserve import (
    LengthPrefixed,
    Message,
    Protocol,
    Request,
    checksum_of,
    checksums,
    count_of,
    wire,
)
from tests.forking import forked

MOST = 4096


class Colour(enum.IntEnum):
    RED = 1
    GREEN = 2
    BLUE = 9


class Header(Message):
    kind: int = wire(Int8ub)
    sequence: int = wire(Int16ub, default=0)


class Trailer(Message):
    check: int = wire(
        Int16ub, value=checksum_of("header", "body", using=checksums.crc16_xmodem)
    )


class Painted(Message):
    colour: int = wire(Int8ub)


class Paint(Request[Painted]):
    colour: Colour | int = wire(Int8ub, enum=Colour)


class Sum(Message):
    total: int = wire(Int16ub)
    count: int = wire(Int8ub, value=count_of("values"))
    values: list[int] = wire(Array(this.count, Int8ub), factory=list)


class Add(Request[Sum]):
    count: int = wire(Int8ub, value=count_of("values"))
    values: list[int] = wire(Array(this.count, Int8ub), factory=list)


class Refused(Message, error=True):
    reason: int = wire(Int8ub)


toy = Protocol(
    "toy",
    framing=LengthPrefixed(Int16ub, max_size=MOST),
    header=Header,
    tag="kind",
    trailer=Trailer,
    requests={1: Paint, 2: Add},
    responses={0x81: Painted, 0x82: Sum, 0xFF: Refused},
    correlate="sequence",
)


class Opened(Message):
    pass


class Knock(Request[Opened]):
    key: bytes = wire(Bytes(2))


class Taken(Message):
    number: int = wire(Int8ub)


class Take(Request[Taken]):
    number: int = wire(Int8ub)


door = Protocol(
    "door",
    framing=LengthPrefixed(Int16ub, max_size=MOST),
    header=Header,
    tag="kind",
    requests={1: Knock, 2: Take},
    responses={0x81: Opened, 0x82: Taken, 0xFF: Refused},
    states={
        "outside": {Knock: "knocked"},
        "knocked": {Opened: "inside", Refused: "outside"},
        "inside": {Take: "taking"},
        "taking": {Taken: "inside", Refused: "inside"},
    },
    correlate="sequence",
)


class Wrong(Exception):
    """What came is broken."""


@attrs.define
class Speaker:
    """
    What answers frames, with or without a bug.
    """

    bug: str
    leaked: list = attrs.field(factory=list)
    shared: bytearray = attrs.field(factory=bytearray)
    peers: dict = attrs.field(factory=dict)
    lock: threading.Lock = attrs.field(factory=threading.Lock)

    def answer(self, frame):
        """Give the answers to one frame of `toy`."""
        bug = self.bug
        if bug == "dies on oversize" and len(frame) > 600:
            os._exit(3)
        if bug == "quadratic" and len(frame) > 100:
            time.sleep(len(frame) ** 2 / 20_000)
        if bug == "leak":
            self.leaked.append(bytearray(b"\1") * 40_000)
        if len(frame) < 5:
            raise Wrong
        kind, sequence = struct.unpack_from("!BH", frame)
        body, check = frame[3:-2], int.from_bytes(frame[-2:], "big")
        if bug == "one id for all over 255":
            sequence &= 0xFF
        if bug != "checksum unchecked" and check != checksums.crc16_xmodem(frame[:-2]):
            raise Wrong
        answers = [self.reply(kind, body, sequence)]
        if bug == "answers twice" and kind == 2:
            answers *= 2
        return answers

    def reply(self, kind, body, sequence):
        bug = self.bug
        if kind == 1 and len(body) == 1:
            if bug == "crash on an enum" and body[0] == 0xFF:
                os._exit(1)
            if bug == "exception on an enum" and body[0] > 0x80:
                raise KeyError(body[0])
            if bug == "exception on a common value" and body[0] == Colour.RED:
                raise KeyError(body[0])
            if bug == "wrong type" and body[0] == 2:
                return self.built(0x82, sequence, b"\0\0\0")
            return self.built(0x81, sequence, body)
        if kind == 2 and body:
            values = body[1 : 1 + body[0]]
            missing = 1 + body[0] - len(body)
            own = missing == 2 and bug == "the trailer counted for elements"
            if bug != "count unchecked" and missing and not own:
                raise Wrong
            total = sum(values) & 0xFFFF
            count = len(values)
            if bug == "wrong count in the answer" and count > 3:
                count -= 1
            head = struct.pack("!HB", total, count & 0xFF)
            return self.built(0x82, sequence, head + values)
        raise Wrong

    def built(self, kind, sequence, body):
        frame = struct.pack("!BH", kind, sequence) + body
        return frame + checksums.crc16_xmodem(frame).to_bytes(2, "big")

    def refusal(self, frame):
        (sequence,) = struct.unpack_from("!H", frame + b"\0\0\0", 1)
        return self.built(0xFF, sequence, b"\1")

    def packed(self, answer):
        size = len(answer)
        if self.bug == "length off by one" and size > 12:
            size += 1
        return size.to_bytes(2, "big") + answer

    def stream(self, sock):
        """Serve one connection of `toy`."""
        buffer = self.shared if self.bug == "shared buffer" else bytearray()
        deaf = False
        if self.bug == "greets":
            sock.sendall(self.packed(self.built(0x81, 0, b"\1")))
        while data := sock.recv(65536):
            if deaf:
                continue
            if self.bug == "forgets half a frame":
                buffer.clear()
            buffer += data
            if self.bug == "half a frame blocks all" and len(buffer) == 9:
                with self.lock:
                    time.sleep(1000)
            while len(buffer) >= 2:
                size = int.from_bytes(buffer[:2], "big")
                if size > MOST:
                    return
                if len(buffer) < 2 + size:
                    break
                frame = bytes(buffer[2 : 2 + size])
                del buffer[: 2 + size]
                with self.lock:
                    try:
                        answers = self.answer(frame)
                    except Wrong:
                        answers = [self.refusal(frame)]
                        deaf = self.bug == "deaf after an error"
                        if deaf:
                            break
                        if self.bug == "frames looked for in broken frames":
                            answers += self.inside(frame[3:])
                if self.bug == "one table for all peers":
                    self.route(frame, sock, answers)
                    continue
                sock.sendall(b"".join(map(self.packed, answers)))
                if self.bug == "loses what came together":
                    buffer.clear()

    def inside(self, data):
        """Take a frame out of one that is broken."""
        size = int.from_bytes(data[:2], "big")
        if not size or size > len(data) - 2:
            return []
        try:
            return self.answer(data[2 : 2 + size])
        except Wrong:
            return []

    def route(self, frame, sock, answers):
        """Send the answers to whoever asked under their number last, a moment later."""
        self.peers[frame[1:3]] = sock
        time.sleep(0.002)
        asked = self.peers.pop(frame[1:3], None)
        if asked is not None:
            asked.sendall(b"".join(map(self.packed, answers)))

    def door(self, sock):
        """Serve one connection of `door`."""
        buffer, inside = bytearray(), False
        while data := sock.recv(65536):
            buffer += data
            while len(buffer) >= 2:
                size = int.from_bytes(buffer[:2], "big")
                if size > MOST:
                    return
                if len(buffer) < 2 + size:
                    break
                frame = bytes(buffer[2 : 2 + size])
                del buffer[: 2 + size]
                if len(frame) < 3:
                    return
                kind, body = frame[0], frame[3:]
                answer = b"\xff" + frame[1:3] + b"\1"
                if kind == 1 and len(body) == 2 and not inside:
                    inside, answer = True, b"\x81" + frame[1:3]
                allowed = inside or self.bug == "state skipped"
                if kind == 2 and len(body) == 1 and allowed:
                    answer = b"\x82" + frame[1:3] + body
                sock.sendall(len(answer).to_bytes(2, "big") + answer)

    def datagrams(self, sock):
        """Serve `toy` over datagrams."""
        while True:
            frame, peer = sock.recvfrom(65536)
            if self.bug == "crash on a short datagram" and len(frame) < 3:
                os._exit(1)
            if self.bug == "silent after a long datagram" and len(frame) > 2000:
                time.sleep(1000)
            try:
                answers = self.answer(frame)
            except Wrong:
                answers = [self.refusal(frame)]
            for answer in answers:
                sock.sendto(answer, peer)


@attrs.define
class Planted:
    """
    One such server, in a process of its own; a context manager.
    """

    bug: str = ""
    how: str = "stream"
    sock: socket.socket = None
    pid: int = 0
    where: tuple = ()

    def __enter__(self):
        self.bind(("127.0.0.1", 0))
        self.begin()
        return self

    def __exit__(self, *exc_info):
        self.end()

    def bind(self, where):
        datagrams = self.how == "datagrams"
        self.sock = socket.socket(
            socket.AF_INET, socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM
        )
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind(where)
        self.where = self.sock.getsockname()
        if not datagrams:
            self.sock.listen(128)

    @property
    def url(self):
        transport = "udp" if self.how == "datagrams" else "tcp"
        return "{}://{}:{}".format(transport, *self.where)

    def end(self):
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def begin(self):
        """Start it, anew if it was there; give its number."""
        if self.pid:
            self.end()
            self.bind(self.where)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = forked(self.serve)
        self.sock.close()  # the child has it: when that is gone, nobody listens
        return self.pid

    def serve(self):
        speaker = Speaker(self.bug)
        if self.how == "datagrams":
            speaker.datagrams(self.sock)
        serve = speaker.door if self.how == "door" else speaker.stream

        def handle(sock):
            with sock, contextlib.suppress(OSError, KeyError):
                serve(sock)

        while True:
            sock, _ = self.sock.accept()
            if self.bug == "one at a time":
                handle(sock)
            else:
                threading.Thread(target=handle, args=(sock,), daemon=True).start()
