"""
Run one server: ``python -m benchmarks.server.peers MODULE:FUNCTION --port N``.

With ``--profile`` it tells SIGUSR1 where its time went, or its memory, as JSON.
"""

from __future__ import annotations

import argparse
import importlib
import signal

from benchmarks.server.peers.running import Options
from benchmarks.server.shape import SMALL, Shape

LIFETIME = 900
"""Seconds after which it ends by itself, whatever happened to who started it."""


def main() -> None:
    """
    Serve until ended.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server.peers")
    parser.add_argument("function", help="MODULE:FUNCTION or MODULE:FUNCTION:ARGUMENT")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--every", type=int, default=0)
    parser.add_argument("--buffer", type=int, default=0)
    parser.add_argument("--shape", type=Shape.parse, default=SMALL)
    parser.add_argument("--profile", choices=("time", "memory"))
    found = vars(parser.parse_args())
    signal.alarm(LIFETIME)
    module, name, *arguments = found.pop("function").split(":")
    server = importlib.import_module(f"benchmarks.server.peers.{module}")
    if what := found.pop("profile"):
        from benchmarks.server.peers import profiling

        profiling.begin(what)
    getattr(server, name)(Options(**found), *arguments)


if __name__ == "__main__":
    main()
