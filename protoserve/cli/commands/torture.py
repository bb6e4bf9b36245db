"""
``protoserve torture``: break everything that a server is sent, and watch it.
"""

from __future__ import annotations

from typing import Annotated

import typer

from protoserve.cli.connecting import Insecure, TlsCa, TlsCert, TlsFiles, TlsKey
from protoserve.cli.options import AsJson, Patience, Ports, ServerUrl, Spoken

__all__ = ["torture"]


def torture(
    protocol: Spoken,
    url: ServerUrl,
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
    port: Ports = None,
    pid: Annotated[
        int | None,
        typer.Option(
            metavar="PID", min=1, help="The server's process: its end, its memory."
        ),
    ] = None,
    timeout: Patience = "2s",
    save: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Write a journal and a test for each finding."
        ),
    ] = None,
    junit: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write JUnit XML.")
    ] = None,
    as_json: AsJson = False,
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
