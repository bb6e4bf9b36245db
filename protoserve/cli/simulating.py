"""
Run a simulator or a fault proxy in the foreground, and show what happens.

On a terminal one line tells how much has been asked, answered and spoilt; it is drawn
by Rich below whatever else is printed. At the end a line of the log has the same
numbers, for those who were not looking.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from protoserve.cli.logs import set_up_logging
from protoserve.cli.targets import CommandError, load
from protoserve.cli.tls import tls_context
from protoserve.codec.fault import plural
from protoserve.limits import Limits
from protoserve.protocol import Protocol
from protoserve.urls import Address

if TYPE_CHECKING:
    import ssl

__all__ = ["proxy", "simulate"]

logger = logging.getLogger("protoserve")

_EXAMPLE = "protocols.modbus:modbus"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def simulate(
    target: str,
    listen: Sequence[str],
    *,
    faults: Sequence[str],
    script: str | None,
    errors: str,
    seed: int,
    limits: Sequence[str],
    drain: float,
    tls_cert: str | None,
    tls_key: str | None,
    log_format: str,
    verbose: bool,
) -> None:
    """
    Do what ``protoserve simulate`` does; its options are told there.
    """
    from protoserve.serve import StartError
    from protoserve.testing.faults import parse_share
    from protoserve.testing.simulator import Simulator

    addresses = [Address.parse(url) for url in listen]
    tls = _server_tls(addresses, tls_cert, tls_key)
    refused = parse_share(errors, "--errors")
    with _shown(log_format, verbose=verbose) as show:
        found = Limits()
        for assignment in limits:
            found = found.with_text(assignment)
        simulator = Simulator(
            load(target, Protocol, _EXAMPLE),
            addresses,
            faults,
            script=script,
            seed=seed,
            errors=refused,
            limits=found,
            tls=tls,
            drain=drain,
        )
        spoilt = Counter[str]() if simulator.plan is None else simulator.plan.counts

        def line() -> str:
            return _line({"request": simulator.answered.total()}, spoilt)

        with _refused_addresses(simulator.bound, addresses):
            simulator.bind()
        for number in _SIGNALS:
            signal.signal(number, lambda *_: simulator.stop())
        try:
            with show(line):
                simulator.serve(lambda: _tell_addresses(simulator.bound))
        except StartError as exc:
            raise CommandError(str(exc)) from exc


def proxy(
    target: str,
    listen: Sequence[str],
    to: Sequence[str],
    *,
    faults: Sequence[str],
    direction: str,
    seed: int,
    drain: float,
    tls_cert: str | None,
    tls_key: str | None,
    tls_ca: str | None,
    log_format: str,
    verbose: bool,
) -> None:
    """
    Do what ``protoserve proxy`` does; its options are told there.
    """
    from protoserve.testing.injection import FaultPlan
    from protoserve.testing.proxy import DIRECTIONS, FaultProxy

    addresses = [Address.parse(url) for url in listen]
    targets = [Address.parse(url) for url in to]
    tls = _server_tls(addresses, tls_cert, tls_key)
    to_tls = _client_tls(targets, tls_ca)
    with _shown(log_format, verbose=verbose) as show:
        plan = FaultPlan(
            load(target, Protocol, _EXAMPLE),
            faults,
            seed=seed,
            directions=DIRECTIONS[direction],
            streams=any(address.is_stream for address in addresses),
        )
        made = FaultProxy(plan, addresses, targets, tls, to_tls)

        async def run() -> None:
            stop = asyncio.Event()
            for number in _SIGNALS:
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
            with _refused_addresses(made.bound, addresses):
                await made.start()
            _tell_addresses(made.bound)
            await stop.wait()
            await made.stop(drain)

        with show(lambda: _line(made.carried, plan.counts)):
            asyncio.run(run())


def _tell_addresses(bound: Sequence[Address]) -> None:
    for address in bound:
        typer.echo(f"listening on {address}", err=True)


@contextlib.contextmanager
def _refused_addresses(
    bound: Sequence[Address], wanted: Sequence[Address]
) -> Iterator[None]:
    """
    Tell which address cannot be had.
    """
    try:
        yield
    except OSError as exc:
        place = wanted[min(len(bound), len(wanted) - 1)]
        raise CommandError(f"cannot listen on {place}: {exc.strerror or exc}") from exc


def _server_tls(
    addresses: Sequence[Address], cert: str | None, key: str | None
) -> ssl.SSLContext | None:
    certs = [] if cert is None else [cert]
    return tls_context(addresses, certs, [] if key is None else [key], None, ())


def _client_tls(targets: Sequence[Address], ca: str | None) -> ssl.SSLContext | None:
    if all(address.transport != "tls" for address in targets):
        if ca is not None:
            raise CommandError("--tls-ca is given, but --to is no tls:// address")
        return None
    import ssl

    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as exc:
        found = Path(str(ca))
        why = "no certificates in PEM" if found.is_file() else exc.strerror or exc
        raise CommandError(f"--tls-ca {ca}: {why}") from exc


def _line(messages: dict[str, int], faults: Counter[str]) -> str:
    """
    Tell how many messages there were, and what went wrong with them.

    >>> _line({"request": 3}, Counter(drop=1))
    '3 requests; faults: drop 1'
    """
    said = ", ".join(plural(n, name) for name, n in sorted(messages.items()))
    spoilt = ", ".join(f"{name} {n}" for name, n in sorted(faults.items()) if n)
    return f"{said or 'nothing yet'}; faults: {spoilt or 'none'}"


@contextlib.contextmanager
def _shown(
    log_format: str, *, verbose: bool
) -> Iterator[Callable[[Callable[[], str]], contextlib.AbstractContextManager[None]]]:
    """
    Set up logging; give what shows a line while something runs.
    """
    with contextlib.ExitStack() as stack:
        live = None
        if log_format == "console" and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            live = Live(
                console=Console(stderr=True),
                refresh_per_second=5,
                transient=True,
                redirect_stdout=False,
            )
        set_up_logging(log_format, verbose=verbose)

        @contextlib.contextmanager
        def show(line: Callable[[], str]) -> Iterator[None]:
            if live is not None:
                live.get_renderable = line  # type: ignore[method-assign] # asked each time
                stack.enter_context(live)
                # What is logged goes through Rich, which keeps its line at the bottom.
                set_up_logging(log_format, verbose=verbose)
            try:
                yield
            finally:
                stack.close()
                if live is not None:
                    set_up_logging(log_format, verbose=verbose)
            logger.info("%s", line())

        yield show
