"""
trio: a task for each connection.
"""

from __future__ import annotations

import trio

from benchmarks.server.peers.least import RECORD, answer_all, answer_datagram
from benchmarks.server.peers.running import (
    BACKLOG,
    HOST,
    Options,
    Tally,
    ready,
    receiver,
)


async def _converse(stream: trio.SocketStream) -> None:
    rest = b""
    try:
        while data := await stream.receive_some(65536):
            replies, rest = answer_all(rest + bytes(data))
            if replies:
                await stream.send_all(replies)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the client has gone


async def _streams(options: Options) -> None:
    listeners = await trio.open_tcp_listeners(options.port, host=HOST, backlog=BACKLOG)
    ready()
    await trio.serve_listeners(_converse, listeners)


def streams(options: Options) -> None:
    """
    `serve_listeners`.
    """
    trio.run(_streams, options)


async def _ingest(options: Options) -> None:
    sock = trio.socket.from_stdlib_socket(receiver(options, blocking=False))
    tally = Tally(options.every)
    ready()
    while True:
        data, _ = await sock.recvfrom(2048)
        tally.add(RECORD.unpack(data)[0])


def udp_ingest(options: Options) -> None:
    """
    A socket that takes datagrams.
    """
    trio.run(_ingest, options)


async def _answer(options: Options) -> None:
    sock = trio.socket.from_stdlib_socket(receiver(options, blocking=False))
    ready()
    while True:
        data, address = await sock.recvfrom(2048)
        await sock.sendto(answer_datagram(data), address)


def udp_answer(options: Options) -> None:
    """
    A socket that answers.
    """
    trio.run(_answer, options)
