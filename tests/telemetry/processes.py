"""
Collectors and workers in processes of their own.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import attrs

from tests.running import ROOT
from tests.service.kit import until

PATIENCE = 60.0
"""Seconds for what takes one on an idle machine."""


@attrs.define
class Running:
    """
    A command that runs.
    """

    process: subprocess.Popen
    folder: object

    @property
    def errors(self):
        return (self.folder / "stderr").read_text()

    @property
    def output(self):
        return (self.folder / "stdout").read_text()

    def await_line(self, pattern):
        """
        Wait for a line on standard error; give the match.
        """
        found = []

        def look():
            whole = self.errors.rpartition("\n")[0]  # the last line may go on
            match = re.search(pattern, whole)
            if match:
                found.append(match)
            assert match or self.process.poll() is None, self.errors
            return match

        until(look, PATIENCE)
        return found[0]

    @property
    def port(self):
        return int(self.await_line(r"listening on \w+://\S+:(\d+)")[1])

    def metrics(self):
        """
        Read the metrics, by name.
        """
        url = self.await_line(r"metrics on (\S+)")[1]
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            text = answer.read().decode()
        pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
        return {name.removeprefix("protoserve_"): float(value) for name, value in pairs}

    def await_metric(self, name, value):
        until(lambda: self.metrics()[name] == value, PATIENCE)

    def stop(self, number=signal.SIGTERM):
        """
        Ask it to end; give its exit code.
        """
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def last(self):
        """
        Give the last line of what it said with --json.
        """
        return json.loads(self.output.splitlines()[-1])


@contextlib.contextmanager
def command(folder, *words, **environment):
    """
    Run a command in a folder; afterwards it is ended, whatever it does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / "stdout").open("ab") as stdout,
        (folder / "stderr").open("wb") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "protoserve", *map(str, words)],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), **environment},
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield Running(process, folder)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def collect(folder, *words, protocol="tests.telemetry.stations:stations"):
    """
    Run a collector with metrics and its figures as JSON.
    """
    return command(
        folder, "collect", protocol, "--metrics", "127.0.0.1:0", "--json", *words
    )


@contextlib.contextmanager
def sender(port):
    """
    Open a socket whose datagrams go to a port.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        yield sock


def balanced(figures):
    """
    Give what was received and what has become of it, summed; they are equal at the end.
    """
    fates = figures["delivered"] + sum(figures["dropped"].values())
    return figures["received"], fates
