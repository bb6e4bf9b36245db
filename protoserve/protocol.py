"""
A protocol's table of contents: which messages there are, and how to tell them.

A frame is an optional header, a message and an optional trailer. The header's
*tag* says which message it is, by a table for each direction. All of it is a
value that everything else reads: sessions, clients, documentation, tools.

Tags are field names (``"kind"``, ``"flags.opcode"``), tuples of them, or a
function of the header. A function is turned round, to fill in the header of a
message that is sent, by trying the values of the fields that it reads, those
nearest to what the header has first: an exception bit is just a tag then.
"""

from __future__ import annotations

import contextlib
import difflib
import enum
import inspect
import itertools
import operator
import types
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import attrs
import construct as constructs

from protoserve.codec.caps import Caps
from protoserve.codec.computed import FRAME_PARTS
from protoserve.codec.explain import guess
from protoserve.codec.fault import Fault
from protoserve.codec.frame import FrameCodec
from protoserve.codec.record import Field, Record
from protoserve.errors import (
    DeclarationError,
    InvalidMessageError,
    LocalProtocolError,
    UnknownMessageError,
)
from protoserve.framing.base import Framing
from protoserve.messages import Message, response_types
from protoserve.types import BytesLike

__all__ = ["Direction", "Parsed", "Protocol"]

Tag: TypeAlias = str | tuple[str, ...] | Callable[[Any], Hashable]
Table: TypeAlias = Mapping[Any, type[Message]] | type[Message]


class Direction(enum.Enum):
    """
    Which way a message goes.
    """

    REQUEST = "request"
    """From the client to the server."""

    RESPONSE = "response"
    """From the server to the client."""

    __hash__ = object.__hash__  # Enum's own is looked up and run in Python


class Parsed(NamedTuple):
    """
    What one frame held.
    """

    header: Any
    """The header, or `None` for a protocol without one."""
    message: Any
    trailer: Any


class _Sender(NamedTuple):
    """
    What builds one message class's frames in one direction.
    """

    build: Any
    """Takes header, message and trailer; the tag is written in."""
    template: Any
    """The header of a message that is no reply, or `None`: it is made each time."""
    trailer: Any


