"""
A service on the real stack, at a free address, for as long as a test needs it.

The modes that serve by threads or an event loop run in a thread of this process, so
that a test can look at the handler. Those that serve by processes (`fork`, `prefork`)
run in a process of their own, as ``protoserve run`` would have it: a supervisor has to
be alone with its children, and signals reach a main thread only. It ends with the test,
also if the test's process is killed.

What a handler raises, and no hook of it answers, is raised by the test when it leaves
the server: a test that only looks at answers would call a broken route fine. Where the
test fails by itself, which may well be the consequence, the note of its exception has
the server's.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import os
import pickle
import select
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from protoserve.errors import DeclarationError
from protoserve.serve import MODES, Runner, StartError
from protoserve.service import Service
from protoserve.testing._failures import Failures, portable, settle, watched
from protoserve.urls import DATAGRAMS, STREAMS, Address

if TYPE_CHECKING:
    import ssl

    from protoserve.client import Client

__all__ = ["Live", "live"]

_PROCESSES = frozenset({"fork", "prefork"})
_PATIENCE = 30.0
"""Seconds that a server has to start, and to end after it has drained."""
_LARGEST = 60_000
"""Bytes that a process says at a time."""
_WORKERS = 2


def live(
    app: Service,
    *,
    mode: str = "threads",
    transport: str = "tcp",
    workers: int | None = None,
    drain: float = 5.0,
    raise_errors: bool = True,
) -> Live:
    """
    Serve a service on the real stack while a ``with`` block runs.

    Args:
        app: what to serve. Its lifespan is entered, and left at the end.
        mode: how requests are handled, as in ``protoserve run --mode``.
        transport: ``tcp``, ``tls``, ``udp``, ``unix`` or ``unixgram``. The certificate
            for ``tls`` is made when needed, by trustme.
        workers: processes in mode prefork; 2 by default.
        drain: seconds that what is in flight may take at the end.
        raise_errors: whether an exception of the handler that none of its hooks
            answers is raised at the end.

    Returns:
        A context manager; its value has the `url`.

    Raises:
        DeclarationError: there is no such mode or transport, or the protocol cannot be
            spoken there.
        StartError: the lifespan failed.

    >>> from examples.sensor_station import Ack, Reading, app, sensors
    >>> from protoserve.client import Client
    >>> with live(app) as server, Client(sensors, server.url) as client:
    ...     client.call(Reading(7))
    Ack(device=7)
    """
    _check("mode", mode, MODES)
    _check("transport", transport, sorted(STREAMS | DATAGRAMS))
    if not isinstance(app, Service):
        raise DeclarationError(f"live takes a Service, not {app!r}")
    if mode == "prefork" and workers is None:
        workers = _WORKERS
    return Live(app, mode, transport, workers, drain, raise_errors=raise_errors)


def _check(what: str, name: str, known: Any) -> None:
    if name in known:
        return
    close = difflib.get_close_matches(str(name), known, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    raise DeclarationError(f"there is no {what} {name!r}; {hint}")


class Live:
    """
    A service that is served; made by `live`.
    """

    def __init__(
        self,
        app: Service,
        mode: str,
        transport: str,
        workers: int | None,
        drain: float,
        *,
        raise_errors: bool,
    ) -> None:
        self.app = app
        self.mode = mode
        self.transport = transport
        self.url = ""
        """Where it is served, for a client."""
        self.tls: ssl.SSLContext | None = None
        """For ``tls``: what a client trusts the server's certificate by."""
        self.pid = os.getpid()
        """The process that serves, or that supervises those who do."""
        self.failures = Failures()
        """What the handler has raised so far, of which a test was not told yet."""
        self._workers = workers
        self._drain = drain
        self._raise_errors = raise_errors
        self._stack = contextlib.ExitStack()

    def __repr__(self) -> str:
        return f"<live {self.app.protocol.name} {self.mode} {self.url or 'not begun'}>"

    def client(self, **options: Any) -> Client:
        """
        Connect a client.

        Args:
            options: as `protoserve.client.Client` takes them.
        """
        from protoserve.client import Client

        if self.tls is not None:
            options.setdefault("tls", self.tls)
        return Client(self.app.protocol, self.url, **options)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            address = stack.enter_context(_free_address(self.transport))
            tls = None
            if self.transport == "tls":
                tls, self.tls = stack.enter_context(_throw_away_certificate())
            runner = Runner(
                self.app, [address], self.mode, self._drain, self._workers, tls
            )
            serve = _in_process if self.mode in _PROCESSES else _in_thread
            self.url, self.pid = stack.enter_context(
                serve(runner, self.failures, self._drain)
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        settle(self.failures, error, raises=self._raise_errors)


@contextlib.contextmanager
def _free_address(transport: str) -> Iterator[Address]:
    """
    Give an address that nobody else has.
    """
    if transport not in ("unix", "unixgram"):
        yield Address(transport, "127.0.0.1", 0)
        return
    with tempfile.TemporaryDirectory(prefix="live-") as folder:
        yield Address(transport, str(Path(folder) / "socket"))


@contextlib.contextmanager
def _throw_away_certificate() -> Iterator[tuple[Any, ssl.SSLContext]]:
    """
    Make a certificate; give the server's context, and one for clients that trusts it.
    """
    import ssl

    from protoserve.server import server_context

    try:
        import trustme
    except ImportError:
        raise DeclarationError(
            "live over tls needs trustme, which makes the certificate: "
            "pip install 'protoserve[test]'"
        ) from None
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1", "localhost")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with tempfile.TemporaryDirectory(prefix="live-") as folder:
        path = Path(folder) / "server.pem"
        made.private_key_and_cert_chain_pem.write_to_path(str(path))
        yield server_context(path), trusting


@contextlib.contextmanager
def _in_thread(
    runner: Runner, failures: Failures, drain: float
) -> Iterator[tuple[str, int]]:
    """
    Serve in a thread of this process.
    """
    service = runner.service
    with contextlib.ExitStack() as stack:
        stack.enter_context(watched(service, failures.add))
        if service._leave is None:  # else it is left by who has opened it
            stack.callback(service.close)
        runner.open()
        runner.bind()
        for server in runner._servers:
            server.handle_error = lambda *_: _keep(failures)
        ready = threading.Event()

        def serve() -> None:
            try:
                runner.serve(ready.set)
            except BaseException as exc:
                failures.add(exc)
            finally:
                ready.set()

        thread = threading.Thread(target=serve, name="protoserve-live", daemon=True)
        thread.start()
        try:
            ready.wait(_PATIENCE)
            yield str(runner.bound[0]), os.getpid()
        finally:
            runner.stop()
            thread.join(drain + _PATIENCE)
            if thread.is_alive():
                failures.add(_stuck(drain))


def _keep(failures: Failures) -> None:
    """
    Keep the exception that is being handled.
    """
    found = sys.exception()
    if found is not None:
        failures.add(found)


def _stuck(drain: float) -> RuntimeError:
    return RuntimeError(f"the server did not stop within {drain + _PATIENCE:g} s")


# In a process ----------------------------------------------------------------


@contextlib.contextmanager
def _in_process(
    runner: Runner, failures: Failures, drain: float
) -> Iterator[tuple[str, int]]:
    """
    Serve in a process of its own.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with warnings.catch_warnings():
            # Other threads of this process may hold locks; what is run is our own.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
            if not pid:
                ours.close()
                _become_server(runner, theirs)
        theirs.close()
        try:
            yield _begun(ours), pid
        finally:
            _end(pid, ours, failures, drain)


def _begun(ours: socket.socket) -> str:
    """
    Wait until a process serves; give its address.
    """
    ours.settimeout(_PATIENCE)
    try:
        kind, value = _received(ours)
    except TimeoutError:
        raise StartError(f"the server did not start within {_PATIENCE:g} s") from None
    if kind == "bound":
        return str(value)
    raise value


def _received(ours: socket.socket) -> tuple[str, Any]:
    data = ours.recv(_LARGEST)
    if not data:
        return "ended", StartError("the server's process has ended")
    return pickle.loads(data)  # type: ignore[no-any-return] # noqa: S301 - of our own process


def _end(pid: int, ours: socket.socket, failures: Failures, drain: float) -> None:
    """
    Let a process end, and hear what it has to say.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    descriptor = os.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        late = not poller.poll((drain + _PATIENCE) * 1000)
        if late:
            os.kill(pid, signal.SIGKILL)
            failures.add(_stuck(drain))
    finally:
        os.close(descriptor)
        _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0 and not late:
        name = signal.Signals(-code).name
        failures.add(RuntimeError(f"the server's process was ended by {name}"))
    ours.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while (said := _received(ours))[0] != "ended":
            failures.add(said[1])


def _become_server(runner: Runner, theirs: socket.socket) -> NoReturn:
    """
    Serve in this process, which does nothing else; all it has to say is sent.
    """

    def say(kind: str, value: Any) -> None:
        data = pickle.dumps((kind, value))
        if len(data) > _LARGEST:
            data = pickle.dumps((kind, RuntimeError(str(value)[: _LARGEST // 8])))
        with contextlib.suppress(OSError):  # nobody hears it
            theirs.send(data, socket.MSG_DONTWAIT)

    def report(failure: BaseException) -> None:
        say("failed", portable(failure))

    def look(*_: object) -> None:
        """
        End with who has started this, however that has ended.
        """
        with contextlib.suppress(BlockingIOError):
            if not theirs.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                runner.stop()

    status = 1
    try:
        signal.signal(signal.SIGTERM, lambda *_: runner.stop())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the test's process sees to it
        signal.signal(signal.SIGIO, look)
        fcntl.fcntl(theirs, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(theirs, fcntl.F_GETFL)
        fcntl.fcntl(theirs, fcntl.F_SETFL, flags | os.O_ASYNC)
        runner._owner = os.getpid()
        with watched(runner.service, report):
            try:
                runner.open()
                runner.bind()
                runner.serve(lambda: say("bound", str(runner.bound[0])))
            finally:
                runner.service.close()
        status = 0
    except BaseException as exc:
        report(exc)
    finally:
        os._exit(status)
