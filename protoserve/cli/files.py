"""
Files that commands write: all of a file or nothing of it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

from protoserve.cli.targets import CommandError

__all__ = ["read_text", "write_text"]


def write_text(text: str, path: str | None) -> None:
    """
    Write a file, so that whoever reads it meets the old text or the new one.

    Args:
        text: what it shall hold.
        path: where; `None` or ``-`` is standard output.

    Raises:
        CommandError: it cannot be written.
    """
    if path is None or path == "-":
        sys.stdout.write(text)
        return
    target = Path(os.path.realpath(path))  # a link stays one
    try:
        if target.exists() and not target.is_file():
            target.write_text(text, "utf-8")  # such as /dev/null; nothing to replace
        else:
            _replace(target, text)
    except OSError as exc:
        raise CommandError(f"cannot write {path}: {exc.strerror or exc}") from exc


def _replace(target: Path, text: str) -> None:
    number, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(_mode(target))
        Path(name).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def _mode(target: Path) -> int:
    """
    Give the permissions that a file has, or would get.
    """
    with contextlib.suppress(FileNotFoundError):
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def read_text(path: str) -> str:
    """
    Read a file.

    Raises:
        CommandError: it cannot be read, or is no text.
    """
    try:
        return Path(path).read_text("utf-8")
    except OSError as exc:
        raise CommandError(f"cannot read {path}: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise CommandError(f"cannot read {path}: it is no UTF-8 text") from exc