@attrs.frozen(eq=False, repr=False)
class Protocol:
    """
    A protocol, declared once.

    Args:
        name: its name, a word in lower case.
        framing: how a stream is cut into frames; `None` for protocols that only
            exist on datagrams.
        header: the message class that every frame starts with.
        tag: what in the header says which message follows: a field's name (with
            dots for nested ones), a tuple of names, or a function of the header.
        requests: messages from the client, by tag; a single class if there is
            only one.
        responses: messages from the server, by tag; a single class if there is
            only one.
        messages: messages that both may send, by tag; or a single class.
        trailer: the message class that every frame ends with; its size is fixed,
            and its fields are all filled in (checksums, constants, defaults).
        correlate: what ties a response to its request: a header field's name (with
            dots), a tuple of names, or a function of header and message.
        states: the conversation: for each state, which message leads to which
            state; the first is where it starts. Messages that stand nowhere in
            it are free in every state.
        ports: well-known ports by transport, as ``{"udp": 53, "tcp": 53}``.
        doc: one line for people.

    Raises:
        DeclarationError: the tables contradict themselves or each other.
    """

    name: str = attrs.field()
    framing: Framing | None = attrs.field(default=None, kw_only=True)
    header: type[Message] | None = attrs.field(default=None, kw_only=True)
    tag: Tag | None = attrs.field(default=None, kw_only=True)
    requests: Table = attrs.field(factory=dict, kw_only=True)
    responses: Table = attrs.field(factory=dict, kw_only=True)
    messages: Table = attrs.field(factory=dict, kw_only=True)
    trailer: type[Message] | None = attrs.field(default=None, kw_only=True)
    correlate: str | tuple[str, ...] | Callable[[Any, Any], Hashable] | None = (
        attrs.field(default=None, kw_only=True)
    )
    states: Mapping[str, Mapping[type[Message], str]] | None = attrs.field(
        default=None, kw_only=True
    )
    ports: Mapping[str, int] = attrs.field(factory=dict, kw_only=True)
    doc: str = attrs.field(default="", kw_only=True)
    _tables: dict[Direction, dict[Any, type[Message]]] = attrs.field(init=False)
    _tags: dict[Direction, dict[type[Message], Any]] = attrs.field(init=False)
    _codec: FrameCodec = attrs.field(init=False)
    _read_tag: Callable[[Any], Any] = attrs.field(init=False)
    _read_key: Callable[[Any, Any], Any] | None = attrs.field(init=False)
    _tag_fields: dict[str, int] = attrs.field(init=False, factory=dict)
    """For a tag function: the numbers that it reads, with their bits."""
    _inverted: dict[Any, dict[str, int]] = attrs.field(init=False, factory=dict)
    _parsers: dict[Direction, Any] = attrs.field(init=False, factory=dict)
    _builders: dict[type[Message], Any] = attrs.field(init=False, factory=dict)
    _senders: dict[Direction, dict[type[Message], _Sender]] = attrs.field(
        init=False, factory=dict
    )

    def __attrs_post_init__(self) -> None:
        put = object.__setattr__  # the value is frozen for everyone else
        _check_options(self)
        _check_parts(self)
        put(self, "_codec", FrameCodec(self.name, *map(_record, self._parts)))
        put(self, "_read_tag", _reader(self.tag))
        put(self, "_read_key", _key_reader(self.correlate))
        if callable(self.tag) and self.header is not None:
            try:
                put(self, "_tag_fields", _fields_read(self.tag, self.header))
            except Exception as exc:
                raise DeclarationError(
                    f"{self.name}: the function tag= fails: {type(exc).__name__}: {exc}"
                ) from exc
        tables = {
            Direction.REQUEST: _table(self, "requests"),
            Direction.RESPONSE: _table(self, "responses"),
        }
        put(self, "_tables", tables)
        tags = {way: {c: t for t, c in tables[way].items()} for way in tables}
        put(self, "_tags", tags)
        _check_tags(self)
        _check_states(self)

    def __repr__(self) -> str:
        return f"<Protocol {self.name}>"

    @property
    def _parts(self) -> tuple[type[Message] | None, type[Message] | None]:
        return self.header, self.trailer

    def table(self, direction: Direction) -> Mapping[Any, type[Message]]:
        """
        Give the messages of one direction by tag, those of both included.

        A single message without a tag stands under `None`.
        """
        return self._tables[direction]

    def classes(self) -> tuple[type[Message], ...]:
        """
        Give all message classes, each once, in the order of the tables.
        """
        both = itertools.chain.from_iterable(t.values() for t in self._tables.values())
        return tuple(dict.fromkeys(both))

    def key(self, header: Any, message: Any) -> Hashable:
        """
        Read what ties a response to its request; `None` without `correlate`.
        """
        return None if self._read_key is None else self._read_key(header, message)

    def parse(
        self, frame: BytesLike, direction: Direction, *, session: Any = None
    ) -> Parsed:
        """
        Parse one whole frame.

        Args:
            frame: header, body and trailer, without what framing adds.
            direction: which table the tag is looked up in.
            session: what ``this._.session`` is to the fields.

        Raises:
            MalformedMessageError: the bytes are not such a frame.
            UnknownMessageError: the tag is not in the table.
        """
        try:
            return self._parsers[direction](frame, session)  # type: ignore[no-any-return]
        except Exception:
            # What it does not know, and what is wrong, the interpreted form finds out.
            return self._parse_slowly(frame, direction, session)

    def _parse_slowly(
        self, frame: BytesLike, direction: Direction, session: Any
    ) -> Parsed:
        if direction not in self._parsers:
            self._parsers[direction] = made = self._made_parser(direction)
            with contextlib.suppress(Exception):
                return made(frame, session)  # type: ignore[no-any-return]
        table = self._tables[direction]

        def choose(header: Any) -> tuple[Record, Caps]:
            tag = _plain(self._read_tag(header))
            cls = table.get(tag)
            if cls is None:
                known = ", ".join(map(_tag_text, table)) or "none"
                looks = guess(bytes(frame[:32]))
                raise UnknownMessageError(self.name, tag, known, looks)
            return cls._record, cls._caps

        return Parsed(*self._codec.parse(frame, choose, session))

    def _made_parser(self, direction: Direction) -> Any:
        """
        Make the generated function for one direction.
        """
        from protoserve.codec.generate_frame import frame_parser

        table = self._tables[direction]

        def find(tag: Any) -> tuple[Record, Caps] | None:
            cls = table.get(_plain(tag))
            return None if cls is None else (cls._record, cls._caps)

        return frame_parser(self._codec, self.tag, find, Caps().size, Parsed)

    def build(
        self,
        message: Message,
        direction: Direction,
        *,
        header: Any = None,
        reply_to: Any = None,
        session: Any = None,
    ) -> bytes:
        """
        Build one whole frame.

        Args:
            message: what to send.
            direction: which table has its tag.
            header: the header to use; its tag, lengths and checksums are filled in.
            reply_to: the header of the request that this answers: where no header
                is given, a copy of it is used.
            session: what ``this._.session`` is to the fields.

        Raises:
            LocalProtocolError: the message is not in the table.
            InvalidMessageError: a value does not fit its format.
        """
        base = reply_to if header is None else header
        try:
            sender = self._senders[direction][type(message)]
            if base is None:
                base = sender.template
            if type(base) is self.header or base is None is self.header:
                return sender.build(base, message, sender.trailer)  # type: ignore[no-any-return]
        except Exception:  # noqa: S110 - the longer way explains, or knows better
            pass
        return self._build_slowly(message, direction, base, session)

    def _build_slowly(
        self, message: Message, direction: Direction, base: Any, session: Any
    ) -> bytes:
        cls = type(message)
        senders = self._senders.setdefault(direction, {})
        if cls not in senders and cls in self._tags[direction]:
            senders[cls] = self._made_sender(cls, direction)
        header = self.header_for(message, direction, base=base)
        return self.build_under(header, message, session=session)

    def _made_sender(self, cls: type[Message], direction: Direction) -> _Sender:
        """
        Make what builds one class's frames at once, where the tag is a constant.

        Otherwise the sender has no function, and each frame goes the longer way.
        """
        from protoserve.codec.generate_frame import frame_builder

        tag = self._tags[direction][cls]
        literals = None
        if self.tag is None:
            literals = {}
        elif isinstance(self.tag, str) and "." not in self.tag and type(tag) is int:
            literals = {self.tag: tag}
        if literals is None:
            return _Sender(None, None, None)
        template = None
        if self.header is not None and not _has_factories(self.header):
            with contextlib.suppress(InvalidMessageError, TypeError):
                template = self._tagged(None, tag)
        trailer = None if self.trailer is None else self.trailer()
        build = frame_builder(self._codec, cls._record, literals)
        return _Sender(build, template, trailer)

    def header_for(
        self,
        message: Message,
        direction: Direction,
        *,
        base: Any = None,
        key: Any = None,
    ) -> Any:
        """
        Make the header that a message is sent under.

        Args:
            message: what it is for.
            direction: which table has its tag.
            base: the header to copy; by default it is made from the fields' defaults.
            key: what is put in as the correlation key, for protocols that have a
                `key_width`.

        Returns:
            The header, or `None` for a protocol without one.

        Raises:
            LocalProtocolError: the message is not in the table, or `base` is no
                header of this protocol.
            InvalidMessageError: a field has no value.
        """
        cls = type(message)
        tags = self._tags[direction]
        if cls not in tags:
            raise LocalProtocolError(
                f"{cls.__name__} is not a {direction.value} of {self.name} "
                f"(known: {', '.join(c.__name__ for c in tags) or 'none'})"
            )
        if base is not None and (self.header is None or type(base) is not self.header):
            expected = "none" if self.header is None else f"a {self.header.__name__}"
            raise LocalProtocolError(
                f"{self.name}: the header must be {expected}, not {base!r}"
            )
        return None if self.header is None else self._tagged(base, tags[cls], key)

    def build_under(
        self, header: Any, message: Message, *, session: Any = None
    ) -> bytes:
        """
        Build one whole frame under a header of `header_for`.

        Raises:
            InvalidMessageError: a value does not fit its format.
        """
        trailer = None if self.trailer is None else self.trailer()
        cls = type(message)
        record = cls._record
        if cls not in self._builders:
            from protoserve.codec.generate_frame import frame_builder

            self._builders[cls] = frame_builder(self._codec, record, {})
        build = self._builders[cls]
        if build is not None:
            with contextlib.suppress(Exception):  # the interpreted form explains
                return bytes(build(header, message, trailer))
        return self._codec.build(header, record, message, trailer, session)

    def key_width(self) -> int | None:
        """
        Say how many bits a correlation key has, if it is one whole number.
        """
        if self.header is None or not isinstance(self.correlate, str):
            return None
        return _bits(self.header, self.correlate)

    def _tagged(self, base: Any, tag: Any, key: Any = None) -> Any:
        """
        Copy a header, or make one, with a tag and perhaps a key in it.
        """
        assert self.header is not None
        values = {} if key is None else {str(self.correlate): key}
        if isinstance(self.tag, str):
            values[self.tag] = tag
        elif isinstance(self.tag, tuple):
            values.update(zip(self.tag, tag, strict=True))
        elif self.tag is not None:
            values.update(self._inverse(base, tag))
        return _replaced(_made(self.header, values) if base is None else base, values)

    def _inverse(self, base: Any, tag: Any) -> dict[str, int]:
        """
        Find the fields' values for which the tag function gives a tag.
        """
        assert self.header is not None
        header = _made(self.header, {}, lenient=True) if base is None else base
        now = tuple(_number_at(header, name) for name in self._tag_fields)
        cached = self._inverted.get((tag, now))
        if cached is None:
            cached = self._search(header, tag, now)
            if len(self._inverted) < 4096:
                self._inverted[tag, now] = cached
        return cached

    def _search(self, header: Any, tag: Any, now: tuple[int, ...]) -> dict[str, int]:
        assert self.header is not None
        fields = dict(zip(self._tag_fields, now, strict=True))
        numbers = [n for n in (tag if isinstance(tag, tuple) else (tag,)) if _is_int(n)]
        for values in _nearby(fields, self._tag_fields, numbers):
            with contextlib.suppress(Exception):  # the function is the user's
                if _plain(self._read_tag(_replaced(header, values))) == tag:
                    return values
        raise InvalidMessageError(
            self.header.__name__,
            f"a value of {', '.join(fields) or 'some field'} whose tag is {tag!r}",
            "none",
        )


