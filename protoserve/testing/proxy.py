"""
A proxy between a client and a server that inflicts faults on what they say.

It knows the protocol's framing, so faults hit whole messages; what cannot be cut into
messages, or is not understood, passes as the bytes that it is. A stream connection is
carried in both directions by itself: a side that ends its sending ends it on the other
side too, and one that reads slowly slows the other side down, as no more than a bounded
number of bytes waits in between. Datagrams get a socket of their own towards the server
for each peer; what finds too much waiting is dropped, as datagrams are.

All of it runs on one asyncio loop. `FaultProxy` is for programs that have one;
`fault_proxy` runs it in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
import threading
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from protoserve.errors import DeclarationError
from protoserve.protocol import Direction, Protocol
from protoserve.rarelog import RareLog
from protoserve.serve import _remove_stale_socket
from protoserve.testing._cutter import Cutter
from protoserve.testing._datagrams import Datagrams
from protoserve.testing._streams import Way, closed, connect, reset
from protoserve.testing.faults import Fault
from protoserve.testing.injection import End, FaultPlan
from protoserve.urls import Address

if TYPE_CHECKING:
    import ssl

__all__ = ["DIRECTIONS", "FaultProxy", "RunningProxy", "fault_proxy"]

logger = logging.getLogger("protoserve")
_rare = RareLog(logger)

DIRECTIONS: dict[str, tuple[Direction, ...]] = {
    "request": (Direction.REQUEST,),
    "response": (Direction.RESPONSE,),
    "both": (Direction.REQUEST, Direction.RESPONSE),
}
"""Which way the messages go that faults happen to."""

_BACKLOG = 1024
_MOST_CONNECTIONS = 10_000
_CONNECT = 10.0
"""Seconds that connecting to the server may take."""
_QUIET = 0.2
"""Seconds without a byte after which a connection has nothing in flight."""


@attrs.define(eq=False)
class FaultProxy:
    """
    Stands in front of a server. To be used on an asyncio event loop.

    Args:
        plan: what goes wrong.
        listen: where clients connect.
        to: where the server is; the first address is used that is of the same kind
            (streams or datagrams) as where the client connected.
        tls: what is shown to clients at ``tls://`` addresses.
        to_tls: how a server at a ``tls://`` address is connected to.

    Raises:
        DeclarationError: an address has no counterpart, or the protocol cannot be
            spoken there.
    """

    plan: FaultPlan
    listen: Sequence[Address]
    to: Sequence[Address]
    tls: ssl.SSLContext | None = None
    to_tls: ssl.SSLContext | None = None
    bound: list[Address] = attrs.field(factory=list, init=False)
    """Where it listens, after `start`; chosen ports filled in."""
    carried: Counter[str] = attrs.field(factory=Counter, init=False)
    """How many messages have come, by their direction."""
    _servers: list[asyncio.Server] = attrs.field(factory=list, init=False)
    _datagrams: list[Datagrams] = attrs.field(factory=list, init=False)
    _tasks: set[asyncio.Task[None]] = attrs.field(factory=set, init=False)
    _stopping: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)
    _numbers: Iterator[int] = attrs.field(factory=itertools.count, init=False)

    def __attrs_post_init__(self) -> None:
        for address in self.listen:
            self._target(address)
            if address.is_stream and self.plan.protocol.framing is None:
                raise DeclarationError(
                    f"{self.plan.protocol.name} has no framing=, so it is not spoken "
                    f"at {address}; use udp:// or unixgram://"
                )
            if address.transport == "tls" and self.tls is None:
                raise DeclarationError(f"{address}: there is no certificate to show")

    def _target(self, address: Address) -> Address:
        for target in self.to:
            if target.is_stream == address.is_stream:
                return target
        kind = "a stream" if address.is_stream else "datagrams"
        raise DeclarationError(
            f"{address} is for {kind}, and so should be what it leads to, but that is "
            f"{', '.join(map(str, self.to)) or 'not given'}"
        )

    async def start(self) -> list[Address]:
        """
        Take all addresses, or none.

        Raises:
            OSError: one cannot be had; `bound` has those before it.
        """
        try:
            for address in self.listen:
                sock = _listening(address)
                try:
                    await self._serve(address, sock)
                except BaseException:
                    sock.close()
                    raise
                name = sock.getsockname()
                self.bound.append(Address.bound(address.transport, name))
        except BaseException:
            await self.stop(0.0)
            raise
        return self.bound

    async def _serve(self, address: Address, sock: socket.socket) -> None:
        target = self._target(address)
        if not address.is_stream:
            found = await _resolved(target)
            self._datagrams.append(
                Datagrams(
                    sock,
                    target,
                    found,
                    plan=self.plan,
                    numbers=self._numbers,
                    carried=self.carried,
                )
            )
            return

        def connected(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            task = asyncio.ensure_future(self._carry(reader, writer, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        tls = self.tls if address.transport == "tls" else None
        start: Any = (
            asyncio.start_unix_server
            if address.transport == "unix"
            else asyncio.start_server
        )
        self._servers.append(await start(connected, sock=sock, ssl=tls))

    async def stop(self, grace: float = 10.0) -> None:
        """
        Accept nothing more, send what is waiting, and close everything.

        Args:
            grace: seconds that what is in flight may take.
        """
        self._stopping.set()
        for server in self._servers:
            server.close()
        deadline = asyncio.get_running_loop().time() + grace
        while any(d.pending for d in self._datagrams):
            if asyncio.get_running_loop().time() >= deadline:
                break
            await asyncio.sleep(0.01)
        while self._datagrams:
            self._datagrams.pop().close()
        if self._tasks:
            left = max(0.0, deadline - asyncio.get_running_loop().time())
            _, late = await asyncio.wait(self._tasks, timeout=left)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for address in self.bound:
            if address.port is None:
                Path(address.host).unlink(missing_ok=True)  # noqa: ASYNC240 - it is quick

    # Streams ---------------------------------------------------------------

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        target: Address,
    ) -> None:
        """
        Carry one connection until both sides have ended it, or it is told to stop.
        """
        if len(self._tasks) > _MOST_CONNECTIONS or self._stopping.is_set():
            reset(writer)
            return
        number = next(self._numbers)
        try:
            async with asyncio.timeout(_CONNECT):
                back, forth = await connect(target, self.to_tls)
        except OSError as exc:  # a TimeoutError is one
            why = exc.strerror or type(exc).__name__
            _rare.log(logging.WARNING, "cannot connect to %s: %s", target, why)
            reset(writer)
            return
        request, response = (
            self._way(source, into, number, direction)
            for source, into, direction in (
                (reader, forth, Direction.REQUEST),
                (back, writer, Direction.RESPONSE),
            )
        )
        ways = {asyncio.ensure_future(way.run()) for way in (request, response)}
        stop = asyncio.ensure_future(self._quiet(request, response))
        end = End.CLOSE
        try:
            pending: set[asyncio.Future[Any]] = {*ways, stop}
            while pending >= {stop} and len(pending) > 1:
                done, pending = await asyncio.wait(
                    pending, return_when=asyncio.FIRST_COMPLETED
                )
                ends = [task.result() for task in done if task in ways]
                if any(e is not End.EOF for e in ends):
                    end = next(e for e in ends if e is not End.EOF)
                    break
        finally:
            for task in (*ways, stop):
                task.cancel()
            await asyncio.gather(*ways, stop, return_exceptions=True)
            for each in (writer, forth):
                reset(each) if end is End.RESET else await closed(each)

    async def _quiet(self, *ways: Way) -> None:
        """
        Wait until it is to stop, and nothing is in flight.
        """
        await self._stopping.wait()
        seen: object = None
        while seen != (seen := [way.passed for way in ways]) or any(  # noqa: ASYNC110 - there is no event for silence
            way.injector.next_at() is not None for way in ways
        ):
            await asyncio.sleep(_QUIET)

    def _way(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        number: int,
        direction: Direction,
    ) -> Way:
        clock = asyncio.get_running_loop().time
        injector = self.plan.injector(number, direction, stream=True, clock=clock)
        cutter = Cutter(self.plan.protocol.framing)
        return Way(reader, writer, cutter, injector, self.carried)


def _listening(address: Address) -> socket.socket:
    """
    Make a socket that is bound, and listens if it is for streams.
    """
    kind = socket.SOCK_STREAM if address.is_stream else socket.SOCK_DGRAM
    if address.port is None:
        _remove_stale_socket(address)
        family: Any = socket.AF_UNIX
        where: Any = address.host
    else:
        host = address.host if address.host not in ("", "*") else "0.0.0.0"  # noqa: S104 - asked for
        family, _, _, _, where = socket.getaddrinfo(host, address.port, type=kind)[0]
    sock = socket.socket(family, kind)
    try:
        sock.setblocking(False)
        if address.port is not None and address.is_stream:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
        if address.is_stream:
            sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


async def _resolved(address: Address) -> tuple[int, Any]:
    """
    Give the family and the socket address of a datagram server.
    """
    if address.port is None:
        return socket.AF_UNIX, address.host
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
    return found[0][0], found[0][4]


# In a thread ---------------------------------------------------------------


@attrs.define(eq=False)
class RunningProxy:
    """
    A proxy that runs in a thread; see `fault_proxy`.
    """

    urls: list[str]
    """Where it listens, in the order asked for."""
    plan: FaultPlan
    carried: Counter[str]
    """How many messages have come, by their direction."""

    @property
    def url(self) -> str:
        """
        The first address at which it listens.
        """
        return self.urls[0]

    @property
    def counts(self) -> Counter[str]:
        """
        How often each kind of fault has happened.
        """
        return self.plan.counts


@contextlib.contextmanager
def fault_proxy(
    protocol: Protocol,
    to: str,
    *faults: str | Fault,
    listen: str | None = None,
    seed: int = 0,
    direction: str = "response",
) -> Generator[RunningProxy]:
    """
    Put a proxy in front of a server while the block runs.

    Args:
        protocol: what is spoken.
        to: the server's URL.
        faults: what goes wrong, as in ``"drop=5%"``.
        listen: where clients connect; by default a free port of the loopback.
        seed: what chance starts from.
        direction: which messages it happens to, one of `DIRECTIONS`.

    Raises:
        DeclarationError: a fault is written wrongly, or cannot happen there.
        OSError: the address cannot be had.
    """
    target = Address.parse(to)
    if direction not in DIRECTIONS:
        known = ", ".join(DIRECTIONS)
        raise DeclarationError(f"direction={direction!r}: expected one of {known}")
    if listen is None:
        listen = f"{'tcp' if target.is_stream else 'udp'}://127.0.0.1:0"
    plan = FaultPlan(
        protocol,
        faults,
        seed=seed,
        directions=DIRECTIONS[direction],
        streams=target.is_stream,
    )
    proxy = FaultProxy(plan, [Address.parse(listen)], [target])
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="fault proxy", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(proxy.start(), loop).result()
        yield RunningProxy([str(a) for a in proxy.bound], plan, proxy.carried)
    finally:
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(proxy.stop(1.0), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
