"""
Messages: the bytes declared once, as typed attrs classes.

A `Message` subclass names its fields in the order of the wire; `wire` says how
each is encoded, with any Construct object or another message class. The
metaclass makes an attrs slots class of it, so a message is an ordinary value,
and `Message.construct` is its Construct form for use inside Construct's own
combinators. What can be known to be wrong is refused when the class is defined.
"""

from __future__ import annotations

import enum as enums
import functools
import keyword
import typing
from collections.abc import Callable
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Literal,
    Self,
    TypeVar,
    dataclass_transform,
    overload,
)

import attrs
import construct as constructs

from protoserve.codec import boundary, compiled
from protoserve.codec.caps import Caps
from protoserve.codec.computed import (
    FRAME_PARTS,
    ChecksumOf,
    Computed,
    CountOf,
    checksum_of,
    count_of,
    inner_first,
    length_of,
)
from protoserve.codec.enums import EnumField
from protoserve.codec.fault import Fault
from protoserve.codec.record import Field, Record, slot_name
from protoserve.errors import DeclarationError
from protoserve.types import BytesLike

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "Caps",
    "Message",
    "Request",
    "checksum_of",
    "count_of",
    "length_of",
    "wire",
]

_T = TypeVar("_T")


@attrs.frozen
class _Wire:
    """
    What `wire` keeps for the metaclass, in the attrs field's metadata.
    """

    construct: Any
    computed: Computed | None
    doc: str
    unit: str
    enum: type[enums.Enum] | None


_WIRE = "protoserve.wire"


@overload
def wire(
    construct: Any,
    *,
    value: Computed | Any,
    doc: str = ...,
    unit: str = ...,
    init: Literal[False] = False,
) -> Any: ...
@overload
def wire(
    construct: Any,
    *,
    init: Literal[False],
    doc: str = ...,
    unit: str = ...,
) -> Any: ...
@overload
def wire(
    construct: Any,
    *,
    default: _T,
    doc: str = ...,
    unit: str = ...,
    enum: type[enums.Enum] | None = ...,
    strict: bool = ...,
    converter: Callable[[Any], Any] | None = ...,
    validator: Any = ...,
    kw_only: bool = ...,
    init: Literal[True] = True,
) -> _T: ...
@overload
def wire(
    construct: Any,
    *,
    factory: Callable[[], _T],
    doc: str = ...,
    unit: str = ...,
    enum: type[enums.Enum] | None = ...,
    strict: bool = ...,
    converter: Callable[[Any], Any] | None = ...,
    validator: Any = ...,
    kw_only: bool = ...,
    init: Literal[True] = True,
) -> _T: ...
@overload
def wire(
    construct: Any,
    *,
    doc: str = ...,
    unit: str = ...,
    enum: type[enums.Enum] | None = ...,
    strict: bool = ...,
    converter: Callable[[Any], Any] | None = ...,
    validator: Any = ...,
    kw_only: bool = ...,
    init: Literal[True] = True,
) -> Any: ...
def wire(
    construct: Any,
    *,
    default: Any = attrs.NOTHING,
    factory: Callable[[], Any] | None = None,
    value: Any = None,
    doc: str = "",
    unit: str = "",
    enum: type[enums.Enum] | None = None,
    strict: bool = False,
    converter: Callable[[Any], Any] | None = None,
    validator: Any = None,
    kw_only: bool = False,
    init: bool = True,
) -> Any:
    """
    Say how a field is encoded.

    Args:
        construct: any Construct object, or a `Message` class.
        default: the value if none is given.
        factory: makes the value if none is given.
        value: `length_of`, `count_of` or `checksum_of`: the field follows from
            others, is no constructor argument, is filled in when the message is
            built and checked when it is parsed.
        doc: one line for people, used wherever the field is shown.
        unit: the unit of measurement, as in ``"°C"``.
        enum: a Python enum for the values; a number that no member has stays
            a number.
        strict: with `enum`, such a number is malformed.
        converter: applied to the value given to the constructor, as in attrs.
        validator: checks the value, as in attrs; also when parsing.
        kw_only: the constructor takes it by name only.
        init: `False` for what the format itself fills in, such as a `Const`.

    Raises:
        DeclarationError: the construct is none, or options exclude each other.
    """
    if isinstance(construct, MessageType):
        construct = construct.construct
    if not isinstance(construct, constructs.Construct):
        raise DeclarationError(
            f"wire() takes a Construct object or a Message class, not {construct!r}"
        )
    if value is not None and not isinstance(value, Computed):
        raise DeclarationError(
            "wire(value=…) takes length_of(…), count_of(…) or checksum_of(…), "
            f"not {value!r}; for a fixed value use default= or a Const"
        )
    if value is not None and (default is not attrs.NOTHING or factory):
        raise DeclarationError("wire(): value= leaves no room for a default")
    if default is not attrs.NOTHING and factory is not None:
        raise DeclarationError("wire(): default= and factory= exclude each other")
    if enum is not None:
        construct = EnumField(construct, enum, strict)
    elif strict:
        raise DeclarationError("wire(strict=True) needs enum=")
    while isinstance(construct, constructs.Renamed) and construct.parsed is None:
        doc = doc or construct.docs
        construct = construct.subcon
    given = _Wire(construct, value, doc, unit, enum)
    by_format = value is None and construct.flagbuildnone
    if by_format and default is attrs.NOTHING and factory is None:
        default, kw_only = _value_of_format(construct), kw_only or init
    if factory is not None:
        default = attrs.Factory(factory)
    compared = value is None and not (by_format and _follows_from_others(construct))
    return attrs.field(
        default=attrs.NOTHING if value is not None else default,
        validator=validator,
        converter=converter,
        kw_only=kw_only or None,  # None: as the class says
        init=init and value is None,
        eq=compared,
        repr=value is None and init,
        metadata={_WIRE: given},
    )


