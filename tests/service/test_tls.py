"""
Services over TLS: the same answers in every mode, and what a session knows.
"""

import contextlib
import logging
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import protoserve.dispatch
import protoserve.server as ours
import protoserve.service
from protoserve import Limits, Peer, Service, Session, route
from protoserve.rarelog import RareLog
from protoserve.server import (
    EventLoopMixIn,
    ForkingMixIn,
    TCPServer,
    ThreadingMixIn,
    TLSMixIn,
    server_context,
)
from tests.certificates import Authority, InMemory, crowd, stall
from tests.service.kit import PATIENCE, Client, Ping, Pong, Text, spoken, until

MODES = {
    "single": (),
    "threads": (ThreadingMixIn,),
    "fork": (ForkingMixIn,),
    "loop": (EventLoopMixIn,),
}
if hasattr(ours, "PoolMixIn"):
    MODES["pool"] = (ours.PoolMixIn,)
TOGETHER = [mode for mode in MODES if mode != "single"]
"""Modes in which several connections are served at a time."""


class Plain(EventLoopMixIn):
    """
    On asyncio's own loop, where uvloop may be installed.
    """

    def make_loop(self):
        import asyncio

        return asyncio.new_event_loop()


MODES["asyncio"] = (Plain,)


class Echo:
    """
    Answers, and tells what the session knows of the peer.
    """

    @route
    def ping(self, message: Ping, session: Session):
        if message.value == 255:
            peer = session.peer
            names = (peer.certificate or {}).get("subjectAltName")
            yield Text(repr((str(peer), names, peer.tls)).encode())
        else:
            yield Pong(message.value)

    @route
    def text(self, message: Text) -> Text:
        return message


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    made = Authority(tmp_path_factory.mktemp("tls"))
    made.pair = made.issue("localhost", "127.0.0.1")
    return made


@pytest.fixture(autouse=True)
def new_ration(monkeypatch):
    """
    No line is held back because of what an earlier test has logged.
    """
    for module in (protoserve.service, protoserve.dispatch):
        if hasattr(module, "_rare"):
            monkeypatch.setattr(module, "_rare", RareLog(module.logger))


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


@pytest.fixture
def run(authority, start):
    """
    Serve a handler over TLS in some mode.
    """

    def run(mode, handler=None, *, server=None, **options):
        options = {"limits": Limits(), **options}
        service = Service(spoken, handler or Echo(), **options)
        context = server_context(*authority.pair)
        bases = (TLSMixIn, *MODES[mode], TCPServer)
        made = type("Server", bases, {"ssl_context": context, **(server or {})})
        return start(made, service)

    return run


class TLSClient(Client):
    """
    The kit's client, over TLS.
    """

    def __init__(self, authority, running, **options):
        address = running.server.server_address
        super().__init__(authority.connect(address, **options), stream=True)


def test_calls(run, authority, mode):
    """A service answers over TLS 1.2 and 1.3, in every mode."""
    running = run(mode)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with TLSClient(authority, running, version=version) as client:
            for value in range(20):
                assert Pong(value) == client.call(Ping(value))


def test_stalled_handshakes_hold_up_nobody(run, authority, mode):
    """200 stalled handshakes, which nothing ends, and 20 clients served meanwhile."""
    running = run(mode, limits=Limits(handshake=None), server={"max_children": 10})
    context = authority.client()

    def client(_):
        with TLSClient(authority, running, context=context) as client:
            return [client.call(Ping(value)) for value in range(5)]

    stalled = stall(running.server.server_address, 200)
    try:
        with ThreadPoolExecutor(20) as clients:
            answers = list(clients.map(client, range(20)))
    finally:
        for sock in stalled:
            sock.close()
    assert [[Pong(value) for value in range(5)]] * 20 == answers


def test_limit(run, authority, mode, logged):
    """A handshake beyond the service's limit is ended and counted there."""
    running = run(mode, limits=Limits(handshake=0.1))
    for sock in stall(running.server.server_address, 4):
        sock.settimeout(PATIENCE)
        with contextlib.suppress(ConnectionResetError):
            assert b"" == sock.recv(1)
        sock.close()
    until(lambda: running.service.refused["handshake"] == 4)
    until(
        lambda: "is closed: limit handshake: the handshake exceeded 0.1 s" in logged()
    )


def test_first_frame_counts_from_the_handshake(run, authority, mode):
    """Who says nothing after the handshake is ended by the next limit."""
    running = run(mode, limits=Limits(first_frame=0.1))
    with TLSClient(authority, running) as client:
        assert b"" == client.sock.recv(1)  # announced: it would raise otherwise


def test_crowd(run, authority, mode):
    """With too many handshakes under way the oldest make room."""
    options = {"max_handshakes": 3}
    running = run(mode, limits=Limits(handshake=None), server=options)
    with (
        crowd(running.server.server_address, 3),
        TLSClient(authority, running) as client,
    ):
        assert Pong(1) == client.call(Ping(1))


