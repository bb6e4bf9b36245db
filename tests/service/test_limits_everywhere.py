"""
The limits hold in every mode, on servers in processes of their own.

What a limit ends is ended in time and counted, and those who keep to the limits notice
nothing of it. Mode single serves one connection at a time, so there others wait until
the one before them has ended; it promises that this is in time.

Times are bounded exactly from below. From above they are bounded so that a loaded
machine does not matter: what is not ended by its limit would never end.
"""

import socket
import time

import attrs
import pytest

from protoserve import Limits, Role, Session
from protoserve.serve import MODES
from tests.service.crowd import (
    FRAME,
    Conversing,
    Crowd,
    End,
    Frames,
    pause,
    silent,
)
from tests.service.kit import (
    PATIENCE,
    Ping,
    Pong,
    Text,
    spoken,
    until,
)
from tests.service.limited import LARGE, nursery

CONCURRENT = [mode for mode in MODES if mode != "single"]
ON_LOOPS = ("loop", "prefork", "batch")
STALL = 10.0
"""Seconds that nobody waits for an answer, however busy the machine is."""
LATE = 30.0
"""Seconds that a limit may act late, on such a machine."""
STEP = 0.08
"""Seconds between two bytes of those who dribble."""


@pytest.fixture(scope="module")
def start():
    with nursery() as start:
        yield start


