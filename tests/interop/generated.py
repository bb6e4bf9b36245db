"""
Clients as ``protoserve export`` writes them, opened unedited, in one way for both kinds.
"""

import asyncio
import contextlib
import functools
import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

PATIENCE = 60.0
"""Seconds that a client waits for an answer."""


class Exported:
    """
    Modules that users would get of protocols, each made once.

    Args:
        folder: where they are written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.module = functools.cache(self._module)

    def _module(self, place):
        """Export the client of ``MODULE:NAME``, and import what was written."""
        path = self._folder / f"{place.replace(':', '_').replace('.', '_')}_client.py"
        command = ["export", "client", place, "-o", str(path)]
        subprocess.run(
            [sys.executable, "-m", "protoserve", *command], check=True, cwd=ROOT
        )
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    @contextlib.contextmanager
    def client(self, kind, place, url):
        """
        Open a client of one of the two kinds; the methods of both are called alike.
        """
        module = self.module(place)
        (name,) = (n for n in module.__all__ if not n.startswith("Async"))
        if kind == "sync":
            with getattr(module, name)(url, timeout=PATIENCE) as client:
                yield client
            return
        with asyncio.Runner() as runner:
            client = getattr(module, f"Async{name}")(url, timeout=PATIENCE)

            async def enter():
                await client.__aenter__()

            async def leave():
                await client.__aexit__(None, None, None)

            runner.run(enter())
            try:
                yield _Awaited(runner, client)
            finally:
                runner.run(leave())


class _Awaited:
    """An `AsyncClient` with the methods of a `Client`."""

    def __init__(self, runner, client):
        self._runner, self._client = runner, client

    def __getattr__(self, name):
        method = getattr(self._client, name)

        def call(*args, **options):
            return self._runner.run(method(*args, **options))

        return call
