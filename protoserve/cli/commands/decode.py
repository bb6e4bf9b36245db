"""
``protoserve decode``: show the messages in a capture.
"""

from __future__ import annotations

from typing import Annotated

import typer

from protoserve.cli.options import AsJsonLines, Spoken, one_of

__all__ = ["decode"]


def _one_of_two(value: str | None) -> str | None:
    return None if value is None else one_of(("request", "response"))(value)


def decode(
    protocol: Spoken,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE|-|HEX",
            help="A capture (pcap or pcapng), - for standard input (a capture, or hex "
            "with one message a line), or messages as hex, without framing.",
        ),
    ],
    as_json: AsJsonLines = False,
    port: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            min=0,
            max=65535,
            help="A port that the protocol is spoken at, in place of its own. May be "
            "given often.",
        ),
    ] = None,
    sequence: Annotated[
        bool, typer.Option("--sequence", help="Write a Mermaid sequence diagram.")
    ] = False,
    annotate: Annotated[
        bool,
        typer.Option(
            "--annotate", help="Write each message's bytes with the names of fields."
        ),
    ] = False,
    direction: Annotated[
        str | None,
        typer.Option(
            callback=_one_of_two,
            metavar="request|response",
            help="What messages given as hex are; by default whichever fits.",
        ),
    ] = None,
) -> None:
    """
    Show the messages in a capture, or in bytes given as hex.

    Exit codes: 0, all was decoded; 1, something is malformed or missing (it is told
    where it stands); 2, it could not start.
    """
    from protoserve.cli.decoded import decode_inputs

    code = decode_inputs(
        protocol,
        inputs,
        as_json=as_json,
        ports=port or (),
        sequence=sequence,
        annotate=annotate,
        direction=direction,
    )
    raise typer.Exit(code)
