"""
What interoperability tests share: the programs that others wrote, and our servers
as processes of their own.

A test whose program or library is missing is skipped and says so, unless the
environment has ``PROTOSERVE_REQUIRE_PEERS=1``: then that is a failure.
"""

import contextlib
import getpass
import importlib
import itertools
import os
import queue
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.interop.generated import Exported

ROOT = Path(__file__).parents[2]
START = 60.0
"""Seconds until a server listens; a busy machine takes its time."""
STOP = 60.0
"""Seconds until a server has ended after SIGTERM."""
_NUMBERS = itertools.count()


def missing(what: str) -> None:
    """
    Skip a test for want of a peer, or fail it where peers are required.
    """
    if os.environ.get("PROTOSERVE_REQUIRE_PEERS") == "1":
        pytest.fail(f"{what} is not installed, and PROTOSERVE_REQUIRE_PEERS=1 is set")
    pytest.skip(f"{what} is not installed")


@pytest.fixture(scope="session")
def require_program() -> Callable[[str], str]:
    """
    Give a function that finds a program: ``require_program("dig")`` is its path.
    """

    def require(name: str) -> str:
        path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        if path is None:
            missing(f"the program {name}")
        assert path is not None
        return path

    return require


@pytest.fixture(scope="session")
def require_module() -> Callable[[str], ModuleType]:
    """
    Give a function that imports a library: ``require_module("dns.query")``.
    """

    def require(name: str) -> ModuleType:
        try:
            return importlib.import_module(name)
        except ImportError:
            missing(f"the library {name}")
            raise

    return require


@pytest.fixture(scope="session")
def served() -> Callable[..., contextlib.AbstractContextManager[list[str]]]:
    """
    Give a function that serves an app in a process of its own::

        with served("examples.dns_server:app", "udp://127.0.0.1:0") as (url,):
            ...

    It gives the URLs that are listened at, in the order asked for. On leaving, the
    server is told to end by SIGTERM and must exit with 0.
    """
    return serve


