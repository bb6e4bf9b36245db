"""
Stopping: what has arrived is answered, what is idle ends, nothing waits for ever.
"""

import contextlib
import socket
import threading
import time

import pytest

from protoserve import DeclarationError, Protocol, Service, Session, route
from protoserve.serve import Runner, make_server
from protoserve.urls import Address
from tests.service.kit import (
    PATIENCE,
    Header,
    Ping,
    Pong,
    Text,
    connect,
    descriptors,
    spoken,
    until,
)

SOON = 30.0
"""Seconds in which an end that waits for nothing comes, on a busy machine."""


class Station:
    """
    Takes its time where it is told to.
    """

    def __init__(self):
        self.started = threading.Event()
        self.release = threading.Event()
        self.disconnected_count = 0

    @route
    def ping(self, message: Ping) -> Pong:
        if message.value:
            self.started.set()
            self.release.wait(PATIENCE)
        return Pong(message.value)

    def disconnected(self, session: Session) -> None:
        time.sleep(0.02)
        self.disconnected_count += 1


@contextlib.contextmanager
def running(*urls, mode="threads", drain=2 * SOON, service=None):
    """
    Run a service in a thread; give the runner.
    """
    runner = Runner(
        service or Service(spoken, Station()),
        [Address.parse(url) for url in urls or ("tcp://127.0.0.1:0",)],
        mode,
        drain,
    )
    runner.bind()
    thread = threading.Thread(target=runner.serve)
    thread.start()
    runner_thread = (runner, thread)
    try:
        yield runner_thread
    finally:
        runner.service.handler.release.set()
        runner.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        runner.service.close()


def client_of(runner, which=0):
    address = runner.bound[which]
    kind = socket.SOCK_STREAM if address.is_stream else socket.SOCK_DGRAM
    where = address.host if address.port is None else (address.host, address.port)
    return connect(where, kind)


def stop(runner, thread):
    started = time.monotonic()
    runner.stop()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    return time.monotonic() - started


@pytest.mark.parametrize("mode", ["threads", "single", "pool", "loop"])
def test_idle_connections_end_at_once(mode):
    """A drain does not wait for peers that want nothing."""
    with running(mode=mode) as (runner, thread):
        clients = [client_of(runner) for _ in range(1 if mode == "single" else 20)]
        for client in clients:
            assert Pong() == client.call(Ping())
        assert stop(runner, thread) < SOON
        for client in clients:
            assert None is client.receive()
            client.sock.close()
        assert len(clients) == runner.service.handler.disconnected_count


@pytest.mark.parametrize("mode", ["threads", "single", "pool"])
def test_what_is_in_flight_is_answered(mode):
    """A request at work, and those behind it, are answered before the end."""
    with running(mode=mode) as (runner, thread):
        with client_of(runner) as client:
            client.send(Ping(1), Ping(2), Ping(3))
            station = runner.service.handler
            assert station.started.wait(PATIENCE)
            runner.stop()
            time.sleep(0.05)
            assert thread.is_alive()
            station.release.set()
            assert [1, 2, 3] == [client.receive().value for _ in range(3)]
            assert None is client.receive()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_nothing_new_is_accepted():
    """While it drains, the address is free for a successor."""
    with running() as (runner, _), client_of(runner) as client:
        client.send(Ping(1))
        assert runner.service.handler.started.wait(PATIENCE)
        runner.stop()
        address = (runner.bound[0].host, runner.bound[0].port)

        def refused():
            with socket.socket() as probe:
                return probe.connect_ex(address) != 0

        until(refused)
        with (
            running(str(runner.bound[0])) as (successor, _),
            client_of(successor) as new,
        ):
            assert Pong() == new.call(Ping())
        runner.service.handler.release.set()
        assert Pong(1) == client.receive()


@pytest.mark.parametrize("mode", ["threads", "single", "pool"])
def test_deadline(mode, logged):
    """What is not done in time is ended."""
    with (
        running(mode=mode, drain=0.2) as (runner, thread),
        client_of(runner) as client,
    ):
        client.send(Ping(1))
        assert runner.service.handler.started.wait(PATIENCE)
        assert 0.2 <= stop(runner, thread) < SOON
        assert "1 requests were not done after 0.2 s" in logged()
        assert b"" == client.rest()


def test_streaming_for_ever(logged):
    """A route that never ends is ended with its connection."""

    class Ticker(Station):
        @route
        def text(self, message: Text):
            while not self.release.wait(0.01):
                yield Text(b"tick")

    service = Service(spoken, Ticker())
    with (
        running(drain=0.2, service=service) as (runner, thread),
        client_of(runner) as client,
    ):
        client.send(Text())
        assert Text(b"tick") == client.receive()
        assert stop(runner, thread) < SOON
    assert 1 == service.handler.disconnected_count


def test_half_a_request_ends_at_once():
    """An unfinished frame is not waited for."""
    with running() as (runner, thread), client_of(runner) as client:
        assert Pong() == client.call(Ping())
        client.sock.sendall(b"\0\4")
        until(lambda: len(runner.service._connections) == 1)
        assert stop(runner, thread) < SOON
        assert None is client.receive()


