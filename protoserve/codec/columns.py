"""
Columns of NumPy arrays whose records are messages.

A column is where its values are on the wire, what makes values of that, and which of
them `parse` would refuse. `protoserve.codec.dtype` makes columns of a message's plan;
here they are used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from protoserve.codec.plan import Size
from protoserve.errors import MalformedMessageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Columns", "Convert", "Leaf", "Repeating", "each", "integers"]

Convert = Callable[["NDArray[Any]"], "NDArray[Any]"]


@attrs.frozen
class Leaf:
    """
    One column: where it is, how its values are made, and which are malformed.
    """

    name: str
    keys: tuple[str, ...] = ()
    convert: Convert | None = None
    fits: Convert | None = None
    """Gives for each value whether it is well-formed; `None`: all are."""
    is_value: bool = True
    """Whether it is a column for users, not only something to check."""

    def within(self, name: str, *keys: str) -> Leaf:
        """
        Give the same, as a part of something.
        """
        joined = f"{name}.{self.name}" if name and self.name else name or self.name
        return attrs.evolve(self, name=joined, keys=(*keys, *self.keys))

    def of(self, rows: NDArray[Any]) -> NDArray[Any]:
        """
        Take what is on the wire out of records.
        """
        for key in self.keys:
            rows = rows[key]
        return rows


@attrs.frozen(eq=False)
class Columns:
    """
    The columns of records that have one fixed layout.
    """

    dtype: np.dtype[Any]
    owner: Any
    """The message class, or `None` for a plain structure."""
    _leaves: dict[str, Leaf]
    _checks: tuple[Leaf, ...]
    _parsed: bool
    """Whether only parsing tells if a record is well-formed."""

    @property
    def names(self) -> tuple[str, ...]:
        """
        The columns, those of nested parts with dots.
        """
        return tuple(self._leaves)

    @property
    def has_checks(self) -> bool:
        """
        Whether `matches` may leave out any record.
        """
        return bool(self._checks or self._parsed)

    def column(self, rows: NDArray[Any], name: str) -> NDArray[Any]:
        """
        Take one column out of records.

        Args:
            rows: an array of `dtype`, of any shape.
            name: one of `names`.

        Returns:
            The values, a view where no work is needed; lists have an axis of their own.
        """
        leaf = self._leaves[name]
        values = leaf.of(rows)
        return values if leaf.convert is None else leaf.convert(values)

    def matches(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """
        Say which records `parse` would take.

        Constants, strict enums, counts, lengths and text are looked at a column at a
        time. Where there is more (checksums, validators, what only Construct knows),
        the records that are left are parsed one by one.

        Args:
            rows: a one-dimensional array of `dtype`.
        """
        import numpy as np

        good = np.ones(len(rows), np.bool_)
        for leaf in self._checks:
            assert leaf.fits is not None
            fits = leaf.fits(leaf.of(rows))
            good &= fits.all(axis=tuple(range(1, fits.ndim)))
        if self._parsed:
            for i in np.flatnonzero(good):
                try:
                    self.owner.parse(rows[i : i + 1].tobytes())
                except MalformedMessageError:
                    good[i] = False
        return good


@attrs.frozen(eq=False)
class Repeating:
    """
    A fixed head, and behind it records of one fixed layout up to the message's end.
    """

    head: Columns
    """Its `matches` leaves out what only parsing the whole message tells."""
    name: str
    """The field that the records are."""
    rows: Columns
    count: Size
    """How many: a number, a function of the head, or `None`: as many as there are."""
    is_checked: bool = False
    """Whether `matches` of head and records refuses all that parsing would."""

    def split(self, data: bytes | memoryview) -> tuple[NDArray[Any], NDArray[Any]]:
        """
        Find head and records in the bytes of one message.

        Fields of the head that follow from the records are not checked.

        Returns:
            An array of one head, and the array of the records, without copying.

        Raises:
            MalformedMessageError: there are other bytes than these.
        """
        import numpy as np

        start, each, size = (
            self.head.dtype.itemsize,
            self.rows.dtype.itemsize,
            len(data),
        )
        where = f"{getattr(self.head.owner, '__name__', '')}.{self.name}"
        if size < start:
            raise MalformedMessageError(where, 0, f"{start} bytes", str(size))
        head = np.ndarray((1,), self.head.dtype, data)
        count = self.count(head[0]) if callable(self.count) else self.count
        if count is None:
            count = (size - start) // each
        if count < 0 or start + int(count) * each != size:
            expected = f"{count} records of {each} bytes"
            raise MalformedMessageError(where, start, expected, f"{size - start} bytes")
        return head, np.ndarray((int(count),), self.rows.dtype, data, start)


def integers(values: NDArray[Any], order: str, signed: bool) -> NDArray[Any]:
    """
    Make integers of the last axis's bytes.
    """
    import numpy as np

    size = values.shape[-1]
    name: Any = "big" if order == ">" else "little"
    if size > 8:
        rows = values.reshape(-1, size)
        made = np.empty(len(rows), object)
        made[:] = [int.from_bytes(row.tobytes(), name, signed=signed) for row in rows]
        return made.reshape(values.shape[:-1])
    whole = np.zeros((*values.shape[:-1], 8), "u1")
    if signed:  # the bytes in front say the sign too
        top = values[..., 0 if order == ">" else -1]
        whole[...] = np.where(top >= 128, 255, 0)[..., None]
    whole[..., slice(8 - size, 8) if order == ">" else slice(0, size)] = values
    return whole.view(f"{order}{'i' if signed else 'u'}8")[..., 0]


def each(
    function: Callable[[Any], Any], values: NDArray[Any], kind: Any = object
) -> NDArray[Any]:
    """
    Call a function with each value, as Python has it.
    """
    import numpy as np

    made = np.empty(values.size, kind)
    made[:] = [function(value) for value in values.reshape(-1).tolist()]
    return made.reshape(values.shape)