@contextlib.contextmanager
def serve(app: str, *urls: str, extra_args: Any = ()) -> Iterator[list[str]]:
    """
    Run ``protoserve run APP --listen URL …`` while the block runs.
    """
    command = [sys.executable, "-m", "protoserve", "run", app]
    for url in urls:
        command += ["--listen", url]
    with subprocess.Popen(
        [*command, *extra_args], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        lines: queue.Queue[str | None] = queue.Queue()
        log: list[str] = []
        reader = threading.Thread(
            target=_read, args=(process.stderr, lines, log), daemon=True
        )
        reader.start()
        try:
            yield _listening(lines, len(urls), log)
            assert process.poll() is None, f"the server has ended:\n{''.join(log)}"
            process.send_signal(signal.SIGTERM)
            code = process.wait(STOP)
        finally:
            process.kill()
            process.wait()
            reader.join(STOP)
    assert code == 0, f"the server exited with {code}:\n{''.join(log)}"


def _read(stream: Any, lines: "queue.Queue[str | None]", log: list[str]) -> None:
    for line in stream:
        log.append(line)
        lines.put(line)
    lines.put(None)


def _listening(
    lines: "queue.Queue[str | None]", count: int, log: list[str]
) -> list[str]:
    urls: list[str] = []
    while len(urls) < count:
        try:
            line = lines.get(timeout=START)
        except queue.Empty:
            line = None
        if line is None:
            pytest.fail(f"the server does not listen:\n{''.join(log)}")
        if line.startswith("listening on "):
            urls.append(line.removeprefix("listening on ").strip())
    return urls


@contextlib.contextmanager
def program(*command: Any, log: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """
    Run a server of others while the block runs.

    Args:
        command: its path and arguments.
        log: a file for all that it says; `None`: errors are the process's `stderr`.
    """
    file = None if log is None else log.open("w")
    with (
        contextlib.nullcontext() if file is None else file,
        subprocess.Popen(
            list(map(str, command)),
            stdout=file or subprocess.DEVNULL,
            stderr=file or subprocess.PIPE,
            text=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture(scope="session")
def exported(tmp_path_factory: Any) -> Exported:
    """
    Make clients as users do.
    """
    return Exported(tmp_path_factory.mktemp("exported"))


@pytest.fixture(params=["sync", "async"])
def client_of(request: Any, exported: Exported) -> Iterator[Callable[[str, str], Any]]:
    """
    Give a function that opens a generated client, once of each kind::

        client = client_of("protocols.dns:dns", url)
    """
    with contextlib.ExitStack() as stack:
        yield lambda place, url: stack.enter_context(
            exported.client(request.param, place, url)
        )


@pytest.fixture
def unique() -> str:
    """
    Give a name that no other test sends.
    """
    return f"n{next(_NUMBERS)}"


@pytest.fixture(scope="session")
def dnsmasq(require_program: Callable[[str], str]) -> Iterator[str]:
    """
    The address (``HOST:PORT``, for UDP and TCP) of a dnsmasq that knows a few names.

    ``www.example.test`` is 192.0.2.1, ``example.test`` has a text and a mail server.
    """
    path = require_program("dnsmasq")
    port = free_port()
    options = [
        *("-k", "--log-facility=-", "--no-resolv", "--no-hosts", "--no-daemon"),
        *("--conf-file=/dev/null", "--pid-file=", "--bind-interfaces"),
        *("--listen-address=127.0.0.1", f"--port={port}", "--local=/test/"),
        *(f"--user={getpass.getuser()}", "--host-record=www.example.test,192.0.2.1"),
        *("--txt-record=example.test,hello", "--mx-host=example.test,www.example.test"),
    ]
    with program(path, *options) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if "started" in line:
                break
        else:
            pytest.fail(f"dnsmasq does not start:\n{''.join(said)}")
        reader = threading.Thread(target=process.stderr.read, daemon=True)
        reader.start()  # what it goes on to say must not fill the pipe
        yield f"127.0.0.1:{port}"
        process.terminate()
        reader.join(STOP)


@pytest.fixture(scope="session")
def chronyd_address(
    require_program: Callable[[str], str], tmp_path_factory: Any
) -> Iterator[str]:
    """
    The address (``HOST:PORT``) of a chronyd that serves stratum 5.
    """
    path = require_program("chronyd")
    port, folder = free_port(), tmp_path_factory.mktemp("chronyd")
    lines = [
        *(f"port {port}", "local stratum 5", "allow 127.0.0.1", "cmdport 0"),
        *("bindaddress 127.0.0.1", f"pidfile {folder}/pid"),
        f"user {getpass.getuser()}",
    ]
    with program(path, "-U", "-d", "-x", "-f", "/dev/null", *lines) as process:
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.2)
            sock.connect(("127.0.0.1", port))
            deadline = time.monotonic() + START
            while time.monotonic() < deadline:
                with contextlib.suppress(ConnectionRefusedError, TimeoutError):
                    sock.send(b"\x23" + bytes(47))
                    sock.recv(100)
                    break
            else:
                pytest.fail("chronyd does not answer")
        assert process.poll() is None
        yield f"127.0.0.1:{port}"


def free_port() -> int:
    """
    Find a port that is free for UDP and for TCP, and that the kernel gives to nobody.

    It is below those that who asks for any port is given: of these another test might
    have it before the program that it is for.
    """
    first = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]
    least = max(int(first) // 2, 1024)
    while True:
        place = ("127.0.0.1", least + secrets.randbelow(least))
        with (
            socket.socket(type=socket.SOCK_DGRAM) as udp,
            socket.socket(type=socket.SOCK_STREAM) as tcp,
            contextlib.suppress(OSError),
        ):
            udp.bind(place)
            tcp.bind(place)
            return place[1]
