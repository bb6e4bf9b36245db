"""
``protoserve journal``: look at a wire journal.
"""

from __future__ import annotations

from typing import Annotated

import typer

from protoserve.cli.options import AsJsonLines

__all__ = ["journal"]


def journal(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="What protoserve run --journal wrote.")
    ],
    pcapng: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write a capture for Wireshark instead."),
    ] = None,
    port: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=65_535,
            help="The port that the server of a Unix socket gets in the capture.",
        ),
    ] = 9,
    as_json: AsJsonLines = False,
) -> None:
    """
    Show a journal's messages, one a line, or write them as a capture.
    """
    from protoserve.cli.replaying import show_journal

    show_journal(file, pcapng=pcapng, port=port, as_json=as_json)