def _value_of_format(construct: Any) -> Any:
    """
    Take the value that a construct has of itself.
    """
    if isinstance(construct, constructs.Const):
        return construct.value
    if isinstance(construct, constructs.Default) and not callable(construct.value):
        return construct.value
    return None


def _follows_from_others(construct: Any) -> bool:
    return not isinstance(
        construct,
        constructs.Const
        | constructs.Default
        | constructs.Select
        | constructs.Switch
        | constructs.IfThenElse
        | constructs.Struct,
    )


@dataclass_transform(field_specifiers=(wire,))
class MessageType(type):
    """
    The metaclass of `Message`: runs `attrs.define` and checks the fields.
    """

    _record: Record
    _caps: Caps
    _table: str
    is_error: bool
    is_idempotent: bool

    def __new__(
        mcs,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        frozen: bool = False,
        kw_only: bool = False,
        bits: bool = False,
        error: bool = False,
        idempotent: bool = False,
        table: str | None = None,
        caps: Caps | None = None,
        **options: Any,
    ) -> MessageType:
        cls = super().__new__(mcs, name, bases, namespace, **options)
        if "__slots__" in namespace:
            return cls  # Message and Request themselves, or what attrs made of ours
        _check_names(cls, namespace)
        if not isinstance(caps, Caps | None):
            raise DeclarationError(f"{name}: caps= takes Caps(…), not {caps!r}")
        try:
            defined: Any = attrs.define(
                cls,
                frozen=frozen,
                kw_only=kw_only,
                weakref_slot=False,
                auto_attribs=True,
                field_transformer=functools.partial(_check_fields, named=kw_only),
            )
        except (attrs.exceptions.UnannotatedAttributeError, ValueError) as exc:
            raise DeclarationError(f"{name}: {exc}") from exc
        if caps is not None:
            defined._caps = caps
        if error:
            defined.is_error = True
        if idempotent:
            defined.is_idempotent = True
        if table is not None:
            defined._table = table
        defined._record = _make_record(defined, bits=bits)
        if "parse" not in namespace:
            defined.parse = classmethod(_first_parse)
        if "__bytes__" not in namespace:
            defined.__bytes__ = _first_bytes
        defined._record.check()
        _compute_when_read(defined)
        _check_response(defined)
        made: MessageType = defined
        return made

    @property
    def construct(cls) -> Any:
        """
        The message's Construct form, for use inside Construct's combinators.
        """
        return cls._record

    @property
    def dtype(cls) -> np.dtype[Any]:
        """
        The NumPy dtype of the message's bytes, for messages of a fixed layout.

        ``numpy.frombuffer(data, Reading.dtype)`` is an array of many, without an
        object for each.

        Raises:
            DeclarationError: the layout is not fixed; it names the part that varies.
        """
        from protoserve.codec.dtype import columns_of

        return columns_of(cls).dtype


