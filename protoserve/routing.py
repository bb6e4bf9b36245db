"""
From a plain attrs class to a dispatch table.

Methods marked with `route` answer messages, those marked as hooks are told what
happens. What a method is given is what its annotations name: the message, the
`Session`, the protocol's header class, the `Frame`, in hooks the error. The table
is made, and everything wrong with the class told at once, when the `Service` is
made. Methods marked with `batch_route` take many messages at a time.

A method that is named as one of the hooks `connected`, `disconnected`, `unknown`
and `malformed` is that hook, marked or not.
"""

from __future__ import annotations

import collections.abc
import enum
import inspect
import linecache
import operator
import types
import typing
from collections.abc import Callable, Iterator
from math import inf
from typing import Any, TypeVar

import attrs

from protoserve import errors
from protoserve.errors import DeclarationError
from protoserve.events import Frame
from protoserve.messages import Message, response_types
from protoserve.protocol import Direction, Protocol
from protoserve.session import Session

__all__ = [
    "BatchRoute",
    "Call",
    "Hook",
    "Route",
    "Routes",
    "batch_route",
    "connected",
    "disconnected",
    "malformed",
    "on_error",
    "route",
    "routes_of",
    "unknown",
]

_USUAL_NAMES: dict[str, Any] = {
    **{cls.__name__: cls for cls in (Session, Frame, Message)},
    **{name: getattr(errors, name) for name in errors.__all__},
    **{name: getattr(collections.abc, name) for name in collections.abc.__all__},
    "Any": Any,
}

_F = TypeVar("_F", bound=Callable[..., Any])
_MARK = "__protoserve_role__"


class Hook(enum.Enum):
    """
    What a method of a handler is for.
    """

    ROUTE = "route"
    BATCH = "batch_route"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    UNKNOWN = "unknown"
    MALFORMED = "malformed"
    ERROR = "on_error"


def _mark(method: _F, hook: Hook, *details: Any) -> _F:
    setattr(method, _MARK, (hook, details))
    return method


def route(method: _F) -> _F:
    """
    Mark a method that answers the message which its annotations name.

    It returns a message, `None` or an iterator of messages, and may be a
    coroutine function or an async generator.
    """
    return _mark(method, Hook.ROUTE)


def batch_route(*, max_rows: int = 4096, max_age: float = 1.0) -> Callable[[_F], _F]:
    """
    Mark a method that takes many messages at a time, as a `Batch` of columns.

    It takes one parameter, annotated ``Batch[Reading]``, and answers nothing. It may be
    a coroutine function, which runs on the service's background loop. Calls come one at
    a time, in order, from whichever thread has the last row.

    Args:
        max_rows: rows after which it is called; a message that is more rows by itself
            comes alone.
        max_age: seconds after which it is called with what there is.
    """
    if type(max_rows) is not int or max_rows < 1:
        raise DeclarationError(
            f"batch_route(max_rows=…) takes a whole number above 0, not {max_rows!r}"
        )
    if not 0 < max_age < inf:
        raise DeclarationError(
            f"batch_route(max_age=…) takes seconds above 0, not {max_age!r}"
        )
    return lambda method: _mark(method, Hook.BATCH, max_rows, max_age)


def connected(method: _F) -> _F:
    """
    Mark the method that is called when a peer is there.

    For datagrams that is a peer's first one.
    """
    return _mark(method, Hook.CONNECTED)


def disconnected(method: _F) -> _F:
    """
    Mark the method that is called when a peer has gone, or was forgotten.
    """
    return _mark(method, Hook.DISCONNECTED)


def unknown(method: _F) -> _F:
    """
    Mark the method that is asked what to answer to a message without a route.

    It may take the `UnknownMessageError`, the header and the frame.
    """
    return _mark(method, Hook.UNKNOWN)


def malformed(method: _F) -> _F:
    """
    Mark the method that is asked what to answer to a malformed message.

    It may take the error, the header (`None` if that much could not be parsed)
    and the frame.
    """
    return _mark(method, Hook.MALFORMED)


def on_error(*exceptions: type[Exception]) -> Callable[[_F], _F]:
    """
    Mark a method that is asked what to answer when a route raised an exception.

    Args:
        exceptions: which ones; the nearest class wins.
    """
    for kind in exceptions:
        if not _is_class_of(kind, Exception):
            raise DeclarationError(f"on_error takes exception classes, not {kind!r}")
    if not exceptions:
        raise DeclarationError("on_error takes at least one exception class")
    return lambda method: _mark(method, Hook.ERROR, *exceptions)


@attrs.define
class Call:
    """
    What a route or hook can be given.
    """

    session: Session
    message: Any = None
    header: Any = None
    frame: Frame | None = None
    error: Exception | None = None


