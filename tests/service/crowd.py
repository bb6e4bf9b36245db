"""
Many clients in one selector loop: good ones that converse, and bad ones that do not.

A client is a generator. What it yields is what it waits for: `Until` a moment, `Frame`s
that come, or the `End` of the connection. The loop sends what `Actor.send` was given,
as far as the server takes it, and notes when the connection ended.
"""

import heapq
import itertools
import selectors
import socket
import time

import attrs

from protoserve import Role, Session
from protoserve.events import NEED_DATA, MessageReceived
from tests.service.kit import PATIENCE, Pong, spoken

FRAME = bytes.fromhex("0004 01 0000 05")
"""Ping(5), whose answer is as long."""


@attrs.frozen
class Until:
    moment: float


@attrs.frozen
class Frames:
    count: int


class End:
    pass


@attrs.define(eq=False)
class Actor:
    """
    One client; times are in seconds of the monotonic clock.
    """

    sock: socket.socket
    opened_at: float
    script: object = None
    ended_at: float | None = None
    """When the server was seen to have closed."""
    reset: bool = False
    received: bytes = b""
    unsent: bytes = b""
    waits: object = None
    limit: str = ""
    """What is to end it."""
    began_at: float = 0.0
    """Before that limit's time began."""
    deaf: bool = False
    """Whether nothing that comes is read."""

    def send(self, data):
        self.unsent += data

    def awaits(self, limit):
        """
        Say that from now on a limit's time runs, or soon.
        """
        # That for the first frame may be running: who has connected is served at once.
        began = self.opened_at if limit == "first_frame" else time.monotonic()
        self.limit, self.began_at = limit, began

    def frames(self):
        return len(self.received) // len(FRAME)


class Crowd:
    """
    The loop, and all that are in it.

    Args:
        address: whom they talk to.
    """

    def __init__(self, address):
        self.address = address
        self.actors = []
        self._selector = selectors.DefaultSelector()
        self._timers = []
        self._numbers = itertools.count()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for actor in self.actors:
            actor.sock.close()
        self._selector.close()

    def join(self, script, source="127.0.0.1"):
        """
        Let one more connect; the script is a function that takes its `Actor`.
        """
        sock = socket.socket()
        sock.setblocking(False)
        if source != "127.0.0.1":
            sock.bind((source, 0))
        actor = Actor(sock, time.monotonic())
        sock.connect_ex(self.address)
        self.actors.append(actor)
        actor.script = script(actor)
        self._go_on(actor)
        return actor

    def run(self, done, patience=PATIENCE):
        """
        Go on until `done()`.
        """
        deadline = time.monotonic() + patience
        while not done():
            now = time.monotonic()
            assert now < deadline, "it never came true"
            while self._timers and self._timers[0][0] <= now:
                _, _, actor = heapq.heappop(self._timers)
                if isinstance(actor.waits, Until) and actor.waits.moment <= now:
                    self._go_on(actor)
            pause = min(0.05, self._timers[0][0] - now) if self._timers else 0.05
            for key, events in self._selector.select(max(0.0, pause)):
                if events & selectors.EVENT_WRITE:
                    self._write(key.data)
                if events & selectors.EVENT_READ and not key.data.deaf:
                    self._read(key.data)

    def leave(self, actor):
        """
        Let one close its end.
        """
        if actor.ended_at is None:
            actor.ended_at = time.monotonic()
            if actor.sock in self._selector.get_map():
                self._selector.unregister(actor.sock)
            actor.sock.close()

    def _go_on(self, actor):
        while actor.script is not None:
            try:
                actor.waits = next(actor.script)
            except StopIteration:
                actor.script = actor.waits = None
                break
            if isinstance(actor.waits, Until):
                timer = (actor.waits.moment, next(self._numbers), actor)
                heapq.heappush(self._timers, timer)
                break
            if not self._is_there(actor):
                break
        self._write(actor)

    def _is_there(self, actor):
        if isinstance(actor.waits, Frames):
            return actor.frames() >= actor.waits.count
        return isinstance(actor.waits, End) and actor.ended_at is not None

    def _write(self, actor):
        if actor.ended_at is not None:
            return
        try:
            actor.unsent = actor.unsent[actor.sock.send(actor.unsent) :]
        except BlockingIOError:
            pass
        except OSError:  # it will be read as well
            actor.unsent = b""
        events = selectors.EVENT_WRITE if actor.unsent else 0
        if not actor.deaf:
            events |= selectors.EVENT_READ
        if actor.sock in self._selector.get_map():
            self._selector.unregister(actor.sock)
        if events:
            self._selector.register(actor.sock, events, actor)

    def _read(self, actor):
        try:
            data = actor.sock.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            actor.reset, data = True, b""
        if not data:
            self.leave(actor)
        actor.received += data
        if actor.waits is not None and self._is_there(actor):
            self._go_on(actor)


def pause(seconds):
    """
    Give what waits for so long.
    """
    return Until(time.monotonic() + seconds)


def silent(actor):
    """
    Say nothing.
    """
    yield End()


@attrs.define
class Conversing:
    """
    Good clients: they ask, wait for the answer, think, and ask again until told to stop.
    """

    pause: float = 0.02
    rounds: int = 0
    slowest: float = 0.0
    stopped: bool = False

    def __call__(self, actor):
        for number in itertools.count(1):
            if self.stopped:
                return
            started = time.monotonic()
            actor.send(FRAME)
            yield Frames(number)
            self.rounds += 1
            self.slowest = max(self.slowest, time.monotonic() - started)
            yield pause(self.pause)

    def check(self, actors):
        """
        Nobody had an error; each answer was right.
        """
        for actor in actors:
            assert actor.ended_at is None, actor.reset
            assert answers(actor.received)


def answers(data):
    """
    Say whether these are whole answers to `FRAME`, nothing else.
    """
    session = Session(spoken, Role.CLIENT)
    session.receive_data(data)
    count = 0
    while (event := session.next_event()) is not NEED_DATA:
        assert isinstance(event, MessageReceived), event
        assert Pong(5) == event.message
        count += 1
    return count * len(FRAME) == len(data)
