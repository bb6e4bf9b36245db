"""
Where what has been received waits to be tabulated: a queue with a bound and a policy.

The thread that receives copies datagrams out of the memory that the next receive uses,
many at a time, and goes on. Whoever takes gets all that has gathered: the more that is, the
less each costs.

When the queue is full, what happens is the policy's: ``block`` leaves datagrams in the
kernel's queue, ``drop-newest`` and ``drop-oldest`` say what they say. All that is dropped
is counted.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from protoserve.account import Account
from protoserve.columnar import datagrams_of
from protoserve.session import Peer
from protoserve.telemetry.tables import Frames

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from protoserve.server.batch import Block

__all__ = ["OVERHEAD", "POLICIES", "Intake"]

POLICIES = ("block", "drop-newest", "drop-oldest")
"""What happens when a queue is full."""

OVERHEAD = 128
"""
Bytes that a datagram counts for beside its own: those of its place, time and sender.

Else a flood of small ones from made-up senders would take many times what is allowed.
"""
_MOST_PEERS = 8_192
"""Senders after which those that were not heard of since are forgotten."""
_LOOK_AGAIN = 0.1
_ROOM = 4 << 20
"""Bytes of memory that are taken at a time."""
_WASTE = 2
"""By how much rows of equal length may be longer than what is in them."""


@attrs.frozen(eq=False)
class _Piece:
    """
    Datagrams that came together.
    """

    memory: NDArray[np.uint8]
    """What their bytes are in."""
    at: int
    """Where in it they begin."""
    length: int
    """How many bytes they are, with what is between them."""
    starts: NDArray[np.int64]
    """Where each is, from `at` on."""
    lengths: NDArray[np.int64]
    times: NDArray[np.int64]
    names: NDArray[Any]
    """Their senders' raw addresses, or one for all."""
    peer: Callable[[bytes], Peer]
    """Makes a peer of a raw address."""
    came_at: float
    """On the clock of `time.monotonic`."""

    @property
    def size(self) -> int:
        """
        What it takes, in bytes.
        """
        return self.length + OVERHEAD * len(self.starts)


