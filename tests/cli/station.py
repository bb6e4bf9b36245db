"""
Services for `protoserve run` to run in tests.
"""

import asyncio
import sys
import time
import warnings

from protoserve import Protocol, Service, route
from tests.service.kit import Header, Ping, Pong, Text, spoken


def begun():
    """
    Say that a handler is at what it does not end.
    """
    say("begun", sys.stderr)


def say(text, file=sys.stdout):
    """
    Write a line at once: one of several processes that share the file.
    """
    file.write(f"{text}\n")
    file.flush()


class Station:
    """
    Answers, late or never where it is told to, or fails.
    """

    @route
    def ping(self, message: Ping) -> Pong:
        if message.value == 255:
            begun()
            time.sleep(1000)
        if message.value == 254:
            raise RuntimeError("told to\nin two lines, \x1b[31mred\u2028and \udc80")
        if message.value == 253:
            warnings.warn("something is odd", stacklevel=1)
        if message.value < 100:
            time.sleep(message.value / 100)
        return Pong(message.value)

    @route
    def text(self, message: Text):
        while True:
            yield Text(b"tick")
            time.sleep(0.01)


class Later(Station):
    """
    The same by coroutines, one of which blocks the loop.
    """

    @route
    async def ping(self, message: Ping) -> Pong:
        if message.value >= 254:
            begun()
        if message.value == 254:
            await asyncio.sleep(1000)
        if message.value == 255:
            time.sleep(1000)  # noqa: ASYNC251 - what must not hold up the end
        return Pong(message.value)


def lifespan(service):
    """
    Say when it is entered and left.
    """
    say("opened")
    yield
    say("closed")


def failing(service):
    """
    Cannot be entered.
    """
    raise OSError("no database")
    yield


datagrams = Protocol(
    "datagrams",
    header=Header,
    tag="kind",
    requests={1: Ping},
    responses={2: Pong},
    messages={3: Text},
)

app = Service(spoken, Station(), lifespan=lifespan)
later = Service(spoken, Later())
only_datagrams = Service(datagrams, Station())
unready = Service(spoken, Station(), lifespan=failing)
