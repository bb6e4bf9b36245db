"""
What the fault proxy does with datagrams.

Each peer gets a socket of its own towards the server, so that answers find their way
back. It is forgotten when it has been silent for long, or when there are too many. The
sockets never block: what cannot be sent is lost, as it might have been on the way.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from protoserve.errors import ProtoserveError
from protoserve.peers import PeerTable
from protoserve.protocol import Direction
from protoserve.rarelog import RareLog
from protoserve.testing.injection import FaultPlan
from protoserve.urls import Address

__all__ = ["Datagrams"]

logger = logging.getLogger("protoserve")
_rare = RareLog(logger)

_LARGEST_DATAGRAM = 65_535
_MOST_PEERS = 4096
_PEER_IDLE = 120.0
"""Seconds after which a silent peer is forgotten."""
_AT_ONCE = 64
"""Datagrams that are read before others have their turn."""


class Datagrams:
    """
    The peers at one address that datagrams come to.
    """

    def __init__(
        self,
        sock: socket.socket,
        target: Address,
        found: tuple[int, Any],
        *,
        plan: FaultPlan,
        numbers: Iterator[int],
        carried: Counter[str],
    ) -> None:
        """
        Begin to carry what comes.

        Args:
            sock: where it comes from; it is closed by `close`.
            target: the server.
            found: its family and socket address.
            plan: what goes wrong.
            numbers: gives each peer a number.
            carried: counts the datagrams by direction.
        """
        self.sock = sock
        self.plan = plan
        self.numbers = numbers
        self.carried = carried
        self._target = target
        self._found = found
        self._loop = asyncio.get_running_loop()
        self._peers = PeerTable(_MOST_PEERS, _PEER_IDLE, _Exchange.close)
        self._loop.add_reader(sock, self._receive)

    @property
    def pending(self) -> bool:
        """
        Whether anything waits to be sent.
        """
        return any(exchange.pending for exchange in self._peers)

    def _receive(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                data, address = self.sock.recvfrom(_LARGEST_DATAGRAM)
            except BlockingIOError:
                return
            except OSError:  # an answer could not be delivered
                continue
            try:
                exchange = self._peers.get(address, lambda: self._begin(address))  # noqa: B023 - called at once
            except OSError as exc:
                why = exc.strerror or exc
                _rare.log(logging.WARNING, "cannot reach %s: %s", self._target, why)
                continue
            exchange.take(Direction.REQUEST, data)

    def _begin(self, address: Any) -> _Exchange:
        family, where = self._found
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            if family == socket.AF_UNIX:
                sock.bind("")  # a name that the kernel chooses, so that answers arrive
            sock.connect(where)
        except OSError:
            sock.close()
            raise
        return _Exchange(self, sock, address)

    def close(self) -> None:
        """
        Forget all peers.
        """
        self._loop.remove_reader(self.sock)
        self._peers.clear()
        self.sock.close()


class _Exchange:
    """
    What goes between one datagram peer and the server.
    """

    def __init__(self, owner: Datagrams, sock: socket.socket, address: Any) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._owner = owner
        self._sock = sock
        number = next(owner.numbers)
        self._injectors = {
            direction: owner.plan.injector(
                number, direction, stream=False, clock=loop.time
            )
            for direction in Direction
        }
        self._send: dict[Direction, Callable[[bytes], object]] = {
            Direction.REQUEST: sock.send,
            Direction.RESPONSE: lambda data: (
                address and owner.sock.sendto(data, address)
            ),
        }
        self._timers: dict[Direction, asyncio.TimerHandle] = {}
        loop.add_reader(sock, self._receive)

    @property
    def pending(self) -> bool:
        """
        Whether anything waits to be sent.
        """
        return any(i.next_at() is not None for i in self._injectors.values())

    def _receive(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                data = self._sock.recv(_LARGEST_DATAGRAM)
            except BlockingIOError:
                return
            except OSError:  # nobody listens there
                continue
            self.take(Direction.RESPONSE, data)

    def take(self, direction: Direction, data: bytes) -> None:
        """
        Take a datagram that goes one way.
        """
        injector = self._injectors[direction]
        if injector.full:
            _rare.log(
                logging.WARNING, "a %s is dropped: too many wait", direction.value
            )
            return
        frames: tuple[bytes, ...] = (data,)
        framing = self._owner.plan.protocol.framing
        if framing is not None:
            try:
                frames = tuple(framing.split(data))
            except ProtoserveError:
                frames = ()
        self._owner.carried[direction.value] += 1
        injector.feed(data, frames)
        self._go_on(direction)

    def _go_on(self, direction: Direction) -> None:
        """
        Send what is due, and come back for the rest.
        """
        injector = self._injectors[direction]
        for step in injector.due():
            try:
                self._send[direction](step.data)
            except OSError as exc:  # as if it were lost on the way
                logger.debug("a %s is lost: %s", direction.value, exc)
        timer = self._timers.pop(direction, None)
        if timer is not None:
            timer.cancel()
        at = injector.next_at()
        if at is not None:
            self._timers[direction] = self._loop.call_at(at, self._go_on, direction)

    def close(self) -> None:
        """
        Forget the peer, and what waits.
        """
        for timer in self._timers.values():
            timer.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()
