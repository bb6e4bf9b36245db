"""
``protoserve compat``: say what a change of a protocol breaks.
"""

from __future__ import annotations

from typing import Annotated

import typer

from protoserve.cli.options import AsJson

__all__ = ["compat"]

_WHAT = "A snapshot's file, or a protocol as MODULE:NAME."


def compat(
    old: Annotated[str, typer.Argument(metavar="OLD", help=_WHAT)],
    new: Annotated[str, typer.Argument(metavar="NEW", help=_WHAT)],
    as_json: AsJson = False,
) -> None:
    """
    Say what breaks between two versions of a protocol, and for whom.

    Exit codes: 0 compatible both ways, 1 something breaks, 2 could not start.
    """
    from protoserve.cli.comparing import show_verdict

    if not show_verdict(old, new, as_json=as_json):
        raise typer.Exit(1)
