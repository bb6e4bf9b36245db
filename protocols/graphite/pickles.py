"""
Pickles of carbon's relays, without Python's unpickler.

A pickle is a program: the unpickler imports and calls what it is told to. Here the
few opcodes that make lists, tuples, text, bytes and numbers are followed by a small
stack machine, and every other opcode is refused before it has any effect. Values that
stand in the memo are put on the stack again as they are, so a pickle that refers to
itself over and over makes no more objects than it has bytes; what comes out is walked
to a fixed depth only.

What is expected is ``[(path, (timestamp, value)), …]``, lists or tuples alike. Anything
else is malformed as a whole: one sender's library made all of it.
"""

from __future__ import annotations

import contextlib
import math
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, NoReturn

import construct

from protocols.graphite.metrics import Metric, parted
from protocols.lines import text_of
from protoserve import MalformedMessageError

__all__ = ["PickledList", "read_pickle"]

_MOST_METRICS = 65_536
_MOST_BITS = 64
_MARK = object()


class PickledList(construct.Construct):  # type: ignore[misc] # construct is untyped
    """
    All that is left is a pickle with a list of `Metric`.
    """

    def _parse(self, stream: Any, _context: Any, path: str) -> list[Metric]:
        base = stream.tell()
        points = read_pickle(stream.read(), path, base)
        if not isinstance(points, list | tuple):
            _refuse(path, base, "a list of metrics", type(points).__name__)
        if len(points) > _MOST_METRICS:
            _refuse(path, base, f"at most {_MOST_METRICS} metrics", str(len(points)))
        return [_metric(each, f"{path}[{i}]", base) for i, each in enumerate(points)]

    def _build(self, obj: Any, stream: Any, _context: Any, path: str) -> Any:
        points = [(m.full_path(), (_moment(m.timestamp), m.value)) for m in obj]
        for metric, point in zip(obj, points, strict=True):
            if _metric(point, path, 0) != metric:
                raise ValueError(f"expected what a path can hold, found {metric!r}")
        # Protocol 2 is carbon's own, and the last one that Python 2 reads.
        stream.write(pickle.dumps(points, protocol=2))
        return obj


def _moment(timestamp: float | None) -> float:
    return -1 if timestamp is None else timestamp


def _metric(point: Any, path: str, at: int) -> Metric:
    match point:
        case (str() | bytes() as name, (moment, value)):
            pass
        case _:
            expected = "(path, (timestamp, value))"
            _refuse(path, at, expected, type(point).__name__)
    try:
        plain, tags = parted(_text(name))
    except ValueError as exc:
        _refuse(path, at, "a path, perhaps with tags", str(exc))
    when, number = _number(moment, path, at), _number(value, path, at)
    return Metric(plain, number, None if when == -1 else when, tags)


def _text(given: str | bytes) -> str:
    # Pickled text may have surrogates, which are no UTF-8.
    return text_of(
        given if isinstance(given, bytes) else given.encode("utf-8", "surrogatepass")
    )


def _number(given: Any, path: str, at: int) -> float:
    """
    Take a number, or the text of one: carbon takes both.
    """
    found = math.nan
    if isinstance(given, int | float | str | bytes):
        with contextlib.suppress(ValueError):
            found = float(given)
    if not math.isfinite(found):
        text = f"a {type(given).__name__}"
        shown = repr(given)[:64] if isinstance(given, str | bytes | float) else text
        _refuse(path, at, "a finite number", shown)
    return found


def _refuse(path: str, offset: int, expected: str, found: str) -> NoReturn:
    raise MalformedMessageError(path, offset, expected, found)


# The machine -------------------------------------------------------------------


