"""
Keep worker processes at work: start them, replace the dead, end them all.

A worker has a *slot*, a number that says which part of the work is its own. Each
slot has one worker that serves. Ways that workers come and go:

- A worker that ends without having been asked to is replaced: at once the first
  time, then after a delay that doubles while new ones do not live long either. So a
  crash loop costs little and logs little.
- As long as not every slot has had a worker that was ready, a failure ends it all:
  what cannot start now will not start by being tried again.
- `Supervisor.replace` puts a new worker beside each old one, and asks the old one to
  end only when the new one is ready.
- A worker whose supervisor is gone ends itself. It notices by its parent's process
  id, which needs no descriptor and cannot be kept from it by anybody's copy of one.

Workers are forked, and leave by `os._exit`: what the parent has on its stack may not
run twice. Their exit functions are their own. SIGTERM asks a worker to end. SIGINT and
SIGHUP do nothing there: a terminal sends them to the workers too, but it is for the
supervisor to act on them. These signals are blocked across the fork, as the interpreter
of a child forgets those that came before it was ready. Each child is waited for by its
own number, since other children of this process are somebody else's.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import NoReturn

from protoserve.rarelog import RareLog
from protoserve.server._reporting import logger
from protoserve.server._waiting import Waiter, Waker
from protoserve.server.fork import _flush_standard_streams

__all__ = ["Supervisor", "WorkerError", "end_children", "worker_count"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LOOK_AGAIN = 0.2
"""Seconds between looks at the workers, and between two requests to end."""
_LOOK_AT_PARENT = 1.0
"""Seconds between a worker's looks at whether its parent is there."""
_STEADY = 10.0
"""Seconds that a worker has to live for its death to count as the first."""
_DELAY = 0.1
"""Seconds before a slot's third worker, if the first two did not live long."""
_LONGEST_DELAY = 30.0
_GRACE = 1.0
"""Seconds beyond the drain that a worker has to end what it could not finish."""
_LONGEST_TEXT = 4000
"""Bytes of a worker's last words; a pipe takes so many in one piece."""
_READY = b"\0"


class WorkerError(RuntimeError):
    """
    The workers cannot start; the text says why.
    """


def worker_count(asked: int | str | None) -> int:
    """
    Say how many workers there are to be.

    Args:
        asked: a number above 0; None or ``"auto"`` for as many as there are CPUs that
            this process may run on.

    Raises:
        ValueError: it is something else.
    """
    if asked is None or asked == "auto":
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise ValueError(
            f"workers: expected a whole number above 0 or auto, not {asked!r}"
        )
    return asked


def end_children(pids: Collection[int], seconds: float) -> int:
    """
    Ask children of this process to end, wait, and kill those that do not in time.

    They are asked again and again: one that was forked just now may have forgotten.

    Args:
        pids: which ones.
        seconds: how long they may take.

    Returns:
        How many were killed.
    """
    left = set(pids)
    deadline = time.monotonic() + seconds
    ask_at = 0.0
    try:
        while True:
            now = time.monotonic()
            if now >= ask_at:
                ask_at = now + _LOOK_AGAIN
                _signal_all(left, signal.SIGTERM)
            left -= {pid for pid in left if _reap(pid) is not None}
            if not left or now >= deadline:
                break
            time.sleep(0.01)
    finally:  # also when another Ctrl-C has cut the wait short
        _signal_all(left, signal.SIGKILL)
        for pid in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
    return len(left)


