"""
The commands, one file each: its arguments and help; the work is done elsewhere.

They are all imported for ``--help``, so each imports what its work needs when it is
called.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Annotated

import typer

from protoserve.cli.completing import completed
from protoserve.cli.running import Command

__all__ = ["app"]

_COMMANDS = (
    "run",
    "collect",
    "work",
    "describe",
    "load",
    "replay",
    "journal",
    "call",
    "send",
    "listen",
    "shell",
    "decode",
    "export",
    "snapshot",
    "compat",
    "simulate",
    "proxy",
    "torture",
)
"""In the order of the help; each is a module here, and the function of its name."""

app = typer.Typer(
    name="protoserve",
    help="FastAPI for binary protocols.",
    pretty_exceptions_enable=False,
)


def _tell_version(asked: bool) -> None:
    if not asked:
        return
    try:
        version = importlib.metadata.version("protoserve")
    except importlib.metadata.PackageNotFoundError:
        version = "from a checkout, not installed"
    typer.echo(f"protoserve {version}")
    raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_tell_version, help="Say which it is."
        ),
    ] = False,
) -> None:
    """
    FastAPI for binary protocols.
    """


for _name in _COMMANDS:
    _module = importlib.import_module(f"{__name__}.{_name}")
    app.command(_name, cls=Command)(completed(getattr(_module, _name)))
