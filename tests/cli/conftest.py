"""
Runs as processes that end with the test, and what they need.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from tests.cli.commanding import command
from tests.cli.kit import ROOT, Process
from tests.cli.refusing import refused
from tests.service.kit import PATIENCE

__all__ = ["command", "refused"]


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="ps") as path:
        yield Path(path)


@pytest.fixture
def run():
    """
    Start a run; afterwards nothing of it may be left.
    """
    with contextlib.ExitStack() as stack:

        def start(*urls, target="tests.cli.station:app", options=()):
            urls = urls or ("tcp://127.0.0.1:0",)
            listen = [word for url in urls for word in ("--listen", url)]
            process = stack.enter_context(
                subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "protoserve",
                        "run",
                        target,
                        *listen,
                        *options,
                    ],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    encoding="utf-8",
                    cwd=ROOT,
                    start_new_session=True,
                )
            )
            started = Process(process)
            reader = threading.Thread(target=started.read)
            reader.start()

            def finish():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                reader.join(PATIENCE)

            stack.callback(finish)
            started.await_bound(len(urls))
            return started

        yield start
