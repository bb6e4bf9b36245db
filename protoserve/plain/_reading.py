"""
Plain values as messages, by the declaration.

Each kind of construct has a rule that turns a plain value into what parsing would
give. A rule is found by the construct's class, so that adapters and macros of one's
own, which are subclasses, take that of what they extend. What no rule knows goes by
the field's annotation, and at last by trial: the value is right whose bytes, parsed,
are the same plain value again.

Numbers out of range are left to the build, which names the range; here a value only
has to be of the right kind. The values read so far are what expressions see, as
when a message is built.
"""

from __future__ import annotations

import contextlib
import io
import typing
import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs
import construct
from construct import core

from protoserve.codec.enums import EnumField
from protoserve.codec.fault import describe
from protoserve.codec.record import (
    FrameContext,
    Record,
    enclosing_context,
    root_context,
)
from protoserve.messages import Message, _refusal
from protoserve.plain import _scalars
from protoserve.plain._errors import PlainError, Unfit, nearest, shown
from protoserve.plain._place import Place
from protoserve.plain._types import FROM_TEXT, as_bytes, by_type
from protoserve.plain._writing import CLASS, to_plain

__all__ = ["from_plain"]

MessageT = TypeVar("MessageT", bound=Message)


def from_plain(
    cls: type[MessageT], plain: Mapping[str, Any], *, header: Any = None
) -> MessageT:
    """
    Make a message from plain values, as `protoserve.plain.to_plain` gives them.

    Args:
        cls: the message's class.
        plain: its fields by name. Those that are filled in on build may be there
            and count for nothing. Bytes are hex text, with ``hex:`` before it or
            not, or any text behind ``text:``; enum members go by name or number;
            a dict may name its message's class as ``"message"`` where several fit.
        header: the header that choices in the message look at, if they do.

    Raises:
        PlainError: a value is not of its field's kind, is missing, or its name is
            none of the class's; it names the path, what was expected and found.
    """
    context = root_context(parsing=False)
    if header is not None:
        context = FrameContext(enclosing_context(context, None))
        context["_root"] = context
        context["session"] = None
        for field in type(header)._record.fields:
            if not field.hidden:
                context[field.name] = getattr(header, field.name)
    record = cls._record
    made: MessageT = _record(record, plain, Place(record.record_name, context, _value))
    return made


def _value(node: Any, plain: Any, place: Place) -> Any:
    if plain is None:
        return None  # what is optional is left out; of all else the build says so
    rule = next(_RULES[kind] for kind in type(node).__mro__ if kind in _RULES)
    return rule(node, plain, place)


# Structures --------------------------------------------------------------------


_annotations: weakref.WeakKeyDictionary[type, dict[str, Any]]
_annotations = weakref.WeakKeyDictionary()


def _annotations_of(cls: type) -> dict[str, Any]:
    found = _annotations.get(cls)
    if found is None:
        try:
            found = typing.get_type_hints(cls)
        except Exception:  # names that are not to be had, as of classes in functions
            found = {}
        _annotations[cls] = found
    return found


def _mapping(plain: Any, path: str, what: str) -> dict[str, Any]:
    if not isinstance(plain, Mapping):
        raise Unfit(path, f"the fields of {what}, by name", shown(plain))
    return dict(plain)


def _record(record: Record, plain: Any, place: Place) -> Any:
    """
    Read a message.
    """
    cls, path = record.owner, place.path
    fields = {field.name: field for field in record.fields if not field.hidden}
    plain = _mapping(plain, path, f"a {record.record_name}")
    if CLASS in plain and CLASS not in fields:
        named = plain.pop(CLASS)
        if named != record.record_name:
            raise Unfit(path, f"a {record.record_name}", f"a {named}")
    for name in plain:
        if name not in fields:
            own = [each for each, f in fields.items() if f.computed is None]
            known = ", ".join(own) or "none"
            expected = f"a field of {record.record_name} ({known})"
            raise PlainError(path, expected, shown(name), nearest(name, fields))
    context = enclosing_context(place.context, None)
    attributes = {a.name: a for a in attrs.fields(cls)}
    context.update(
        (name, a.default) for name, a in attributes.items() if _is_value(a.default)
    )
    context.update(plain)
    annotations = _annotations_of(cls)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in plain and field.computed is None:
            annotation = annotations.get(name, Any)
            inner = Place(f"{path}.{name}", context, _value, annotation)
            context[name] = values[name] = _value(field.construct, plain[name], inner)
        elif attributes[name].init and attributes[name].default is attrs.NOTHING:
            expected = f"a value ({describe(field.construct)})"
            raise PlainError(f"{path}.{name}", expected, "none, and no default")
    return _made(cls, attributes, values, path)


def _is_value(default: Any) -> bool:
    return default is not attrs.NOTHING and not isinstance(default, attrs.Factory)  # type: ignore[arg-type]


