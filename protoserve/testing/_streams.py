"""
What the fault proxy does with stream connections: one direction of one of them.

What is read goes to an injector and waits there for its time; another task writes what
is due. When too much waits nothing more is read, and so the sender is slowed down.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs

from protoserve.testing._cutter import Cutter
from protoserve.testing.injection import End, Injector
from protoserve.urls import Address

if TYPE_CHECKING:
    import ssl

__all__ = ["Way", "closed", "connect", "reset"]

_READ_SIZE = 64 * 1024


@attrs.define(eq=False)
class Way:
    """
    One direction of a stream connection.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    cutter: Cutter
    injector: Injector
    carried: Counter[str]
    passed: int = 0
    """Bytes read so far."""
    _fed: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)
    _room: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)

    async def run(self) -> End:
        """
        Carry what comes; say how it ended.
        """
        reading = asyncio.ensure_future(self._read())
        try:
            return await self._write(reading)
        except OSError:
            return End.RESET
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while data := await self.reader.read(_READ_SIZE):
                self.passed += len(data)
                self._feed(self.cutter.feed(data))
                while self.injector.full:
                    self._room.clear()
                    await self._room.wait()
            self._feed(self.cutter.end())
            self.injector.end()
        finally:
            self._fed.set()

    def _feed(self, units: Iterable[tuple[bytes, tuple[bytes, ...]]]) -> None:
        for data, frames in units:
            self.carried[self.injector.direction.value] += len(frames)
            self.injector.feed(data, frames)
            self._fed.set()

    async def _write(self, reading: asyncio.Future[None]) -> End:
        while True:
            self._fed.clear()
            for step in self.injector.due():
                if step.data:
                    self.writer.write(step.data)
                    await self.writer.drain()
                if step.end is End.EOF and self.writer.can_write_eof():
                    self.writer.write_eof()
                    return End.EOF
                if step.end is not None:
                    return End.CLOSE if step.end is End.EOF else step.end
            if not self.injector.full:
                self._room.set()
            if reading.done() and reading.exception() is not None:
                await reading  # it was reset
            at = self.injector.next_at()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(at):
                    await self._fed.wait()


async def connect(
    address: Address, tls: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.port is None:
        return await asyncio.open_unix_connection(address.host)
    context = None
    if address.transport == "tls":
        import ssl

        context = tls or ssl.create_default_context()
    return await asyncio.open_connection(address.host, address.port, ssl=context)


def reset(writer: asyncio.StreamWriter) -> None:
    """
    End a connection so that the peer is told that it was reset; over TCP, that is.
    """
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):
            now = struct.pack("ii", 1, 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
    writer.transport.abort()


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(1.0):
            await writer.wait_closed()
            return
    writer.transport.abort()
