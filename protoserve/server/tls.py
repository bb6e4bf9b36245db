"""
TLS for any stream server of the stack: the mix-in sees to the handshakes.

A peer that stalls in its handshake may hold up nobody, so where a handshake is run
depends on what runs the request. With a thread for each request, in that thread. On
an event loop, there. In all other cases a thread or process would be taken from
others, so the loop itself goes on with each handshake as its bytes arrive, without
waiting, and hands the request on when it is done. Such a *lobby* has one descriptor
that the loop waits for beside its own, and attends to deadlines.

Traps that are avoided here:

- The loop may be away for long (a server without another mix-in handles the request
  itself) or may have no room (`ForkingMixIn.max_children`). That time does not count
  against those who wait in the lobby.
- A child that is forked has copies of the descriptors in the lobby; connections would
  stay open for as long as it lives. It closes them.
- The number of handshakes has a bound. Beyond it the oldest makes room, since whoever
  is honest has finished long ago.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import select
import selectors
import ssl
import threading
import time
from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from protoserve.server._handshake import Handshake, HandshakeError, acknowledge
from protoserve.server._reporting import tell_failure
from protoserve.server._tls_context import secure, server_context
from protoserve.server.eventloop import EventLoopMixIn
from protoserve.server.threads import ThreadingMixIn
from protoserve.server.udp import UDPServer
from protoserve.server.unix import UnixStreamServer

if TYPE_CHECKING:
    from protoserve.server.base import BaseServer as _Base
else:
    _Base = object

__all__ = ["HandshakeError", "TLSMixIn", "server_context"]

_ATTEND = 0.5
"""Seconds between two looks at the deadlines in the lobby, at most."""
_BUFFER = 64 * 1024
"""Bytes of the buffer that encrypted bytes are read into on an event loop."""
_QUIET = ("closed", "stopped")
"""Kinds of failure that are nobody's trouble."""
_STOPPED = HandshakeError("stopped", "the server stops")
_NO_TLS: dict[type, str] = {
    UDPServer: "receives datagrams",
    UnixStreamServer: "serves this machine only",
}


