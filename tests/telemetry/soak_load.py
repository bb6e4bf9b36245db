"""
What a soak sends: numbered datagrams from several exporters, at a pace.

Each record says which datagram it is from, so that a store can be asked what it has, and
whether it has it once. A datagram counts as sent when the kernel took it; on loopback only
a receiver's full queue loses it then, and the kernel counts that.
"""

import contextlib
import random
import socket
import struct
import threading
import time

import attrs

from tests.telemetry.stations import reading

RECORDS = 4
"""Those of each datagram."""
EXPORTERS = 3
_EACH = 100_000_000
"""Numbers that one exporter has to itself."""
_BURST = 20


@attrs.frozen
class Kind:
    """
    A protocol, what is sent of it, and where that is found.
    """

    protocol: str
    make: object
    """Makes a datagram of its number."""
    broken: object
    """Makes datagrams that are no messages."""
    table: str
    number: str
    """The column with a datagram's number."""
    record: str
    """The one with a record's within it."""


def flows(number):
    """
    Make a datagram of NetFlow v5.
    """
    head = struct.pack(
        ">HHIIIIBBH", 5, RECORDS, 1000, 1_790_000_000, 0, number * RECORDS, 0, 0, 0
    )
    records = (
        struct.pack(
            ">4s4s4sHHIIIIHHBBBBHHBBH",
            *(number.to_bytes(4, "big"), bytes(4), bytes(4), 1, 2, 10, 1000, 500, 900),
            *(record, 443, 0, 16, 6, 0, 64_500, 64_501, 24, 24, 0),
        )
        for record in range(RECORDS)
    )
    return head + b"".join(records)


STATIONS = Kind(
    "tests.telemetry.stations:stations",
    lambda number: reading(number, number, range(RECORDS)),
    lambda dice: dice.choice(
        (b"", b"\xff" * 9, b"\x01", reading(1)[:-1], b"\x63" * 40)
    ),
    "readings",
    "device",
    "channel",
)
NETFLOW = Kind(
    "protocols.netflow:netflow",
    flows,
    lambda dice: dice.choice(
        (b"", b"\xff" * 9, flows(1)[:30], b"\x00\x05\x00", b"x" * 99)
    ),
    "flows",
    "srcaddr",
    "srcport",
)


class Load:
    """
    Sends to a port, from a thread for each exporter.

    Args:
        kind: what.
        port: where.
        pace: datagrams a second, of all exporters together.
        seed: what chance begins with.
    """

    def __init__(self, kind, port, pace, seed):
        self.kind = kind
        self.broken = 0
        """Datagrams sent that are no messages."""
        self._to = ("127.0.0.1", port)
        self._pace = pace / EXPORTERS
        self._dice = random.Random(seed)
        self._sent = [0] * EXPORTERS
        self._ended = threading.Event()
        self._stack = contextlib.ExitStack()
        self._sockets = []
        for number in range(EXPORTERS):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((f"127.0.0.{2 + number}", 0))
            self._sockets.append(self._stack.enter_context(sock))
        self._locks = [threading.Lock() for _ in range(EXPORTERS)]
        self._threads = [
            threading.Thread(target=self._run, args=(number,))
            for number in range(EXPORTERS)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.end()
        self._stack.close()

    @property
    def good(self):
        """
        How many messages were sent.
        """
        return sum(self._sent)

    def end(self):
        """
        Send no more.
        """
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self, exporter):
        due = time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            # What was missed while nobody was let run is not made up for.
            due = max(due, time.monotonic() - 1.0) + _BURST / self._pace
            self._send(exporter, _BURST)

    def _send(self, exporter, count):
        with self._locks[exporter]:
            for _ in range(count):
                number = exporter * _EACH + self._sent[exporter]
                self._sockets[exporter].sendto(self.kind.make(number), self._to)
                self._sent[exporter] += 1

    def burst(self, count):
        """
        Send messages as fast as can be.
        """
        for start in range(0, count, _BURST):
            self._send(start // _BURST % EXPORTERS, _BURST)

    def flood(self, count):
        """
        Send what is no message, as fast as can be.
        """
        for number in range(count):
            data = self.kind.broken(self._dice)
            self._sockets[number % EXPORTERS].sendto(data, self._to)
            self.broken += 1
