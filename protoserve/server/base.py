"""
The loop, and the steps that a request goes through.

`BaseServer` is a template: `get_request`, `verify_request`, `process_request`,
`finish_request`, `shutdown_request`. A mix-in overrides one of them. Whoever
accepts requests does so through `_handle_request_noblock`, where these rules
are kept:

- A failing `get_request` never ends the loop. When the system is out of
  descriptors or memory the request stays in the kernel's queue, where it can
  still be served later; the loop pauses, or it would spin at full speed.
- A failing request is told to exactly one hook, and is closed whatever
  happens, even when the hook itself raises.
- Only `Exception` is handled. `SystemExit` and `KeyboardInterrupt` pass.
- Subclasses in the wild have private names of their own. Ours are mangled, or
  begin with ``_loop_`` where mix-ins extend them.

`shutdown` has to work at any moment, from any thread and from a signal
handler, so it uses no lock. It sets a flag, wakes the loop, and waits for an
event that is clear only while a loop runs. A request to stop that comes while
no loop runs is kept for the next one: a thread that was started to serve may
not have got there yet.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Self

from protoserve.server._reporting import logger, tell_failure
from protoserve.server._steps import HandlerFactory, RequestSteps
from protoserve.server._waiting import Waiter, Waker

__all__ = ["BaseServer"]

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ACCEPT_PAUSE = 0.1
"""Seconds without accepting after exhaustion; short enough to go unnoticed."""


def _sooner(timeout: float | None, delay: float) -> float | None:
    if not delay:
        return timeout
    shorter = delay if timeout is None else min(timeout, delay)
    return None if shorter == float("inf") else shorter


class BaseServer(RequestSteps):
    """
    A server without a transport: subclasses say where requests come from.

    For the caller:

    - `serve_forever`, `shutdown`, `server_close`, the ``with`` statement
    - `handle_request`, for a loop of your own; `fileno`, to `select` on several
      servers at once (a subclass defines it)

    May be overridden:

    - `server_bind`, `server_activate`, `get_request`, `verify_request`
    - `process_request`, `finish_request`, `shutdown_request`, `close_request`
    - `handle_request`: `serve_forever` calls the override for each request
    - `handle_timeout`, `handle_error`, `handle_disconnect`,
      `handle_accept_error`

    May be extended, calling the one of `super()`:

    - ``__init__``, `server_close`, `service_actions`
    - by mix-ins: `_loop_accept_delay`, `_loop_wake_descriptors`,
      `_loop_housekeep`, `_loop_wake`

    A mix-in with a loop of its own overrides `_loop_run` and calls `_loop_stopping`, `_loop_handle_taken`
    and `_loop_accept_failed`.

    Args:
        server_address: where to serve, in the form of the address family.
        RequestHandlerClass: is called with the request, the client's address
            and the server for every request.
    """

    timeout: float | None = None
    """Seconds that `handle_request` waits; None waits for ever."""

    _loop_waiter: Waiter | None = None
    __serving_thread: int | None = None
    __accept_again_at = 0.0

    def __init__(
        self, server_address: Any, RequestHandlerClass: HandlerFactory
    ) -> None:
        super().__init__(server_address, RequestHandlerClass)
        self.__shutdown_request = False
        self.__is_shut_down = threading.Event()
        self.__is_shut_down.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.server_close()

    if TYPE_CHECKING:
        # Not there at run time, where they would hide those of a class that
        # comes later in the method resolution order.
        def fileno(self) -> int: ...  # noqa: D102 - see the class

    def server_activate(self) -> None:
        """
        Put the server into service; called by the constructor.
        """

    def server_close(self) -> None:
        """
        Release what the server holds.
        """

    def serve_forever(self, poll_interval: float | None = 0.5) -> None:
        """
        Handle requests until `shutdown` is called or the server is closed.

        Args:
            poll_interval: seconds between two calls of `service_actions` while
                nothing happens; None for no limit. `shutdown` does not wait
                for it.
        """
        self.__is_shut_down.clear()
        self.__serving_thread = threading.get_ident()
        try:
            self._loop_run(poll_interval)
        finally:
            self.__serving_thread = None
            self.__shutdown_request = False
            self.__is_shut_down.set()

    def shutdown(self) -> None:
        """
        Ask the loop to stop, and wait until it has.

        May be called at any time, from any thread, and more than once. In the
        thread that serves, it only asks: the loop stops when the request at
        hand is done. When no loop runs it returns at once, and the next
        `serve_forever` does so too.
        """
        self.__shutdown_request = True
        self._loop_wake()
        if self.__serving_thread != threading.get_ident():
            self.__is_shut_down.wait()

    def handle_request(self) -> None:
        """
        Handle one request, or call `handle_timeout` if none comes.

        Waits for the smaller of `timeout` and the timeout of the server's
        socket, in seconds. Returns without a request when `get_request` fails.
        """
        own_loop = self.__serving_thread == threading.get_ident()
        waiter = (self._loop_waiter if own_loop else None) or Waiter()
        timeout = self.__request_timeout()
        deadline = None if timeout is None else time.monotonic() + timeout
        left = timeout
        while not self.__request_waits(waiter, left):
            if own_loop and self._loop_stopping():
                return
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    self.handle_timeout()
                    return
        self._handle_request_noblock()

    def _handle_request_noblock(self) -> None:
        try:
            request, client_address = self.get_request()
        except OSError as error:
            self._loop_accept_failed(error)
            return
        self._loop_handle_taken(request, client_address)

    def _loop_handle_taken(self, request: Any, client_address: Any) -> None:
        """
        Verify and process a request, and see to it that it is closed.
        """
        done = False
        try:
            if self.verify_request(request, client_address):
                self.process_request(request, client_address)
                done = True
        except Exception as error:
            tell_failure(self, request, client_address, error)
        finally:
            # After success, process_request has closed it or given it away.
            if not done:
                self.shutdown_request(request)

    def __turn(self, waiter: Waiter, poll_interval: float | None) -> None:
        try:
            waits = self.__request_waits(waiter, poll_interval)
        except ValueError:  # the descriptor is gone: closed just now
            if not self._loop_stopping():
                raise
            return
        if waits:
            self.__take_request()
        if not self._loop_stopping():
            self.service_actions()

    def __take_request(self) -> None:
        override = getattr(self.handle_request, "__func__", None)
        if override is BaseServer.handle_request:
            self._handle_request_noblock()
            return
        try:
            self.handle_request()
        except OSError as error:  # out of a get_request that it calls directly
            self._loop_accept_failed(error)

    def _loop_accept_failed(self, error: OSError) -> None:
        """
        Deal with an error out of `get_request`: pause if resources are short.
        """
        if error.errno in _EXHAUSTED:
            self.__accept_again_at = time.monotonic() + _ACCEPT_PAUSE
            self.handle_accept_error(error)
        else:
            logger.debug("no request taken at %s: %s", self.server_address, error)

    def __request_waits(self, waiter: Waiter, timeout: float | None) -> bool:
        delay = self._loop_accept_delay()
        watched = set(self._loop_wake_descriptors())
        own = None if delay else self.fileno()
        if own is not None:
            watched.add(own)
        ready = waiter.wait(watched, _sooner(timeout, delay))
        if ready != {own}:
            self._loop_housekeep()
        return own in ready and not (
            waiter is self._loop_waiter and self._loop_stopping()
        )

    def __request_timeout(self) -> float | None:
        socket = getattr(self, "socket", None)
        given = (self.timeout, None if socket is None else socket.gettimeout())
        return min((limit for limit in given if limit is not None), default=None)

    def _loop_run(self, poll_interval: float | None) -> None:
        """
        Handle requests until `_loop_stopping`.
        """
        try:
            self._loop_waiter = Waiter(Waker())
            while not self._loop_stopping():
                self.__turn(self._loop_waiter, poll_interval)
        finally:
            self._loop_waiter = None

    def _loop_accept_delay(self) -> float:
        """
        Return for how many seconds no request may be taken.

        0 lets the next one in. Infinity waits for one of `_loop_wake_descriptors`.
        """
        return max(0.0, self.__accept_again_at - time.monotonic())

    def _loop_wake_descriptors(self) -> Collection[int]:
        """
        Return descriptors that end the wait for a request when readable.
        """
        return ()

    def _loop_housekeep(self) -> None:
        """
        Called whenever a wait ends by anything but a request alone.
        """

    def _loop_stopping(self) -> bool:
        """
        Return whether the loop is to end: asked to, or the server is closed.
        """
        return self.__shutdown_request or self._loop_orphaned()

    def _loop_orphaned(self) -> bool:
        return False

    def _loop_wake(self) -> None:
        """
        End the wait that is under way; `shutdown` and `server_close` call it.

        Runs in any thread and in signal handlers, so it must take no lock.
        """
        waiter = self._loop_waiter
        if waiter is not None and waiter.waker is not None:
            waiter.waker.wake()
