"""
``protoserve replay``: send what was recorded once more.
"""

from __future__ import annotations

from typing import Annotated

import typer

from protoserve.cli.connecting import Insecure, TlsCa, TlsCert, TlsFiles, TlsKey
from protoserve.cli.options import AsJson, Patience, Ports, ServerUrl

__all__ = ["replay"]


def _speed(value: str) -> float:
    from protoserve.cli.replaying import speed_of

    try:
        return speed_of(value)
    except ValueError:
        raise typer.BadParameter(
            f"expected 1x, a multiple of it such as 0.5x, or max, not {value!r}"
        ) from None


def replay(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A journal, or a pcap or pcapng file.")
    ],
    url: ServerUrl,
    speed: Annotated[
        str,
        typer.Option(
            callback=_speed, metavar="1x|max", help="How fast, compared with then."
        ),
    ] = "1x",
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="PROTOCOL",
            help="What is spoken, as MODULE:NAME: answers are compared as messages.",
        ),
    ] = None,
    port: Ports = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD", help="A field that may differ; may be given often."
        ),
    ] = None,
    timeout: Patience = "2s",
    as_json: AsJson = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    insecure: Insecure = False,
) -> None:
    """
    Send a recording's requests again and compare the answers; exit code 1 if any differs.
    """
    from protoserve.cli.replaying import replay_file

    code = replay_file(
        file,
        url,
        target=protocol,
        ports=port or (),
        as_json=as_json,
        speed=speed,
        ignored=ignore or (),
        timeout=timeout,
        tls=TlsFiles(tls_ca, tls_cert, tls_key, insecure).context(url),
    )
    raise typer.Exit(code)
