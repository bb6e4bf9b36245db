"""
Many datagrams at a time: received by one system call, answered by another.

A block of memory is filled by `recvmmsg`, as much as waits in the kernel's queue.
Then there are two ways:

- Any classic handler gets the datagrams one after the other, through all the classic
  steps. What was received and is not handled yet waits in a short queue here, from
  which `get_request` takes.
- A handler class with a ``batch_side`` gets the whole block in one call, see
  `BatchSide`. A subclass that overrides one of the steps for single requests,
  `verify_request` for example, is served in the first way.

The kernel's queue is the only one that can grow, so its size is asked for, read back,
and told when the system gives less: a queue that is too short for a burst is what most
often loses datagrams. How many were lost is the kernel's own count, which it also
gives for those that no later datagram could tell of.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from protoserve.rarelog import RareLog
from protoserve.server._mmsg import Block, Reply, Sender
from protoserve.server._reporting import logger, tell_failure
from protoserve.server.base import BaseServer
from protoserve.server.udp import UDPServer

if TYPE_CHECKING:
    _Base = UDPServer
else:
    _Base = object

__all__ = ["BatchMixIn", "BatchSide", "Block", "Reply", "dropped_by_kernel"]

_rare = RareLog(logger, interval=60.0)

_BURST = 16
"""Blocks handled before the loop does what else is due."""
_ENOUGH = 4
"""Full receives after which nothing is won by letting more gather."""
_SHORTEST = 64
"""Into how many parts a nap may be cut; without a bound it would come to nothing."""
_LONGEST_GATHER = 0.1
_AMPLE = 4 << 20
"""Bytes of the kernel's queue that are enough for any gathering."""
_LOOK_AGAIN = 0.005
_LEAST_QUEUED = 512
"""Bytes that a datagram takes up in the kernel's queue, at least."""
_RCVBUFFORCE = 33
"""SO_RCVBUFFORCE of Linux: as SO_RCVBUF, beyond what the system allows to anybody."""
_MEMINFO = 55
_MEMINFO_DROPS = struct.Struct("=32xI")
"""SO_MEMINFO of Linux, and the place of SK_MEMINFO_DROPS in it."""
_OTHERS = ("EventLoopMixIn", "ForkingMixIn", "PoolMixIn", "ThreadingMixIn", "TLSMixIn")
"""Mix-ins that say how else requests are received or handled."""
_STEPS = (
    "verify_request",
    "process_request",
    "finish_request",
    "shutdown_request",
    "close_request",
)
"""What is called for each request, so an override is to be called for each."""


def dropped_by_kernel(sock: socket.socket) -> int | None:
    """
    Say how many datagrams the kernel has dropped because a socket's queue was full.

    Returns:
        A number of 32 bits, which begins anew at 0; `None` if the socket is closed, or
        where the system does not tell.
    """
    try:
        info = sock.getsockopt(socket.SOL_SOCKET, _MEMINFO, 36)
        (drops,) = _MEMINFO_DROPS.unpack(info)
    except (OSError, struct.error):
        return None
    return int(drops)


class BatchSide(Protocol):
    """
    What a handler class gives to a server that receives many datagrams at a time.

    The class method ``batch_side(server)`` makes it when the loop begins.
    """

    def batch(self, block: Block) -> None:
        """
        Handle the datagrams of a block, whose memory the next block uses again.

        Answers go together by `BatchMixIn.send_batch`.
        """

    def attend(self) -> None:
        """
        Do what has become due; called when something has woken the loop.
        """

    def stop(self) -> None:
        """
        Begin to end: no more blocks will come.
        """

    def end(self) -> None:
        """
        End everything that is left.
        """

    @property
    def busy(self) -> bool:
        """
        Whether anything is left that was begun.
        """
        ...


