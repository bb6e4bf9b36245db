"""
What a declared service does on streams, written by hand with struct: each frame becomes
an attrs object, a handler's method is called with it, its reply is packed.

All frames of one read are answered by one write. Lengths are checked; there are no
deadlines and no other limits.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

import attrs

from benchmarks.server.peers.running import Options, listener, ready
from benchmarks.server.shape import SMALL, Shape

MAX_SIZE = 4 << 20
LARGE = 16 << 10
"""Bytes from which on a frame is worth a buffer of its own."""


@attrs.define
class Ping:
    """
    A request.
    """

    ident: int
    body: bytes


@attrs.define
class Pong:
    """
    A reply.
    """

    ident: int
    body: bytes


class Handler:
    """
    Answers requests.
    """

    def ping(self, message: Ping) -> Pong:
        """
        Give the body back.
        """
        return Pong(message.ident, message.body)


Answer = Callable[[Any, int, int], "tuple[list[bytes], int]"]
"""Takes a buffer, where frames begin and where data ends; gives replies and the rest."""


def answerer(shape: Shape) -> Answer:
    """
    Make the function that answers all whole frames in a buffer.

    Raises:
        ValueError: when it is called, for a frame that is none.
    """
    if shape == attrs.evolve(SMALL, body=shape.body):
        return _one_kind(shape)
    return _many_kinds(shape)


def _one_kind(shape: Shape) -> Answer:
    frame = struct.Struct(f"!HBI{shape.body}s")
    unpack, pack = frame.unpack_from, frame.pack
    size, length_wanted = frame.size, frame.size - 2
    ping = Handler().ping

    def answer(buffer: Any, at: int, end: int) -> tuple[list[bytes], int]:
        replies = []
        while end - at >= size:
            length, kind, ident, body = unpack(buffer, at)
            if length != length_wanted or kind != 1:
                raise ValueError(f"kind {kind} of {length} bytes")
            reply = ping(Ping(ident, body))
            replies.append(pack(length, 0x81, reply.ident, reply.body))
            at += size
        return replies, at

    return answer


def _many_kinds(shape: Shape) -> Answer:
    head = struct.Struct("!" + {2: "H", 4: "I"}[shape.prefix] + " BH"[shape.kind] + "I")
    body = struct.Struct(f"!{shape.fields}H" if shape.fields else f"!{shape.body}s")
    names = [f"f{i}" for i in range(shape.fields)] or ["body"]
    unpack, unpack_body = head.unpack_from, body.unpack_from
    whole = struct.Struct(head.format + body.format[1:])
    values = _reader(names)
    prefix, skip, bit = shape.prefix, head.size, shape.reply_bit
    fixed = body.size + head.size - prefix
    routes = {}
    for kind in range(1, shape.kinds + 1):
        request = attrs.make_class(f"Request{kind}", ["ident", *names], slots=True)
        reply = attrs.make_class(f"Reply{kind}", ["ident", *names], slots=True)
        routes[kind] = (request, _method(reply, names), kind | bit)

    def answer(buffer: Any, at: int, end: int) -> tuple[list[bytes], int]:
        replies = []
        while end - at >= skip:
            length, kind, ident = unpack(buffer, at)
            if length != fixed:
                raise ValueError(f"kind {kind} of {length} bytes")
            after = at + prefix + length
            if after > end:
                break
            cls, method, tag = routes[kind]
            reply = method(cls(ident, *unpack_body(buffer, at + skip)))
            replies.append(whole.pack(length, tag, reply.ident, *values(reply)))
            at = after
        return replies, at

    return answer


def _reader(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    source = f"lambda m: ({''.join(f'm.{name}, ' for name in names)})"
    return eval(source)


def _method(reply: type, names: list[str]) -> Callable[[Any], Any]:
    values = "".join(f"m.{name}, " for name in names)
    return eval(f"lambda m: reply(m.ident, {values})", {"reply": reply})


def _protocol(options: Options) -> type[asyncio.BufferedProtocol]:
    answer = answerer(options.shape)
    prefix = options.shape.prefix
    shared = bytearray(256 * 1024)
    view = memoryview(shared)

    class Frames(asyncio.BufferedProtocol):
        """
        One connection.

        What is left of a small frame is put before the next read; a large one is read
        into a buffer of the connection's own, which is kept for the next one.
        """

        __slots__ = ("have", "large", "rest", "size", "transport")

        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.rest = b""
            self.large = bytearray()
            self.size = self.have = 0

        def get_buffer(self, _hint: int) -> memoryview:
            if self.size:
                return memoryview(self.large)[self.have : self.size]
            rest = self.rest
            if rest:
                shared[: len(rest)] = rest
                return view[len(rest) :]
            return view

        def buffer_updated(self, nbytes: int) -> None:
            if self.size:
                self.have += nbytes
                if self.have == self.size:
                    self.size = 0
                    self.answer(self.large, self.have)
                return
            self.answer(shared, nbytes + len(self.rest))

        def answer(self, buffer: bytearray, end: int) -> None:
            try:
                replies, at = answer(buffer, 0, end)
            except (ValueError, KeyError):
                self.transport.abort()
                return
            self.rest = b""
            if at < end:
                self.keep(memoryview(buffer)[at:end])
            if replies:
                write = self.transport.write
                write(replies[0] if len(replies) == 1 else b"".join(replies))

        def keep(self, rest: memoryview) -> None:
            self.rest = bytes(rest)
            size = prefix + int.from_bytes(self.rest[:prefix], "big")
            if len(self.rest) >= prefix and LARGE < size < MAX_SIZE:
                if len(self.large) < size:
                    self.large = bytearray(size)
                self.size, self.have = size, len(self.rest)
                self.large[: self.have] = self.rest
                self.rest = b""

        def eof_received(self) -> bool:
            return False

    return Frames


async def _serve(options: Options) -> None:
    loop = asyncio.get_running_loop()
    sock = listener(options, blocking=False)
    server = await loop.create_server(_protocol(options), sock=sock, backlog=4096)
    ready()
    await server.serve_forever()


def on_asyncio(options: Options) -> None:
    """
    An asyncio `BufferedProtocol`.
    """
    asyncio.run(_serve(options))


def on_uvloop(options: Options) -> None:
    """
    The same on uvloop.
    """
    import uvloop

    uvloop.run(_serve(options))


def in_threads(options: Options) -> None:
    """
    A thread for each connection.
    """
    answer = answerer(options.shape)

    def converse(sock: socket.socket) -> None:
        rest = b""
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := sock.recv(65536):
                data = rest + data if rest else data
                replies, at = answer(data, 0, len(data))
                rest = data[at:]
                if replies:
                    sock.sendall(b"".join(replies))
        except (OSError, ValueError, KeyError):
            pass  # the client has gone, or makes no sense
        finally:
            sock.close()

    accept = listener(options).accept
    ready()
    while True:
        sock, _ = accept()
        threading.Thread(target=converse, args=(sock,), daemon=True).start()
