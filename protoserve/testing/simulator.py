"""
A server made from nothing but a protocol's declaration.

It answers each request with a valid message, generated or scripted, on the same stack
as any other service: what it accepts, refuses and limits is what a real server does.

Faults are not its own. Where there are some, it listens at a private Unix socket, and
the fault proxy (`protoserve.testing.proxy`) takes its place in front.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from protoserve.limits import Limits
from protoserve.protocol import Protocol
from protoserve.serve import Runner
from protoserve.service import Service
from protoserve.testing._station import simulated_service
from protoserve.testing.faults import Fault
from protoserve.testing.injection import FaultPlan
from protoserve.testing.proxy import FaultProxy
from protoserve.urls import Address

if TYPE_CHECKING:
    import ssl

__all__ = ["Simulator", "simulated"]


@attrs.define(eq=False)
class Simulator:
    """
    A simulated server, with faults if wanted. `bind` it, then `serve` until `stop`.

    Args:
        protocol: what is spoken.
        addresses: where to listen.
        faults: what goes wrong with the answers.
        script: a file with rules or a handler.
        seed: what chance starts from.
        errors: which part of the requests gets a declared error.
        limits: as for any service.
        tls: what is shown to clients at ``tls://`` addresses.
        drain: seconds that what is in flight may take after `stop`.

    Raises:
        DeclarationError: anything of it makes no sense.
    """

    protocol: Protocol
    addresses: Sequence[Address]
    faults: Sequence[str | Fault] = ()
    script: str | Path | None = None
    seed: int = 0
    errors: float = 0.0
    limits: Limits | None = None
    tls: ssl.SSLContext | None = None
    drain: float = 10.0
    answered: Counter[str] = attrs.field(factory=Counter, init=False)
    """How many requests have come, by their name."""
    service: Service = attrs.field(init=False)
    plan: FaultPlan | None = attrs.field(default=None, init=False)
    bound: list[Address] = attrs.field(factory=list, init=False)
    """Where it listens, after `bind`; chosen ports filled in."""
    _runner: Runner = attrs.field(init=False)
    _proxy: FaultProxy | None = attrs.field(default=None, init=False)
    _folder: Path | None = attrs.field(default=None, init=False)
    _loop: Any = attrs.field(default=None, init=False)
    _thread: Any = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.service = simulated_service(
            self.protocol,
            script=self.script,
            seed=self.seed,
            errors=self.errors,
            limits=self.limits,
            answered=self.answered,
        )
        # A script in Python may block, so each of its connections gets a thread.
        python = self.script is not None and Path(self.script).suffix == ".py"
        mode = "threads" if python else "loop"
        addresses = self.addresses
        if self.faults:
            self.plan = FaultPlan(
                self.protocol,
                self.faults,
                seed=self.seed,
                streams=any(address.is_stream for address in addresses),
            )
            # Made by `bind`, for nobody else to enter.
            name = f"protoserve-{secrets.token_hex(8)}"
            self._folder = folder = Path(tempfile.gettempdir()) / name
            kinds = dict.fromkeys(address.is_stream for address in addresses)
            addresses = [
                Address("unix" if stream else "unixgram", str(folder / str(n)))
                for n, stream in enumerate(kinds)
            ]
            self._proxy = FaultProxy(self.plan, self.addresses, addresses, self.tls)
        tls = None if self.faults else self.tls
        self._runner = Runner(self.service, addresses, mode, self.drain, tls=tls)

    @property
    def urls(self) -> list[str]:
        """
        Where it listens, after `bind`, in the order asked for.
        """
        return list(map(str, self.bound))

    @property
    def url(self) -> str:
        """
        The first address at which it listens.
        """
        return self.urls[0]

    @property
    def counts(self) -> Counter[str]:
        """
        How often each kind of fault has happened.
        """
        return Counter() if self.plan is None else self.plan.counts

    def bind(self) -> list[Address]:
        """
        Take all addresses, or none.

        Raises:
            DeclarationError: the protocol cannot be spoken at one of them.
            OSError: one cannot be had.
        """
        try:
            self._runner.open()
            if self._proxy is None:
                self.bound = self._runner.bound
                return self._runner.bind()
            self.bound = self._proxy.bound
            if self._folder is not None:
                self._folder.mkdir(mode=0o700)
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
            self._thread.start()
            self._run(self._proxy.start())
            self._runner.bind()
        except BaseException:
            self._clean_up(0.0)
            raise
        return self.bound

    def serve(self, on_ready: Callable[[], object] | None = None) -> None:
        """
        Serve until `stop`, then let what is in flight be done.
        """
        try:
            self._runner.serve(on_ready)
        finally:
            self._clean_up(self.drain)

    def stop(self) -> None:
        """
        Ask to stop; to be called from a signal handler or any thread.
        """
        self._runner.stop()

    def _run(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _clean_up(self, drain: float) -> None:
        if self._thread is not None and self._proxy is not None:
            self._run(self._proxy.stop(drain))
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._thread = None
        self.service.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


@contextlib.contextmanager
def simulated(
    protocol: Protocol,
    *faults: str | Fault,
    listen: str | Sequence[str] | None = None,
    script: str | Path | None = None,
    seed: int = 0,
    errors: float = 0.0,
) -> Generator[Simulator]:
    """
    Run a simulated server while the block runs; its ``url`` is where clients connect.

    Args:
        protocol: what is spoken.
        faults: what goes wrong with the answers, as in ``"drop=5%"``.
        listen: URLs; by default a free port of the loopback.
        script: a file with rules or a handler.
        seed: what chance starts from.
        errors: which part of the requests gets a declared error.
    """
    if listen is None:
        listen = f"{'udp' if protocol.framing is None else 'tcp'}://127.0.0.1:0"
    urls = [listen] if isinstance(listen, str) else listen
    simulator = Simulator(
        protocol,
        [Address.parse(url) for url in urls],
        faults,
        script=script,
        seed=seed,
        errors=errors,
        drain=1.0,
    )
    simulator.bind()
    ready = threading.Event()
    thread = threading.Thread(
        target=simulator.serve, args=(ready.set,), name="simulator", daemon=True
    )
    thread.start()
    ready.wait()
    try:
        yield simulator
    finally:
        simulator.stop()
        thread.join()