def read_pickle(data: bytes, path: str = "pickle", base: int = 0) -> Any:
    """
    Read a pickle of lists, tuples, text, bytes and numbers.

    Args:
        data: the pickle, all of it.
        path: the field's path, for errors.
        base: where in the frame it starts, for errors.

    Raises:
        MalformedMessageError: it is cut or damaged, or has an opcode for anything else.

    >>> read_pickle(pickle.dumps([("a.b", (1, 2.5))]))
    [('a.b', (1, 2.5))]
    """
    machine = _Machine()
    at = 0
    try:
        for opcode, argument, place in pickletools.genops(data):
            at = place or 0
            if opcode.name == "STOP":
                break
            step = _STEPS.get(opcode.name)
            if step is None:
                expected = "lists, tuples, text, bytes and numbers only"
                _refuse(path, base + at, expected, f"the opcode {opcode.name}")
            step(machine, argument)
        else:
            _refuse(path, base + len(data), "the opcode STOP", "the end")
    except MalformedMessageError:
        raise
    except Exception as exc:
        text = f"{type(exc).__name__}: {exc}"
        _refuse(path, base + at, "a whole pickle", text[:200])
    if at + 1 != len(data):
        _refuse(path, base + at + 1, "the end", f"{len(data) - at - 1} more bytes")
    if len(machine.stack) != 1 or machine.stack[0] is _MARK:
        _refuse(path, base + at, "one value", f"{len(machine.stack)} on the stack")
    return machine.stack[0]


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        """
        Put a value on the stack.
        """
        if isinstance(value, bool) or (
            isinstance(value, int) and value.bit_length() > _MOST_BITS
        ):
            raise ValueError(f"expected a number of at most {_MOST_BITS} bits")
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        """
        Take what lies above the last mark.
        """
        place = len(self.stack) - 1
        while place >= 0 and self.stack[place] is not _MARK:
            place -= 1
        if place < 0:
            raise ValueError("there is no mark")
        taken = self.stack[place + 1 :]
        del self.stack[place:]
        return taken

    def last(self, count: int) -> list[Any]:
        """
        Take so many values.
        """
        taken = self.stack[len(self.stack) - count :]
        if len(taken) < count or _MARK in taken:
            raise ValueError("the stack is too short")
        del self.stack[len(self.stack) - count :]
        return taken

    def extend(self, values: list[Any]) -> None:
        """
        Put values into the list on top.
        """
        if not self.stack or not isinstance(self.stack[-1], list):
            raise ValueError("there is no list to append to")
        self.stack[-1].extend(values)

    def keep(self, place: int) -> None:
        """
        Keep the value on top under a number.
        """
        if self.stack[-1] is _MARK:
            raise ValueError("a mark is no value")
        self.memo[place] = self.stack[-1]


_Step = Callable[[_Machine, Any], None]

_STEPS: dict[str, _Step] = {
    "PROTO": lambda _, __: None,
    "FRAME": lambda _, __: None,
    "MARK": lambda m, _: m.stack.append(_MARK),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "LIST": lambda m, _: m.stack.append(m.since_mark()),
    "APPEND": lambda m, _: m.extend(m.last(1)),
    "APPENDS": lambda m, _: m.extend(m.since_mark()),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.since_mark())),
    "TUPLE1": lambda m, _: m.stack.append(tuple(m.last(1))),
    "TUPLE2": lambda m, _: m.stack.append(tuple(m.last(2))),
    "TUPLE3": lambda m, _: m.stack.append(tuple(m.last(3))),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.keep),
    "MEMOIZE": lambda m, _: m.keep(len(m.memo)),
    **dict.fromkeys(
        ("GET", "BINGET", "LONG_BINGET"), lambda m, place: m.push(m.memo[place])
    ),
    **dict.fromkeys(
        (
            *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
            *("FLOAT", "BINFLOAT", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
            *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        ),
        _Machine.push,
    ),
    # Python 2's strings are bytes.
    **dict.fromkeys(
        ("STRING", "BINSTRING", "SHORT_BINSTRING"),
        lambda m, text: m.push(text.encode("latin-1")),
    ),
}
"""What each opcode does; one that is not here is refused."""
