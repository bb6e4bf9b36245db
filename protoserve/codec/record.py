"""
A message class as a Construct object: fields, bit runs, computed values.

A `Record` parses and builds its fields in order, as Construct's `Struct` does,
and gives instances of the message class. Fields that follow from others (see
`protoserve.codec.computed`) are checked once their span has been parsed. On build
they are first written as zeros; then lengths, and after them checksums, are put
in place where the bytes that they speak of are.

Runs of bit fields stand for whole bytes: they are parsed and built as one.
"""

from __future__ import annotations

import functools
import io
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import construct

from protoserve.codec import refuse
from protoserve.codec.caps import usage_of
from protoserve.codec.computed import (
    ChecksumOf,
    Computed,
    CountOf,
    LengthOf,
    Pending,
    inner_first,
)
from protoserve.codec.fault import Fault, size_of
from protoserve.codec.guard import guard
from protoserve.errors import DeclarationError

__all__ = [
    "Field",
    "FrameContext",
    "Member",
    "Record",
    "Spans",
    "check_computed",
    "enclosing_context",
    "fill_checksums",
    "fill_lengths",
    "parse_members",
    "place_members",
    "root_context",
    "slot_name",
]

Spans = dict[str, tuple[int, int]]
"""Where the bytes of each field start and end in the stream."""


@attrs.frozen
class Field:
    """
    One field of a message, as the codec sees it.
    """

    name: str
    construct: Any
    computed: Computed | None = None
    hidden: bool = False
    """Padding and the like: on the wire, but no attribute."""
    doc: str = ""
    unit: str = ""


def slot_name(name: str) -> str:
    """
    Name the slot that holds a computed field once it has been parsed.

    The field's own name is a property, which works the value out where it was not.
    """
    return f"_slot_{name}"


@attrs.frozen
class Member:
    """
    What takes whole bytes: one field, or a run of bit fields.
    """

    fields: tuple[Field, ...]
    construct: Any
    bits: bool

    @property
    def name(self) -> str:
        """
        The name that paths use.
        """
        return self.fields[0].name

    @functools.cached_property
    def is_fixed(self) -> bool:
        """
        Whether it always has as many bytes.
        """
        return size_of(self.construct) is not None


class _SelfContext(construct.Container):  # type: ignore[misc] # construct is untyped
    """
    A context that is one of its own values, as Construct's outermost ones are.

    It is not stored: a context that holds itself is left to the cycle collector, with
    all that it refers to, once for each message.
    """

    itself = ""
    """The name of that value."""

    def __missing__(self, key: str) -> Any:
        if key == self.itself:
            return self
        raise KeyError(key)

    def get(self, key: str, default: Any = None) -> Any:
        """
        Give a value, or the default.
        """
        return self if key == self.itself else super().get(key, default)


class _RootContext(_SelfContext):
    itself = "_params"


class _OuterContext(_SelfContext):
    itself = "_root"


class _InnerContext(construct.Container):  # type: ignore[misc] # construct is untyped
    """
    A context inside others; unlike a plain one it can be referred to weakly.
    """


def root_context(*, parsing: bool, **values: Any) -> Any:
    """
    Make the outermost context of one parse or build.
    """
    context = _RootContext(**values)
    context["_parsing"] = parsing
    context["_building"] = not parsing
    context["_sizing"] = False
    return context


def enclosing_context(context: Any, stream: Any) -> Any:
    """
    Make the context of a structure inside another context, as `Struct` does.
    """
    root = context.get("_root")
    inner = (_InnerContext if root is not None else _OuterContext)(
        _=context,
        _params=context["_params"],
        _parsing=context["_parsing"],
        _building=context["_building"],
        _sizing=context["_sizing"],
        _subcons=None,
        _io=stream,
        _index=context.get("_index"),
    )
    if root is not None:
        inner["_root"] = root
    if isinstance(context, FrameContext):
        context["_body"] = weakref.ref(inner)
    return inner