class Intake:
    """
    A queue of datagrams.

    Args:
        account: where they are counted as received, and as dropped.
        most_bytes: how many may wait, with `OVERHEAD` for each datagram.
        policy: what happens to more, one of `POLICIES`.
    """

    def __init__(
        self, account: Account, *, most_bytes: int = 64 << 20, policy: str = "block"
    ) -> None:
        if policy not in POLICIES:
            known = ", ".join(POLICIES)
            raise ValueError(f"unknown policy {policy!r} (known: {known})")
        self._account = account
        self._most = most_bytes
        self._policy = policy
        self._pieces: deque[_Piece] = deque()
        self._bytes = 0
        self._count = 0
        self._wanted = 1
        """Bytes for which whoever takes waits."""
        self._condition = threading.Condition()
        self._closed = False
        self._peers: dict[bytes, Peer] = {}
        self._peers_before: dict[bytes, Peer] = {}
        """By raw address: those heard of lately, and those before them."""
        self._memory = np.empty(0, np.uint8)
        self._used = 0

    def __len__(self) -> int:
        return self._count

    @property
    def waiting_bytes(self) -> int:
        """
        How many bytes wait.
        """
        return self._bytes

    # For those who receive -------------------------------------------------

    def take(self, block: Block) -> None:
        """
        Take all datagrams of a block.
        """
        if not block.count:  # all were cut
            return
        if not block.is_internet:
            self._take_singly(block)
            return
        found = datagrams_of(block)
        rows = found.rows
        data, starts = _laid_out(block)
        memory, at = self._place(data)
        decode = block.addresses.decode
        before = np.asarray(block.starts)[: block.count]
        self._put(
            _Piece(
                memory,
                at,
                data.size,
                found.starts + (starts - before)[rows],
                found.lengths,
                found.moments[rows],
                found.names[rows],
                lambda name: self._peer(name, decode),
                time.monotonic(),
            )
        )

    def _take_singly(self, block: Block) -> None:
        moment = block.seconds[0] * 1_000_000_000 + block.nanoseconds[0]
        for start, length, sender in list(block.datagrams()):
            peer = Peer("unixgram", block.addresses.plain(sender))
            self.add(block.data[start : start + length], peer, moment)

    def add(self, data: bytes, peer: Peer, moment: int) -> None:
        """
        Take one frame; `moment` is in nanoseconds since the epoch.
        """
        memory, at = self._place(np.frombuffer(data, np.uint8))
        self._put(
            _Piece(
                memory,
                at,
                len(data),
                np.zeros(1, "i8"),
                np.array([len(data)], "i8"),
                np.array([moment], "i8"),
                np.zeros(1, "V1"),
                lambda _: peer,
                time.monotonic(),
            )
        )

    def _place(self, data: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
        """
        Copy bytes to memory, behind those that came before; say where they are.

        So what is taken together mostly is one piece already.
        """
        size = data.size
        with self._condition:
            if self._used + size > len(self._memory):
                self._memory, self._used = np.empty(max(size, _ROOM), np.uint8), 0
            memory, at = self._memory, self._used
            self._used += size
        memory[at : at + size].reshape(data.shape)[...] = data
        return memory, at

    def _put(self, piece: _Piece) -> None:
        count, size = len(piece.starts), piece.size
        self._account.receive(count)
        with self._condition:
            while self._bytes and self._bytes + size > self._most:
                if self._policy == "drop-oldest":
                    self._drop(self._pieces.popleft())
                elif self._policy == "block" and not self._closed:
                    self._condition.wait(_LOOK_AGAIN)
                else:
                    self._account.drop("queue", count)
                    return
            self._pieces.append(piece)
            self._bytes += size
            self._count += count
            if self._bytes >= self._wanted:
                self._condition.notify_all()

    def _drop(self, piece: _Piece) -> None:
        self._bytes -= piece.size
        self._count -= len(piece.starts)
        self._account.drop("queue", len(piece.starts))

    def close(self) -> None:
        """
        Let nobody wait any more: what does not fit from now on is dropped.
        """
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    # For whoever tabulates -------------------------------------------------

    def gather(self, timeout: float, enough: int, patience: float) -> Frames | None:
        """
        Give what has gathered.

        Args:
            timeout: seconds to wait for the first.
            enough: bytes that are not waited for any longer, counted in the same way.
            patience: seconds from when the first came to wait for others.

        Returns:
            `None` if there is nothing.
        """
        with self._condition:
            self._wait(1, time.monotonic() + timeout)
            if not self._pieces:
                return None
            deadline = self._pieces[0].came_at + patience
            self._wait(min(enough, self._most // 2), deadline)
            pieces = self._some(enough)
            self._condition.notify_all()
        return self._joined(pieces)

    def _wait(self, wanted: int, deadline: float) -> None:
        """
        Wait until so many bytes are there; not woken by each that comes before.
        """
        self._wanted = wanted
        while self._bytes < wanted and not self._closed:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self._condition.wait(left)
        self._wanted = 1

    def _some(self, enough: int) -> list[_Piece]:
        """
        Take what is given at a time, at least one piece.
        """
        taken: list[_Piece] = []
        size = 0
        while self._pieces and (not taken or size < enough):
            piece = self._pieces.popleft()
            taken.append(piece)
            size += piece.size
            self._count -= len(piece.starts)
        self._bytes -= size
        return taken

    def _joined(self, pieces: list[_Piece]) -> Frames:
        exporters: dict[Any, tuple[int, Peer]] = {}
        senders, starts, offset = [], [], 0
        for piece in pieces:
            senders.append(self._senders(piece, exporters))
            starts.append(piece.starts + offset)
            offset += piece.length

        def whole(parts: list[NDArray[Any]]) -> NDArray[Any]:
            return parts[0] if len(parts) == 1 else np.concatenate(parts)

        return Frames(
            whole(_merged([(p.memory, p.at, p.length) for p in pieces])),
            whole(starts),
            whole([piece.lengths for piece in pieces]),
            whole([piece.times for piece in pieces]),
            whole(senders),
            [peer for _, peer in exporters.values()],
        )

    def _senders(
        self, piece: _Piece, exporters: dict[Any, tuple[int, Peer]]
    ) -> NDArray[np.int64]:
        """
        Give the place of each datagram's sender among all exporters.
        """
        names = piece.names
        raw = names.tobytes()
        each = names.dtype.itemsize
        first = raw[:each]
        if raw == first * len(names):  # as it mostly is
            place = self._exporter(first, piece, exporters)
            return np.full(len(names), place, "i8")
        found, inverse = np.unique(_comparable(names), return_inverse=True)
        firsts = np.empty(len(found), "i8")
        firsts[inverse[::-1]] = np.arange(len(names))[::-1]
        places = [
            self._exporter(raw[at * each : (at + 1) * each], piece, exporters)
            for at in firsts.tolist()
        ]
        senders: NDArray[np.int64] = np.array(places, "i8")[inverse.reshape(-1)]
        return senders

    def _exporter(
        self, name: bytes, piece: _Piece, exporters: dict[Any, tuple[int, Peer]]
    ) -> int:
        peer = piece.peer(name)
        found = exporters.setdefault(peer, (len(exporters), peer))
        return found[0]

    def _peer(self, name: bytes, decode: Callable[[bytes], Any]) -> Peer:
        """
        Give the one peer for a raw address; in a storm, those that come again stay.
        """
        peer = self._peers.get(name)
        if peer is None:
            peer = self._peers_before.pop(name, None) or Peer("udp", decode(name))
            self._peers[name] = peer
            if len(self._peers) > _MOST_PEERS:
                self._peers, self._peers_before = {}, self._peers
        return peer


def _comparable(names: NDArray[Any]) -> NDArray[Any]:
    """
    Give raw addresses in a form that NumPy compares fast.
    """
    if names.dtype.itemsize == 16:  # sockaddr_in: all that counts is in the first half
        return names.view("u8")[::2]
    return names.view(f"S{names.dtype.itemsize}")


def _laid_out(block: Block) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """
    Look at a block's rows without what is between them; say where each begins then.
    """
    count, stride, data = block.count, block.stride, block.data
    lengths = np.asarray(block.lengths)[:count].astype("i8")
    longest = int(lengths.max(initial=0))
    if count * longest <= _WASTE * max(int(lengths.sum()), 64 * count):
        rows: Any = np.ndarray((count, longest), np.uint8, data, 0, (stride, 1))
        return rows, np.arange(count) * longest
    places = zip(block.starts[:count].tolist(), lengths.tolist(), strict=True)
    pieces = [data[start : start + length] for start, length in places]
    return np.frombuffer(b"".join(pieces), np.uint8), np.cumsum(lengths) - lengths


def _merged(
    places: list[tuple[NDArray[np.uint8], int, int]],
) -> list[NDArray[np.uint8]]:
    """
    Look at stretches of memory; those behind each other are one.
    """
    found: list[tuple[NDArray[np.uint8], int, int]] = []
    for memory, at, length in places:
        if found and found[-1][0] is memory and sum(found[-1][1:]) == at:
            length += found[-1][2]
            at = found.pop()[1]
        found.append((memory, at, length))
    return [memory[at : at + length] for memory, at, length in found]
