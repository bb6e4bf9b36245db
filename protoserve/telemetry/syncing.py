"""
Bringing files to the disk, everything of some milliseconds at once.

The thread that does it is the only one that closes the files, so none is closed while
it is synced. When a sync has failed the kernel forgets what it could not write: trying
again would succeed and mean nothing. So the failure is told once to whoever flushes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from protoserve.telemetry.logs.base import LogUnavailableError

__all__ = ["Syncer"]


class Syncer:
    """
    Syncs one folder's files from a thread of its own.

    Args:
        folder: whose entries are synced too, when files are made.
        every: seconds from a first write to the sync.
        failed: is told what went wrong, from the thread.
    """

    def __init__(
        self, folder: Path, every: float, failed: Callable[[OSError], None]
    ) -> None:
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._every = every
        self._failed = failed
        self._changed = threading.Condition()
        self._files: set[int] = set()
        self._ended: set[int] = set()
        self._made = False
        self._asked = 0
        self._synced = 0
        self._error: OSError | None = None
        self._hurry = threading.Event()
        self._closing = False
        self._thread = threading.Thread(
            target=self._run, name="spool-sync", daemon=True
        )
        self._thread.start()

    def written(self, file: int) -> None:
        """
        Have a file synced before long.
        """
        if file not in self._files:
            with self._changed:
                self._files.add(file)
                self._changed.notify_all()

    def made(self) -> None:
        """
        Have the folder synced before long.
        """
        with self._changed:
            self._made = True

    def done(self, file: int) -> None:
        """
        Close a file, once it is synced.
        """
        with self._changed:
            self._files.add(file)
            self._ended.add(file)
            self._changed.notify_all()

    def flush(self) -> None:
        """
        Wait until all that was written before is on the disk.

        Raises:
            LogUnavailableError: some of it may not be.
        """
        with self._changed:
            self._asked += 1
            asked = self._asked
            self._hurry.set()
            self._changed.notify_all()
            while self._synced < asked and self._thread.is_alive():
                self._changed.wait(1.0)
            error, self._error = self._error, None
        if error is not None:
            raise LogUnavailableError(f"what was appended may be lost: {error}")

    def close(self) -> None:
        """
        Sync and close everything.
        """
        with self._changed:
            self._closing = True
            self._hurry.set()
            self._changed.notify_all()
        self._thread.join()
        os.close(self._folder)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._files or self._closing or self._asked > self._synced):
                    self._changed.wait()
            self._hurry.wait(self._every)
            with self._changed:
                self._hurry.clear()
                files, self._files = self._files, set()
                ended, self._ended = self._ended, set()
                made, self._made = self._made, False
                asked, closing = self._asked, self._closing
            error = self._sync(files, made=made)
            for file in ended:
                os.close(file)
            if error is not None:
                self._failed(error)
            with self._changed:
                self._error = error or self._error
                self._synced = asked
                self._changed.notify_all()
                if closing and not self._files:
                    return

    def _sync(self, files: set[int], *, made: bool) -> OSError | None:
        failure = None
        try:
            if made:
                os.fsync(self._folder)
        except OSError as error:
            failure = error
        for file in files:
            try:
                os.fdatasync(file)
            except OSError as error:
                failure = error
        return failure
