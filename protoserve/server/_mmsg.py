"""
Many datagrams with one system call, by `recvmmsg` and `sendmmsg`.

Python's socket module has neither, so they are called through ctypes, which lets
other threads run meanwhile. All memory is taken once. The kernel writes over the
sizes in the headers that it is given; one copy of a template restores them all.

Traps that are avoided here:

- The memory for datagrams is mapped, not a bytearray: that would be cleared, and so
  use real memory for rows that only ever see short datagrams.
- A row is never a multiple of a page long: all rows would compete for the same lines
  of the processor's cache.
- The room for ancillary data fits exactly what was asked for. A Unix peer may send
  open descriptors along; where there is no room the kernel closes them.

Where the system has no such calls, or the process may not use them, `recvmsg_into`
and `sendto` fill and empty the same memory one by one.
"""

from __future__ import annotations

import bisect
import ctypes
import errno
import itertools
import mmap
import os
import select
import socket
import struct
import sys
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from protoserve.server._sockaddr import AddressBook, name_size

__all__ = ["Block", "Reply", "Sender"]

Reply = tuple[bytes, bytes]
"""A raw address and what is sent there."""

_HEADER = struct.Struct("=QI4xQQQQi4xI4x")
"""struct mmsghdr: name and size, iovec and count, control and size, flags; length."""
_VECTOR = struct.Struct("=QQ")
_CONTROL = struct.Struct("=Qii")
"""struct cmsghdr: its length with the data after it, level, type."""
_SAME_LAYOUT = struct.calcsize("@PIPNPNi0PI0P") == _HEADER.size
"""Whether the system's C has this layout; time stamps differ too where it has not."""
_WORDS = _HEADER.size // 4
_NAME_LENGTH, _FLAGS, _LENGTH = 2, 12, 14
"""Places in a header, in words of 4 bytes."""
_CONTROL_USED = 40
"""Place in a header of the size of the ancillary data, in bytes."""
_MOST_COALESCED = 65_536

_DONTWAIT = getattr(socket, "MSG_DONTWAIT", 0)
_TIMESTAMPNS = 35
"""SO_TIMESTAMPNS, and the type of its ancillary data, in Linux."""
_RXQ_OVFL = 40
_UDP_SEGMENT = 103
_UDP_GRO = 104
_STAMP_SPACE = 32
_SEGMENT_SPACE = 24
"""CMSG_SPACE of a struct timespec, and of an int."""
_LINE = 64
_PAGE = 4096
_MOST_SEGMENTS = 64
_MOST_SENT = 65_000
"""Bytes that are cut, at most: together they are as long as a datagram may be."""
_LONGEST_SEGMENT = 1232
"""Bytes that any path for IPv6 takes (RFC 8200 section 5), less IPv6's and UDP's
headers; of longer datagrams each leaves by itself."""
_SEND_BYTES = 256 * 1024
"""Bytes of replies that one call sends, at most."""
_SEND_PATIENCE = 1.0
"""Seconds that our own full send buffer may take to become free, for one batch."""
_REFUSED = (errno.ENOSYS, errno.EPERM, errno.EACCES)


def _system_call(name: str, *arguments: Any) -> Any:
    """
    Find a function of the C library; `None` where it is not to be used.
    """
    try:
        if sys.platform != "linux" or not _SAME_LAYOUT:
            return None
        call = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None
    call.argtypes = arguments
    call.restype = ctypes.c_int
    return call


_recvmmsg = _system_call(
    "recvmmsg",
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_uint,
    ctypes.c_int,
    ctypes.c_void_p,
)
_sendmmsg = _system_call(
    "sendmmsg", ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int
)


def _memory(size: int) -> mmap.mmap:
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _address(buffer: Any) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _ask(sock: socket.socket, level: int, option: int, value: int = 1) -> bool:
    """
    Switch an option on, or off; say whether there is such a thing.
    """
    try:
        sock.setsockopt(level, option, value)
    except OSError:
        return False
    return True


