"""
Run commands as processes and wait for the lines that they are known by.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATIENCE = 60.0
"""Seconds after which a test gives up; nothing is meant to take that long."""


@contextlib.contextmanager
def started(command, *, cwd=ROOT):
    """
    Start a command in a process group of its own; afterwards the group is ended.
    """
    with subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    ) as process:

        def end():
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(process.pid, signal.SIGKILL)

        # What blocks for ever must not block the tests.
        killer = threading.Timer(PATIENCE, end)
        killer.start()
        try:
            yield process
        finally:
            killer.cancel()
            end()


def ran(program, *arguments, cwd=ROOT):
    """
    Run a program of Python's, given as text, to its end.
    """
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=cwd,
        check=False,
    )


def bound(process, count=1):
    """
    Read where it listens: URLs as they are printed.
    """
    found = []
    seen = []
    while len(found) < count:
        line = process.stdout.readline()
        assert line, "".join(seen)
        seen.append(line)
        if match := re.match(r"listening on (\S+)$", line):
            found.append(match[1])
    return found


def ended(process, number=signal.SIGTERM):
    """
    Signal it, and give the exit code and what else it printed.
    """
    process.send_signal(number)
    printed = process.stdout.read()
    return process.wait(PATIENCE), printed
