"""
Values for Construct objects, drawn one after the other as they stand on the wire.

A `Drawing` walks a declaration in the order of its fields and keeps the context
that Construct would have at each place, so that ``this.count``, ``this._.kind``
and lambdas are simply evaluated. What every function gives is the value that
parsing would give. Lengths and counts that the codec computes are `Undecided`
while their span is being drawn: whatever they size is free. Where such a number is
compared with something, the outcome is drawn too, and the message is checked
afterwards (see `Drawing.uncertain`).

What no rule here knows is parsed from random bytes.
"""

from __future__ import annotations

import contextlib
import functools
import io
import random
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar

import attrs
import construct
from construct import core

from protoserve.codec.caps import Caps, Usage
from protoserve.codec.computed import CountOf, Pending
from protoserve.codec.fault import describe
from protoserve.codec.guard import guard
from protoserve.codec.record import (
    Field,
    FrameContext,
    Record,
    enclosing_context,
    root_context,
)
from protoserve.codec.refuse import may_take_bytes
from protoserve.errors import DeclarationError
from protoserve.testing import _choices as st
from protoserve.testing import _places as places
from protoserve.testing._hints import Hints
from protoserve.testing._numbers import bounds_of, checked_bounds

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

__all__ = [
    "FEW",
    "SHORT",
    "TRIES",
    "Drawing",
    "Ledger",
    "Refused",
    "Rule",
    "Stopped",
    "Undecided",
    "frame_context",
    "message_context",
]

_T = TypeVar("_T")

FEW = 5
"""Elements of a list whose number is free."""
SHORT = 24
"""The largest number drawn for a field that something is sized by."""
_LONGEST = 1 << 16
"""Bytes or elements above which an example is given up."""
_SHALLOW = 5
"""Depth from which structures are made as small as they can be."""
_DEEPEST = 30
"""Depth at which an example is given up."""
TRIES = 24


Rule: TypeAlias = "Callable[[Drawing, Any, Any, str], Any]"
"""Draws the value of a construct, in a context, at a path."""


@attrs.define(repr=False)
class Ledger:
    """
    What a strategy keeps from one example to the next.
    """

    hints: Hints
    rules: Mapping[type[Any], Rule]
    guarded: dict[int, Any] = attrs.field(factory=dict)
    on_refusal: Callable[[str], None] | None = None
    """Is told why an example is given up; it may raise."""

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        printer.text("…")  # Hypothesis shows strategies' arguments


class Undecided(Pending):
    """
    A number that is known once the message is whole.

    Comparing it with something draws the outcome.
    """

    drawing: Drawing
    later: Callable[[Any], Any] | None

    @classmethod
    def of(
        cls, drawing: Drawing, later: Callable[[Any], Any] | None = None
    ) -> Undecided:
        """
        Make one; `later` works out the number from the finished context.
        """
        made = cls()
        made.drawing, made.later = drawing, later
        return made

    def _guess(self, _other: object = None) -> bool:
        self.drawing.uncertain = True
        return self.drawing.draw(st.booleans())

    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _guess
    __hash__ = int.__hash__

    def __bool__(self) -> bool:
        self.drawing.uncertain = True
        return self.drawing.draw(st.integers(0, 7)) < 7  # few spans are empty


class Refused(Exception):  # noqa: N818 - another example may do
    """
    An example that a generator has drawn is given up.
    """


class Stopped(Exception):  # noqa: N818 - it is no error
    """
    A `StopIf` ended its structure.
    """


def message_context() -> Any:
    """
    Make what encloses a message that stands by itself.
    """
    return root_context(parsing=True, _usage=Usage(Caps()))


def frame_context(session: Any) -> Any:
    """
    Make what encloses a protocol's message: the header's fields are to be added.
    """
    context = FrameContext(enclosing_context(message_context(), None))
    context["_root"] = context
    context["session"] = session
    return context