def _made(
    cls: Any, attributes: dict[str, Any], values: dict[str, Any], path: str
) -> Any:
    arguments = {name: v for name, v in values.items() if attributes[name].init}
    try:
        message = cls(**arguments)
    except Exception as exc:
        known = {name: a.default for name, a in attributes.items() if a.init}
        given = {n: v for n, v in {**known, **arguments}.items() if _is_value(v)}
        fault = _refusal(cls, given, exc, path)
        raise PlainError(fault.path, fault.expected, fault.found) from exc
    for name in values.keys() - arguments.keys():
        # What the format itself fills in stays as it is, as when parsing.
        object.__setattr__(message, name, values[name])
    return message


def _struct(node: Any, plain: Any, place: Place) -> Any:
    plain = _mapping(plain, place.path, "a structure")
    parts = {sc.name: sc for sc in node.subcons if sc.name}
    for name in plain:
        if name not in parts:
            expected = f"one of {', '.join(parts)}"
            raise PlainError(place.path, expected, shown(name), nearest(name, parts))
    context = enclosing_context(place.context, None)
    context.update(plain)
    values = construct.Container()
    for name, part in parts.items():
        if name in plain:
            inner = Place(f"{place.path}.{name}", context, _value)
            context[name] = values[name] = _value(part, plain[name], inner)
    return values


def _sequence(node: Any, plain: Any, place: Place) -> Any:
    plain = _list_of(plain, place, len(node.subcons))
    return construct.ListContainer(
        _value(part, each, place.element(i))
        for i, (part, each) in enumerate(zip(node.subcons, plain, strict=True))
    )


def _focused(node: Any, plain: Any, place: Place) -> Any:
    context = enclosing_context(place.context, None)
    name = core.evaluate(node.parsebuildfrom, context)
    part = next(sc for sc in node.subcons if sc.name == name)
    return _value(part, plain, attrs.evolve(place, context=context))


def _list_of(plain: Any, place: Place, count: int | None = None) -> list[Any]:
    if not isinstance(plain, list | tuple):
        raise Unfit(place.path, "a list", shown(plain))
    if count is not None and len(plain) != count:
        raise Unfit(place.path, f"a list of {count}", f"one of {len(plain)}")
    return list(plain)


def _elements(node: Any, plain: Any, place: Place) -> Any:
    return [
        _value(node.subcon, each, place.element(i))
        for i, each in enumerate(_list_of(plain, place))
    ]


# Choices -----------------------------------------------------------------------


def _evaluated(expression: Any, place: Place) -> tuple[Any, bool]:
    try:
        return core.evaluate(expression, place.context), True
    except Exception:  # it reads what is not known here
        return None, False


def _switch(node: Any, plain: Any, place: Place) -> Any:
    key, known = _evaluated(node.keyfunc, place)
    options = [*node.cases.values(), node.default]
    try:
        chosen = node.cases.get(key, node.default) if known else None
    except TypeError:  # a key that nothing can be looked up by
        chosen = None
    return _choice(options, chosen, plain, place)


def _condition(node: Any, plain: Any, place: Place) -> Any:
    holds, known = _evaluated(node.condfunc, place)
    options = [node.thensubcon, node.elsesubcon]
    return _choice(options, options[not holds] if known else None, plain, place)


def _choice(options: list[Any], chosen: Any, plain: Any, place: Place) -> Any:
    """
    Read one of several: the chosen one, else the only one that fits.

    What is chosen does not bind where the value is of another kind: bytes may stand
    for any message in formats that say so.
    """
    refusals: list[PlainError] = []
    if chosen is not None:
        try:
            return _value(chosen, plain, place)
        except Unfit as unfit:
            if unfit.path != place.path:
                raise
            refusals.append(unfit)
    found: list[Any] = []
    for option in options:
        if option is not chosen:
            try:
                value = _value(option, plain, place)
            except PlainError as error:
                refusals.append(error)
            else:
                found.append(value)
    kinds = {type(value).__name__ for value in found if isinstance(value, Message)}
    if len(kinds) > 1:
        expected = f'its class as "{CLASS}", one of {", ".join(sorted(kinds))}'
        raise PlainError(place.path, expected, "several that fit")
    if found:
        return found[0]
    telling = [error for error in refusals if not isinstance(error, Unfit)]
    if telling or len(refusals) == 1 or chosen is not None:
        raise (telling or refusals)[0]
    expected = " or ".join(dict.fromkeys(error.expected for error in refusals))
    raise Unfit(place.path, expected, shown(plain))


# What else there is ---------------------------------------------------------------


def _raw_copy(node: Any, plain: Any, place: Place) -> Any:
    plain = _mapping(plain, place.path, "a copy with its bytes")
    inner = attrs.evolve(place, path=f"{place.path}.value")
    plain["value"] = _value(node.subcon, plain.get("value"), inner)
    if plain.get("data") is not None:
        plain["data"] = as_bytes(plain["data"], f"{place.path}.data")
    return construct.Container(plain)


