"""
Journals on the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protoserve.cli.targets import CommandError

if TYPE_CHECKING:
    from protoserve.journal import Journal

__all__ = ["open_journal"]


def open_journal(path: str) -> Journal:
    """
    Open a journal to write to.

    Raises:
        CommandError: it cannot be one.
    """
    from protoserve.journal import Journal, JournalError

    try:
        return Journal(path)
    except OSError as exc:
        raise CommandError(f"--journal {path}: {exc.strerror or exc}") from exc
    except JournalError as exc:
        raise CommandError(f"--journal: {exc}") from exc
