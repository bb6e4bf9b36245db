"""
One handler class on every server, ours and the standard library's.
"""

import os
import socketserver
from collections.abc import Iterator

import pytest

import protoserve.server
from protoserve import Service, route
from tests.service.kit import Ping, Pong, Text, spoken, until

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

SERVERS = [
    pytest.param(getattr(module, f"{mixin}{kind}Server"), id=f"{label}-{mixin}{kind}")
    for label, module in (("ours", protoserve.server), ("library", socketserver))
    for mixin in ("", "Threading", "Forking")
    for kind in ("TCP", "UDP", "UnixStream", "UnixDatagram")
    if hasattr(module, f"{mixin}{kind}Server")
]


def mixed(label, mixin, kind):
    base = getattr(protoserve.server, f"{kind}Server")
    return type(f"{label}{kind}Server", (mixin, base), {})


SERVERS += [
    pytest.param(mixed(label, mixin, kind), id=f"ours-{label}{kind}")
    for label, mixin in (
        ("Loop", protoserve.server.EventLoopMixIn),
        ("Pool", protoserve.server.PoolMixIn),
    )
    for kind in ("TCP", "UDP", "UnixStream", "UnixDatagram")
]


class Station:
    """
    Adds one; tells which process it is in.
    """

    @route
    def ping(self, message: Ping) -> Pong:
        return Pong((message.value + 1) % 256)

    @route
    def text(self, message: Text) -> Iterator[Text]:
        for word in message.text.split():
            yield Text(word)
        yield Text(str(os.getpid()).encode())


@pytest.mark.parametrize("server_class", SERVERS)
def test_every_server(start, server_class):
    """Requests are answered, also those with several answers, peer after peer."""
    running = start(server_class, Service(spoken, Station()))
    forks = "Forking" in server_class.__name__
    for value in (1, 100, 255):
        with running.client() as client:
            assert Pong((value + 1) % 256) == client.call(Ping(value))
            client.send(Text(b"a few words"))
            words = [client.receive().text for _ in range(4)]
            assert [b"a", b"few", b"words"] == words[:3]
            assert forks == (str(os.getpid()).encode() != words[3])


@pytest.mark.parametrize("server_class", SERVERS)
def test_garbage(start, server_class, logged):
    """Garbage is told, and the next peer is served."""
    running = start(server_class, Service(spoken, Station()))
    with running.client() as client:
        client.sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        if client.session.stream:
            assert b"" == client.rest()
    with running.client() as client:
        assert Pong(3) == client.call(Ping(2))
    if "Forking" not in server_class.__name__:
        until(lambda: "HTTP request" in logged())


STREAMS = [s for s in SERVERS if s.id.endswith(("TCP", "Stream"))]


@pytest.mark.parametrize("server_class", STREAMS)
def test_pipelined(start, server_class):
    """Many requests in one write are answered in order."""
    running = start(server_class, Service(spoken, Station()))
    with running.client() as client:
        client.send(*(Ping(i) for i in range(200)))
        assert [i + 1 for i in range(200)] == [
            client.receive().value for _ in range(200)
        ]


def test_one_service_on_several_servers(start):
    """A service may be served at several addresses at once."""
    service = Service(spoken, Station())
    for server_class in (
        protoserve.server.ThreadingTCPServer,
        protoserve.server.UDPServer,
        protoserve.server.ThreadingUnixStreamServer,
    ):
        with start(server_class, service).client() as client:
            assert Pong(2) == client.call(Ping(1))
