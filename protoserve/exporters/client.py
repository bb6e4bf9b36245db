"""
``protoserve export client``: a protocol's clients as a module of Python source.

The module has two classes, for threads and for tasks, that are clients of
`protoserve.client` with a method for each request. They inherit all else, so what a
client can do is told once, in its own classes. Names are chosen by rules that do not
depend on each other: a method is its message's name in snake case; one that Python, the
builtins or the client itself use has an underscore behind it; of namesakes the later
ones, in the order of the tables, are numbered.
"""

from __future__ import annotations

import builtins
import dis
import importlib
import inspect
import keyword
import re
import typing
from collections.abc import Iterator, Sequence

import attrs

from protoserve.client import AsyncClient, Client
from protoserve.exporters import ExportError
from protoserve.exporters._arguments import Argument, arguments_of, is_argument
from protoserve.exporters._python import (
    WIDTH,
    Imports,
    Source,
    camel_case,
    docstring,
    free_name,
    indented,
    laid_out,
    listed,
    resolved,
)
from protoserve.messages import Message, response_types
from protoserve.names import snake_case
from protoserve.protocol import Direction, Protocol

__all__ = ["client_source"]

_LONGEST = 48
"""Columns of an annotation; a longer one gets a name of its own."""

_LOCALS = ("self", "header", "timeout", "request", "given", "answer", "k", "v")
"""Names inside methods."""


@attrs.frozen
class _Method:
    """
    What is generated for one request.
    """

    name: str
    cls: type[Message]
    answers: tuple[type[Message], ...]
    """What it returns; empty for messages that are only sent."""
    partial: bool
    """Whether the declaration also has answers that are errors."""


def client_source(protocol: Protocol, place: str) -> str:
    """
    Write the module.

    Args:
        protocol: whose clients.
        place: where the protocol is, as ``MODULE:NAME``.

    Raises:
        ExportError: a class cannot be imported from anywhere.
    """
    return _Module(protocol, place).text()


