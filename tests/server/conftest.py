"""
What the tests of the servers share: a running loop, and patience.
"""

import contextlib
import socket
import struct
import tempfile
import threading
import time
from pathlib import Path

import pytest

PATIENCE = 60.0
"""Seconds after which a test gives up; nothing is meant to take that long."""


class Kit:
    """
    Small helpers, so that tests need import nothing from here.
    """

    patience = PATIENCE

    @staticmethod
    def until(condition, patience=PATIENCE):
        """
        Wait until `condition()` is true.
        """
        deadline = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < deadline, "it never came true"
            time.sleep(0.002)

    @staticmethod
    def connect(server):
        """
        Connect to a stream server; the socket has a timeout.
        """
        client = socket.socket(server.address_family, socket.SOCK_STREAM)
        client.settimeout(PATIENCE)
        client.connect(server.server_address)
        return client

    @staticmethod
    def ask(server, data=b"hello\n"):
        """
        Send `data`, end the stream, and return all that comes back.

        A handler that does not read it all resets the connection when it has answered,
        at whichever moment that is; what it has sent is there even so.
        """
        answer = []
        with Kit.connect(server) as client:
            client.sendall(data)
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while piece := client.recv(65_536):
                    answer.append(piece)
        return b"".join(answer)

    @staticmethod
    def reset(client):
        """
        Close a connection so that the other end meets a reset.
        """
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

    @staticmethod
    def descriptors():
        """
        Return the descriptors that this process has open.

        When anything forks, services of other tests that are still there begin to
        share their counts: those are left out.
        """
        found = set()
        for link in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # the listing's own
                found.add((link.name, link.readlink()))
        return {each for each in found if each[1].name != "memfd:protoserve (deleted)"}


@pytest.fixture
def kit():
    """
    The helpers.
    """
    return Kit


@pytest.fixture
def serve():
    """
    Return a function that runs a server's loop in a thread until the test ends.
    """
    running = []

    def start(server, poll_interval=3600.0):
        thread = threading.Thread(
            target=server.serve_forever, args=(poll_interval,), daemon=True
        )
        running.append((server, thread))
        thread.start()
        return thread

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join(PATIENCE)
        server.server_close()
        assert not thread.is_alive()


@pytest.fixture
def short_path():
    """
    A path for a Unix socket, short enough for one.
    """
    with tempfile.TemporaryDirectory(prefix="ps") as folder:
        yield f"{folder}/s"
