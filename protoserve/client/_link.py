"""
One connection of a blocking client, shared by threads.

Whoever waits first reads, for all; the others sleep until their answer is there, or it
is their turn to read. So a program with one thread never switches threads, and none
has to be started or ended. A lock guards the `Calls`; nothing waits while it is held.

Who reads waits in the system call that reads; without TLS that is one call for each
answer. Writing never blocks: a writer whose peer takes nothing waits by poll, and reads
meanwhile, or both sides would wait for each other. A connection in which half a message
was sent when the time was over is given up.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from protoserve.client._call import Call, Options, Stats, Unread, due_first
from protoserve.client._calls import Calls
from protoserve.errors import PeerTimeoutError, SessionClosedError
from protoserve.events import MessageReceived
from protoserve.messages import Message
from protoserve.protocol import Protocol
from protoserve.session import Peer

__all__ = ["Link"]

_AT_ONCE = 65_536
"""Bytes that are read at once; no datagram is longer."""
_TIMEVAL = struct.Struct("@ll")
_SLACK = 0.001
"""Seconds that the socket may wait for longer than it should."""
_FOR_EVER = 1e9
_GONE = (BrokenPipeError, ConnectionResetError, ConnectionAbortedError)


class Link:
    """
    A connected socket and its calls.

    Args:
        sock: where it is connected.
        protocol: what is spoken.
        peer: who is at the other end.
        options: patience and bounds.
        stats: what is counted.
        unread: what came and was not received.
    """

    def __init__(
        self,
        sock: socket.socket,
        protocol: Protocol,
        peer: Peer,
        options: Options,
        stats: Stats,
        unread: Unread,
    ) -> None:
        stream = sock.type == socket.SOCK_STREAM
        self.calls = Calls(
            protocol,
            stream=stream,
            peer=peer,
            options=options,
            stats=stats,
            unread=unread,
        )
        self._stream = stream
        self._sock = sock
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._reading = False
        """Whether somebody reads; guarded by the lock."""
        self._waiting: deque[Call] = deque()
        """The calls whose threads do not read; guarded by the lock."""
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)
        self._recv: Callable[[int, int], bytes] = sock.recv
        self._send: Callable[[bytes, int], int] = sock.send
        self._take = self._take_plain
        self._at_once: int = socket.MSG_DONTWAIT
        """The flags of what does not wait."""
        self._patience: float | None = 0.0
        """Seconds that the socket's own waiting takes."""
        if isinstance(sock, ssl.SSLSocket):
            self._secure = threading.Lock()
            self._recv, self._send = self._recv_tls, self._send_tls
            self._take, self._at_once = self._take_tls, 0
        else:
            sock.setblocking(True)

    def usable(self, *, probe: bool = False) -> bool:
        """
        Say whether the conversation can go on.

        Args:
            probe: look whether the peer has closed in the meantime.
        """
        if probe and self._stream and self.calls.failure is None and self._lead():
            try:
                if self._readable.poll(0):
                    self._read()
            finally:
                self._resign()
        return self.calls.failure is None

    def close(self, error: BaseException) -> None:
        """
        End the connection, and tell who waits.
        """
        with self._lock:
            self.calls.fail(error)
            reading = self._reading
        self._shut(close=not reading)

    def _shut(self, *, close: bool) -> None:
        if isinstance(self._sock, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError), self._secure:
                self._sock.unwrap()  # says that it is over, and waits for nothing
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # wakes who waits
        if close:
            self._sock.close()

    # Calls -------------------------------------------------------------------

    def ask(self, request: Message, timeout: float | None) -> Call:
        """
        Make a call, which `start` sends with others.
        """
        try:
            with self._lock:
                return self.calls.ask(request, timeout=timeout)
        except SessionClosedError as over:
            self.close(over)
            raise

    def begin(
        self,
        request: Message,
        header: Any,
        timeout: float | None,
        *,
        several: bool = False,
    ) -> Call:
        """
        Make a call, and send it.
        """
        calls = self.calls
        try:
            with self._lock:
                call = calls.ask(
                    request, header=header, timeout=timeout, several=several
                )
                calls.begin(call)
        except SessionClosedError as over:
            self.close(over)
            raise
        try:
            with self._writing:
                self._write_one(call.data, call.deadline)
        except BaseException:
            self.give_up([call])
            raise
        return call

    def start(self, calls: Sequence[Call]) -> None:
        """
        Send requests.
        """
        with self._lock:
            waiting = [call for call in calls if not call.ready]
            for call in waiting:
                self.calls.begin(call)
            data = [call.data for call in waiting]
        try:
            self._write(data, calls[0].deadline)
        except BaseException:
            self.give_up(calls)
            raise

    def send(self, message: Message, header: Any, timeout: float | None) -> bytes:
        """
        Send a message that nobody waits for an answer to; give its bytes.
        """
        try:
            with self._lock:
                data = self.calls.send(message, header=header)
        except SessionClosedError as over:
            self.close(over)
            raise
        deadline = None if timeout is None else time.monotonic() + timeout
        error = self._write([data], deadline)
        if error is not None:
            self.calls.check()
            raise error
        return data

    def listen(self, timeout: float | None) -> Call:
        """
        Make what waits for the next message that answers no call.
        """
        with self._lock:
            return self.calls.listen(timeout)

    def renew(self, call: Call) -> None:
        """
        Count the time until the next of several answers.
        """
        with self._lock:
            self.calls.renew(call)

    def give_up(self, calls: Iterable[Call]) -> None:
        """
        Stop waiting for some answers.
        """
        with self._lock:
            for call in calls:
                self.calls.give_up(call)

    def result(self, call: Call, together: Iterable[Call] = ()) -> MessageReceived:
        """
        Wait for an answer.

        Args:
            call: what was asked.
            together: calls that are waited for after it; what is due for them is done.
        """
        if not call.ready:
            try:
                while not call.ready:
                    if self._lead():
                        self._lead_until(call, together)
                    else:
                        self._follow(call, together)
            except BaseException:
                self.give_up([call])
                self._pass_on()
                raise
        return call.result()

    # Waiting -----------------------------------------------------------------

    def _lead(self) -> bool:
        """
        Become the one who reads, if nobody is.
        """
        with self._lock:
            if self._reading:
                return False
            self._reading = True
            return True

    def _resign(self) -> None:
        """
        Stop reading, and let another who waits do it.
        """
        with self._lock:
            self._reading = False
            if self._waiting:
                self._waiting[0].wake()
            over = self.calls.failure is not None
        if over:
            self._sock.close()

    def _lead_until(self, call: Call, together: Iterable[Call]) -> None:
        try:
            while not call.ready:
                first = due_first(call, together) if together else call
                due = first.due
                left = None if due is None else due - time.monotonic()
                taken = self._take(left)
                if left is not None and (not taken or left <= 0):
                    self._overdue(first)
        finally:
            self._resign()

    def _follow(self, call: Call, together: Iterable[Call]) -> None:
        woken = threading.Lock()
        woken.acquire()
        with self._lock:
            if call.ready or not self._reading:
                return
            call.waker = woken.release
            self._waiting.append(call)
        first = due_first(call, together)
        due = first.due
        left = -1 if due is None else max(due - time.monotonic(), 0)
        try:
            in_time = woken.acquire(timeout=min(left, threading.TIMEOUT_MAX))
        finally:
            with self._lock:
                call.waker = None
                self._waiting.remove(call)
        if not in_time:
            self._overdue(first)
        if call.ready:
            self._pass_on()

    def _pass_on(self) -> None:
        """
        Wake another to read, as who was woken for that has no need to.
        """
        with self._lock:
            if not self._reading and self._waiting:
                self._waiting[0].wake()

    def _overdue(self, call: Call) -> None:
        with self._lock:
            again = self.calls.overdue(call)
        if again is not None:
            self._write([again], call.deadline)

    @staticmethod
    def _poll(poll: select.poll, seconds: float | None) -> list[tuple[int, int]]:
        if seconds is None or seconds == math.inf:
            return poll.poll()
        return poll.poll(max(math.ceil(seconds * 1000), 0))

    # Bytes -------------------------------------------------------------------

    def _read(self) -> None:
        """
        Take what has come. Nobody else does at the same time.
        """
        try:
            data = self._recv(_AT_ONCE, self._at_once)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError as exc:
            self._failed(exc)
            return
        self._came(data)

    def _take_tls(self, seconds: float | None) -> bool:
        """
        Wait for what comes, and take it; say whether something came in time.
        """
        if not self._poll(self._readable, seconds):
            return False
        self._read()
        return True

    def _take_plain(self, seconds: float | None) -> bool:
        """
        Wait for what comes, and take it, in one step.

        The time that the socket waits is set only if it would wait for too long: most
        calls are as patient as the one before.
        """
        flags = 0
        if seconds is not None and seconds <= 0:
            flags = socket.MSG_DONTWAIT
        elif seconds != self._patience:
            now = self._patience
            if now is None or seconds is None or not 0 <= now - seconds < _SLACK:
                self._set_patience(seconds)
        try:
            data = self._recv(_AT_ONCE, flags)
        except BlockingIOError:
            return False
        except OSError as exc:
            self._failed(exc)
        else:
            self._came(data)
        return True

    def _set_patience(self, seconds: float | None) -> None:
        self._patience = seconds
        micros = 0  # for ever
        if seconds is not None and seconds < _FOR_EVER:
            micros = math.ceil(seconds * 1e6)
        packed = _TIMEVAL.pack(*divmod(micros, 1_000_000))
        with contextlib.suppress(OSError):  # it may be closed
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, packed)

    def _came(self, data: bytes) -> None:
        with self._lock:
            if data or not self._stream:
                if self.calls.failure is None:
                    self.calls.receive(data)
            else:
                self.calls.receive_eof()

    def _failed(self, error: OSError) -> None:
        """
        Tell everybody of an error of the socket.

        A datagram that was refused says nothing of the next one.
        """
        peer = self.calls.session.peer
        named: OSError = error
        if error.errno is not None and not isinstance(error, ssl.SSLError):
            named = type(error)(error.errno, error.strerror, str(peer))
        with self._lock:
            self.calls.fail(named, over=self._stream)

    def _write(self, data: Sequence[bytes], deadline: float | None) -> OSError | None:
        """
        Send, all of it, or give the connection up.

        Returns:
            What went wrong, if something did; those who wait have been told.
        """
        pieces = [b"".join(data)] if self._stream and len(data) > 1 else data
        with self._writing:
            for piece in pieces:
                error = self._write_one(piece, deadline)
                if error is not None:
                    return error
        return None

    def _write_one(self, piece: bytes, deadline: float | None) -> OSError | None:
        try:
            self._write_piece(piece, deadline)
        except PeerTimeoutError:
            raise
        except OSError as exc:
            self._lost(exc)
            return exc
        return None

    def _write_piece(self, piece: bytes, deadline: float | None) -> None:
        try:
            sent = self._send(piece, self._at_once)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            sent = 0
        except ConnectionRefusedError:  # this was about a datagram before
            sent = self._send(piece, self._at_once)
        if sent < len(piece):
            self._write_on(piece[sent:], deadline)

    def _lost(self, error: OSError) -> None:
        """
        Deal with an error when sending.

        A peer that has closed may have said why before; that is read first.
        """
        with self._lock:
            failure = self.calls.failure
        if failure is not None:
            return
        if isinstance(error, _GONE) and self._stream and self._lead():
            try:
                while self.calls.failure is None and self._readable.poll(0):
                    self._read()
            finally:
                self._resign()
        self._failed(error)

    def _write_on(self, rest: bytes, deadline: float | None) -> None:
        """
        Send as the peer makes room, and read meanwhile if nobody does.
        """
        reading = self._lead()
        both = select.poll()
        wanted = select.POLLOUT | (select.POLLIN if reading else 0)
        both.register(self._sock, wanted)
        try:
            while True:
                left = None if deadline is None else deadline - time.monotonic()
                ready = self._poll(both, left)
                if not ready:
                    raise self._stuck()
                if reading and ready[0][1] & select.POLLIN:
                    self._read()
                self.calls.check()
                try:
                    sent = self._send(rest, self._at_once)
                except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                    continue
                rest = rest[sent:]
                if not rest:
                    return
        finally:
            if reading:
                self._resign()

    def _stuck(self) -> PeerTimeoutError:
        error = PeerTimeoutError(f"{self.calls.session.peer} does not read")
        if self._stream:
            self.close(SessionClosedError(str(error)))
        return error

    def _recv_tls(self, size: int, _flags: int) -> bytes:
        with self._secure:  # OpenSSL's objects are for one thread at a time
            return self._sock.recv(size)

    def _send_tls(self, data: bytes, _flags: int) -> int:
        with self._secure:
            return self._sock.send(data)
