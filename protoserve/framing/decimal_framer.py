"""
The decoder behind `Netstring` and `OctetCounted`: a length in decimal digits.
"""

from __future__ import annotations

from protoserve.framing.buffer import BufferedFramer

__all__ = ["DecimalFramer"]


class DecimalFramer(BufferedFramer):
    """
    Digits, a separator, as many bytes, and perhaps a trailer.
    """

    def __init__(
        self, max_size: int, separator: bytes, trailer: bytes, *, least: int
    ) -> None:
        super().__init__(max_size)
        self._separator = separator
        self._trailer = trailer
        self._least = least
        # one digit more than allowed tells that a number is too long
        self._digits = len(str(max_size)) + 1

    def decode(self) -> bytes | None:
        """
        Cut off the next whole frame.
        """
        data = self._data
        start = self._start
        if len(data) <= start:
            return self._wait()
        window = bytes(data[start : start + self._digits + 1])
        text = window[: len(window) - len(window.lstrip(b"0123456789"))]
        separator = window[len(text) : len(text) + 1]
        expected = f"expected a length in decimal digits, then {self._separator!r}"
        if not text:
            self._corrupt(expected)
        if text[0] == 0x30 and len(text) > 1:
            self._corrupt("its length starts with a 0")
        number = int(text)
        if number > self.max_size:
            self._too_long(number, self.max_size)
        if not separator:
            return None
        if separator != self._separator:
            self._corrupt(expected)
        if number < self._least:
            self._corrupt(f"its length is {number}")
        body = start + len(text) + 1
        end = body + number
        after = end + len(self._trailer)
        if len(data) < after:
            return None
        if data[end:after] != self._trailer:
            self._corrupt(f"expected {self._trailer!r} after it", end - start)
        self._start = after
        frame = data[body:end]
        return frame if type(frame) is bytes else bytes(frame)
