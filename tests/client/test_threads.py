"""
A client that several threads share.
"""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from protoserve import PeerTimeoutError, SessionClosedError
from protoserve.client import Client, _connecting
from tests.client.kit import PATIENCE, Alarm, Bulk, Ping, Pong, echo, unkeyed
from tests.service.kit import descriptors, until


@pytest.fixture
def pool():
    with ThreadPoolExecutor(16) as pool:
        yield pool


@pytest.mark.parametrize("transport", ["tcp", "udp", "unix"])
def test_each_gets_its_own_answer(far, pool, transport):
    """Whoever reads, each thread gets the answers to its own requests."""
    peers = far(echo, transport)
    with Client(peers.spoken, peers.url) as client:

        def work(start):
            for n in range(start, start + 60):
                assert Pong(n % 256) == client.call(Ping(n % 256))
            return True

        assert [True] * 16 == list(pool.map(work, range(0, 160, 10)))


def test_answers_in_reverse(far, pool):
    """A thread whose answer comes last leaves the others to theirs."""

    def backwards(far):
        asked = [far.receive() for _ in range(8)]
        for message, header in reversed(asked):
            far.send((Pong(message.value), header))
        far.receive()

    peers = far(backwards)
    with Client(peers.spoken, peers.url) as client:
        answers = pool.map(lambda n: client.call(Ping(n)), range(8))
        assert [Pong(n) for n in range(8)] == list(answers)


def test_reader_that_gives_up(far, pool):
    """When the thread that reads runs out of time, another goes on reading."""
    go = threading.Event()

    def patient(far):
        asked = [far.receive() for _ in range(4)]
        go.wait(PATIENCE)
        for message, header in asked:
            far.send((Pong(message.value), header))
        far.receive()

    peers = far(patient)
    with Client(peers.spoken, peers.url) as client:
        client.connect()
        hasty = pool.submit(client.call, Ping(0), timeout=0.2)
        until(lambda: client.stats.sent)
        others = [pool.submit(client.call, Ping(n)) for n in (1, 2, 3)]
        with pytest.raises(PeerTimeoutError):
            hasty.result(PATIENCE)
        go.set()
        assert [Pong(n) for n in (1, 2, 3)] == [o.result(PATIENCE) for o in others]


def test_reader_and_follower_are_answered_together(far, pool):
    """When two are answered at once, a third, who did not read so far, does."""
    all_wait, go = threading.Event(), threading.Event()

    def two_at_once(far):
        (_, first), (_, second), (_, third) = (far.receive() for _ in range(3))
        all_wait.wait(PATIENCE)
        far.send((Pong(0), first), (Pong(1), second))
        go.wait(PATIENCE)
        far.send((Pong(2), third))
        far.receive()

    peers = far(two_at_once)
    with Client(peers.spoken, peers.url, timeout=PATIENCE / 4) as client:
        link = client._linked(1)
        waiting = []
        for n in range(3):
            waiting.append(pool.submit(client.call, Ping(n)))
            until(lambda n=n: link._reading and len(link._waiting) == n)
        all_wait.set()
        assert [Pong(0), Pong(1)] == [w.result(PATIENCE) for w in waiting[:2]]
        go.set()
        assert Pong(2) == waiting[2].result(PATIENCE)


def test_interrupted_call(far, monkeypatch):
    """A call that is interrupted is given up, and the client goes on."""
    peers = far(echo)
    with Client(peers.spoken, peers.url) as client:
        link = client._linked(1)

        def interrupted(_seconds):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(link, "_take", interrupted)
            with pytest.raises(KeyboardInterrupt):
                client.call(Ping(1))
        assert Pong(2) == client.call(Ping(2))
        assert 1 == client.stats.late


def test_connecting_takes_turns(far):
    """Who waits for another thread to connect has its own time."""
    peers = far(echo)
    client = Client(peers.spoken, peers.url)
    with client._connecting, pytest.raises(PeerTimeoutError, match="no connection"):
        client.call(Ping(1), timeout=0.02)


def test_half_a_message(far):
    """A stream on which a message is stuck cannot be used any more."""
    done = threading.Event()
    peers = far(lambda _far: done.wait(PATIENCE))
    with Client(peers.spoken, peers.url, timeout=0.2) as client:
        with pytest.raises(PeerTimeoutError, match="does not read"):
            for _ in range(2000):
                client.send(Bulk(bytes(15_000)))
        with pytest.raises(SessionClosedError, match="does not read"):
            client.send(Ping(1))
        done.set()