class Block:
    """
    The datagrams of one receive, in memory that the next one uses again.

    Row `i` of `count` has its bytes in `data` from ``i * stride`` on. The columns
    `starts`, `lengths`, `seconds` and `nanoseconds` are memoryviews of all rows, so that
    ``numpy.asarray(block.lengths)[:block.count]`` copies nothing and stays valid
    for every later receive.

    Args:
        sock: the socket to receive from.
        rows: how many datagrams are received at a time.
        longest: bytes of the longest datagram that is taken whole.
        gro: whether the kernel may hand over many datagrams of one peer as one row.
        timestamps: whether the kernel says when each row arrived.
        portable: whether to do without `recvmmsg`.
    """

    def __init__(
        self,
        sock: socket.socket,
        rows: int,
        longest: int,
        *,
        gro: bool = False,
        timestamps: bool = False,
        portable: bool = False,
    ) -> None:
        self.rows = rows
        """How many datagrams fit."""
        self.count = 0
        """How many there are."""
        self.gro = gro and _ask(sock, socket.IPPROTO_UDP, _UDP_GRO)
        """Whether a row may hold many datagrams, see `segments`."""
        if not gro:  # a block before this one may have asked for it
            _ask(sock, socket.IPPROTO_UDP, _UDP_GRO, 0)
        self._longest = longest
        self._room = _MOST_COALESCED if self.gro else longest
        self.stride = -(-self._room // _LINE) * _LINE + _LINE
        """Bytes from one row to the next."""
        if self.stride % _PAGE == 0:
            self.stride += _LINE
        self.data = _memory(rows * self.stride)
        """The datagrams' bytes. A slice of it is a copy, as bytes."""
        self.starts = memoryview(array("q", range(0, len(self.data), self.stride)))
        """Where in `data` each row begins."""
        self.name_stride = name_size(sock.family)
        """Bytes from one row of `names` to the next."""
        self.names = bytearray(rows * self.name_stride)
        """The senders' raw addresses: ``sockaddr_in``, ``sockaddr_in6`` or a path's."""
        self.addresses = AddressBook(sock.family)
        """Translates raw addresses."""
        self.is_internet = sock.family != getattr(socket, "AF_UNIX", None)
        """Whether all names have one length, and there are no others."""
        self._unpack_names = struct.Struct(f"{self.name_stride}s").iter_unpack
        self._portable = portable or _recvmmsg is None
        self.is_stamped = (
            timestamps
            and not self._portable
            and _ask(sock, socket.SOL_SOCKET, _TIMESTAMPNS)
        )
        """Whether the kernel says when each row arrived; else all have one time."""
        if self.gro:  # nothing else may come before the segments' size
            _ask(sock, socket.SOL_SOCKET, _RXQ_OVFL, 0)
            if not self.is_stamped:
                _ask(sock, socket.SOL_SOCKET, _TIMESTAMPNS, 0)
        self._control_stride = _STAMP_SPACE + (_SEGMENT_SPACE if self.gro else 0)
        self._control = bytearray(rows * self._control_stride)
        self._template = self._lay_out()
        self._headers = memoryview(bytearray(self._template))
        self._at = _address(self._headers)
        self._used = 0
        words = self._headers.cast("I")
        self.lengths = words[_LENGTH::_WORDS]
        """Bytes of each row."""
        self._flags = words[_FLAGS::_WORDS]
        self._name_lengths = words[_NAME_LENGTH::_WORDS]
        numbers = memoryview(self._control).cast("q")
        step = self._control_stride // 8
        self.seconds = numbers[2::step]
        """When each row arrived: whole seconds since the epoch."""
        self.nanoseconds = numbers[3::step]
        """When each row arrived: nanoseconds beyond the whole second."""
        place = (_STAMP_SPACE + _CONTROL.size) // 4
        self.segments = memoryview(self._control).cast("i")[place :: 2 * step]
        """
        With `gro`: by row, the bytes of each datagram in it (the last one may be
        shorter), or 0 if it holds one only. The kernel tells it behind the time.
        """

    def _lay_out(self) -> memoryview:
        """
        Make the headers that point to everything else.
        """
        data, names, control = map(_address, (self.data, self.names, self._control))
        self._vectors = bytearray(
            b"".join(_VECTOR.pack(data + offset, self._room) for offset in self.starts)
        )
        vectors = _address(self._vectors)
        # Where the kernel does not write the time, we do.
        skipped = 0 if self.is_stamped else _STAMP_SPACE
        size = self._control_stride - skipped
        return memoryview(
            b"".join(
                _HEADER.pack(
                    names + row * self.name_stride,
                    self.name_stride,
                    vectors + row * _VECTOR.size,
                    1,
                    control + skipped + row * self._control_stride if size else 0,
                    size,
                    0,
                    0,
                )
                for row in range(self.rows)
            )
        )

    def receive(self, sock: socket.socket) -> int:
        """
        Take what waits in the kernel's queue, without waiting, as much as fits.

        Returns:
            How many rows there are now; see `cut` for those that did not fit.

        Raises:
            BlockingIOError: nothing waits.
            OSError: the socket says so.
        """
        used, self._used = self._used, 0
        self.count = 0
        if self.gro:  # nothing is written for a row that holds one
            self._control[:] = bytes(len(self._control))
        if not self._portable:
            used *= _HEADER.size
            self._headers[:used] = self._template[:used]
            got: int = _recvmmsg(sock.fileno(), self._at, self.rows, _DONTWAIT, None)
            if got >= 0:
                self.count = self._used = got
                if not self.is_stamped:
                    self._stamp(0, got)
                return got
            if ctypes.get_errno() not in _REFUSED:
                raise _error()
            self._portable = True
        return self._receive_one_by_one(sock)

    def _receive_one_by_one(self, sock: socket.socket) -> int:
        room = socket.CMSG_SPACE(4) + socket.CMSG_SPACE(16) if self.gro else 0
        memory = memoryview(self.data)
        for row, offset in enumerate(self.starts):
            into = memory[offset : offset + self._room]
            try:
                length, control, flags, address = sock.recvmsg_into(
                    [into], room, _DONTWAIT
                )
            except OSError:
                if row == 0:
                    raise
                break
            raw = self.addresses.raw(address)
            place = row * self.name_stride
            self.names[place : place + len(raw)] = raw
            self._name_lengths[row], self.lengths[row] = len(raw), length
            self._flags[row] = flags & socket.MSG_TRUNC
            self._stamp(row, row + 1)
            for level, kind, value in control:
                if (level, kind) == (socket.IPPROTO_UDP, _UDP_GRO):
                    self.segments[row] = struct.unpack_from("i", value)[0]
            self.count = row + 1
        return self.count

    def _stamp(self, start: int, stop: int) -> None:
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        self.seconds[start:stop] = array("q", [seconds]) * (stop - start)
        self.nanoseconds[start:stop] = array("q", [nanoseconds]) * (stop - start)

    def take_cut(self) -> list[Reply]:
        """
        Take out the datagrams that did not fit.

        Returns:
            The sender's raw address and the first bytes of each.
        """
        if self.gro:
            rows = zip(
                self.segments[: self.count], self.lengths[: self.count], strict=True
            )
            cut = [(segment or length) > self._longest for segment, length in rows]
        else:
            flags = self._flags[: self.count].tobytes()
            if not flags.strip(b"\0"):
                return []
            cut = [bool(f & socket.MSG_TRUNC) for f in self._flags[: self.count]]
        if True not in cut:
            return []
        found: list[Reply] = []
        senders = self.senders()
        self.count = 0
        for row, sender in enumerate(senders):
            if cut[row] and not self._take_cut_row(row, sender, found):
                continue
            self._move(row, self.count)
            self.count += 1
        return found

    def _take_cut_row(self, row: int, sender: bytes, found: list[Reply]) -> bool:
        """
        Take one row's datagrams that did not fit; say whether one is left.
        """
        start, left = self.starts[row], self.lengths[row]
        size = self.segments[row] or left if self.gro else left
        while left:
            if left < size and left <= self._longest:
                break
            found.append((sender, self.data[start : start + self._longest]))
            start, left = start + size, max(0, left - size)
        if not left:
            return False
        # The last one of coalesced datagrams may be shorter than the others.
        self.data.move(self.starts[row], start, left)
        self.lengths[row], self.segments[row] = left, 0
        return True

    def _move(self, row: int, to: int) -> None:
        if row == to:
            return
        for column in (
            self.lengths,
            self._name_lengths,
            self.seconds,
            self.nanoseconds,
            *((self.segments,) if self.gro else ()),
        ):
            column[to] = column[row]
        self.data.move(self.starts[to], self.starts[row], self.lengths[row])
        size = self.name_stride
        name = self.names[row * size : (row + 1) * size]
        self.names[to * size : (to + 1) * size] = name

    def senders(self) -> list[bytes]:
        """
        Give each row's raw address; no bytes for a Unix peer without a name.
        """
        used = bytes(self.names[: self.count * self.name_stride])
        if self.is_internet:
            return [name for (name,) in self._unpack_names(used)]
        lengths = self._name_lengths[: self.count].tolist()
        places = range(0, len(used), self.name_stride)
        return [
            used[place : place + length]
            for place, length in zip(places, lengths, strict=True)
        ]

    @property
    def total(self) -> int:
        """
        How many datagrams there are in all rows.
        """
        if not self.gro:
            return self.count
        rows = zip(self.segments[: self.count], self.lengths[: self.count], strict=True)
        return sum(-(-length // segment) if segment else 1 for segment, length in rows)

    def datagrams(self) -> Iterable[tuple[int, int, bytes]]:
        """
        Give each datagram's offset in `data`, its length and its sender's raw address.
        """
        lengths = self.lengths[: self.count].tolist()
        rows = zip(self.starts, lengths, self.senders(), strict=False)
        return self._split(rows) if self.gro else rows

    def _split(
        self, rows: Iterable[tuple[int, int, bytes]]
    ) -> Iterator[tuple[int, int, bytes]]:
        segments = self.segments[: self.count].tolist()
        for segment, (start, length, sender) in zip(segments, rows, strict=True):
            if not segment:
                yield start, length, sender
                continue
            for offset in range(0, length, segment):
                yield start + offset, min(segment, length - offset), sender


def _alike(names: Sequence[bytes], lengths: Sequence[int]) -> list[int]:
    """
    Say how many of some datagrams, one after the other, the kernel may take as one.
    """
    groups: list[int] = []
    before, size, room = b"", -1, 0
    for name, length in zip(names, lengths, strict=True):
        if room and length == size and name == before:
            groups[-1] += 1
            room -= 1
            continue
        groups.append(1)
        before, size = name, length
        room = 0
        if 0 < length <= _LONGEST_SEGMENT:
            room = min(_MOST_SEGMENTS, _MOST_SENT // length) - 1
    return groups


class Sender:
    """
    Sends many datagrams at once.

    One that cannot be sent does not keep the others; the order is kept. Datagrams of
    one size for one peer, one after the other, go through the kernel as one, which
    cuts them apart at the end (UDP_SEGMENT).

    Args:
        sock: the socket to send by.
        rows: how many are sent at a time.
        portable: whether to do without `sendmmsg`.
    """

    def __init__(
        self, sock: socket.socket, rows: int, *, portable: bool = False
    ) -> None:
        self._rows = rows
        self._portable = portable or _sendmmsg is None
        self.addresses = AddressBook(sock.family)
        """Translates raw addresses."""
        # A Unix peer that does not read is its own fault; our own buffer is not.
        self._waits = sock.family != getattr(socket, "AF_UNIX", None)
        self._patient_until: float | None = None
        self._segments = self._waits and sys.platform == "linux"
        """Whether the kernel is asked to cut datagrams apart."""
        size = self._name_size = name_size(sock.family)
        self._data = memoryview(bytearray(_SEND_BYTES))
        self._names = memoryview(bytearray(rows * size))
        self._vectors = memoryview(bytearray(rows * _VECTOR.size))
        control = _CONTROL.pack(
            _CONTROL.size + 2, socket.IPPROTO_UDP, _UDP_SEGMENT
        ).ljust(_SEGMENT_SPACE, b"\0")
        self._control = memoryview(bytearray(control * rows))
        names, vectors = _address(self._names), _address(self._vectors)
        controls = _address(self._control)
        self._data_at = _address(self._data)
        self._headers = memoryview(
            bytearray(
                b"".join(
                    _HEADER.pack(
                        names + row * size,
                        size,
                        vectors + row * _VECTOR.size,
                        1,
                        controls + row * _SEGMENT_SPACE,
                        0,
                        0,
                        0,
                    )
                    for row in range(rows)
                )
            )
        )
        self._headers_at = _address(self._headers)
        self._control_sizes = self._headers.cast("Q")[
            _CONTROL_USED // 8 :: _HEADER.size // 8
        ]
        self._segment_sizes = self._control.cast("H")[
            _CONTROL.size // 2 :: _SEGMENT_SPACE // 2
        ]
        numbers = self._vectors.cast("Q")
        self._starts, self._lengths = numbers[0::2], numbers[1::2]
        self._name_lengths = self._headers.cast("I")[_NAME_LENGTH::_WORDS]

    def send(
        self, sock: socket.socket, replies: Sequence[Reply]
    ) -> list[tuple[Reply, OSError]]:
        """
        Send datagrams, in the order that they are given.

        Returns:
            Those that could not be sent, each with the reason.
        """
        failed: list[tuple[Reply, OSError]] = []
        self._patient_until = None
        start = 0
        while start < len(replies):
            part = replies[start : start + self._rows]
            groups = [] if self._portable else self._load(part)
            loaded = sum(groups)
            if loaded:
                self._send_loaded(sock, part, groups, failed)
            else:
                loaded = len(part) if self._portable else 1
                self._send_one_by_one(sock, part[:loaded], failed)
            start += loaded
        return failed

    def _load(self, part: Sequence[Reply]) -> list[int]:
        """
        Write datagrams to where the kernel is told to look.

        Returns:
            How many of them each message has; what does not fit is left out.
        """
        data = [data for _, data in part]
        lengths = array("Q", map(len, data))
        starts = array("Q", itertools.accumulate(lengths, initial=self._data_at))
        if starts[-1] - self._data_at > _SEND_BYTES:
            fit = bisect.bisect_right(starts, self._data_at + _SEND_BYTES) - 1
            return self._load(part[:fit]) if fit else []
        self._data[: starts[-1] - self._data_at] = b"".join(data)
        names = [name for name, _ in part]
        groups = _alike(names, lengths) if self._segments else [1] * len(part)
        count = len(groups)
        if count < len(part):
            firsts = [*itertools.accumulate(groups[:-1], initial=0)]
            names = [names[first] for first in firsts]
            sizes = [lengths[first] for first in firsts]
            pairs = list(zip(groups, sizes, strict=True))
            starts = array("Q", [starts[first] for first in firsts])
            lengths = array("Q", [number * size for number, size in pairs])
            # One by itself may be longer than any datagram, which only the kernel says.
            self._segment_sizes[:count] = array(
                "H", [size if number > 1 else 0 for number, size in pairs]
            )
        self._control_sizes[:count] = array(
            "Q", [_SEGMENT_SPACE if number > 1 else 0 for number in groups]
        )
        self._starts[:count] = starts[:count]
        self._lengths[:count] = lengths
        if not self._waits:
            self._name_lengths[:count] = array("I", map(len, names))
            names = [name.ljust(self._name_size, b"\0") for name in names]
        self._names[: count * self._name_size] = b"".join(names)
        return groups

    def _send_loaded(
        self,
        sock: socket.socket,
        replies: Sequence[Reply],
        groups: Sequence[int],
        failed: list[tuple[Reply, OSError]],
    ) -> None:
        done, count = 0, len(groups)
        while done < count:
            at = self._headers_at + done * _HEADER.size
            sent = _sendmmsg(sock.fileno(), at, count - done, _DONTWAIT)
            if sent > 0:
                done += sent
                continue
            error = _error()
            first = sum(groups[:done])
            if error.errno == errno.ENOSYS:
                self._portable = True
                left = replies[first : sum(groups)]
                self._send_one_by_one(sock, left, failed)
                return
            if self._may_go_on(sock, error):
                continue
            if groups[done] > 1:
                alike, before = replies[first : first + groups[done]], len(failed)
                self._send_one_by_one(sock, alike, failed)
                # The kernel, or the way out, does not cut if each can be sent by itself.
                self._segments = self._segments and len(failed) != before
            else:
                failed.append((replies[first], error))
            done += 1

    def _send_one_by_one(
        self,
        sock: socket.socket,
        replies: Sequence[Reply],
        failed: list[tuple[Reply, OSError]],
    ) -> None:
        for reply in replies:
            name, data = reply
            again = True
            while again:
                again = False
                try:
                    sock.sendto(data, _DONTWAIT, self.addresses.plain(name))
                except OSError as error:
                    again = self._may_go_on(sock, error)
                    if not again:
                        failed.append((reply, error))

    def _may_go_on(self, sock: socket.socket, error: OSError) -> bool:
        """
        After a failure: wait for room in our own buffer, if that was all it was.
        """
        if error.errno == errno.EINTR:
            return True
        if error.errno != errno.EAGAIN or not self._waits:
            return False
        now = time.monotonic()
        if self._patient_until is None:
            self._patient_until = now + _SEND_PATIENCE
        poller = select.poll()
        poller.register(sock, select.POLLOUT)
        return bool(poller.poll(max(0.0, self._patient_until - now) * 1000))
