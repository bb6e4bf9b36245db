"""
From what was received to what is kept: one thread that tabulates.

It takes all that waits in the intake, makes tables of it, and appends them to the spool as
one entry, which stands for so many datagrams. Every datagram is accounted for at the
moment at which its fate is known: dropped with a reason, or handed over to the spool. What
a tabulator holds back is in flight until it is released, or given up.

With somewhere to forward to, the datagrams that are good are also kept as they came, those
of one exporter together, so that other machines can do with them what was done here. In
front stand those that they refer to, as templates, so that an entry can be read by itself.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from protoserve.account import Account
from protoserve.errors import DeclarationError
from protoserve.rarelog import RareLog
from protoserve.session import Session
from protoserve.telemetry.deadletters import DeadLetters
from protoserve.telemetry.gaps import Gaps
from protoserve.telemetry.intake import Intake
from protoserve.telemetry.logs.base import LogUnavailableError
from protoserve.telemetry.losses import write_losses
from protoserve.telemetry.packing import pack_frames, pack_tables
from protoserve.telemetry.rates import Rates
from protoserve.telemetry.tables import Frames, Refused, Tables, Tabulator
from protoserve.telemetry.trimming import Trimmer

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["COUNTED", "ENOUGH", "Collector", "Output"]

logger = logging.getLogger("protoserve")
_rare = RareLog(logger)

GAPS = ("missing", "duplicates", "reordered", "restarts")
"""What is counted of exporters' own numbers, see `Gaps`."""
COUNTED = ("rows", "bytes", "exporters", *GAPS)
"""What a collector counts beside the fates of datagrams."""
ENOUGH = 4 << 20
"""Bytes of datagrams that are tabulated at a time."""
_AGE = 0.045
"""Seconds from when a datagram came to when it is in the spool, if that can be done."""
_MOST_AT_ONCE = 4096
"""Exporters whose datagrams are tabulated together: each takes a kilobyte meanwhile."""
_TRIES = 256
"""How often in a second what has failed is tried again in halves."""
_TICK = 1.0
"""Seconds between two looks at what waits for too long."""


class Output(Protocol):
    """
    Keeps entries: a spool.
    """

    def append(
        self,
        key: str,
        payload: Any,
        id: str = "",  # noqa: A002 - the port's word
        *,
        count: int = 1,
    ) -> bool:
        """
        Append an entry, which stands for `count` datagrams; say whether it is kept.
        """


