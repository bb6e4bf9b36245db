"""
Serve a service at some addresses until told to stop.

This is what ``protoserve run`` does, for programs and tests as well. Each address
gets a server of the classic stack. To stop is to *drain*: nothing new is
accepted, what has arrived is answered, and what is not done in time is ended.

Datagrams are always handled by one loop: a thread or process for each would lose
most of them under load.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

from protoserve.errors import DeclarationError
from protoserve.rarelog import RareLog
from protoserve.server import (
    EventLoopMixIn,
    ForkingMixIn,
    TCPServer,
    ThreadingMixIn,
    UDPServer,
    UnixDatagramServer,
    UnixStreamServer,
)
from protoserve.server._waiting import Waiter, Waker
from protoserve.server.base import BaseServer
from protoserve.service import Service
from protoserve.urls import Address

__all__ = ["MODES", "Runner", "make_server"]

logger = logging.getLogger("protoserve")
_rare = RareLog(logger)

MODES = ("threads", "fork", "single", "loop")
"""How stream connections are handled."""

_BACKLOG = 1024
_LOOK_AGAIN = 0.2
_LAST_WORDS = 0.2
"""Seconds for handlers to notice that their connection was ended."""
_LARGEST_DATAGRAM = 65_535
_MIXINS: dict[str, tuple[type, ...]] = {
    "threads": (ThreadingMixIn,),
    "fork": (ForkingMixIn,),
    "single": (),
    "loop": (EventLoopMixIn,),
}
_SERVERS: dict[str, type] = {
    "tcp": TCPServer,
    "udp": UDPServer,
    "unix": UnixStreamServer,
    "unixgram": UnixDatagramServer,
}


class _Counting:
    """
    Knows which requests are not done yet, and sends what goes wrong to the log.
    """

    def __init__(self, *args: Any) -> None:
        self.open_requests: set[Any] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open_requests.add(request)
        super().process_request(request, client_address)  # type: ignore[misc] # a mix-in

    def close_request(self, request: Any) -> None:
        try:
            super().close_request(request)  # type: ignore[misc] # a mix-in
        finally:
            self.open_requests.discard(request)

    def handle_error(self, _request: Any, client_address: Any) -> None:
        _rare.log(
            logging.ERROR, "the request from %s failed", client_address, exc_info=True
        )

    def handle_truncated(self, request: Any, client_address: Any) -> None:
        _rare.log(
            logging.WARNING,
            "a datagram from %s is longer than %d bytes and was dropped",
            client_address,
            len(request[0]),
        )


def make_server(service: Service, address: Address, mode: str = "threads") -> Any:
    """
    Make a server that is bound and listens.

    Args:
        service: what to serve.
        address: where.
        mode: one of `MODES`.

    Raises:
        DeclarationError: the protocol cannot be spoken there.
        OSError: the address cannot be had.
    """
    if mode not in _MIXINS:
        raise DeclarationError(f"unknown mode {mode!r} (known: {', '.join(MODES)})")
    if address.is_stream and service.protocol.framing is None:
        raise DeclarationError(
            f"{service.protocol.name} has no framing=, so it cannot be served at "
            f"{address}; use udp:// or unixgram://"
        )
    target: Any = address.host
    options: dict[str, Any] = {
        "allow_reuse_address": address.transport == "tcp",
        "request_queue_size": _BACKLOG,
        "daemon_threads": True,
        "max_children": service.limits.connections or sys.maxsize,
        "unlink_on_close": True,
    }
    if address.transport in ("tcp", "udp"):
        kind = socket.SOCK_STREAM if address.is_stream else socket.SOCK_DGRAM
        host = address.host if address.host not in ("", "*") else "0.0.0.0"  # noqa: S104 - asked for
        found = socket.getaddrinfo(host, address.port, type=kind)
        family, _, _, _, target = found[0]
        options["address_family"] = family
    else:
        _remove_stale_socket(address)
    if not address.is_stream:
        options["max_packet_size"] = _LARGEST_DATAGRAM
    mixins = _MIXINS[mode] if address.is_stream or mode == "loop" else ()
    bases = (_Counting, *mixins, _SERVERS[address.transport])
    server = type("Server", bases, options)
    return server(target, service.RequestHandlerClass)


def _remove_stale_socket(address: Address) -> None:
    """
    Remove a Unix socket's path if nobody listens there any more.
    """
    path = Path(address.host)
    if not path.is_socket():
        return  # to connect to any other file would be refused in the same way
    kind = socket.SOCK_STREAM if address.is_stream else socket.SOCK_DGRAM
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        if probe.connect_ex(address.host) == errno.ECONNREFUSED:
            path.unlink(missing_ok=True)


@attrs.define
class Runner:
    """
    Serves a service until `stop` is called.

    Args:
        service: what to serve.
        addresses: where.
        mode: how stream connections are handled, one of `MODES`.
        drain: seconds that what is in flight may take after `stop`.
    """

    service: Service
    addresses: Sequence[Address]
    mode: str = "threads"
    drain: float = 10.0
    bound: list[Address] = attrs.field(factory=list, init=False)
    """Where it listens, after `bind`; chosen ports filled in."""
    _servers: list[Any] = attrs.field(factory=list, init=False)
    _stopping: bool = attrs.field(default=False, init=False)
    _waker: Waker = attrs.field(factory=Waker, init=False)
    _children: list[int] = attrs.field(factory=list, init=False)
    _owner: int = attrs.field(factory=os.getpid, init=False)

    def bind(self) -> list[Address]:
        """
        Take all addresses, or none.

        Raises:
            DeclarationError: the protocol cannot be spoken at one of them.
            OSError: one cannot be had.
        """
        try:
            for address in self.addresses:
                server = make_server(self.service, address, self.mode)
                server.drain_timeout = self.drain
                self._servers.append(server)
                self.bound.append(
                    Address.bound(address.transport, server.server_address)
                )
        except BaseException:
            self._close_servers()
            raise
        return self.bound

    def stop(self) -> None:
        """
        Ask to stop; to be called from a signal handler or any thread.
        """
        # No lock is taken: a signal handler may interrupt whoever holds it.
        self._stopping = True
        self._waker.wake()
        if not self._forks:
            return
        if os.getpid() != self._owner and not self._children:
            # A child that handles one request: it ends when it has answered.
            self.service.drain()
        for server in self._servers:
            server.shutdown()  # in the thread that serves, it does not wait

    def serve(self) -> None:
        """
        Serve until `stop`, then drain.
        """
        if self._forks:
            self._serve_by_forking()
        else:
            self._serve_by_threads()

    @property
    def _forks(self) -> bool:
        return self.mode == "fork" and any(a.is_stream for a in self.addresses)

    def _await_stop(self) -> None:
        # A signal that comes between two lines of Python and a system call does not
        # interrupt that, and its handler runs only afterwards.
        waiter = Waiter(self._waker)
        while not self._stopping:
            waiter.wait((), _LOOK_AGAIN)

    # In threads ------------------------------------------------------------

    def _serve_by_threads(self) -> None:
        loops = [
            threading.Thread(
                target=server.serve_forever, name=f"protoserve {url}", daemon=True
            )
            for server, url in zip(self._servers, self.bound, strict=True)
        ]
        for loop in loops:
            loop.start()
        self._await_stop()
        deadline = time.monotonic() + self.drain
        self.service.drain()
        for server in self._servers:
            # shutdown() waits for the request at hand, which may take its time.
            threading.Thread(target=server.shutdown, daemon=True).start()
        for loop in loops:
            loop.join(max(0.0, deadline - time.monotonic()))
        for server, loop in zip(self._servers, loops, strict=True):
            if not loop.is_alive():
                _finish_queue(server, deadline)
        self._close_servers()
        if not _wait_until(self._is_idle, deadline):
            logger.warning(
                "%d requests were not done after %s s and are ended",
                sum(len(server.open_requests) for server in self._servers),
                self.drain,
            )
            self.service.abandon()
            _wait_until(self._is_idle, time.monotonic() + _LAST_WORDS)
        self.service.resume()

    def _is_idle(self) -> bool:
        return not any(server.open_requests for server in self._servers)

    def _close_servers(self) -> None:
        for server in self._servers:
            server.server_close()

    # In processes ----------------------------------------------------------

    def _serve_by_forking(self) -> None:
        """
        Serve one address in this process, several in one process each.

        A process that forks has no other threads, which it would cut short.
        """
        if len(self._servers) == 1:
            self._fork_for_requests(self._servers[0])
            return
        for server in self._servers:
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    self._become_worker(server)
                    status = 0
                finally:
                    os._exit(status)
            self._children.append(pid)
        for server in self._servers:
            server.socket.close()
        self._await_stop()
        self._reap(time.monotonic() + self.drain + 1)

    def _become_worker(self, server: BaseServer) -> None:
        for other in self._servers:
            if other is not server:
                other.socket.close()
        self._servers = [server]
        self._children = []
        self._owner = os.getpid()
        self._fork_for_requests(server)

    def _fork_for_requests(self, server: Any) -> None:
        if not self._stopping:
            server.serve_forever()
        deadline = time.monotonic() + self.drain
        _finish_queue(server, deadline)
        server.socket.close()
        children = set(getattr(server, "active_children", None) or ())
        self._children = list(children)
        self._reap(deadline)
        server.server_close()

    def _signal_children(self, number: int) -> None:
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _reap(self, deadline: float) -> None:
        """
        Ask the children to stop, wait, and end those that are not done in time.

        They are asked again and again: the interpreter of a child that was forked
        just now forgets the signals that came before it was ready.
        """
        ask_again_at = 0.0

        def gone() -> bool:
            nonlocal ask_again_at
            if time.monotonic() >= ask_again_at:
                ask_again_at = time.monotonic() + _LOOK_AGAIN
                self._signal_children(signal.SIGTERM)
            for pid in list(self._children):
                with contextlib.suppress(ChildProcessError):
                    if os.waitpid(pid, os.WNOHANG)[0] == 0:
                        continue
                self._children.remove(pid)
            return not self._children

        if not _wait_until(gone, deadline):
            logger.warning(
                "%d requests were not done after %s s and are ended",
                len(self._children),
                self.drain,
            )
            self._signal_children(signal.SIGKILL)
            _wait_until(gone, time.monotonic() + 5)


def _finish_queue(server: Any, deadline: float) -> None:
    """
    Handle what had arrived in the kernel's queue before the loop ended.
    """
    server.socket.setblocking(False)
    waiter = Waiter()
    for _ in range(_BACKLOG):
        children = getattr(server, "active_children", None) or ()
        full = len(children) >= server.max_children
        if (
            full
            or time.monotonic() >= deadline
            or not waiter.wait([server.fileno()], 0)
        ):
            return
        server._handle_request_noblock()


def _wait_until(condition: Callable[[], bool], deadline: float) -> bool:
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)
    return True
