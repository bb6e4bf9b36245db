"""
Twisted: its length-prefixed receiver, and a protocol that answers each read at once.
"""

from __future__ import annotations

import struct
from typing import Any

from twisted.internet import epollreactor

from benchmarks.server.peers.least import (
    RECORD,
    REPLY,
    answer_all,
    answer_datagram,
)
from benchmarks.server.peers.running import (
    BACKLOG,
    HOST,
    Options,
    Tally,
    ready,
    receiver,
)

epollreactor.install()  # before the reactor is imported

from twisted.internet import protocol, reactor  # noqa: E402 - see above
from twisted.protocols.basic import Int16StringReceiver  # noqa: E402

_KIND = struct.Struct("!BI")


class _Strings(Int16StringReceiver):
    def connectionMade(self) -> None:  # noqa: N802 - Twisted's name
        self.transport.setTcpNoDelay(True)

    def stringReceived(self, string: bytes) -> None:  # noqa: N802
        kind, ident = _KIND.unpack_from(string)
        self.sendString(_KIND.pack(kind | REPLY, ident) + string[5:])


class _Whole(protocol.Protocol):
    rest = b""

    def connectionMade(self) -> None:  # noqa: N802
        self.transport.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        replies, self.rest = answer_all(self.rest + data if self.rest else data)
        if replies:
            self.transport.write(replies)


def _serve(cls: type, options: Options) -> None:
    factory = protocol.Factory()
    factory.protocol = cls
    factory.noisy = False
    reactor.listenTCP(options.port, factory, backlog=BACKLOG, interface=HOST)
    _run()


def _run() -> None:
    reactor.callWhenRunning(ready)
    reactor.run(installSignalHandlers=False)


def strings(options: Options) -> None:
    """
    `Int16StringReceiver`.
    """
    _serve(_Strings, options)


def whole(options: Options) -> None:
    """
    A `Protocol`.
    """
    _serve(_Whole, options)


def _datagrams(options: Options, received: Any) -> None:
    class Datagrams(protocol.DatagramProtocol):
        def datagramReceived(self, datagram: bytes, addr: Any) -> None:  # noqa: N802
            received(self.transport, datagram, addr)

    sock = receiver(options, blocking=False)
    reactor.adoptDatagramPort(sock.fileno(), sock.family, Datagrams())
    _run()


def udp_ingest(options: Options) -> None:
    """
    A `DatagramProtocol` that takes datagrams.
    """
    tally = Tally(options.every)
    _datagrams(options, lambda _, data, __: tally.add(RECORD.unpack(data)[0]))


def udp_answer(options: Options) -> None:
    """
    A `DatagramProtocol` that answers.
    """
    _datagrams(
        options,
        lambda transport, data, address: transport.write(
            answer_datagram(data), address
        ),
    )
