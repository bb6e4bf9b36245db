"""
What the tests of clients share: protocols, and peers that do as they are told.
"""

import asyncio
import contextlib
import inspect
import socket
import ssl
import struct
import threading

import attrs
from construct import GreedyBytes, Int8ub, Int16ub

from protoserve import LengthPrefixed, Message, Protocol, Request, Role, Session, wire
from protoserve.client import AsyncClient, Client
from protoserve.events import NEED_DATA, MessageReceived

PATIENCE = 60.0
"""Seconds after which a test gives up; nothing is meant to take that long."""


class Pong(Message):
    value: int = wire(Int8ub, default=0)


class Nak(Message, error=True):
    reason: int = wire(Int8ub, default=0)


class Alarm(Message):
    """Answers nothing: it is pushed."""

    level: int = wire(Int8ub, default=0)


class Text(Message):
    text: bytes = wire(GreedyBytes, default=b"")


class Ping(Request[Pong]):
    value: int = wire(Int8ub, default=0)


class Ask(Request[Text], idempotent=True):
    value: int = wire(Int8ub, default=0)


class Bulk(Request[Text]):
    data: bytes = wire(GreedyBytes, default=b"")


class Header(Message):
    kind: int = wire(Int8ub)
    sequence: int = wire(Int16ub, default=0)


def protocol(**options):
    given = {
        "framing": LengthPrefixed(Int16ub, max_size=16_000),
        "header": Header,
        "tag": "kind",
        "correlate": "sequence",
        "requests": {1: Ping, 2: Ask, 5: Bulk},
        "responses": {1: Pong, 2: Text, 3: Nak, 4: Alarm},
    }
    return Protocol("spoken", **{**given, **options})


spoken = protocol()
unkeyed = protocol(correlate=None)


class Gone(Exception):
    """
    The client has ended the connection.
    """


@attrs.define(eq=False)
class Far:
    """
    The far end of one conversation, in a thread of its own.
    """

    sock: socket.socket
    session: Session
    address: object = None
    asked: list = attrs.field(factory=list)

    def receive(self):
        """
        Give the next request and its header.
        """
        while (event := self.session.next_event()) is NEED_DATA:
            if self.session.stream:
                data = self.sock.recv(65_536)
                if not data:
                    raise Gone
            else:
                data, self.address = self.sock.recvfrom(65_536)
                if not data:
                    raise Gone
            self.session.receive_data(data)
        assert isinstance(event, MessageReceived), event
        self.asked.append(event.message)
        return event.message, event.header

    def send(self, *answers):
        """
        Send messages in one piece, or a datagram each: pairs with the header.
        """
        made = [self.session.encode(m, reply_to=h) for m, h in answers]
        for data in [b"".join(made)] if self.session.stream else made:
            self.raw(data)

    def raw(self, data):
        if self.session.stream:
            self.sock.sendall(data)
        else:
            self.sock.sendto(data, self.address)

    def reset(self):
        linger = struct.pack("ii", 1, 0)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.sock.close()


def echo(far):
    """
    Answer each ping by a pong, all else by a text.
    """
    while True:
        message, header = far.receive()
        match message:
            case Ping(value):
                answer = Pong(value)
            case Ask(value):
                answer = Text(bytes([value]))
            case Bulk(data):
                answer = Text(data)
        far.send((answer, header))


class Peers:
    """
    Listens, and lets a function speak with each client that connects.
    """

    def __init__(self, transport, folder, spoken, speak, *, port=0, wrap=None):
        self.stream = transport in {"tcp", "unix"}
        self.spoken, self.speak = spoken, speak
        self.wrap = wrap
        self.fars, self.threads, self.failures = [], [], []
        unix = transport.startswith("unix")
        kind = socket.SOCK_STREAM if self.stream else socket.SOCK_DGRAM
        self.sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET, kind)
        self.sock.bind(str(folder / "far") if unix else ("127.0.0.1", port))
        name = self.sock.getsockname()
        self.url = (
            f"{transport}://{name}" if unix else f"{transport}://127.0.0.1:{name[1]}"
        )
        if self.stream:
            self.sock.listen(16)
            self.thread(self.accept)
        else:
            self.thread(self.converse, self.sock)

    def thread(self, target, *args):
        thread = threading.Thread(target=target, args=args)
        self.threads.append(thread)
        thread.start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.sock.accept()
                self.thread(self.converse, sock)

    def converse(self, sock):
        session = Session(self.spoken, Role.SERVER, stream=self.stream)
        try:
            if self.wrap is not None:
                sock = self.wrap(sock)
            far = Far(sock, session)
            self.fars.append(far)
            self.speak(far)
        except (Gone, ConnectionError, ssl.SSLError):
            pass
        except OSError:
            assert sock.fileno() == -1
        except BaseException as exc:
            self.failures.append(exc)
            raise
        finally:
            if self.stream:
                sock.close()

    def stop(self):
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        for far in self.fars:
            with contextlib.suppress(OSError):
                far.sock.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        self.sock.close()
        assert [] == self.failures


class Blocking:
    """
    An `AsyncClient` whose methods are run until they are done, so that it passes the
    same tests as `Client`.
    """

    def __init__(self, *args, **options):
        self.client = AsyncClient(*args, **options)
        self.loop = asyncio.new_event_loop()

    def __repr__(self):
        return repr(self.client)

    def __enter__(self):
        self.connect()
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.loop.is_closed():
            return
        self.loop.run_until_complete(self.client.close())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def __getattr__(self, name):
        found = getattr(self.client, name)
        if not inspect.ismethod(found):
            return found
        if inspect.isasyncgenfunction(found):
            return lambda *a, **o: self.iterate(found(*a, **o))
        return lambda *a, **o: self.loop.run_until_complete(found(*a, **o))

    def iterate(self, generator):
        try:
            while True:
                yield self.loop.run_until_complete(anext(generator))
        except StopAsyncIteration:
            return
        finally:
            if not self.loop.is_closed():
                self.loop.run_until_complete(generator.aclose())


CLIENTS = {"sync": Client, "asyncio": Blocking}
