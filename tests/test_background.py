"""
The event loop for servers that have none.
"""

import asyncio
import os
import threading

import pytest

from protoserve.background import BackgroundLoop
from tests.forking import forked


@pytest.fixture
def loop():
    made = BackgroundLoop()
    yield made
    made.close()


async def value(given):
    await asyncio.sleep(0)
    return given


def test_run(loop):
    """A coroutine's result is given to the thread that waits."""
    assert 5 == loop.run(value(5))
    assert [0, 1, 2] == sorted(in_threads(lambda i: loop.run(value(i)), 3))


def in_threads(function, count):
    results = []
    threads = [
        threading.Thread(target=lambda i=i: results.append(function(i)))
        for i in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_any_awaitable(loop):
    """What is awaitable need not be a coroutine."""

    class Awaitable:
        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            return 7

    assert 7 == loop.run(Awaitable())


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, OSError])
def test_what_a_coroutine_raises(loop, error):
    """It reaches the thread that waits, and nobody else."""

    async def fail():
        raise error("told to")

    with pytest.raises(error, match="told to"):
        loop.run(fail())
    assert 1 == loop.run(value(1))


def test_close(loop):
    """Closed twice or never begun, it makes no difference; then it begins anew."""
    loop.close()
    assert 1 == loop.run(value(1))
    loop.close()
    loop.close()
    assert 2 == loop.run(value(2))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_child(loop):
    """A forked child has a loop of its own, and leaves its parent's alone."""
    assert 1 == loop.run(value(1))
    pid = forked(lambda: loop.run(value(0)))
    assert (pid, 0) == os.waitpid(pid, 0)
    assert 2 == loop.run(value(2))