class FrameContext(_OuterContext):
    """
    What a protocol's messages find around them: the header's fields, the session.

    Being the outermost, it is ``this._root`` to them; names that it does not have
    are looked up in the message itself.
    """

    def __missing__(self, key: str) -> Any:
        if key == self.itself:
            return self
        body = self["_body"]() if "_body" in self else None
        if body is None or key not in body:
            raise KeyError(key)
        return body[key]


class Record(construct.Construct):  # type: ignore[misc] # construct is untyped
    """
    The Construct form of a message class.

    Args:
        name: the class's name, the root of paths.
        fields: in the order of the wire.
        bits: whether the fields are bits all together.
        make: field values in, message out.
        make_style: how that is done: ``plain`` (attributes are set), ``frozen`` (they
            are set past the class) or ``constructed`` (the class is called).
        arguments: the constructor's arguments.
        owner: the message class.
    """

    is_guarded = True

    def __init__(
        self,
        name: str,
        fields: Sequence[Field],
        *,
        bits: bool,
        make: Callable[[dict[str, Any], str], Any],
        make_style: str = "plain",
        arguments: Sequence[str] = (),
        owner: type[Any],
    ) -> None:
        super().__init__()
        self.record_name = name
        self.fields = tuple(fields)
        self.bits = bits
        self.make = make
        self.owner = owner
        self.flagbuildnone = False
        self.make_style = make_style
        self.arguments = tuple(arguments)
        self._members: tuple[Member, ...] | None = None
        self._as_bits: Record | None = None
        self.parser: Callable[[Any], Any] | None = None
        """What parses the message, once that has been made."""
        self.builder: Callable[[Any], bytes] | None = None
        self.columns: Any = None
        """What `protoserve.codec.dtype` has made of it."""
        self.noting: Record | None = None
        """Its form that `protoserve.codec.noting` has made."""

    def __repr__(self) -> str:
        return f"<{self.record_name}.construct>"

    def __getstate__(self) -> dict[str, Any]:
        return dict(vars(self))

    @property
    def members(self) -> tuple[Member, ...]:
        """
        The fields by whole bytes, with guarded constructs; made at first use.
        """
        if self._members is None:
            self._members = tuple(
                _guarded(run, bits) for run, bits in _runs(self.fields, self.bits)
            )
        return self._members

    def as_bits(self) -> Record:
        """
        Give the same message with all its fields as bits, as inside a `Bitwise`.
        """
        if self.bits:
            return self
        if self._as_bits is None:
            self._as_bits = Record(
                self.record_name,
                self.fields,
                bits=True,
                make=self.make,
                make_style=self.make_style,
                arguments=self.arguments,
                owner=self.owner,
            )
        return self._as_bits

    def runs(self) -> list[tuple[tuple[Field, ...], bool]]:
        """
        Give the fields by whole bytes: each alone, but runs of bit fields together.

        Returns:
            Fields, and whether they are bits.
        """
        return _runs(self.fields, self.bits)

    def check(self) -> None:
        """
        Refuse what cannot work, without making anything.

        Raises:
            DeclarationError: naming the field and the reason.
        """
        parts = []
        known = [field.name for field in self.fields]
        for run, bits in _runs(self.fields, self.bits):
            path = f"{self.record_name}.{run[0].name}"
            if bits:
                _check_bits(self.record_name, run)
            for field in run:
                place = f"{self.record_name}.{field.name}"
                refuse.refuse_unsafe(field.construct, place)
                refuse.refuse_unknown_names(
                    field.construct, place, self.record_name, known
                )
                parts.append((path, field.construct))
        refuse.refuse_greedy_before_others(parts)

    def greedy_tail(self) -> Any:
        """
        Give the field that takes all bytes to the end, if there is one.
        """
        found = (refuse.greedy_part(field.construct) for field in self.fields)
        return next((part for part in found if part is not None), None)

    # Parsing ---------------------------------------------------------------

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        usage = usage_of(context)
        usage.enter(stream.tell(), path)
        inner = enclosing_context(context, stream)
        values, spans = parse_members(self.members, stream, inner, path)
        check_computed(self.members, values, spans, stream, path)
        usage.depth -= 1
        return self.made(values, spans, path)

    def made(self, values: dict[str, Any], spans: Spans, path: str) -> Any:
        """
        Make the message from its fields' values.

        Raises:
            Fault: one of the class's validators refuses a value.
        """
        try:
            return self.make(values, path)
        except Fault as fault:
            name = fault.path.rpartition(".")[2]
            fault.offset = spans.get(name, (fault.offset, 0))[0]
            raise

    # Building --------------------------------------------------------------

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> Any:
        if isinstance(obj, Mapping):
            obj = self.owner(**obj)
        if not isinstance(obj, self.owner):
            raise Fault(path, 0, f"a {self.record_name}", repr(obj))
        inner = enclosing_context(context, stream)
        self.build_members(self.values_of(obj), stream, inner, path)
        return obj

    def build_members(
        self, values: dict[str, Any], stream: Any, context: Any, path: str
    ) -> None:
        """
        Build the fields, those that follow from others included.

        Args:
            values: the fields' values; computed ones are added.
            stream: a `BytesIO` that ends where the message starts.
            context: the message's own context.
            path: the message's path.

        Raises:
            Fault: a value does not fit its format.
        """
        members = self.members
        spans = place_members(members, values, stream, context, path)
        fill_lengths(members, values, spans, stream, context, path)
        fill_checksums(members, values, spans, stream, context, path)

    def values_of(self, obj: Any) -> dict[str, Any]:
        """
        Give a message's values by field name, without the computed ones.
        """
        return {
            field.name: getattr(obj, field.name)
            for field in self.fields
            if field.computed is None and not field.hidden
        }

    def _sizeof(self, context: Any, path: str) -> Any:
        inner = enclosing_context(context, None)
        total = 0
        for run, bits in _runs(self.fields, self.bits):
            size = sum(field.construct._sizeof(inner, path) for field in run)
            total += size // 8 if bits else size
        return total


