"""
What the tests of ``protoserve run`` share.
"""

import os
import queue
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import attrs

from protoserve.urls import Address
from tests.service.kit import PATIENCE, connect

ROOT = Path(__file__).parents[2]


def in_mode(mode, *options):
    """
    Give the options for a mode, with the two workers that these tests want.
    """
    workers = ("--workers", "2") if mode == "prefork" else ()
    return ("--mode", mode, *workers, *options)


@attrs.define
class Process:
    """
    One run, in a process group of its own.
    """

    process: subprocess.Popen
    lines: list = attrs.field(factory=list)
    bound: list = attrs.field(factory=list)
    _queue: queue.Queue = attrs.field(factory=queue.Queue)
    _said_all: threading.Event = attrs.field(factory=threading.Event)

    def read(self):
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            if line.startswith("listening on "):
                self._queue.put(line.removeprefix("listening on ").rstrip("\n"))
        self._queue.put(None)
        self._said_all.set()

    def await_bound(self, count):
        for _ in range(count):
            url = self._queue.get(timeout=PATIENCE)
            assert url, self.lines
            self.bound.append(Address.parse(url))

    def client(self, which=0):
        address = self.bound[which]
        kind = socket.SOCK_STREAM if address.is_stream else socket.SOCK_DGRAM
        where = address.host if address.port is None else (address.host, address.port)
        return connect(where, kind)

    def stop(self, number=signal.SIGTERM):
        """
        Signal it; give the exit code, the seconds it took and what it printed.
        """
        started = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        seconds = time.monotonic() - started
        assert self._said_all.wait(PATIENCE)
        return code, seconds, self.process.stdout.read()

    @property
    def is_gone(self):
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False
