"""
The wire journal: each message that a service receives or sends, as a line of JSON.

A journal is for looking at afterwards, for being replayed as a test and for being
turned into a capture, so it has the bytes as well as what they mean.
Several processes may write to one file. Each entry is one `write` to the end of it,
under a lock that the kernel takes back from a process that dies; the counter that
gives entries their numbers is in memory that forked processes have in common. Nothing
is kept back in a buffer, so a process that is killed loses no entry that it has made.
A disk that is full costs entries, never service: what a failed write has left of a line
is cut off again, it is logged when that begins and when it ends, and counted.

An unfinished line, left by a machine that went down, ends when the file is next opened;
whoever reads skips it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self

import attrs

from protoserve.errors import ProtoserveError

try:
    import fcntl
except ImportError:  # not a Unix system, so nothing forks
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "Entry",
    "Journal",
    "JournalError",
    "read_entries",
    "read_journal",
]

logger = logging.getLogger("protoserve")

_REACHES = (1 << 16, 1 << 20, 1 << 26)
"""Bytes at the end of a file in which its last whole line is looked for."""
_LONGEST = 1 << 28
"""Bytes of a line; 16 MiB of a frame in hex, and as much again decoded, are fewer."""
_BEGINNING = b'{"n":'
"""What every line begins with."""
_encode = json.JSONEncoder(separators=(",", ":")).encode


class JournalError(ProtoserveError):
    """
    A file is no journal, or cannot be one.
    """


def _one_of(*words: str) -> Any:
    return attrs.validators.in_(words)


_TEXT = attrs.validators.instance_of(str)
_NUMBER = attrs.validators.instance_of((int, float))
_WHOLE = attrs.validators.instance_of(int)


@attrs.frozen(kw_only=True)
class Entry:
    """
    One message of a journal.
    """

    n: int = attrs.field(default=0, validator=_WHOLE)
    """Its number in the file, from 1; the journal gives it."""

    time: float = attrs.field(validator=_NUMBER)
    """When it was received or sent, in seconds since the epoch."""

    transport: str = attrs.field(validator=_TEXT)
    """``tcp``, ``tls``, ``udp``, ``unix`` or ``unixgram``."""

    local: str = attrs.field(validator=_TEXT)
    """The URL of our end."""

    peer: str = attrs.field(validator=_TEXT)
    """The URL of the other end."""

    session: int = attrs.field(default=0, validator=_WHOLE)
    """The conversation: the number of its first entry. 0 begins one."""

    role: str = attrs.field(default="server", validator=_one_of("server", "client"))
    """Which side we are."""

    direction: str = attrs.field(validator=_one_of("in", "out"))
    """Whether it was received, ``in``, or sent, ``out``."""

    message: str | None = None
    """The message's class, if it could be told."""

    header: Any = None
    """The header's fields, as `protoserve.plain.to_plain` gives them."""

    fields: Any = None
    """The message's fields, likewise."""

    outcome: str = attrs.field(default="ok", validator=_TEXT)
    """``ok``, or what is wrong with it."""

    raw: bytes = attrs.field(repr=lambda raw: raw.hex(" "))
    """
    The bytes: on a stream the frame with its framing, else the datagram or, where that
    holds several frames, its part of it.
    """

    @property
    def from_client(self) -> bool:
        """
        Whether it went from the client to the server.
        """
        return (self.role == "server") is (self.direction == "in")

    def as_json(self) -> str:
        """
        Write it as one line.
        """
        return _encode(self._plain())

    def _plain(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in _KEYS}
        plain["raw"] = self.raw.hex()
        return plain

    @classmethod
    def from_json(cls, line: str | bytes) -> Entry:
        """
        Read what `as_json` wrote.

        Raises:
            JournalError: it is something else.
        """
        try:
            # Given bytes, it would guess an encoding, and tell of that.
            plain = json.loads(line if isinstance(line, str) else line.decode())
        except UnicodeDecodeError as exc:
            raise JournalError("it is no text in UTF-8") from exc
        except (ValueError, RecursionError) as exc:
            raise JournalError(f"it is no JSON: {exc}") from exc
        known = {field.name for field in attrs.fields(cls)}
        required = {f.name for f in attrs.fields(cls) if f.default is attrs.NOTHING}
        if not isinstance(plain, dict) or not required <= plain.keys():
            missing = sorted(
                required.difference(plain if isinstance(plain, dict) else ())
            )
            raise JournalError(f"it is no journal entry: it has no {missing[0]!r}")
        try:
            raw = bytes.fromhex(plain["raw"])
            return cls(**{k: v for k, v in plain.items() if k in known} | {"raw": raw})
        except (TypeError, ValueError) as exc:
            raise JournalError(f"it is no journal entry: {exc.args[0]}") from exc