def _runs(
    fields: Sequence[Field], all_bits: bool
) -> list[tuple[tuple[Field, ...], bool]]:
    """
    Group fields by whole bytes: neighbouring bit fields together, others alone.
    """
    if all_bits:
        return [(tuple(fields), True)]
    runs: list[tuple[tuple[Field, ...], bool]] = []
    for field in fields:
        is_bits = _is_bit_field(field.construct)
        if is_bits and runs and runs[-1][1]:
            runs[-1] = ((*runs[-1][0], field), True)
        else:
            runs.append(((field,), is_bits))
    return runs


def _is_bit_field(subcon: Any) -> bool:
    thin = (
        construct.Adapter,
        construct.Const,
        construct.Default,
        construct.Rebuild,
        construct.Renamed,
    )
    while isinstance(subcon, thin):
        subcon = subcon.subcon
    return isinstance(subcon, construct.BitsInteger)


def _check_bits(name: str, run: Sequence[Field]) -> None:
    try:
        total = sum(field.construct.sizeof() for field in run)
    except construct.SizeofError:
        return
    if total % 8:
        names = ", ".join(field.name for field in run)
        raise DeclarationError(
            f"{name}: the bit fields {names} make {total} bits; neighbouring bit "
            "fields must fill whole bytes (or declare class …(Message, bits=True))"
        )


def _guarded(run: tuple[Field, ...], bits: bool) -> Member:
    if not bits:
        return Member(run, guard(run[0].construct), bits=False)
    parts = []
    for field in run:
        part = field.construct
        # A computed bit field is built from whatever number is known by then.
        parts.append(construct.Renamed(part, newname=field.name))
    whole = construct.Bitwise(construct.Struct(*parts))
    return Member(run, guard(whole), bits=True)


def parse_members(
    members: Sequence[Member], stream: Any, context: Any, path: str
) -> tuple[dict[str, Any], Spans]:
    """
    Parse fields in order.

    Args:
        members: what to parse.
        stream: where from; a `BytesIO`.
        context: where `this.name` looks; filled on the way.
        path: the path of what the fields belong to.

    Returns:
        The values, and where their bytes are, by field name.

    Raises:
        Fault: a field is malformed.
    """
    values: dict[str, Any] = {}
    spans: Spans = {}
    for member in members:
        start = stream.tell()
        try:
            if member.bits:
                run = member.construct._parsereport(stream, context, path)
                for field in member.fields:
                    if not field.hidden:
                        context[field.name] = values[field.name] = run[field.name]
            else:
                field = member.fields[0]
                value = member.construct._parsereport(
                    stream, context, f"{path}.{field.name}"
                )
                if not field.hidden:
                    context[field.name] = values[field.name] = value
        except construct.StopFieldError:
            break
        end = stream.tell()
        for field in member.fields:
            spans[field.name] = (start, end)
    for member in members:
        for field in member.fields:
            if not field.hidden:
                values.setdefault(field.name, None)
    return values, spans