def _compute_when_read(cls: Any) -> None:
    """
    Let fields that follow from others be read before they were ever filled in.

    Their slots stay, under the names that generated code stores to (see
    `protoserve.codec.record.slot_name`); the fields' own names become properties.
    """
    for field in cls._record.fields:
        slot = cls.__dict__.get(field.name)
        if field.computed is not None and slot is not None:
            setattr(cls, slot_name(field.name), slot)
            setattr(cls, field.name, _computed_property(slot, field))


def _computed_property(slot: Any, field: Field) -> property:
    def read(self: Message) -> Any:
        try:
            return slot.__get__(self)
        except AttributeError:
            return _compute(self, field)

    return property(read, slot.__set__)


def _first_parse(cls: Any, data: BytesLike) -> Any:
    """
    Make the class's parsing function, which takes this one's place, and call it.

    Who kept the method from before calls it again.
    """
    record = cls._record
    if record.parser is None:
        record.parser = compiled.parser_of(record, cls._caps)
        own = cls.__dict__.get("parse")
        if isinstance(own, classmethod) and own.__func__ is _first_parse:
            cls.parse = staticmethod(record.parser)
    return record.parser(data)


def _first_bytes(self: Any) -> bytes:
    """
    Make the class's building function, which takes this one's place, and call it.
    """
    cls = type(self)
    record = cls._record
    if record.builder is None:
        record.builder = compiled.builder_of(record)
        if cls.__dict__.get("__bytes__") is _first_bytes:
            cls.__bytes__ = record.builder
    data: bytes = record.builder(self)
    return data


def _check_names(cls: type, namespace: dict[str, Any]) -> None:
    """
    Refuse fields whose names mean something else already.
    """
    taken = {*dir(Message), "construct"}
    names = set(namespace.get("__annotations__", {})) | {
        name for name, value in namespace.items() if _is_field(value)
    }
    for name in sorted(names):
        if _is_class_variable(namespace, name):
            continue
        if name in taken:
            raise DeclarationError(
                f"{cls.__name__}.{name}: a field of this name would shadow "
                f"Message.{name}; choose another name"
            )


def _is_field(value: Any) -> bool:
    return type(value).__name__ == "_CountingAttr"


def _is_class_variable(namespace: dict[str, Any], name: str) -> bool:
    annotation = namespace.get("__annotations__", {}).get(name)
    return "ClassVar" in str(annotation)


def _check_fields(cls: type, fields: list[Any], *, named: bool) -> list[Any]:
    """
    Check each field by itself, on behalf of attrs.

    Args:
        cls: the message class.
        fields: its attrs fields.
        named: whether the constructor takes names only.
    """
    optional = None
    for field in fields:
        given = field.metadata.get(_WIRE)
        where = f"{cls.__name__}.{field.name}"
        if field.init and not field.kw_only and not named:
            if field.default is not attrs.NOTHING:
                optional = field.name
            elif optional is not None:
                raise DeclarationError(
                    f"{where}: it has no default but stands behind {optional!r}, which "
                    "has one; give it a default too, or make it kw_only=True (or "
                    f"declare class {cls.__name__}(Message, kw_only=True))"
                )
        if given is None:
            raise DeclarationError(f"{where}: say how it is encoded with wire(…)")
        if not field.name.startswith("_"):
            continue
        if given.computed is not None or not given.construct.flagbuildnone:
            raise DeclarationError(
                f"{where}: names with a leading underscore are for padding and "
                "other parts that carry no value"
            )
    return [f.evolve(init=False, eq=False, repr=False) if f.name[0] == "_" else f
            for f in fields]  # fmt: skip


def _make_record(cls: Any, *, bits: bool) -> Record:
    fields = []
    for attribute in attrs.fields(cls):
        given: _Wire = attribute.metadata[_WIRE]
        hidden = attribute.name.startswith("_")
        fields.append(
            Field(
                attribute.name,
                given.construct,
                given.computed,
                hidden=hidden,
                doc=given.doc,
                unit=given.unit,
            )
        )
    _check_computed(cls.__name__, fields)
    _check_checksums(cls.__name__, fields)
    make, style = _maker(cls)
    arguments = [a.name for a in attrs.fields(cls) if a.init]
    return Record(
        cls.__name__,
        fields,
        bits=bits,
        make=make,
        make_style=style,
        arguments=arguments,
        owner=cls,
    )


