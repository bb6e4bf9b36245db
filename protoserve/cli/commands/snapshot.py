"""
``protoserve snapshot``: keep a protocol's wire layout.
"""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["snapshot"]


def snapshot(
    protocol: Annotated[
        str,
        typer.Argument(metavar="PROTOCOL", help="The protocol, as MODULE:NAME."),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Where to write it; - or none is standard output.",
        ),
    ] = None,
) -> None:
    """
    Write a protocol's wire layout as JSON, for compat to compare with.
    """
    from protoserve.cli.comparing import take_snapshot

    take_snapshot(protocol, output)