def _has_factories(cls: Any) -> bool:
    """
    Whether a default is made anew for each message.
    """
    return any(isinstance(a.default, attrs.Factory) for a in attrs.fields(cls))  # type: ignore[arg-type]


def _record(cls: type[Message] | None) -> Record | None:
    return None if cls is None else cls._record


def _plain(tag: Any) -> Any:
    """
    Bring enum members, Python's and Construct's, to what is on the wire.
    """
    if isinstance(tag, tuple):
        return tuple(map(_plain, tag))
    if isinstance(tag, enum.Enum):
        return tag.value
    if isinstance(tag, constructs.EnumIntegerString):
        return tag.intvalue
    return tag


def _tag_text(tag: Any) -> str:
    return f"{tag:#x}" if type(tag) is int and tag > 9 else repr(tag)


def _reader(tag: Tag | None) -> Callable[[Any], Any]:
    if tag is None:
        return lambda _header: None
    if isinstance(tag, str):
        return operator.attrgetter(tag)
    if isinstance(tag, tuple):
        getters = [operator.attrgetter(name) for name in tag]
        return lambda header: tuple(get(header) for get in getters)
    return tag


def _key_reader(correlate: Any) -> Callable[[Any, Any], Any] | None:
    if correlate is None:
        return None
    if isinstance(correlate, str | tuple):
        read = _reader(correlate)
        return lambda header, _message: _plain(read(header))
    return correlate  # type: ignore[no-any-return]