def _check_computed(name: str, fields: list[Field]) -> None:
    known = {field.name: field for field in fields if not field.hidden}
    order = {field.name: i for i, field in enumerate(fields)}
    for field in fields:
        rule = field.computed
        if rule is None:
            continue
        where = f"{name}.{field.name}"
        for other in rule.names:
            if other not in known and other not in FRAME_PARTS:
                raise DeclarationError(
                    f"{where}: {rule} names the field {other!r}, which {name} does "
                    f"not have (it has {', '.join(known)})"
                )
        if isinstance(rule, CountOf) and rule.first == field.name:
            raise DeclarationError(f"{where}: it cannot count itself")
        if order.get(rule.first, -1) > order.get(rule.last, len(order)):
            raise DeclarationError(
                f"{where}: {rule.first!r} stands behind {rule.last!r}; name the first "
                "field of the span first"
            )


def _check_checksums(name: str, fields: list[Field]) -> None:
    order = {field.name: i for i, field in enumerate(fields)}
    spans = []
    for i, field in enumerate(fields):
        rule = field.computed
        if isinstance(rule, ChecksumOf) and {rule.first, rule.last} <= order.keys():
            over = order[rule.first], order[rule.last] + 1
            spans.append((field.name, over, (i, i + 1)))
    try:
        inner_first(spans)
    except ValueError as exc:
        names = ", ".join(field for field, _, _ in spans)
        raise DeclarationError(
            f"{name}: the checksums {names} are over each other, so neither could be "
            "worked out first"
        ) from exc


def _maker(cls: Any) -> tuple[Callable[[dict[str, Any], str], Any], str]:
    """
    Choose how parsed values become a message; give the function and its style.

    A plain class skips `__init__`, which would only copy; one with validators,
    converters or a post-init hook is constructed.
    """
    attributes = attrs.fields(cls)
    hidden = [a.name for a in attributes if a.name.startswith("_")]
    new, put = object.__new__, object.__setattr__

    def plain(values: dict[str, Any], _path: str) -> Any:
        message = new(cls)
        for name, value in values.items():
            put(message, name, value)
        for name in hidden:
            put(message, name, None)
        return message

    def constructed(values: dict[str, Any], path: str) -> Any:
        arguments = {a.name: values[a.name] for a in attributes if a.init}
        try:
            message = cls(**arguments)
        except Exception as exc:
            raise _refusal(cls, arguments, exc, path) from exc
        for name, value in values.items():
            if name not in arguments:
                put(message, name, value)
        return message

    hooked = hasattr(cls, "__attrs_post_init__") or hasattr(cls, "__attrs_pre_init__")
    checked = any(
        a.validator is not None or a.converter is not None for a in attributes
    )
    if hooked or checked:
        return constructed, "constructed"
    frozen = cls.__setattr__ is not object.__setattr__
    return plain, "frozen" if frozen else "plain"


def _refusal(cls: Any, arguments: dict[str, Any], exc: Exception, path: str) -> Fault:
    """
    Find the field whose converter or validator refused its value.
    """
    draft = object.__new__(cls)
    for attribute in attrs.fields(cls):
        if attribute.name not in arguments:
            continue
        value = arguments[attribute.name]
        try:
            if attribute.converter is not None:
                value = attribute.converter(value)
            object.__setattr__(draft, attribute.name, value)
            if attribute.validator is not None:
                attribute.validator(draft, attribute, value)
        except Exception as refused:
            place = f"{path}.{attribute.name}"
            expected = f"a value that its checks accept ({_first(refused)})"
            return Fault(place, 0, expected, repr(value))
    return Fault(path, 0, f"values that {cls.__name__} accepts", _first(exc))


def _first(exc: Exception) -> str:
    return str(exc.args[0] if exc.args else type(exc).__name__)


def _check_response(cls: type) -> None:
    for candidate in response_types(cls):
        if isinstance(candidate, str | typing.ForwardRef | TypeVar):
            continue
        if not isinstance(candidate, MessageType):
            raise DeclarationError(
                f"{cls.__name__}: Request[{candidate!r}] is not answered by a Message"
            )


def response_types(cls: type) -> tuple[Any, ...]:
    """
    Give the classes that a request is answered by; empty for other messages.

    References by name stay `ForwardRef`, one for each name of a union.
    """
    for base in cls.__mro__:
        for original in vars(base).get("__orig_bases__", ()):
            if typing.get_origin(original) is Request:
                (argument,) = typing.get_args(original)
                members = typing.get_args(argument) or (argument,)
                return tuple(each for member in members for each in _named(member))
    return ()


