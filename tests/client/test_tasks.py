"""
A client that several tasks share.
"""

# ruff: noqa: ASYNC110 - there is no event for what a client counts

import asyncio
import contextlib
import gc
import threading

import pytest

from protoserve import PeerTimeoutError, SessionClosedError
from protoserve.client import AsyncClient
from tests.client.kit import PATIENCE, Alarm, Ping, Pong, echo, unkeyed


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE))


@pytest.mark.parametrize("transport", ["tcp", "udp", "unix"])
def test_each_gets_its_own_answer(far, transport):
    """Each task gets the answers to its own requests."""
    peers = far(echo, transport)

    async def main():
        async with AsyncClient(peers.spoken, peers.url) as client:
            asked = [client.call(Ping(n)) for n in range(200)]
            assert [Pong(n) for n in range(200)] == await asyncio.gather(*asked)
            assert 1 == client.stats.connections

    run(main())


def test_cancelled_call(far):
    """A cancelled call leaves the others alone; its late answer is counted."""
    go = threading.Event()

    def late(far):
        first, second = far.receive(), far.receive()
        go.wait(PATIENCE)
        far.send((Pong(1), first[1]), (Pong(2), second[1]))
        echo(far)

    peers = far(late)

    async def main():
        async with AsyncClient(peers.spoken, peers.url) as client:
            first = asyncio.create_task(client.call(Ping(1)))
            await asyncio.sleep(0)
            second = asyncio.create_task(client.call(Ping(2)))
            while client.stats.sent < 2:
                await asyncio.sleep(0)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            go.set()
            assert Pong(2) == await second
            assert Pong(3) == await client.call(Ping(3))
            assert 1 == client.stats.late

    run(main())


def test_cancelled_exchange(far):
    """Without correlation too, a cancelled request's answer is not the next one's."""

    def late(far):
        first, second = far.receive(), far.receive()
        far.send((Pong(1), first[1]), (Pong(2), second[1]))
        echo(far)

    peers = far(late, "tcp", unkeyed)

    async def main():
        async with AsyncClient(unkeyed, peers.url) as client:
            first = asyncio.create_task(client.exchange(Ping(1)))
            while not client.stats.sent:
                await asyncio.sleep(0)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert Pong(2) == await client.exchange(Ping(2))
            assert Pong(3) == await client.exchange(Ping(3))

    run(main())


def test_exchanges_take_turns(far):
    """Without correlation, tasks ask one after the other."""
    peers = far(echo, "tcp", unkeyed)

    async def main():
        async with AsyncClient(unkeyed, peers.url) as client:
            asked = [client.exchange(Ping(n)) for n in range(50)]
            assert [Pong(n) for n in range(50)] == await asyncio.gather(*asked)

    run(main())


def test_turn_that_does_not_come(far):
    """Who cannot have its turn in time is told so."""
    peers = far(lambda far: [far.receive() for _ in range(9)], "tcp", unkeyed)

    async def main():
        async with AsyncClient(unkeyed, peers.url) as client:
            first = asyncio.create_task(client.exchange(Ping(1)))
            while not client.stats.sent:
                await asyncio.sleep(0)
            with pytest.raises(PeerTimeoutError, match="another exchange"):
                await client.exchange(Ping(2), timeout=0.02)
            await client.close()
            with pytest.raises(SessionClosedError, match="was closed"):
                await first

    run(main())


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_closing_wakes_everybody(far, transport):
    """Whoever waits, for answers or for messages, is told when the client is closed."""
    peers = far(lambda far: [far.receive() for _ in range(9)], transport)

    async def main():
        client = AsyncClient(peers.spoken, peers.url, timeout=None, retries=0)
        await client.connect()
        waiting = [asyncio.create_task(client.call(Ping(n))) for n in range(4)]
        waiting.append(asyncio.create_task(client.receive()))
        while client.stats.sent < 4:
            await asyncio.sleep(0)
        await client.close()
        for task in waiting:
            with pytest.raises(SessionClosedError, match="was closed"):
                await task
        with pytest.raises(SessionClosedError, match="is closed"):
            await client.call(Ping())

    run(main())


def test_iterators_can_be_left(far):
    """A stream that is left and closed lets others ask, without correlation too."""

    def stream(far):
        _, header = far.receive()
        far.send((Pong(1), header), (Alarm(5), header))
        echo(far)

    peers = far(stream, "tcp", unkeyed)

    async def main():
        async with AsyncClient(unkeyed, peers.url) as client:
            async with contextlib.aclosing(client.stream(Ping())) as answers:
                async for answer in answers:
                    assert Pong(1) == answer
                    break
            async for message in client.messages():
                assert Alarm(5) == message
                break

    run(main())


def test_forgotten_client_warns(far):
    """A client that is forgotten while it is open is closed, with a warning."""
    peers = far(echo)

    async def main():
        client = AsyncClient(peers.spoken, peers.url)
        await client.call(Ping(1))
        with pytest.warns(ResourceWarning, match="was forgotten"):  # noqa: PT031 - both
            del client
            gc.collect()
        await asyncio.sleep(0)

    run(main())
