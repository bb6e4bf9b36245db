"""
What the modes of a run are made of.
"""

import asyncio
import threading

import pytest

from protoserve import DeclarationError, Limits, Service, route
from protoserve.serve import MODES, Runner, make_server
from protoserve.urls import Address
from tests.service.kit import PATIENCE, Ping, Pong, spoken, unacknowledged, until
from tests.service.test_drain import client_of, running


class Where:
    """
    Notes the loop and the thread that each message is answered on.
    """

    def __init__(self):
        self.loops = []
        self.release = threading.Event()

    @route
    async def ping(self, message: Ping) -> Pong:
        self.loops.append((asyncio.get_running_loop(), threading.get_ident()))
        await asyncio.sleep(0)
        return Pong(message.value)


def test_one_loop_for_all_addresses(folder):
    """In mode loop all addresses are served on one event loop, in one thread."""
    urls = ("tcp://127.0.0.1:0", "udp://127.0.0.1:0", f"unix://{folder}/a")
    service = Service(spoken, Where())
    with running(*urls, mode="loop", service=service) as (runner, _):
        for which in range(len(urls)):
            with client_of(runner, which) as client:
                assert Pong(1) == client.call(Ping(1))
        assert 3 == len(service.handler.loops)
        assert 1 == len(set(service.handler.loops))


def test_unread_frames_are_answered():
    """What had arrived but was not read, as a coroutine was at work, is answered."""

    class Waiting(Where):
        def __init__(self):
            super().__init__()
            self.begun = threading.Event()

        @route
        async def ping(self, message: Ping) -> Pong:
            self.begun.set()
            await asyncio.to_thread(self.release.wait, PATIENCE)
            return Pong(message.value)

    service = Service(spoken, Waiting(), limits=Limits(requests=1))
    with (
        running(mode="loop", service=service) as (runner, thread),
        client_of(runner) as client,
    ):
        client.send(Ping(1))
        assert service.handler.begun.wait(PATIENCE)
        client.send(Ping(2))
        until(lambda: not unacknowledged(client.sock))
        runner.stop()
        until(lambda: service.draining)
        service.handler.release.set()
        assert [Pong(1), Pong(2), None] == [client.receive() for _ in range(3)]
        client.sock.close()
        thread.join(PATIENCE)


@pytest.mark.parametrize(
    "mode", [mode for mode in MODES if mode not in ("prefork", "batch")]
)
def test_workers_need_a_mode_that_has_them(mode):
    """A number of workers in a mode without is refused."""
    with pytest.raises(
        DeclarationError, match=f"for modes prefork and batch, not {mode}"
    ):
        Runner(Service(spoken, Where()), [], mode, workers=2)


def test_wrong_number_of_workers():
    """A number of workers that cannot be is refused."""
    with pytest.raises(DeclarationError, match="above 0 or auto, not 0"):
        Runner(Service(spoken, Where()), [], "prefork", workers=0)


@pytest.mark.parametrize("mode", MODES)
def test_servers_of_modes(mode):
    """Each mode has servers for streams and datagrams."""
    service = Service(spoken, Where())
    for transport in ("tcp", "udp"):
        make_server(service, Address(transport, "127.0.0.1", 0), mode).server_close()
