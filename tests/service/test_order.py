"""
What the modes have in common when messages come one right behind the other.
"""

import asyncio
import socket

import pytest

import protoserve.connections
import protoserve.loops
from protoserve import Protocol, Service, Session, route
from protoserve.server import (
    EventLoopMixIn,
    ForkingMixIn,
    PoolMixIn,
    TCPServer,
    ThreadingMixIn,
)
from tests.service.kit import (
    PATIENCE,
    Header,
    Ping,
    Pong,
    Text,
    spoken,
    unacknowledged,
    until,
)

_CLOSE_WAIT, _CLOSE = 8, 7
MODES = {
    "single": (),
    "threads": (ThreadingMixIn,),
    "fork": (ForkingMixIn,),
    "pool": (PoolMixIn,),
    "loop": (EventLoopMixIn,),
}
guarded = Protocol(
    "guarded",
    framing=spoken.framing,
    header=Header,
    tag="kind",
    correlate="sequence",
    requests={1: Ping},
    responses={2: Pong},
    messages={3: Text},
    states={"new": {Ping: "asked"}, "asked": {Pong: "ready"}, "ready": {Text: "ready"}},
)


@pytest.fixture(params=MODES)
def server_class(request):
    return type("Server", (*MODES[request.param], TCPServer), {})


class Patient:
    """
    Answers after a while.
    """

    @route
    async def ping(self, message: Ping) -> Pong:
        await asyncio.sleep(0)
        return Pong(message.value)

    @route
    async def text(self, message: Text) -> Text:
        await asyncio.sleep(0)
        return message


def test_states_of_messages_in_a_row(start, server_class):
    """What the answer before allows is allowed, though a coroutine has to give that."""
    with start(server_class, Service(guarded, Patient())).client() as client:
        client.send(Ping(1), Text(b"a"), Text(b"b"))
        answers = [client.receive() for _ in range(3)]
    assert [Pong(1), Text(b"a"), Text(b"b")] == answers


class Last:
    """
    Says a last word.
    """

    @route
    def ping(self, message: Ping, session: Session) -> None:
        session.send(Pong(message.value))
        session.close()

    @route
    async def text(self, message: Text, session: Session) -> None:
        await asyncio.sleep(0)
        session.send(message)
        session.close()


@pytest.mark.parametrize(
    ("message", "answer"),
    [(Ping(1), Pong(1)), (Text(b"a"), Text(b"a"))],
    ids=["sync", "async"],
)
def test_no_reset_after_the_last_word(
    start, server_class, message, answer, monkeypatch
):
    """A peer that still sends when a route has closed is not reset at once."""
    for module in (protoserve.connections, protoserve.loops):
        monkeypatch.setattr(module, "GOODBYE", PATIENCE)
    service = Service(spoken, Last())
    with start(server_class, service).client() as client:
        client.send(message)
        assert [answer, None] == [client.receive(), client.receive()]
        client.send(Ping(2))
        until(lambda: not unacknowledged(client.sock) or _state(client.sock) == _CLOSE)
        assert _CLOSE_WAIT == _state(client.sock)


def _state(sock):
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
