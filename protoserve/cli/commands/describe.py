"""
``protoserve describe``: show what a protocol declares.
"""

from __future__ import annotations

from typing import Annotated

import typer

from protoserve.cli.options import AsJson

__all__ = ["describe"]


def describe(
    target: Annotated[
        str,
        typer.Argument(
            metavar="PROTOCOL[:MESSAGE]",
            help="The protocol, as MODULE:NAME, and perhaps one of its messages.",
        ),
    ],
    as_json: AsJson = False,
    code: Annotated[
        bool, typer.Option("--code", help="Write the generated Python.")
    ] = False,
) -> None:
    """
    Show a protocol's messages byte by byte, its tags, framing and states.
    """
    from protoserve.cli.described import show

    show(target, as_json=as_json, code=code)
