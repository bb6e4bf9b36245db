"""
Worker processes that were forked beforehand, each with a loop of its own.

The process that calls `serve_forever` handles no request: it supervises, see
`_supervise`. In each worker runs the loop of the classes that come after
`PreforkMixIn`, so it combines with everything that has a loop, save with a mix-in
that forks by itself.

The sockets are the parent's, and the workers inherit them. So what waits in a
socket's queue outlives a worker that dies or is replaced.

Streams have one socket for all: whichever worker is free accepts, and none that
hangs holds back clients that wait for it. Datagrams over the internet protocols have
a socket for each worker, by SO_REUSEPORT: the kernel gives all that one peer sends to
the same worker, which therefore knows the peer's session. With one socket for all,
consecutive datagrams of a peer would be handled by different processes, perhaps in
another order. Their answers leave from the same address either way.

The first socket is bound without SO_REUSEPORT and gets it afterwards. Otherwise a
second program could bind the same address unnoticed and take a share of the requests.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from protoserve.server._supervise import Supervisor, worker_count
from protoserve.server.base import BaseServer
from protoserve.server.fork import ForkingMixIn

if TYPE_CHECKING:
    _Base = BaseServer
else:
    _Base = object

__all__ = ["PreforkMixIn"]


class PreforkMixIn(_Base):
    """
    Serves in several processes, which are replaced when they die.

    For the caller:

    - `active_children`, `replace_workers`

    May be overridden, as class variables:

    - `workers`, `drain_timeout`, `socket_per_worker`

    Goes first: ``class S(PreforkMixIn, EventLoopMixIn, TCPServer)``, or before
    `ThreadingMixIn`, `PoolMixIn`, `BatchMixIn` or the server class itself; not together
    with `ForkingMixIn`. `service_actions` is called in the workers. SIGTERM ends a
    worker gracefully, and another one takes its place; `shutdown`, in the process that
    serves, ends them all. They end by themselves should that process die.
    """

    workers: int | str | None = None
    """How many; None or ``"auto"`` for one for each CPU that may be used."""

    drain_timeout: float = 10.0
    """Seconds that workers may take to end after `shutdown`; then they are killed."""

    socket_per_worker: bool | None = None
    """
    Whether each worker has a socket of its own. None: only for datagrams over the
    internet protocols. Unix sockets cannot have it.
    """

    __supervisor: Supervisor | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _check_combination(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        worker_count(self.workers)
        super().__init__(*args, **kwargs)

    @property
    def active_children(self) -> set[int]:
        """
        The process ids of the workers.
        """
        supervisor = self.__supervisor
        return set() if supervisor is None else supervisor.pids

    def replace_workers(self) -> None:
        """
        Replace all workers, one by one; may be called from a signal handler.

        A new one is there before the old one is asked to finish what it has begun.
        """
        if self.__supervisor is not None:
            self.__supervisor.replace()

    def _loop_run(self, poll_interval: float | None) -> None:
        count = worker_count(self.workers)
        sockets = sockets_of_workers(self, count, per_worker=self.socket_per_worker)

        def work(number: int, ready: Callable[[], None]) -> None:
            self.__supervisor = None
            take_socket(self, sockets, number)
            ready()
            super(PreforkMixIn, self)._loop_run(poll_interval)
            self.server_close()  # waits for threads, if there are any

        def stop() -> None:
            # A handler class that knows how lets its connections end when idle.
            drain = getattr(self.RequestHandlerClass, "drain_requests", None)
            if drain is not None:
                drain()
            self.shutdown()

        supervisor = Supervisor(work, count, stop=stop, drain=self.drain_timeout)
        self.__supervisor = supervisor
        try:
            supervisor.run(self._loop_stopping)
        finally:
            supervisor.end()
            self.__supervisor = None
            for other in sockets:
                if other is not sockets[0]:
                    other.close()

    def _loop_wake(self) -> None:
        super()._loop_wake()
        if self.__supervisor is not None:
            self.__supervisor.wake()


def _check_combination(cls: type) -> None:
    """
    Refuse what would not do what it says.
    """
    if issubclass(cls, ForkingMixIn):
        raise TypeError(
            f"{cls.__name__}: PreforkMixIn and ForkingMixIn do not combine: the one "
            "has a process for each worker, the other for each request; leave one out"
        )
    if hasattr(cls, "serve_forever") and not issubclass(cls, BaseServer):
        raise TypeError(
            f"{cls.__name__}: PreforkMixIn needs a server of protoserve.server, as its "
            "workers run that one's loop"
        )
    for before in cls.__mro__[: cls.__mro__.index(PreforkMixIn)]:
        ours = before.__module__.startswith("protoserve.server.")
        if ours and not issubclass(before, PreforkMixIn):
            raise TypeError(
                f"{cls.__name__}: PreforkMixIn goes first, before {before.__name__}, "
                "whose loop would otherwise run in the parent"
            )


def sockets_of_workers(
    server: Any, count: int, *, per_worker: bool | None = None
) -> list[socket.socket]:
    """
    Give the socket of each worker of a server; the first is the server's own.

    Args:
        server: is bound.
        count: how many workers there are.
        per_worker: as in `PreforkMixIn.socket_per_worker`.

    Raises:
        OSError: there cannot be several.
    """
    first: socket.socket = server.socket
    if per_worker is None:
        internet = first.family in {socket.AF_INET, socket.AF_INET6}
        per_worker = (
            internet
            and first.type == socket.SOCK_DGRAM
            and hasattr(socket, "SO_REUSEPORT")
        )
    sockets = [first]
    if not per_worker or count == 1:
        return sockets * count
    address, allowed = server.server_address, server.allow_reuse_port
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.allow_reuse_port = True
    try:
        while len(sockets) < count:
            server.socket = socket.socket(first.family, first.type)
            sockets.append(server.socket)
            # By the server's own steps, so that what a subclass sets is set.
            server.server_bind()
            server.server_activate()
    except BaseException:
        for other in sockets[1:]:
            other.close()
        raise
    finally:
        server.socket, server.server_address = first, address
        server.allow_reuse_port = allowed
    return sockets


def take_socket(server: Any, sockets: list[socket.socket], number: int) -> None:
    """
    Give a server its worker's socket, in the worker, and close the others there.
    """
    server.socket = own = sockets[number]
    if sockets.count(own) > 1:
        # All wake up for what only one gets; the others must not wait for the next.
        own.setblocking(False)
    server.unlink_on_close = False  # the path is the parent's to remove
    for other in sockets:
        if other is not own:
            other.close()
