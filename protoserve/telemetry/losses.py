"""
What is missing of each exporter, for whoever asks in another process.

The process that receives writes it to a file each second, if anything has changed; the one
that shows it reads the files of all. There are as many exporters in it as anybody will
look at: those of which most is missing.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import operator
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import attrs

from protoserve.telemetry.gaps import Gaps

__all__ = ["Losses", "read_losses", "write_losses"]

_MOST = 100
"""Exporters that are told of."""


@attrs.define
class Losses:
    """
    What the numbers of one exporter have told, over all its counters.
    """

    exporter: str
    missing: int = 0
    duplicates: int = 0
    reordered: int = 0
    restarts: int = 0


_NAMES = ("missing", "duplicates", "reordered", "restarts")


def write_losses(path: Path, gaps: Gaps) -> None:
    """
    Write down what is missing; a disk that is full keeps what was there.
    """
    by_host: dict[str, Losses] = {}
    for peer, _, stream in gaps.streams():
        if any(getattr(stream, name) for name in _NAMES):
            losses = by_host.setdefault(peer.host, Losses(peer.host))
            for name in _NAMES:
                more = getattr(stream, name)
                setattr(losses, name, getattr(losses, name) + more)
    with contextlib.suppress(OSError):
        new = path.with_name(path.name + ".new")
        new.write_text(
            json.dumps([attrs.asdict(each) for each in _worst(by_host.values())])
        )
        new.replace(path)


def read_losses(paths: Iterable[Path]) -> list[Losses]:
    """
    Read what several processes have written; those come first that lose most.
    """
    by_host: dict[str, Losses] = defaultdict(lambda: Losses(""))
    for path in paths:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            for each in json.loads(path.read_text()):
                losses = by_host[each["exporter"]]
                losses.exporter = each["exporter"]
                for name in _NAMES:
                    setattr(losses, name, getattr(losses, name) + int(each[name]))
    return _worst(by_host.values())


def _worst(losses: Iterable[Losses]) -> list[Losses]:
    return heapq.nlargest(_MOST, losses, key=operator.attrgetter(*_NAMES))
