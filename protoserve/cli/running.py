"""
Run the commands: whatever a user can put right is one line and exit code 2.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from typing import Any

import typer
from typer.core import TyperCommand

from protoserve.cli.completing import rejoin_words, trimmed
from protoserve.cli.logs import tell
from protoserve.cli.targets import CommandError
from protoserve.errors import DeclarationError

__all__ = ["Command", "run"]


_FOR_SHELLS = ("--show-completion", "--install-completion")


class Command(TyperCommand):
    """
    A command whose usage line shows its arguments as they are named.
    """

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """
        List what follows the command's name, without Typer's braces, and without a
        second pair of brackets around those that a name has itself.
        """
        pieces = [re.sub("[{}]", "", p) for p in super().collect_usage_pieces(ctx)]
        return [re.sub(r"^\[(\[.*\]\.\.\.)\]\.\.\.$", r"\1", p) for p in pieces]


def run(app: typer.Typer) -> int:
    """
    Run the command that the process's arguments name.

    Returns:
        The exit code.
    """
    try:
        return _run(app)
    finally:
        _end_signals()


def _end_signals() -> None:
    """
    Ignore from now on what a command saw to: an interpreter that ends takes handlers
    away, and a signal would kill it.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        handler = signal.getsignal(number)
        if callable(handler) and handler is not signal.default_int_handler:
            signal.signal(number, signal.SIG_IGN)


def _run(app: typer.Typer) -> int:
    arguments = sys.argv[1:] or ["--help"]
    if arguments[0] in _FOR_SHELLS and len(arguments) > 1:
        # Typer takes the shell's name only where it does not look for it itself.
        os.environ["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"
    command = typer.main.get_command(app)
    try:
        with trimmed(rejoin_words()):
            return command.main(arguments, "protoserve", standalone_mode=False) or 0
    except (CommandError, DeclarationError) as exc:
        tell(str(exc))
    except typer.Abort:
        return 130
    except Exception as exc:
        # Click's own errors; Typer brings its own copy of Click.
        compose = getattr(exc, "format_message", None)
        if compose is None:
            return _tell_fault(exc)
        context = getattr(exc, "ctx", None)
        where = "protoserve" if context is None else context.command_path
        tell(f"{compose()} (see {where} --help)")
    return 2


def _tell_fault(exc: Exception) -> int:
    """
    Own up to a fault of ours; whoever looks into it sets an environment variable.
    """
    if os.environ.get("PROTOSERVE_TRACEBACK"):
        raise exc
    first = str(exc).partition("\n")[0]
    tell(
        f"this is a fault in protoserve: {type(exc).__name__}: {first} "
        "(PROTOSERVE_TRACEBACK=1 shows where)"
    )
    return 70  # EX_SOFTWARE of sysexits.h
