"""
Python source for generated modules: names, imports, annotations, values, layout.

A name is imported from where a user would take it: from the protocol's own module if
that gives it away, else from where it is defined. What is imported never hides a
builtin, an argument or a method: it gets an underscore at its end then. Lines are laid
out as ``ruff format`` does at 88 columns, by its few rules that generated code needs,
so that nobody's formatter changes a file that is compared with what is generated.
"""

from __future__ import annotations

import builtins
import enum
import keyword
import math
import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

__all__ = [
    "Imports",
    "Source",
    "camel_case",
    "docstring",
    "free_name",
    "indented",
    "laid_out",
    "listed",
    "resolved",
]

WIDTH = 88
"""Columns of a line."""


def camel_case(name: str) -> str:
    """
    Write a protocol's name as a class's.

    >>> camel_case("my-sensors 2")
    'MySensors2'
    """
    words = re.findall(r"[^\W_]+", name)
    joined = "".join(word[0].upper() + word[1:] for word in words)
    return joined if joined.isidentifier() else f"Protocol{joined}"


def free_name(name: str, taken: Iterable[str]) -> str:
    """
    Put underscores behind a name until nothing else is called so.
    """
    used = set(taken)
    while name in used or keyword.iskeyword(name):
        name += "_"
    return name


class Imports:
    """
    What a module takes from others, and what it calls it.

    Args:
        reserved: names that mean something else in the module.
    """

    def __init__(self, reserved: Iterable[str]) -> None:
        self._reserved = {*reserved, *dir(builtins)}
        self._local: dict[tuple[str, str], str] = {}

    def name(self, module: str, name: str) -> str:
        """
        Import a name (with dots: something in it), and say how it is written.
        """
        top, dot, rest = name.partition(".")
        if module == "builtins":
            return name
        if (module, top) not in self._local:
            self._local[module, top] = free_name(top, self.used)
        return self._local[module, top] + dot + rest

    @property
    def used(self) -> set[str]:
        """
        The names that are taken already.
        """
        return {*self._reserved, *self._local.values()}

    def lines(self) -> list[str]:
        """
        Write the statements, sorted as isort does.
        """
        by_module: dict[str, list[str]] = {}
        for (module, name), local in self._local.items():
            written = name if name == local else f"{name} as {local}"
            by_module.setdefault(module, []).append(written)
        sections: list[list[str]] = [[], []]
        for module in sorted(by_module, key=lambda m: (m.lower(), m)):
            standard = module.partition(".")[0] in sys.stdlib_module_names
            names = sorted(by_module[module], key=_order)
            plain = [name for name in names if " as " not in name]
            if plain:
                sections[not standard] += _imported(module, plain)
            for name in names:
                if name not in plain:
                    sections[not standard] += _imported(module, [name])
        found: list[str] = []
        for section in filter(None, sections):
            found += ["", *section]
        return found


def _order(name: str) -> tuple[int, str, str]:
    """
    Sort constants first, then classes, then the rest.
    """
    plain = name.partition(" ")[0]
    if plain.isupper() and len(plain) > 1:
        return 0, plain, plain
    return (1 if plain[:1].isupper() else 2), plain.lower(), plain


def _imported(module: str, names: list[str]) -> list[str]:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= WIDTH:
        return [line]
    return [f"from {module} import (", *(f"    {n}," for n in names), ")"]


class Source:
    """
    Writes types and values as source.

    Args:
        module: the protocol's module, whose own names are taken from it.
        imports: gets what is used.
    """

    def __init__(self, module: types.ModuleType, imports: Imports) -> None:
        self._module = module
        self.imports = imports

    def typing(self, name: str) -> str:
        """
        Import a name of `typing`.
        """
        return self.imports.name("typing", name)

    def place_of(self, cls: Any) -> tuple[str, str] | None:
        """
        Say where a class can be imported from by type checkers too.
        """
        name = str(getattr(cls, "__qualname__", None) or getattr(cls, "__name__", ""))
        own = str(getattr(cls, "__module__", ""))
        offered = own == self._module.__name__ or _gives_away(self._module, name)
        if offered and _find(self._module, name) is cls:
            return self._module.__name__, name
        module = None if own == "__main__" else sys.modules.get(own)
        if module is not None and _find(module, name) is cls:
            return own, name
        return None

    def variable_of(self, value: Any) -> str | None:
        """
        Find a variable of the protocol's module, for classes made at run time.
        """
        for name, found in vars(self._module).items():
            if found is value and name.isidentifier():
                return name
        return None

    def annotation(self, hint: Any) -> str:
        """
        Write a type; what cannot be written is ``Any``.
        """
        if hint is None or hint is type(None):
            return "None"
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is typing.Annotated:
            return self.annotation(arguments[0])
        if origin in (typing.Union, types.UnionType):
            return self.union(arguments)
        if origin is typing.Literal:
            written = [self.value(a) for a in arguments]
            if None in written:
                return self.typing("Any")
            return f"{self.typing('Literal')}[{', '.join(map(str, written))}]"
        if origin is not None and arguments:
            return self._generic(origin, arguments)
        hint = hint if origin is None else origin
        known = isinstance(hint, type) or hasattr(hint, "__supertype__")
        if not known or _is_untyped(hint):
            return self.typing("Any")
        place = self.place_of(hint)
        if place is None:
            return self.typing("Any")
        return self.imports.name(*place) + self._open_arguments(hint)

    def _open_arguments(self, hint: Any) -> str:
        """
        Write the arguments of a generic type that was named without any.
        """
        if not hasattr(hint, "__class_getitem__") or isinstance(hint, enum.EnumType):
            return ""
        anything = self.typing("Any")
        if issubclass(hint, tuple):
            return f"[{anything}, ...]" if hint is tuple else ""
        if hint is Callable:
            return f"[..., {anything}]"
        many = len(getattr(hint, "__parameters__", ())) or 1 + issubclass(hint, Mapping)
        return f"[{', '.join([anything] * many)}]"

    def union(self, hints: Iterable[Any]) -> str:
        """
        Write a union, each member once; one with ``Any`` in it is ``Any``.
        """
        parts = list(dict.fromkeys(self.annotation(hint) for hint in hints))
        anything = self.typing("Any") if "Any" in parts else ""
        return anything or " | ".join(parts)

    def _generic(self, origin: Any, arguments: tuple[Any, ...]) -> str:
        place = None if _is_untyped(origin) else self.place_of(origin)
        if place is None:
            return self.typing("Any")
        written = self.imports.name(*place)
        inner = []
        for argument in arguments:
            if argument is Ellipsis:
                inner.append("...")
            elif isinstance(argument, list):
                inner.append(f"[{', '.join(map(self.annotation, argument))}]")
            else:
                inner.append(self.annotation(argument))
        return f"{written}[{', '.join(inner)}]"

    def value(self, value: Any) -> str | None:
        """
        Write a value that never changes; `None` if it cannot be written.
        """
        if isinstance(value, enum.Enum):
            name, place = value.name, self.place_of(type(value))
            if place is None or name not in type(value).__members__:
                return None
            return f"{self.imports.name(*place)}.{name}"
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, str | bytes):
            return _quoted(value) if type(value) in (str, bytes) else None
        if value is None or type(value) in (bool, int, float):
            return repr(value)
        if type(value) is tuple:
            parts = [self.value(part) for part in value]
            if None in parts:
                return None
            comma = "," if len(parts) == 1 else ""
            return f"({', '.join(map(str, parts))}{comma})"
        return None


