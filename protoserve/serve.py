"""
Serve a service at some addresses until told to stop.

This is what ``protoserve run`` does, for programs and tests as well. Each address
gets a server of the classic stack. To stop is to *drain*: nothing new is
accepted, what has arrived is answered, and what is not done in time is ended.

Datagrams are never handled by a thread or process each: that would lose most of them
under load. All servers that are on an event loop share one, so that what their routes
keep is touched by one thread only.

Where there are worker processes, this one accepts nothing and supervises them. In mode
prefork each worker does what mode loop does, for all addresses, and enters the
service's lifespan itself. In mode fork each address has a process that forks for its
requests, since a process that forks had better have no other threads.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import mmap
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from protoserve.errors import DeclarationError, ProtoserveError
from protoserve.rarelog import RareLog
from protoserve.server import (
    BatchMixIn,
    EventLoopMixIn,
    ForkingMixIn,
    PoolMixIn,
    PreforkMixIn,
    TCPServer,
    ThreadingMixIn,
    UDPServer,
    UnixDatagramServer,
    UnixStreamServer,
)
from protoserve.server._supervise import (
    Supervisor,
    WorkerError,
    end_children,
    worker_count,
)
from protoserve.server._waiting import Waiter, Waker
from protoserve.server.batch import dropped_by_kernel
from protoserve.server.eventloop import serve_together
from protoserve.server.prefork import sockets_of_workers, take_socket
from protoserve.service import Service
from protoserve.urls import Address

if TYPE_CHECKING:
    import ssl

__all__ = ["MODES", "Runner", "StartError", "make_server"]

logger = logging.getLogger("protoserve")
_rare = RareLog(logger)

_BACKLOG = 1024
_LOOK_AGAIN = 0.2
_LAST_WORDS = 0.2
"""Seconds for handlers to notice that their connection was ended."""
_LARGEST_DATAGRAM = 65_535
_GATHER = 0.005
"""Seconds that datagrams gather in the kernel's queue for a service of batch routes."""
_GATHERED = 512
"""How many of them are received at a time."""
_MIXINS: dict[str, tuple[tuple[type, ...], tuple[type, ...]]] = {
    "threads": ((ThreadingMixIn,), ()),
    "fork": ((ForkingMixIn,), ()),
    "single": ((), ()),
    "pool": ((PoolMixIn,), ()),
    "loop": ((EventLoopMixIn,), (EventLoopMixIn,)),
    "prefork": ((PreforkMixIn, EventLoopMixIn), (PreforkMixIn, EventLoopMixIn)),
    "batch": ((EventLoopMixIn,), (BatchMixIn,)),
}
"""For each mode the mix-ins for streams and those for datagrams."""
MODES = tuple(_MIXINS)
"""How requests are handled."""
_SERVERS: dict[str, type] = {
    "tcp": TCPServer,
    "tls": TCPServer,
    "udp": UDPServer,
    "unix": UnixStreamServer,
    "unixgram": UnixDatagramServer,
}


class StartError(ProtoserveError):
    """
    A run cannot start, for a reason that is not a wrong declaration.
    """


class _Telling:
    """
    Sends what goes wrong to the log.
    """

    def __init__(self, *args: Any) -> None:
        self.open_requests: set[Any] = set()
        super().__init__(*args)

    def handle_error(self, _request: Any, client_address: Any) -> None:
        _rare.log(
            logging.ERROR, "the request from %s failed", client_address, exc_info=True
        )

    def handle_truncated(self, request: Any, client_address: Any) -> None:
        self.RequestHandlerClass.service.account.lose("truncated")  # type: ignore[attr-defined] # a mix-in
        _rare.log(
            logging.WARNING,
            "a datagram from %s is longer than %d bytes and was dropped",
            client_address,
            len(request[0]),
        )


class _Counting(_Telling):
    """
    Knows which requests are not done yet.
    """

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open_requests.add(request)
        super().process_request(request, client_address)  # type: ignore[misc] # a mix-in

    def close_request(self, request: Any) -> None:
        try:
            super().close_request(request)  # type: ignore[misc] # a mix-in
        finally:
            self.open_requests.discard(request)


