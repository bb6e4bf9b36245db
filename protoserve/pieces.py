"""
Pieces of memory of one layout, copied from wherever they are into an array.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["gathered", "runs"]


def gathered(data: Any, starts: NDArray[np.int64], dtype: np.dtype[Any]) -> Any:
    """
    Copy one piece from each start.

    Args:
        data: contiguous memory; every piece is within it.
        starts: where the pieces begin, in bytes, in any order.
        dtype: what each is.
    """
    size = dtype.itemsize
    if not len(starts) or not size:
        return np.zeros(len(starts), dtype)
    # Every byte begins a piece here, and they overlap.
    pieces: Any = np.ndarray((len(data) - size + 1,), f"V{size}", data, 0, (1,))
    return pieces[starts].view(dtype)


def runs(
    data: Any,
    starts: NDArray[np.int64],
    counts: NDArray[np.int64],
    dtype: np.dtype[Any],
) -> Any:
    """
    Copy records that stand behind each other, so many from each start.
    """
    run = int(counts[0]) if len(counts) else 0
    if run and (counts == run).all():  # as it mostly is: each run is one piece
        return gathered(data, starts, np.dtype((dtype, (run,)))).reshape(-1)
    before = np.cumsum(counts) - counts
    places = np.repeat(starts - before * dtype.itemsize, counts)
    places += np.arange(len(places)) * dtype.itemsize
    return gathered(data, places, dtype)