class Drawing:
    """
    One example on its way.

    Args:
        source: who makes the choices.
        ledger: what the strategy knows.
    """

    def __init__(self, source: st.Source, ledger: Ledger) -> None:
        self.source = source
        self.ledger = ledger
        self.depth = 0
        self.uncertain = False
        """Whether the example must be parsed back to know that it is one."""
        self.absent = False
        """Whether an optional part was left out."""
        self.name: str | None = None
        """The name of the part that is drawn next, where it has one."""
        self.position: float | None = 0 if ledger.hints.placed else None
        """Where the next part stands in its stream, in bytes; `None` if not known."""
        self._planned: int | None = None
        self._room = _LONGEST

    def draw(self, choice: st.Choice[_T] | SearchStrategy[_T]) -> _T:
        """
        Let a choice be made.
        """
        return st.chosen(self.source, choice)

    # Structures ------------------------------------------------------------

    def record(self, record: Record, context: Any, path: str) -> Any:
        """
        Draw a message inside a context.
        """
        inner = enclosing_context(context, None)
        with self.deeper():
            return self.message(record, inner, path, {})

    def message(
        self, record: Record, inner: Any, path: str, given: Mapping[str, Any]
    ) -> Any:
        """
        Draw a message whose own context is made already.

        Args:
            record: the message's Construct form.
            inner: its context; its fields' values are added.
            path: its path.
            given: strategies or values for some of its fields.
        """
        attributes = {a.name: a for a in attrs.fields(record.owner)}
        arguments: dict[str, Any] = {}
        draft = object.__new__(record.owner)
        plans: dict[str, tuple[str, int]] = {}
        in_bits: set[str] = set()
        if self.position is not None:
            in_bits = {f.name for run, bits in record.runs() if bits for f in run}
        for field in record.fields:
            place = f"{path}.{field.name}"
            start = self.position
            bits, known = field.name in in_bits, field.computed or field.name in given
            if start is not None and (bits or known):
                self.position = start = places.fixed(start, field.construct, bits=bits)
            if isinstance(field.computed, CountOf):
                inner[field.name] = count = self._count(field, arguments, inner)
                plans[field.computed.first] = (field.name, count)
                continue
            if field.computed is not None:
                inner[field.name] = Undecided.of(self)
                continue
            self._planned = plans[field.name][1] if field.name in plans else None
            try:
                value = self._field(
                    field, attributes[field.name], draft, inner, place, given
                )
            except Stopped:
                break
            if bits:
                self.position = start
            if field.hidden:
                continue
            inner[field.name] = value
            if isinstance(value, Undecided):
                value = None
            if type(value) is construct.ListContainer:
                value = list(value)  # as messages are parsed, and shown
            arguments[field.name] = value
            if field.name in plans and hasattr(value, "__len__"):
                inner[plans[field.name][0]] = len(value)
        passed = {
            name.lstrip("_"): arguments.get(name)
            for name, attribute in attributes.items()
            if attribute.init
        }
        try:
            return record.owner(**passed)
        except Exception as exc:
            self.refuse(f"{path}: {exc}")

    def _count(self, field: Field, arguments: dict[str, Any], inner: Any) -> int:
        """
        Say how many elements a list will have, or has.
        """
        assert field.computed is not None
        known = arguments.get(field.computed.first)
        if known is not None and hasattr(known, "__len__"):
            return len(known)
        bounds = bounds_of(field.construct, inner)
        most = FEW if bounds is None else min(FEW, bounds[1])
        return 0 if self.depth >= _SHALLOW else self.draw(st.integers(0, most))

    def _field(
        self,
        field: Field,
        attribute: Any,
        draft: Any,
        inner: Any,
        place: str,
        given: Mapping[str, Any],
    ) -> Any:
        """
        Draw a field's value that its converter and its validators accept.
        """
        planned = self._planned
        refused: Exception | None = None
        for _ in range(TRIES):
            self._planned = planned
            if field.name in given:
                value = given[field.name]
                if st.is_strategy(value):
                    value = self.draw(value)
                elif callable(value):
                    value = value(inner)
            else:
                value = self._narrowed(field, attribute.validator, inner, place)
            if isinstance(value, Undecided):
                return value
            try:
                if attribute.converter is not None:
                    value = attribute.converter(value)
                object.__setattr__(draft, attribute.name, value)
                if attribute.validator is not None:
                    attribute.validator(draft, attribute, value)
            except Exception as exc:
                refused = exc
            else:
                return value
        return self.refuse(f"{place}: {refused}")

    def _narrowed(self, field: Field, validator: Any, inner: Any, place: str) -> Any:
        """
        Draw a field's value, within what its validators say about it.
        """
        low, high, options = checked_bounds(validator)
        bounds = bounds_of(field.construct, inner)
        choice: Any = None
        if options:
            choice = st.sampled_from(options)
        elif bounds is not None and (low is not None or high is not None):
            least = bounds[0] if low is None else max(low, bounds[0])
            most = bounds[1] if high is None else min(high, bounds[1])
            choice = st.integers(least, most) if least <= most else None
        if choice is None:
            return self.part(field.construct, inner, place, field.name)
        value = self.draw(choice)
        self._pass(field.construct, value, inner, place)
        return value

    def part(self, node: Any, context: Any, path: str, name: str | None = None) -> Any:
        """
        Draw the value of a part that may have a name.
        """
        if self.absent and may_take_bytes(node) and not _is_optional(node):
            self.uncertain = True  # it may be taken for the optional part before it
        choices = self.ledger.hints.choices.get(name or "")
        if choices and self._is_chosen():
            number = 0 if self.depth >= _SHALLOW else None
            key = number if number in choices else self.draw(st.sampled_from(choices))
            with contextlib.suppress(Exception):
                value = self.settled(node, key, context, path)
                self._pass(node, value, context, path)
                return value
        self.name = name
        return self.value(node, context, path)

    def _is_chosen(self) -> bool:
        return self.depth >= _SHALLOW or self.draw(st.integers(0, 7)) < 7

    def free_count(self) -> int:
        """
        Draw how many elements a list has that may have any number.
        """
        if self._planned is not None:
            count, self._planned = self._planned, None
            return count
        if self.depth >= _SHALLOW:
            return 0
        return self.draw(st.integers(0, min(FEW, self._room)))

    # Values ----------------------------------------------------------------

    def value(self, node: Any, context: Any, path: str) -> Any:
        """
        Draw any construct's value.
        """
        start = self.position
        for kind in type(node).__mro__:
            rule = self.ledger.rules.get(kind)
            if rule is not None:
                break
        else:
            rule = Drawing.parsed
        if start is None:
            return rule(self, node, context, path)
        self.position = places.inside(start, node)
        value = rule(self, node, context, path)
        build = functools.partial(self.built, node, value, context, path)
        self.position = places.behind(start, self.position, node, build)
        return value

    def _pass(self, node: Any, value: Any, context: Any, path: str) -> None:
        """
        Note where a part ends whose value was not drawn by its rule.
        """
        if self.position is not None:
            build = functools.partial(self.built, node, value, context, path)
            self.position = places.measured(self.position, node, build)

    def integer(self, low: int, high: int) -> int:
        """
        Draw a number, a small one where something is sized by it.
        """
        name, self.name = self.name, None
        if name in self.ledger.hints.sizes:
            if self.depth >= _SHALLOW:
                return max(low, 0)
            high = min(high, max(low, 0) + SHORT)
            low = max(low, 0)
        return self.draw(st.integers(low, high))

    def binary(self, size: int | None = None) -> bytes:
        """
        Draw some bytes; many are a few repeated.
        """
        if size is None:
            return self.draw(st.binary(max_size=min(16, self._room)))
        piece = self.draw(st.binary(min_size=min(size, 32), max_size=min(size, 32)))
        return (piece * (size // 32 + 1))[:size]

    def size(self, parameter: Any, context: Any, path: str) -> int | None:
        """
        Work out a length or count; `None` while it is undecided.
        """
        size = self.evaluated(parameter, context, path)
        if isinstance(size, Undecided):
            return None
        if not 0 <= size <= _LONGEST:
            self.refuse(f"{path}: a size of {size}")
        return int(size)

    def evaluated(self, parameter: Any, context: Any, path: str) -> Any:
        """
        Work out a parameter of a construct.

        Raises:
            DeclarationError: it refers to what is not there.
        """
        try:
            return core.evaluate(parameter, context)
        except (KeyError, AttributeError) as exc:
            raise DeclarationError(
                f"{path}: {parameter} refers to {exc}, which is not there; a message "
                "that refers to its header or session is drawn with from_protocol(…)"
            ) from exc
        except ArithmeticError as exc:
            self.refuse(f"{path}: {exc}")

    def settled(self, node: Any, value: Any, context: Any, path: str) -> Any:
        """
        Give the value that a construct parses from what it builds of another.

        Raises:
            ConstructError: it does not build, or not parse.
        """
        stream = self.built(node, value, context, path)
        stream.seek(0)
        return self._guarded(node)._parsereport(stream, context, path)

    def built(self, node: Any, value: Any, context: Any, path: str) -> io.BytesIO:
        """
        Build a value; the stream stands behind it.

        Raises:
            ConstructError: it does not build.
        """
        stream = io.BytesIO()
        context["_parsing"], context["_building"] = False, True
        try:
            self._guarded(node)._build(value, stream, context, path)
        finally:
            context["_parsing"], context["_building"] = True, False
        return stream

    def tidy(self, node: Any, context: Any, path: str, draw: Callable[[], Any]) -> Any:
        """
        Draw a value by `draw`, as the construct gives it back.
        """
        refused: Exception | None = None
        for _ in range(TRIES):
            try:
                return self.settled(node, draw(), context, path)
            except construct.ConstructError as exc:
                refused = exc
        return self.refuse(str(refused))

    def parsed(self, node: Any, context: Any, path: str) -> Any:
        """
        Parse a value from random bytes, for constructs that no rule knows.
        """
        guarded = self._guarded(node)
        chance = random.Random(self.draw(st.integers(0, 1 << 32)))  # noqa: S311
        for attempt in range(TRIES):
            top = (255, 7, 1, 127)[attempt % 4]
            size = chance.choice((0, 1, 2, 4, 8, 16, 32, 64))
            data = bytes(chance.randint(0, top) for _ in range(size))
            with contextlib.suppress(construct.ConstructError):
                return guarded._parsereport(io.BytesIO(data), context, path)
        return self.refuse(
            f"{path}: nothing is known about values of {describe(node)}, and random "
            "bytes could not be parsed with it; give a strategy for the field, or for "
            "the construct by kinds="
        )

    def refuse(self, reason: str) -> NoReturn:
        """
        Give this example up.
        """
        if self.ledger.on_refusal is not None:
            self.ledger.on_refusal(reason)
        if isinstance(self.source, random.Random):
            raise Refused(reason)
        from hypothesis import reject

        reject()

    def _guarded(self, node: Any) -> Any:
        key = id(node)
        if key not in self.ledger.guarded:
            self.ledger.guarded[key] = guard(node)
        return self.ledger.guarded[key]

    @contextlib.contextmanager
    def deeper(self) -> Iterator[None]:
        """
        Go one level deeper for a while.
        """
        self.depth += 1
        self.name = None
        if self.depth > _DEEPEST:
            self.refuse("a structure without an end")
        try:
            yield
        finally:
            self.depth -= 1

    @contextlib.contextmanager
    def within(self, size: int | None) -> Iterator[None]:
        """
        Let no more than some bytes be drawn for a while.
        """
        room = self._room
        if size is not None:
            self._room = max(0, min(room, size))
        try:
            yield
        finally:
            self._room = room

    def left_out(self) -> bool:
        """
        Decide whether an optional part is left out; once one is, all are.
        """
        if not self.absent:
            self.absent = self.depth >= _SHALLOW or self.draw(st.booleans())
        return self.absent


def _is_optional(node: Any) -> bool:
    while isinstance(node, construct.Renamed):
        node = node.subcon
    return isinstance(node, construct.Select) and construct.Pass in node.subcons