def make_server(
    service: Service,
    address: Address,
    mode: str = "threads",
    tls: ssl.SSLContext | None = None,
    *,
    receive_buffer: int | None = None,
) -> Any:
    """
    Make a server that is bound and listens.

    Args:
        service: what to serve.
        address: where.
        mode: one of `MODES`.
        tls: what is shown to clients at a ``tls://`` address, made by
            `protoserve.server.server_context` for example.
        receive_buffer: bytes of the kernel's queue to ask for, in mode batch, if not
            as many as by default.

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
    if address.transport == "tls" and tls is None:
        raise DeclarationError(f"{address}: there is no certificate to serve it with")
    target: Any = address.host
    options: dict[str, Any] = {
        "allow_reuse_address": address.transport in ("tcp", "tls"),
        "request_queue_size": _BACKLOG,
        "daemon_threads": True,
        "max_children": service.limits.connections or sys.maxsize,
        "unlink_on_close": True,
    }
    if address.port is not None:
        kind = socket.SOCK_STREAM if address.is_stream else socket.SOCK_DGRAM
        host = address.host if address.host not in ("", "*") else "0.0.0.0"  # noqa: S104 - asked for
        found = socket.getaddrinfo(host, address.port, type=kind)
        family, _, _, _, target = found[0]
        options["address_family"] = family
    else:
        _remove_stale_socket(address)
    if not address.is_stream:
        options["max_packet_size"] = _LARGEST_DATAGRAM
        if receive_buffer is not None:
            options["receive_buffer"] = receive_buffer
    mixins = _MIXINS[mode][0 if address.is_stream else 1]
    if address.transport == "tls":
        from protoserve.server.tls import TLSMixIn

        options["ssl_context"] = tls
        first = tuple(mixin for mixin in mixins if mixin is PreforkMixIn)
        mixins = (*first, TLSMixIn, *mixins[len(first) :])
    if BatchMixIn in mixins and service.gatherings and not service._routes.messages:
        # Nobody waits for an answer.
        options |= {"gather": _GATHER, "batch_size": _GATHERED}
    # Batches have no single requests to count, and finish what they have begun.
    base = _Telling if BatchMixIn in mixins else _Counting
    bases = (base, *mixins, _SERVERS[address.transport])
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
        mode: how requests are handled, one of `MODES`.
        drain: seconds that what is in flight may take after `stop`.
        workers: how many processes there are in mode prefork; None or ``"auto"`` for
            one for each CPU that may be used. Mode batch may have some too.
        tls: what is shown to clients at ``tls://`` addresses, see `make_server`.
        per_worker: whether each worker has a socket of its own for datagrams, see
            `PreforkMixIn.socket_per_worker`.
        beside: what one process more does, beside the workers; it is given what to call
            when it is ready, and what says whether to end.
        receive_buffer: bytes of the kernel's queue to ask for, see `make_server`.

    Raises:
        DeclarationError: there are to be workers in a mode without.
    """

    service: Service
    addresses: Sequence[Address]
    mode: str = "threads"
    drain: float = 10.0
    workers: int | str | None = None
    tls: ssl.SSLContext | None = None
    per_worker: bool | None = None
    beside: Callable[[Callable[[], None], Callable[[], bool]], None] | None = None
    receive_buffer: int | None = None
    bound: list[Address] = attrs.field(factory=list, init=False)
    """Where it listens, after `bind`; chosen ports filled in."""
    _servers: list[Any] = attrs.field(factory=list, init=False)
    _stopping: bool = attrs.field(default=False, init=False)
    _waker: Waker = attrs.field(factory=Waker, init=False)
    _sockets: list[list[socket.socket]] = attrs.field(factory=list, init=False)
    """The socket of each worker, for each server."""
    _supervisor: Supervisor | None = attrs.field(default=None, init=False)
    _owner: int = attrs.field(factory=os.getpid, init=False)
    _deadline: float = attrs.field(default=0.0, init=False)
    """When everything has to be over, in monotonic seconds, after `stop`."""

    _binder: int = attrs.field(factory=os.getpid, init=False)
    _drops: memoryview = attrs.field(factory=lambda: memoryview(b""), init=False)
    """
    What the kernel's counts were, by socket. It is shared with all processes, since
    one that is started anew must not count what another has counted.
    """
    _drops_lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    def __attrs_post_init__(self) -> None:
        self._count_workers()

    def count_kernel_drops(self) -> None:
        """
        Account for what the kernel has dropped since the last time.

        For one process at a time, the one that has bound or the one beside the workers;
        a queue that is full tells nobody.
        """
        if os.getpid() != self._binder or not self._drops:
            return
        with self._drops_lock:
            for place, sock in enumerate(self._all_sockets()):
                now = dropped_by_kernel(sock)
                if now is not None:
                    lost = (now - self._drops[place]) & 0xFFFFFFFF
                    self._drops[place] = now
                    if lost:
                        self.service.account.lose("kernel", lost)

    def _all_sockets(self) -> list[socket.socket]:
        return list(dict.fromkeys(itertools.chain.from_iterable(self._sockets)))

    def open(self) -> None:
        """
        Enter the service's lifespan, unless that is for each worker to do.

        Raises:
            StartError: it failed.
        """
        if not self._has_workers:
            self._enter_lifespan()

    def _enter_lifespan(self) -> None:
        try:
            self.service.open()
        except Exception as exc:
            reason = f"{type(exc).__name__}: {exc}"
            raise StartError(f"the service's lifespan failed: {reason}") from exc

    def bind(self) -> list[Address]:
        """
        Take all addresses, or none.

        Raises:
            DeclarationError: the protocol cannot be spoken at one of them.
            OSError: one cannot be had.
        """
        count = self._count_workers()
        _make_codec(self.service, self.addresses)
        try:
            for address in self.addresses:
                server = make_server(
                    self.service,
                    address,
                    self.mode,
                    self.tls,
                    receive_buffer=self.receive_buffer,
                )
                server.drain_timeout = self.drain
                self._servers.append(server)
                self._sockets.append(
                    sockets_of_workers(server, count, per_worker=self.per_worker)
                )
                self.bound.append(
                    Address.bound(address.transport, server.server_address)
                )
        except BaseException:
            self._close_servers()
            raise
        shared = mmap.mmap(-1, 8 * max(1, len(self._all_sockets())))
        self._drops = memoryview(shared).cast("q")
        return self.bound

    def datagram_servers(self) -> list[BatchMixIn]:
        """
        Give the servers that receive datagrams in batches, after `bind`.
        """
        return [server for server in self._servers if isinstance(server, BatchMixIn)]

    def stop(self) -> None:
        """
        Ask to stop; to be called from a signal handler or any thread.
        """
        # No lock is taken: a signal handler may interrupt whoever holds it.
        self._stopping = True
        self._waker.wake()
        if self._supervisor is not None:
            self._supervisor.wake()
            return
        if not self._forks:
            return
        if os.getpid() != self._owner:
            # A child that handles one request: it ends when it has answered.
            self.service.drain()
        for server in self._servers:
            server.shutdown()  # in the thread that serves, it does not wait

    def reload(self) -> None:
        """
        Replace the worker processes, one by one, where there are any.

        To be called from a signal handler or any thread. A new worker is there before
        the old one finishes what it has begun.
        """
        if self._supervisor is not None:
            self._supervisor.replace()

    def serve(self, on_ready: Callable[[], object] | None = None) -> None:
        """
        Serve until `stop`, then drain.

        Args:
            on_ready: called once everything is served.

        Raises:
            StartError: a worker cannot start.
        """
        if self._has_workers:
            count = self._count_workers() + (self.beside is not None)
            self._supervise(count, self._serve_all, on_ready)
            return
        if self._forks and len(self._servers) > 1:
            self._supervise(len(self._servers), self._serve_one, on_ready)
            return
        if on_ready is not None:
            on_ready()
        if self._forks:
            self._fork_for_requests(self._servers[0])
        else:
            self._serve_by_threads()

    def _count_workers(self) -> int:
        if self._has_workers:
            try:
                return worker_count(self.workers)
            except ValueError as exc:
                raise DeclarationError(str(exc)) from exc
        if self.workers is not None:
            raise DeclarationError(
                f"workers are for modes prefork and batch, not {self.mode}"
            )
        return 1

    @property
    def _has_workers(self) -> bool:
        return self.mode == "prefork" or (
            self.mode == "batch" and self.workers is not None
        )

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
        together = [s for s in self._servers if isinstance(s, EventLoopMixIn)]
        alone = [s for s in self._servers if s not in together]
        loops = [
            threading.Thread(target=self._serve_alone, args=(server,), daemon=True)
            for server in alone
        ]
        if together:
            loops.append(
                threading.Thread(target=serve_together, args=(together,), daemon=True)
            )
        for loop in loops:
            loop.start()
        self._await_stop()
        deadline = self._deadline = time.monotonic() + self.drain
        self.service.drain()
        for server in self._servers:
            # shutdown() waits for the request at hand, which may take its time.
            threading.Thread(target=server.shutdown, daemon=True).start()
        for loop in loops:
            loop.join(max(0.0, deadline - time.monotonic()))
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

    def _serve_alone(self, server: Any) -> None:
        """
        Run one server's loop, and handle what had arrived when that ended.
        """
        server.serve_forever()
        # Not in the thread that looks at the time: a peer need not come to an end.
        # That one closes the socket when the time is up.
        with contextlib.suppress(OSError, ValueError):
            _finish_queue(server, self._deadline)

    def _is_idle(self) -> bool:
        return not any(server.open_requests for server in self._servers)

    def _close_servers(self) -> None:
        self.count_kernel_drops()
        for server in self._servers:
            server.server_close()
        for sockets in self._sockets:
            for sock in sockets:
                sock.close()

    # In processes ----------------------------------------------------------

    def _supervise(
        self,
        count: int,
        work: Callable[[int, Callable[[], None]], None],
        on_ready: Callable[[], object] | None,
    ) -> None:
        def begin(number: int, ready: Callable[[], None]) -> None:
            self._supervisor = None
            self._owner = os.getpid()
            self._waker = Waker()
            work(number, ready)

        if self.beside is not None:
            self._binder = 0  # the process beside the workers counts
        supervisor = Supervisor(begin, count, stop=self.stop, drain=self.drain)
        self._supervisor = supervisor
        try:
            supervisor.run(lambda: self._stopping, on_ready)
        except WorkerError as exc:
            raise StartError(str(exc)) from exc
        finally:
            # First of all, so that the addresses are free for a successor.
            self._close_servers()
            supervisor.end()
            self._supervisor = None

    def _serve_all(self, number: int, ready: Callable[[], None]) -> None:
        """
        Serve all addresses, as one worker of several.
        """
        if number == self._count_workers():
            assert self.beside is not None
            for sock in itertools.chain.from_iterable(self._sockets):
                if sock.type == socket.SOCK_STREAM:
                    sock.close()  # else nobody would be refused while the others end
            self._binder = os.getpid()
            self.beside(ready, lambda: self._stopping)
            return
        for server, sockets in zip(self._servers, self._sockets, strict=True):
            take_socket(server, sockets, number)
        self.service.join(number)
        self._enter_lifespan()
        try:
            ready()
            self._serve_by_threads()
        finally:
            self.service.close()

    def _serve_one(self, number: int, ready: Callable[[], None]) -> None:
        """
        Serve one address, in the process that is for it.
        """
        server = self._servers[number]
        for other in self._servers:
            if other is not server:
                other.socket.close()
        take_socket(server, self._sockets[number], 0)
        self._servers = [server]
        ready()
        self._fork_for_requests(server)
        # The lifespan is left by the process that entered it.
        self.service.flush()

    def _fork_for_requests(self, server: Any) -> None:
        if not self._stopping:
            server.serve_forever()
        deadline = time.monotonic() + self.drain
        _finish_queue(server, deadline)
        server.socket.close()
        children = getattr(server, "active_children", None) or ()
        killed = end_children(children, deadline - time.monotonic())
        if killed:
            logger.warning(
                "%d requests were not done after %s s and are ended", killed, self.drain
            )
        server.server_close()


def _make_codec(service: Service, addresses: Sequence[Address]) -> None:
    """
    Let the generated code be made, which otherwise the first message does.

    Then there may be no descriptor to import the generator by; and every process that
    is forked would make its own.
    """
    for stream in {address.is_stream for address in addresses}:
        if not stream or service.protocol.framing is not None:
            service.dispatcher.prepare_all(stream)


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
