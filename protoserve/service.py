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
import functools
import inspect
import logging
import os
import socket
import threading
import typing
import weakref
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import attrs

from protoserve.account import Account
from protoserve.background import BackgroundLoop
from protoserve.connections import ServiceHandler
from protoserve.datagrams import Conversation
from protoserve.dispatch import Dispatcher, Outcome, Policies, Policy, complete
from protoserve.errors import DeclarationError
from protoserve.framing import Datagram
from protoserve.framing.base import Framing
from protoserve.limits import Limits, is_loopback
from protoserve.peers import PeerTable
from protoserve.protocol import Protocol
from protoserve.rarelog import RareLog
from protoserve.routing import routes_of
from protoserve.server._waiting import Waker
from protoserve.session import Peer, Role, Session
from protoserve.tally import Tally

if TYPE_CHECKING:
    from protoserve.blocks import BlockTaker
    from protoserve.gathering import Gathering
    from protoserve.journal import Journal
    from protoserve.messages import Message

__all__ = ["Service"]

logger = logging.getLogger("protoserve")
_rare = RareLog(logger)


class Connected(typing.Protocol):
    """
    A stream connection, whatever handles it.
    """

    session: Session
    sock: socket.socket
    address: Any

    def __hash__(self) -> int: ...


@attrs.define(eq=False)
class _Reserved:
    """
    A stream connection that another process handles.
    """

    session: Session
    sock: socket.socket
    address: Any


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
        journal: records each message; whoever has made it closes it.
        on_malformed: what follows a malformed message that no hook has answered:
            ``"close"`` or ``"skip"``. By default streams are closed and datagrams
            skipped.
        on_unknown: the same for messages without a route.
        on_failed: the same for routes that raised an exception.

    Raises:
        DeclarationError: the handler does not fit the protocol; it says all that is
            wrong, with file and line.

    Use it as a context manager, or call `open` and `close`, where the lifespan's
    moments matter. Otherwise it is opened by the first connection or datagram and
    closed when the interpreter exits; under a `ForkingMixIn` by each child, which
    does not close it.
    """

    def __init__(
        self,
        protocol: Protocol,
        handler: Any,
        *,
        limits: Limits | None = None,
        lifespan: Callable[[Service], Any] | None = None,
        journal: Journal | None = None,
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
        self.refused = Tally(attrs.fields_dict(Limits))
        """
        How often each limit has turned somebody away, or ended it, by its name; in all
        processes together that were forked to serve.
        """
        self.account = Account()
        """What has become of each datagram, in all processes together."""
        self.intake: BlockTaker | None = None
        """Takes all datagrams of a server that receives many at a time, if set."""
        self._routes = routes_of(protocol, handler)
        self._background = BackgroundLoop()
        self.gatherings = self._make_gatherings()
        """What stands behind each batch route, by its message's class."""
        self._policies = Policies(
            malformed=on_malformed, unknown=on_unknown, failed=on_failed
        )
        self._journal = journal
        self.limits = Limits() if limits is None else limits
        self.lifespan = lifespan
        self.draining = False
        """Whether connections are to end once they have nothing in flight."""
        self.RequestHandlerClass: type[ServiceHandler] = type(
            f"{type(handler).__name__}RequestHandler",
            (ServiceHandler,),
            {"service": self, "__doc__": f"Serves {protocol.name}."},
        )
        self._tables: weakref.WeakKeyDictionary[Any, PeerTable] = (
            weakref.WeakKeyDictionary()
        )
        self._gone: list[Conversation] = []
        self._leave: Callable[[], Any] | None = None
        self._make_private()
        _services.add(self)

    def __repr__(self) -> str:
        return f"<Service {self.protocol.name} by {type(self.handler).__name__}>"

    @property
    def limits(self) -> Limits:
        """
        How much peers may ask for. Others may be set before it is served.

        Raises:
            DeclarationError: no frame of the protocol is as small.
        """
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self.framing = _limited(self.protocol.framing, limits.frame_size)
        """Cuts what peers send: the protocol's, within the limit of a frame's size."""
        self.dispatcher = Dispatcher(
            self.protocol,
            self._routes,
            self._policies,
            self.framing,
            self.refused.add,
            {cls: found.add for cls, found in self.gatherings.items()},
            in_passing=self._journal is None,
            account=self.account,
        )
        self._limits = limits

    @property
    def journal(self) -> Journal | None:
        """
        What records each message. Another may be set before it is served.
        """
        return self._journal

    @journal.setter
    def journal(self, journal: Journal | None) -> None:
        self._journal = journal
        self.limits = self._limits  # makes the dispatcher anew

    def session(
        self, peer: Peer, *, stream: bool = True, sock: socket.socket | None = None
    ) -> Session:
        """
        Begin a session with a peer.

        Args:
            peer: the other party.
            stream: whether bytes come as a stream.
            sock: the socket that it is spoken over, for the journal.
        """
        if self._journal is None:
            return Session(
                self.protocol, Role.SERVER, peer, stream=stream, framing=self.framing
            )
        from protoserve.recording import RecordedSession

        return RecordedSession(
            self._journal,
            sock,
            self.protocol,
            Role.SERVER,
            peer,
            stream=stream,
            framing=self.framing,
        )

    def _make_private(self) -> None:
        """
        Make what a forked child may not share with its parent.

        A lock that another thread held at that moment would stay locked, and a
        wake-up would reach either process. The connections are the parent's.
        """
        self._lock = threading.RLock()
        self._opening = threading.Lock()
        self.refused.make_private()
        self.account.make_private()
        if self._journal is not None:
            self._journal.make_private()
        for gathering in self.gatherings.values():
            gathering.make_private()
        self._connections: dict[Connected, str] = {}
        self._per_address: Counter[str] = Counter()
        # The old one is closed first: there may be no descriptors to spare.
        had_one = vars(self).pop("_waker", None) is not None
        self._waker: Waker | None = Waker() if had_one else None

    @property
    def waker(self) -> Waker:
        """
        What ends the waits of blocking connections; made when the first one waits.
        """
        with self._lock:
            if self._waker is None:
                self._waker = Waker()
            return self._waker

    def _make_gatherings(self) -> dict[type[Message], Gathering]:
        if not self._routes.batches:
            return {}
        try:
            from protoserve.gathering import Gathering
        except ModuleNotFoundError as exc:
            if exc.name != "numpy":
                raise
            raise DeclarationError(
                "batch routes need NumPy; install it with pip install "
                "'protoserve[numpy]'"
            ) from exc
        return {
            cls: Gathering(self.protocol, cls, found, self._background, self.account)
            for cls, found in self._routes.batches.items()
        }

    def flush(self) -> None:
        """
        Give all that has gathered for batch routes to them.
        """
        for gathering in self.gatherings.values():
            gathering.complete(gathering.flush())

    def done(self, outcome: Outcome) -> bool:
        """
        Wait for what a dispatcher has begun; say whether the conversation goes on.
        """
        return complete(outcome, self._background.run)

    def answer(self, session: Session) -> bool:
        """
        Let all that has arrived be answered; say whether the conversation goes on.

        It waits for what routes have begun.
        """
        while (outcome := self.dispatcher.answer(session)) is not True:
            if not self.done(outcome):
                return False
        return True

    def join(self, worker: int) -> None:
        """
        Be served by one of several processes, which are numbered from 0.
        """
        self.account.join(worker)

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
        if self._leave is not None:
            return
        with self._opening:
            if self._leave is None:
                self._leave = self._enter_lifespan()
                atexit.register(self.close)

    def close(self) -> None:
        """
        Forget all datagram peers, leave the lifespan and stop the background loop.

        Then it may be opened again.
        """
        with self._opening:
            leave, self._leave = self._leave, None
            if leave is None:
                return
            atexit.unregister(self.close)
            with self._lock:
                for table in list(self._tables.values()):
                    table.clear()
            self._part()
            for gathering in self.gatherings.values():
                gathering.close()
            try:
                leave()
            finally:
                self._background.close()
                self.resume()

    def _enter_lifespan(self) -> Callable[[], Any]:
        """
        Enter the lifespan; give what leaves it.
        """
        lifespan = self.lifespan
        if lifespan is None:
            return lambda: None
        if inspect.isgeneratorfunction(lifespan):
            lifespan = contextlib.contextmanager(lifespan)
        elif inspect.isasyncgenfunction(lifespan):
            lifespan = contextlib.asynccontextmanager(lifespan)
        manager = lifespan(self)
        if hasattr(manager, "__aenter__"):
            self._background.run(manager.__aenter__())
            return lambda: self._leave_async(manager)
        if hasattr(manager, "__enter__"):
            manager.__enter__()
            return lambda: manager.__exit__(None, None, None)
        raise DeclarationError(
            f"lifespan= takes a context manager function, not one that gives {manager!r}"
        )

    def _leave_async(self, manager: Any) -> None:
        if self._background.is_stuck():
            logger.error("the lifespan is not left: a coroutine blocks its event loop")
        else:
            self._background.run(manager.__aexit__(None, None, None))

    # Stream connections ----------------------------------------------------

    def admit(self, connection: Connected) -> bool:
        """
        Take note of a new connection; say whether the limits allow it.
        """
        address = connection.address
        host = str(address[0]) if isinstance(address, tuple) else ""
        limits = self._limits
        with self._lock:
            exceeded = None
            if (most := limits.connections) and len(self._connections) >= most:
                exceeded = "connections"
            elif (most := limits.connections_per_address) and (
                self._per_address[host] >= most and not is_loopback(address)
            ):
                exceeded = "connections_per_address"
            if exceeded is not None:
                self.count(exceeded, connection.session.peer, f"there are {most}")
                return False
            self._connections[connection] = host
            self._per_address[host] += 1
        return True

    def reserve(self, sock: socket.socket, address: Any) -> Callable[[], None] | None:
        """
        Take note of a connection that another process will handle.

        Returns:
            What is called when it has ended; `None` if the limits do not allow it.
        """
        _ = self.waker  # a child makes its own in the place of this one
        transport = "tcp" if isinstance(address, tuple) else "unix"
        reserved = _Reserved(self.session(Peer(transport, address)), sock, address)
        if not self.admit(reserved):
            return None
        return functools.partial(self.dismiss, reserved)

    def count(self, limit: str, peer: Peer | None, reason: object) -> None:
        """
        Take note that a limit has ended a conversation, or prevented one.
        """
        self.refused.add(limit)
        _rare.log(
            logging.WARNING,
            "%s is closed: limit %s: %s",
            peer,
            limit,
            reason,
            kind=limit,
        )

    def refuse(self, session: Session) -> None:
        """
        Take note that a datagram is dropped: its peer has too many in flight.
        """
        self.refused.add("requests")
        self.account.reject("queue")
        _rare.log(
            logging.WARNING,
            "%s has %d requests in flight; what it sends is dropped",
            session.peer,
            self.limits.requests,
        )

    def count_handshake(self, peer: Peer, error: Any) -> None:
        """
        Take note that a TLS handshake has failed.

        Args:
            peer: whose.
            error: the `protoserve.server.HandshakeError`.
        """
        if error.kind == "timeout" and not self.draining:
            self.count("handshake", peer, error)
            return
        quiet = self.draining or error.kind in ("closed", "stopped")
        level = logging.DEBUG if quiet else logging.WARNING
        _rare.log(level, "no TLS with %s: %s", peer, error, kind=error.kind)

    def dismiss(self, connection: Connected) -> None:
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
        # There is none while a child makes its own; and who makes the first one looks
        # whether to end afterwards.
        waker = vars(self).get("_waker")
        if waker is not None:
            waker.wake()

    def resume(self) -> None:
        """
        Take back `drain`, to serve again.
        """
        self.draining = False
        if self._waker is not None:
            self._waker.drain()

    def abandon(self) -> None:
        """
        End every connection now, whatever is in flight.
        """
        self.draining = True
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    # Datagram peers --------------------------------------------------------

    def conversation(
        self, server: Any, sock: socket.socket, address: Any
    ) -> Conversation:
        """
        Find the conversation with a datagram peer, or begin one.

        Args:
            server: which one received the datagram; each has peers of its own.
            sock: what answers are sent by.
            address: the peer's; a Unix socket without a name has none, and cannot
                be told from others, so it gets a new conversation each time.
        """

        def begin() -> Conversation:
            return Conversation(self._begin_datagrams(sock, address))

        if not address:
            return begin()
        with self._lock:
            table = self._tables.get(server)
            if table is None:
                limits = self.limits
                table = PeerTable(limits.peers, limits.peer_idle, self._gone.append)
                self._tables[server] = table
            found: Conversation = table.get(address, begin)
        self._part()
        return found

    def forget(self, server: Any, address: Any, conversation: Conversation) -> None:
        """
        End the conversation with a datagram peer.
        """
        with self._lock:
            table = self._tables.get(server)
            if table is None or not address:
                self._gone.append(conversation)
            else:
                table.forget(address, conversation)
        self._part()

    def _part(self) -> None:
        """
        Tell the handler of datagram peers that were forgotten.

        The table is not locked meanwhile: a hook may take its time.
        """
        while self._gone:
            with contextlib.suppress(IndexError):  # another thread was faster
                conversation = self._gone.pop()
                conversation.session.closed = True
                if conversation.begun:
                    self.done(self.dispatcher.disconnected(conversation.session))

    def _begin_datagrams(self, sock: socket.socket, address: Any) -> Session:
        transport = "unixgram" if sock.family == socket.AF_UNIX else "udp"
        peer = Peer(transport, address)
        session = self.session(peer, stream=False, sock=sock)

        # A Unix socket would wait for a peer that does not read.
        flags = socket.MSG_DONTWAIT if transport == "unixgram" else 0

        def flush() -> None:
            for data in session.data_to_send():
                if not address:
                    logger.debug("an answer is dropped: the sender has no address")
                    return
                try:
                    sock.sendto(data, flags, address)
                except OSError as error:
                    text = "cannot send %d bytes to %s: %s"
                    _rare.log(logging.WARNING, text, len(data), peer, error)

        session.flush = flush
        return session


def _limited(framing: Framing | None, most: int | None) -> Framing | None:
    """
    Make a framing that allows no longer frames.
    """
    # Without one each datagram is a frame.
    found = Datagram() if framing is None else framing
    if most is None or most >= found.max_size:
        return framing
    try:
        return attrs.evolve(found, max_size=most)  # type: ignore[misc] # they are attrs classes
    except (TypeError, DeclarationError) as exc:
        raise DeclarationError(
            f"limit frame_size: {found!r} has no frames of at most {most} bytes"
        ) from exc


_services: weakref.WeakSet[Service] = weakref.WeakSet()


def _make_all_private() -> None:
    for service in list(_services):
        service._make_private()


def _share_all() -> None:
    for service in list(_services):
        # Without a descriptor to spare, each process counts for itself.
        with contextlib.suppress(OSError):
            service.refused.share()
            service.account.share()


os.register_at_fork(before=_share_all, after_in_child=_make_all_private)
