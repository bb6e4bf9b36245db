"""
What can be written behind a message's name: its fields, and values for them.

Shell completion, the shell's completer and the hints in errors all ask this. A place
is written as `protoserve.plain.assign` takes it, names and numbers joined by dots.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, TypeAlias

from protoserve.codec.layout import Part, layout_of, messages_in
from protoserve.messages import Message

__all__ = ["Suggestion", "in_short", "part_at", "place_of", "suggestions"]

Suggestion: TypeAlias = tuple[str, str]
"""A whole word, and what is known of it."""

_DEEPEST = 8
"""Messages in messages whose fields are still suggested unasked."""


class _Parts:
    """
    The named parts at some place of a message.
    """

    def __init__(self, cls: type[Message]) -> None:
        self._records = {r.record_name: r for r in messages_in(cls._record)}
        self._top = _named(layout_of(cls._record))

    def at(self, steps: Collection[str]) -> dict[str, Part]:
        """
        Give the parts behind some steps by name; none where there is no such place.
        """
        parts = self._top
        for step in steps:
            if step.isdecimal():
                continue  # an element's parts are those of its list
            if step not in parts:
                return {}
            parts = self.inside(parts[step])
        return parts

    def inside(self, part: Part) -> dict[str, Part]:
        """
        Give what a part consists of: its own parts, or the fields of its messages.
        """
        found: dict[str, Part] = {}
        for name in dict.fromkeys(_messages(part)):
            for each, inner in _named(layout_of(self._records[name])).items():
                found.setdefault(each, inner)
        return found or {p.name: p for p in part.parts if p.name and not p.computed}


def _named(parts: tuple[Part, ...]) -> dict[str, Part]:
    return {part.name: part for part in parts if part.name}


def _messages(part: Part) -> Iterator[str]:
    yield from part.messages
    for inner in part.parts:
        if not inner.name:  # one case of a choice
            yield from _messages(inner)


def part_at(cls: type[Message], path: str) -> Part | None:
    """
    Find a field by its place, as in ``questions.0.name``.
    """
    *steps, last = path.replace("[", ".").replace("]", "").split(".")
    while last.isdecimal() and steps:
        last = steps.pop()
    return _Parts(cls).at(steps).get(last)


def place_of(cls: type[Message], name: str) -> str | None:
    """
    Find where inside of a message's fields there is one of a name.

    >>> from protocols.dns import Query
    >>> place_of(Query, "name")
    'questions.0.name'
    """
    parts = _Parts(cls)
    for path, part in parts.at(()).items():
        if name in parts.inside(part):
            return f"{_opened(parts, path, part)}{name}"
    return None


def in_short(part: Part) -> str:
    """
    Say what a field is, in a few words.
    """
    unit = f" in {part.unit}" if part.unit else ""
    doc = f": {part.doc}" if part.doc else ""
    return f"{part.type}{unit}{doc}"


def suggestions(
    cls: type[Message], word: str, given: Collection[str] = ()
) -> list[Suggestion]:
    """
    Say how a word that is being typed may go on.

    Args:
        cls: the message's class.
        word: the beginning of ``field=value``.
        given: the other words; fields that they set are not suggested again.

    Returns:
        Whole words. Where there would be only one, which is not the end, what may
        follow it is suggested at once.
    """
    parts = _Parts(cls)
    path, equals, value = word.partition("=")
    if equals:
        part = part_at(cls, path)
        known = [] if part is None else _values(part)
        return [(f"{path}={v}", doc) for v, doc in known if _begins(v, value)]
    taken = {each.partition("=")[0] for each in given}
    return _names(parts, word, taken, 0)


def _begins(name: str, typed: str) -> bool:
    return name.lower().startswith(typed.lower())


def _names(
    parts: _Parts, word: str, taken: Collection[str], depth: int
) -> list[Suggestion]:
    *steps, last = word.split(".")
    ahead = "".join(f"{step}." for step in steps)
    if last.isdecimal():
        return [(f"{word}.", "")] if parts.at([*steps, last]) else []
    found: list[tuple[str, Part]] = []
    for name, part in parts.at(steps).items():
        if name.startswith(last) and not part.computed and ahead + name not in taken:
            found.append((_opened(parts, ahead + name, part), part))
    if len(found) != 1:
        return [(text, in_short(part)) for text, part in found]
    ((text, part),) = found
    if text.endswith("="):
        values = [(text + value, doc) for value, doc in _values(part)]
        return values or [(text, in_short(part))]
    if depth < _DEEPEST:
        return _names(parts, text, taken, depth + 1)
    return [(text, in_short(part))]


def _opened(parts: _Parts, path: str, part: Part) -> str:
    """
    Add what follows a field's name: a value, or its own fields.
    """
    many = "list of" in part.type
    if parts.inside(part):
        return f"{path}.0." if many else f"{path}."
    return f"{path}.0=" if many and part.values else f"{path}="


_FLAG = (("true", ""), ("false", ""))


def _values(part: Part) -> list[tuple[str, str]]:
    """
    Give the values that have names; else two that show what others look like.
    """
    values: tuple[tuple[str, Any], ...] = part.values
    if {name for name, _ in values} == {"True", "False"} or part.type == "flag":
        return list(_FLAG)
    if values:
        return [(name, f"{value!r}") for name, value in values]
    if "bytes" in part.type and "list of" not in part.type:
        return [("hex:", part.doc), ("text:", part.doc)]
    return []
