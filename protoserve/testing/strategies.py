"""
Hypothesis strategies made from declarations.

`from_message` gives valid messages of a class, `from_protocol` whole frames with
header and body. Both walk the declaration itself, so a new message has a
strategy the moment it is defined: values respect sizes, counts, enums, switches,
encodings and validators, lists and texts are short, and what is computed (lengths,
counts, checksums) is left to the codec. An example that does not build is dropped;
if none builds, an error says why.

This needs Hypothesis, from the extra ``protoserve[test]``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias, TypeVar

import attrs
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from protoserve.codec.record import Record, enclosing_context
from protoserve.errors import DeclarationError, ProtoserveError
from protoserve.messages import Message
from protoserve.protocol import Direction, Protocol
from protoserve.testing._drawing import (
    Drawing,
    Ledger,
    Rule,
    frame_context,
    message_context,
)
from protoserve.testing._hints import hints_of
from protoserve.testing._rules import RULES

__all__ = ["FrameExample", "from_message", "from_protocol"]

MessageT = TypeVar("MessageT", bound=Message)

Kinds: TypeAlias = Mapping[type[Any], Callable[[Any], st.SearchStrategy[Any]]]
"""How values of Construct classes are made."""

_PATIENCE = 200
"""Examples tried before a declaration is said to have none."""


@attrs.frozen
class FrameExample:
    """
    One frame of a protocol, and what is in it.
    """

    header: Any
    """The header as it was given to the build, or `None`."""
    message: Any
    frame: bytes = attrs.field(repr=lambda data: data.hex(" "))
    """Header, body and trailer, without what framing adds."""
    direction: Direction = Direction.REQUEST
    """Who sends it: a request is the client's."""


def from_message(
    cls: type[MessageT], kinds: Kinds | None = None, /, **overrides: Any
) -> st.SearchStrategy[MessageT]:
    """
    Make a strategy for valid messages of a class.

    Args:
        cls: the message's class. One whose fields refer to its header or to the
            session needs `from_protocol`.
        kinds: for Construct classes of one's own: the class, and a function that
            takes such an object and gives a strategy for its values. Adapters
            seldom need it: what is inside them is drawn, and decoded.
        overrides: strategies or values for some of the message's fields, by name.

    Returns:
        A strategy for messages that build and parse back to themselves.

    Raises:
        DeclarationError: the class has no such field, or the field is computed.
            Raised while drawing: there is no way to make values of a field, which
            is named.

    >>> from construct import Array, Int8ub, Int16ub, this
    >>> from protoserve import Message, count_of, wire
    >>> class Samples(Message):
    ...     count: int = wire(Int8ub, value=count_of("values"))
    ...     values: list[int] = wire(Array(this.count, Int16ub))
    >>> strategy = from_message(Samples, values=[1, 2])
    """
    record: Record = cls.construct
    _check_overrides(cls, record, overrides)
    ledger = Ledger(hints_of(record), rules_of(kinds))

    def strategy(kept: Ledger) -> st.SearchStrategy[MessageT]:
        @st.composite
        def messages(draw: st.DrawFn) -> MessageT:
            return _message(draw, cls, kept, overrides)

        return messages()

    ledger.on_refusal = _Doubt(cls.__name__, ledger, strategy)
    return strategy(ledger)


def from_protocol(
    protocol: Protocol,
    direction: Direction,
    *,
    only: type[Message] | tuple[type[Message], ...] | None = None,
    session: Any = None,
    kinds: Kinds | None = None,
) -> st.SearchStrategy[FrameExample]:
    """
    Make a strategy for whole frames of a protocol.

    Args:
        protocol: the protocol.
        direction: which of its tables messages are taken from.
        only: the messages wanted, out of that table.
        session: what ``this._.session`` is to the fields.
        kinds: as for `from_message`.

    Returns:
        A strategy for frames with what is in them.

    Raises:
        DeclarationError: there are no messages to make.
    """
    table = protocol.table(direction)
    wanted = (only,) if isinstance(only, type) else only
    entries = [
        (tag, cls) for tag, cls in table.items() if wanted is None or cls in wanted
    ]
    if not entries:
        raise DeclarationError(
            f"{protocol.name} has no such {direction.value} to make examples of"
        )
    rules = rules_of(kinds)
    return st.one_of(
        [frames_of(protocol, direction, cls, rules)(session) for _, cls in entries]
    )


def frames_of(
    protocol: Protocol,
    direction: Direction,
    cls: type[Message],
    rules: dict[type[Any], Rule],
) -> Callable[..., st.SearchStrategy[FrameExample]]:
    """
    Make what makes strategies for the frames of one message.

    Returns:
        A function of what ``this._.session`` is, and of values for fields of the
        header by their names.
    """
    header = [] if protocol.header is None else [protocol.header.construct]
    (tag,) = (tag for tag, known in protocol.table(direction).items() if known is cls)
    ledger = Ledger(hints_of(*header, cls.construct), rules)

    def made(
        kept: Ledger, session: Any, given: Mapping[str, Any]
    ) -> st.SearchStrategy[FrameExample]:
        @st.composite
        def frames(draw: st.DrawFn) -> FrameExample:
            drawing = Drawing(draw, kept)
            return _frame(drawing, protocol, direction, (tag, cls), session, given)

        return frames()

    def strategy(
        session: Any = None, given: Mapping[str, Any] | None = None
    ) -> st.SearchStrategy[FrameExample]:
        if ledger.on_refusal is None:
            ledger.on_refusal = _Doubt(
                cls.__name__, ledger, lambda kept: made(kept, session, given or {})
            )
        return made(ledger, session, given or {})

    return strategy


