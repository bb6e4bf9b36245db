"""
Where a protocol and a handler meet: the thing that servers serve.

A `Service` owns what all its connections share: the dispatch table, the limits,
the sessions of datagram peers, the lifespan. It is not tied to a server: its
`Service.RequestHandlerClass` works with every server of `protoserve.server`, with
several at a time.
"""

from __future__ import annotations

import atexit
import contextlib
import inspect
import logging
import os
import socket
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any, Self

from protoserve.background import BackgroundLoop
from protoserve.connections import Connection, ServiceHandler
from protoserve.dispatch import Dispatcher, Policies, Policy
from protoserve.errors import DeclarationError
from protoserve.limits import Limits, is_loopback
from protoserve.peers import PeerTable
from protoserve.protocol import Protocol
from protoserve.routing import routes_of
from protoserve.server._waiting import Waker
from protoserve.session import Peer, Role, Session

__all__ = ["Service"]

logger = logging.getLogger("protoserve")


class Service:
    """
    A protocol with the handler that answers it.

    Args:
        protocol: what is spoken.
        handler: an instance of a class with routes (see `protoserve.routing`).
        limits: how much peers may ask for; `Limits` has the defaults.
        lifespan: a context manager function that takes the service, sync or async.
            It is entered before the first message and left when the service is
            closed.
        on_malformed: what follows a malformed message that no hook has answered:
            ``"close"`` or ``"skip"``. By default streams are closed and datagrams
            skipped.
        on_unknown: the same for messages without a route.
        on_failed: the same for routes that raised an exception.

    Raises:
        DeclarationError: the handler does not fit the protocol; it says all that is
            wrong, with file and line.

    Use it as a context manager, or call `open` and `close`, where the lifespan's
    moments matter. Otherwise it is opened by the first message and closed when the
    interpreter exits.
    """

    def __init__(
        self,
        protocol: Protocol,
        handler: Any,
        *,
        limits: Limits | None = None,
        lifespan: Callable[[Service], Any] | None = None,
        on_malformed: Policy | None = None,
        on_unknown: Policy | None = None,
        on_failed: Policy | None = None,
    ) -> None:
        if not isinstance(protocol, Protocol):
            raise DeclarationError(f"Service takes a Protocol first, not {protocol!r}")
        if limits is not None and not isinstance(limits, Limits):
            raise DeclarationError(f"limits= takes Limits(…), not {limits!r}")
        self.protocol = protocol
        self.handler = handler
        self.limits = Limits() if limits is None else limits
        self.lifespan = lifespan
        self.draining = False
        """Whether connections are to end once they have nothing in flight."""
        self.refused: Counter[str] = Counter()
        """How often each limit has turned somebody away, by its name."""
        self._background = BackgroundLoop()
        self.dispatcher = Dispatcher(
            routes_of(protocol, handler),
            Policies(malformed=on_malformed, unknown=on_unknown, failed=on_failed),
            self._background,
        )
        self.RequestHandlerClass: type[ServiceHandler] = type(
            f"{type(handler).__name__}RequestHandler",
            (ServiceHandler,),
            {"service": self, "__doc__": f"Serves {protocol.name}."},
        )
        self._tables: weakref.WeakKeyDictionary[Any, PeerTable] = (
            weakref.WeakKeyDictionary()
        )
        self._connections: dict[Connection, str] = {}
        self._per_address: Counter[str] = Counter()
        self._opened: Any = None
        self._make_private()
        os.register_at_fork(after_in_child=self._make_private)

    def __repr__(self) -> str:
        return f"<Service {self.protocol.name} by {type(self.handler).__name__}>"

    def _make_private(self) -> None:
        """
        Make what a forked child may not share with its parent.

        A lock that another thread held at that moment would stay locked, and a
        wake-up would reach either process.
        """
        self._lock = threading.RLock()
        self._opening = threading.Lock()
        self.waker = Waker()

    # The lifespan ----------------------------------------------------------

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def open(self) -> None:
        """
        Enter the lifespan, if that has not been done.
        """
        if self._opened is not None:
            return
        with self._opening:
            if self._opened is None:
                self._opened = self._enter_lifespan()
                atexit.register(self.close)

    def close(self) -> None:
        """
        Forget all peers, leave the lifespan and stop the background loop.
        """
        with self._opening:
            opened, self._opened = self._opened, None
            if opened is None:
                return
            atexit.unregister(self.close)
            for table in list(self._tables.values()):
                table.clear()
            try:
                if hasattr(opened, "__aexit__"):
                    self._background.run(opened.__aexit__(None, None, None))
                else:
                    opened.__exit__(None, None, None)
            finally:
                self._background.close()

    def _enter_lifespan(self) -> Any:
        lifespan = self.lifespan
        if lifespan is None:
            return contextlib.nullcontext()
        if inspect.isgeneratorfunction(lifespan):
            lifespan = contextlib.contextmanager(lifespan)
        elif inspect.isasyncgenfunction(lifespan):
            lifespan = contextlib.asynccontextmanager(lifespan)
        manager = lifespan(self)
        if hasattr(manager, "__aenter__"):
            self._background.run(manager.__aenter__())
        elif hasattr(manager, "__enter__"):
            manager.__enter__()
        else:
            raise DeclarationError(
                f"lifespan= takes a context manager function, not one that gives "
                f"{manager!r}"
            )
        return manager

    # Stream connections ----------------------------------------------------

    def admit(self, connection: Connection) -> bool:
        """
        Take note of a new connection; say whether the limits allow it.
        """
        address = connection.address
        host = str(address[0]) if isinstance(address, tuple) else ""
        limits = self.limits
        with self._lock:
            full = None
            if limits.connections is not None:
                full = len(self._connections) >= limits.connections
            if full:
                return self._refuse("connections", connection)
            most = limits.connections_per_address
            if most is not None and not is_loopback(address):
                if self._per_address[host] >= most:
                    return self._refuse("connections_per_address", connection)
            self._connections[connection] = host
            self._per_address[host] += 1
        return True

    def _refuse(self, limit: str, connection: Connection) -> bool:
        self.refused[limit] += 1
        logger.info("%s is refused: limit %s", connection.session.peer, limit)
        return False

    def dismiss(self, connection: Connection) -> None:
        """
        Forget a connection.
        """
        with self._lock:
            host = self._connections.pop(connection, None)
            if host is not None:
                self._per_address[host] -= 1
                if not self._per_address[host]:
                    del self._per_address[host]

    @property
    def connections(self) -> int:
        """
        How many stream connections there are.
        """
        return len(self._connections)

    def drain(self) -> None:
        """
        Let every connection end as soon as it has nothing in flight.

        What has arrived is still answered. It returns at once; servers that are
        asked to stop wait for their requests themselves. It may be called from a
        signal handler.
        """
        self.draining = True
        self.waker.wake()

    def abandon(self) -> None:
        """
        End every connection now, whatever is in flight.
        """
        self.draining = True
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    # Datagram peers --------------------------------------------------------

    def datagram_session(
        self, server: Any, sock: socket.socket, address: Any
    ) -> tuple[Session, bool]:
        """
        Find the conversation with a datagram peer, or begin one.

        Returns:
            The session, and whether it is new.
        """

        def begin() -> Session:
            return self._begin_datagrams(sock, address)

        if not address:  # a Unix socket without a name cannot be told from others
            return begin(), True
        with self._lock:
            table = self._tables.get(server)
            if table is None:
                limits = self.limits
                table = PeerTable(
                    limits.peers,
                    limits.peer_idle,
                    self.dispatcher.disconnected,
                    time.monotonic,
                )
                self._tables[server] = table
            return table.get(address, begin)

    def forget_datagram_session(self, server: Any, address: Any) -> None:
        """
        End the conversation with a datagram peer.
        """
        with self._lock:
            table = self._tables.get(server)
            if table is not None and address:
                table.forget(address)

    def _begin_datagrams(self, sock: socket.socket, address: Any) -> Session:
        transport = "unixgram" if sock.family == socket.AF_UNIX else "udp"
        peer = Peer(transport, address)
        session = Session(self.protocol, Role.SERVER, peer, stream=False)

        def write(data: bytes) -> None:
            if not address:
                logger.debug("an answer is dropped: the sender has no address")
                return
            try:
                sock.sendto(data, address)
            except OSError as error:
                logger.warning("cannot send %d bytes to %s: %s", len(data), peer, error)

        session.writer = write
        return session