def check_computed(
    members: Sequence[Member],
    values: Mapping[str, Any],
    spans: Spans,
    stream: Any,
    path: str,
) -> None:
    """
    Compare fields that follow from others with those others.

    Names that are in no span are left alone: the frame checks those that speak of
    its parts (see `protoserve.codec.computed.FRAME_PARTS`).

    Raises:
        Fault: they differ.
    """
    for member in members:
        for field in member.fields:
            rule = field.computed
            if rule is None or field.name not in spans:
                continue
            if rule.first not in spans or rule.last not in spans:
                continue
            expected = computed_value(rule, field.name, values, spans, stream)
            found = values[field.name]
            if found != expected:
                what = rule if expected is None else f"{expected} ({rule})"
                place = f"{path}.{field.name}"
                raise Fault(place, spans[field.name][0], str(what), str(found))


def computed_value(
    rule: Computed, name: str, values: Mapping[str, Any], spans: Spans, stream: Any
) -> int | None:
    """
    Work out what a computed field must hold.

    Args:
        rule: how it follows from other fields.
        name: the computed field itself, whose bytes a checksum takes as zeros.
        values: the fields' values.
        spans: where the fields' bytes are in the stream.
        stream: a `BytesIO`; its position is kept.

    Returns:
        The number, or `None` where the rule has no solution.
    """
    if isinstance(rule, CountOf):
        return len(values[rule.first] or ())
    start, end = spans[rule.first][0], spans[rule.last][1]
    if isinstance(rule, LengthOf):
        return rule.value(end - start)
    assert isinstance(rule, ChecksumOf)
    position = stream.tell()
    stream.seek(start)
    data = bytearray(stream.read(end - start))
    stream.seek(position)
    own_start, own_end = spans[name]
    if start <= own_start < end:
        data[own_start - start : own_end - start] = bytes(own_end - own_start)
    return rule.using(bytes(data))


def place_members(
    members: Sequence[Member],
    values: dict[str, Any],
    stream: Any,
    context: Any,
    path: str,
) -> Spans:
    """
    Build fields in order; lengths and checksums get their room, not their values.

    Args:
        members: what to build.
        values: the fields' values, computed ones left out; counts are added.
        stream: where to; a `BytesIO` that ends where the fields start.
        context: where `this.name` looks; filled on the way.
        path: the path of what the fields belong to.

    Returns:
        Where the fields' bytes are.

    Raises:
        Fault: a value does not fit its format.
    """
    context.update(values)
    for member in members:
        for field in member.fields:
            if isinstance(field.computed, CountOf) and field.computed.first in values:
                counted = values[field.computed.first]
                count = len(counted) if hasattr(counted, "__len__") else 0
                context[field.name] = values[field.name] = count
            elif field.computed is not None:
                context[field.name] = Pending()
    spans: Spans = {}
    pending = [
        (member, field)
        for member in members
        for field in member.fields
        if isinstance(field.computed, LengthOf)
    ]
    for member in members:
        start = stream.tell()
        try:
            _build_member(member, values, stream, context, path)
        except construct.StopFieldError:
            break
        for field in member.fields:
            spans[field.name] = (start, stream.tell())
        if pending:
            pending = _settle_lengths(pending, values, spans, stream, context, path)
    return spans