class _Module:
    """
    One generated module while it is written.
    """

    def __init__(self, protocol: Protocol, place: str) -> None:
        self.protocol = protocol
        self.place = place
        self.module, _, self.variable = place.partition(":")
        if self.module == "__main__":
            raise ExportError(
                f"{place}: the client imports the protocol, and nothing can be imported "
                "from __main__; move the declaration to a module"
            )
        module = importlib.import_module(self.module)
        self.bases: dict[str, type[Client | AsyncClient]] = {
            "": Client,
            "Async": AsyncClient,
        }
        self.stem = camel_case(protocol.name)
        self.own = _names_of(Client) | _names_of(AsyncClient)
        self.methods = self._methods()
        names = {f"{kind}{self.stem}Client" for kind in self.bases}
        arguments = {
            attribute.alias
            for method in self.methods
            for attribute in attrs.fields(method.cls)  # type: ignore[arg-type]
        }
        reserved = {m.name for m in self.methods} | names | arguments | self.own
        reserved |= {*inspect.signature(Client).parameters, *_LOCALS}
        self.source = Source(module, Imports(reserved))
        self.aliases: dict[str, str] = {}
        self.variables: dict[str, str] = {}

    def _methods(self) -> list[_Method]:
        used: set[str] = set()
        found = []
        for cls in self.protocol.table(Direction.REQUEST).values():
            name = plain = self._method_name(cls)
            number = 1
            while name in used:
                number += 1
                name = f"{plain.rstrip('_')}_{number}"
            used.add(name)
            types = _answers(self.protocol, cls)
            good = tuple(each for each in types if not each.is_error)
            found.append(_Method(name, cls, good, good != types))
        return found

    def _method_name(self, cls: type[Message]) -> str:
        name = snake_case(cls.__name__)
        builtin = hasattr(builtins, name)
        if builtin or name in self.own or keyword.iskeyword(name):
            return f"{name}_"
        return name

    def text(self) -> str:
        """
        Give the whole module.
        """
        classes = [list(self._class(kind)) for kind in self.bases]
        names = sorted(f"{kind}{self.stem}Client" for kind in self.bases)
        doc = self.protocol.doc.strip().rstrip(".")
        about = f"Clients of {self.protocol.name}{': ' if doc else ''}{doc}."
        made = (
            f"Made by ``protoserve export client {self.place}``; make it anew when the "
            "declaration changes, and do not edit it."
        )
        own = list(self._definitions())  # before the imports, as it needs some
        quoted = [f'"{name}"' for name in names]
        lines = [
            *docstring([about, made], 0),
            "",
            "from __future__ import annotations",
            *self.source.imports.lines(),
            "",
            *listed("__all__ = [", quoted, "]", 0, literal=True),
            *(["", *own] if own else []),
        ]
        for each in classes:
            lines += ["", "", *each]
        return "\n".join(lines) + "\n"

    def _definitions(self) -> Iterator[str]:
        for name, written in self.variables.items():
            yield f"{name}: {self.source.typing('Any')} = {written}"
        for name, written in self.aliases.items():
            alias = self.source.typing("TypeAlias")
            yield from laid_out(f"{name}: {alias} = ", written, 0)

    # Classes ---------------------------------------------------------------

    def _class(self, kind: str) -> Iterator[str]:
        base = self.bases[kind]
        name = self.source.imports.name("protoserve.client", base.__name__)
        yield f"class {kind}{self.stem}Client({name}):"
        sort = "for asyncio" if kind else "for threads"
        doc = self.protocol.doc.strip().rstrip(".") or self.protocol.name
        told: list[str | list[tuple[str, str]]] = [
            f"A client {sort}: {doc}.",
            " ".join(self._introduction(base)),
        ]
        yield from indented(docstring(told, 4))
        yield ""
        yield from indented(self._init(base))
        for method in self.methods:
            yield ""
            yield from indented(self._method(method, asynchronous=bool(kind)))

    @property
    def _asks(self) -> bool:
        """
        Whether anything is answered.
        """
        return any(method.answers or method.partial for method in self.methods)

    def _introduction(self, base: type) -> Iterator[str]:
        """
        Tell what all methods have in common.
        """
        kind = "request" if self._asks else "message"
        yield f"Each {kind} is a method; its arguments are the message's fields."
        if self._asks:
            yield "`timeout` is in seconds; by default it is the client's."
        else:
            yield "Nothing is answered, so that a method is done when it has sent."
        if self._takes_header:
            assert self.protocol.header is not None
            name = self.protocol.header.__name__
            yield (
                f"`header` gives the fields of the `{name}` that are not the client's "
                "own to fill in."
            )
        yield f"Whatever else it can do is told by `protoserve.client.{base.__name__}`."

    def _init(self, base: type) -> list[str]:
        """
        Write the constructor: the base's, but for the protocol.
        """
        signature = inspect.signature(base)
        options = list(signature.parameters.values())[2:]
        written = []
        passed = []
        for option in options:
            hint = resolved(option.annotation, base)
            default = (
                ""
                if option.default is option.empty
                else (f" = {self.source.value(option.default)}")
            )
            written.append(f"{option.name}: {self.source.annotation(hint)}{default}")
            passed.append(f"{option.name}={option.name}")
        head = ["self", "url: str", *(["*"] if written else []), *written]
        variable = self.source.imports.name(self.module, self.variable)
        return [
            *listed("def __init__(", head, ") -> None:", 4),
            *indented(listed("super().__init__(", [variable, "url", *passed], ")", 8)),
        ]

    @property
    def _takes_header(self) -> bool:
        """
        Whether a header has fields besides the tag and the key, which are filled in.
        """
        header, filled = self.protocol.header, set(self.protocol._tag_fields)
        for paths in (self.protocol.tag, self.protocol.correlate):
            if isinstance(paths, str | tuple):
                filled.update((paths,) if isinstance(paths, str) else paths)
        return header is not None and any(
            is_argument(header, attribute) and attribute.name not in filled
            for attribute in attrs.fields(header)  # type: ignore[arg-type]
        )

    # Methods ---------------------------------------------------------------

    def _method(self, method: _Method, *, asynchronous: bool) -> list[str]:
        arguments = arguments_of(method.cls, self.source)
        arguments = [self._shortened(method, argument) for argument in arguments]
        taken = {argument.name for argument in arguments}
        options = list(self._options(method, taken))
        by_name = [a.source for a in arguments if a.named] + [o[1] for o in options]
        head = ["self", *(a.source for a in arguments if not a.named)]
        head += ["*", *by_name] if by_name else []
        returned = self._returned(method)
        lead = "async def" if asynchronous else "def"
        lines = listed(f"{lead} {method.name}(", head, f") -> {returned}:", 4)
        lines += indented(docstring(self._told(method, arguments), 8))
        lines += indented(
            self._body(method, arguments, options, taken, asynchronous=asynchronous)
        )
        return lines

    def _shortened(self, method: _Method, argument: Argument) -> Argument:
        """
        Give a long annotation a name.
        """
        if len(argument.annotation) <= _LONGEST:
            return argument
        name = camel_case(f"{method.cls.__name__}_{argument.name.strip('_')}")
        return attrs.evolve(argument, annotation=self._alias(name, argument.annotation))

    def _alias(self, name: str, annotation: str) -> str:
        if " | " not in annotation and len(name) + 14 + len(annotation) > WIDTH:
            return self.source.typing("Any")
        for known, written in self.aliases.items():
            if written == annotation:
                return known
        name = name if len(name) <= _LONGEST else f"Union{len(self.aliases) + 1}"
        name = free_name(name, {*self.aliases, *self.source.imports.used})
        self.aliases[name] = annotation
        return name

    def _options(
        self, method: _Method, taken: set[str]
    ) -> Iterator[tuple[str, str, str]]:
        """
        Give the options of the call itself: name in the client, in the method's head
        and where it is passed on. A field of the same name keeps it.
        """
        if self._takes_header:
            assert self.protocol.header is not None
            hint = f"{self._message(self.protocol.header)} | None"
            name = free_name("header", taken)
            yield "header", f"{name}: {hint} = None", f"header={name}"
        if method.answers or method.partial:
            name = free_name("timeout", taken)
            yield "timeout", f"{name}: float | None = None", f"timeout={name}"

    def _message(self, cls: type[Message]) -> str:
        """
        Write a message class as a type.
        """
        place = self.source.place_of(cls)
        if place is not None:
            return self.source.imports.name(*place)
        if self.source.variable_of(cls) is not None:
            return self.source.typing("Any")
        raise ExportError(
            f"{self.protocol.name}: {cls.__name__} cannot be imported: it is in no "
            f"variable of {self.module} or {cls.__module__}; define it at the top of a "
            "module"
        )

    def _constructor(self, cls: type[Message]) -> str:
        """
        Write what is called to make a message.

        Type checkers do not know the arguments of a class that was made at run time,
        so that one is taken through a variable without a type.
        """
        variable = self.source.variable_of(cls)
        if self.source.place_of(cls) is not None or variable is None:
            return self._message(cls)
        name = f"_{cls.__name__}"
        self.variables[name] = self.source.imports.name(self.module, variable)
        return name

    def _returned(self, method: _Method) -> str:
        if method.partial and not method.answers:
            return "None"
        written = " | ".join(dict.fromkeys(map(self._message, method.answers)))
        if "Any" in written.split(" | "):
            return self.source.typing("Any")
        if len(written) > _LONGEST:
            return self._alias(f"{method.cls.__name__}Answer", written)
        return written or "None"

    def _told(
        self, method: _Method, arguments: Sequence[Argument]
    ) -> Iterator[str | list[tuple[str, str]]]:
        verb = "Ask with" if method.answers or method.partial else "Send"
        yield from _prose(method.cls) or [f"{verb} a `{method.cls.__name__}`."]
        told = [(a.name, a.about) for a in arguments if a.about]
        if told:
            yield [("Args", ""), *told]
        if method.answers or method.partial:
            errors = _errors(self.protocol, method.cls)
            if errors:
                names = " or a ".join(f"`{cls.__name__}`" for cls in errors)
                yield [("Raises", ""), ("ErrorResponse", f"the answer is a {names}.")]

    def _body(
        self,
        method: _Method,
        arguments: Sequence[Argument],
        options: Sequence[tuple[str, str, str]],
        taken: set[str],
        *,
        asynchronous: bool,
    ) -> Iterator[str]:
        taken = {*taken, *(option[1].partition(":")[0] for option in options)}
        request, given = free_name("request", taken), free_name("given", taken)
        # Type checkers know the constructor by the order of all fields, so that names
        # have to be given behind the first one that is left out.
        fields = [a.alias for a in attrs.fields(method.cls) if a.init]  # type: ignore[arg-type]
        ahead = []
        for argument, field in zip(arguments, fields, strict=False):
            if argument.optional or argument.named or argument.name != field:
                break
            ahead.append(argument.passed)
        behind = [
            f"{a.name}={a.passed}" for a in arguments[len(ahead) :] if not a.optional
        ]
        optional = [f'"{a.name}": {a.name}' for a in arguments if a.optional]
        if optional:
            start = f"{given}: dict[str, {self.source.typing('Any')}] = {{"
            yield from listed(start, optional, "}", 8, literal=True)
            yield f"{given} = {{k: v for k, v in {given}.items() if v is not None}}"
            behind.append(f"**{given}")
        made = self._constructor(method.cls)
        yield from listed(f"{request} = {made}(", [*ahead, *behind], ")", 8)
        verb = "call" if method.answers or method.partial else "send"
        handed = [request, *(option[2] for option in options)]
        wait = "await " if asynchronous else ""
        if not method.answers:
            yield from listed(f"{wait}self.{verb}(", handed, ")", 8)
            return
        returned = self._returned(method)
        if not method.partial or returned == self.source.typing("Any"):
            yield from listed(f"return {wait}self.{verb}(", handed, ")", 8)
            return
        answer = free_name("answer", {*taken, request, given})
        yield from listed(f"{answer} = {wait}self.{verb}(", handed, ")", 8)
        cast = self.source.typing("cast")
        yield from listed(f"return {cast}(", [f'"{returned}"', answer], ")", 8)


