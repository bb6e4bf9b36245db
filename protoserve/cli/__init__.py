"""
The command line: ``protoserve`` and ``python -m protoserve``.

Every command's work is done by the library; this package reads arguments, shows
results and turns errors into one line and an exit code. Typer and Rich come with
the extra ``cli``.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """
    Run the command line; the entry point of ``protoserve``.
    """
    try:
        from protoserve.cli.commands import app
        from protoserve.cli.running import run
    except ModuleNotFoundError as exc:
        if (exc.name or "").startswith("protoserve"):
            raise
        sys.stderr.write(
            f"protoserve: the command line needs {exc.name}; install it with "
            "pip install 'protoserve[cli]'\n"
        )
        raise SystemExit(2) from None
    raise SystemExit(run(app))
