"""
``protoserve replay`` and ``protoserve journal``: what was recorded, again and as text.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Collection, Iterator
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from protoserve.captures import is_capture
from protoserve.cli.logs import tell
from protoserve.cli.shown import write_entry
from protoserve.cli.targets import CommandError, load
from protoserve.journal import Entry, JournalError, read_journal
from protoserve.protocol import Protocol
from protoserve.replaying import (
    Replay,
    Replayed,
    Source,
    SourceError,
    run_replay,
    write_pcapng,
)
from protoserve.urls import Address

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["replay_file", "show_journal"]

_MOST_SHOWN = 10
"""Differences that are shown; JSON has more."""


def replay_file(
    path: str,
    url: str,
    *,
    target: str | None,
    ports: Collection[int],
    as_json: bool,
    **options: Any,
) -> int:
    """
    Replay a recording and show what came of it.

    Args:
        path: a journal or a capture.
        url: where the server is.
        target: the protocol, as ``MODULE:NAME``.
        ports: the server's ports in a capture.
        as_json: write one JSON object.
        options: as for `Replay`.

    Returns:
        The exit code: 0 if everything is as it was, 130 if it was interrupted, else 1.

    Raises:
        CommandError: it cannot be begun, or read to its end.
    """
    protocol = None
    if target is not None:
        protocol = load(target, Protocol, "protocols.dns:dns")
    elif options.get("ignored"):
        raise CommandError("--ignore names fields, so it needs --protocol as well")
    address = Address.parse(url)
    if not ports:
        kind = "tcp" if address.is_stream else "udp"
        own = None if protocol is None else protocol.ports.get(kind)
        ports = [port for port in (own, address.port) if port][:1]
    replay = Replay(url=url, protocol=protocol, **options)
    result, interrupted = Replayed(), False
    with _opened(path, ports) as source:
        try:
            _run(replay, source, result)
        except KeyboardInterrupt:
            interrupted = True
        if not result.sent and result.is_same and not interrupted:
            raise CommandError(f"{path}: {_why_nothing(result, source, address)}")
        if as_json:
            plain = _as_plain(result, source) | {"interrupted": interrupted}
            sys.stdout.write(json.dumps(plain) + "\n")
        else:
            _show(result, source)
    if interrupted:
        tell(f"interrupted when {source.done:.0%} of {path} was read")
        return 130
    return 0 if result.is_same else 1


@contextlib.contextmanager
def _opened(path: str, ports: Collection[int]) -> Iterator[Source]:
    try:
        source = Source(path, ports)
    except OSError as exc:
        raise CommandError(f"cannot read {path}: {exc.strerror or exc}") from exc
    except SourceError as exc:
        raise CommandError(str(exc)) from exc
    with contextlib.closing(source):
        try:
            yield source
        except SourceError as exc:
            raise CommandError(str(exc)) from exc


def _why_nothing(result: Replayed, source: Source, address: Address) -> str:
    if result.left_out:
        there = "datagrams" if address.is_stream else "streams"
        return f"there are only {there}, which cannot be sent to {address}"
    if source.is_capture:
        ports = ", ".join(map(str, sorted(source.ports))) or "any port"
        return f"there is nothing that was sent to port {ports}; see --port"
    return "there is nothing that a client has sent"


def _run(replay: Replay, source: Source, result: Replayed) -> None:
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        run_replay(replay, source, result=result)
        return
    with _bar_on(console) as show:
        run_replay(replay, source, show, result)


@contextlib.contextmanager
def _bar_on(console: Console) -> Iterator[Callable[[Replayed], None]]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=1.0)

        def show(result: Replayed) -> None:
            text = f"{result.sent:,} sent  {result.same:,} as recorded"
            if result.different:
                text += f"  {result.different:,} different"
            progress.update(task, completed=result.done, description=text)

        yield show


def _as_plain(result: Replayed, source: Source) -> dict[str, Any]:
    plain = attrs.asdict(result)
    del plain["done"]
    plain["left_out"] += source.left_out
    return plain | {"lacking": source.lacking}


def _show(result: Replayed, source: Source) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    rows = (
        ("conversations", result.conversations, ""),
        ("sent", result.sent, ""),
        ("answers as recorded", result.same, "green"),
        ("different", result.different, "red"),
        ("not answered", result.unanswered, "red"),
        ("not sent, as the server had closed", result.unsent, "red"),
        *((what, count, "red") for what, count in result.errors.items()),
        ("left out", result.left_out + source.left_out, "dim"),
        ("bytes that the capture lacks", source.lacking, "dim"),
    )
    for name, count, style in rows[:3]:
        table.add_row(Text(name), Text(f"{count:,}", style))
    for name, count, style in rows[3:]:
        if count:
            table.add_row(Text(name), Text(f"{count:,}", style))
    console.print(table)
    for difference in result.differences[:_MOST_SHOWN]:
        console.print(Text(str(difference)), soft_wrap=True)
    if result.different > _MOST_SHOWN:
        console.print(Text(f"… {result.different - _MOST_SHOWN:,} more"))


def speed_of(text: str) -> float:
    """
    Read a speed: ``1x``, ``0.5x``, ``max``.

    Raises:
        ValueError: it is something else.
    """
    if text == "max":
        return inf
    speed = float(text.removesuffix("x"))
    if not 0 < speed < inf:
        raise ValueError(text)
    return speed


# The journal as text ---------------------------------------------------------


def show_journal(
    path: str, *, pcapng: str | None, port: int, as_json: bool = False
) -> None:
    """
    Show a journal's entries, or write them as a capture.

    Args:
        path: the journal.
        pcapng: the capture; `None` shows the entries.
        port: the port of a Unix socket's server in the capture.
        as_json: show the entries as they are in the journal, or what was written.

    Raises:
        CommandError: a file cannot be read or written.
    """
    try:
        _check_journal(path)
        if as_json and pcapng is None:
            for entry in read_journal(path):
                sys.stdout.write(entry.as_json() + "\n")
            return
        if pcapng is None:
            _show_entries(path)
            return
        count = write_pcapng(read_journal(path), pcapng, port=port)
    except OSError as exc:
        raise CommandError(f"{exc.filename or path}: {exc.strerror or exc}") from exc
    except JournalError as exc:
        raise CommandError(str(exc)) from exc
    if as_json:
        write_entry({"file": pcapng, "packets": count})
    else:
        sys.stdout.write(f"{pcapng}: {count} packets\n")


def _check_journal(path: str) -> None:
    """
    Open it once, before another file is replaced, and tell captures by how they begin.
    """
    with Path(path).open("rb") as file:
        start = file.read(4)
    if is_capture(start):
        raise CommandError(f"{path} is a capture, no journal; see protoserve decode")


def _show_entries(path: str) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for entry in read_journal(path):
        text = Text.assemble(
            (f"{entry.n:>6} ", "dim"),
            _clock(entry.time),
            f" {entry.peer} ",
            ("→ " if entry.direction == "in" else "← ", "bold"),
            (entry.message or "?", "cyan" if entry.outcome == "ok" else "red"),
            f" {_in_short(entry)}",
        )
        console.print(text, soft_wrap=True)


def _in_short(entry: Entry) -> str:
    if entry.outcome != "ok":
        # An error's further lines are a dump of the same bytes.
        outcome = entry.outcome.partition("\n")[0]
        return f"{outcome} [{entry.raw[:32].hex(' ')}]"
    return json.dumps(entry.fields, ensure_ascii=False)


def _clock(moment: float) -> str:
    fraction = int(moment % 1 * 1e6)
    return f"{time.strftime('%H:%M:%S', time.localtime(moment))}.{fraction:06d}"