@attrs.frozen
class Route:
    """
    One method of a handler, with what it is given.
    """

    name: str
    is_async: bool
    """Whether it is a coroutine function or an asynchronous generator."""
    invoke: Callable[[Call], Any]
    """Calls the method; gives what the method returns."""
    method: Callable[..., Any]
    """The method itself."""
    arguments: tuple[str, ...] | None
    """
    What it takes, by position, of ``message``, ``session`` and ``header``; `None` if it
    takes anything else.
    """
    answers: tuple[type[Message], ...]
    """The messages that it says it returns."""


@attrs.frozen
class BatchRoute:
    """
    A method that takes batches, and when it is called.
    """

    route: Route
    max_rows: int
    max_age: float
    """Seconds."""


@attrs.frozen
class Routes:
    """
    All that a handler answers.
    """

    messages: dict[type[Message], Route]
    batches: dict[type[Message], BatchRoute]
    connected: Route | None
    disconnected: Route | None
    unknown: Route | None
    malformed: Route | None
    errors: dict[type[Exception], Route]

    @property
    def is_async(self) -> bool:
        """
        Whether any method needs an event loop.
        """
        hooks = (self.connected, self.disconnected, self.unknown, self.malformed)
        every = [*self.messages.values(), *self.errors.values(), *filter(None, hooks)]
        return any(r.is_async for r in every)

    def for_error(self, error: BaseException) -> Route | None:
        """
        Find the hook for an exception, the nearest class first.
        """
        for kind in type(error).__mro__:
            found = self.errors.get(kind)
            if found is not None:
                return found
        return None


def routes_of(protocol: Protocol, handler: Any) -> Routes:
    """
    Make the dispatch table of a handler.

    Args:
        protocol: what it speaks.
        handler: an instance of the user's class.

    Raises:
        DeclarationError: with everything that is wrong, one line each.
    """
    compiler = _Compiler(protocol, handler)
    compiler.run()
    if compiler.problems:
        name = type(handler).__name__
        lines = "\n".join(f"  {problem}" for problem in compiler.problems)
        raise DeclarationError(f"{name} cannot serve {protocol.name}:\n{lines}")
    return Routes(
        compiler.messages,
        compiler.batches,
        compiler.hooks.get(Hook.CONNECTED),
        compiler.hooks.get(Hook.DISCONNECTED),
        compiler.hooks.get(Hook.UNKNOWN),
        compiler.hooks.get(Hook.MALFORMED),
        compiler.errors,
    )


