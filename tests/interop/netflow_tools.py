"""
What the tests with nfdump's and softflowd's programs share.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

PATIENCE = 60.0
"""Seconds; the programs need less than one."""


def until(condition):
    """Wait for something to become so."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def free_port():
    """Give a port of the loopback that nobody has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def waiting(port):
    """Say how many bytes wait in the queue of a UDP port; `None`: nobody listens."""
    places = {f"{address}:{port:04X}" for address in ("0100007F", "00000000")}
    for line in Path("/proc/net/udp").read_text("ascii").splitlines()[1:]:
        words = line.split()
        if words[1] in places:
            return int(words[4].partition(":")[2], 16)
    return None


@contextlib.contextmanager
def collector(nfcapd, folder):
    """Run nfcapd; give its port. At the end all that was sent is in the folder."""
    port = free_port()
    run = [nfcapd, "-b", "127.0.0.1", "-p", str(port), "-w", str(folder), "-t", "7200"]
    with subprocess.Popen(run, stdout=-3, stderr=-3) as process:
        try:
            until(lambda: waiting(port) is not None)
            yield port
            until(lambda: not waiting(port))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)


def dumped(nfdump, folder):
    """Give what nfdump reads in a folder that nfcapd has written."""
    run = [nfdump, "-R", str(folder), "-o", "json", "-q"]
    env = {**os.environ, "TZ": "UTC"}
    printed = subprocess.run(
        run, check=True, capture_output=True, timeout=PATIENCE, env=env
    ).stdout.decode()
    start = printed.find("{")
    if start < 0:
        return []
    text = printed[start : printed.rfind("}") + 1]
    return json.loads(f"[{text}]")


def send(datagrams, port):
    """Send datagrams to a port of the loopback, none before there is room for it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        for datagram in datagrams:
            until(lambda: (waiting(port) or 0) < 60_000)
            sock.send(datagram)
