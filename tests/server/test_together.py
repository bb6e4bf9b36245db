"""
What `serve_together` leaves behind: nothing.
"""

import asyncio
import gc
import threading

import pytest

from protoserve import Service, route
from protoserve.server import EventLoopMixIn, TCPServer
from protoserve.server.eventloop import serve_together
from tests.service.kit import PATIENCE, Ping, Pong, connect, spoken, until

ADDRESS = ("127.0.0.1", 0)


class Patient:
    """Answers never, and needs a moment to end."""

    def __init__(self):
        self.said = []

    @route
    async def ping(self, message: Ping) -> Pong:
        self.said.append("asked")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            self.said.append("ended")


class Server(EventLoopMixIn, TCPServer):
    drain_timeout = 0.05


class Failing(Server):
    async def _serve_on(self, loop, poll_interval):
        await asyncio.sleep(0)
        raise RuntimeError("no loop for this one")


@pytest.fixture
def patient():
    handler = Patient()
    app = Service(spoken, handler)
    yield app, handler.said
    app.close()


def test_routes_end(patient, caplog):
    """Routes that are still busy when the time is up are cancelled, and can tidy up."""
    app, said = patient
    with Server(ADDRESS, app.RequestHandlerClass) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with connect(server.server_address) as client:
            client.send(Ping(1))
            until(lambda: said)
            server.shutdown()
            thread.join(PATIENCE)
    assert ["asked", "ended"] == said
    gc.collect()
    assert [] == [r.message for r in caplog.records if r.name == "asyncio"]


def test_others_end(patient, caplog):
    """If one of several servers fails, nothing of the others is left."""
    app, _ = patient
    with (
        Server(ADDRESS, app.RequestHandlerClass) as good,
        Failing(ADDRESS, app.RequestHandlerClass) as bad,
    ):
        with pytest.raises(RuntimeError, match="no loop for this one"):
            serve_together([good, bad], 3600)
        assert good._direct is None or good._direct.epoll.closed
    gc.collect()
    assert [] == [r.message for r in caplog.records if r.name == "asyncio"]
