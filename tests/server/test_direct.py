"""
Sockets that one epoll watches: what an asyncio protocol is told, and when.
"""

import asyncio
import gc
import select
import socket
import struct

import pytest

if not hasattr(select, "epoll"):
    pytest.skip("there is no epoll here", allow_module_level=True)

from protoserve.server._direct import DirectSockets

PATIENCE = 60.0


class Noted(asyncio.Protocol):
    """
    Notes what it is told.
    """

    def __init__(self, loop):
        self.told = []
        self.lost = loop.create_future()
        self.keeps_open = True
        self.on_data = None

    def connection_made(self, transport):
        self.transport = transport
        self.told.append("made")

    def data_received(self, data):
        self.told.append(data)
        if self.on_data:
            self.on_data(data)

    def eof_received(self):
        self.told.append("eof")
        return self.keeps_open

    def pause_writing(self):
        self.told.append("pause")

    def resume_writing(self):
        self.told.append("resume")

    def connection_lost(self, exc):
        self.told.append(("lost", type(exc)))
        self.lost.set_result(exc)


def conversed(test, *, internet=False):
    """
    Run a coroutine function with a protocol and the other end of its socket.
    """

    async def run():
        loop = asyncio.get_running_loop()
        errors = []
        loop.set_exception_handler(lambda _loop, context: errors.append(context))
        sockets = DirectSockets(loop)
        if internet:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                peer = socket.create_connection(listener.getsockname())
                ours, _ = listener.accept()
        else:
            ours, peer = socket.socketpair()
        peer.setblocking(False)
        noted = Noted(loop)
        try:
            sockets.connect(ours, noted)
            async with asyncio.timeout(PATIENCE):
                await test(noted, peer)
            if not noted.lost.done():
                noted.transport.abort()
                await noted.lost
        finally:
            peer.close()
            sockets.close()
        assert {} == sockets.transports
        assert -1 == ours.fileno()
        return errors

    errors = asyncio.run(run())
    gc.collect()
    return errors


async def until(condition):
    while not condition():  # noqa: ASYNC110 - it is a turn of the loop
        await asyncio.sleep(0)


async def received(peer, size):
    data = b""
    while len(data) < size:
        data += await asyncio.get_running_loop().sock_recv(peer, 1 << 20)
    return data


def test_data_and_end():
    """What arrives is handed over, then the end; our side may still speak."""

    async def test(noted, peer):
        peer.send(b"abc")
        await until(lambda: b"abc" in noted.told)
        peer.shutdown(socket.SHUT_WR)
        await until(lambda: "eof" in noted.told)
        noted.transport.write(b"bye")
        assert b"bye" == await received(peer, 3)
        noted.transport.close()
        await noted.lost
        assert ["made", b"abc", "eof", ("lost", type(None))] == noted.told

    assert [] == conversed(test)


def test_end_that_ends_both():
    """A protocol that has nothing to say to the end is closed."""

    async def test(noted, peer):
        noted.keeps_open = False
        peer.shutdown(socket.SHUT_WR)
        await noted.lost

    conversed(test)


def test_much_to_send():
    """What the peer does not take waits, and the protocol is told to pause."""

    async def test(noted, peer):
        noted.transport.set_write_buffer_limits(high=1000)
        pieces = [bytes([n]) * 500_000 for n in range(5)]
        for piece in pieces:
            noted.transport.write(piece)
        assert "pause" == noted.told[-1]
        waiting = noted.transport.get_write_buffer_size()
        assert waiting > 1000
        noted.transport.write_eof()
        noted.transport.write(b"too late")
        assert waiting == noted.transport.get_write_buffer_size()
        assert b"".join(pieces) == await received(peer, 2_500_000)
        await until(lambda: "resume" in noted.told)
        assert 1 == noted.told.count("pause")
        assert b"" == await asyncio.get_running_loop().sock_recv(peer, 1)

    conversed(test)


def test_close_after_what_was_sent():
    """Closing waits until everything is sent, and reads no more."""

    async def test(noted, peer):
        noted.transport.write(bytes(2_000_000))
        noted.transport.close()
        noted.transport.close()
        noted.transport.write(b"x")
        assert noted.transport.is_closing()
        peer.send(b"unheard")
        assert 2_000_000 == len(await received(peer, 2_000_000))
        await noted.lost
        assert b"unheard" not in noted.told

    conversed(test)