class BatchMixIn(_Base):
    """
    Receives datagrams many at a time, in the thread that serves.

    For the caller:

    - `kernel_drops`
    - `send_batch`, for a `BatchSide`

    May be overridden, as class variables:

    - `batch_size`, `gather`, `timestamps`, `gro`, `receive_buffer`, `drain_timeout`

    Goes before the server class: ``class S(BatchMixIn, UDPServer)``; not together with
    a mix-in that handles requests elsewhere.
    """

    batch_size: int = 256
    """Datagrams that are received at a time, 64 to 1,024."""

    gather: float = 0.0
    """
    Seconds to let datagrams gather after a batch that was not full, at most 0.1. It
    makes all that arrives that much later, and fewer wake-ups. Where the kernel's queue
    has less than 4 MiB it is as much less, and where so many come that some full batches
    gather it is halved until they do not.
    """

    timestamps: bool = False
    """
    Whether the kernel is asked when each datagram arrived, see `Block.seconds`. It
    costs a sixth to a quarter of a receive; without it, the time of the receive is given.
    """

    gro: bool = False
    """
    Whether the kernel may put datagrams together that one peer has sent in a row
    (UDP_GRO), which spares it most of the work for each; all but the last are of one
    length. `batch_size` then counts what came together as one, and so does the kernel
    what it drops: `kernel_drops` is the least that was lost.
    """

    receive_buffer: int | None = 4 * 1024 * 1024
    """Bytes of the kernel's queue to ask for; None leaves the system's default."""

    drain_timeout: float = 10.0
    """Seconds that what has been received may take to be handled after `shutdown`."""

    _loop_portable: bool = False
    __block: Block | None = None
    __sender: Sender | None = None
    __taken: deque[tuple[Any, Any]] | None = None
    __row: Block | None = None
    __side: BatchSide | None = None
    __taking: bool = False
    __longest: float = 0.0
    __pause: float = 0.0
    __gathered: int = 0
    __drops: int = 0
    __drops_seen: int = 0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not issubclass(cls, BaseServer):
            return  # a mix-in, for a server class to come
        if not issubclass(cls, UDPServer):
            raise TypeError(
                f"{cls.__name__}: BatchMixIn receives datagrams; a server of streams "
                "goes with EventLoopMixIn, PoolMixIn or ThreadingMixIn"
            )
        names = [base.__name__ for base in cls.__mro__]
        for other in _OTHERS:
            if other in names:
                raise TypeError(
                    f"{cls.__name__}: BatchMixIn and {other} exclude each other"
                )
        if cls.__mro__.index(BatchMixIn) > cls.__mro__.index(UDPServer):
            raise TypeError(f"{cls.__name__}: BatchMixIn goes before the server class")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.__check()
        super().__init__(*args, **kwargs)

    def __check(self) -> None:
        name, size = type(self).__name__, self.batch_size
        if type(size) is not int or not 64 <= size <= 1024:
            raise ValueError(
                f"{name}.batch_size: expected a whole number from 64 to 1,024, "
                f"not {size!r}"
            )
        if not 0 <= self.gather <= _LONGEST_GATHER:
            raise ValueError(
                f"{name}.gather: expected seconds from 0 to {_LONGEST_GATHER}, "
                f"not {self.gather!r}"
            )

    # For the caller --------------------------------------------------------

    @property
    def kernel_drops(self) -> int:
        """
        How many datagrams the kernel dropped because its queue was full.

        Those that came together count as one (`gro`). Always 0 where the system does not tell.
        """
        now = dropped_by_kernel(self.socket)
        if now is None:
            return self.__drops
        # The kernel counts in 32 bits.
        self.__drops += (now - self.__drops_seen) & 0xFFFFFFFF
        self.__drops_seen = now
        return self.__drops

    def send_batch(self, replies: Sequence[Reply]) -> None:
        """
        Send datagrams with one system call; for the thread that serves.

        What cannot be sent is logged, and does not keep the others.

        Args:
            replies: pairs of a raw address, as `Block.senders` gives them, and bytes.
        """
        if self.__sender is None:
            self.__sender = Sender(
                self.socket, self.batch_size, portable=self._loop_portable
            )
        for (name, data), error in self.__sender.send(self.socket, replies):
            peer = self.__sender.addresses.plain(name)
            self._loop_rare_log.log(
                logging.WARNING,
                "cannot send %d bytes to %s: %s",
                len(data),
                peer,
                error,
            )

    # The steps of the server -----------------------------------------------

    def server_bind(self) -> None:
        """
        Bind the socket, with room for a burst.
        """
        self.__ask_for_room()
        super().server_bind()

    def __ask_for_room(self) -> None:
        size = self.receive_buffer
        if size is None:
            return
        if self.address_family not in {socket.AF_INET, socket.AF_INET6}:
            return  # a Unix peer waits for room instead
        if self.__room() < size:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        if sys.platform == "linux" and self.__room() < size:
            with contextlib.suppress(OSError):  # it takes a privilege
                self.socket.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, size)
        granted = self.__room()
        if granted < size:
            _rare.log(
                logging.WARNING,
                "the kernel's queue for datagrams has %d bytes, not the %d asked for; "
                "raise net.core.rmem_max, or bursts are lost",
                granted,
                size,
            )

    def __room(self) -> int:
        """
        Give the bytes of the kernel's queue, in the terms in which they are asked for.
        """
        size = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        # Linux gives twice of what was asked for, for its own needs.
        return size // 2 if sys.platform == "linux" else size

    def server_close(self) -> None:
        """
        Close the socket, and forget what was received and not handled.
        """
        _ = self.kernel_drops  # it cannot be read any more afterwards
        super().server_close()
        if self.__taken:
            self.__taken.clear()

    def get_request(self) -> tuple[Any, Any]:
        """
        Take the next datagram of those received; receive when there is none left.

        Outside of `serve_forever` one is received at a time, so that nobody who waits
        for the descriptor overlooks one that is here already.
        """
        if self.__taken is None:
            self.__taken = deque()
        if not self.__taken:
            block = self.__block if self.__taking else self.__coalesced_row()
            if block is None:
                return super().get_request()
            self.__take_block(block, self.__taken)
        return self.__taken.popleft()

    def __coalesced_row(self) -> Block | None:
        """
        Give what one receive may bring outside of the loop, if not one datagram.
        """
        if self.gro and self.__row is None:
            self.__row = self.__make_block(1)
        return self.__row

    def __make_block(self, rows: int) -> Block:
        return Block(
            self.socket,
            rows,
            self.max_packet_size,
            gro=self.gro,
            timestamps=self.timestamps,
            portable=self._loop_portable,
        )

    # The loop --------------------------------------------------------------

    def _loop_run(self, poll_interval: float | None) -> None:
        self.__check()
        self.__ask_for_room()  # the socket may be another one by now
        self.__longest = self.gather * min(1.0, self.__room() / _AMPLE)
        self.__pause, self.__gathered = self.__longest, 0
        self.__block = self.__make_block(self.batch_size)
        make = getattr(self.RequestHandlerClass, "batch_side", None)
        side = None if make is None or self.__is_stepwise() else make(self)
        self.__side = side
        try:
            self.__handle_taken()
            super()._loop_run(poll_interval)
            self.__drain(time.monotonic() + self.drain_timeout)
        finally:
            if side is not None:
                side.end()
            self.__block = self.__side = self.__sender = None

    def __is_stepwise(self) -> bool:
        """
        Say whether a step for single requests has been overridden.
        """
        return (
            self.__overrides("get_request", BatchMixIn)
            or self.__overrides("handle_request", BaseServer)
            or any(self.__overrides(step, UDPServer) for step in _STEPS)
        )

    def __overrides(self, step: str, original: type) -> bool:
        function = getattr(getattr(self, step), "__func__", None)
        return function is not getattr(original, step)

    def __drain(self, deadline: float) -> None:
        """
        Handle what has been received; for a batch side, what had arrived as well.
        """
        while self.__taken and time.monotonic() < deadline:
            super()._handle_request_noblock()
        side, block = self.__side, self.__block
        if side is None or block is None:
            return
        left = 0 if self._loop_orphaned() else self.__most_queued()
        while left > 0 and time.monotonic() < deadline:
            left -= self.__handle_block(block, side) or left
        side.stop()
        while side.busy and time.monotonic() < deadline:
            side.attend()
            time.sleep(_LOOK_AGAIN)

    def __most_queued(self) -> int:
        """
        Say how many datagrams the kernel's queue can hold, so that draining ends.
        """
        size = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        return size // _LEAST_QUEUED

    def _loop_housekeep(self) -> None:
        super()._loop_housekeep()
        if self.__side is not None:
            self.__side.attend()

    def _handle_request_noblock(self) -> None:
        block, side = self.__block, self.__side
        if block is None or self.__overrides("handle_request", BaseServer):
            super()._handle_request_noblock()
            while self.gro and self.__taken:  # it came together, nobody waits for it
                super()._handle_request_noblock()
            return
        for _ in range(_BURST):
            if side is None:
                got = self.__handle_singly(block)
            else:
                got = self.__handle_block(block, side)
            if self._loop_stopping() or self._loop_accept_delay():
                return
            self.__gathered += got
            if got < block.rows:
                if self.__longest:
                    self.__nap(block.rows)
                return

    def __nap(self, rows: int) -> None:
        """
        Let datagrams gather, for less time where more come than some receives take.
        """
        taken, self.__gathered = self.__gathered, 0
        if taken > _ENOUGH * rows:
            self.__pause = max(self.__longest / _SHORTEST, self.__pause / 2)
        elif taken < rows:
            self.__pause = min(self.__longest, self.__pause * 2)
        time.sleep(self.__pause)

    def __handle_singly(self, block: Block) -> int:
        """
        Receive a block and let its datagrams go through the classic steps.
        """
        block.count = 0
        self.__taking = True
        try:
            super()._handle_request_noblock()
        finally:
            self.__taking = False
        self.__handle_taken()
        return block.count

    def __handle_taken(self) -> None:
        while self.__taken and not self._loop_stopping():
            super()._handle_request_noblock()

    def __take_block(self, block: Block, taken: deque[tuple[Any, Any]]) -> None:
        self.__receive(block)
        sock, data, plain = self.socket, block.data, block.addresses.plain
        taken.extend(
            ((data[start : start + length], sock), plain(sender))
            for start, length, sender in block.datagrams()
        )
        if not taken:
            raise BlockingIOError(errno.EAGAIN, "all datagrams were too long")

    def __handle_block(self, block: Block, side: BatchSide) -> int:
        """
        Receive a block and give it away whole; say how many there were.
        """
        try:
            got = self.__receive(block)
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                self._loop_accept_failed(error)
            return 0
        try:
            side.batch(block)
        except Exception as error:
            tell_failure(self, (b"", self.socket), None, error)
        return got

    def __receive(self, block: Block) -> int:
        got = block.receive(self.socket)
        for sender, data in block.take_cut():
            request = (data, self.socket)
            address = block.addresses.plain(sender)
            try:
                self.handle_truncated(request, address)
            except Exception as error:
                tell_failure(self, request, address, error)
        return got