def _names_of(base: type) -> set[str]:
    """
    Give the names that a class has, those that its constructors set included.
    """
    found = set(dir(base))
    for each in base.__mro__:
        code = getattr(vars(each).get("__init__"), "__code__", None)
        found.update(vars(each).get("__annotations__", ()))
        for step in dis.get_instructions(code) if code is not None else ():
            if step.opname == "STORE_ATTR":
                found.add(step.argval)
    return found


def _prose(cls: type[Message]) -> list[str]:
    """
    Take the paragraphs of a class's own docstring, up to what is no plain text.
    """
    doc = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    found = []
    for paragraph in filter(str.strip, doc.split("\n\n")):
        if re.search(r"^(?:\s|>>>|```|[-*] |[.][.] )", paragraph, re.MULTILINE):
            break
        found.append(paragraph)
    return found


def _answers(protocol: Protocol, cls: type[Message]) -> tuple[type[Message], ...]:
    """
    Give what answers a request; names are looked up among the responses.
    """
    by_name = {c.__name__: c for c in protocol.table(Direction.RESPONSE).values()}
    found: dict[type[Message], None] = {}
    for answer in response_types(cls):
        text = answer if isinstance(answer, str) else None
        if isinstance(answer, typing.ForwardRef):
            text = answer.__forward_arg__
        if text is None:
            if isinstance(answer, type):
                found[answer] = None
            continue
        for name in text.split("|"):
            named = by_name.get(name.strip().rpartition(".")[2])
            if named is not None:
                found[named] = None
    return tuple(found)


def _errors(protocol: Protocol, cls: type[Message]) -> list[type[Message]]:
    """
    Give the errors that may answer a request: its own, else those that answer any.
    """
    own = [each for each in _answers(protocol, cls) if each.is_error]
    claimed = {
        each
        for request in protocol.table(Direction.REQUEST).values()
        for each in _answers(protocol, request)
    }
    table = protocol.table(Direction.RESPONSE).values()
    return own + [each for each in table if each.is_error and each not in claimed]