class Collector:
    """
    Tabulates what an intake has.

    Args:
        account: where the fate of datagrams is written down.
        intake: where they come from.
        sees_all: whether all that an exporter sends comes here, so that gaps are losses.
    """

    def __init__(
        self, account: Account, intake: Intake, *, sees_all: bool = True
    ) -> None:
        self.gaps = Gaps()
        self._sees_all = sees_all
        self._account = account
        self._intake = intake
        self._told = dict.fromkeys(GAPS, 0)
        self._reported = tuple(self._told.values())
        self._exporters: set[str] = set()
        self._tries = _TRIES
        self._held = 0
        """What waits in the tabulator."""
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._dead_letters: DeadLetters | None = None

    def start(
        self,
        tabulator: Tabulator,
        *,
        tables: Output | None = None,
        frames: Output | None = None,
        dead_letters: DeadLetters | None = None,
        select: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        rates: Rates | None = None,
        losses: Path | None = None,
        enough: int = ENOUGH,
    ) -> None:
        """
        Begin to work, in a thread.

        Args:
            tabulator: makes the tables.
            tables: where tables go, if anywhere.
            frames: where the datagrams themselves go, if anywhere.
            dead_letters: where those are kept that are no messages, if anywhere.
            select: changes tables before they are kept: a filter, a choice of columns.
            rates: how much each exporter may send.
            losses: the file that says what is missing of each, if there is to be one.
            enough: bytes of datagrams that are tabulated at a time.
        """
        self._tabulator = tabulator
        self._tables = tables
        self._frames = frames
        self._dead_letters = dead_letters
        self._select = select
        self._rates = rates
        self._losses = losses
        self._enough = enough
        self._thread = threading.Thread(
            target=self._work, name="protoserve-collector", daemon=True
        )
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """
        Tabulate what has come, and end.

        Returns:
            Whether that was done within `timeout` seconds.
        """
        self._stopping = True
        self._intake.close()
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def refuse(self, data: bytes, session: Session, error: Exception) -> None:
        """
        Account for a frame of a stream that is no message.
        """
        self._account.lose("malformed")
        if self._dead_letters is not None and session.peer is not None:
            moment = time.time_ns()
            self._dead_letters.write(data, session.peer, moment, "malformed", error)

    def _work(self) -> None:
        tick_at = time.monotonic() + _TICK
        trimmer = Trimmer()
        worked = _AGE  # the first may take that
        while True:
            ending = self._stopping
            # What takes long to tabulate waits for less: until then it is in memory only.
            frames = self._intake.gather(_TICK / 4, self._enough, _AGE - worked)
            now = time.monotonic()
            if frames is not None:
                self.collect(frames)
                began, now = now, time.monotonic()
                worked = now - began
            elif ending:
                break
            if now >= tick_at:
                tick_at, self._tries = now + _TICK, _TRIES
                self._settle(self._tabulator.tick(time.time()), None)
                self._report()
            trimmer.after(worked=frames is not None)
        self._settle(self._tabulator.close(), None)
        self._report()
        if self._dead_letters is not None:
            self._dead_letters.close()

    def collect(self, frames: Frames) -> None:
        """
        Tabulate frames and account for them.
        """
        if self._rates is not None:
            kept = self._rates.keep(frames, time.monotonic())
            if kept is not None:
                self._account.drop("rate", len(frames) - len(kept))
                frames = kept
        # The first is taken next. What fails is tried again in halves: a fault of the
        # tabulator's costs those datagrams that it is about, and nothing else.
        parts = [frames]
        while parts:
            part = parts.pop()
            if len(part.exporters) > _MOST_AT_ONCE:
                parts += _halves(part)
                continue
            try:
                made = self._tabulator.tables(part)
            except Exception as exc:
                if len(part) > 1 and self._tries:
                    self._tries -= 1
                    parts += _halves(part)
                    continue
                made = self._failed(part, exc)
            self._settle(made, part)

    def _failed(self, frames: Frames, exc: Exception) -> Tables:
        """
        Refuse datagrams that the tabulator fails at.
        """
        why = f"{type(exc).__name__}: {exc}"
        text = "%d datagrams cannot be tabulated: %s"
        _rare.log(logging.ERROR, text, len(frames), why)
        logger.debug("the tabulator failed", exc_info=exc)
        return Tables(
            refused=[Refused(i, "malformed", why) for i in range(len(frames))]
        )

    def _settle(self, made: Tables, frames: Frames | None) -> None:
        """
        Keep tables, and account for the datagrams behind them.
        """
        held = self._held + made.held
        # One that has failed may hold what was then given to it again.
        released = min(made.released, held)
        expired = min(made.expired, held - released)
        self._held = held - released - expired
        count = released
        if frames is not None:
            count += len(frames) - len(made.refused) - made.held
            self._refuse(made, frames)
            now = time.monotonic()
            for sequences in made.sequences if self._sees_all else ():
                self.gaps.follow(sequences, frames.exporters, now)
            self._know(frames)
        is_kept = self._tables is not None or self._frames is None
        if expired and is_kept:  # else it has been forwarded, whatever it is
            self._account.drop("template", expired)
        tables = dict(made.tables)
        if self._select is not None and tables:
            try:
                tables = self._select(tables)
            except DeclarationError as exc:
                tables = {}
                self._account.drop("sink", count)  # no fault of who sent them
                count = 0
                _rare.log(logging.ERROR, "%s", exc)
        self._tell("rows", sum(table.num_rows for table in tables.values()))
        if frames is not None:
            self._tell("bytes", int(frames.lengths.sum()))
        for name in GAPS:
            self._tell(name, getattr(self.gaps, name) - self._told[name])
            self._told[name] = getattr(self.gaps, name)
        if self._frames is not None and frames is not None:
            self._forward(frames, made)
        if self._tables is None:
            if self._frames is None and count:
                self._account.deliver(count)
        elif tables:
            self._keep(self._tables, "", pack_tables(tables), count)
        elif count:
            self._account.deliver(count)  # there is nothing in them to be stored

    def _report(self) -> None:
        """
        Write down what is missing of each exporter, if that is something else now.
        """
        told = tuple(self._told.values())
        if self._losses is not None and told != self._reported:
            self._reported = told
            write_losses(self._losses, self.gaps)

    def _tell(self, name: str, number: int) -> None:
        if number:
            self._account.add(name, number)

    def _refuse(self, made: Tables, frames: Frames) -> None:
        for refused in made.refused:
            self._account.drop(refused.reason)
            if self._dead_letters is not None:
                place = refused.index
                peer = frames.exporters[int(frames.senders[place])]
                moment = int(frames.times[place])
                self._dead_letters.write(
                    frames.frame(place), peer, moment, refused.reason, refused.error
                )

    def _know(self, frames: Frames) -> None:
        """
        Count exporters; a flood of senders is not remembered.
        """
        known = self._exporters
        before = len(known)
        if before < _MOST_EXPORTERS:
            room = _MOST_EXPORTERS - before
            new = (p.host for p in frames.exporters if p.host not in known)
            known.update(itertools.islice(new, room))
            self._tell("exporters", len(known) - before)

    def _forward(self, frames: Frames, made: Tables) -> None:
        """
        Keep the good datagrams as they came, those of one exporter together.
        """
        good = np.ones(len(frames), np.bool_)
        good[[refused.index for refused in made.refused]] = False
        places = np.flatnonzero(good)
        places = places[np.argsort(frames.senders[places], kind="stable")]
        others = np.flatnonzero(np.diff(frames.senders[places])) + 1
        for mine in np.split(places, others) if len(places) else ():
            peer = frames.exporters[int(frames.senders[mine[0]])]
            before = self._tabulator.preface(peer)
            for part in _in_parts(mine, frames.lengths):
                payload = pack_frames(_picked(frames, part, before))
                assert self._frames is not None
                if self._tables is None:
                    self._keep(self._frames, peer.host, payload, len(part))
                else:
                    self._frames.append(peer.host, payload, count=len(part))

    def _keep(self, output: Output, key: str, payload: Any, count: int) -> None:
        """
        Append an entry, and account for its datagrams.
        """
        try:
            kept = output.append(key, payload, count=count)
        except LogUnavailableError as exc:
            kept = False
            _rare.log(logging.ERROR, "%s", exc)
        if kept:
            self._account.hand_over(count)
        else:
            self._account.drop("sink", count)


