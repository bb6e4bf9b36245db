"""
``protoserve torture``: break everything that a server is sent, and watch it.
"""

from __future__ import annotations

from typing import Annotated

import typer

from protoserve.cli.connecting import Insecure, TlsCa, TlsCert, TlsFiles, TlsKey
from protoserve.cli.options import seconds

__all__ = ["torture"]


def torture(
    protocol: Annotated[
        str, typer.Argument(metavar="PROTOCOL", help="What is spoken, as MODULE:NAME.")
    ],
    url: Annotated[
        str, typer.Argument(metavar="URL", help="The server, as in tcp://HOST:PORT.")
    ],
    budget: Annotated[
        int, typer.Option(metavar="CASES", min=1, help="How many cases are played.")
    ] = 2000,
    seed: Annotated[
        int, typer.Option(metavar="N", help="The same one gives the same cases.")
    ] = 0,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS", help="A class of cases; may be given often."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Begin with the requests of a journal or a capture, too.",
        ),
    ] = None,
    port: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N", min=1, max=65_535, help="The server's port in the capture."
        ),
    ] = None,
    pid: Annotated[
        int | None,
        typer.Option(
            metavar="PID", min=1, help="The server's process: its end, its memory."
        ),
    ] = None,
    timeout: Annotated[
        str,
        typer.Option(
            callback=seconds, metavar="TIME", help="How long an answer may take."
        ),
    ] = "2s",
    save: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Write a journal and a test for each finding."
        ),
    ] = None,
    junit: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write JUnit XML.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write one JSON object.")
    ] = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    insecure: Insecure = False,
) -> None:
    """
    Torture a server with broken input; exit code 1 if anything is found.
    """
    from protoserve.cli.torturing import torture_server

    code = torture_server(
        protocol,
        url,
        source=source,
        ports=port or (),
        save=save,
        junit=junit,
        as_json=as_json,
        budget=budget,
        seed=seed,
        only=only or (),
        pid=pid,
        deadline=timeout,
        tls=TlsFiles(tls_ca, tls_cert, tls_key, insecure).context(url),
    )
    raise typer.Exit(code)
