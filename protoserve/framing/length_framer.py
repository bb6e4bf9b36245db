"""
The decoders behind `LengthPrefixed` and `LengthField`.

They differ in one number: how much of the frame's head is handed out.
"""

from __future__ import annotations

from typing import Any, NoReturn

from protoserve.codec.frame import LengthHead
from protoserve.framing.buffer import BufferedFramer
from protoserve.framing.lengths import Layout

__all__ = ["length_framer"]


class _LengthFramer(BufferedFramer):
    def __init__(self, max_size: int, layout: Layout, *, strip: bool) -> None:
        super().__init__(max_size)
        self._layout = layout
        self._strip = strip

    def _refuse(self, value: int, size: int, least: int, most: int) -> NoReturn:
        """
        Refuse a number: a frame of `least` to `most` bytes would be allowed.
        """
        layout = self._layout
        plus = layout.total(0, size)
        limit = most - plus
        if value + plus >= least:
            swapped = layout.number.swapped(self._data, self._start + layout.offset)
            if swapped is not None and not least <= swapped + plus <= most:
                swapped = None
            self._too_long(value, limit, layout.offset, swapped)
        smallest = least - plus
        if smallest <= 0:
            self._too_long(value, limit, layout.offset)
        note = f"the number read is {value} and {smallest} is the smallest possible"
        self._too_long(value - smallest, limit, layout.offset, note=note)


class _FixedLengthFramer(_LengthFramer):
    def __init__(
        self, max_size: int, layout: Layout, head: LengthHead, *, strip: bool
    ) -> None:
        super().__init__(max_size, layout, strip=strip)
        self._unpack: Any = head.unpack
        self._offset = head.offset
        self._head = head.size
        self._plus = head.plus
        self._skip = head.skip
        self._most = head.most

    def decode(self) -> bytes | None:
        data = self._data
        start = self._start
        have = len(data) - start
        if have < self._head:
            return self._wait()
        (value,) = self._unpack(data, start + self._offset)
        total = value + self._plus
        if not self._head <= total <= self._most:
            self._refuse(value, self._head - self._offset, self._head, self._most)
        if have < total:
            return None
        self._start = start + total
        frame = data[start + self._skip : start + total]
        return frame if type(frame) is bytes else bytes(frame)


class _VariableLengthFramer(_LengthFramer):
    def decode(self) -> bytes | None:
        data = self._data
        start = self._start
        layout = self._layout
        try:
            found = layout.number.read(data, start + layout.offset, self._most())
        except OverflowError as exc:
            self._corrupt(str(exc), layout.offset)
        if found is None:
            return self._wait()
        value, size = found
        head = layout.offset + size
        skip = size if self._strip else 0
        total = layout.total(value, size)
        if not head <= total <= self.max_size + skip:
            self._refuse(value, size, head, self.max_size + skip)
        if len(data) - start < total:
            return None
        self._start = start + total
        frame = data[start + skip : start + total]
        return frame if type(frame) is bytes else bytes(frame)

    def _most(self) -> int:
        """
        A bound that no number in a good frame exceeds.
        """
        return self.max_size - self._layout.adjustment + 16


def length_framer(
    max_size: int, layout: Layout, head: LengthHead | None, *, strip: bool
) -> BufferedFramer:
    """
    Make the decoder for a stream.

    Args:
        max_size: the longest frame handed out.
        layout: where the length stands, and what it counts.
        head: the same for a number of fixed size.
        strip: whether to hand out only what follows the length.
    """
    if head is None:
        return _VariableLengthFramer(max_size, layout, strip=strip)
    return _FixedLengthFramer(max_size, layout, head, strip=strip)