def _check_options(protocol: Protocol) -> None:
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


def _check_parts(protocol: Protocol) -> None:
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
    for paths in (protocol.tag, protocol.correlate):
        if isinstance(paths, str | tuple):
            for path in (paths,) if isinstance(paths, str) else paths:
                _check_path(protocol, path)


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
        field = _field(cls, name)
        if field.computed is not None:
            raise DeclarationError(
                f"{protocol.name}: {path!r} is {field.computed}, so it can hold "
                "nothing else"
            )
        if not isinstance(field.construct, Record):
            break
        cls = field.construct.owner
    if _part(protocol.header, path) is None:
        raise DeclarationError(
            f"{protocol.name}: {path!r} names no part of {cls.__name__}.{name}"
        )


def _is_message(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Message)


def _table(protocol: Protocol, option: str) -> dict[Any, type[Message]]:
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
                    f"{protocol.name}: tag {_tag_text(tag)} stands for both "
                    f"{merged[tag].__name__} and {cls.__name__} in {option}"
                    + (" and messages" if source == "messages" else "")
                )
            if cls in seen:
                raise DeclarationError(
                    f"{protocol.name}: {cls.__name__} stands under both "
                    f"{_tag_text(seen[cls])} and {_tag_text(tag)} in {option}; for "
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
    return _plain(tag)


def _wire_number(protocol: Protocol, path: str, value: Any) -> Any:
    assert protocol.header is not None
    part = _part(protocol.header, path)
    while isinstance(value, str) and isinstance(part, constructs.Subconstruct):
        if isinstance(part, constructs.Enum):
            return part.encmapping.get(value, value)
        part = part.subcon
    return _plain(value)


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
            _part(protocol.header, path).build(value)
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


def _check_tags(protocol: Protocol) -> None:
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
            if isinstance(answer, type) and answer not in known:
                raise DeclarationError(
                    f"{protocol.name}: {cls.__name__} is a Request[{answer.__name__}], "
                    f"but {answer.__name__} is in neither responses nor messages"
                )


def _check_states(protocol: Protocol) -> None:
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


def _made(cls: type[Message], values: dict[str, Any], *, lenient: bool = False) -> Any:
    """
    Make a header from defaults and some values given by dotted names.

    Args:
        cls: the header's class.
        values: what is known.
        lenient: fields that have no default become 0.
    """
    arguments: dict[str, Any] = {}
    for field in attrs.fields(cls):  # type: ignore[arg-type] # the metaclass made it one
        inner = {
            path.partition(".")[2]: value
            for path, value in values.items()
            if path.partition(".")[0] == field.name
        }
        nested = _field(cls, field.name).construct
        if "" in inner:
            arguments[field.name] = inner[""]
        elif field.init and field.default is attrs.NOTHING:
            if isinstance(nested, Record):
                arguments[field.name] = _made(nested.owner, inner, lenient=lenient)
            elif inner or lenient:
                arguments[field.name] = _zero(nested)
            else:
                raise InvalidMessageError(
                    f"{cls.__name__}.{field.name}",
                    "a value (it has no default, so give header=)",
                    "none",
                )
    return cls(**arguments)


def _replaced(value: Any, changes: Mapping[str, Any]) -> Any:
    """
    Copy a message with some fields, given by dotted names, changed.
    """
    direct = {k: v for k, v in changes.items() if "." not in k}
    for path, change in changes.items():
        name, _, rest = path.partition(".")
        if rest:
            inner = direct.get(name, _get(value, name))
            direct[name] = _replaced(inner, {rest: change})
    if isinstance(value, dict):
        return constructs.Container(value, **direct)
    return attrs.evolve(value, **direct)


def _get(value: Any, name: str) -> Any:
    return value[name] if isinstance(value, dict) else getattr(value, name)


def _field(cls: type[Message], name: str) -> Field:
    return next(f for f in cls._record.fields if f.name == name)


def _zero(part: Any) -> Any:
    """
    Make the value of a format that all bytes are 0 for.
    """
    try:
        return part.parse(bytes(part.sizeof()))
    except Exception:
        return 0


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def _part(cls: Any, path: str) -> Any:
    """
    Find the format of a header's field by its dotted name; `None` if there is none.
    """
    name, _, rest = path.partition(".")
    part: Any = next((f.construct for f in cls._record.fields if f.name == name), None)
    while rest and part is not None:
        if isinstance(part, Record):
            return _part(part.owner, rest)
        if isinstance(part, constructs.Subconstruct):
            part = part.subcon
            continue
        name, _, rest = rest.partition(".")
        parts = getattr(part, "subcons", ())
        part = next((p for p in parts if p.name == name), None)
    return part


def _bits(cls: type[Message], path: str) -> int | None:
    """
    Say how many bits a header's number has; `None` if it is no whole number.
    """
    part = _part(cls, path)
    while isinstance(part, constructs.Subconstruct):
        part = part.subcon
    if part is constructs.Flag:
        return 1
    try:
        size = int(part.sizeof())
    except Exception:
        return 8 if part is constructs.VarInt else None
    if isinstance(part, constructs.BitsInteger):
        return size - bool(part.signed)
    if isinstance(part, constructs.BytesInteger):
        return 8 * size - bool(part.signed)
    if isinstance(part, constructs.FormatField) and part.fmtstr[-1] not in "efd":
        return 8 * size - bool(part.fmtstr[-1].islower())
    return None


class _Recorder:
    """
    Stands in for a header to see which of its numbers a function reads.
    """

    def __init__(self, value: Any, read: dict[str, int], prefix: str = "") -> None:
        self.__dict__.update(_value=value, _read=read, _prefix=prefix)

    def __getattr__(self, name: str) -> Any:
        own = inspect.getattr_static(type(self._value), name, None)
        if isinstance(own, property) and own.fget is not None:
            return own.fget(self)
        if inspect.isfunction(own):
            return types.MethodType(own, self)
        value = getattr(self._value, name)
        if isinstance(value, Message | dict):
            return _Recorder(value, self._read, f"{self._prefix}{name}.")
        number = _plain(value)
        if isinstance(number, int) and _is_given(self._value, name):
            self._read[f"{self._prefix}{name}"] = int(number)
        return value

    __getitem__ = __getattr__


def _is_given(holder: Any, name: str) -> bool:
    """
    Say whether a part can be set, as it does not follow from others.
    """
    if isinstance(holder, dict):
        return True
    return any(a.name == name and a.init for a in attrs.fields(type(holder)))


def _number_at(header: Any, path: str) -> int:
    for name in path.split("."):
        header = _get(header, name)
    return int(_plain(header))


def _fields_read(function: Callable[[Any], Any], cls: type[Message]) -> dict[str, int]:
    """
    Find which numbers a function reads, with how many bits of each are searched.

    What it reads may depend on what it has read, so each bit is changed once.
    """
    header = _made(cls, {}, lenient=True)
    found: dict[str, int] = {}
    changes: list[dict[str, int]] = [{}]
    while changes:
        change = changes.pop()
        read: dict[str, int] = {}
        try:
            function(_Recorder(_replaced(header, change), read))
        except Exception:
            if not change:
                raise
        for name in read.keys() - found.keys():
            found[name] = min(_bits(cls, name) or 8, 16)
            changes += [
                {**change, name: read[name] ^ (1 << bit)} for bit in range(found[name])
            ]
    return found


def _nearby(
    fields: dict[str, int], widths: dict[str, int], numbers: list[int]
) -> Iterator[dict[str, int]]:
    """
    Give values for some numbers, those with the fewest changed bits first.

    Where there are too many bits to try them all, fields that hold one of `numbers`
    come next.
    """
    places = [(name, bit) for name in fields for bit in range(widths[name])]
    few = len(places) <= 16
    yield from _flipped(fields, places, len(places) if few else 3)
    if few:
        return
    for name, number in itertools.product(fields, numbers):
        yield from _flipped({**fields, name: number}, places, 2)
    for order in itertools.permutations(numbers, min(len(fields), len(numbers))):
        yield from _flipped(
            {**fields, **dict(zip(fields, order, strict=False))}, places, 1
        )


def _flipped(
    start: dict[str, int], places: list[tuple[str, int]], most: int
) -> Iterator[dict[str, int]]:
    for changed in range(most + 1):
        for flips in itertools.combinations(places, changed):
            values = dict(start)
            for name, bit in flips:
                values[name] ^= 1 << bit
            yield values
