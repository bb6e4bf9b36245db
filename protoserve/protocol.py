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
import itertools
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

from protoserve import declared
from protoserve.codec.caps import Caps
from protoserve.codec.explain import guess
from protoserve.codec.frame import FrameCodec
from protoserve.codec.record import Record
from protoserve.errors import (
    DeclarationError,
    InvalidMessageError,
    LocalProtocolError,
    UnknownMessageError,
)
from protoserve.framing.base import Framing
from protoserve.messages import Message
from protoserve.numbered import Numbered
from protoserve.tags import (
    Direction,
    Table,
    Tag,
    bits_of,
    fields_read,
    is_number,
    key_reader,
    made_header,
    nearby,
    number_at,
    plain_tag,
    replaced,
    tag_reader,
    tag_text,
)
from protoserve.types import BytesLike

if TYPE_CHECKING:
    from protoserve.codec.generate_turn import Pump, Turn

__all__ = ["Direction", "Parsed", "Protocol"]


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
        numbered: which field numbers what is sent, of all messages or by class; a
            collector counts the gaps.
        tabulator: what makes tables of frames for a collector, where the declaration
            does not say it all; see `protoserve.telemetry.tables`.
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
    numbered: Numbered | Mapping[type[Message], Numbered] | None = attrs.field(
        default=None, kw_only=True
    )
    tabulator: Callable[[Any], Any] | None = attrs.field(default=None, kw_only=True)
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
        declared.check_options(self)
        declared.check_parts(self)
        put(self, "_codec", FrameCodec(self.name, *map(_record, self._parts)))
        put(self, "_read_tag", tag_reader(self.tag))
        put(self, "_read_key", key_reader(self.correlate))
        if callable(self.tag) and self.header is not None:
            try:
                put(self, "_tag_fields", fields_read(self.tag, self.header))
            except Exception as exc:
                raise DeclarationError(
                    f"{self.name}: the function tag= fails: {type(exc).__name__}: {exc}"
                ) from exc
        tables = {
            Direction.REQUEST: declared.merged_table(self, "requests"),
            Direction.RESPONSE: declared.merged_table(self, "responses"),
        }
        put(self, "_tables", tables)
        tags = {way: {c: t for t, c in tables[way].items()} for way in tables}
        put(self, "_tags", tags)
        declared.check_tags(self)
        declared.check_states(self)

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

    def tag_of(self, cls: type[Message], direction: Direction) -> Any:
        """
        Give a message's tag; `None` for a single message without one.

        Raises:
            KeyError: it is not in that direction's table.
        """
        return self._tags[direction][cls]

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
            with contextlib.suppress(Exception):
                self._parsers[direction] = made = self._made_parser(direction)
                return made(frame, session)  # type: ignore[no-any-return]

        def choose(header: Any) -> tuple[Record, Caps]:
            return self._chosen(header, direction, frame)

        return Parsed(*self._codec.parse(frame, choose, session))

    def _chosen(
        self, header: Any, direction: Direction, frame: BytesLike
    ) -> tuple[Record, Caps]:
        """
        Choose what follows a header.

        Raises:
            UnknownMessageError: its tag is not in the table.
        """
        table = self._tables[direction]
        tag = plain_tag(self._read_tag(header))
        cls = table.get(tag)
        if cls is None:
            known = ", ".join(map(tag_text, table)) or "none"
            looks = guess(bytes(frame[:32]))
            raise UnknownMessageError(self.name, tag, known, looks)
        return cls._record, cls._caps

    def _made_parser(self, direction: Direction) -> Any:
        """
        Make the generated function for one direction.
        """
        from protoserve.codec.generate_frame import frame_parser

        table = self._tables[direction]

        def find(tag: Any) -> tuple[Record, Caps] | None:
            cls = table.get(plain_tag(tag))
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

    def pump(
        self,
        direction: Direction,
        find: Callable[[type[Message]], Turn | None],
        *,
        stream: bool,
        framing: Framing | None = None,
    ) -> tuple[Pump | None, bool]:
        """
        Make the function that answers a session's frames in one pass.

        Args:
            direction: of the frames that are answered.
            find: gives how a message is answered; `None` leaves it to others.
            stream: whether it is for streams, or for datagrams.
            framing: cuts the stream, where that is not for the protocol's framing.

        Returns:
            The function, if there is one, and whether it cuts the stream itself.
        """
        from protoserve.codec.generate_turn import make_pump

        table = self._tables[direction]
        incoming, framing = framing or self.framing, self.framing
        head = None if framing is None else framing.length_head
        cut = incoming.length_head if stream and incoming is not None else None
        if not stream and framing is not None and not framing.in_frame:
            head = None

        def found(tag: Any) -> tuple[Record, Caps, Turn] | None:
            cls = table.get(plain_tag(tag))
            turn = None if cls is None else find(cls)
            return (
                None if cls is None or turn is None else (cls._record, cls._caps, turn)
            )

        encode = None
        if stream and framing is not None and head is None:
            encode = framing.encode
        made = None
        # A datagram that has a length in it needs to have the right one.
        if self.states is None and (
            stream or head or not (framing and framing.in_frame)
        ):
            trailer = None if self.trailer is None else self.trailer()
            made = make_pump(
                self._codec,
                self.tag,
                found,
                Caps().size,
                trailer=trailer,
                cut=cut,
                head=head,
                encode=encode,
            )
        return made, cut is not None

    def answer(
        self, cls: type[Message], direction: Direction
    ) -> tuple[Record, Mapping[str, int]] | None:
        """
        Describe an answer for a `Turn`; `None` if its tag has to be worked out.
        """
        tags = self._tags[direction]
        literals = self._literals(tags[cls]) if cls in tags else None
        return None if literals is None else (cls._record, literals)

    def _literals(self, tag: Any) -> dict[str, int] | None:
        """
        Give the header's fields that are the tag itself; `None` if it is worked out.
        """
        if self.tag is None:
            return {}
        if isinstance(self.tag, str) and "." not in self.tag and type(tag) is int:
            return {self.tag: tag}
        return None

    def _made_sender(self, cls: type[Message], direction: Direction) -> _Sender:
        """
        Make what builds one class's frames at once, where the tag is a constant.

        Otherwise the sender has no function, and each frame goes the longer way.
        """
        from protoserve.codec.generate_frame import frame_builder

        tag = self._tags[direction][cls]
        literals = self._literals(tag)
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
            try:
                return bytes(build(header, message, trailer))
            except Exception:  # noqa: S110 - the interpreted form explains
                pass
        return self._codec.build(header, record, message, trailer, session)

    def key_width(self) -> int | None:
        """
        Say how many bits a correlation key has, if it is one whole number.
        """
        if self.header is None or not isinstance(self.correlate, str):
            return None
        return bits_of(self.header, self.correlate)

    def key_is_apart(self) -> bool:
        """
        Say whether a header can be used again with another key put in.

        Not if it is frozen, has parts that are made anew each time, or a tag that
        depends on the key.
        """
        header = self.header
        if header is None or not str(self.correlate).isidentifier():
            return False
        frozen = header.__setattr__ is not object.__setattr__
        return not (
            frozen or _has_factories(header) or self.correlate in self._tag_fields
        )

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
        return replaced(
            made_header(self.header, values) if base is None else base, values
        )

    def _inverse(self, base: Any, tag: Any) -> dict[str, int]:
        """
        Find the fields' values for which the tag function gives a tag.
        """
        assert self.header is not None
        header = made_header(self.header, {}, lenient=True) if base is None else base
        now = tuple(number_at(header, name) for name in self._tag_fields)
        cached = self._inverted.get((tag, now))
        if cached is None:
            cached = self._search(header, tag, now)
            if len(self._inverted) < 4096:
                self._inverted[tag, now] = cached
        return cached

    def _search(self, header: Any, tag: Any, now: tuple[int, ...]) -> dict[str, int]:
        assert self.header is not None
        fields = dict(zip(self._tag_fields, now, strict=True))
        numbers = [
            n for n in (tag if isinstance(tag, tuple) else (tag,)) if is_number(n)
        ]
        for values in nearby(fields, self._tag_fields, numbers):
            with contextlib.suppress(Exception):  # the function is the user's
                if plain_tag(self._read_tag(replaced(header, values))) == tag:
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
