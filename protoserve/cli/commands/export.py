"""
``protoserve export``: write a client, a dissector and the like for a protocol.
"""

from __future__ import annotations

from typing import Annotated

import typer

from protoserve.cli.options import AsJson, Output, Spoken

__all__ = ["export"]


def _targets(incomplete: str) -> list[str]:
    from protoserve.exporters import TARGETS

    return [target for target in TARGETS if target.startswith(incomplete)]


def export(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET", help="What to make: client.", autocompletion=_targets
        ),
    ],
    protocol: Spoken,
    output: Output = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Write nothing; exit with 1 if the file is not as it would be written.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """
    Write source or text that is made from a protocol's declaration.
    """
    from protoserve.cli.exporting import export_to

    if not export_to(target, protocol, output, check=check, as_json=as_json):
        raise typer.Exit(1)