_KEYS = tuple(field.name for field in attrs.fields(Entry))


class Journal:
    """
    A journal to write to, from any thread and forked process.

    Args:
        path: the file; entries are added to what is there.

    Raises:
        OSError: it cannot be opened for writing.
        JournalError: it is something else than a journal.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        last, whole = _end_of(self.path)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        self._file: int | None = os.open(self.path, flags, 0o666)
        self._plain = stat.S_ISREG(os.fstat(self._file).st_mode)
        # Forked processes share it; the numbers are that of the last entry, and how
        # many were lost.
        self._counts = memoryview(mmap.mmap(-1, 16)).cast("Q")
        self._counts[0] = last
        self._failing = False
        if not whole:
            os.write(self._file, b"\n")
        self.make_private()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def make_private(self) -> None:
        """
        Make the lock anew, in a child: a thread that is not there may hold it.
        """
        self.lock = threading.RLock()
        """Is held while an entry is written."""

    @property
    def lost(self) -> int:
        """
        How many entries could not be written, in all processes together.
        """
        return int(self._counts[1])

    def write(self, entry: Entry) -> int:
        """
        Add an entry; it gets the next number.

        Returns:
            The number, also if the entry could not be written.
        """
        with self.lock, self._alone():
            number = self._counts[0] + 1
            self._counts[0] = number
            try:
                self._write(_line(entry, number))
            except OSError as error:
                self._counts[1] += 1
                if not self._failing:
                    self._failing = True
                    logger.error(  # noqa: TRY400 - a full disk is no riddle
                        "the journal %s cannot be written to, entries are lost: %s",
                        self.path,
                        error.strerror or error,
                    )
            else:
                if self._failing:
                    self._failing = False
                    logger.warning(
                        "the journal %s goes on; %d entries are lost",
                        self.path,
                        self.lost,
                    )
        return number

    def _write(self, line: bytes) -> None:
        if self._file is None:
            raise OSError("it is closed")
        written = os.write(self._file, line)
        if written < len(line):
            if self._plain:
                end = os.lseek(self._file, 0, os.SEEK_CUR)
                os.ftruncate(self._file, end - written)
            raise OSError("not all of an entry could be written")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """
        Keep the other processes out, where the file system has locks.
        """
        file = self._file
        if file is None or fcntl is None:
            yield
            return
        with contextlib.suppress(OSError):
            fcntl.lockf(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.lockf(file, fcntl.LOCK_UN)

    def close(self) -> None:
        """
        Close the file; what comes later is lost.
        """
        with self.lock:
            file, self._file = self._file, None
            if file is not None:
                os.close(file)


def _line(entry: Entry, number: int) -> bytes:
    plain = entry._plain()
    plain["n"], plain["session"] = number, entry.session or number
    try:
        text = _encode(plain)
    except (TypeError, ValueError, RecursionError):  # a user's types may be any
        text = _encode(plain | {"header": None, "fields": None})
    return text.encode() + b"\n"


def _end_of(path: Path) -> tuple[int, bool]:
    """
    Give the number of a file's last entry, and whether its last line is whole.

    Raises:
        JournalError: there is something, but no entry.
    """
    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return 0, True
            size = file.seek(0, os.SEEK_END)
            for reach in _REACHES:
                file.seek(max(0, size - reach))
                *lines, rest = file.read(reach).split(b"\n")
                for line in reversed(lines):
                    with contextlib.suppress(JournalError):
                        return Entry.from_json(line).n, not rest
    except FileNotFoundError:
        return 0, True
    if lines or not _BEGINNING.startswith(rest[: len(_BEGINNING)]):
        raise JournalError(f"{path} is not empty, and no journal")
    return 0, not rest


def read_journal(path: str | os.PathLike[str]) -> Iterator[Entry]:
    """
    Read a journal, entry by entry.

    Lines that were left unfinished are skipped, with a warning in the log.

    Raises:
        OSError: the file cannot be read.
        JournalError: it is no journal.
    """
    with Path(path).open("rb") as file:
        yield from read_entries(file, str(path))


def read_entries(file: BinaryIO, name: str) -> Iterator[Entry]:
    """
    Read a journal from a file that is open, as `read_journal` does.

    Args:
        file: where from.
        name: what it is called in errors.

    Raises:
        JournalError: it is no journal.
    """
    any_yet = False
    for number, line in enumerate(iter(lambda: file.readline(_LONGEST), b""), 1):
        if not line.strip():
            continue
        try:
            entry = Entry.from_json(line)
        except JournalError as error:
            if not any_yet:
                raise JournalError(f"{name}: line {number}: {error}") from error
            logger.warning("%s: line %d is skipped: %s", name, number, error)
            continue
        any_yet = True
        yield entry
