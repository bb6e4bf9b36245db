"""
``protoserve load``: put load on a server, show how it goes and what came of it.

What is shown while it runs takes time in the process that measures, so it is one line,
a few times a second at most, and only on a terminal.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from protoserve.cli.requests import outgoing
from protoserve.cli.targets import CommandError, load
from protoserve.errors import LocalProtocolError
from protoserve.loadgen.figures import PERCENTILES, Figures, Second
from protoserve.loadgen.generator import Load, LoadError, run_load
from protoserve.loadgen.requests import make_requests
from protoserve.loadgen.values import messages_of, turns_of
from protoserve.protocol import Protocol
from protoserve.urls import Address

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["put_load"]


def put_load(
    target: str,
    url: str,
    name: str,
    fields: Sequence[str],
    header: Sequence[str],
    *,
    plot: str | None,
    as_json: bool,
    tls: Any,
    **options: Any,
) -> int:
    """
    Put load on a server and show the figures.

    Args:
        target: the protocol, as ``MODULE:NAME``.
        url: where the server is.
        name: the message's class.
        fields: ``field=value`` each.
        header: the same for the header.
        plot: the file for a picture.
        as_json: write one JSON object.
        tls: what a server at ``tls://`` is checked against.
        options: as for `Load`.

    Returns:
        The exit code: 0 if nothing went wrong, else 1.

    Raises:
        CommandError: it cannot be begun.
    """
    _check_extras(plot)
    protocol = load(target, Protocol, "protocols.dns:dns")
    address = Address.parse(url)
    try:
        turns = turns_of(fields)
        first = outgoing(protocol, name, turns[0], header=header)
        cls = type(first.message)
        messages = [first.message, *messages_of(cls, turns[1:], header=first.header)]
        requests = make_requests(
            protocol, messages, stream=address.is_stream, header=first.header
        )
    except (LocalProtocolError, UnicodeDecodeError) as exc:
        raise CommandError(str(exc)) from exc
    except OSError as exc:
        raise CommandError(f"cannot read {exc.filename}: {exc.strerror}") from exc
    asked = Load(protocol=protocol, url=url, requests=requests, tls=tls, **options)
    title = _title(asked, protocol, name)
    try:
        figures = _run(asked)
    except LoadError as exc:
        raise CommandError(str(exc)) from exc
    if plot is not None:
        _write_plot(figures, plot, title)
    if as_json:
        sys.stdout.write(json.dumps(figures.as_plain()) + "\n")
    else:
        _show(figures, title)
    return 1 if figures.failed or not figures.answered else 0


def _check_extras(plot: str | None) -> None:
    try:
        importlib.import_module("hdrh.histogram")
    except ModuleNotFoundError as exc:
        raise CommandError(
            f"load needs {exc.name}; install it with pip install 'protoserve[load]'"
        ) from exc
    if plot is not None:
        from protoserve.loadgen.plot import check_plot

        check_plot(plot)


def _title(asked: Load, protocol: Protocol, name: str) -> str:
    how = "closed loop" if asked.rate is None else f"{asked.rate:,.10g} requests/s due"
    lanes = "connections" if Address.parse(asked.url).is_stream else "sockets"
    return (
        f"{protocol.name} {name} to {asked.url}: {asked.connections} {lanes}, "
        f"at most {asked.depth} outstanding on each, {how}"
    )


# While it runs ---------------------------------------------------------------


def _run(asked: Load) -> Figures:
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        return run_load(asked)
    try:
        return run_load(asked, _line_on(console, asked.duration))
    finally:
        console.file.write("\r\x1b[K")
        console.file.flush()


def _line_on(console: Console, duration: float) -> Callable[[Second | None], None]:
    """
    Make what shows how it goes, on one line of a terminal.
    """
    from rich.text import Text

    failed = 0

    def show(second: Second | None) -> None:
        nonlocal failed
        if second is None:
            text = Text("warming up", "dim")
        else:
            failed += second.errors
            done = min(1.0, second.at / duration)
            text = Text.assemble(
                ("━" * round(20 * done), "green"),
                ("━" * (20 - round(20 * done)), "dim"),
                f" {second.at:.0f}/{duration:g} s",
                (f"  {second.answered / second.length:,.0f}/s", "bold"),
                f"  50 % {_time(second.p50)}  99 % {_time(second.p99)}",
                (f"  {failed:,} failed" if failed else "", "red"),
            )
        text.truncate(max(1, console.width - 1))
        console.file.write("\r\x1b[K")
        console.print(text, end="")

    return show


# Afterwards ------------------------------------------------------------------


def _show(figures: Figures, title: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    plain = figures.as_plain()
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 100)
    console.print(Text(title, "bold"))
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")

    def row(name: str, value: str, style: str = "") -> None:
        table.add_row(Text(name), Text(value, style))

    row("measured", f"{figures.seconds:.2f} s")
    row("sent", f"{figures.sent:,}")
    row("answered", f"{figures.answered:,}")
    row("rate", f"{figures.rate:,.0f}/s", "bold")
    row("bytes sent, received", f"{figures.bytes_sent:,} {figures.bytes_received:,}")
    latency = plain["latency"]
    if latency is not None:
        table.add_section()
        row("fastest", _time(latency["min"]))
        row("mean", _time(latency["mean"]))
        for percent in PERCENTILES:
            style = "bold" if percent == 99 else ""
            row(f"{percent:g} %", _time(latency[f"p{percent:g}"]), style)
        row("slowest", _time(latency["max"]))
    table.add_section()
    for kind, count in figures.errors.most_common():
        row(kind, f"{count:,}", "red")
    if figures.unsent:
        row("due, but not sent in time", f"{figures.unsent:,}", "red")
    if figures.late:
        row("late answers", f"{figures.late:,}")
    if not figures.failed:
        row("errors", "none", "green")
    console.print(table)


def _time(seconds: float) -> str:
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _write_plot(figures: Figures, path: str, title: str) -> None:
    from protoserve.loadgen.plot import write_plot

    try:
        write_plot(figures, path, title)
    except OSError as exc:
        raise CommandError(f"cannot write {path}: {exc.strerror or exc}") from exc
