"""
The sets of thousands of datagrams at once: set number k of each is found in one step.

Nothing of the data is looked at here but version, lengths and set ids. A datagram is
well-formed if its sets fill it exactly, but for the zeros that some exporters put behind
those of version 9 (see `filling`), or it is left out as a whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from protocols.netflow.templates import IPFIX, V9
from protoserve.telemetry.tables import Frames

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["HEADS", "MOST_SETS", "V5", "Sets", "Walked", "number", "walk"]

V5 = 5
MOST_SETS = 1024
"""Sets of one datagram; beyond it, one hostile datagram would keep all others waiting."""

HEADS = {V5: 24, V9: 20, IPFIX: 16}
"""Bytes of a datagram's head."""
_SET_HEAD = 4
_V5_RECORD = 48


@attrs.frozen(eq=False)
class Sets:
    """
    Sets, in the order of their frames and in them; all arrays are of one length.
    """

    frames: NDArray[np.int64]
    """The frame that each is in."""
    ids: NDArray[np.int64]
    starts: NDArray[np.int64]
    """Where its content begins, behind the four bytes of its head."""
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.frames)

    def where(self, chosen: NDArray[Any]) -> Sets:
        """
        Give some of them.
        """
        return Sets(
            self.frames[chosen],
            self.ids[chosen],
            self.starts[chosen],
            self.ends[chosen],
        )


@attrs.define(eq=False)
class Walked:
    """
    What some frames are made of.
    """

    versions: NDArray[np.int64]
    """The version of each frame; 0 for those that are no use."""
    sets: Sets
    """Those of v9 and IPFIX."""
    refused: dict[int, str]
    """What is wrong with a frame."""

    def refuse(self, frame: int, why: str) -> None:
        """
        Leave a frame out.
        """
        self.refused[frame] = why
        self.versions[frame] = 0


def number(data: NDArray[np.uint8], at: NDArray[np.int64], size: int) -> Any:
    """
    Read unsigned integers of `size` bytes at some places.
    """
    found = data[at].astype(np.int64)
    for i in range(1, size):
        found = found << 8 | data[at + i]
    return found


def walk(frames: Frames) -> Walked:
    """
    Find the sets of frames.
    """
    data, starts, lengths = frames.data, frames.starts, frames.lengths
    versions = np.zeros(len(starts), np.int64)
    refused: dict[int, str] = {}
    long_enough = lengths >= 2
    versions[long_enough] = number(data, starts[long_enough], 2)
    heads = np.zeros(len(starts), np.int64)
    for version, size in HEADS.items():
        heads[versions == version] = size
    _refuse(refused, heads == 0, lambda i: _unknown(int(versions[i]), int(lengths[i])))
    cut = (heads > 0) & (lengths < heads)
    _refuse(
        refused,
        cut,
        lambda i: f"expected a head of {heads[i]} bytes, found {lengths[i]}",
    )
    good = (heads > 0) & ~cut
    claimed = np.zeros(len(starts), np.int64)
    places = np.flatnonzero(good & (versions != V9))
    claimed[places] = number(data, starts[places] + 2, 2)
    v5 = good & (versions == V5)
    wrong = v5 & (lengths != HEADS[V5] + _V5_RECORD * claimed)
    _refuse(
        refused,
        wrong,
        lambda i: (
            f"expected {claimed[i]} flows of 48 bytes, found {lengths[i] - 24} bytes"
        ),
    )
    unlike = good & (versions == IPFIX) & (lengths != claimed)
    _refuse(
        refused,
        unlike,
        lambda i: f"expected a message of {claimed[i]} bytes, found {lengths[i]}",
    )
    good &= ~wrong & ~unlike
    sets = _sets(frames, heads, np.flatnonzero(good & ~v5), refused)
    if refused:
        bad = np.fromiter(refused, np.int64, len(refused))
        versions[bad] = 0
        sets = sets.where(versions[sets.frames] > 0)
    return Walked(versions, sets, refused)


def _sets(
    frames: Frames, heads: Any, active: NDArray[np.int64], refused: dict[int, str]
) -> Sets:
    data = frames.data
    at = (frames.starts + heads)[active]
    end = (frames.starts + frames.lengths)[active]
    found: list[tuple[Any, ...]] = []
    for _ in range(MOST_SETS):
        going = at < end
        if not going.all():
            active, at, end = active[going], at[going], end[going]
        if not len(active):
            break
        whole = end - at >= _SET_HEAD
        if not whole.all():
            places = _unfilled(data, heads[active], at, end, ~whole)
            _refuse(
                refused, active[places], lambda _: "expected a set, found its head cut"
            )
            active, at, end = active[whole], at[whole], end[whole]
        ids, sizes = number(data, at, 2), number(data, at + 2, 2)
        fits = (sizes >= _SET_HEAD) & (sizes <= end - at)
        if not fits.all():
            places = _unfilled(data, heads[active], at, end, ~fits)
            _refuse(
                refused,
                active[places],
                lambda _: "expected a set's length within the datagram, from 4 on",
            )
            active, at, end = active[fits], at[fits], end[fits]
            ids, sizes = ids[fits], sizes[fits]
        found.append((active, ids, at + _SET_HEAD, at + sizes))
        at = at + sizes
    else:
        left = active[at < end]
        _refuse(refused, left, lambda _: f"expected at most {MOST_SETS} sets")
    if not found:
        none = np.zeros(0, np.int64)
        return Sets(none, none, none, none)
    joined = [np.concatenate(parts) for parts in zip(*found, strict=True)]
    # Step by step they came; a stable sort brings each frame's together.
    order = np.argsort(joined[0], kind="stable")
    return Sets(*(part[order] for part in joined))


def _unfilled(
    data: NDArray[np.uint8], heads: Any, at: Any, end: Any, which: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """
    Find those that have something else than version 9's filling behind their last set.
    """
    places = np.flatnonzero(which)
    wrong = [
        heads[i] != HEADS[V9] or bool(data[at[i] : end[i]].any())
        for i in places.tolist()
    ]
    return places[np.array(wrong, np.bool_)]


def _refuse(refused: dict[int, str], which: Any, why: Any) -> None:
    places = np.flatnonzero(which) if which.dtype == np.bool_ else which
    for place in places.tolist():
        refused[place] = why(place)


def _unknown(version: int, length: int) -> str:
    if length < 2:
        return f"expected a version in 2 bytes, found {length}"
    return f"expected version 5, 9 or 10, found {version}"