def _signal_all(pids: Collection[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _reap(pid: int) -> str | None:
    """
    Give how a child has ended; None if it has not.
    """
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return "was waited for by somebody else"
    if not ended:
        return None
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(number).name}"
        return f"was ended by signal {number}"
    return f"ended with exit code {os.WEXITSTATUS(status)}"


# Without attrs: the classic stack runs where only the standard library is installed.
class _Worker:
    """
    A worker, from the parent's side.
    """

    __slots__ = ("is_ready", "kill_at", "pid", "reader", "slot", "started_at", "text")

    def __init__(self, pid: int, slot: int, reader: int) -> None:
        self.pid = pid
        self.slot = slot
        self.reader: int | None = reader
        """Where it says that it is ready, or its last words; None once it has."""
        self.started_at = time.monotonic()
        self.is_ready = False
        self.text = ""
        self.kill_at = 0.0

    def listen(self) -> None:
        """
        Take what it has said, if anything.
        """
        if self.reader is None:
            return
        with contextlib.suppress(BlockingIOError):
            said = os.read(self.reader, _LONGEST_TEXT)
            self.is_ready = said == _READY
            self.text = said.strip(_READY).decode(errors="replace")
            self.let_go()

    def let_go(self) -> None:
        """
        Listen no more.
        """
        reader, self.reader = self.reader, None
        if reader is not None:
            os.close(reader)


class _Slot:
    """
    A part of the work: the worker that does it, and the one that is to follow.
    """

    __slots__ = ("current", "deaths", "start_at", "successor")

    def __init__(self) -> None:
        self.current: _Worker | None = None
        self.successor: _Worker | None = None
        self.deaths = 0
        """How many workers in a row did not live long."""
        self.start_at = 0.0


class Supervisor:
    """
    Keeps a number of worker processes at work.

    Args:
        work: called in each worker with its slot and a function to call once it is
            ready to serve. When it returns, the worker ends.
        count: how many slots there are.
        stop: called in a worker, by a signal handler and more than once, when it is
            to end.
        drain: seconds that workers may take to end.
    """

    def __init__(
        self,
        work: Callable[[int, Callable[[], None]], None],
        count: int,
        *,
        stop: Callable[[], None],
        drain: float,
    ) -> None:
        self._work = work
        self._stop = stop
        self._drain = drain
        self._slots = [_Slot() for _ in range(count)]
        self._leaving: list[_Worker] = []
        self._to_replace: list[_Worker] = []
        self._replace_asked = False
        self._started = False
        self._waiter = Waiter(Waker())
        self._rare = RareLog(logger)

    @property
    def pids(self) -> set[int]:
        """
        The process ids of all workers, also of those that are about to end.
        """
        return {worker.pid for worker in self._workers()}

    def wake(self) -> None:
        """
        Let `run` look at once at whether it is to stop; for signal handlers too.
        """
        assert self._waiter.waker is not None
        self._waiter.waker.wake()

    def replace(self) -> None:
        """
        Ask to replace all workers, one by one; for signal handlers too.
        """
        self._replace_asked = True
        self.wake()

    def run(
        self, stopping: Callable[[], bool], on_ready: Callable[[], object] | None = None
    ) -> None:
        """
        Keep the workers at work until it is to stop; `end` them afterwards.

        Args:
            stopping: says whether it is to stop.
            on_ready: called when every slot has a worker that is ready, once.

        Raises:
            WorkerError: a worker ended before that.
        """
        while not stopping():
            self._turn()
            if not self._started and self._all_ready():
                self._started = True
                if on_ready is not None:
                    on_ready()

    def _all_ready(self) -> bool:
        workers = [slot.current for slot in self._slots]
        return all(worker is not None and worker.is_ready for worker in workers)

    def end(self) -> None:
        """
        Ask all workers to end, wait, and kill those that do not in time.
        """
        try:
            killed = end_children(self.pids, self._drain + _GRACE)
        finally:
            for worker in self._workers():
                worker.let_go()
            self._forget_workers()
        if killed:
            logger.warning(
                "%d workers had not ended %s s after they were asked to and were killed",
                killed,
                self._drain + _GRACE,
            )

    def _workers(self) -> Iterator[_Worker]:
        for slot in self._slots:
            if slot.current is not None:
                yield slot.current
            if slot.successor is not None:
                yield slot.successor
        yield from self._leaving

    def _forget_workers(self) -> None:
        self._slots = [_Slot() for _ in self._slots]
        self._leaving.clear()

    def _turn(self) -> None:
        now = time.monotonic()
        for number, slot in enumerate(self._slots):
            if slot.current is None and now >= slot.start_at:
                slot.current = self._start(number)
        waiting = {w.reader for w in self._workers() if w.reader is not None}
        self._waiter.wait(waiting, _LOOK_AGAIN)
        for worker in list(self._workers()):
            worker.listen()
            how = _reap(worker.pid)
            if how is not None:
                worker.listen()  # what it said between the two looks
                worker.let_go()
                self._bury(worker, how)
        self._go_on_replacing()
        self._see_off()

    # The ones that die -----------------------------------------------------

    def _bury(self, worker: _Worker, how: str) -> None:
        if worker in self._leaving:
            self._leaving.remove(worker)
            return
        slot = self._slots[worker.slot]
        what = f"could not start: {worker.text}" if worker.text else how
        if worker is slot.successor:
            slot.successor = None
            self._to_replace.clear()
            logger.error("worker %d %s; the old ones stay", worker.pid, what)
            return
        if not self._started:
            raise WorkerError(worker.text or f"a worker {how} before it was ready")
        slot.current, slot.successor = slot.successor, None
        if slot.current is None:
            delay = self._put_off(slot, time.monotonic() - worker.started_at)
            when = f"in {delay:g} s" if delay else "at once"
            text = "worker %d %s; a new one starts %s"
            self._rare.log(logging.ERROR, text, worker.pid, what, when)

    @staticmethod
    def _put_off(slot: _Slot, lived: float) -> float:
        """
        Set when a slot's next worker starts; give the seconds until then.
        """
        slot.deaths = 1 if lived >= _STEADY else slot.deaths + 1
        delay = 0.0
        if slot.deaths > 1:
            delay = min(_LONGEST_DELAY, _DELAY * 2 ** min(slot.deaths - 2, 16))
        slot.start_at = time.monotonic() + delay
        return delay

    # The ones that are replaced --------------------------------------------

    def _go_on_replacing(self) -> None:
        if self._replace_asked and not self._to_replace and not self._leaving:
            # Only when the last round is over, or there might be ever more of them.
            self._replace_asked = False
            self._to_replace = [s.current for s in self._slots if s.current is not None]
        while self._to_replace:
            old = self._to_replace[0]
            slot = self._slots[old.slot]
            if slot.current is old:
                if slot.successor is None:
                    slot.successor = self._start(old.slot)
                if slot.successor is None or not slot.successor.is_ready:
                    return
                slot.current, slot.successor = slot.successor, None
                old.kill_at = time.monotonic() + self._drain + _GRACE
                self._leaving.append(old)
            self._to_replace.pop(0)
            if not self._to_replace:
                logger.info("all workers are replaced")

    def _see_off(self) -> None:
        for worker in self._leaving:
            late = time.monotonic() >= worker.kill_at
            _signal_all([worker.pid], signal.SIGKILL if late else signal.SIGTERM)

    # Starting one ----------------------------------------------------------

    def _start(self, number: int) -> _Worker | None:
        slot = self._slots[number]
        try:
            return self._fork(number)
        except OSError as error:
            if not self._started:
                raise WorkerError(f"cannot start a worker: {error}") from error
            delay = self._put_off(slot, 0)
            self._to_replace.clear()
            text = "cannot start a worker: %s; trying again in %g s"
            self._rare.log(logging.ERROR, text, error, delay)
            return None

    def _fork(self, number: int) -> _Worker:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        _flush_standard_streams()
        parent = os.getpid()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                self._become_worker(number, parent, reader, writer, mask)
        except BaseException:
            os.close(reader)
            raise
        finally:
            if os.getpid() != parent:
                os._exit(1)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(writer)
        return _Worker(pid, number, reader)

    # In the worker ---------------------------------------------------------

    def _become_worker(
        self, number: int, parent: int, reader: int, writer: int, mask: Collection[int]
    ) -> NoReturn:
        status = 1
        told = False

        def say(said: bytes) -> None:
            nonlocal told
            if not told:
                told = True
                with contextlib.suppress(OSError):
                    os.write(writer, said[:_LONGEST_TEXT])
                os.close(writer)

        try:
            self._forget_parent(reader)
            drain = self._drain + _GRACE
            threading.Thread(
                target=_end_with_parent, args=(parent, drain), daemon=True
            ).start()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            self._work(number, lambda: say(_READY))
            status = 0
        except SystemExit as exc:
            status = exc.code if isinstance(exc.code, int) else int(bool(exc.code))
        except BaseException as error:
            if told:
                logger.error("a worker failed", exc_info=error)
            else:
                say((str(error) or type(error).__name__).encode())
        finally:
            try:
                atexit._run_exitfuncs()
                _flush_standard_streams()
            finally:
                os._exit(status)

    def _forget_parent(self, reader: int) -> None:
        """
        Give up what is the parent's own: its descriptors, signals, exit functions.
        """
        atexit._clear()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        os.close(reader)
        for worker in self._workers():
            worker.let_go()
        self._forget_workers()
        self._waiter = Waiter()


def _end_with_parent(parent: int, seconds: float) -> None:
    """
    End this process when its parent has ended: ask it to, then insist.
    """
    while os.getppid() == parent:
        time.sleep(_LOOK_AT_PARENT)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_LOOK_AGAIN)
    os.kill(os.getpid(), signal.SIGKILL)
