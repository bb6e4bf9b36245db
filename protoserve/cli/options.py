"""
Arguments and options that several commands have, each written once.

Typer reads a command's signature, so each stands there by the name that it has here;
those for peers at the other end are in `connecting`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection
from math import inf
from typing import Annotated

import typer

from protoserve.cli.logs import FORMATS
from protoserve.cli.targets import CommandError

__all__ = [
    "MODES",
    "AsJson",
    "AsJsonLines",
    "Data",
    "Drain",
    "Faults",
    "Fields",
    "Gro",
    "Header",
    "LimitSettings",
    "Listen",
    "LogFormat",
    "LogsAsJson",
    "Output",
    "Patience",
    "Ports",
    "ServerCert",
    "ServerKey",
    "ServerUrl",
    "Spoken",
    "Verbose",
    "above_zero",
    "check_gro",
    "log_style",
    "one_of",
    "seconds",
]

MODES = ("threads", "fork", "single", "pool", "loop", "prefork", "batch")
"""Those of `protoserve.serve`, which takes long to import, and help is to be quick."""


def check_gro(listen: Collection[str]) -> None:
    """
    Find out whether there is a place at which datagrams may come together.
    """
    if not any(url.lower().startswith("udp:") for url in listen):
        raise CommandError(
            "--gro is for UDP: expected a --listen udp://HOST:PORT, found "
            + ", ".join(listen)
        )


def one_of(choices: tuple[str, ...]) -> Callable[[str | None], str | None]:
    """
    Make the callback of an option that takes one of some words, or is not given.
    """

    def check(value: str | None) -> str | None:
        if value is not None and value not in choices:
            close = difflib.get_close_matches(value, choices, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise typer.BadParameter(
                f"{value!r} is not one of {', '.join(choices)}{hint}"
            )
        return value

    return check


def above_zero(value: float | None) -> float | None:
    """
    Check an option that is a number above 0, or not given.
    """
    if value is not None and not 0 < value < inf:
        raise typer.BadParameter(f"expected a number above 0, not {value}")
    return value


_UNITS = {
    "": 1.0,
    "s": 1.0,
    "ms": 0.001,
    "us": 1e-6,
    "µs": 1e-6,
    "m": 60.0,
    "h": 3600.0,
}


def seconds(value: str | float) -> float:
    """
    Read an option that is a time: ``10s``, ``500ms``, ``2m``; seconds by default.
    """
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([a-zµ]*)", str(value))
    if found is None or found[2] not in _UNITS:
        raise typer.BadParameter(f"expected a time such as 10s or 500ms, not {value!r}")
    return float(found[1]) * _UNITS[found[2]]


# What is spoken, and what is said ------------------------------------------------

Spoken = Annotated[
    str, typer.Argument(metavar="PROTOCOL", help="The protocol, as MODULE:NAME.")
]
ServerUrl = Annotated[
    str,
    typer.Argument(
        metavar="URL",
        help="The server: tcp://HOST:PORT, tls://HOST:PORT, udp://HOST:PORT, "
        "unix:///PATH or unixgram:///PATH.",
    ),
]
Fields = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="FIELD=VALUE",
        help="Its fields: JSON values or text; questions.0.name=… for what is "
        "inside, hex:0a0b for bytes.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(metavar="JSON", help="The fields as one object; - reads it."),
]
Header = Annotated[
    list[str] | None,
    typer.Option(
        metavar="HEADER=VALUE", help="A field of the header. May be given often."
    ),
]
Patience = Annotated[
    str,
    typer.Option(callback=seconds, metavar="TIME", help="How long an answer may take."),
]
Ports = Annotated[
    list[int] | None,
    typer.Option(
        metavar="N",
        min=1,
        max=65_535,
        help="The server's port in a capture; may be given often. By default the "
        "protocol's own, or that of the URL.",
    ),
]

# What is written -----------------------------------------------------------------

AsJson = Annotated[bool, typer.Option("--json", help="Write one JSON object.")]
AsJsonLines = Annotated[
    bool, typer.Option("--json", help="Write one JSON object a line.")
]
Output = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="Where to write it; - or none is standard output.",
    ),
]
LogFormat = Annotated[
    str,
    typer.Option(
        callback=one_of(FORMATS),
        metavar="|".join(FORMATS),
        help="Logs for people, or one JSON object a line.",
    ),
]
LogsAsJson = Annotated[
    bool, typer.Option("--json", help="The same as --log-format json.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Log what happens to each peer.")
]


def log_style(log_format: str, *, as_json: bool) -> str:
    """
    Give the form of logs that `LogFormat` and `LogsAsJson` ask for together.
    """
    return "json" if as_json else log_format


# Where something is served -------------------------------------------------------


def _finite(value: float) -> float:
    if not 0 <= value < inf:
        raise typer.BadParameter(f"{value} is no number of seconds")
    return value


Listen = Annotated[
    list[str],
    typer.Option(
        metavar="URL",
        help="Where to listen: tcp://HOST:PORT, tls://HOST:PORT, udp://HOST:PORT, "
        "unix:///PATH or unixgram:///PATH. Port 0 lets the system choose. May be "
        "given often.",
    ),
]
LimitSettings = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="Set a limit, as in idle=60; VALUE none switches it off.",
    ),
]
Drain = Annotated[
    float,
    typer.Option(
        callback=_finite,
        metavar="SECONDS",
        help="How long what is in flight may take to end, after SIGTERM.",
    ),
]
Gro = Annotated[
    bool,
    typer.Option(
        "--gro",
        help="Let the kernel put datagrams together that one peer sent in a row; it "
        "counts those that it drops together as one.",
    ),
]
ServerCert = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="The certificate for tls://, as PEM."),
]
ServerKey = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="The certificate's private key, as PEM."),
]
Faults = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KIND[=VALUE][@MESSAGE]",
        help="What goes wrong, as in drop=5%, delay=50ms±20 or, for some messages only, "
        "truncate=2%@Reading. There are also duplicate, reorder, corrupt-checksum, "
        "wrong-id, split-every-byte, coalesce, reset and slow-loris. May be given often.",
    ),
]