@attrs.define
class _Compiler:
    protocol: Protocol
    handler: Any
    problems: list[str] = attrs.field(factory=list)
    messages: dict[type[Message], Route] = attrs.field(factory=dict)
    batches: dict[type[Message], BatchRoute] = attrs.field(factory=dict)
    hooks: dict[Hook, Route] = attrs.field(factory=dict)
    errors: dict[type[Exception], Route] = attrs.field(factory=dict)

    def run(self) -> None:
        if isinstance(self.handler, type):
            name = self.handler.__name__
            self.problems.append(f"give an instance, {name}(), not the class {name}")
            return
        found = False
        for name, function, hook, details in _marked(type(self.handler)):
            found = True
            if inspect.isfunction(function):
                self._add(name, function, hook, details)
            else:
                kind = type(function).__name__
                self.problems.append(
                    f"{name} is a {kind}; routes and hooks are plain methods"
                )
        if not found:
            self.problems.append(
                "it has no routes; mark the methods that answer messages with @route"
            )

    def _add(
        self, name: str, function: Any, hook: Hook, details: tuple[Any, ...]
    ) -> None:
        try:
            names = self._names(function)
            if (
                hook is Hook.BATCH
                and "Batch" not in inspect.unwrap(function).__globals__
            ):
                from protoserve.batch import Batch

                names["Batch"] = Batch
            hints = typing.get_type_hints(function, localns=names)
        except Exception as exc:
            self._problem(function, f"its annotations cannot be resolved: {exc}")
            return
        parameters = list(inspect.signature(function).parameters.values())[1:]
        sources: list[str] = []
        by_name: dict[str, str] = {}
        answered: list[type[Message]] = []
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                self._problem(function, f"it cannot take *{parameter.name}")
                return
            hint = hints.get(parameter.name)
            source = self._source(hint, hook)
            if source is None:
                self._problem(function, self._complaint(parameter.name, hint, hook))
                return
            if parameter.kind is parameter.KEYWORD_ONLY:
                by_name[parameter.name] = source
            else:
                sources.append(source)
            if source == "message":
                answered += _members(hint)
            elif source == "batch":
                answered += typing.get_args(hint)
        method = getattr(self.handler, name)
        plain = inspect.unwrap(function)
        is_async = inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(
            plain
        )
        compiled = Route(
            name,
            is_async,
            _invoker(method, sources, by_name),
            method,
            tuple(sources) if not by_name and set(sources) <= _PLAIN else None,
            tuple(r for r in _results(hints.get("return")) if _is_class_of(r, Message)),
        )
        self._check_answers(function, hints.get("return"), answered)
        self._file(function, compiled, hook, details, answered)

    def _file(
        self,
        function: Any,
        compiled: Route,
        hook: Hook,
        details: tuple[Any, ...],
        answered: list[type[Message]],
    ) -> None:
        if hook is Hook.ROUTE:
            if not answered:
                self._problem(
                    function,
                    "it takes no message; annotate one parameter with a message class",
                )
            for cls in answered:
                self._claim(function, cls)
                self.messages[cls] = compiled
        elif hook is Hook.BATCH:
            if len(compiled.arguments or ()) != 1 or compiled.answers:
                self._problem(
                    function,
                    "it takes one parameter, annotated Batch[MESSAGE], and returns None",
                )
            for cls in answered:
                self._claim(function, cls)
                self.batches[cls] = BatchRoute(compiled, *details)
        elif hook is Hook.ERROR:
            for kind in details:
                if kind in self.errors:
                    other = self.errors[kind].name
                    self._problem(function, f"{kind.__name__} has a hook: {other}()")
                self.errors[kind] = compiled
        else:
            if hook in self.hooks:
                other = self.hooks[hook].name
                self._problem(function, f"there is a hook {hook.value}: {other}()")
            self.hooks[hook] = compiled

    def _claim(self, function: Any, cls: type[Message]) -> None:
        for other in (self.messages.get(cls), self.batches.get(cls)):
            if other is not None:
                name = other.name if isinstance(other, Route) else other.route.name
                self._problem(function, f"{cls.__name__} has a route: {name}()")

    def _names(self, function: Any) -> dict[str, Any]:
        """
        Names that annotations may use wherever the handler is defined.

        They stand in for what a module imports for type checkers only, and for
        messages that are local to a function.
        """
        missing = {
            name: value
            for name, value in _USUAL_NAMES.items()
            if name not in inspect.unwrap(function).__globals__
        }
        parts = (self.protocol.header, *self.protocol.classes())
        return missing | {cls.__name__: cls for cls in parts if cls is not None}

    def _source(self, hint: Any, hook: Hook) -> str | None:
        members = _members(hint)
        if not members:
            return None
        inbound = self.protocol.table(Direction.REQUEST).values()
        if hook is Hook.BATCH:
            (found,) = typing.get_args(hint) if _is_batch(hint) else (None,)
            return "batch" if found in inbound else None
        if all(m is Session for m in members):
            return "session"
        if hook in (Hook.CONNECTED, Hook.DISCONNECTED):
            return None
        if all(m is Frame for m in members):
            return "frame"
        if all(m is self.protocol.header for m in members):
            return "header"
        if all(_is_class_of(m, Exception) for m in members):
            return None if hook is Hook.ROUTE else "error"
        if hook in (Hook.ROUTE, Hook.ERROR) and all(m in inbound for m in members):
            return "message"
        return None

    def _complaint(self, name: str, hint: Any, hook: Hook) -> str:
        if hint is None:
            return f"parameter {name!r} has no annotation, so nothing can be passed"
        shown = getattr(hint, "__name__", str(hint))
        if hook is Hook.BATCH:
            inbound = self.protocol.table(Direction.REQUEST).values()
            known = ", ".join(c.__name__ for c in inbound) or "none"
            return (
                f"parameter {name!r} is a {hint}; a batch_route method takes Batch[…] of "
                f"a message that {self.protocol.name} receives (known: {known})"
            )
        members = _members(hint)
        if all(_is_class_of(m, Message) for m in members):
            inbound = self.protocol.table(Direction.REQUEST).values()
            known = ", ".join(c.__name__ for c in inbound) or "none"
            if hook in (Hook.ROUTE, Hook.ERROR):
                return (
                    f"{shown} is no message that {self.protocol.name} receives "
                    f"(known: {known})"
                )
        header = self.protocol.header
        may = ["a Session"]
        if hook in (Hook.ROUTE, Hook.ERROR):
            may.insert(0, "a message")
        if hook not in (Hook.CONNECTED, Hook.DISCONNECTED):
            may += ["a Frame", *([f"the header {header.__name__}"] if header else [])]
            may += ["the error"] if hook is not Hook.ROUTE else []
        return (
            f"parameter {name!r} is a {shown}; a {hook.value} method may take "
            f"{', '.join(may)}"
        )

    def _check_answers(
        self, function: Any, hint: Any, answered: list[type[Message]]
    ) -> None:
        outbound = self.protocol.table(Direction.RESPONSE).values()
        if hint is None:
            return
        results = list(_results(hint))
        if any(r in (Any, Message, typing.NoReturn, typing.Never) for r in results):
            return
        for result in results:
            if result not in outbound:
                shown = getattr(result, "__name__", str(result))
                known = ", ".join(c.__name__ for c in outbound) or "none"
                self._problem(
                    function,
                    f"it returns {shown}, which is no response of "
                    f"{self.protocol.name} (known: {known})",
                )
                return
        for cls in answered:
            promised = [r for r in response_types(cls) if isinstance(r, type)]
            replies = [r for r in results if not r.is_error]
            if promised and replies and not set(promised) & set(replies):
                names = " | ".join(r.__name__ for r in promised)
                self._problem(
                    function,
                    f"it returns {replies[0].__name__}, but {cls.__name__} is a "
                    f"Request[{names}]",
                )

    def _problem(self, function: Any, text: str) -> None:
        self.problems.append(f"{_place(function)}{function.__name__}(): {text}")


