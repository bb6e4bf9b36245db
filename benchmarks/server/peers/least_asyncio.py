"""
asyncio's own ways to serve, on its loop and on uvloop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from benchmarks.server.peers.least import (
    HEAD,
    RECORD,
    REPLY,
    answer_all,
    answer_datagram,
)
from benchmarks.server.peers.running import (
    BACKLOG,
    Options,
    Tally,
    listener,
    ready,
    receiver,
)

Serve = Callable[[Options], Coroutine[Any, Any, None]]


class _Protocol(asyncio.Protocol):
    __slots__ = ("rest", "transport")

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        replies, self.rest = answer_all(self.rest + data if self.rest else data)
        if replies:
            self.transport.write(replies)


class _Buffered(asyncio.BufferedProtocol):
    __slots__ = ("rest", "transport")
    shared = bytearray(256 * 1024)
    view = memoryview(shared)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.rest = b""

    def get_buffer(self, _hint: int) -> memoryview:
        rest = self.rest
        if rest:
            self.shared[: len(rest)] = rest
        return self.view[len(rest) :]

    def buffer_updated(self, nbytes: int) -> None:
        end = nbytes + len(self.rest)
        replies, self.rest = answer_all(bytes(self.view[:end]))
        if replies:
            self.transport.write(replies)

    def eof_received(self) -> bool:
        return False


async def _with(factory: type[asyncio.BaseProtocol], options: Options) -> None:
    loop = asyncio.get_running_loop()
    sock = listener(options, blocking=False)
    server = await loop.create_server(factory, sock=sock, backlog=BACKLOG)
    ready()
    await server.serve_forever()


async def protocol(options: Options) -> None:
    """
    A `Protocol`.
    """
    await _with(_Protocol, options)


async def buffered(options: Options) -> None:
    """
    A `BufferedProtocol`.
    """
    await _with(_Buffered, options)


async def streams(options: Options) -> None:
    """
    ``start_server``: a reader and a writer, awaited for each frame.
    """

    async def converse(reader: Any, writer: Any) -> None:
        try:
            while True:
                length, kind, ident = HEAD.unpack(await reader.readexactly(7))
                body = await reader.readexactly(length - 5)
                writer.write(HEAD.pack(length, kind | REPLY, ident) + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()

    sock = listener(options, blocking=False)
    server = await asyncio.start_server(converse, sock=sock, backlog=BACKLOG)
    ready()
    await server.serve_forever()


async def _datagrams(
    received: Callable[[Any, bytes, Any], None], options: Options
) -> None:
    class Datagrams(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            received(self.transport, data, addr)

    loop = asyncio.get_running_loop()
    sock = receiver(options, blocking=False)
    await loop.create_datagram_endpoint(Datagrams, sock=sock)
    ready()
    await loop.create_future()


async def udp_ingest(options: Options) -> None:
    """
    A `DatagramProtocol` that takes datagrams.
    """
    tally = Tally(options.every)

    def received(_transport: Any, data: bytes, _address: Any) -> None:
        tally.add(RECORD.unpack(data)[0])

    await _datagrams(received, options)


async def udp_answer(options: Options) -> None:
    """
    A `DatagramProtocol` that answers.
    """

    def received(transport: Any, data: bytes, address: Any) -> None:
        transport.sendto(answer_datagram(data), address)

    await _datagrams(received, options)


async def dgram_ingest(options: Options) -> None:
    """
    asyncio-dgram, which awaits each datagram.
    """
    import asyncio_dgram

    tally = Tally(options.every)
    stream = await asyncio_dgram.from_socket(receiver(options, blocking=False))
    ready()
    while True:
        data, _ = await stream.recv()
        tally.add(RECORD.unpack(data)[0])


async def dgram_answer(options: Options) -> None:
    """
    asyncio-dgram that answers.
    """
    import asyncio_dgram

    stream = await asyncio_dgram.from_socket(receiver(options, blocking=False))
    ready()
    while True:
        data, address = await stream.recv()
        await stream.send(answer_datagram(data), address)


def on_asyncio(options: Options, name: str) -> None:
    """
    Run one of the above on asyncio's loop.
    """
    asyncio.run(globals()[name](options))


def on_uvloop(options: Options, name: str) -> None:
    """
    Run one of the above on uvloop.
    """
    import uvloop

    uvloop.run(globals()[name](options))
