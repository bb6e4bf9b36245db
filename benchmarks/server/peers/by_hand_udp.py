"""
What a declared service does with datagrams, written by hand with struct: each becomes
an attrs object, a handler's method is called with it, its reply is packed.

Once with recvfrom and sendto, and once with recvmmsg and sendmmsg by ctypes, many
datagrams a call. The batch that is handed on as NumPy columns makes no objects.
"""

from __future__ import annotations

import ctypes
from typing import Any

import attrs

from benchmarks.server.peers.least import RECORD
from benchmarks.server.peers.running import Options, Tally, ready, receiver

BATCH = 256
STRIDE = 256
_WAIT_FOR_ONE = 0x10000


@attrs.define
class Reading:
    """
    A datagram's eight fields.
    """

    seq: int
    device: int
    kind: int
    flags: int
    value: float
    at: int
    low: int
    high: int


class Collector:
    """
    Takes readings.

    Args:
        every: after how many it says so.
    """

    def __init__(self, every: int) -> None:
        self.tally = Tally(every)

    def reading(self, message: Reading) -> None:
        """
        Take note of one.
        """
        self.tally.add(message.seq)


class Station:
    """
    Answers readings.
    """

    def reading(self, message: Reading) -> Reading:
        """
        Give the values back, as another kind.
        """
        return Reading(
            message.seq,
            message.device,
            message.kind | 0x80,
            message.flags,
            message.value,
            message.at,
            message.low,
            message.high,
        )


def _packed(m: Reading) -> bytes:
    return RECORD.pack(m.seq, m.device, m.kind, m.flags, m.value, m.at, m.low, m.high)


def ingest(options: Options) -> None:
    """
    Take datagrams by recvfrom.
    """
    receive, unpack = receiver(options).recvfrom, RECORD.unpack
    reading = Collector(options.every).reading
    ready()
    while True:
        data, _ = receive(2048)
        if len(data) == RECORD.size:
            reading(Reading(*unpack(data)))


def answer(options: Options) -> None:
    """
    Answer datagrams by recvfrom and sendto.
    """
    sock, reading = receiver(options), Station().reading
    receive, send, unpack = sock.recvfrom, sock.sendto, RECORD.unpack
    ready()
    while True:
        data, address = receive(2048)
        if len(data) == RECORD.size:
            send(_packed(reading(Reading(*unpack(data)))), address)


class _Bytes(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]


class _Message(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint),
        ("bytes", ctypes.c_void_p),
        ("bytes_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("unused", ctypes.c_int),
        ("size", ctypes.c_uint),
        ("unused_too", ctypes.c_uint),
    ]


def _address(buffer: bytearray) -> int:
    return ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))


class Many:
    """
    Room for many datagrams in one buffer, and the two system calls.
    """

    def __init__(self, options: Options) -> None:
        self.sock = receiver(options)
        self.buffer = bytearray(BATCH * STRIDE)
        start = _address(self.buffer)
        self._bytes = bytearray(ctypes.sizeof(_Bytes) * BATCH)
        self._names = bytearray(16 * BATCH)
        self.raw = bytearray(ctypes.sizeof(_Message) * BATCH)
        messages = (_Message * BATCH).from_buffer(self.raw)
        places = (_Bytes * BATCH).from_buffer(self._bytes)
        for i in range(BATCH):
            places[i] = (start + i * STRIDE, STRIDE)
            message = messages[i]
            message.name = _address(self._names) + 16 * i
            message.name_size = 16
            message.bytes = _address(self._bytes) + ctypes.sizeof(_Bytes) * i
            message.bytes_count = 1
        self.sizes = memoryview(self.raw).cast("I")[14::16]
        self.sending = memoryview(self._bytes).cast("Q")[1::2]
        libc = ctypes.CDLL(None)
        pointer = ctypes.c_void_p
        self._receive, self._send = libc.recvmmsg, libc.sendmmsg
        self._receive.argtypes = [
            ctypes.c_int, pointer, ctypes.c_uint, ctypes.c_int, pointer
        ]  # fmt: skip
        self._send.argtypes = [ctypes.c_int, pointer, ctypes.c_uint, ctypes.c_int]
        self._at = _address(self.raw)
        self._descriptor = self.sock.fileno()

    def receive(self) -> int:
        """
        Wait for datagrams; say how many there are.
        """
        return max(
            0, self._receive(self._descriptor, self._at, BATCH, _WAIT_FOR_ONE, None)
        )

    def send(self, number: int) -> None:
        """
        Send the first datagrams of the buffer to where they came from.
        """
        done = 0
        while done < number:
            at = self._at + done * ctypes.sizeof(_Message)
            done += max(1, self._send(self._descriptor, at, number - done, 0))


def many_ingest(options: Options) -> None:
    """
    Take datagrams by recvmmsg, an object each.
    """
    many, reading = Many(options), Collector(options.every).reading
    buffer, sizes, unpack, size = many.buffer, many.sizes, RECORD.unpack_from, 32
    ready()
    while True:
        number = many.receive()
        at = 0
        for length in sizes[:number].tolist():
            if length == size:
                reading(Reading(*unpack(buffer, at)))
            at += STRIDE


def columns_ingest(options: Options) -> None:
    """
    Take datagrams by recvmmsg, as NumPy columns.
    """
    import numpy as np

    names = [field.name for field in attrs.fields(Reading)]
    formats = [">u4", ">u2", "u1", "u1", ">f8", ">i8", ">u4", ">u4"]
    offsets = [0, 4, 6, 7, 8, 16, 24, 28]
    layout: Any = {
        "names": names,
        "formats": formats,
        "offsets": offsets,
        "itemsize": STRIDE,
    }
    many, tally = Many(options), Tally(options.every)
    records = np.frombuffer(many.buffer, np.dtype(layout))
    sizes = np.frombuffer(many.raw, np.uint32)[14::16]
    ready()
    while True:
        number = many.receive()
        if not number:
            continue
        found = records[:number]
        good = sizes[:number] == RECORD.size
        if not good.all():
            found = found[good]
        columns = {
            name: found[name].astype(np.dtype(kind).newbyteorder("="))
            for name, kind in zip(names, formats, strict=True)
        }
        tally.add(int(columns["seq"][-1]), len(found))


def many_answer(options: Options) -> None:
    """
    Answer datagrams by recvmmsg and sendmmsg.
    """
    many, reading = Many(options), Station().reading
    buffer, sizes = many.buffer, many.sizes
    unpack, pack_into, size = RECORD.unpack_from, RECORD.pack_into, RECORD.size
    sending = many.sending
    for i in range(BATCH):  # requests and replies are of one size; others are cut
        sending[i] = size
    ready()
    while True:
        number = many.receive()
        at = 0
        for length in sizes[:number].tolist():
            if length == size:
                m = reading(Reading(*unpack(buffer, at)))
                pack_into(
                    buffer, at,
                    m.seq, m.device, m.kind, m.flags, m.value, m.at, m.low, m.high,
                )  # fmt: skip
            at += STRIDE
        many.send(number)