def _marked(cls: type) -> Iterator[tuple[str, Any, Hook, tuple[Any, ...]]]:
    """
    List a class's routes and hooks in the order of their definition.

    A method that overrides one keeps its mark; `None` in its place takes it away.
    """
    named = {hook.value: hook for hook in Hook if hook not in (Hook.ROUTE, Hook.ERROR)}
    for name in dict.fromkeys(n for base in reversed(cls.__mro__) for n in vars(base)):
        versions = [vars(base)[name] for base in cls.__mro__ if name in vars(base)]
        function = versions[0]
        if function is None:
            continue
        # A staticmethod, which is told to be none, has its function inside.
        bare = (getattr(version, "__func__", version) for version in versions)
        marks = (getattr(version, _MARK, None) for version in bare)
        mark = next((mark for mark in marks if mark is not None), None)
        if mark is not None:
            yield name, function, *mark
        elif name in named and inspect.isfunction(function):
            yield name, function, named[name], ()


def _members(hint: Any) -> list[Any]:
    """
    Take a union apart, without `None`.
    """
    hint = getattr(hint, "__value__", hint)  # a type alias of Python 3.12
    if hint is None or hint is type(None):
        return []
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [m for part in typing.get_args(hint) for m in _members(part)]
    return [hint]


_PLAIN = {"message", "session", "header", "batch"}

_CARRIERS = (
    collections.abc.Iterable,
    collections.abc.AsyncIterable,
    collections.abc.Awaitable,
)
_SINGLE = (str, bytes, bytearray, Message)
"""What can be iterated over, but not to send each part."""


def _results(hint: Any) -> Iterator[Any]:
    """
    List what a return annotation says is sent.
    """
    for member in _members(hint):
        origin = typing.get_origin(member) or member
        if _is_class_of(origin, _CARRIERS) and not issubclass(origin, _SINGLE):
            arguments = typing.get_args(member) or (Any,)
            if issubclass(origin, collections.abc.Coroutine):
                arguments = arguments[-1:]
            elif not issubclass(origin, tuple):
                arguments = arguments[:1]
            for argument in arguments:
                if argument is not ...:
                    yield from _results(argument)
        else:
            yield member


def _is_batch(hint: Any) -> bool:
    from protoserve.batch import Batch

    return typing.get_origin(hint) is Batch


def _is_class_of(value: Any, base: type | tuple[type, ...]) -> bool:
    return isinstance(value, type) and issubclass(value, base)


def _invoker(
    method: Callable[..., Any], sources: list[str], by_name: dict[str, str]
) -> Callable[[Call], Any]:
    if by_name:
        return lambda call: method(
            *(getattr(call, source) for source in sources),
            **{name: getattr(call, source) for name, source in by_name.items()},
        )
    if not sources:
        return lambda _call: method()
    getters = operator.attrgetter(*sources)
    if len(sources) == 1:
        return lambda call: method(getters(call))
    return lambda call: method(*getters(call))


def _place(function: Any) -> str:
    """
    Name a method's file and line, and show the line.
    """
    code = inspect.unwrap(function).__code__
    line = code.co_firstlineno
    text = linecache.getline(code.co_filename, line).strip()
    while text.startswith("@"):
        line += 1
        text = linecache.getline(code.co_filename, line).strip()
    return f"{code.co_filename}:{line}: " + (f"{text}\n    " if text else "")
