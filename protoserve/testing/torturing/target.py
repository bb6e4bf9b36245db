"""
The server under test: a process that we know by its URL, or one that we start.

A service of ours is served by a forked process, so that it can crash, hang and leak
without taking the test along, and can be started anew. Of a server that is already
there we know the URL and perhaps the process's number.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import struct
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import attrs

from protoserve.serve import StartError
from protoserve.service import Service
from protoserve.urls import Address

if TYPE_CHECKING:
    import ssl

__all__ = ["Child", "Remote", "Target"]

_PATIENCE = 15.0
"""Seconds that a process may take to start, or to say something."""
_LARGEST = 1 << 20
_HEAD = struct.Struct("!I")


class Target:
    """
    A server under test. `address` says where; other methods what can be done to it.
    """

    address: Address
    tls: ssl.SSLContext | None = None
    pid: int | None = None

    def gone(self) -> str | None:
        """
        Say how the process has ended; `None` if it has not, or nobody knows.
        """
        return None

    def restart(self) -> bool:
        """
        Bring the server back; say whether that can be done.
        """
        return False

    def failures(self) -> list[str]:
        """
        Give what the handler has raised since this was asked last.
        """
        return []

    def memory(self) -> int | None:
        """
        Give the bytes of memory of the process and its children, if it is known.
        """
        return None if self.pid is None else _resident(self.pid)

    def close(self) -> None:
        """
        Leave the server; end it if it is ours.
        """


@attrs.define
class Remote(Target):
    """
    A server that somebody else runs.
    """

    address: Address
    tls: ssl.SSLContext | None = None
    pid: int | None = None
    starter: Callable[[], object] | None = None
    """Brings it back at the same address."""

    def gone(self) -> str | None:
        """
        Look for the process.
        """
        if self.pid is None:
            return None
        try:
            text = Path(f"/proc/{self.pid}/stat").read_text("ascii", "replace")
        except OSError:
            return f"process {self.pid} has ended"
        zombie = text.rpartition(")")[2].split()[0] == "Z"
        return f"process {self.pid} has ended" if zombie else None

    def restart(self) -> bool:
        """
        Ask whoever has started it.
        """
        if self.starter is None:
            return False
        pid = self.starter()
        if isinstance(pid, int):
            self.pid = pid
        return True


class Child(Target):
    """
    A service in a process of its own.

    Args:
        app: the service.
        mode: how it is served.
        transport: over what.
    """

    def __init__(self, app: Service, mode: str, transport: str) -> None:
        self.app, self.mode, self.transport = app, mode, transport
        self._channel: socket.socket | None = None
        self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with warnings.catch_warnings():
            # Other threads of this process may hold locks; what is run is our own.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if not pid:
            ours.close()
            _serve(self.app, self.mode, self.transport, theirs)
        theirs.close()
        self.pid, self._channel = pid, ours
        ours.settimeout(_PATIENCE)
        try:
            kind, value = _receive(ours)
        except (OSError, EOFError) as exc:
            self.close()
            raise StartError(f"the server's process did not start: {exc}") from None
        if kind != "bound":
            self.close()
            raise StartError(str(value))
        self.address, trusted = Address.parse(value[0]), value[1]
        if trusted is not None:
            import ssl

            self.tls = ssl.create_default_context(cadata=trusted)

    def gone(self) -> str | None:
        """
        Look whether the process has ended, and how.
        """
        if self.pid is None:
            return "it was not started"
        found, status = os.waitpid(self.pid, os.WNOHANG)
        if not found:
            return None
        self.pid = None
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            return f"the process was ended by {signal.Signals(-code).name}"
        return f"the process has exited with code {code}"

    def restart(self) -> bool:
        """
        End what is left of it and start it anew.
        """
        self.close()
        self._start()
        return True

    def failures(self) -> list[str]:
        """
        Ask the process.
        """
        if self._channel is None:
            return []
        try:
            _send(self._channel, "?")
            found: list[str] = _receive(self._channel)
        except (OSError, EOFError):
            return []
        return found

    def close(self) -> None:
        """
        End the process, with all that it has started.
        """
        if self._channel is not None:
            self._channel.close()  # it ends when it sees that
            self._channel = None
        if self.pid is None:
            return
        deadline = time.monotonic() + 5
        while not os.waitpid(self.pid, os.WNOHANG)[0]:
            if time.monotonic() > deadline:
                for pid in reversed(_tree(self.pid)):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                break
            time.sleep(0.002)
        self.pid = None


def _send(channel: socket.socket, value: Any) -> None:
    data = pickle.dumps(value)
    channel.sendall(_HEAD.pack(len(data)) + data)


def _receive(channel: socket.socket) -> Any:
    (size,) = _HEAD.unpack(_exactly(channel, _HEAD.size))
    if size > _LARGEST:
        raise EOFError
    return pickle.loads(_exactly(channel, size))  # noqa: S301 - of our own process


def _exactly(channel: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = channel.recv(size - len(data))
        if not piece:
            raise EOFError("it has ended")
        data += piece
    return data


def _serve(app: Service, mode: str, transport: str, channel: socket.socket) -> NoReturn:
    """
    Serve in this process, until the other end of the channel is closed.
    """
    import logging

    from protoserve.testing import live

    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        logging.getLogger("protoserve").setLevel(logging.CRITICAL)
        with live(
            app, mode=mode, transport=transport, drain=0.2, raise_errors=False
        ) as served:
            trusted = None
            if served.tls is not None:
                trusted = b"".join(served.tls.get_ca_certs(binary_form=True))
            _send(channel, ("bound", (served.url, trusted)))
            with contextlib.suppress(OSError, EOFError):
                while True:
                    _receive(channel)
                    _send(channel, _described(served.failures.take()))
        status = 0
    except BaseException as exc:
        with contextlib.suppress(OSError):
            _send(channel, ("failed", f"{type(exc).__name__}: {exc}"))
    finally:
        os._exit(status)


def _described(failure: BaseException | None) -> list[str]:
    """
    Name an exception and where it was raised, and those that came with it.
    """
    import traceback

    if failure is None:
        return []
    frames = traceback.extract_tb(failure.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = (str(failure).splitlines() or [""])[0]
    others = [
        note.partition(": ")[2]
        for note in getattr(failure, "__notes__", ())
        if note.startswith("the server failed again: ")
        and f": {type(failure).__name__}: " not in note
    ]
    return [f"{type(failure).__name__}: {text}{where}"[:500], *others[:10]]


def _tree(pid: int) -> list[int]:
    """
    Give a process and all that it has started, itself first.
    """
    found = [pid]
    for one in found:
        for path in Path(f"/proc/{one}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, path.read_text("ascii").split())
    return found


def _resident(pid: int) -> int | None:
    total = 0
    for one in _tree(pid):
        with contextlib.suppress(OSError, IndexError):
            pages = Path(f"/proc/{one}/statm").read_text("ascii").split()[1]
            total += int(pages) * os.sysconf("SC_PAGE_SIZE")
    return total or None