def _checksum(node: Any, plain: Any, place: Place) -> Any:
    return _value(node.checksumfield, plain, place)


def _inner(node: Any, plain: Any, place: Place) -> Any:
    return _value(node.subcon, plain, place)


def _wrapped(node: Any, plain: Any, place: Place) -> Any:
    """
    Read through a construct that only says how or how often something stands there.
    """
    try:
        return _value(node.subcon, plain, place)
    except Unfit:
        if not isinstance(plain, list):
            raise
        return _elements(node, plain, place)


def _nothing(_node: Any, plain: Any, place: Place) -> None:
    raise Unfit(place.path, "null", shown(plain))


def _as_it_is(_node: Any, plain: Any, _place: Place) -> Any:
    return plain


def _opaque(node: Any, plain: Any, place: Place) -> Any:
    """
    Read a value that only the construct knows, or the class's annotation.
    """

    def message(cls: Any, plain: Any, path: str) -> Any:
        return _record(cls._record, plain, attrs.evolve(place, path=path))

    known, value = by_type(place.annotation, plain, place.path, message)
    if known:
        return value
    meant, accepted = _marked_bytes(plain), []
    if meant != plain:  # else it is text that begins so
        with contextlib.suppress(Exception):
            node._build(meant, io.BytesIO(), place.context, place.path)
            return meant
    for candidate in _candidates(node, plain, place):
        # What fails is not this one, or depends on what is not known here.
        with contextlib.suppress(Exception):
            stream = io.BytesIO()
            node._build(candidate, stream, place.context, place.path)
            accepted.append(candidate)
            stream.seek(0)
            parsed = node._parsereport(stream, place.context, place.path)
            if to_plain(parsed) == plain:
                return parsed
    return accepted[0] if accepted else meant


def _marked_bytes(plain: Any) -> Any:
    """
    Read what says that it is bytes, by ``hex:`` or ``text:``, in lists and dicts too.
    """
    if isinstance(plain, str) and plain.startswith(("hex:", "text:")):
        with contextlib.suppress(PlainError):
            return as_bytes(plain, "")
    if isinstance(plain, list | tuple):
        return [_marked_bytes(each) for each in plain]
    if isinstance(plain, Mapping):
        return {name: _marked_bytes(each) for name, each in plain.items()}
    return plain


def _candidates(node: Any, plain: Any, place: Place) -> typing.Iterator[Any]:
    """
    Give the values that a plain value may be the text of.
    """
    yield plain
    if isinstance(node, construct.Adapter):
        with contextlib.suppress(PlainError):
            yield _value(node.subcon, plain, place)
    for read in (bytes.fromhex, *FROM_TEXT.values()):
        with contextlib.suppress(Exception):  # it is not of that kind
            yield [read(e) for e in plain] if isinstance(plain, list) else read(plain)


_Rule = Callable[[Any, Any, Place], Any]

_RULES: dict[type[Any], _Rule] = {
    Record: _record,
    EnumField: _scalars.python_enum,
    construct.Array: _elements,
    construct.BitsInteger: _scalars.integer,
    construct.Bytes: _scalars.raw,
    construct.BytesInteger: _scalars.integer,
    construct.Checksum: _checksum,
    construct.Computed: _as_it_is,
    construct.Const: _scalars.constant,
    construct.Construct: _opaque,
    construct.Adapter: _opaque,
    construct.Enum: _scalars.enum,
    construct.FlagsEnum: _scalars.flags,
    construct.FocusedSeq: _focused,
    construct.FormatField: _scalars.number,
    construct.GreedyRange: _elements,
    construct.Hex: _inner,
    construct.HexDump: _inner,
    construct.IfThenElse: _condition,
    construct.LazyArray: _elements,
    construct.LazyBound: lambda node, *rest: _value(node.subconfunc(), *rest),
    construct.LazyStruct: _struct,
    construct.Mapping: _scalars.mapped,
    construct.RawCopy: _raw_copy,
    construct.RepeatUntil: _elements,
    construct.Select: lambda node, *rest: _choice(node.subcons, None, *rest),
    construct.Sequence: _sequence,
    construct.StringEncoded: _scalars.text,
    construct.Struct: _struct,
    construct.Subconstruct: _wrapped,
    construct.Switch: _switch,
    construct.Union: _struct,
    construct.Validator: _inner,
    type(construct.Flag): _scalars.truth,
    type(construct.GreedyBytes): _scalars.raw,
    type(construct.Index): _as_it_is,
    type(construct.Pass): _nothing,
    type(construct.Tell): _as_it_is,
    type(construct.VarInt): _scalars.integer,
    type(construct.ZigZag): _scalars.integer,
}
"""How each kind of construct's value is read."""
