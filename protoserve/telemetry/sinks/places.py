"""
Whether a file or a folder that a sink is to write can be written at all.

That is tried, by a file that is gone at once: what permissions and capabilities together
allow, and what kind of file system there is, cannot be read off. A disk that is full, or a
file that another program holds, is trouble that passes, and is nothing to be told here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from protoserve.errors import DeclarationError

__all__ = ["check_folder", "check_place", "place_of_sink"]

_FILES = {"duckdb", "jsonl", "sqlite"}
"""Sinks that write a file."""
_FOLDERS = {"arrow", "parquet"}
"""Sinks that write into a folder."""
_MAKERS = {"arrow", "jsonl", "parquet"}
"""Sinks that make the folders that they need."""
_PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EINTR}


def check_place(url: str) -> None:
    """
    Find out whether a sink's file or folder can be written, if it has one.

    Args:
        url: the sink's own, with its scheme.

    Raises:
        DeclarationError: it cannot be.
    """
    scheme, _, rest = url.partition(":")
    where = unquote(rest.partition("?")[0])
    if scheme not in _FILES | _FOLDERS or where in ("-", ":memory:"):
        return
    path = Path(where)
    with _told(f"{scheme}:{where}"):
        if scheme in _FILES and path.is_dir():
            raise _error(errno.EISDIR)
        if scheme in _FOLDERS and path.is_file():
            raise _error(errno.ENOTDIR)
        _try(path, makes_folders=scheme in _MAKERS)


def place_of_sink(url: str) -> str:
    """
    Give what two URLs of one sink have in common, however they are spelt.

    Args:
        url: with its scheme.
    """
    scheme, _, rest = url.partition("?")[0].partition(":")
    scheme = scheme.lower()
    if scheme in _FILES | _FOLDERS and rest != "-":
        rest = os.path.realpath(unquote(rest))
    return f"{scheme}:{rest}"


def check_folder(path: Path) -> None:
    """
    Find out whether a folder can be made, where it is not there, and written to.

    Raises:
        DeclarationError: it cannot be.
    """
    with _told(str(path)):
        if path.exists() and not path.is_dir():
            raise _error(errno.ENOTDIR)
        _try(path, makes_folders=True)


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    """
    Tell that something cannot be written, unless that may pass.
    """
    try:
        yield
    except OSError as exc:
        if exc.errno not in _PASSING:
            raise DeclarationError(
                f"{name}: it cannot be written: {exc.strerror}"
            ) from exc


def _try(path: Path, *, makes_folders: bool) -> None:
    if path.is_file():
        os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
        return
    if path.exists() and not path.is_dir():
        return  # a pipe, or a device: opening it may be what somebody waits for
    folder = path if path.is_dir() else path.parent
    while makes_folders and not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise _error(errno.ENOTDIR if folder.exists() else errno.ENOENT, folder)
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as exc:
        if exc.errno is None:
            raise
        raise _error(exc.errno, folder) from exc


def _error(number: int, folder: Path | None = None) -> OSError:
    text = os.strerror(number)
    return OSError(number, text if folder is None else f"{folder}: {text}")
