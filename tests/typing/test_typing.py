"""
What type checkers know of a message class, with both that people use.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def mypy_errors(path):
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary"]
    done = subprocess.run(
        [*command, "--hide-error-context", str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    found = re.findall(r"^(.+?):(\d+): error: (.*)$", done.stdout, re.MULTILINE)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return {int(line): text for file, line, text in found if file.endswith(path.name)}


def pyright_errors(path):
    command = [sys.executable, "-m", "pyright", "--outputjson"]
    command += ["--pythonpath", sys.executable, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    report = json.loads(done.stdout)
    return {
        entry["range"]["start"]["line"] + 1: entry["message"]
        for entry in report["generalDiagnostics"]
        if entry["severity"] == "error"
    }


CHECKERS = {"mypy": mypy_errors, "pyright": pyright_errors}


@pytest.fixture(params=CHECKERS)
def errors_of(request):
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    return CHECKERS[request.param]


@pytest.mark.timeout(300)
def test_right_programs_pass(errors_of):
    """A type checker finds nothing in programs that are right."""
    assert errors_of(HERE / "good.py") == {}


@pytest.mark.timeout(300)
def test_mistakes_are_found_where_they_are(errors_of):
    """A type checker finds each marked mistake, and nothing else."""
    lines = (HERE / "bad.py").read_text().splitlines()
    expected = {i for i, line in enumerate(lines, 1) if "# E:" in line}
    found = errors_of(HERE / "bad.py")
    assert set(found) == expected, found
