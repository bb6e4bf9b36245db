"""
A connection to NATS for threads: nats-py on an event loop of its own.

Clients of a log or a store are synchronous and come from any thread; nats-py is
neither. So each `Connection` runs a loop in a thread, and `call` has a coroutine run
there, with a time limit. The first connection is tried for ever, as is each one after
it: whoever needs it waits in `call` as long as he said. nats-py takes some errors of a
server (a changed password, too many connections) for the end and closes; here a fresh
client follows. Who subscribes must therefore look at `epoch`: it grows whenever what
was on its way may be lost, and a fresh client knows of no subscription.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import nats.errors
from nats.aio.client import Client

from protoserve.telemetry.targets import HIDDEN, Target

__all__ = ["Connection"]

T = TypeVar("T")

PORT = 4222
"""Where a nats-server listens unless it is told otherwise."""
ATTEMPTS_EVERY = 0.5
"""Seconds between two attempts to reach one server."""
PINGS_EVERY = 5.0
"""Seconds between pings; a server that misses two is gone (a machine without power
closes nothing)."""
BUFFER = 16 << 20
"""Bytes that may wait for the socket; past it, writers wait."""


class Connection:
    """
    A connection to a server, or to whichever of several is there.

    Args:
        target: its `hosts`, `user` and `password` are used.
        label: what the servers' monitoring shows it as.
        tls: whom to trust; then nothing is said before there is TLS, so nobody in
            between can have the password by offering none.
    """

    def __init__(
        self, target: Target, *, label: str, tls: ssl.SSLContext | None = None
    ) -> None:
        self._target = target
        self._label = label
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._ready, self._stop = asyncio.Event(), asyncio.Event()
        self._client: Client | None = None
        self._last: BaseException | str = "no server answers"
        self._closed = False
        self.epoch = 0
        """How often a connection was made."""
        self._thread = threading.Thread(target=self._run, name=label, daemon=True)
        self._thread.start()

    def call(
        self,
        work: Callable[[Client], Coroutine[Any, Any, T]],
        timeout: float,
        *,
        connect: float | None = None,
    ) -> T:
        """
        Run a coroutine on the loop, once there is a connection.

        Args:
            work: makes it; it is given nats-py's client.
            timeout: seconds for the coroutine.
            connect: seconds to wait for a connection; the same if it is not given.

        Raises:
            ConnectionError: it cannot be done now; one line says why.
        """
        if self._closed:
            raise ConnectionError(f"{self._target}: the connection is closed")
        future = asyncio.run_coroutine_threadsafe(
            self._call(work, timeout, timeout if connect is None else connect),
            self._loop,
        )
        return future.result()

    def start(
        self, work: Coroutine[Any, Any, None]
    ) -> tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]:
        """
        Start something that runs until `close`, which cancels it.
        """

        async def begin() -> asyncio.Task[None]:
            return asyncio.get_running_loop().create_task(work)

        future = asyncio.run_coroutine_threadsafe(begin(), self._loop)
        return self._loop, future.result()

    async def client(self) -> Client:
        """
        Wait for a connection; only on the loop.
        """
        while True:
            await self._ready.wait()
            if self._client is not None and self._client.is_connected:
                return self._client
            await asyncio.sleep(0.02)  # nats-py is reconnecting

    @property
    def is_connected(self) -> bool:
        """
        Whether there is a connection now.
        """
        return self._client is not None and self._client.is_connected

    def trouble(self, error: BaseException | str | None = None) -> str:
        """
        Say what is wrong in one line, if nothing better is known the last error seen.
        """
        said = error or self._last
        text = " ".join(str(said).split()) or type(said).__name__
        if self._target.password:
            text = text.replace(self._target.password, HIDDEN)
        return f"{self._target}: {text[:500]}"

    def close(self) -> None:
        """
        Disconnect and end the thread; what waits in `call` is given up.
        """
        if not self._closed:
            self._closed = True
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._loop.close()

    async def _main(self) -> None:
        supervisor = asyncio.create_task(self._supervise())
        await self._stop.wait()
        await _end([supervisor])
        if self._client is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(2.0):
                    await self._client.close()
        current = asyncio.current_task()
        await _end([task for task in asyncio.all_tasks() if task is not current])

    async def _supervise(self) -> None:
        servers = [
            f"nats://[{host}]:{port}" if ":" in host else f"nats://{host}:{port}"
            for host, port in self._target.hosts
        ]
        while True:
            over = asyncio.Event()
            self._client = client = Client()
            try:
                await client.connect(
                    servers,
                    name=self._label,
                    user=self._target.user or None,
                    password=self._target.password or None,
                    max_reconnect_attempts=-1,
                    # Fractions work, though nats-py says whole seconds.
                    reconnect_time_wait=ATTEMPTS_EVERY,  # type: ignore[arg-type]
                    ping_interval=PINGS_EVERY,  # type: ignore[arg-type]
                    connect_timeout=3,
                    tls=self._tls,
                    tls_handshake_first=self._tls is not None,
                    pending_size=BUFFER,
                    error_cb=self._note,
                    reconnected_cb=self._again,
                    closed_cb=_setter(over),
                )
                await self._again()
                self._ready.set()
                await over.wait()
            except Exception as exc:  # nothing of it may end the trying
                self._last = exc
            self._ready.clear()
            await client.close()
            await asyncio.sleep(1.0)

    async def _again(self) -> None:
        self.epoch += 1
        self._last = "the connection is lost"

    async def _note(self, error: Exception) -> None:
        # What a server says tells more than that it hangs up then.
        if isinstance(error, nats.errors.Error) or not isinstance(
            self._last, nats.errors.Error
        ):
            self._last = error

    async def _call(
        self,
        work: Callable[[Client], Coroutine[Any, Any, T]],
        within: float,
        connect: float,
    ) -> T:
        try:
            try:
                async with asyncio.timeout(connect):
                    client = await self.client()
            except TimeoutError as exc:
                raise ConnectionError(self.trouble()) from exc
            async with asyncio.timeout(within):
                return await work(client)
        except asyncio.CancelledError:
            raise ConnectionError(f"{self._target}: the connection is closed") from None
        except TimeoutError as exc:
            said = f"no answer within {within:g} s"
            raise ConnectionError(self.trouble(said)) from exc
        except nats.errors.Error as exc:
            raise ConnectionError(self.trouble(exc)) from exc


async def _end(tasks: list[asyncio.Task[Any]]) -> None:
    """
    Cancel tasks until they have ended; nats-py swallows a cancellation now and then.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=0.05)


def _setter(event: asyncio.Event) -> Callable[[], Coroutine[Any, Any, None]]:
    async def end() -> None:
        event.set()

    return end
