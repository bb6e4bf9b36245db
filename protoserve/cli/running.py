"""
Run the commands: whatever a user can put right is one line and exit code 2.
"""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperCommand

from protoserve.cli.logs import tell
from protoserve.cli.targets import CommandError
from protoserve.errors import DeclarationError

__all__ = ["Command", "run"]


class Command(TyperCommand):
    """
    A command whose usage line shows its arguments as they are named.
    """

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """
        List what follows the command's name, without Typer's braces.
        """
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]


def run(app: typer.Typer) -> int:
    """
    Run the command that the process's arguments name.

    Returns:
        The exit code.
    """
    command = typer.main.get_command(app)
    arguments = sys.argv[1:] or ["--help"]
    try:
        return command.main(arguments, "protoserve", standalone_mode=False) or 0
    except (CommandError, DeclarationError) as exc:
        tell(str(exc))
    except typer.Abort:
        return 130
    except Exception as exc:
        # Click's own errors; Typer brings its own copy of Click.
        compose = getattr(exc, "format_message", None)
        if compose is None:
            raise
        context = getattr(exc, "ctx", None)
        where = "protoserve" if context is None else context.command_path
        tell(f"{compose()} (see {where} --help)")
    return 2