def rules_of(kinds: Kinds | None) -> dict[type[Any], Rule]:
    return {**RULES, **{kind: _rule(make) for kind, make in (kinds or {}).items()}}


def _rule(make: Callable[[Any], st.SearchStrategy[Any]]) -> Rule:
    return lambda drawing, node, _context, _path: drawing.draw(make(node))


def _check_overrides(
    cls: type[Message], record: Record, overrides: dict[str, Any]
) -> None:
    fields = {field.name: field for field in record.fields if not field.hidden}
    for name in overrides:
        if name not in fields:
            raise DeclarationError(
                f"from_message: {cls.__name__} has no field {name!r} "
                f"(it has {', '.join(fields)})"
            )
        rule = fields[name].computed
        if rule is not None:
            raise DeclarationError(
                f"from_message: {cls.__name__}.{name} is {rule} and cannot be given"
            )


def _message(
    draw: st.DrawFn, cls: type[MessageT], ledger: Ledger, overrides: dict[str, Any]
) -> MessageT:
    drawing = Drawing(draw, ledger)
    record: Record = cls.construct
    context = enclosing_context(message_context(), None)
    message: MessageT = drawing.message(record, context, cls.__name__, overrides)
    try:
        data = bytes(message)
        if ledger.hints.placed and not overrides:
            message = cls.parse(data)
            data = bytes(message)
            drawing.uncertain = True
        if drawing.uncertain and cls.parse(data) != message:
            drawing.refuse(f"{cls.__name__}: its bytes mean another message")
    except ProtoserveError as exc:
        drawing.refuse(str(exc))
    return message


def _frame(
    drawing: Drawing,
    protocol: Protocol,
    direction: Direction,
    entry: tuple[Any, type[Message]],
    session: Any,
    given: Mapping[str, Any],
) -> FrameExample:
    tag, cls = entry
    context = frame_context(session)
    header = None
    if protocol.header is not None:
        header = _header(drawing, protocol, direction, tag, context, given)
    message = drawing.record(cls.construct, context, cls.__name__)
    try:
        frame = protocol.build(message, direction, header=header, session=session)
        if drawing.ledger.hints.placed:
            # What looks at other bytes is as these have turned out.
            message = protocol.parse(frame, direction, session=session).message
            frame = protocol.build(message, direction, header=header, session=session)
            drawing.uncertain = True
        if drawing.uncertain:
            parsed = protocol.parse(frame, direction, session=session)
            if parsed.message != message:
                drawing.refuse(f"{cls.__name__}: its bytes mean another message")
    except ProtoserveError as exc:
        drawing.refuse(str(exc))
    return FrameExample(header, message, frame, direction)


def _header(
    drawing: Drawing,
    protocol: Protocol,
    direction: Direction,
    tag: Any,
    context: Any,
    others: Mapping[str, Any],
) -> Any:
    """
    Draw a header with a tag in it, and other values; its fields are left in the context.
    """
    assert protocol.header is not None
    record: Record = protocol.header.construct
    names: tuple[str, ...] = ()
    if isinstance(protocol.tag, str):
        names, tag_values = (protocol.tag,), (tag,)
    elif isinstance(protocol.tag, tuple):
        names, tag_values = protocol.tag, tag
    given: dict[str, Any] = dict(others)
    for name, value in zip(names, tag_values if names else (), strict=True):
        if "." not in name:
            node = next(f.construct for f in record.fields if f.name == name)
            given[name] = drawing.settled(node, value, context, name)
    header = drawing.message(record, context, protocol.header.__name__, given)
    if protocol.tag is None:
        return header
    blank = object.__new__(protocol.table(direction)[tag])
    header = protocol.header_for(blank, direction, base=header)
    for field in record.fields:
        if field.computed is None and not field.hidden:
            context[field.name] = getattr(header, field.name)
    return header


@attrs.define
class _Doubt:
    """
    Finds out, when an example is refused, whether there are any at all.

    That is decided once, with examples of its own, so that the same choices always
    have the same outcome.
    """

    name: str
    ledger: Ledger
    strategy: Callable[[Ledger], st.SearchStrategy[Any]]
    hopeless: str | None = None
    decided: bool = False

    def __call__(self, reason: str) -> None:
        if not self.decided:
            self.hopeless = self._find_out(reason)
            self.decided = True
        if self.hopeless is not None:
            raise DeclarationError(
                f"{self.name}: no message could be made from the declaration in "
                f"{_PATIENCE} tries; the last reason: {self.hopeless}"
            )

    def _find_out(self, reason: str) -> str | None:
        reasons = [reason]
        probe = Ledger(self.ledger.hints, self.ledger.rules)
        probe.on_refusal = reasons.append
        # In a thread of its own, as tests may not run inside of tests.
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(_has_any, self.strategy(probe)).result()
        return None if found else reasons[-1]


class _Found(Exception):  # noqa: N818 - it is no error
    """
    There is an example.
    """


def _has_any(strategy: st.SearchStrategy[Any]) -> bool:
    @settings(
        max_examples=_PATIENCE,
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def look(_example: Any) -> None:
        raise _Found

    try:
        look()
    except _Found:
        return True
    except Unsatisfiable:
        return False
    return False