def test_abort():
    """Aborting throws away what waits, and tells once."""

    async def test(noted, peer):
        noted.transport.write(bytes(2_000_000))
        noted.transport.abort()
        noted.transport.abort()
        assert 0 == noted.transport.get_write_buffer_size()
        await noted.lost
        await asyncio.sleep(0)
        assert 1 == noted.told.count(("lost", type(None)))

    conversed(test)


def test_pause_and_resume():
    """A paused protocol is told nothing, whatever arrives."""

    async def test(noted, peer):
        noted.transport.pause_reading()
        assert not noted.transport.is_reading()
        peer.send(b"abc")
        for _ in range(10):
            await asyncio.sleep(0)
        assert ["made"] == noted.told
        noted.transport.resume_reading()
        await until(lambda: b"abc" in noted.told)

    conversed(test)


@pytest.mark.parametrize("paused", [False, True])
def test_reset(paused):
    """A reset is told when it is met; a paused connection does not spin for it."""

    async def test(noted, peer):
        polls = []
        attend = noted.transport._sockets._attend_to
        noted.transport._sockets._attend_to = lambda ready: (
            polls.append(ready),
            attend(ready),
        )
        if paused:
            noted.transport.pause_reading()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        if paused:
            await asyncio.sleep(0.02)
            assert [] == polls
            noted.transport.resume_reading()
        assert isinstance(await noted.lost, ConnectionResetError)

    conversed(test, internet=True)


def test_send_to_a_peer_that_has_gone():
    """A write that fails ends the connection with the reason."""

    async def test(noted, peer):
        noted.transport.pause_reading()
        peer.close()
        noted.transport.write(b"x")
        noted.transport.write(b"y")
        assert isinstance(await noted.lost, BrokenPipeError)

    conversed(test)


def test_protocol_that_fails():
    """An exception of a protocol is reported, and ends its connection only."""

    async def test(noted, peer):
        noted.on_data = lambda _data: 1 / 0
        peer.send(b"abc")
        await noted.lost

    (error,) = conversed(test)
    assert isinstance(error["exception"], ZeroDivisionError)


def test_closed_while_others_are_attended_to():
    """A connection that another one's data closes is not read any more."""

    async def test(noted, peer):
        loop = asyncio.get_running_loop()
        sockets = noted.transport._sockets
        ends = [socket.socketpair() for _ in range(2)]
        both = [Noted(loop) for _ in ends]
        for (ours, _), protocol in zip(ends, both, strict=True):
            sockets.connect(ours, protocol)
        for protocol, other in (both, both[::-1]):
            protocol.on_data = lambda _data, other=other: other.transport.abort()
        for _, theirs in ends:
            theirs.send(b"you or me")
        await until(lambda: any(b"you or me" in each.told for each in both))
        await asyncio.wait([each.lost for each in both if each.transport.is_closing()])
        assert 1 == sum(b"you or me" in each.told for each in both)
        for each, (_, theirs) in zip(both, ends, strict=True):
            each.transport.abort()
            await each.lost
            theirs.close()

    conversed(test)


def test_closed_at_once():
    """A protocol may end the connection when it is made."""

    class Refusing(Noted):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.sock.close()
            transport.abort()

    async def test(noted, peer):
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        refusing = Refusing(loop)
        noted.transport._sockets.connect(ours, refusing)
        await refusing.lost
        assert b"" == theirs.recv(1)
        theirs.close()

    conversed(test)


def test_paused_at_once():
    """A protocol may ask for nothing to be read when the connection is made."""

    class Busy(Noted):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    async def test(noted, peer):
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        busy = Busy(loop)
        theirs.send(b"abc")
        noted.transport._sockets.connect(ours, busy)
        for _ in range(10):
            await asyncio.sleep(0)
        assert ["made"] == busy.told
        busy.transport.resume_reading()
        await until(lambda: b"abc" in busy.told)
        busy.transport.abort()
        await busy.lost
        theirs.close()

    conversed(test)


def test_what_it_tells():
    """The socket and the peer's address can be asked for."""

    async def test(noted, peer):
        transport = noted.transport
        assert transport.get_extra_info("socket").fileno() >= 0
        assert peer.getsockname() == transport.get_extra_info("peername")
        assert 5 == transport.get_extra_info("ssl_object", 5)
        assert transport.can_write_eof()
        assert noted is transport.get_protocol()
        other = Noted(asyncio.get_running_loop())
        transport.set_protocol(other)
        peer.send(b"abc")
        await until(lambda: b"abc" in other.told)
        transport.set_protocol(noted)

    conversed(test, internet=True)
