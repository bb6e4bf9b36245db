"""
Make a case smaller as long as it still shows the same.

First steps are left out, then pauses, then what was changed in a frame is changed
back, byte by byte; what is left is the cause, or next to it. Each try is a replay
against the server, so their number and their time are bounded.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs

from protoserve.testing.torturing.cases import Case, Pause, Send, Step

__all__ = ["minimised"]

_MOST_TRIES = 120


def minimised(case: Case, shows: Callable[[Case], bool], seconds: float = 8.0) -> Case:
    """
    Make a case smaller.

    Args:
        case: one that shows something.
        shows: plays a case and says whether it still does.
        seconds: when to stop.
    """
    return _Search(case, shows, time.monotonic() + seconds).run()


@attrs.define
class _Search:
    case: Case
    shows: Callable[[Case], bool]
    deadline: float
    tries: int = 0

    def run(self) -> Case:
        self._drop_steps()
        self._drop_frames()
        self._restore_bytes()
        self._shorten()
        return self.case

    def _try(self, steps: tuple[Step, ...]) -> bool:
        if not any(isinstance(step, Send) for step in steps):
            return False
        if self.tries >= _MOST_TRIES or time.monotonic() > self.deadline:
            return False
        self.tries += 1
        smaller = attrs.evolve(self.case, steps=steps)
        if not self.shows(smaller):
            return False
        self.case = smaller
        return True

    def _drop_steps(self) -> None:
        """
        Leave out runs of steps, long ones first.
        """
        size = len(self.case.steps) // 2
        while size:
            at = 0
            while at < len(self.case.steps):
                steps = self.case.steps
                if not self._try(steps[:at] + steps[at + size :]):
                    at += size
            size //= 2

    def _drop_frames(self) -> None:
        """
        Join what goes out in pieces, and leave out what follows.
        """
        at = 0
        while at + 1 < len(self.case.steps):
            steps = self.case.steps
            here, behind = steps[at], steps[at + 1]
            if isinstance(here, Pause):
                if self._try(steps[:at] + steps[at + 1 :]):
                    continue
            elif (
                isinstance(here, Send)
                and isinstance(behind, Send)
                and here.on == behind.on
            ):
                joined = Send(here.data + behind.data, here.on)
                if self._try((*steps[:at], joined, *steps[at + 2 :])):
                    continue
            at += 1

    def _restore_bytes(self) -> None:
        """
        Change back what was changed in the valid frame that it was made from.
        """
        origin = self.case.origin
        for i, step in enumerate(self.case.steps):
            if not isinstance(step, Send) or len(step.data) != len(origin):
                continue
            for at in range(len(origin)):
                data = self._sent(i)
                if data[at] != origin[at]:
                    self._replace(i, data[:at] + origin[at : at + 1] + data[at + 1 :])

    def _shorten(self) -> None:
        """
        Leave out pieces of what is long.
        """
        for i, step in enumerate(self.case.steps):
            if not isinstance(step, Send) or len(step.data) < 64:
                continue
            size = len(step.data) // 2
            while size >= 8:
                data = self._sent(i)
                if len(data) <= size or not self._replace(i, data[: len(data) - size]):
                    size //= 2

    def _sent(self, i: int) -> bytes:
        step = self.case.steps[i]
        assert isinstance(step, Send)
        return step.data

    def _replace(self, i: int, data: bytes) -> bool:
        steps = self.case.steps
        step = steps[i]
        assert isinstance(step, Send)
        return self._try((*steps[:i], Send(data, step.on), *steps[i + 1 :]))
