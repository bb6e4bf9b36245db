"""
A message's constructor arguments, as a generated function takes them.

A default that source can say (a number, text, an enum's member) stands in the
signature. One that cannot be written there, as it is made anew for each message or is
no value of the field's type, is left to the message class: the argument is ``None``
then, and is passed on only if it is given.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from typing import Any

import attrs
import construct

from protoserve.bounds import bounds_of
from protoserve.codec.record import Field
from protoserve.exporters._python import WIDTH, Source, resolved
from protoserve.messages import Message
from protoserve.tags import field_of

__all__ = ["Argument", "arguments_of", "is_argument"]


@attrs.frozen
class Argument:
    """
    One argument.
    """

    name: str
    annotation: str
    default: str | None
    """Its source; `None` if it has to be given."""
    named: bool
    """Whether it is passed by name only."""
    optional: bool
    """Whether ``None`` stands for the class's own default."""
    about: str
    """What the declaration says of it, for people."""
    copied: bool = False
    """Whether the message gets a list of its own, made of what is given."""

    @property
    def passed(self) -> str:
        """
        The source of what the message gets.
        """
        return f"[*{self.name}]" if self.copied else self.name

    @property
    def source(self) -> str:
        """
        The argument as it stands in a signature.
        """
        default = "" if self.default is None else f" = {self.default}"
        return f"{self.name}: {self.annotation}{default}"


def arguments_of(cls: type[Message], source: Source) -> list[Argument]:
    """
    Give what a message is made of, in the order of its constructor.

    Fields that follow from others are left out, and those with one value only.
    """
    found = [
        _argument(cls, attribute, source)
        for attribute in attrs.fields(cls)  # type: ignore[arg-type] # the metaclass made it one
        if is_argument(cls, attribute)
    ]
    return sorted(found, key=lambda argument: argument.named)


def is_argument(cls: type[Message], attribute: Any) -> bool:
    """
    Say whether a field has a value of its own to be given.
    """
    subcon = field_of(cls, attribute.name).construct
    while isinstance(subcon, construct.Renamed):
        subcon = subcon.subcon
    free = attribute.init and attribute.eq
    return bool(free and not isinstance(subcon, construct.Const))


def _argument(cls: type[Message], attribute: Any, source: Source) -> Argument:
    home = next(
        (
            b
            for b in cls.__mro__
            if attribute.name in vars(b).get("__annotations__", ())
        ),
        cls,
    )
    hint = resolved(attribute.type, home)
    taken = _taken(hint)
    annotation = source.annotation(taken)
    about = _about(field_of(cls, attribute.name), attribute)
    named = bool(attribute.kw_only)
    if attribute.default is attrs.NOTHING:
        copied = taken is not hint
        return Argument(attribute.alias, annotation, None, named, False, about, copied)
    written = None
    if not isinstance(attribute.default, attrs.Factory) and _fits(  # type: ignore[arg-type]
        attribute.default, annotation, hint
    ):
        written = source.value(attribute.default)
    if written is not None:
        made = Argument(attribute.alias, annotation, written, named, False, about)
        if 8 + len(made.source) < WIDTH:
            return made
    if annotation != "Any" and "None" not in annotation.split(" | "):
        annotation += " | None"
    return Argument(attribute.alias, annotation, "None", named, True, about)


def _taken(hint: Any) -> Any:
    """
    Give the type of what is taken for a field: a sequence for a list of several types.

    For type checkers a list whose elements are all of one of them is no such list.
    """
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is not list or not arguments:
        return hint
    union = typing.get_origin(arguments[0]) in (typing.Union, types.UnionType)
    return types.GenericAlias(Sequence, arguments) if union else hint


def _fits(value: Any, annotation: str, hint: Any) -> bool:
    """
    Say whether type checkers take a value for one of its field's type.
    """
    if value is None:
        return annotation == "Any" or "None" in annotation.split(" | ")
    if annotation == "Any":
        return True
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = typing.get_args(hint) if union else (hint,)
    plain = tuple(
        k for k in (typing.get_origin(k) or k for k in kinds) if isinstance(k, type)
    )
    return isinstance(value, plain) or (float in plain and isinstance(value, int))


def _about(field: Field, attribute: Any) -> str:
    """
    Say in words what a field is, its unit and which values it takes.
    """
    said = [
        field.doc.strip().rstrip("."),
        f"in {field.unit}" if field.unit else "",
        str(bounds_of(field.construct, attribute.validator)),
    ]
    text = "; ".join(filter(None, said))
    return f"{text}." if text else ""
