"""
Completion in shells, and commands that are quick to help.
"""

import os
import shutil
import subprocess
import sys

import pytest

from protoserve import serve
from protoserve.cli import options
from protoserve.cli.commands import _COMMANDS
from protoserve.cli.completing import rejoin_words
from protoserve.cli.targets import targets_here
from protoserve.protocol import Protocol
from tests.cli.kit import ROOT
from tests.running import ran
from tests.test_docs import table

CALL = ["call", "protocols.modbus:modbus", "tcp://127.0.0.1:1"]
DNS = ["call", "protocols.dns:dns", "udp://127.0.0.1:1", "Query"]


@pytest.fixture
def complete(command, monkeypatch):
    """Complete a line whose words bash has taken apart; give the words."""

    def run(*words):
        pieces = [piece for word in words for piece in apart(word)]
        monkeypatch.setenv("_PROTOSERVE_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", "\n".join(["protoserve", *pieces]))
        monkeypatch.setenv("COMP_CWORD", str(len(pieces)))
        code, out, err = command()
        assert (0, "") == (code, err)
        return out.split()

    return run


def apart(word):
    """Take a word apart as bash does."""
    pieces = [""]
    for letter in word:
        breaks = letter in ":="
        if pieces[-1] and breaks is not (pieces[-1][-1] in ":="):
            pieces.append("")
        pieces[-1] += letter
    return pieces


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["lis"], ["listen"]),
        (["call", "--tim"], ["--timeout"]),
        (["call", "protocols.nt"], ["protocols.ntp:ntp"]),
        (["decode", "protocols.nt"], ["protocols.ntp:ntp"]),
        (["describe", "protocols.ntp:n"], ["ntp"]),
        (["describe", "protocols.dns:dns:Que"], ["Query", "Question"]),
        (["run", "examples.ntp"], ["examples.ntp_server:app"]),
        (["call", "protocols.ntp:ntp", ""], ["udp://127.0.0.1:123"]),
        ([*CALL, "ReadH"], ["ReadHoldingRegisters"]),
        ([*CALL, "ReadCoils", ""], ["address=", "count="]),
        ([*CALL, "ReadCoils", "address=5", ""], ["count=", "count=…"]),
        ([*CALL, "ReadCoils", "--header", "u"], ["unit=", "unit=…"]),
        ([*CALL, "ReadCoils", "--header", "unit=1", "c"], ["count=", "count=…"]),
        ([*DNS, "questions.0.t"], [f"questions.0.type={n}" for n in ("A", "NS")]),
        ([*DNS, "questions.0.type=M"], ["MX"]),
        ([*DNS, "questions.0.type=AAA"], ["AAAA"]),
        (
            ["simulate", "protocols.dns:dns", "--fault", "d"],
            ["duplicate", "drop", "delay="],
        ),
        (["simulate", "protocols.dns:dns", "--fault", "drop=5%@Que"], ["5%@Query"]),
        (["proxy", "--fault", "split"], ["split-every-byte"]),
        (["torture", "protocols.dns:dns", "--only", "over"], ["overlap", "oversize"]),
        (["run", "--mode", "pr"], ["prefork"]),
        (["collect", "--spool-full", "drop-o"], ["drop-oldest"]),
        (["collect", "--config", "no.yaml", "protocols.nt"], ["protocols.ntp:ntp"]),
        (["call", "protocols.nothing:nothing", "tcp://h:1", ""], []),
        (["call", "nonsense", "tcp://h:1", "Que"], []),
        ([*CALL, "Nothing", ""], []),
    ],
)
def test_words(complete, words, expected):
    """Commands, options, protocols, messages, fields and values are completed."""
    found = complete(*words)
    if len(expected) == 2 and expected[0].startswith("questions"):
        found = found[:2]
    if words[-1].endswith("=M"):
        found = [word for word in found if word == "MX"]
    assert expected == found


