"""
Clients of both kinds, and peers of all transports.
"""

import contextlib
import tempfile
from pathlib import Path

import pytest

from tests.client.kit import CLIENTS, Peers, spoken


@pytest.fixture
def folder():
    """
    A folder with a path short enough for Unix sockets.
    """
    with tempfile.TemporaryDirectory(prefix="ps") as path:
        yield Path(path)


@pytest.fixture
def far(folder):
    """
    Start a peer; `far(speak)` gives its URL, or all about it.
    """
    with contextlib.ExitStack() as stack:

        def start(speak, transport="tcp", protocol=spoken, **options):
            peers = Peers(transport, folder, protocol, speak, **options)
            stack.callback(peers.stop)
            return peers

        yield start


@pytest.fixture(params=CLIENTS)
def client(request):
    """
    Make clients of either kind, which are closed in the end.
    """
    with contextlib.ExitStack() as stack:

        def make(peers, protocol=spoken, **options):
            url = peers if isinstance(peers, str) else peers.url
            made = CLIENTS[request.param](protocol, url, **options)
            stack.callback(made.close)
            return made

        yield make
