"""
gevent: a greenlet for each connection.
"""

from __future__ import annotations

from gevent.server import DatagramServer, StreamServer

from benchmarks.server.peers.least import RECORD, answer_datagram, serve_connection
from benchmarks.server.peers.running import (
    BACKLOG,
    HOST,
    Options,
    Tally,
    ready,
    receiver,
)


def streams(options: Options) -> None:
    """
    `StreamServer`.
    """
    server = StreamServer(
        (HOST, options.port), lambda sock, _: serve_connection(sock), backlog=BACKLOG
    )
    server.start()
    ready()
    server.serve_forever()


def _datagrams(server: DatagramServer) -> None:
    server.start()
    ready()
    server.serve_forever()


def _socket(options: Options):
    from gevent import socket as cooperative

    found = receiver(options, blocking=False)
    return cooperative.socket(fileno=found.detach())


def udp_ingest(options: Options) -> None:
    """
    `DatagramServer` that takes datagrams: a greenlet for each.
    """
    tally = Tally(options.every)
    _datagrams(
        DatagramServer(
            _socket(options), lambda data, _: tally.add(RECORD.unpack(data)[0])
        )
    )


def udp_answer(options: Options) -> None:
    """
    `DatagramServer` that answers.
    """

    class Server(DatagramServer):
        def handle(self, data: bytes, address) -> None:
            self.sendto(answer_datagram(data), address)

    _datagrams(Server(_socket(options)))