def _named(member: Any) -> tuple[Any, ...]:
    """
    Take a reference by name apart.
    """
    text = getattr(member, "__forward_arg__", None)
    if text is None:
        return (member,)
    return tuple(typing.ForwardRef(name.strip()) for name in text.split("|"))


class Message(metaclass=MessageType):
    """
    One message; subclass it and declare the fields with `wire`.

    Class options: ``frozen=True`` makes it immutable (parsing then takes two to
    three times as long), ``kw_only=True`` makes the constructor take names only,
    ``bits=True`` says that the fields are bits all together, ``error=True`` that
    a peer that answers with it reports an error, ``idempotent=True`` that a request
    may be acted on twice without harm, ``table="flows"`` what a collector calls the table
    of its rows, ``caps=Caps(…)`` how much a message may ask for.

    >>> from construct import Int8ub, Int16ub
    >>> class Point(Message):
    ...     x: int = wire(Int8ub)
    ...     y: int = wire(Int16ub, default=0)
    >>> bytes(Point(1, y=2)).hex(" ")
    '01 00 02'
    >>> Point.parse(bytes.fromhex("01 0002"))
    Point(x=1, y=2)
    """

    __slots__ = ()

    _record: ClassVar[Record]
    _caps: ClassVar[Caps] = Caps()
    _table: ClassVar[str] = ""
    is_error: ClassVar[bool] = False
    """Whether a peer that answers with this message reports an error."""
    is_idempotent: ClassVar[bool] = False
    """Whether it makes no difference if this request is acted on twice."""

    @classmethod
    def parse(cls, data: BytesLike) -> Self:
        """
        Make a message from bytes, all of them.

        Args:
            data: the whole message and nothing else.

        Raises:
            MalformedMessageError: the bytes are not this message; it names the
                path, the offset, what was expected and what was found.
        """
        raise NotImplementedError  # every subclass gets its own, see MessageType

    def __bytes__(self) -> bytes:
        """
        Encode the message.

        Raises:
            InvalidMessageError: a value does not fit its format.
        """
        raise NotImplementedError  # every subclass gets its own, see MessageType

    @classmethod
    def from_construct(cls, name: str, struct: Any) -> type[Self]:
        """
        Make a message class from a Construct `Struct` or `BitStruct`.

        Args:
            name: the class's name.
            struct: the format; unnamed parts stay on the wire and get no field.

        Raises:
            DeclarationError: it is no structure, or a name cannot be a field's.
        """
        bits = isinstance(struct, constructs.Transformed | constructs.Restreamed)
        inner = struct.subcon if bits else struct
        if isinstance(inner, constructs.Renamed):
            inner = inner.subcon
        if not isinstance(inner, constructs.Struct):
            raise DeclarationError(
                f"{name}: from_construct takes a Struct or BitStruct, not {struct!r}"
            )
        namespace: dict[str, Any] = {
            "__annotations__": {},
            "__doc__": struct.docs or None,
            "__module__": cls.__module__,
        }
        for i, part in enumerate(inner.subcons):
            field = part.name or f"_unnamed{i}"
            if not field.isidentifier() or keyword.iskeyword(field):
                raise DeclarationError(f"{name}: {field!r} cannot be a field's name")
            namespace[field] = wire(part)
            namespace["__annotations__"][field] = Any
        return MessageType(name, (cls,), namespace, bits=bits)  # type: ignore[return-value]

    if not TYPE_CHECKING:
        # Hidden from type checkers: it is for Construct's expressions.

        def __getitem__(self, name: str) -> Any:
            # Construct's expressions (this.other.name) look names up like this.
            try:
                return getattr(self, name)
            except AttributeError:
                raise KeyError(name) from None


def _compute(message: Message, field: Field) -> int:
    """
    Work out a field that follows from others, before the message was ever built.

    A header's field that speaks of the rest of its frame is 0 until it has one.
    """
    rule = field.computed
    if isinstance(rule, CountOf):
        return len(getattr(message, rule.first))
    values = boundary.computed_fields(message._record, message)
    return int(values.get(field.name, 0))


ResponseT = TypeVar("ResponseT", bound=Message)


class Request(Message, Generic[ResponseT]):
    """
    A message that is answered; ``Request[Ack]`` says by what.

    Clients are typed by this, and routes are checked against it. A request that
    several messages may answer is a ``Request[Ack | Nak]``; one that is defined
    before its answer is a ``Request["Ack"]``.
    """

    __slots__ = ()