def _settle_lengths(
    pending: Sequence[tuple[Member, Field]],
    values: dict[str, Any],
    spans: Spans,
    stream: Any,
    context: Any,
    path: str,
) -> list[tuple[Member, Field]]:
    """
    Let the fields to come know lengths whose span is in place; give the others.

    Those of a span with a length of variable size in it stay unknown until that one is
    known, and has its bytes.
    """
    left = [*pending]
    settled = True
    while settled:
        settled = False
        varying = [field.name for member, field in left if not member.is_fixed]
        for member, field in [*left]:
            rule = field.computed
            assert rule is not None
            if not {field.name, *rule.names} <= spans.keys():
                continue
            start, end = spans[rule.first][0], spans[rule.last][1]
            if any(start <= spans.get(each, (-1,))[0] < end for each in varying):
                continue
            number = computed_value(rule, field.name, values, spans, stream)
            if number is None:
                continue
            context[field.name] = number
            if not member.is_fixed:
                values[field.name] = number
                _rewrite(member, values, spans, stream, context, path)
            left.remove((member, field))
            settled = True
    return left


def _build_member(
    member: Member, values: dict[str, Any], stream: Any, context: Any, path: str
) -> None:
    if member.bits:
        run = {f.name: values.get(f.name, 0) for f in member.fields if not f.hidden}
        member.construct._build(run, stream, context, path)
        return
    field = member.fields[0]
    value = values.get(field.name, 0 if field.computed is not None else None)
    built = member.construct._build(value, stream, context, f"{path}.{field.name}")
    if field.computed is None and not field.hidden and value is None:
        context[field.name] = built


def _to_fill(
    members: Sequence[Member], spans: Spans, kind: type[Computed]
) -> list[tuple[Member, Field]]:
    """
    List computed fields of one kind whose span is in place.
    """
    return [
        (member, field)
        for member in members
        for field in member.fields
        if isinstance(field.computed, kind)
        and {field.name, *field.computed.names} <= spans.keys()
    ]


def fill_lengths(
    members: Sequence[Member],
    values: dict[str, Any],
    spans: Spans,
    stream: Any,
    context: Any,
    path: str,
) -> None:
    """
    Write the lengths; again where one's own size has moved what another counts.

    Raises:
        Fault: a length does not fit its field, or is no number of units.
    """
    lengths = _to_fill(members, spans, LengthOf)
    changed = True
    while changed:
        changed = False
        for member, field in reversed(lengths):
            rule = field.computed
            assert rule is not None
            number = computed_value(rule, field.name, values, spans, stream)
            if number is None:
                size = spans[rule.last][1] - spans[rule.first][0]
                place = f"{path}.{field.name}"
                raise Fault(place, 0, str(rule), f"a span of {size} bytes")
            if values.get(field.name) != number:
                values[field.name] = context[field.name] = number
                _rewrite(member, values, spans, stream, context, path)
                changed = True


def fill_checksums(
    members: Sequence[Member],
    values: dict[str, Any],
    spans: Spans,
    stream: Any,
    context: Any,
    path: str,
) -> None:
    """
    Write the checksums, those inside another's span before that one.

    Raises:
        Fault: a checksum does not fit its field.
    """
    waiting = []
    for pair in _to_fill(members, spans, ChecksumOf):
        rule = pair[1].computed
        assert rule is not None
        over = spans[rule.first][0], spans[rule.last][1]
        waiting.append((pair, over, spans[pair[1].name]))
    for member, field in inner_first(waiting):
        rule = field.computed
        assert rule is not None
        number = computed_value(rule, field.name, values, spans, stream)
        values[field.name] = context[field.name] = number
        _rewrite(member, values, spans, stream, context, path)


def _rewrite(
    member: Member,
    values: dict[str, Any],
    spans: Spans,
    stream: Any,
    context: Any,
    path: str,
) -> None:
    """
    Put a member's new bytes in place; what is behind moves if their number differs.
    """
    start, end = spans[member.name]
    piece = io.BytesIO()
    _build_member(member, values, piece, context, path)
    data = piece.getvalue()
    shift = len(data) - (end - start)
    if shift:
        stream.seek(end)
        data += stream.read()
    stream.seek(start)
    stream.write(data)
    if shift:
        stream.truncate()
        for name, (low, high) in spans.items():
            spans[name] = (
                low + shift if low >= end else low,
                high + shift if high >= end else high,
            )
    stream.seek(0, 2)
