"""
What handlers raise, brought from a server to the test that runs it.

In production an exception of a route costs one message: it is logged, at most once a
second for each kind, and the conversation goes on or ends. A test wants to fail by it.
So the log of the service's dispatcher is replaced for a while by one that also keeps
the exceptions, each of them. What a hook of the handler has answered is no failure and
never comes here.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from protoserve.rarelog import RareLog
from protoserve.service import Service

__all__ = ["Failures", "portable", "settle", "watched"]

_MOST = 100
"""Exceptions that are kept; a test looks at the first."""


@attrs.define
class Failures:
    """
    Exceptions that nobody has answered, oldest first. Any thread may add to them.
    """

    _found: list[BaseException] = attrs.field(factory=list)
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, failure: BaseException) -> None:
        """
        Keep an exception, once.
        """
        with self._lock:
            known = any(failure is other for other in self._found)
            if not known and len(self._found) < _MOST:
                self._found.append(failure)

    def take(self) -> BaseException | None:
        """
        Give the first, and forget all; the others are told in a note of it.
        """
        with self._lock:
            found, self._found = self._found, []
        if not found:
            return None
        for other in found[1:]:
            found[0].add_note(f"the server failed again: {_line(other)}")
        return found[0]


@attrs.define
class _WatchedLog:
    """
    A `RareLog` that tells of each exception besides.
    """

    log_rarely: RareLog
    report: Callable[[BaseException], object]

    def log(
        self, level: int, text: str, *args: object, kind: str = "", exc_info: Any = None
    ) -> None:
        if isinstance(exc_info, BaseException):
            self.report(exc_info)
        self.log_rarely.log(level, text, *args, kind=kind, exc_info=exc_info)


@contextlib.contextmanager
def watched(
    service: Service, report: Callable[[BaseException], object]
) -> Iterator[None]:
    """
    Be told of every exception that a service's handler raises and does not answer.
    """
    tellers: list[Any] = [service.dispatcher, *service.gatherings.values()]
    usual = [teller._rare for teller in tellers]
    for teller in tellers:
        teller._rare = _WatchedLog(teller._rare, report)
    try:
        yield
    finally:
        for teller, log in zip(tellers, usual, strict=True):
            teller._rare = log


def settle(failures: Failures, error: BaseException | None, *, raises: bool) -> None:
    """
    Raise what a server has raised, at the end of a test.

    Args:
        failures: what it has raised.
        error: what the test has raised by itself; it gets a note of it then.
        raises: whether anything is to be raised.
    """
    failure = failures.take()
    if failure is None or not raises:
        return
    if error is None:
        raise failure
    if error is not failure:
        text = "".join(traceback.format_exception(failure)).rstrip()
        error.add_note(f"meanwhile the server failed:\n{text}")


def portable(failure: BaseException) -> BaseException:
    """
    Make an exception that can be sent to another process, its traceback in a note.
    """
    text = "".join(traceback.format_exception(failure)).rstrip()
    try:
        made = pickle.loads(pickle.dumps(failure))  # noqa: S301 - it is our own
        if type(made) is not type(failure):
            raise TypeError
    except Exception:
        made = RuntimeError(_line(failure))
    made.add_note(f"in the server's process:\n{text}")
    return made  # type: ignore[no-any-return] # see above


def _line(failure: BaseException) -> str:
    return f"{type(failure).__name__}: {failure}"
