"""
How ``protoserve collect`` and ``protoserve work`` go, shown while they run.

On a terminal the last lines say what comes in, what is lost and why, how far the sinks
are, and what has failed within a minute. With ``--json`` the same is written as an object
each second. Both only read figures, from a thread of their own.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from protoserve.telemetry.metrics import Figures

__all__ = ["shown"]

_PAUSE = 0.5
_LATELY = 60.0
"""Seconds for which an error is shown; attempts are half a minute apart at most."""


@contextlib.contextmanager
def shown(read: Callable[[], Figures], *, as_json: bool) -> Iterator[None]:
    """
    Show how it goes while something runs, and at the end.
    """
    if not as_json and not sys.stderr.isatty():
        yield
        return
    ended = threading.Event()
    show = _write_lines if as_json else _draw
    thread = threading.Thread(target=show, args=(read, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(5.0)


def _plain(figures: Figures) -> dict[str, Any]:
    balance = figures.balance
    return {
        "time": time.time(),
        "received": balance.received,
        "delivered": balance.delivered,
        "dropped": dict(balance.dropped),
        "in_flight": balance.in_flight,
        **figures.counted,
        "sinks": [
            {
                "name": sink.name,
                "rows": sink.rows,
                "lag": sink.lag,
                "retries": sink.retries,
                "refused": sink.refused,
                "error": sink.error,
            }
            for sink in figures.sinks
        ],
        "spool_bytes": figures.spool_bytes,
        "losses": [attrs.asdict(losses) for losses in figures.losses],
    }


def _write_lines(read: Callable[[], Figures], ended: threading.Event) -> None:
    while True:
        over = ended.wait(1.0)
        sys.stdout.write(json.dumps(_plain(read())) + "\n")
        sys.stdout.flush()
        if over:
            return


def _draw(read: Callable[[], Figures], ended: threading.Event) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    before, at = read(), time.monotonic()
    trouble = _Trouble()
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        while True:
            over = ended.wait(_PAUSE)
            now, moment = read(), time.monotonic()
            errors = trouble.lately(now, moment)
            live.update(_picture(now, before, moment - at, errors), refresh=True)
            before, at = now, moment
            if over:
                return


class _Trouble:
    """
    Tells which sinks have failed lately: figures keep the last error for ever.
    """

    def __init__(self) -> None:
        self._failed: dict[str, tuple[int, float]] = {}

    def lately(self, figures: Figures, moment: float) -> list[str]:
        """
        Give an error of each sink of which an attempt has failed within a minute.

        Args:
            figures: how it stands.
            moment: by a monotonic clock, in seconds.
        """
        errors = []
        for sink in figures.sinks:
            failed = sink.retries + sink.refused
            count, at = self._failed.get(sink.name, (0, moment))
            if failed > count:
                at = moment
            self._failed[sink.name] = failed, at
            if failed and moment - at < _LATELY:
                said = re.sub(r"^\S+://\S*: ", "", sink.error)  # the name as a URL
                errors.append(f"{sink.name}: {said}")
        return errors


def _picture(
    now: Figures, before: Figures, seconds: float, errors: Sequence[str] = ()
) -> Any:
    """
    Draw figures: a line of rates, a line of losses, one for each sink, and errors.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    def rate(new: int, old: int, unit: str) -> str:
        return _number((new - old) / max(seconds, 1e-3), unit)

    balance, last = now.balance, before.balance
    grid = Table.grid(padding=(0, 2))
    counted, earlier = now.counted, before.counted
    grid.add_row(
        Text("in", style="bold"),
        rate(balance.received, last.received, " datagrams/s"),
        rate(counted.get("rows", 0), earlier.get("rows", 0), " rows/s"),
        rate(counted.get("bytes", 0), earlier.get("bytes", 0), "B/s"),
        _number(counted.get("exporters", 0), " exporters"),
    )
    lost = {reason: n for reason, n in balance.dropped.items() if n}
    style = "bold red" if lost else "green"
    grid.add_row(
        Text("dropped", style="bold"),
        Text(", ".join(f"{r} {_number(n)}" for r, n in lost.items()) or "0", style),
        _number(counted.get("missing", 0), " missing"),
        _number(balance.in_flight, " in flight"),
        _number(balance.delivered, " delivered"),
    )
    for sink in now.sinks:
        grid.add_row(
            Text("into", style="bold"),
            sink.name,
            _number(sink.rows, " rows"),
            _number(sink.lag, " entries behind"),
            Text(_number(sink.refused, " refused") if sink.refused else "", "red"),
        )
    return Group(grid, *(Text(each, "red") for each in errors))


def _number(value: float, unit: str = "") -> str:
    """
    Write a number as people read it: ``1.24 M``, ``1.24 MB/s``, ``7 rows``.
    """
    # From 999.5 on, three digits would be 1e+03.
    for least, scale, letter in (
        (999.5e6, 1e9, "G"),
        (999.5e3, 1e6, "M"),
        (1e4, 1e3, "k"),
    ):
        if abs(value) >= least:
            return f"{value / scale:.3g} {letter}{unit}"
    return f"{value:,.0f} {unit.lstrip()}".rstrip()
