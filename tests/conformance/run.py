"""
Put `protoserve.server` in the place of `socketserver`, and run CPython's tests.

Each name of `NAMES` is run twice by each interpreter, with the standard library
and with ours, every run in a process, a working folder and a temporary folder
of its own. The verdicts are compared test by test: what passes there has to
pass here. A test that does not pass there proves nothing and is left alone.

::

    python tests/conformance/run.py [--python 3.12 ...] [--module NAME ...]
                                    [--kind pool ...] [--walltime]

What uses a classic mix-in, or none, is run once more with each of ours in its place,
see `VARIANTS`, by one interpreter.

Only loopback is used: the resource that opens CPython's tests to the internet
is on for those modules alone that ask for it to use loopback.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
SUITE = Path(__file__).with_name("suite.py")

PYTHONS = ("3.11", "3.12", "3.13")

NAMES = (
    "test.test_socketserver",
    "test.test_httpservers",
    "test.test_xmlrpc",
    "test.test_docxmlrpc",
    "test.test_wsgiref",
    "test.test_logging",
    "test.test_imaplib",
    "test.test_urllib2_localnet",
    "test.test_robotparser",
    "test.test_pydoc.PydocServerTest",
    "test.test_httplib.HTTPSTest",
    "test.test_ssl.ThreadedTests.test_socketserver",
    "test.test_asyncio.test_streams",
    "test.test_asyncio.test_events",
)
"""Modules, classes and tests whose servers are made of `socketserver`'s."""

HTTPS = (
    "test.test_urllib2_localnet",
    "test.test_httplib.HTTPSTest",
    "test.test_ssl.ThreadedTests.test_socketserver",
)

VARIANTS = {
    "pool": (
        "test.test_socketserver",
        "test.test_httpservers",
        "test.test_xmlrpc",
        "test.test_docxmlrpc",
        "test.test_logging",
        "test.test_pydoc.PydocServerTest",
        *HTTPS,
    ),
    # The others look into what a handler leaves behind in memory, or fork while the
    # thread of a client is within OpenSSL, which no child survives.
    "prefork": ("test.test_socketserver",),
    "batch": ("test.test_socketserver", "test.test_logging"),
    "tls": HTTPS,
}
"""
What is run with a mix-in of ours in the place of the classic ones. Not with
`EventLoopMixIn`: it refuses handlers that wait for their socket, as all of these do.
"""

VARIANT_PYTHON = "3.11"
"""The one that runs the variants."""

MOVED = {
    "test.test_pydoc.PydocServerTest": "test.test_pydoc.test_pydoc.PydocServerTest",
}
"""Where to find a name in interpreters that have moved it into a package."""

LOOPBACK = {"test.test_socketserver"}
"""Those that ask for the network and then use loopback."""

TIMEOUT = 300.0
"""Seconds for one run, ten times what the longest takes on a busy machine."""


@dataclass(frozen=True)
class Interpreter:
    """
    A Python that runs, and that may lack its test package.
    """

    version: str
    path: str
    has_tests: bool


@dataclass(frozen=True)
class Report:
    """
    What one run of one name came to.
    """

    served_by: str
    servers: int
    left_out: dict[str, str]
    verdicts: dict[str, str]
    details: dict[str, str]

    @property
    def passed(self) -> set[str]:
        """
        The tests that passed.
        """
        return {name for name, verdict in self.verdicts.items() if verdict == "passed"}


class RunError(Exception):
    """
    A run that gave no report: it crashed, or took too long.
    """


def _candidates(version: str) -> list[str]:
    name = f"python{version}"
    on_path = [
        found
        for folder in os.get_exec_path()
        if (found := shutil.which(name, path=folder))
    ]
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return on_path + [str(path) for path in root.glob(f"versions/*/bin/{name}")]