def test_refused(run, authority, mode, logged):
    """Who speaks no TLS, or no version of it that is allowed, is told of in the log."""
    running = run(mode)
    address = running.server.server_address
    with socket.create_connection(address, PATIENCE) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"" == sock.recv(1)
    with pytest.raises(ssl.SSLError, match="(?i)protocol.version"):
        authority.connect(address, version=ssl.TLSVersion.TLSv1_1)
    until(lambda: running.server.failed_handshakes == {"plain": 1, "refused": 1})
    until(lambda: "these bytes look like an HTTP request, not TLS" in logged())
    until(lambda: "it speaks no version of TLS that is allowed here" in logged())


def test_peer(run, authority, mode):
    """A session knows the peer's certificate, and what the handshake agreed on."""
    context = server_context(
        *authority.pair, client_ca=authority.ca_file, alpn=["ping", "pong"]
    )
    running = run(mode, server={"ssl_context": context})
    pair = authority.issue("station-7.example")
    options = {"pair": pair, "alpn": ["pong"], "name": "localhost"}
    with TLSClient(authority, running, **options) as client:
        host, port = client.sock.getsockname()
        text = client.call(Ping(255)).text.decode()
    assert text.startswith(f"('tls://{host}:{port}', (('DNS', 'station-7.example'),),")
    for fact in ("version='TLSv1.3'", "alpn='pong'", "server_name='localhost'"):
        assert fact in text
    # With TLS 1.3 it learns only afterwards that it was refused.
    with TLSClient(authority, running) as client:
        client.send(Ping(1))
        with pytest.raises(ssl.SSLError, match="(?i)certificate.required"):
            client.receive()


def test_peer_without_certificate(run, authority, mode):
    """Where clients need no certificate, the session has none."""
    running = run(mode)
    with TLSClient(authority, running) as client:
        assert b", None, TLSFacts(version='TLSv1.3'" in client.call(Ping(255)).text


def test_server_name(run, authority, mode):
    """The certificate is the one for the name that the client asks for."""
    context = server_context(*authority.pair, sni=[authority.issue("*.b.example")])
    running = run(mode, server={"ssl_context": context})
    for name, shown in (("a.b.example", "*.b.example"), ("localhost", "localhost")):
        with TLSClient(authority, running, name=name) as client:
            assert shown == client.sock.getpeercert()["subjectAltName"][0][1]
            assert f"server_name={name!r}".encode() in client.call(Ping(255)).text


def test_hello_byte_by_byte(run, authority, mode):
    """A connection whose bytes arrive one by one is served."""
    running = run(mode)
    session = Client(socket.socket(), stream=True)
    with session, InMemory(authority.client(), running.server.server_address) as client:
        client.run(client.tls.do_handshake, client.byte_by_byte)
        data = session.session.encode(Ping(7))
        client.run(lambda: client.tls.write(data), client.byte_by_byte)
        session.session.receive_data(client.run(lambda: client.tls.read(100)))
        assert Pong(7) == session.session.next_event().message


def test_cut_in_a_frame(run, authority, mode, logged):
    """A stream that ends within a frame is told of, announced or cut off."""
    running = run(mode)
    data = Client(socket.socket(), stream=True)
    with data:
        frame = data.session.encode(Ping(7))
    for announced in (True, False):
        with InMemory(authority.client(), running.server.server_address) as client:
            client.run(client.tls.do_handshake)
            client.run(lambda client=client: client.tls.write(frame[:3]))
            if announced:
                client.end()
            client.sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while client.sock.recv(1000):
                    pass
    if mode != "fork":  # there the children have logged it
        until(lambda: logged().count("the stream ended 3 bytes into a frame") >= 1)


@pytest.mark.parametrize("announced", [True, False])
def test_answers_after_the_end(run, authority, mode, announced):
    """Who ends its own side after its requests still gets all answers."""
    running = run(mode)
    other = Client(socket.socket(), stream=True)
    with other, InMemory(authority.client(), running.server.server_address) as client:
        client.run(client.tls.do_handshake)
        data = b"".join(other.session.encode(Ping(value)) for value in range(50))
        client.run(lambda: client.tls.write(data))
        if announced:
            client.end()
        client.sock.shutdown(socket.SHUT_WR)
        answers = []
        while len(answers) < 50:
            other.session.receive_data(client.run(lambda: client.tls.read(65_536)))
            while event := getattr(other.session.next_event(), "message", None):
                answers.append(event)
    assert [Pong(value) for value in range(50)] == answers


@pytest.mark.parametrize("mode", [m for m in MODES if m != "fork"])
def test_send_and_go(run, authority, mode):
    """What a client sends before it closes, having read nothing at all, arrives."""
    taken = []

    class Taking:
        @route
        def text(self, message: Text) -> None:
            go_on.wait(PATIENCE)
            taken.append(message.text)

    go_on = threading.Event()
    running = run(mode, Taking())
    with TLSClient(authority, running) as client:
        client.send(*[Text(bytes(15_000))] * 200)
        client.sock.close()  # neither announced nor shut down
    go_on.set()
    until(lambda: len(taken) == 200)


