"""
Locks of files, that the kernel takes back from a process that dies.

A record lock belongs to a process, so a child that was forked does not hold it, as it
would hold one by `flock` for as long as it lives. It has two traps. It does not tell
threads of one process apart: what this process holds is remembered here. And it is lost
when the process closes the file, however it was opened: a lock's file is used for
nothing else.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

__all__ = ["FileLock"]

_guard = threading.Lock()
_held: set[tuple[int, str]] = set()
"""The locks that are held, by process: a forked child's copy means nothing."""


class FileLock:
    """
    Held from when it is made until it is closed.

    Args:
        path: its file, which is made.

    Raises:
        BlockingIOError: somebody holds it, in this process or in another.
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._name = (os.getpid(), os.path.realpath(path))
        with _guard:
            if self._name in _held:
                raise BlockingIOError(f"{path} is locked in this process")
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except PermissionError as error:  # what POSIX allows in its place
                os.close(self._file)
                raise BlockingIOError(str(error)) from error
            except OSError:
                os.close(self._file)
                raise
            _held.add(self._name)

    def close(self) -> None:
        """
        Let go of it.
        """
        with _guard:
            if self._name in _held and self._name[0] == os.getpid():
                _held.discard(self._name)
                os.close(self._file)
