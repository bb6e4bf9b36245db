"""
What a whole service shares is opened once, before the first message.
"""

import asyncio
import contextlib
import subprocess
import sys
import threading
import time

import pytest

from protoserve import DeclarationError, Service, route
from tests.service.kit import PATIENCE, Ping, Pong, spoken


class Station:
    def __init__(self, told):
        self.told = told

    @route
    def ping(self, message: Ping) -> Pong:
        self.told.append("ping")
        return Pong()


def spans(told):
    """
    One lifespan of each kind.
    """

    @contextlib.contextmanager
    def sync(service):
        told.append("open")
        yield service
        told.append("close")

    @contextlib.asynccontextmanager
    async def later(service):
        await asyncio.sleep(0)
        told.append("open")
        yield
        await asyncio.sleep(0)
        told.append("close")

    def generator(service):
        told.append("open")
        yield
        told.append("close")

    async def async_generator(service):
        told.append("open")
        yield
        told.append("close")

    class Manager:
        def __init__(self, service):
            pass

        def __enter__(self):
            told.append("open")

        def __exit__(self, *exc_info):
            told.append("close")

    return {
        "sync": sync,
        "async": later,
        "generator": generator,
        "async generator": async_generator,
        "class": Manager,
    }


@pytest.mark.parametrize("kind", list(spans([])))
def test_kinds(serve, kind):
    """It is opened once, before the first message, and closed with the service."""
    told = []
    running = serve(Station(told), lifespan=spans(told)[kind])
    assert [] == told
    clients = [running.client() for _ in range(5)]
    for client in clients:
        client.send(Ping())
    for client in clients:
        assert Pong() == client.receive()
        client.sock.close()
    assert ["open", *["ping"] * 5] == told
    running.service.close()
    running.service.close()
    assert ["open", *["ping"] * 5, "close"] == told
    with running.client() as client:
        assert Pong() == client.call(Ping())
    assert "open" == told[7]


def test_context_manager():
    """A service is a context manager; it may be used again."""
    told = []
    service = Service(spoken, Station(told), lifespan=spans(told)["sync"])
    for _ in range(2):
        with service as same:
            assert service is same
            service.open()
            told.append("inside")
    assert ["open", "inside", "close"] * 2 == told


def test_shares_the_loop_with_routes(serve):
    """An async lifespan and async routes run on one loop."""
    loops = []

    async def lifespan(service):
        loops.append(asyncio.get_running_loop())
        yield

    class Later:
        @route
        async def ping(self, message: Ping) -> Pong:
            loops.append(asyncio.get_running_loop())
            return Pong()

    with serve(Later(), lifespan=lifespan).client() as client:
        client.call(Ping())
    assert loops[0] is loops[1]


def test_no_loop_unless_needed(serve):
    """A service without coroutines starts no thread for them."""
    running = serve(Station([]))
    with running.client() as client:
        client.call(Ping())
    running.service.close()
    assert None is running.service._background._thread
    before = set(threading.enumerate())  # some may be about to end
    with Service(spoken, Station([])):
        assert set(threading.enumerate()) <= before


def test_lifespan_that_fails(serve, capfd):
    """Nobody is served before it has succeeded."""
    attempts = []

    @contextlib.contextmanager
    def lifespan(service):
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("no database")
        yield

    running = serve(Station([]), lifespan=lifespan)
    with running.client() as client:
        assert None is client.receive()
    with running.client() as client:
        assert Pong() == client.call(Ping())
    assert "no database" in capfd.readouterr().out


def test_what_is_no_lifespan():
    """It is a function that gives a context manager."""
    service = Service(spoken, Station([]), lifespan=lambda service: 5)
    with pytest.raises(DeclarationError, match="lifespan= takes a context manager"):
        service.open()


def test_closing_cancels_coroutines(serve):
    """What still runs on the loop is cancelled when the service is closed."""
    events = []
    started = threading.Event()

    class Later:
        @route
        async def ping(self, message: Ping) -> Pong:
            started.set()
            try:
                await asyncio.sleep(1000)
            finally:
                events.append("cancelled")
            return Pong()

    running = serve(Later())
    with running.client() as client:
        client.send(Ping())
        assert started.wait(PATIENCE)
        running.service.close()
        assert ["cancelled"] == events
        assert None is client.receive()


def test_stuck_loop(serve, logged):
    """A coroutine that blocks does not keep the service from being closed."""
    release, started = threading.Event(), threading.Event()
    told = []

    class Blocking:
        @route
        async def ping(self, message: Ping) -> Pong:
            started.set()
            release.wait(PATIENCE)
            return Pong()

    running = serve(Blocking(), lifespan=spans(told)["async"])
    with running.client() as client:
        client.send(Ping())
        assert started.wait(PATIENCE)
        begun = time.monotonic()
        running.service.close()
        assert time.monotonic() - begun < PATIENCE / 2
        assert ["open"] == told
        assert "a coroutine blocks its event loop" in logged()
        release.set()
        assert Pong() == client.receive()


def test_closed_at_exit():
    """A service that nobody closes is closed when the interpreter exits."""
    program = """
from protoserve import Service
from tests.service.kit import spoken
from tests.service.test_lifespan import Station, spans

class Told(list):
    append = print

Service(spoken, Station([]), lifespan=spans(Told())["async"]).open()
"""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert ("open\nclose\n", "") == (ran.stdout, ran.stderr)