def test_next_address(far, monkeypatch):
    """Of a name's addresses, the first where somebody listens is taken."""
    peers = far(echo)
    good = peers.sock.getsockname()
    places = [(2, ("127.0.0.1", 1)), (2, good)]
    monkeypatch.setattr(_connecting, "found", lambda _address: places)
    with Client(peers.spoken, "tcp://somewhere:9") as client:
        assert Pong(1) == client.call(Ping(1))
    places.pop()
    with pytest.raises(ConnectionRefusedError, match="tcp://somewhere:9"):
        Client(peers.spoken, "tcp://somewhere:9").connect()


def test_follower_that_gives_up(far, pool):
    """A thread that does not read has its own time all the same."""
    peers = far(lambda far: [far.receive() for _ in range(9)])
    with Client(peers.spoken, peers.url) as client:
        client.connect()
        reader = pool.submit(client.call, Ping(1), timeout=PATIENCE)
        until(lambda: client._link._reading)
        with pytest.raises(PeerTimeoutError):
            client.call(Ping(2), timeout=0.05)
        assert not reader.done()
        client.close()
        with pytest.raises(SessionClosedError, match="was closed"):
            reader.result(PATIENCE)


@pytest.mark.parametrize("transport", ["tcp", "udp", "unix", "unixgram"])
def test_closing_wakes_everybody(far, pool, transport):
    """Whoever waits, for answers or for messages, is told when the client is closed."""
    peers = far(lambda far: [far.receive() for _ in range(9)], transport)
    client = Client(peers.spoken, peers.url, timeout=None, retries=0)
    client.connect()
    waiting = [pool.submit(client.call, Ping(n)) for n in range(4)]
    listening = pool.submit(client.receive)
    streaming = pool.submit(next, client.stream(Ping()))
    until(lambda: len(client._link._waiting) == 5)
    client.close()
    for future in (*waiting, listening, streaming):
        with pytest.raises(SessionClosedError, match="was closed"):
            future.result(PATIENCE)
    client.close()
    with pytest.raises(SessionClosedError, match="is closed"):
        client.call(Ping())


def test_listener_among_callers(far, pool):
    """Messages reach who listens, while others call."""

    def push(far):
        while True:
            message, header = far.receive()
            far.send((Alarm(message.value), header), (Pong(message.value), header))

    peers = far(push)
    with Client(peers.spoken, peers.url) as client:
        messages = client.messages()
        heard = pool.submit(lambda: [next(messages) for _ in range(100)])
        for n in range(100):
            assert Pong(n) == client.call(Ping(n))
        assert [Alarm(n) for n in range(100)] == heard.result(PATIENCE)


def test_exchanges_take_turns(far, pool):
    """Without correlation, threads ask one after the other."""
    peers = far(echo, "tcp", unkeyed)
    with Client(unkeyed, peers.url) as client:
        answers = pool.map(lambda n: client.exchange(Ping(n)), range(100))
        assert [Pong(n) for n in range(100)] == list(answers)


def test_turn_that_does_not_come(far, pool):
    """Who cannot have its turn in time is told so."""
    peers = far(lambda far: [far.receive() for _ in range(9)], "tcp", unkeyed)
    with Client(unkeyed, peers.url, timeout=PATIENCE) as client:
        first = pool.submit(client.exchange, Ping(1))
        until(lambda: client._link and client._link._reading)
        with pytest.raises(PeerTimeoutError, match="another exchange"):
            client.exchange(Ping(2), timeout=0.02)
        client.close()
        with pytest.raises(SessionClosedError):
            first.result(PATIENCE)


def test_threads_share_one_connection(far, pool):
    """Threads that use a client for the first time make one connection."""
    peers = far(echo)
    with Client(peers.spoken, peers.url) as client:
        list(pool.map(lambda n: client.call(Ping(n)), range(16)))
        assert 1 == client.stats.connections


def test_descriptors_are_given_back(far):
    """Closed clients, and those that could not connect, hold nothing open."""
    peers = far(echo)
    before = descriptors()
    for _ in range(20):
        with Client(peers.spoken, peers.url) as client:
            client.call(Ping(1))
        with pytest.raises(FileNotFoundError, match="unix:///nowhere"):
            Client(peers.spoken, "unix:///nowhere", timeout=1).connect()
    until(lambda: descriptors() <= before + 1)


def test_forgotten_client_warns(far):
    """A client that is forgotten while it is open closes its socket and warns."""
    peers = far(echo)
    client = Client(peers.spoken, peers.url)
    client.call(Ping(1))
    with pytest.warns(ResourceWarning, match="unclosed"):  # noqa: PT031 - both do it
        del client
        gc.collect()