class _Lobby:
    """
    Handshakes that a loop goes on with while it waits for requests.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self.owner = os.getpid()
        self._attended_at = time.monotonic()

    def __len__(self) -> int:
        return len(self._selector.get_map())

    def fileno(self) -> int:
        """
        Return the descriptor that is readable when a handshake can go on.
        """
        return self._selector.fileno()  # of epoll and kqueue

    def watch(self, handshake: Handshake) -> None:
        """
        Wait for what a handshake needs next; it may be in here already.
        """
        writes = handshake.event == select.POLLOUT
        event = selectors.EVENT_WRITE if writes else selectors.EVENT_READ
        key = self._selector.get_map().get(handshake)
        if key is None:
            self._selector.register(handshake, event, handshake)
        elif key.events != event:
            self._selector.modify(handshake, event, handshake)

    def forget(self, handshake: Handshake) -> None:
        """
        Let go of a handshake that is done or has failed.
        """
        # A child may hold the connection too, so that closing would not be enough.
        self._selector.unregister(handshake)

    def attend(self, interval: float) -> float:
        """
        Take note that someone looks in; give the time.

        If that is much later than `interval` in seconds, nobody here is to blame.
        """
        now = time.monotonic()
        away, self._attended_at = now - self._attended_at, now
        if away > 2 * interval:
            for handshake in self.all():
                if handshake.deadline is not None:
                    handshake.deadline += away
        return now

    def ready(self) -> list[Handshake]:
        """
        List those that can go on.
        """
        return [key.data for key, _ in self._selector.select(0)]

    def all(self) -> list[Handshake]:
        """
        List everyone who is here.
        """
        return [key.data for key in self._selector.get_map().values()]

    def close(self) -> None:
        """
        Give the lobby's descriptor back.
        """
        self._selector.close()


class TLSMixIn(_Base):
    """
    Speaks TLS with every client, before its request is handled.

    For the caller:

    - `failed_handshakes`

    May be overridden, as class variables:

    - `ssl_context`, `handshake_timeout`, `max_handshakes`

    May be overridden:

    - `make_ssl_context`, `handle_handshake_error`

    Goes before the mix-in that says where requests are handled, and before the server
    class: ``class S(TLSMixIn, ThreadingMixIn, TCPServer)``. For a handler the request
    is a socket as ever, with `ssl.SSLSocket.getpeercert` and its like.

    `handle_request`, called in a loop of your own, waits for the handshake too.
    """

    ssl_context: ssl.SSLContext | None = None
    """What the server shows and asks for; `server_context` makes one."""

    handshake_timeout: float | None = 10.0
    """
    Seconds that a handshake may take; None for no limit. For a handler class of a
    `protoserve.Service` its limit counts in place of this.
    """

    max_handshakes: int = 512
    """How many handshakes may be under way; beyond it the oldest one is ended."""

    __lobby: _Lobby | None = None
    __attending = False
    __closed = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for kind in (UDPServer, UnixStreamServer):
            if issubclass(cls, kind):
                raise TypeError(
                    f"{cls.__name__}: TLSMixIn is for TCPServer; {kind.__name__} "
                    f"{_NO_TLS[kind]}"
                )
        for base in cls.__mro__[: cls.__mro__.index(TLSMixIn)]:
            stack = base.__module__.startswith(("protoserve.server", "socketserver"))
            if stack and "process_request" in vars(base):
                raise TypeError(
                    f"{cls.__name__}: TLSMixIn goes before {base.__name__}, so that "
                    "nobody is held up by a handshake: "
                    f"class {cls.__name__}(TLSMixIn, {base.__name__}, …)"
                )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _ = self.__context  # what is wrong with it is told before anything is bound
        super().__init__(*args, **kwargs)

    @functools.cached_property
    def __context(self) -> ssl.SSLContext:
        return secure(self.make_ssl_context())

    # Not made in __init__: many a subclass calls only the server's.
    @functools.cached_property
    def __under_way(self) -> dict[Any, None]:
        return {}

    @functools.cached_property
    def __lock(self) -> Any:
        return threading.Lock()

    @functools.cached_property
    def failed_handshakes(self) -> Counter[str]:
        """
        How many handshakes have failed, by `HandshakeError.kind`.
        """
        return Counter()

    def make_ssl_context(self) -> ssl.SSLContext:
        """
        Give what to serve with; called once for each server.

        TLS before 1.2 and renegotiation are switched off in it, whatever it says.
        """
        if self.ssl_context is None:
            raise TypeError(
                f"{type(self).__name__} has no certificate; set its class variable "
                "ssl_context = server_context(cert, key), or override make_ssl_context"
            )
        return self.ssl_context

    def handle_handshake_error(
        self,
        request: Any,  # noqa: ARG002 - for overrides
        client_address: Any,
        error: HandshakeError,
    ) -> None:
        """
        Called when a handshake has failed; logs a line, at a bounded rate.

        Args:
            request: the connection; it is closed afterwards.
            client_address: the peer's.
            error: what happened, see `HandshakeError.kind`.
        """
        tell = getattr(self.RequestHandlerClass, "handshake_failed", None)
        if tell is not None:
            tell(client_address, error)
            return
        level = logging.DEBUG if error.kind in _QUIET else logging.WARNING
        self._loop_rare_log.log(
            level, "no TLS with %s: %s", client_address, error, kind=error.kind
        )

    def get_request(self) -> tuple[Any, Any]:
        """
        Accept a connection; its handshake is still to be done.
        """
        request, client_address = super().get_request()
        if isinstance(self, EventLoopMixIn):
            return request, client_address
        try:
            wrapped = self.__context.wrap_socket(
                request, server_side=True, do_handshake_on_connect=False
            )
        except (OSError, ValueError) as error:  # the client has gone already
            request.close()
            raise ConnectionAbortedError(str(error)) from error
        return wrapped, client_address

    def process_request(self, request: Any, client_address: Any) -> None:
        """
        Begin the handshake; the request is processed when that is done.
        """
        if isinstance(self, ThreadingMixIn | EventLoopMixIn):
            super().process_request(request, client_address)
        elif self.__attending:
            self.__welcome(request, client_address)
        elif self.__shake_hands(request, client_address):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """
        Handle the request; in a thread that is for it, the handshake comes first.
        """
        lobby = self.__lobby
        if lobby is not None and lobby.owner != os.getpid():
            # A child that was forked: those in the lobby are the parent's.
            for handshake in lobby.all():
                handshake.request.close()
            lobby.close()
            self.__lobby = None
        if not isinstance(self, ThreadingMixIn) or self.__shake_hands(
            request, client_address
        ):
            super().finish_request(request, client_address)

    def server_close(self) -> None:
        """
        Close the server; handshakes that are under way are ended.
        """
        self.__closed = True
        self.__stop_all()
        super().server_close()

    # What is under way, whoever runs it --------------------------------------

    def __handshake_seconds(self) -> float | None:
        limit = getattr(self.RequestHandlerClass, "handshake_limit", None)
        seconds: float | None = self.handshake_timeout if limit is None else limit()
        return seconds

    def __begin(self, handshake: Any) -> None:
        with self.__lock:
            self.__under_way[handshake] = None
            oldest = None
            if len(self.__under_way) > self.max_handshakes:
                oldest = next(iter(self.__under_way))
                del self.__under_way[oldest]
        if oldest is not None:
            text = f"there are {self.max_handshakes} handshakes that are younger"
            oldest.stop(HandshakeError("crowded", text))
        if self.__closed:
            handshake.stop(_STOPPED)

    def __end(
        self,
        handshake: Any,
        request: Any,
        client_address: Any,
        error: HandshakeError | None,
    ) -> None:
        with self.__lock:
            self.__under_way.pop(handshake, None)
            if error is None:
                return
            self.failed_handshakes[error.kind] += 1
        try:
            self.handle_handshake_error(request, client_address, error)
        except Exception as failure:
            tell_failure(self, request, client_address, failure)

    def __stop_all(self) -> None:
        with self.__lock:
            all_of_them = list(self.__under_way)
        for handshake in all_of_them:
            handshake.stop(_STOPPED)

    # In a thread -------------------------------------------------------------

    def __shake_hands(self, request: Any, client_address: Any) -> bool:
        """
        Wait until the handshake is done; say whether it was a success.
        """
        handshake = Handshake(request, client_address, self.__handshake_seconds())
        self.__begin(handshake)
        failed: HandshakeError | None = _STOPPED
        try:
            handshake.run()
            failed = None
        except HandshakeError as error:
            failed = error
        finally:
            self.__end(handshake, request, client_address, failed)
        return failed is None

    # In the lobby --------------------------------------------------------------

    def __welcome(self, request: Any, client_address: Any) -> None:
        handshake = Handshake(request, client_address, self.__handshake_seconds())
        if self.__lobby is None:
            self.__lobby = _Lobby()
        elif not self.__lobby:
            self.__lobby.attend(math.inf)
        self.__lobby.watch(handshake)
        self.__begin(handshake)
        # Most clients have said hello by now.
        self.__step(self.__lobby, handshake)

    def __step(self, lobby: _Lobby, handshake: Handshake) -> None:
        try:
            if not handshake.step():
                lobby.watch(handshake)
                return
        except HandshakeError as error:
            self.__send_off(lobby, handshake, error)
            return
        lobby.forget(handshake)
        request, client_address = handshake.request, handshake.client_address
        self.__end(handshake, request, client_address, None)
        done = False
        try:
            super().process_request(request, client_address)
            done = True
        except Exception as error:
            tell_failure(self, request, client_address, error)
        finally:
            if not done:
                self.shutdown_request(request)

    def __send_off(
        self, lobby: _Lobby, handshake: Handshake, error: HandshakeError
    ) -> None:
        lobby.forget(handshake)
        request = handshake.request
        self.__end(handshake, request, handshake.client_address, error)
        self.shutdown_request(request)

    def __attend(self) -> None:
        """
        Go on with what can go on, and end what takes too long.
        """
        lobby = self.__lobby
        if not lobby or self._loop_accept_delay():
            return
        interval = self.__interval()
        lobby.attend(interval)
        for handshake in lobby.ready():
            # Handling one may take all the room there is, or end the loop.
            if self._loop_stopping() or self._loop_accept_delay():
                return
            self.__step(lobby, handshake)
        now = lobby.attend(interval)
        for handshake in lobby.all():
            try:
                handshake.expire(now)
            except HandshakeError as error:
                self.__send_off(lobby, handshake, error)

    def __interval(self) -> float:
        seconds = self.__handshake_seconds()
        return _ATTEND if seconds is None else min(_ATTEND, seconds / 4)

    def service_actions(self) -> None:
        """
        Go on with handshakes, also while requests come without a break.
        """
        super().service_actions()
        self.__attend()

    def _loop_housekeep(self) -> None:
        super()._loop_housekeep()
        self.__attend()

    def _loop_wake_descriptors(self) -> Collection[int]:
        descriptors = super()._loop_wake_descriptors()
        lobby = self.__lobby
        if not lobby or self._loop_accept_delay():
            return descriptors
        return (*descriptors, lobby.fileno())

    def _loop_run(self, poll_interval: float | None) -> None:
        if not isinstance(self, ThreadingMixIn | EventLoopMixIn):
            interval = self.__interval()
            poll_interval = min(poll_interval or interval, interval)
        self.__attending = True
        try:
            super()._loop_run(poll_interval)
        finally:
            self.__attending = False
            self.__stop_all()
            lobby, self.__lobby = self.__lobby, None
            if lobby is not None:
                for handshake in lobby.all():
                    self.__send_off(lobby, handshake, _STOPPED)
                lobby.close()

    # On an event loop ----------------------------------------------------------

    @functools.cached_property
    def __buffer(self) -> memoryview:
        return memoryview(bytearray(_BUFFER))

    def _loop_protocol(self, request: Any, client_address: Any) -> Any:
        from protoserve.server._tls_stream import TLSStream

        make = functools.partial(
            super()._loop_protocol,  # type: ignore[misc] # EventLoopMixIn's
            request,
            client_address,
        )

        def done(error: HandshakeError | None) -> None:
            self.__end(stream, request, client_address, error)
            if error is None:
                acknowledge(request)
            else:
                self.close_request(request)

        assert isinstance(self, EventLoopMixIn)
        assert self.loop is not None
        stream = TLSStream(
            self.loop,
            self.__context,
            self.__buffer,
            self.__handshake_seconds(),
            make,
            done,
        )
        self.__begin(stream)
        return stream

    async def _drain(self) -> None:
        self.__stop_all()
        await super()._drain()  # type: ignore[misc] # EventLoopMixIn's