def _halves(frames: Frames) -> list[Frames]:
    """
    Cut frames in two, the later ones first.
    """
    middle = len(frames) // 2
    found = []
    for half in (slice(middle, None), slice(middle)):
        used, senders = np.unique(frames.senders[half], return_inverse=True)
        exporters = [frames.exporters[place] for place in used.tolist()]
        starts, lengths = frames.starts[half], frames.lengths[half]
        times = frames.times[half]
        found.append(Frames(frames.data, starts, lengths, times, senders, exporters))
    return found


_MOST_EXPORTERS = 10_000
_MOST_BYTES = 512 << 10
"""Of datagrams in one entry that is forwarded; brokers take a megabyte, as a rule."""


def _in_parts(
    places: NDArray[np.int64], lengths: NDArray[np.int64]
) -> Sequence[NDArray[np.int64]]:
    """
    Cut places into runs whose frames are not too many bytes together.
    """
    if not len(places):
        return []
    parts = np.cumsum(lengths[places]) // _MOST_BYTES
    return np.split(places, np.flatnonzero(np.diff(parts)) + 1)


def _picked(
    frames: Frames, places: NDArray[np.int64], before: Sequence[bytes]
) -> Frames:
    """
    Pick frames of one sender, behind those that they refer to, which have no time.
    """
    starts, lengths = frames.starts[places], frames.lengths[places]
    pieces = [np.frombuffer(data, np.uint8) for data in before]
    pieces += [
        frames.data[start : start + length]
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
    ]
    sizes = np.array([len(piece) for piece in pieces], "i8")
    peer = frames.exporters[int(frames.senders[places[0]])]
    return Frames(
        np.concatenate(pieces),
        np.cumsum(sizes) - sizes,
        sizes,
        np.concatenate([np.zeros(len(before), "i8"), frames.times[places]]),
        np.zeros(len(pieces), "i8"),
        [peer],
    )