def conversing(crowd, count=20, source="127.0.0.1"):
    """
    Let good ones join, and wait until each has had an answer.
    """
    talk = Conversing()
    good = [crowd.join(talk, source.format(n // 4)) for n in range(count)]
    crowd.run(lambda: all(actor.frames() for actor in good))
    return talk, good


def begin(server):
    """
    Let it serve once; give how many descriptors it has then.
    """
    with server.client() as client:
        assert Pong(1) == client.call(Ping(1))
    return server.rest()


def refused(server, crowd):
    """
    Let all leave, and the server end; give how often it has refused what.
    """
    for actor in crowd.actors:
        crowd.leave(actor)
    return server.stop()


def go_on(crowd, talk, rounds=100):
    """
    Wait until those who converse have done so for some more rounds.
    """
    rounds += talk.rounds
    crowd.run(lambda: talk.rounds >= rounds)


def test_frame():
    """What the crowd sends is what it takes it for."""
    assert FRAME == Session(spoken, Role.CLIENT).encode(Ping(5))


# Those who dribble -----------------------------------------------------------

DEADLINES = {"first_frame": 1.0, "frame": 1.1, "idle": 1.4}
FORKED = {limit: 4 * seconds for limit, seconds in DEADLINES.items()}
"""Those of mode fork: to begin a process for each peer takes the machine its time."""
ENDLESS = bytes.fromhex("1000 01") + bytes(200)
"""The beginning of a frame of 4,096 bytes."""


def dribble(actor, data):
    for place in range(len(data)):
        actor.send(data[place : place + 1])
        yield pause(STEP)
    yield End()


def in_the_first_frame(number, _deadlines):
    """
    Dribble from the first byte on, or the third, with some that come at once.
    """

    def script(actor):
        actor.awaits("first_frame")
        actor.send(ENDLESS[: number % 20])
        yield pause(number % 10 * STEP / 10)
        yield from dribble(actor, ENDLESS[number % 20 :])

    return script


def all_but_one_byte(number, _deadlines):
    """
    Let one byte of the first frame be missing, and nothing more come.
    """

    def script(actor):
        actor.awaits("first_frame")
        yield pause(number % 7 * STEP)
        actor.send(FRAME[:-1])
        yield End()

    return script


def quiet(_number, _deadlines):
    def script(actor):
        actor.awaits("first_frame")
        yield End()

    return script


def in_a_later_frame(number, _deadlines):
    """
    Dribble after some good frames, the last of which has some of the next with it.
    """

    def script(actor):
        good = number % 3 + 1
        with_it = number % 5
        for count in range(1, good + 1):
            actor.awaits("frame")
            actor.send(FRAME + ENDLESS[: with_it if count == good else 0])
            yield Frames(count)
        if not with_it:
            actor.awaits("frame")
        yield from dribble(actor, ENDLESS[with_it:])

    return script


def late_for_each_deadline(number, deadlines):
    """
    End the first frame and begin the next when much of the time is over.
    """

    def script(actor):
        part = number % (len(FRAME) - 1) + 1
        actor.send(FRAME[:part])
        yield pause(deadlines["first_frame"] * 0.6)
        actor.send(FRAME[part:])
        yield Frames(1)
        yield pause(deadlines["idle"] * 0.6)
        actor.awaits("frame")
        yield from dribble(actor, ENDLESS)

    return script


def idle(number, _deadlines):
    def script(actor):
        for count in range(1, number % 4 + 2):
            actor.awaits("idle")
            actor.send(FRAME)
            yield Frames(count)
        yield End()

    return script


WAYS = (
    in_the_first_frame,
    all_but_one_byte,
    quiet,
    in_a_later_frame,
    late_for_each_deadline,
    idle,
)


def check_end(actor, deadlines):
    """
    It was ended by its limit, no sooner than that.
    """
    took = actor.ended_at - actor.began_at
    assert deadlines[actor.limit] <= took < deadlines[actor.limit] + LATE, actor.limit


def counted(actors):
    limits = [actor.limit for actor in actors]
    return {limit: limits.count(limit) for limit in sorted(set(limits))}


@pytest.mark.parametrize("mode", CONCURRENT)
def test_dribblers(start, mode):
    """Many that are slow in every way are gone in time; 20 good ones do not notice."""
    deadlines = FORKED if mode == "fork" else DEADLINES
    with (
        start(mode=mode, limits=deadlines) as server,
        Crowd(server.address) as crowd,
    ):
        talk, good = conversing(crowd)
        bad = [
            crowd.join(WAYS[n % len(WAYS)](n // len(WAYS), deadlines))
            for n in range(300)
        ]
        crowd.run(lambda: None not in [actor.ended_at for actor in bad], 3 * PATIENCE)
        talk.stopped = True
        crowd.run(lambda: not any(actor.script for actor in good))
        for actor in bad:
            check_end(actor, deadlines)
        talk.check(good)
        assert talk.slowest < STALL
        assert counted(bad) == refused(server, crowd)


def test_dribblers_one_by_one(start):
    """Mode single ends each in time, and then serves those that waited behind it."""
    with (
        start(mode="single", limits=DEADLINES) as server,
        Crowd(server.address) as crowd,
    ):
        ended = []
        for number, way in enumerate(WAYS):
            ended.append(crowd.join(way(number, DEADLINES)))
            talks = [Conversing() for _ in range(3)]
            good = [crowd.join(talk) for talk in talks]
            for talk, actor in zip(talks, good, strict=True):
                crowd.run(lambda talk=talk: talk.rounds)
                assert ended[-1].ended_at is not None
                talk.stopped = True
                talk.check([actor])
                crowd.leave(actor)
            check_end(ended[-1], DEADLINES)
        assert counted(ended) == refused(server, crowd)


# Those who do not read ---------------------------------------------------------


def never_reading(request):
    """
    Ask for more than fits anywhere, and read nothing of it.
    """

    def script(actor):
        actor.deaf = True
        actor.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        actor.send(FRAME)
        yield pause(STEP)
        actor.awaits("write")
        actor.send(request)
        yield End()

    return script


def asked(text):
    return Session(spoken, Role.CLIENT).encode(Text(text))


DEAF = {
    "answers": asked(b"size") * 2000,
    "stream": asked(b"stream"),
    "thread": asked(b"thread"),
    "task": asked(b"push"),
}
WRITE = 0.6
MUCH = 10 << 20
"""Bytes; what is pushed within the time would be far more."""


@pytest.mark.parametrize("mode", CONCURRENT)
def test_never_reading(start, mode):
    """Who never reads costs little memory, holds up nobody, and is closed."""
    with (
        start(mode=mode, limits={"write": WRITE}) as server,
        Crowd(server.address) as crowd,
    ):
        talk, good = conversing(crowd)
        before = server.memory()
        deaf = [crowd.join(never_reading(request)) for request in DEAF.values()]
        crowd.run(lambda: all(actor.limit for actor in deaf))
        most = 0

        def gone():
            nonlocal most
            most = max(most, server.memory())
            return len(server.sockets()) <= len(good)

        crowd.run(gone)
        took = time.monotonic() - min(actor.began_at for actor in deaf)
        assert WRITE <= took < WRITE + LATE
        go_on(crowd, talk)
        talk.check(good)
        assert talk.slowest < STALL
        assert most - before < MUCH
        # On a loop of its own accord, what pushes is not made to wait.
        floods = mode in ON_LOOPS
        expected = {"write": len(DEAF) - floods, "write_buffer": int(floods)}
        assert {limit: n for limit, n in expected.items() if n} == refused(
            server, crowd
        )


@pytest.mark.parametrize("kind", ["answers", "thread"])
def test_never_reading_one_by_one(start, kind):
    """Mode single closes who never reads, and then serves who waited behind it."""
    with (
        start(mode="single", limits={"write": WRITE / 2}) as server,
        Crowd(server.address) as crowd,
    ):
        before = server.memory()
        deaf = crowd.join(never_reading(DEAF[kind]))
        crowd.run(lambda: deaf.limit)
        talk = Conversing()
        good = crowd.join(talk)
        crowd.run(lambda: talk.rounds)
        talk.check([good])
        assert time.monotonic() - deaf.began_at >= WRITE / 2
        assert server.memory() - before < MUCH
        assert {"write": 1} == refused(server, crowd)


def never_reading_but_talking(actor):
    """
    Let another thread push, read nothing, and send something ever again.
    """
    actor.deaf = True
    actor.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    actor.send(DEAF["thread"])
    yield pause(STEP)
    for _ in range(100):
        actor.send(FRAME)
        yield pause(STEP / 2)
        actor.limit = "write"


@pytest.mark.parametrize("mode", ["threads", "pool", "loop"])
def test_more_deaf_ones_than_threads(start, mode):
    """Those who do not read what is pushed to them hold no thread of the pool."""
    with (
        start(mode=mode, limits={"write": 3 * STALL}) as server,
        Crowd(server.address) as crowd,
    ):
        talk, good = conversing(crowd)
        deaf = [crowd.join(never_reading_but_talking) for _ in range(40)]
        crowd.run(lambda: all(actor.limit for actor in deaf))
        go_on(crowd, talk, 400)
        talk.check(good)
        assert talk.slowest < STALL
        assert {} == refused(server, crowd)


# Those who are too many ----------------------------------------------------------


def crowded(actors):
    """
    Count those that are not ended, after all of the others.
    """
    return sum(actor.ended_at is None for actor in actors)


@pytest.mark.parametrize("mode", [mode for mode in CONCURRENT if mode != "fork"])
def test_connections(start, mode):
    """Of 1,000 at once those beyond the limit are closed at once, and counted."""
    limits = {"connections": 50, "first_frame": None}
    with (
        start(mode=mode, limits=limits, workers=1) as server,
        Crowd(server.address) as crowd,
    ):
        begun = begin(server)
        talk, good = conversing(crowd)
        flood = [crowd.join(silent) for _ in range(1000)]
        crowd.run(lambda: crowded(flood) == 30)
        go_on(crowd, talk)
        assert 30 == crowded(flood)
        talk.check(good)
        assert talk.slowest < STALL
        for actor in crowd.actors:
            crowd.leave(actor)
        assert server.rest() <= begun
        assert {"connections": 970} == refused(server, crowd)


def test_connections_of_processes(start):
    """In mode fork those beyond the limit wait in the kernel until there is room."""
    limits = {"connections": 30, "first_frame": None}
    with start(mode="fork", limits=limits) as server, Crowd(server.address) as crowd:
        begun = begin(server)
        talk, good = conversing(crowd)
        flood = [crowd.join(silent) for _ in range(200)]
        late = Conversing()
        good.append(crowd.join(late))
        crowd.run(lambda: len(server.family()) == 31)
        go_on(crowd, talk)
        assert (200, 0) == (crowded(flood), late.rounds)
        for actor in flood:
            crowd.leave(actor)
        crowd.run(lambda: late.rounds >= 3)
        talk.check(good)
        assert talk.slowest < STALL
        for actor in crowd.actors:
            crowd.leave(actor)
        assert server.rest() <= begun
        assert {} == refused(server, crowd)


def test_connections_one_by_one(start):
    """Mode single serves a flood one after the other; none of it is refused."""
    limits = {"connections": 1}
    with start(mode="single", limits=limits) as server, Crowd(server.address) as crowd:
        begun = begin(server)
        flood = [crowd.join(silent) for _ in range(1000)]
        for actor in flood:
            crowd.leave(actor)
        talk = Conversing()
        good = crowd.join(talk)
        crowd.run(lambda: talk.rounds >= 3)
        talk.check([good])
        crowd.leave(good)
        assert server.rest() <= begun
        assert {} == refused(server, crowd)


@pytest.mark.parametrize("mode", CONCURRENT)
def test_connections_per_address(start, mode):
    """One address has so many and no more; others, and its own later ones, are served."""
    limits = {"connections_per_address": 4, "first_frame": None}
    with (
        start(mode=mode, limits=limits, workers=1, strangers=True) as server,
        Crowd(server.address) as crowd,
    ):
        begun = begin(server)
        talk, good = conversing(crowd, source="127.0.1.{}")
        flood = [crowd.join(silent, f"127.0.0.{n % 5 + 2}") for n in range(50)]
        crowd.run(lambda: crowded(flood) == 20)
        go_on(crowd, talk)
        assert 20 == crowded(flood)
        talk.check(good)
        for actor in crowd.actors:
            crowd.leave(actor)
        assert server.rest() <= begun
        talk, good = conversing(crowd, 4, "127.0.0.2")
        talk.check(good)
        assert {"connections_per_address": 30} == refused(server, crowd)


@pytest.mark.parametrize("mode", MODES)
def test_loopback_is_exempt(start, mode):
    """The limit for each address does not hold for the loopback."""
    limits = {"connections_per_address": 1}
    with start(mode=mode, limits=limits) as server, Crowd(server.address) as crowd:
        for number in range(1, 2 if mode == "single" else 6):
            talk = Conversing()
            crowd.join(talk)
            crowd.run(lambda talk=talk: talk.rounds)
            assert number == crowded(crowd.actors)
        assert {} == refused(server, crowd)


# Requests in flight ----------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_requests(start, mode):
    """So many requests of one connection are at work; more wait in the kernel."""
    most = 3 if mode in ON_LOOPS else 1
    with start(mode=mode, limits={"requests": 3}, handler="Waiting") as server:
        with server.client() as client:
            requests = [*map(Ping, range(200, 200 + most)), *map(Ping, range(most, 9))]
            client.send(*requests[:most])
            port = client.sock.getsockname()[1]
            until(lambda: server.sockets().get(port) == 0)
            rest = b"".join(
                client.session.encode(request) for request in requests[most:]
            )
            client.sock.sendall(rest)
            until(lambda: server.sockets().get(port) == len(rest))
            client.sock.setblocking(False)
            with pytest.raises(BlockingIOError):  # none is answered yet
                client.sock.recv(1)
            client.sock.settimeout(STALL)
            answers = {}
            while len(answers) < len(requests):
                event = client.session.next_event()
                if not hasattr(event, "message"):
                    client.session.receive_data(client.sock.recv(65_536))
                    continue
                value, at_once = event.message.text.split()
                answers[event.request.value] = int(value), int(at_once)
            assert {ping.value for ping in requests} == set(answers)
            for value, (answered, _) in answers.items():
                assert value == answered
            assert most == max(at_once for _, at_once in answers.values())
        assert {} == server.stop()


# The size of a frame -----------------------------------------------------------------


@pytest.mark.parametrize("limit", [100, None])
@pytest.mark.parametrize("mode", MODES)
def test_frame_size(start, mode, limit):
    """A frame that is too long closes a stream; one that just fits is answered."""
    most = limit or spoken.framing.max_size
    with start(mode=mode, limits={"frame_size": limit}) as server:
        with server.client() as client:
            fits = Text(b"size".ljust(most - 3))
            for _ in range(2):
                # The answer may be as long as our framing allows.
                assert Text(LARGE) == client.call(fits)
        with server.client() as client:
            client.send(Ping(1))
            client.sock.sendall((most + 1).to_bytes(2, "big") + bytes(most + 1))
            assert Pong(1) == client.receive()
            assert b"" == client.rest()
        assert {"frame_size": 1} == server.stop()


@pytest.mark.parametrize("limit", [100, None])
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "fork"])
def test_frame_size_of_datagrams(start, mode, limit):
    """A datagram that is too long is dropped; the next is answered."""
    most = limit or spoken.framing.max_size
    with start(mode=mode, limits={"frame_size": limit}) as server:
        with server.datagrams() as client:
            assert Text(LARGE) == client.call(Text(b"size".ljust(most - 3)))
            for number in range(3):
                client.sock.send(
                    client.session.encode(Text(b"size".ljust(most - 3))) + b" "
                )
                assert Pong(number) == client.call(Ping(number))
        assert {"frame_size": 3} == server.stop()


# None ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_none(start, mode):
    """All limits can be switched off together, and each of them."""
    names = list(attrs.fields_dict(Limits))
    alone = [[name] for name in names] if mode in ("threads", "pool", "loop") else []
    for off in (names, *alone):
        with start(mode=mode, limits=dict.fromkeys(off)) as server:
            with server.client() as client:
                client.send(*map(Ping, range(5)))
                assert [Pong(n) for n in range(5)] == [
                    client.receive() for _ in range(5)
                ]
                assert Text(LARGE) == client.call(Text(b"size"))
            if len(server.ports) > 1:
                with server.datagrams() as client:
                    assert Pong(1) == client.call(Ping(1))
            assert {} == server.stop()
