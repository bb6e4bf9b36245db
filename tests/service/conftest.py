"""
Servers that run for the length of a test, and silence on all of them.
"""

import contextlib
import itertools
import logging
import socket
import tempfile
import threading
from pathlib import Path

import pytest

from protoserve import Service, service
from protoserve.rarelog import RareLog
from protoserve.server import ThreadingTCPServer
from tests.service.kit import Running, spoken


@pytest.fixture
def folder():
    """
    A folder with a path short enough for Unix sockets.
    """
    with tempfile.TemporaryDirectory(prefix="ps") as path:
        yield Path(path)


@pytest.fixture
def start(folder):
    """
    Run a server class with a service's handler until the test ends.
    """
    numbers = itertools.count()
    with contextlib.ExitStack() as stack:

        def run(server_class, service, **options):
            unix = server_class.address_family == socket.AF_UNIX
            address = str(folder / f"s{next(numbers)}")
            options = {"daemon_threads": True, "request_queue_size": 1024, **options}
            made = type(server_class.__name__, (server_class,), options)(
                address if unix else ("127.0.0.1", 0), service.RequestHandlerClass
            )
            thread = threading.Thread(target=made.serve_forever, args=(0.02,))
            thread.start()
            running = Running(made, thread, service)
            stack.callback(service.close)
            stack.callback(running.stop)
            stack.callback(service.abandon)
            return running

        yield run


@pytest.fixture(autouse=True)
def no_noise(capfd):
    """
    Nothing is ever printed: what goes wrong is logged.
    """
    yield
    printed = capfd.readouterr()
    assert ("", "") == (printed.out, printed.err)


@pytest.fixture
def logged(caplog, monkeypatch):
    """
    The lines that were logged; what is logged rarely begins anew.
    """
    monkeypatch.setattr(service, "_rare", RareLog(service.logger))
    caplog.set_level(logging.DEBUG, "protoserve")
    return lambda: "\n".join(r.getMessage() for r in caplog.records)


@pytest.fixture
def serve(start):
    """
    Serve a handler in threads over TCP; options are the service's.
    """

    def run(handler, server_class=ThreadingTCPServer, **options):
        return start(server_class, Service(spoken, handler, **options))

    return run
