"""
Profile a server in all its threads, and tell by a line when SIGUSR1 asks: by function
the calls and the own seconds, or by line the blocks of memory and their bytes.

cProfile watches one thread; a thread that begins later gets a profile of its own from
the first thing that the interpreter tells about it. (From Python 3.12 on there is only
one profile at a time: that of the main thread.)
"""

from __future__ import annotations

import contextlib
import cProfile
import json
import re
import signal
import sys
import threading
import tracemalloc
from typing import Any

from benchmarks.server.peers.running import say

_ADDRESS = re.compile(r"(?: at)? (?:0x)?[0-9a-f]{6,}(?=>|$)")

_profiles: list[cProfile.Profile] = []


def begin(what: str) -> None:
    """
    Profile from now on.

    Args:
        what: ``time`` or ``memory``.
    """
    if what == "memory":
        tracemalloc.start()
        signal.signal(signal.SIGUSR1, lambda *_: say(json.dumps(_memory())))
        return
    threading.setprofile(_watch_thread)
    signal.signal(signal.SIGUSR1, _tell)
    _watch()


def _memory() -> dict[str, tuple[int, int]]:
    own = [tracemalloc.Filter(False, file) for file in (__file__, tracemalloc.__file__)]
    found = tracemalloc.take_snapshot().filter_traces(own).statistics("lineno")
    return {
        f"{_place(line.traceback[0].filename)}:{line.traceback[0].lineno}": (
            line.count,
            line.size,
        )
        for line in found
    }


def _watch_thread(*_event: Any) -> None:
    sys.setprofile(None)
    _watch()


def _watch() -> None:
    profile = cProfile.Profile()
    with contextlib.suppress(ValueError):  # there is one already
        profile.enable()
        _profiles.append(profile)


def _tell(*_signal: Any) -> None:
    _profiles[0].disable()  # this thread's; what is done here is not the server's
    say(json.dumps(_total()))
    _profiles[0].enable()


def _total() -> dict[str, list[float]]:
    total: dict[str, list[float]] = {}
    for profile in tuple(_profiles):
        for entry in profile.getstats():
            name = _name_of(entry.code)
            calls, seconds = total.setdefault(name, [0, 0.0])
            total[name] = [calls + entry.callcount, seconds + entry.inlinetime]
    return total


def _name_of(code: Any) -> str:
    if isinstance(code, str):
        return _ADDRESS.sub("", code.strip("<>"))
    return f"{code.co_name} ({_place(code.co_filename)}:{code.co_firstlineno})"


def _place(file: str) -> str:
    if not file.startswith("/"):
        return _ADDRESS.sub("", file)
    return "/".join(file.split("/")[-2:])
