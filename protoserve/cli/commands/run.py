"""
``protoserve run``: serve an application.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Annotated

import typer

from protoserve.cli.logs import set_up_logging
from protoserve.cli.metrics import Metrics, served
from protoserve.cli.options import (
    MODES,
    Drain,
    Gro,
    LimitSettings,
    Listen,
    LogFormat,
    LogsAsJson,
    Verbose,
    check_gro,
    log_style,
    one_of,
)
from protoserve.cli.targets import CommandError, load

if TYPE_CHECKING:
    from protoserve.serve import Runner
    from protoserve.telemetry.metrics import Figures

__all__ = ["run"]


def _workers(value: str | None) -> int | str | None:
    if value is None or value == "auto":
        return value
    from protoserve.server._supervise import worker_count

    try:
        return worker_count(int(value))
    except ValueError:
        raise typer.BadParameter(
            f"expected a whole number above 0 or auto, not {value!r}"
        ) from None


def run(
    target: Annotated[
        str, typer.Argument(metavar="MODULE:APP", help="The service to run.")
    ],
    listen: Listen,
    mode: Annotated[
        str,
        typer.Option(
            callback=one_of(MODES),
            metavar="|".join(MODES),
            help="What handles each stream connection.",
        ),
    ] = "threads",
    workers: Annotated[
        str | None,
        typer.Option(
            callback=_workers,
            metavar="N|auto",
            help="How many processes modes prefork and batch have; auto, the default of "
            "prefork: one a CPU.",
        ),
    ] = None,
    gro: Gro = False,
    limit: LimitSettings = None,
    drain: Drain = 10.0,
    tls_cert: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="The certificate for tls://, as PEM. May be given often: clients get "
            "the one for the server name that they ask for, or the first.",
        ),
    ] = None,
    tls_key: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="The certificate's private key, as PEM."),
    ] = None,
    tls_client_ca: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Serve only clients whose certificate is signed by one of these.",
        ),
    ] = None,
    tls_alpn: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="An application protocol to agree on (ALPN). May be given often.",
        ),
    ] = None,
    journal: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Record each message there, as a line of JSON; see protoserve replay.",
        ),
    ] = None,
    metrics: Metrics = None,
    log_format: LogFormat = "console",
    as_json: LogsAsJson = False,
    verbose: Verbose = False,
) -> None:
    """
    Serve an application until SIGTERM or Ctrl-C.
    """
    from protoserve.cli.journals import open_journal
    from protoserve.cli.tls import tls_context
    from protoserve.serve import Runner, StartError
    from protoserve.service import Service
    from protoserve.urls import Address

    set_up_logging(log_style(log_format, as_json=as_json), verbose=verbose)
    addresses = [Address.parse(url) for url in listen]
    service = load(target, Service, "examples.dns_server:app")
    for assignment in limit or ():
        service.limits = service.limits.with_text(assignment)
    if gro and mode != "batch":
        raise CommandError(f"--gro is for datagrams in mode batch, not {mode}")
    if gro:
        check_gro(listen)
    tls = tls_context(
        addresses, tls_cert or (), tls_key or (), tls_client_ca, tls_alpn or ()
    )
    if journal is not None:
        service.journal = open_journal(journal)
    runner = Runner(service, addresses, mode, drain, workers, tls)
    try:
        runner.open()
        _bind(runner)
        for server in runner.datagram_servers():
            server.gro = gro
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: runner.stop())
        signal.signal(signal.SIGHUP, lambda *_: runner.reload())
        with served(metrics, lambda: _figures(runner)):
            runner.serve(lambda: _tell_addresses(runner))
    except StartError as exc:
        raise CommandError(str(exc)) from exc
    finally:
        service.close()
        if service.journal is not None:
            service.journal.close()


def _figures(runner: Runner) -> Figures:
    from protoserve.telemetry.metrics import Figures

    runner.count_kernel_drops()
    account = runner.service.account
    account.settle()
    return Figures(balance=account.balance())


def _tell_addresses(runner: Runner) -> None:
    for address in runner.bound:
        typer.echo(f"listening on {address}", err=True)


def _bind(runner: Runner) -> None:
    try:
        runner.bind()
    except OSError as exc:
        place = runner.addresses[len(runner.bound)]
        raise CommandError(f"cannot listen on {place}: {exc.strerror or exc}") from exc