def _is_untyped(hint: Any) -> bool:
    """
    Say whether type checkers know nothing of a class.
    """
    return str(getattr(hint, "__module__", "")).partition(".")[0] == "construct"


def _quoted(value: str | bytes) -> str | None:
    """
    Write text in double quotes; what is better read from the declaration is left to it.
    """
    text = repr(value)
    if len(text) > 60 or '"' in text:
        return None
    return text.replace("'", '"')


def _find(module: types.ModuleType, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _gives_away(module: types.ModuleType, name: str) -> bool:
    """
    Say whether a module means to be imported from for a name of others'.
    """
    return name.partition(".")[0] in getattr(module, "__all__", ())


def resolved(annotation: Any, home: type) -> Any:
    """
    Evaluate an annotation where it was written; ``Any`` if that cannot be done.

    Args:
        annotation: the annotation, perhaps as text.
        home: the class that it stands in.
    """
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    module = sys.modules.get(home.__module__)
    names = dict(vars(module)) if module is not None else {}
    try:
        return typing.get_type_hints(holder, names, dict(vars(home)))["it"]
    except Exception:  # annotations are the user's, and need not be names at all
        return Any


# Layout ------------------------------------------------------------------------------


def indented(lines: Iterable[str], depth: int = 1) -> list[str]:
    """
    Move lines to the right; empty ones stay empty.
    """
    space = "    " * depth
    return [space + line if line else "" for line in lines]


def listed(
    before: str, parts: Sequence[str], after: str, indent: int, *, literal: bool = False
) -> list[str]:
    """
    Lay out what stands in brackets: in one line, inside the brackets, or each by itself.

    Args:
        before: the text up to the opening bracket, with it.
        parts: what is separated by commas.
        after: the text from the closing bracket on.
        indent: columns that the lines will be moved to the right by.
        literal: whether it is a list or a dictionary, which has no second form.
    """
    joined = ", ".join(parts)
    if indent + len(before + joined + after) <= WIDTH:
        return [before + joined + after]
    if not literal and indent + 4 + len(joined) <= WIDTH:
        return [before, f"    {joined}", after]
    # A bare star takes a comma as any other part does; two stars at the end as well.
    return [before, *(f"    {part}," for part in parts), after]


def laid_out(before: str, expression: str, indent: int, mark: str = "|") -> list[str]:
    """
    Lay out an assignment of operands with an operator between them.
    """
    if indent + len(before + expression) <= WIDTH:
        return [before + expression]
    if indent + 4 + len(expression) <= WIDTH:
        return [f"{before}(", f"    {expression}", ")"]
    first, *others = expression.split(f" {mark} ")
    return [
        f"{before}(",
        f"    {first}",
        *(f"    {mark} {other}" for other in others),
        ")",
    ]


def docstring(
    paragraphs: Iterable[str | list[tuple[str, str]]], indent: int
) -> list[str]:
    """
    Write a docstring with its quotes on lines of their own.

    Args:
        paragraphs: text, which is filled anew, or a section: pairs of a name and what
            there is to say of it, the first of which is the section's head.
        indent: columns that the lines will be moved to the right by.
    """
    lines: list[str] = []
    for paragraph in paragraphs:
        if lines:
            lines.append("")
        if isinstance(paragraph, str):
            lines += _filled(paragraph, indent, "", "")
            continue
        (head, _), *entries = paragraph
        lines.append(f"{head}:")
        for name, text in entries:
            lines += _filled(f"{name}: {text}", indent, "    ", "        ")
    safe = [line.replace("\\", "\\\\").replace('"""', '\\"\\"\\"') for line in lines]
    return ['"""', *safe, '"""']


def _filled(text: str, indent: int, first: str, later: str) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()),
        WIDTH - indent,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )
