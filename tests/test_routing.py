"""
Handlers: what their methods may take and return, and what is told of mistakes.

The annotations of this module are text, as everywhere with this import.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, Optional, Union

import attrs
import pytest
from construct import Int8ub, Int16ub

import protoserve
from protoserve import (
    DeclarationError,
    Frame,
    Message,
    Protocol,
    Request,
    Role,
    Service,
    Session,
    UnknownMessageError,
    on_error,
    route,
    wire,
)
from protoserve.routing import Call, routes_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class Header(Message):
    kind: int = wire(Int8ub)
    sequence: int = wire(Int16ub, default=0)


class Pong(Message):
    value: int = wire(Int8ub, default=0)


class Nak(Message, error=True):
    reason: int = wire(Int8ub, default=0)


class Ping(Request[Pong]):
    value: int = wire(Int8ub, default=0)


class Other(Message):
    value: int = wire(Int8ub, default=0)


class Shared(Message):
    value: int = wire(Int8ub, default=0)


class Stranger(Message):
    value: int = wire(Int8ub, default=0)


spoken = Protocol(
    "spoken",
    header=Header,
    tag="kind",
    requests={1: Ping, 2: Other},
    responses={1: Pong, 2: Nak},
    messages={3: Shared},
)

CALL = Call(
    Session(spoken, Role.SERVER, stream=False),
    Ping(7),
    Header(1, 9),
    Frame(b"\1\0\0\7", 5.0),
    ValueError("x"),
)


def routes(*methods, protocol=spoken):
    """
    Make the routes of a class with these methods.
    """
    names = {getattr(m, "__name__", f"m{i}"): m for i, m in enumerate(methods)}
    return routes_of(protocol, type("Handler", (), names)())


def problems(*methods):
    with pytest.raises(DeclarationError) as caught:
        routes(*methods)
    return str(caught.value)


# What a route is given -----------------------------------------------------


def test_everything_that_can_be_injected():
    """Each parameter gets what its annotation names, in any order."""

    @route
    def taking(self, frame: Frame, head: Header, session: Session, message: Ping):
        return frame, head, session, message

    found = routes(taking).messages[Ping].invoke(CALL)
    assert (CALL.frame, CALL.header, CALL.session, CALL.message) == found


def test_keyword_only():
    """Parameters that are taken by name only get theirs too."""

    @route
    def taking(self, message: Ping, *, session: Session, head: Header | None = None):
        return message, session, head

    found = routes(taking).messages[Ping].invoke(CALL)
    assert (CALL.message, CALL.session, CALL.header) == found


def test_one_method_for_several_messages():
    """A union of messages, however it is written, makes several routes."""

    @route
    def new(self, message: Ping | Other) -> Pong:
        return Pong()

    @route
    def old(self, message: Union[Ping, "Other"], frame: Optional[Frame]) -> Pong:  # noqa: UP007, UP037, UP045
        return Pong()

    for method in (new, old):
        assert {Ping, Other} == routes(method).messages.keys()


def test_message_of_both_directions():
    """What both sides send has routes too."""

    @route
    def shared(self, message: Shared) -> Shared:
        return message

    assert [Shared] == list(routes(shared).messages)


def test_local_classes():
    """Messages may be local to a function; the protocol knows them by name."""

    class Local(Message):
        value: int = wire(Int8ub)

    class Head(Message):
        kind: int = wire(Int8ub)

    class Handler:
        @route
        def local(self, message: Local, head: Head, session: Session) -> Local | None:
            return message

    protocol = Protocol("p", header=Head, tag="kind", messages={1: Local})
    assert [Local] == list(routes_of(protocol, Handler()).messages)


def test_names_for_type_checkers_only():
    """Names of collections.abc and of protoserve need not be imported."""

    @route
    async def streaming(self, message: Ping) -> AsyncGenerator[Pong, None]:
        yield Pong()

    assert routes(streaming).messages[Ping].is_async


# What a route returns ------------------------------------------------------


def returning(hint):
    def answer(self, message: Ping):
        return None

    answer.__annotations__["return"] = hint
    return route(answer)


@pytest.mark.parametrize(
    "hint",
    [
        None,
        Any,
        Pong,
        "Pong",
        Pong | None,
        Pong | Nak,
        Nak,
        Message,
        Iterator[Pong],
        Iterable[Pong | Nak],
        Generator[Pong, None, None],
        AsyncIterator[Pong],
        Awaitable[Pong],
        Awaitable[Iterator[Pong]],
        Pong | Iterator[Pong],
        list[Pong],
        tuple[Pong, ...],
        tuple[Pong, Nak],
        list,
        Iterator,
        NoReturn,
    ],
)
def test_possible_answers(hint):
    """What a response may be annotated as is accepted."""
    assert [Ping] == list(routes(returning(hint)).messages)


@pytest.mark.parametrize(
    ("hint", "shown"),
    [
        (Ping, "Ping"),
        (int, "int"),
        (str, "str"),
        (bytes, "bytes"),
        (Stranger, "Stranger"),
        (Iterator[Ping], "Ping"),
        (list[int], "int"),
        (Pong | Ping, "Ping"),
        (tuple[Pong, Ping], "Ping"),
        (AsyncIterator[Stranger], "Stranger"),
        (Awaitable[int], "int"),
    ],
)
def test_impossible_answers(hint, shown):
    """What cannot be sent is told, with what can."""
    told = problems(returning(hint))
    assert f"returns {shown}, which is no response of spoken" in told
    assert "(known: Pong, Nak, Shared)" in told


def test_answer_to_another_request():
    """A ``Request[Pong]`` is answered by a Pong, or an error."""
    assert "returns Shared, but Ping is a Request[Pong]" in problems(returning(Shared))


def test_no_annotation_for_the_answer():
    """The return annotation may be missing."""

    @route
    def ping(self, message: Ping):
        return 1

    assert 1 == routes(ping).messages[Ping].invoke(CALL)


# Classes -------------------------------------------------------------------


class Base:
    @route
    def ping(self, message: Ping) -> Pong:
        return Pong(1)

    def connected(self, session: Session) -> None:
        pass


class OtherMixin:
    @route
    def other(self, message: Other) -> Pong:
        return Pong(2)


@attrs.define
class Derived(OtherMixin, Base):
    """An attrs class with slots, as handlers usually are."""

    value: int = 3

    def ping(self, message: Ping) -> Pong:
        return Pong(self.value + super().ping(message).value)


class Deaf(Derived):
    other = None
    connected = None


def test_inheritance():
    """Routes are inherited; an override keeps the mark; None takes it away."""
    table = routes_of(spoken, Derived())
    assert {Ping, Other} == table.messages.keys()
    assert Pong(4) == table.messages[Ping].invoke(CALL)
    assert "connected" == table.connected.name
    deaf = routes_of(spoken, Deaf())
    assert [Ping] == list(deaf.messages)
    assert None is deaf.connected


def test_decorated_routes():
    """Other decorators may stand on either side of the mark."""

    def doubled(function):
        @functools.wraps(function)
        def wrapper(*args):
            return function(*args), 2

        return wrapper

    @doubled
    @route
    def inside(self, message: Ping) -> Pong:
        return message

    @route
    @doubled
    def outside(self, message: Ping) -> Pong:
        return message

    @doubled
    @route
    async def later(self, message: Ping) -> Pong:
        return message

    for method in (inside, outside):
        assert (CALL.message, 2) == routes(method).messages[Ping].invoke(CALL)
    assert routes(later).is_async


def test_hooks_by_name_and_by_mark():
    """A hook is known by its name, or by its mark under any name."""

    class ByName:
        def connected(self, session: Session) -> None: ...

        def disconnected(self) -> None: ...

        def unknown(self, error: UnknownMessageError, head: Header, frame: Frame): ...

        def malformed(self, error: Exception) -> Nak: ...

    class ByMark:
        @protoserve.connected
        def a(self, session: Session) -> None: ...

        @protoserve.disconnected
        def b(self) -> None: ...

        @protoserve.unknown
        async def c(self, error: UnknownMessageError) -> Nak | None: ...

        @protoserve.malformed
        def d(self, head: Header | None) -> Nak: ...

    for handler in (ByName(), ByMark()):
        table = routes_of(spoken, handler)
        assert None not in (
            table.connected,
            table.disconnected,
            table.unknown,
            table.malformed,
        )
    assert ["a", "b", "c", "d"] == [
        getattr(table, name).name
        for name in ("connected", "disconnected", "unknown", "malformed")
    ]
    assert table.is_async


def test_error_hooks():
    """The hook for the nearest class of an exception is found."""

    @on_error(OSError, KeyError)
    def some(self, error: OSError | KeyError, message: Ping | None) -> Nak:
        return Nak(1)

    @on_error(Exception)
    def every(self, error: Exception, session: Session) -> Nak: ...

    table = routes(some, every)
    for error, name in (
        (ConnectionError(), "some"),
        (KeyError(), "some"),
        (IndexError(), "every"),
    ):
        assert name == table.for_error(error).name
    assert None is table.for_error(SystemExit())
    assert Nak(1) == table.for_error(OSError()).invoke(CALL)


@pytest.mark.parametrize("exceptions", [(), (5,), (ValueError, KeyboardInterrupt)])
def test_error_hooks_for_nothing(exceptions):
    """A hook is for exceptions, one or several."""
    with pytest.raises(DeclarationError, match="on_error takes"):
        on_error(*exceptions)


# What is wrong -------------------------------------------------------------


def test_all_problems_at_once():
    """Everything wrong with a class is told in one error, with file and line."""

    class Handler:
        @route
        def stranger(self, message: Stranger) -> Pong: ...

        @route
        def first(self, message: Ping) -> Pong: ...

        @route
        def second(self, message: Ping) -> Pong: ...

        @route
        def nothing(self, session: Session) -> None: ...

        @route
        def plain(self, message) -> None: ...

        @route
        def many(self, *messages: Other) -> None: ...

        @route
        def number(self, message: Other, number: int) -> None: ...

        @route
        def undefined(self, message: Nowhere) -> None: ...  # noqa: F821

        @route
        def wrong(self, message: Other) -> Ping: ...

        def connected(self, head: Header) -> None: ...

        def disconnected(self, error: Exception) -> None: ...

        @protoserve.connected
        def again(self) -> None: ...

        @route
        def failed(self, message: Other, error: Exception) -> None: ...

        @on_error(ValueError)
        def one(self, error: ValueError) -> None: ...

        @on_error(ValueError)
        def two(self, error: ValueError) -> None: ...

        @staticmethod
        @route
        def static(message: Shared) -> None: ...

    with pytest.raises(DeclarationError) as caught:
        Service(spoken, Handler())
    told = str(caught.value)
    assert told.startswith("Handler cannot serve spoken:\n")
    for words in (
        "stranger(): Stranger is no message that spoken receives (known: Ping, Other, ",
        "second(): Ping has a route: first()",
        "nothing(): it takes no message",
        "plain(): parameter 'message' has no annotation",
        "many(): it cannot take *messages",
        "number(): parameter 'number' is a int; a route method may take a message, ",
        "undefined(): its annotations cannot be resolved: name 'Nowhere' is not",
        "wrong(): it returns Ping, which is no response of spoken",
        "connected(): parameter 'head' is a Header; a connected method may take a Sess",
        "disconnected(): parameter 'error' is a Exception; a disconnected method may",
        "failed(): parameter 'error' is a Exception; a route method may take",
        "two(): ValueError has a hook: one()",
        "static is a staticmethod; routes and hooks are plain methods",
    ):
        assert words in told
    line = Handler.stranger.__code__.co_firstlineno + 1
    assert f"{__file__}:{line}: def stranger(self, message: Stranger)" in told
    assert 13 == told.count("): ") + told.count(" is a staticmethod")


def test_two_hooks():
    """A hook stands once."""

    def connected(self) -> None: ...

    @protoserve.connected
    def again(self) -> None: ...

    assert "there is a hook connected: connected()" in problems(connected, again)


def test_source_that_is_not_there():
    """Code without a source file is named by what it has."""
    names = {}
    exec("def lost(self, message): ...", names)
    assert "<string>:1: lost(): parameter" in problems(route(names["lost"]))


def test_class_in_place_of_an_instance():
    """A class is not a handler."""
    with pytest.raises(DeclarationError, match=r"give an instance, Base\(\), not"):
        Service(spoken, Base)


def test_no_routes():
    """A class without routes is told how they are marked."""
    with pytest.raises(DeclarationError, match="mark the methods .* with @route"):
        Service(spoken, object())
