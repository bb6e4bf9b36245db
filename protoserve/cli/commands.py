"""
The commands, each a function with typed arguments.
"""

from __future__ import annotations

import difflib
import signal
from collections.abc import Callable
from math import inf
from typing import Annotated

import typer

from protoserve.cli.logs import FORMATS, set_up_logging
from protoserve.cli.running import Command
from protoserve.cli.targets import CommandError, load
from protoserve.serve import MODES, Runner
from protoserve.service import Service
from protoserve.urls import Address

__all__ = ["app"]

app = typer.Typer(
    name="protoserve",
    help="FastAPI for binary protocols.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    """
    FastAPI for binary protocols.
    """


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in choices:
            close = difflib.get_close_matches(value, choices, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise typer.BadParameter(
                f"{value!r} is not one of {', '.join(choices)}{hint}"
            )
        return value

    return check


def _finite(value: float) -> float:
    if not 0 <= value < inf:
        raise typer.BadParameter(f"{value} is no number of seconds")
    return value


@app.command(cls=Command)
def run(
    target: Annotated[
        str, typer.Argument(metavar="MODULE:APP", help="The service to run.")
    ],
    listen: Annotated[
        list[str],
        typer.Option(
            metavar="URL",
            help="Where to listen: tcp://HOST:PORT, udp://HOST:PORT, unix:///PATH or "
            "unixgram:///PATH. Port 0 lets the system choose. May be given often.",
        ),
    ],
    mode: Annotated[
        str,
        typer.Option(
            callback=_one_of(MODES),
            metavar="|".join(MODES),
            help="What handles each stream connection.",
        ),
    ] = "threads",
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Set a limit, as in idle=60; VALUE none switches it off.",
        ),
    ] = None,
    drain: Annotated[
        float,
        typer.Option(
            callback=_finite,
            metavar="SECONDS",
            help="How long requests may take after SIGTERM.",
        ),
    ] = 10.0,
    log_format: Annotated[
        str,
        typer.Option(
            callback=_one_of(FORMATS),
            metavar="|".join(FORMATS),
            help="Logs for people, or one JSON object a line.",
        ),
    ] = "console",
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log what happens to each peer.")
    ] = False,
) -> None:
    """
    Serve an application until SIGTERM or Ctrl-C.
    """
    set_up_logging(log_format, verbose=verbose)
    addresses = [Address.parse(url) for url in listen]
    service = load(target, Service, "examples.dns_server:app")
    for assignment in limit or ():
        service.limits = service.limits.with_text(assignment)
    runner = Runner(service, addresses, mode, drain)
    _open(service)
    try:
        _bind(runner)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: runner.stop())
        for address in runner.bound:
            typer.echo(f"listening on {address}", err=True)
        runner.serve()
    finally:
        service.close()


def _open(service: Service) -> None:
    try:
        service.open()
    except Exception as exc:
        reason = f"{type(exc).__name__}: {exc}"
        raise CommandError(f"the service's lifespan failed: {reason}") from exc


def _bind(runner: Runner) -> None:
    try:
        runner.bind()
    except OSError as exc:
        place = runner.addresses[len(runner.bound)]
        raise CommandError(f"cannot listen on {place}: {exc.strerror or exc}") from exc
