"""
``protoserve torture``: a bar while it runs, and then what was found.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protoserve.cli.targets import CommandError, load
from protoserve.protocol import Protocol
from protoserve.replaying import SourceError
from protoserve.serve import StartError
from protoserve.urls import Address

if TYPE_CHECKING:
    from rich.console import Console

    from protoserve.testing.torturing import Report

__all__ = ["torture_server"]


def torture_server(
    target: str,
    url: str,
    *,
    source: str | None,
    ports: Collection[int],
    save: str | None,
    junit: str | None,
    as_json: bool,
    budget: int,
    **options: Any,
) -> int:
    """
    Torture a server and show what was found.

    Args:
        target: the protocol, as ``MODULE:NAME``.
        url: where the server is.
        source: a recording with requests to begin with.
        ports: the server's ports in a capture.
        save: a folder for journals and tests.
        junit: a file for JUnit XML.
        as_json: write one JSON object.
        budget: how many cases.
        options: as for `protoserve.testing.torturing.torture`.

    Returns:
        The exit code: 0 if nothing was found, else 1.

    Raises:
        CommandError: it cannot be begun, or a file cannot be written.
    """
    from rich.console import Console

    from protoserve.testing.torturing import torture

    protocol = load(target, Protocol, "protocols.dns:dns")
    for path in (save, junit):
        _check_writable(path)
    recorded = [] if source is None else _requests(protocol, source, ports)
    console = Console(stderr=True, highlight=False)
    known: list[Report] = []
    try:
        with _bar(console, budget) as show:

            def progress(report: Report) -> None:
                known[:] = [report]
                show(report)

            report = torture(
                protocol,
                url,
                budget=budget,
                recorded=recorded,
                progress=progress,
                **options,
            )
    except StartError as exc:
        raise CommandError(str(exc)) from exc
    except KeyboardInterrupt:
        if not known:
            raise
        (report,) = known
        report.stopped = "it was interrupted"
    saved = _save(report, protocol, target, url, save)
    if junit is not None:
        from protoserve.testing.torturing import as_junit

        _write(Path(junit), as_junit(report))
    if as_json:
        sys.stdout.write(json.dumps(report.as_json()) + "\n")
    else:
        _show(report, protocol, url, saved)
    return 1 if report.findings else 0


def _requests(protocol: Protocol, path: str, ports: Collection[int]) -> list[bytes]:
    from protoserve.testing.torturing import requests_in

    try:
        return requests_in(protocol, path, ports)
    except OSError as exc:
        raise CommandError(f"cannot read {path}: {exc.strerror or exc}") from exc
    except SourceError as exc:
        raise CommandError(str(exc)) from exc


def _check_writable(path: str | None) -> None:
    """
    Refuse what would only be found out in the end.
    """
    parent = None if path is None else Path(path).absolute().parent
    if parent is not None and not parent.is_dir():
        raise CommandError(f"cannot write {path}: there is no folder {parent}")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as exc:
        raise CommandError(f"cannot write {path}: {exc.strerror or exc}") from exc


def _save(
    report: Report, protocol: Protocol, target: str, url: str, folder: str | None
) -> list[Path]:
    from protoserve.testing.torturing import save

    if folder is None:
        return []
    try:
        return [
            file
            for finding in report.findings
            for file in save(
                finding,
                Path(folder),
                protocol=protocol,
                target=target,
                url=url,
                probe=report.probe,
            )
        ]
    except OSError as exc:
        raise CommandError(f"cannot write {folder}: {exc.strerror or exc}") from exc


@contextlib.contextmanager
def _bar(console: Console, budget: int) -> Iterator[Callable[[Report], object]]:
    if not console.is_terminal:
        yield lambda _report: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.completed:,} of {task.total:,} cases"),
        BarColumn(),
        TextColumn("{task.fields[rate]}/s, findings: {task.fields[found]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=budget, rate="-", found=0)

        def show(report: Report) -> None:
            progress.update(
                task,
                completed=report.cases,
                rate=f"{report.rate:,.0f}",
                found=len(report.findings),
            )

        yield show


def _show(report: Report, protocol: Protocol, url: str, saved: list[Path]) -> None:
    from protoserve.testing.torturing import annotated

    stream = Address.parse(url).is_stream
    write = sys.stdout.write
    for number, finding in enumerate(report.findings, 1):
        write(f"{number}. {finding.title}\n")
        write(f"   class {finding.kind or 'server'}: {finding.what}\n")
        if finding.case is None and finding.suspects:
            write("   not shown again; one of these was sent last:\n")
        text = annotated(finding, protocol, stream=stream)
        write("".join(f"   {line}".rstrip() + "\n" for line in text.splitlines()))
        write("\n")
    for note in report.notes:
        write(f"note: {note}\n")
    if report.more:
        write(f"note: {report.more:,} cases more show what was found already\n")
    if report.unconfirmed:
        count = len(report.unconfirmed)
        write(f"note: {count} times something looked wrong, but not again, as in ")
        write(f"{report.unconfirmed[0]}\n")
    for path in saved:
        write(f"saved {path}\n")
    if report.stopped:
        write(f"stopped: {report.stopped}\n")
    write(
        f"{report.cases:,} cases in {report.seconds:.1f} s "
        f"({report.rate:,.0f}/s): {_found(len(report.findings))}\n"
    )


def _found(count: int) -> str:
    if not count:
        return "nothing found"
    return "1 finding" if count == 1 else f"{count} findings"