def test_queued_datagrams_are_answered():
    """Datagrams that had arrived when it stopped are answered."""
    with running("udp://127.0.0.1:0") as (runner, thread), client_of(runner) as client:
        client.send(Ping(1))
        assert runner.service.handler.started.wait(PATIENCE)
        for value in range(2, 12):
            client.send(Ping(value))
        runner.stop()
        time.sleep(0.05)
        runner.service.handler.release.set()
        assert list(range(1, 12)) == [client.receive().value for _ in range(11)]
        thread.join(PATIENCE)


def test_queued_connections_are_answered():
    """Connections that waited to be accepted are served, if they have said what."""
    with running(mode="single") as (runner, thread):
        first, second, third = (client_of(runner) for _ in range(3))
        first.send(Ping(1))
        assert runner.service.handler.started.wait(PATIENCE)
        second.send(Ping(2))
        runner.stop()
        time.sleep(0.05)
        runner.service.handler.release.set()
        assert Pong(1) == first.receive()
        assert Pong(2) == second.receive()
        assert None is third.receive()
        for client in (first, second, third):
            client.sock.close()
        thread.join(PATIENCE)


def test_several_addresses(folder):
    """All addresses serve, and stop together."""
    urls = ("tcp://127.0.0.1:0", "udp://127.0.0.1:0", "tcp://[::1]:0", "udp://[::1]:0",
            f"unix://{folder}/a", f"unixgram://{folder}/b")  # fmt: skip
    with running(*urls) as (runner, thread):
        for which in range(len(urls)):
            with client_of(runner, which) as client:
                assert Pong() == client.call(Ping())
        stop(runner, thread)
    assert [] == list(folder.iterdir())


def test_again():
    """A service that was drained can be served again."""
    service = Service(spoken, Station())
    for _ in range(2):
        with running(service=service) as (runner, thread), client_of(runner) as client:
            assert Pong() == client.call(Ping())
            time.sleep(0.01)
            assert Pong() == client.call(Ping())
            stop(runner, thread)


def test_stop_before_serve():
    """To be asked to stop before it began is to end at once."""
    runner = Runner(Service(spoken, Station()), [Address("tcp", "127.0.0.1", 0)])
    runner.bind()
    runner.stop()
    runner.serve()


def test_all_addresses_or_none(folder):
    """If one address cannot be had, none is kept."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        before = descriptors()
        urls = [f"unix://{folder}/a", taken]
        runner = Runner(Service(spoken, Station()), [Address.parse(u) for u in urls])
        with pytest.raises(OSError, match="in use"):
            runner.bind()
        assert [] == list(folder.iterdir())
        del runner
        assert before >= descriptors() - 2


@pytest.mark.parametrize("transport", ["unix", "unixgram"])
def test_stale_socket_is_replaced(folder, transport):
    """A path that a dead server left is taken over, one that is in use is not."""
    path = folder / "s"
    kind = socket.SOCK_STREAM if transport == "unix" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_UNIX, kind) as dead:
        dead.bind(str(path))
    with running(f"{transport}://{path}") as (runner, _):
        with client_of(runner) as client:
            assert Pong() == client.call(Ping())
        with pytest.raises(OSError, match="in use"):
            make_server(runner.service, Address(transport, str(path)))
        with client_of(runner) as client:
            assert Pong() == client.call(Ping())


@pytest.mark.parametrize("transport", ["unix", "unixgram"])
def test_files_are_never_removed(folder, transport):
    """A path that is no socket is left alone."""
    path = folder / "precious"
    path.write_text("data")
    with pytest.raises(OSError, match="in use"):
        make_server(Service(spoken, Station()), Address(transport, str(path)))
    assert "data" == path.read_text()


def test_what_cannot_be_served():
    """A protocol without framing has no streams; modes have names."""
    datagrams = Protocol("d", header=Header, tag="kind", requests={1: Ping},
                         responses={2: Pong, 3: Text})  # fmt: skip
    service = Service(datagrams, Station())
    with pytest.raises(DeclarationError, match="d has no framing=.*use udp://"):
        make_server(service, Address("tcp", "127.0.0.1", 0))
    with pytest.raises(DeclarationError, match="unknown mode 'fast'"):
        make_server(service, Address("udp", "127.0.0.1", 0), "fast")
    make_server(service, Address("udp", "127.0.0.1", 0)).server_close()


def test_long_datagrams_are_dropped(folder, logged):
    """A datagram that is too long is told, and the next one is served."""
    with running(f"unixgram://{folder}/s") as (runner, _), client_of(runner) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)
        client.sock.send(bytes(70_000))
        assert Pong() == client.call(Ping())
    assert "longer than 65535 bytes and was dropped" in logged()


def test_server_failures_are_logged(logged):
    """What goes wrong outside of routes is logged too."""

    def lifespan(service):
        raise OSError("no database")
        yield

    service = Service(spoken, Station(), lifespan=lifespan)
    with running(service=service) as (runner, _), client_of(runner) as client:
        assert None is client.receive()
    assert "the request from ('127.0.0.1'" in logged()