def test_words_that_bash_leaves_whole(monkeypatch):
    """Other shells' words are left as they are."""
    monkeypatch.delenv("_PROTOSERVE_COMPLETE", raising=False)
    assert rejoin_words() is None


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells(command, monkeypatch, shell):
    """What other shells ask in their own ways is answered, with help beside it."""
    monkeypatch.setenv("_PROTOSERVE_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    line = "protoserve " + " ".join(CALL) + " ReadCoils "
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
    code, out, _ = command()
    assert 0 == code
    first = next(line for line in out.splitlines() if "address=" in line)
    assert "of the first coil, counted from 0" in first


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(command, shell, tmp_path):
    """The script for each shell is printed, and the shell, if there is one, takes it."""
    code, out, _ = command("--show-completion", shell)
    assert 0 == code
    assert "_PROTOSERVE_COMPLETE" in out
    if (program := shutil.which(shell)) is not None:
        script = tmp_path / "script"
        script.write_text(out)
        done = subprocess.run([program, "-n", script], capture_output=True, text=True)
        assert (0, "") == (done.returncode, done.stderr)


def test_in_bash(tmp_path):
    """In bash itself a line is completed to the end."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    program = tmp_path / "protoserve"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m protoserve "$@"\n')
    program.chmod(0o755)
    script = """
        source <(protoserve --show-completion bash)
        COMP_WORDS=(protoserve call protocols.modbus : modbus tcp : //h : 1 ReadHo)
        COMP_CWORD=10
        _protoserve_completion protoserve
        echo "${COMPREPLY[*]}"
    """
    done = subprocess.run(
        [bash, "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert ("ReadHoldingRegisters\n", "") == (done.stdout, done.stderr)


def test_targets_are_found_without_running_them(tmp_path, monkeypatch):
    """Files are read, not run; what is assigned at their top is a target."""
    (tmp_path / "sensors.py").write_text(
        "import nothing_of_the_kind\n"
        'sensors = Protocol("sensors")\n'
        "typed: Protocol = protoserve.Protocol(\n)\n"
        'def f():\n    inner = Protocol("x")\n'
    )
    (tmp_path / "not-a-module.py").write_text("x = Protocol()\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("plc = Protocol()\n")
    (tmp_path / "package" / "wire.py").write_bytes(b"\xff\n" + b"bus = Protocol()\n")
    monkeypatch.chdir(tmp_path)
    found = [t for t in targets_here(Protocol) if not t.startswith("protocols.")]
    assert [
        "sensors:sensors",
        "sensors:typed",
        "package:plc",
        "package.wire:bus",
    ] == found


def test_unknown_module_of_the_user(command, tmp_path, monkeypatch):
    """A module beside is suggested for one that is not there."""
    (tmp_path / "weatherly.py").write_text("")
    monkeypatch.chdir(tmp_path)
    code, _, err = command("describe", "wetherly:x")
    assert 2 == code
    assert "there is no module 'wetherly'; did you mean weatherly?" in err


def test_help_is_quick():
    """For --help nothing is imported that only some commands need."""
    heavy = {"construct", "asyncio", "ssl", "numpy", "hypothesis", "prompt_toolkit"}
    program = (
        f"import sys, protoserve.cli.commands; print(*({heavy!r} & sys.modules.keys()))"
    )
    done = ran(program)
    assert ("", "") == (done.stdout.strip(), done.stderr)
    assert serve.MODES == options.MODES


def test_all_commands_are_documented():
    """The page of commands has all of them, and no others."""
    rows = [cells[0].strip("`") for cells in table("docs/commands.md", "Command")]
    assert sorted(_COMMANDS) == sorted(rows)


def test_faults_of_ours_are_lines(command, monkeypatch):
    """What nobody thought of is one line, without a traceback, and exit code 70."""

    def fail(*_, **__):
        raise ZeroDivisionError("oh\nno")

    monkeypatch.setattr("protoserve.cli.described.show", fail)
    code, _, err = command("describe", "protocols.dns:dns")
    assert 70 == code
    assert err.startswith("protoserve: this is a fault in protoserve: ZeroDivisionErr")
    assert 1 == err.count("\n")
