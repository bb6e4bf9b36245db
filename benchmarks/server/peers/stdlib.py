"""
The standard library's own servers.
"""

from __future__ import annotations

import socketserver
from typing import Any

from benchmarks.server.peers.least import HEAD, RECORD, REPLY, answer_datagram
from benchmarks.server.peers.running import (
    BACKLOG,
    HOST,
    Options,
    Tally,
    enlarge,
    ready,
)


class _Frames(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self) -> None:
        read, write = self.rfile.read, self.wfile.write
        while len(head := read(7)) == 7:
            length, kind, ident = HEAD.unpack(head)
            write(HEAD.pack(length, kind | REPLY, ident) + read(length - 5))


class _Answer(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, sock = self.request
        sock.sendto(answer_datagram(data), self.client_address)


def _serve(base: type, handler: type, options: Options) -> None:
    class Server(base):
        allow_reuse_address = True
        daemon_threads = True
        block_on_close = False
        max_children = 400  # the default, 40, would let connections wait
        request_queue_size = BACKLOG

        def server_bind(self) -> None:
            if self.socket_type == socketserver.UDPServer.socket_type:
                enlarge(self.socket, options.buffer)
            super().server_bind()

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # clients that have gone

    with Server((HOST, options.port), handler) as server:
        ready()
        server.serve_forever()


def single(options: Options) -> None:
    """
    `TCPServer`: one connection at a time.
    """
    _serve(socketserver.TCPServer, _Frames, options)


def threading(options: Options) -> None:
    """
    `ThreadingTCPServer`.
    """
    _serve(socketserver.ThreadingTCPServer, _Frames, options)


def forking(options: Options) -> None:
    """
    `ForkingTCPServer`.
    """
    _serve(socketserver.ForkingTCPServer, _Frames, options)


def _ingest(base: type, options: Options) -> None:
    tally = Tally(options.every)

    class Take(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            tally.add(RECORD.unpack(self.request[0])[0])

    _serve(base, Take, options)


def udp_ingest(options: Options) -> None:
    """
    `UDPServer` that takes datagrams.
    """
    _ingest(socketserver.UDPServer, options)


def udp_threading_ingest(options: Options) -> None:
    """
    `ThreadingUDPServer` that takes datagrams.
    """
    _ingest(socketserver.ThreadingUDPServer, options)


def udp_answer(options: Options) -> None:
    """
    `UDPServer` that answers.
    """
    _serve(socketserver.UDPServer, _Answer, options)


def udp_threading_answer(options: Options) -> None:
    """
    `ThreadingUDPServer` that answers.
    """
    _serve(socketserver.ThreadingUDPServer, _Answer, options)


def udp_forking_answer(options: Options) -> None:
    """
    `ForkingUDPServer` that answers.
    """
    _serve(socketserver.ForkingUDPServer, _Answer, options)