def _answers(path: str, *command: str) -> str | None:
    try:
        done = subprocess.run(
            [path, *command], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


@functools.cache
def find(version: str) -> Interpreter | None:
    """
    Look for an interpreter; one with its test package is preferred.

    A file that is found may be a shim for something not installed, so each is
    asked what it is.
    """
    best = None
    for path in _candidates(version):
        if not (_answers(path, "--version") or "").startswith(f"Python {version}."):
            continue
        has_tests = _answers(path, "-c", "import test.test_socketserver") is not None
        best = Interpreter(version, path, has_tests)
        if has_tests:
            break
    return best


def missing(version: str) -> str | None:
    """
    Say why an interpreter cannot be used, if it cannot.
    """
    interpreter = find(version)
    if interpreter is None:
        return f"there is no python{version} here"
    if not interpreter.has_tests:
        return f"{interpreter.path} comes without its test package"
    return None


def _environment(folder: str) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": folder,
        "TMPDIR": folder,
        "LC_ALL": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _finish(command: list[str], folder: str) -> tuple[int | None, str]:
    with subprocess.Popen(
        command,
        cwd=folder,
        env=_environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its children hold the pipe too
            output, _ = process.communicate()
            return None, output
        return process.returncode, output


def run(python: str, name: str, kind: str, *resources: str) -> Report:
    """
    Run the tests of one name with one interpreter and one implementation.

    Args:
        python: the interpreter's path.
        name: what `unittest` loads the tests by.
        kind: ``"stock"``, ``"ours"`` or one of `VARIANTS`.
        resources: what the tests may use, in regrtest's words.

    Raises:
        RunError: there is no report.
    """
    # A short path: Unix sockets are made in it.
    with tempfile.TemporaryDirectory(prefix="pc", ignore_cleanup_errors=True) as folder:
        report = Path(folder, "report.json")
        place = MOVED.get(name, name)
        if _answers(python, "-c", f"import {place.rpartition('.')[0]}") is None:
            place = name
        status, output = _finish(
            [python, str(SUITE), kind, str(SOURCE), str(report), place, *resources],
            folder,
        )
        if not report.exists():
            ended = "took too long" if status is None else f"ended with {status}"
            raise RunError(f"{name} with {kind} {ended}:\n{output[-4000:]}")
        return Report(**json.loads(report.read_text()))


def compare(
    python: str, name: str, kind: str = "ours", *, walltime: bool = False
) -> tuple[Report | RunError, Report | RunError]:
    """
    Run one name with both implementations, side by side.

    Args:
        python: the interpreter's path.
        name: what `unittest` loads the tests by.
        kind: ``"ours"`` or one of `VARIANTS`.
        walltime: also the tests that mostly wait.

    Returns:
        The standard library's report and ours.
    """
    resources = ["network"] * (name in LOOPBACK) + ["walltime"] * walltime

    def attempt(kind: str) -> Report | RunError:
        try:
            return run(python, name, kind, *resources)
        except RunError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        stock, ours = pool.map(attempt, ("stock", kind))
    return stock, ours


def regressions(stock: Report, ours: Report) -> dict[str, str]:
    """
    Return the tests that pass with the standard library only, and why.

    What was left out for a reason, see `suite.py`, is not among them.
    """
    return {
        test: f"{ours.verdicts.get(test, 'gone')}: {ours.details.get(test, '')}"
        for test in sorted(stock.passed - ours.passed - set(ours.left_out))
    }


def _tell(title: str, stock: Report, ours: Report) -> bool:
    lost = regressions(stock, ours)
    counts = dict(Counter(ours.verdicts.values()))
    print(
        f"{title}: {len(stock.passed)} pass with the library, "
        f"{len(lost)} of them not here; here {counts}, {ours.servers} servers, "
        f"{len(ours.left_out)} left out"
    )
    for test, why in lost.items():
        print(f"  {test}\n    {why}")
    return not lost


def _chosen(version: str, options: argparse.Namespace) -> list[tuple[str, str]]:
    """
    List what an interpreter is to run: pairs of a kind and a name.
    """
    known = {"ours": NAMES} | (VARIANTS if version == VARIANT_PYTHON else {})
    return [
        (kind, name)
        for kind, names in known.items()
        if kind in (options.kind or known)
        for name in names
        if name in (options.module or names)
    ]


def main() -> int:
    """
    Run everything that is asked for; the exit status says whether all is well.
    """
    parser = argparse.ArgumentParser(description="Run CPython's tests on our servers.")
    parser.add_argument("--python", action="append", help="3.11, for example")
    parser.add_argument("--module", action="append", help="test.test_xmlrpc, e.g.")
    parser.add_argument(
        "--kind", action="append", choices=["ours", *VARIANTS], help="pool, e.g."
    )
    parser.add_argument(
        "--walltime", action="store_true", help="also the tests that mostly wait"
    )
    options = parser.parse_args()
    well = True
    for version in options.python or PYTHONS:
        if reason := missing(version):
            print(f"{version}: {reason}")
            continue
        interpreter = find(version)
        assert interpreter is not None
        for kind, name in _chosen(version, options):
            title = f"{version} {name}, {kind}"
            stock, ours = compare(
                interpreter.path, name, kind, walltime=options.walltime
            )
            if isinstance(stock, RunError):
                print(f"{title}: nothing to compare with: {stock}")
            elif isinstance(ours, RunError):
                print(f"{title}: {ours}")
                well = False
            else:
                well = _tell(title, stock, ours) and well
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
