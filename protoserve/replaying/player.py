"""
Sends what was recorded, at the recorded pace or another.

Each recorded conversation has a connection of its own, or a socket for datagrams. In
a conversation a request is not sent before the answers have come that had come before
it then; without that, one that needs what an earlier one has done would fail at a
higher speed. Once an answer has not come in time, a conversation does not wait for
others until one comes.

What has been read from the file and not been sent yet is bounded, and so are the
connections: the one that was used longest ago ends first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Hashable
from math import inf
from typing import TYPE_CHECKING, Any, cast

import attrs

from protoserve.client._connecting import Target, opened, target_of
from protoserve.errors import DeclarationError
from protoserve.protocol import Protocol
from protoserve.replaying.answers import Answers, Bytes, Difference, Messages
from protoserve.replaying.sources import Piece, Source
from protoserve.urls import Address

if TYPE_CHECKING:
    import ssl

__all__ = ["Replay", "Replayed", "run_replay"]

_MOST_CONNECTIONS = 256
_MOST_PIECES = 4096
_MOST_BYTES = 1 << 26
_MOST_DIFFERENCES = 100
_GOODBYE = 0.5
"""Seconds that the other side has to say good-bye."""
_TOLD = 0.25
"""Seconds between two reports of how it goes."""


def _speed(_instance: Any, _attribute: Any, value: Any) -> None:
    if not 0 < value <= inf:
        raise DeclarationError(f"speed: expected a number above 0, not {value!r}")


@attrs.frozen(kw_only=True)
class Replay:
    """
    What is replayed, and how.
    """

    url: str
    protocol: Protocol | None = None
    """What is spoken: answers are compared as messages then, not byte by byte."""
    speed: float = attrs.field(default=1.0, validator=_speed)
    """How many times as fast as recorded; infinity: as fast as possible."""
    ignored: Collection[str] = ()
    """Names of fields that may differ."""
    timeout: float = 2.0
    """Seconds for an answer, and for a connection."""
    tls: ssl.SSLContext | None = None


@attrs.define
class Replayed:
    """
    What came of a replay.
    """

    conversations: int = 0
    sent: int = 0
    """Pieces that were sent."""
    same: int = 0
    """Answers that are as recorded."""
    different: int = 0
    """Those that are not, or that were not recorded."""
    unanswered: int = 0
    """Recorded answers that have not come."""
    unsent: int = 0
    """Pieces that could not be sent, since the server had ended the connection."""
    errors: dict[str, int] = attrs.field(factory=dict)
    """What else went wrong, by what it was."""
    left_out: int = 0
    """Pieces of the other kind: of streams for datagrams, or the other way round."""
    differences: list[Difference] = attrs.field(factory=list)
    """The first of them."""
    done: float = 0.0
    """Which part of the file was replayed, from 0 to 1."""

    @property
    def is_same(self) -> bool:
        """
        Whether everything is as it was.
        """
        return not (self.different or self.unanswered or self.unsent or self.errors)

    def take(self, difference: Difference | None) -> None:
        """
        Count an answer.
        """
        if difference is None:
            self.same += 1
            return
        self.different += 1
        if len(self.differences) < _MOST_DIFFERENCES:
            self.differences.append(difference)

    def fail(self, what: str) -> None:
        """
        Count an error.
        """
        self.errors[what] = self.errors.get(what, 0) + 1


def run_replay(
    replay: Replay,
    source: Source,
    progress: Callable[[Replayed], object] | None = None,
    result: Replayed | None = None,
) -> Replayed:
    """
    Replay a recording.

    Args:
        replay: how.
        source: what.
        progress: is told now and then how it goes.
        result: what is counted on from; by default it begins anew.

    Raises:
        DeclarationError: the protocol cannot be spoken there.
        SourceError: the recording cannot be read to its end.
    """
    player = _Player(replay, progress, Replayed() if result is None else result)
    return asyncio.run(player.play(source))


class _Player:
    def __init__(
        self,
        replay: Replay,
        progress: Callable[[Replayed], object] | None,
        result: Replayed,
    ) -> None:
        self.replay = replay
        self.result = result
        address = Address.parse(replay.url)
        self.stream = address.is_stream
        if replay.protocol is not None:
            self.target = target_of(replay.protocol, replay.url, replay.tls)
        else:
            self.target = Target(address, replay.tls)
        self._progress = progress
        self._lanes: OrderedDict[Hashable, _Lane] = OrderedDict()
        self._ending: set[asyncio.Task[None]] = set()
        self.pieces = self.bytes = 0
        """What waits to be sent or compared."""
        self.room = asyncio.Event()

    async def play(self, source: Source) -> Replayed:
        """
        Replay it all.
        """
        loop = asyncio.get_running_loop()
        begun, first, told = loop.time(), None, -inf
        speed = self.replay.speed
        try:
            for piece in source:
                if piece.stream != self.stream:
                    self.result.left_out += 1
                    continue
                if first is None:
                    first = piece.time
                if speed != inf:
                    due = begun + (piece.time - first) / speed
                    while (left := due - loop.time()) > 0:
                        await asyncio.sleep(min(left, _TOLD))
                        self._tell(source)
                if loop.time() >= told + _TOLD:
                    told = loop.time()
                    self._tell(source)
                    await asyncio.sleep(0)
                await self._put(piece)
            for lane in self._lanes.values():
                self._end(lane)
            while self._ending:
                await asyncio.wait(self._ending, timeout=_TOLD)
                self._tell(source)
        finally:
            for task in (*self._ending, *(x.task for x in self._lanes.values())):
                task.cancel()
            await asyncio.sleep(0.01)  # connections that were refused are closed
        return self.result

    def _tell(self, source: Source) -> None:
        self.result.done = source.done
        if self._progress is not None:
            self._progress(self.result)

    async def _put(self, piece: Piece) -> None:
        lane = self._lanes.get(piece.conversation)
        if lane is None:
            if piece.ends:
                return
            while len(self._lanes) + len(self._ending) >= _MOST_CONNECTIONS:
                if not self._ending:
                    self._end(self._lanes.popitem(last=False)[1])
                await asyncio.wait(self._ending, return_when="FIRST_COMPLETED")
            lane = self._lanes[piece.conversation] = _Lane(self)
            self.result.conversations += 1
        self._lanes.move_to_end(piece.conversation)
        while self.pieces >= _MOST_PIECES or self.bytes >= _MOST_BYTES:
            self.room.clear()
            await self.room.wait()
        if piece.data:
            lane.put(piece)
        if piece.ends:
            self._end(self._lanes.pop(piece.conversation))

    def _end(self, lane: _Lane) -> None:
        lane.put(None)
        self._ending.add(lane.task)
        lane.task.add_done_callback(self._ending.discard)


class _Lane(asyncio.Protocol, asyncio.DatagramProtocol):
    """
    One conversation.
    """

    def __init__(self, player: _Player) -> None:
        self._player = player
        replay, result = player.replay, player.result
        self._answers: Answers
        if replay.protocol is None:
            self._answers = Bytes(result.take, stream=player.stream)
        else:
            self._answers = Messages(
                result.take,
                replay.protocol,
                stream=player.stream,
                ignored=replay.ignored,
            )
        self._todo: deque[Piece | None] = deque()
        self._changed = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._patient = True
        """Whether answers are waited for."""
        self._ended = False
        """Whether the server has ended it."""
        self._lost = asyncio.Event()
        self._transport: Any = None
        self.task = asyncio.create_task(self._run())

    def put(self, piece: Piece | None) -> None:
        """
        Take the next piece; `None` after the last one.
        """
        if piece is not None:
            self._player.pieces += 1
            self._player.bytes += len(piece.data)
        self._todo.append(piece)
        self._changed.set()

    async def _run(self) -> None:
        player, result = self._player, self._player.result
        try:
            async with asyncio.timeout(player.replay.timeout):
                await self._connect(player.target)
        except TimeoutError:
            self._fail("not connected in time")
        except OSError as error:
            self._fail(f"not connected: {error.strerror or error}")
        try:
            while (piece := await self._next()) is not None:
                if not piece.from_client:
                    self._answers.expect(piece.number, piece.data)
                    continue
                await self._settled()
                if self._ended:
                    result.unsent += 1
                    continue
                await self._writable.wait()
                result.sent += 1
                self._write(piece.data)
            await self._settled()
        finally:
            result.unanswered += self._answers.end()
            await self._close()
            while self._todo:
                self._taken(self._todo.popleft())

    async def _close(self) -> None:
        """
        Say good-bye; the other side has a moment to do so too, over TLS.
        """
        if self._transport is None:
            return
        self._transport.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE):
                await self._lost.wait()
        self._transport.abort()

    def _write(self, data: bytes) -> None:
        if self._player.stream:
            self._transport.write(data)
        else:
            self._transport.sendto(data)

    async def _next(self) -> Piece | None:
        while not self._todo:
            self._changed.clear()
            await self._changed.wait()
        piece = self._todo.popleft()
        self._taken(piece)
        return piece

    def _taken(self, piece: Piece | None) -> None:
        if piece is not None:
            self._player.pieces -= 1
            self._player.bytes -= len(piece.data)
            self._player.room.set()

    async def _settled(self) -> None:
        """
        Wait for the answers that had come by now.
        """
        if not self._answers.waiting or not self._patient or self._ended:
            return
        try:
            async with asyncio.timeout(self._player.replay.timeout):
                while self._answers.waiting and not self._ended:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            self._patient = False

    async def _connect(self, target: Target) -> None:
        loop = asyncio.get_running_loop()
        address = target.address
        if target.tls is not None:
            await loop.create_connection(
                lambda: self,
                address.host,
                address.port or 0,
                ssl=target.tls,
                server_hostname=address.host,
            )
            return
        sock, _ = await asyncio.to_thread(opened, target, self._player.replay.timeout)
        try:
            if target.stream:
                await loop.create_connection(lambda: self, sock=sock)
            else:
                await loop.create_datagram_endpoint(lambda: self, sock=sock)
        except BaseException:
            sock.close()
            raise

    def _fail(self, what: str) -> None:
        self._ended = True
        self._changed.set()
        self._player.result.fail(what)

    # What the loop calls -----------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """
        Take the transport.
        """
        self._transport = cast("Any", transport)

    def data_received(self, data: bytes) -> None:
        """
        Compare what the server says.
        """
        self._patient = True
        self._answers.take(data)
        self._changed.set()

    def datagram_received(self, data: bytes, addr: Any) -> None:  # noqa: ARG002 - the socket is connected
        """
        Compare what the server says.
        """
        self.data_received(data)

    def eof_received(self) -> None:
        """
        Take note that the server says nothing more.
        """

    def error_received(self, exc: Exception) -> None:
        """
        Take note of an error of one datagram.
        """
        reason = getattr(exc, "strerror", None) or exc
        self._player.result.fail(f"a datagram was not delivered: {reason}")

    def connection_lost(self, exc: Exception | None) -> None:
        """
        Take note that nothing more can be sent.
        """
        self._ended = True
        self._lost.set()
        self._changed.set()
        self._writable.set()
        if exc is not None:
            reason = getattr(exc, "strerror", None) or exc
            self._player.result.fail(f"the connection was lost: {reason}")

    def pause_writing(self) -> None:
        """
        Wait until the server takes what was sent.
        """
        self._writable.clear()

    def resume_writing(self) -> None:
        """
        Go on.
        """
        self._writable.set()
