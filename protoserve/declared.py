"""
What is wrong with a protocol's declaration, told when it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import construct as constructs

from protoserve.codec.computed import FRAME_PARTS, ChecksumOf, LengthOf
from protoserve.codec.fault import Fault
from protoserve.codec.record import Record
from protoserve.errors import (
    DeclarationError,
    InvalidMessageError,
)
from protoserve.framing.base import Framing
from protoserve.messages import Message, response_types
from protoserve.tags import (
    Direction,
    field_of,
    part_of,
    plain_tag,
    tag_text,
)

if TYPE_CHECKING:
    from protoserve.protocol import Protocol

__all__ = ["check_options", "check_parts", "check_states", "check_tags", "merged_table"]


def check_options(protocol: Protocol) -> None:
    """
    Check what each option takes, by itself.
    """
    name, tag, key = protocol.name, protocol.tag, protocol.correlate
    if not isinstance(name, str):
        raise DeclarationError(f"Protocol takes a name first, not {name!r}")
    for option, value in (("tag", tag), ("correlate", key)):
        names = value if isinstance(value, tuple) else (value,)
        if value is None or callable(value) or all(isinstance(n, str) for n in names):
            continue
        raise DeclarationError(
            f"{name}: {option}= takes the name of a header's field, a tuple of names "
            f"or a function, not {value!r}"
        )
    for option in ("states", "ports"):
        value = getattr(protocol, option)
        if value is not None and not isinstance(value, Mapping):
            raise DeclarationError(f"{name}: {option}= takes a mapping, not {value!r}")


def check_parts(protocol: Protocol) -> None:
    """
    Refuse headers, trailers and framings that are none, or do not fit each other.
    """
    for option in ("header", "trailer"):
        part = getattr(protocol, option)
        if part is not None and not _is_message(part):
            raise DeclarationError(
                f"{protocol.name}: {option}= takes a Message class, not {part!r}"
            )
    if protocol.framing is not None and not isinstance(protocol.framing, Framing):
        raise DeclarationError(
            f"{protocol.name}: framing= takes a Framing such as LengthPrefixed(…), "
            f"not {protocol.framing!r}"
        )
    for option in ("header", "trailer"):
        part = getattr(protocol, option)
        names = () if part is None else [field.name for field in part._record.fields]
        for reserved in ("session", *sorted(FRAME_PARTS)):
            if reserved in names:
                raise DeclarationError(
                    f"{protocol.name}: the {option}'s field {reserved!r} would hide "
                    f"the {reserved} that fields refer to; choose another name"
                )
    if (
        protocol.header is not None
        and protocol.header._record.greedy_tail() is not None
    ):
        raise DeclarationError(
            f"{protocol.name}: the header {protocol.header.__name__} takes all "
            "bytes to the end of the frame, so no message could follow it"
        )
    if protocol.trailer is not None:
        _check_trailer(protocol)
    _check_framed_length(protocol)
    for paths in (protocol.tag, protocol.correlate):
        if isinstance(paths, str | tuple):
            for path in (paths,) if isinstance(paths, str) else paths:
                _check_path(protocol, path)


def _check_framed_length(protocol: Protocol) -> None:
    """
    Refuse a checksum over a length that the framing would write only afterwards.
    """
    if protocol.framing is None or protocol.header is None:
        return
    from protoserve.framing.length_field import LengthField

    if not isinstance(protocol.framing, LengthField):
        return
    parts = [p._record for p in (protocol.header, protocol.trailer) if p is not None]
    rules = [f.computed for part in parts for f in part.fields]
    lengths = [f.computed for f in protocol.header._record.fields]
    summed = any(isinstance(r, ChecksumOf) for r in rules)
    if summed and not any(isinstance(r, LengthOf) for r in lengths):
        raise DeclarationError(
            f"{protocol.name}: the framing writes the length when the checksum has been "
            "worked out; declare the header's length with value=length_of(…)"
        )


def _check_trailer(protocol: Protocol) -> None:
    assert protocol.trailer is not None
    name = protocol.trailer.__name__
    try:
        protocol.trailer._record.sizeof()
    except Exception as exc:
        raise DeclarationError(
            f"{protocol.name}: the trailer {name} must have a fixed size, so that the "
            "end of the message is known"
        ) from exc
    try:
        protocol.trailer()
    except TypeError as exc:
        raise DeclarationError(
            f"{protocol.name}: every field of the trailer {name} must have a value= or "
            "a default, as nobody passes them"
        ) from exc
    if protocol.header is not None:
        twice = {f.name for f in protocol.header._record.fields} & {
            f.name for f in protocol.trailer._record.fields
        }
        if twice:
            raise DeclarationError(
                f"{protocol.name}: header and trailer both have a field "
                f"{min(twice)!r}; rename one"
            )


def _check_path(protocol: Protocol, path: str) -> None:
    if protocol.header is None:
        raise DeclarationError(
            f"{protocol.name}: {path!r} names a header's field, but there is no header="
        )
    cls: Any = protocol.header
    for name in path.split("."):
        names = [field.name for field in cls._record.fields if not field.hidden]
        if name not in names:
            raise DeclarationError(
                f"{protocol.name}: {path!r} names no field of {cls.__name__} "
                f"(it has {', '.join(names)})"
            )
        field = field_of(cls, name)
        if field.computed is not None:
            raise DeclarationError(
                f"{protocol.name}: {path!r} is {field.computed}, so it can hold "
                "nothing else"
            )
        if not isinstance(field.construct, Record):
            break
        cls = field.construct.owner
    if part_of(protocol.header, path) is None:
        raise DeclarationError(
            f"{protocol.name}: {path!r} names no part of {cls.__name__}.{name}"
        )


def _is_message(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Message)


def merged_table(protocol: Protocol, option: str) -> dict[Any, type[Message]]:
    """
    Merge one direction's table with the one for both.
    """
    merged: dict[Any, type[Message]] = {}
    seen: dict[type[Message], Any] = {}
    for source in (option, "messages"):
        table = getattr(protocol, source)
        if _is_message(table):
            table = {None: table}
        if not isinstance(table, Mapping):
            raise DeclarationError(
                f"{protocol.name}: {source}= takes a mapping of tags to Message "
                f"classes or one class, not {table!r}"
            )
        for tag, cls in table.items():
            tag = _wire_tag(protocol, tag)
            if not _is_message(cls):
                raise DeclarationError(
                    f"{protocol.name}: {source}[{tag!r}] is no Message class: {cls!r}"
                )
            if tag in merged and tag is None:
                raise DeclarationError(
                    f"{protocol.name}: {merged[tag].__name__} and {cls.__name__} "
                    "cannot be told apart without a tag="
                )
            if tag in merged:
                raise DeclarationError(
                    f"{protocol.name}: tag {tag_text(tag)} stands for both "
                    f"{merged[tag].__name__} and {cls.__name__} in {option}"
                    + (" and messages" if source == "messages" else "")
                )
            if cls in seen:
                raise DeclarationError(
                    f"{protocol.name}: {cls.__name__} stands under both "
                    f"{tag_text(seen[cls])} and {tag_text(tag)} in {option}; for "
                    "several tags of one message use a function as tag="
                )
            merged[tag], seen[cls] = cls, tag
    return merged


def _wire_tag(protocol: Protocol, tag: Any) -> Any:
    """
    Bring a table's tag to what is on the wire; names of Construct's enums too.
    """
    if isinstance(protocol.tag, tuple) and isinstance(tag, tuple):
        pairs = zip(protocol.tag, tag, strict=False)
        return (
            tuple(_wire_number(protocol, path, part) for path, part in pairs)
            + (tag[len(protocol.tag) :])
        )
    if isinstance(protocol.tag, str):
        return _wire_number(protocol, protocol.tag, tag)
    return plain_tag(tag)


def _wire_number(protocol: Protocol, path: str, value: Any) -> Any:
    assert protocol.header is not None
    part = part_of(protocol.header, path)
    while isinstance(value, str) and isinstance(part, constructs.Subconstruct):
        if isinstance(part, constructs.Enum):
            return part.encmapping.get(value, value)
        part = part.subcon
    return plain_tag(value)


def _check_fits(protocol: Protocol, cls: type[Message], tag: Any) -> None:
    """
    Refuse a tag that its field cannot hold, or that no header has.
    """
    assert protocol.header is not None
    if callable(protocol.tag):
        try:
            protocol._inverse(None, tag)
        except InvalidMessageError as exc:
            raise DeclarationError(f"{protocol.name}: {cls.__name__}: {exc}") from exc
        return
    paths = (protocol.tag,) if isinstance(protocol.tag, str) else protocol.tag or ()
    values = tag if isinstance(protocol.tag, tuple) else (tag,)
    if not isinstance(values, tuple) or len(values) != len(paths):
        raise DeclarationError(
            f"{protocol.name}: {cls.__name__} stands under {tag!r}, but tag= names "
            f"{len(paths)} fields: expected a tuple of {len(paths)}"
        )
    for path, value in zip(paths, values, strict=True):
        try:
            part_of(protocol.header, path).build(value)
        except (
            constructs.FormatFieldError,
            constructs.IntegerError,
            constructs.MappingError,
            constructs.StringError,
            constructs.ValidationError,
            Fault,
        ) as exc:
            raise DeclarationError(
                f"{protocol.name}: {cls.__name__} stands under {value!r}, which "
                f"{protocol.header.__name__}.{path} cannot hold"
            ) from exc
        except Exception:  # noqa: S112 - it depends on what is around it
            continue


def check_tags(protocol: Protocol) -> None:
    """
    Refuse tables whose tags cannot be told or filled in.
    """
    tagged = any(None not in table and table for table in protocol._tables.values())
    if tagged and protocol.tag is None:
        raise DeclarationError(
            f"{protocol.name}: tables by tag need header= and tag=, which say where in "
            "the bytes the tag is"
        )
    if protocol.tag is not None and protocol.header is None:
        raise DeclarationError(f"{protocol.name}: tag= needs a header=")
    if not any(protocol._tables.values()):
        raise DeclarationError(f"{protocol.name}: it has no messages at all")
    for table in protocol._tables.values():
        if None in table and protocol.tag is not None:
            raise DeclarationError(
                f"{protocol.name}: {table[None].__name__} stands alone in its table, "
                "but there is a tag=; say which tag it has"
            )
        if None in table and len(table) > 1:
            names = ", ".join(cls.__name__ for cls in table.values())
            raise DeclarationError(
                f"{protocol.name}: {names} cannot be told apart without a tag="
            )
        if protocol.tag is not None:
            for tag, cls in table.items():
                _check_fits(protocol, cls, tag)
    for cls in protocol._tables[Direction.REQUEST].values():
        for answer in response_types(cls):
            known = protocol._tables[Direction.RESPONSE].values()
            name = getattr(answer, "__forward_arg__", None)
            if name is None and isinstance(answer, type):
                name = None if answer in known else answer.__name__
            elif name in {each.__name__ for each in known}:
                name = None
            if name is not None:
                raise DeclarationError(
                    f"{protocol.name}: {cls.__name__} is a Request[{name}], "
                    f"but {name} is in neither responses nor messages"
                )


def check_states(protocol: Protocol) -> None:
    """
    Refuse states that name what is no message or no state.
    """
    known = protocol.classes()
    states = protocol.states or {}
    for state, moves in states.items():
        where = f"{protocol.name}: state {state!r}"
        if not isinstance(moves, Mapping):
            raise DeclarationError(
                f"{where} takes a mapping of messages to states, not {moves!r}"
            )
        for cls, following in moves.items():
            if cls not in known:
                name = getattr(cls, "__name__", repr(cls))
                raise DeclarationError(
                    f"{where} names {name}, which is no message of the protocol"
                )
            if following not in states:
                import difflib

                close = difflib.get_close_matches(str(following), map(str, states), 1)
                hint = (
                    f"did you mean {close[0]!r}?"
                    if close
                    else f"a state in which all ends is written {following!r}: {{}}"
                )
                raise DeclarationError(
                    f"{where}: {cls.__name__} leads to {following!r}, which is no "
                    f"state; {hint}"
                )
