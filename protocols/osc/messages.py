"""
OSC messages, and bundles of them.

A packet is a message or a bundle, which its first byte tells: ``/`` or ``#``. That
byte belongs to what follows, so the header only looks at it and takes none.

A bundle's elements are packets again. Bundles inside of bundles end at a limit.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import attrs
import construct
from construct import (
    Const,
    GreedyRange,
    Int8ub,
    Int32ub,
    Int64ub,
    Optional,
    Peek,
    Prefixed,
    this,
)

from protocols.ntp.timestamps import to_datetime
from protocols.osc.arguments import Address, Arguments, TypeTags, tags_of
from protoserve import Caps, Message, wire
from protoserve.telemetry.tables import column

__all__ = ["IMMEDIATELY", "Bundle", "Header", "MessageRow", "OscMessage"]

IMMEDIATELY = 1
"""The time tag that is no time."""

_BUNDLE = ord("#")
_CAPS = Caps(depth=16)


class Header(Message):
    """
    What tells messages from bundles, which takes no bytes of its own.
    """

    first: int = wire(Peek(Int8ub), doc="the first byte of what follows")


class OscMessage(Message, caps=_CAPS):
    """
    A message to whatever has its address.

    >>> message = OscMessage("/oscillator/4/frequency", [440.0])
    >>> message.types
    'f'
    >>> OscMessage.parse(bytes(message)) == message
    True
    """

    address: str = wire(Address)
    types: str | None = wire(
        Optional(TypeTags),
        default=None,
        kw_only=True,
        doc="a type tag for each argument; without: by the arguments' types",
    )
    args: list[Any] = wire(Arguments(this.types), factory=list)

    def __attrs_post_init__(self) -> None:
        if self.types is None and self.args:
            self.types = tags_of(self.args)

    def rows(self) -> Iterator[MessageRow]:
        """
        Give what a collector stores.
        """
        yield _row(self, None)


class _Packet(construct.Construct):  # type: ignore[misc] # construct is untyped
    """
    A message or a bundle.
    """

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        first = construct.stream_read(stream, 1, path)
        construct.stream_seek(stream, -1, 1, path)
        cls: type[Message] = Bundle if first[0] == _BUNDLE else OscMessage
        return cls.construct._parsereport(stream, context, path)  # noqa: SLF001 # construct's way to go on

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> Any:
        if not isinstance(obj, OscMessage | Bundle):
            raise construct.ValidationError(
                f"expected an OscMessage or a Bundle, got {obj!r}", path=path
            )
        return type(obj).construct._build(obj, stream, context, path)  # noqa: SLF001 # as above

    def _sizeof(self, context: Any, path: str) -> int:  # noqa: ARG002 # construct's signature
        raise construct.SizeofError("it depends on the packet", path=path)


class Bundle(Message, caps=_CAPS):
    """
    Packets that are for one moment.
    """

    _start: bytes = wire(Const(b"#bundle\0"), init=False)
    time: int = wire(
        Int64ub, default=IMMEDIATELY, unit="2**-32 s", doc="since 1900; 1: at once"
    )
    elements: list[OscMessage | Bundle] = wire(
        GreedyRange(Prefixed(Int32ub, _Packet())), factory=list
    )

    def messages(self) -> Iterator[tuple[int, OscMessage]]:
        """
        Give all messages in order, those of inner bundles too, with their time tags.
        """
        for element in self.elements:
            if isinstance(element, Bundle):
                yield from element.messages()
            else:
                yield self.time, element

    def rows(self) -> Iterator[MessageRow]:
        """
        Give what a collector stores: a row for each message.
        """
        for time, message in self.messages():
            yield _row(message, None if time == IMMEDIATELY else to_datetime(time))


@attrs.define
class MessageRow:
    """
    A message.
    """

    __table__: ClassVar[str] = "messages"

    address: str = column()
    types: str | None = column(doc="the arguments' type tags")
    args: str = column(doc="the arguments as JSON; bytes in hex")
    value: float | None = column(doc="the first argument that is a number")
    time: dt.datetime | None = column(doc="of the bundle; None: at once")  # noqa: RUF009 - a column


def _row(message: OscMessage, time: dt.datetime | None) -> MessageRow:
    numbers = (v for v in message.args if type(v) in (int, float))
    args = json.dumps([_plain(value) for value in message.args])
    first = next(numbers, None)
    value = None if first is None else float(first)
    return MessageRow(message.address, message.types, args, value, time)


def _plain(value: Any) -> Any:
    """
    Make what JSON has a form for.
    """
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
