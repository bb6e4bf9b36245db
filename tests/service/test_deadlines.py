"""
Limits on connections: how many, and how long they may take for what.
"""

import socket
import struct
import threading
import time

import pytest

import protoserve.service
from protoserve import Limits, route
from tests.service.kit import Ping, Pong, Text, until


class Station:
    @route
    def ping(self, message: Ping) -> Pong:
        return Pong(message.value)

    @route
    def text(self, message: Text) -> Text:
        return Text(str(len(message.text)).encode())


def await_closed(running, client, limit):
    """
    Wait for the server to close; the limit is counted.
    """
    assert b"" == client.rest()
    until(lambda: running.service.refused[limit] == 1)


def test_first_frame(serve, logged):
    """A connection that says nothing is closed."""
    running = serve(Station(), limits=Limits(first_frame=0.1))
    with running.client() as client:
        await_closed(running, client, "first_frame")
    assert "limit first_frame: exceeded 0.1 s" in logged()


def test_first_frame_is_not_renewed(serve):
    """Bytes that make no frame do not help."""
    running = serve(Station(), limits=Limits(first_frame=0.2))
    with running.client() as client:
        client.sock.sendall(b"\0\5\1")
        await_closed(running, client, "first_frame")


def dribble(client, stop):
    client.sock.sendall(b"\x10\0")
    while not stop.wait(0.01):
        try:
            client.sock.sendall(b"\0")
        except OSError:
            return


@pytest.mark.parametrize("limit", ["first_frame", "frame"])
def test_dribbled_frame(serve, limit):
    """A frame must be whole in time, however steadily its bytes come."""
    running = serve(Station(), limits=Limits(**{limit: 0.2}))
    stop = threading.Event()
    with running.client() as client:
        if limit == "frame":
            assert Pong(1) == client.call(Ping(1))
        thread = threading.Thread(target=dribble, args=(client, stop))
        thread.start()
        await_closed(running, client, limit)
        stop.set()
        thread.join()


def test_frames_have_a_deadline_each(serve):
    """A new frame has its own time, also when it began in the last one's packet."""
    running = serve(Station(), limits=Limits(frame=2.0))
    frame = bytes.fromhex("0004 01 0000 05")
    with running.client() as client:
        for _ in range(4):
            client.sock.sendall(frame[3:] + frame[:3] if _ else frame + frame[:3])
            assert Pong(5) == client.receive()
            time.sleep(0.6)  # the sum is more than the limit


def test_idle(serve):
    """A silent connection is closed, one that talks is not."""
    running = serve(Station(), limits=Limits(idle=2.0, first_frame=1.5))
    with running.client() as client:
        for value in range(4):
            assert Pong(value) == client.call(Ping(value))
            time.sleep(0.6)  # the sum is more than either limit
        await_closed(running, client, "idle")


def test_idle_before_the_first_frame(serve):
    """Without a limit for the first frame, the idle limit holds."""
    running = serve(Station(), limits=Limits(idle=0.1, first_frame=None))
    with running.client() as client:
        await_closed(running, client, "idle")


def test_handler_time_is_not_idle_time(serve):
    """A peer is not closed for what the handler takes."""

    class Slow:
        @route
        def ping(self, message: Ping) -> Pong:
            time.sleep(0.6)
            return Pong()

    limits = Limits(idle=0.5, frame=0.5, first_frame=0.5, write=0.5)
    running = serve(Slow(), limits=limits)
    with running.client() as client:
        client.send(Ping(), Ping())
        assert [Pong(), Pong()] == [client.receive(), client.receive()]
        assert Pong() == client.call(Ping())


def test_no_limits(serve):
    """Everything may be switched off."""
    names = ("connections", "connections_per_address", "first_frame", "frame", "idle")
    limits = Limits(**dict.fromkeys((*names, "write", "peers", "peer_idle")))
    with serve(Station(), limits=limits).client() as client:
        assert Text(b"9999") == client.call(Text(bytes(9999)))


def test_very_long_limits(serve):
    """A limit may be longer than the kernel can wait at a time."""
    limits = Limits(idle=1e12, first_frame=1e12, frame=1e12, write=1e12)
    with serve(Station(), limits=limits).client() as client:
        client.sock.sendall(b"\0")
        client.sock.sendall(bytes.fromhex("04 01 0000 05"))
        assert Pong(5) == client.receive()