def test_pipelined(run, authority, mode):
    """Frames that arrive in many records, or many in one, are answered in order."""
    running = run(mode)
    texts = [Text(bytes([number]) * (number * 60)) for number in range(250)]
    answers = []
    with TLSClient(authority, running) as client:
        # One thread has to do both: OpenSSL is not for two at a time.
        for start in range(0, len(texts), 25):
            some = texts[start : start + 25]
            client.send(*some)
            answers += [client.receive() for _ in some]
        for text in texts[:20]:
            client.send(text)
        answers += [client.receive() for _ in range(20)]
    assert [*texts, *texts[:20]] == answers


def test_slow_reader(run, authority, mode):
    """Megabytes arrive whole at a peer that reads late, in every mode."""

    class Much:
        @route
        def ping(self, message: Ping):
            for number in range(600):
                yield Text(bytes([number % 256]) * 10_000)

    running = run(mode, Much())
    with TLSClient(authority, running) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
        client.send(Ping(1))
        for number in range(600):
            assert Text(bytes([number % 256]) * 10_000) == client.receive()


@pytest.mark.parametrize("mode", TOGETHER)
def test_deaf_reader(run, authority, mode):
    """A peer that never reads is closed by the limit, and slows nobody."""

    class Endless(Echo):
        @route
        def text(self, message: Text):
            while True:
                yield Text(bytes(10_000))

    running = run(mode, Endless(), limits=Limits(write=0.2))
    with TLSClient(authority, running) as deaf:
        deaf.send(Text(b""))
        with TLSClient(authority, running) as client:
            for value in range(50):
                assert Pong(value) == client.call(Ping(value))
        if mode != "fork":
            until(lambda: running.service.refused["write"] == 1)


@pytest.mark.parametrize("mode", TOGETHER)
def test_pushes_from_other_threads(run, authority, mode):
    """Threads may send while the connection's own one reads and answers."""

    class Pushing(Echo):
        @route
        def text(self, message: Text, session: Session) -> None:
            def push():
                for _ in range(200):
                    session.send(Pong(200))

            for _ in range(3):
                threading.Thread(target=push).start()

    running = run(mode, Pushing())
    with TLSClient(authority, running) as client:
        client.send(Text(b""))
        found = []
        for _ in range(50):
            client.send(*[Ping(value) for value in range(4)])
            found += [client.receive() for _ in range(4)]
        found += [client.receive() for _ in range(600)]
    assert 600 == found.count(Pong(200))
    assert [Pong(v) for v in range(4)] * 50 == [p for p in found if p != Pong(200)]


def test_close_from_another_thread(run, authority, mode):
    """A session that another thread closes sends nothing that is not encrypted."""

    class Closing:
        @route
        def ping(self, message: Ping, session: Session) -> Pong:
            closer = threading.Thread(target=session.close)
            closer.start()
            closer.join()

        @route
        def text(self, message: Text, session: Session):
            session.send(Pong(1))
            session.close()

    running = run(mode, Closing())
    for message, answer in ((Ping(1), None), (Text(b""), Pong(1))):
        with TLSClient(authority, running) as client:
            assert answer == client.call(message)
            assert b"" == client.sock.recv(100)  # announced: it would raise otherwise


@pytest.mark.parametrize("mode", [m for m in MODES if m != "fork"])
def test_stop_in_the_middle(run, authority, mode):
    """To stop, stalled handshakes are not waited for."""
    running = run(mode, limits=Limits(handshake=None))
    stalled = stall(running.server.server_address, 20)
    with TLSClient(authority, running) as client:
        assert Pong(1) == client.call(Ping(1))
    running.service.drain()
    running.stop()
    for sock in stalled:
        with contextlib.suppress(ConnectionResetError):
            assert b"" == sock.recv(1)
        sock.close()


def test_no_tls_after_the_handshake(run, authority, mode, caplog):
    """Bytes that are no TLS end the connection, without a traceback."""
    caplog.set_level(logging.DEBUG)
    running = run(mode)
    with InMemory(authority.client(), running.server.server_address) as client:
        client.run(client.tls.do_handshake)
        client.sock.sendall(b"these bytes are not encrypted at all\n")
        with contextlib.suppress(ConnectionResetError):
            while client.sock.recv(1000):
                pass
    with TLSClient(authority, running) as client:
        assert Pong(1) == client.call(Ping(1))
    assert "Traceback" not in caplog.text


def test_peers_are_told_apart_without_their_certificates():
    """A peer is known by its address; a certificate makes it no other."""
    first, second = Peer("tls", ("::1", 5)), Peer("tls", ("::1", 5), {"serial": 1})
    assert first == second
    assert hash(first) == hash(second)
    assert "tls://[::1]:5" == str(second)