def test_slow_reader_is_not_cut_off(serve):
    """Whoever reads slowly, but in time, gets everything."""

    class Large:
        @route
        def ping(self, message: Ping) -> list[Text]:
            return [Text(bytes(15_000))] * 200

    running = serve(Large(), limits=Limits(write=10))
    with running.client() as client:
        client.send(Ping())
        for _ in range(200):
            assert 15_000 == len(client.receive().text)
            time.sleep(0.001)


def test_lazy_reader_does_not_slow_others(serve):
    """One that never reads holds nobody up; then it is closed."""

    class Large(Station):
        @route
        def text(self, message: Text) -> list[Text]:
            return [Text(bytes(15_000))] * 500

    running = serve(Large(), limits=Limits(write=0.5))
    with running.client() as lazy, running.client() as good:
        lazy.send(Text())
        for value in range(200):
            assert Pong(value) == good.call(Ping(value))
        until(lambda: running.service.refused["write"] == 1)
        until(lambda: running.service.connections == 1)
        assert Pong(1) == good.call(Ping(1))


def test_connections(serve, logged):
    """One connection too many is closed at once; when one ends there is room."""
    running = serve(Station(), limits=Limits(connections=2))
    with running.client() as first, running.client() as second:
        for client in (first, second):
            assert Pong(1) == client.call(Ping(1))
        with running.client() as third:
            await_closed(running, third, "connections")
        assert Pong(2) == first.call(Ping(2))
    until(lambda: not running.service.connections)
    with running.client() as fourth:
        assert Pong(1) == fourth.call(Ping(1))
    assert "is closed: limit connections" in logged()


def test_connections_per_address(serve, monkeypatch):
    """One address may have so many; the loopback is exempt."""
    running = serve(Station(), limits=Limits(connections_per_address=1))
    with running.client() as first, running.client() as second:
        assert Pong(1) == first.call(Ping(1))
        assert Pong(1) == second.call(Ping(1))
    until(lambda: not running.service.connections)
    monkeypatch.setattr(protoserve.service, "is_loopback", lambda _: False)
    with running.client() as first:
        assert Pong(1) == first.call(Ping(1))
        with running.client() as second:
            await_closed(running, second, "connections_per_address")
        assert Pong(2) == first.call(Ping(2))
    until(lambda: not running.service.connections)
    assert not running.service._per_address


# Peers that go away --------------------------------------------------------


@pytest.fixture
def gone(serve):
    """
    A server that remembers which hook was told of what.
    """
    from protoserve.server import ThreadingTCPServer

    told = []

    class Told(ThreadingTCPServer):
        def handle_error(self, request, client_address):
            told.append("error")

        def handle_disconnect(self, request, client_address):
            told.append("disconnect")

    class Large(Station):
        def disconnected(self) -> None:
            told.append("hook")

        @route
        def text(self, message: Text):
            while True:
                yield Text(bytes(15_000))

    return serve(Large(), Told), told


def test_reset_while_reading(gone):
    """A reset while nothing is sent is a disconnect, not an error."""
    running, told = gone
    client = running.client()
    assert Pong(1) == client.call(Ping(1))
    client.reset()
    until(lambda: len(told) == 2)
    assert ["hook", "disconnect"] == told


def test_reset_while_writing(gone):
    """A peer that goes away in the middle of an answer is a disconnect."""
    running, told = gone
    client = running.client()
    client.send(Text())
    assert client.receive()
    client.reset()
    until(lambda: len(told) == 2)
    assert ["hook", "disconnect"] == told


def test_quiet_end(gone):
    """A peer that closes is neither."""
    running, told = gone
    with running.client() as client:
        assert Pong(1) == client.call(Ping(1))
    until(lambda: not running.service.connections)
    assert ["hook"] == told


def test_connect_and_reset(gone):
    """Connections that are reset before they are handled hurt nobody."""
    running, told = gone
    for _ in range(50):
        client = running.client()
        linger = struct.pack("ii", 1, 0)
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.sock.close()
    with running.client() as client:
        assert Pong(1) == client.call(Ping(1))
    until(lambda: not running.service.connections)
    assert "error" not in told
