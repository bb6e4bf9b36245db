"""
What a simulator answers, as somebody has written it down.

A YAML script is a list of rules: when this comes, answer that. The first rule that fits
a request decides; what no rule fits is answered by what is generated. Fields that a
rule does not give are filled in as they would be in a generated answer. All names and
values are checked when the script is read, so that a mistake is told before anybody
waits for an answer.
"""

from __future__ import annotations

import difflib
import enum
import random
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import construct

from protoserve.codec.enums import EnumField
from protoserve.errors import DeclarationError, ProtoserveError
from protoserve.messages import Message
from protoserve.plain import assign, from_plain, to_plain
from protoserve.protocol import Direction, Protocol
from protoserve.tags import replaced
from protoserve.testing._answers import Answers
from protoserve.testing.faults import parse_duration

__all__ = ["Push", "Reply", "Rule", "ScriptError", "load_rules", "script_text"]

_RULE = ("when", "answer", "answers", "error", "nothing", "after", "push")
_OUTCOMES = ("answer", "answers", "error", "nothing")
_PUSH = ("every", "times")
_NUMBERS = (construct.FormatField, construct.BytesInteger, construct.BitsInteger)


class ScriptError(DeclarationError):
    """
    A script makes no sense; it says where.
    """


@attrs.frozen
class Reply:
    """
    A message that a script sends.
    """

    cls: type[Message]
    fields: Mapping[str, Any]
    """The values that the script gives."""
    header: Mapping[str, Any]
    """The header's fields that the script gives, as plain values."""

    def under(self, header: Any) -> Any:
        """
        Put the script's values into a header.
        """
        return _with_values(header, self.header)


@attrs.frozen
class Push:
    """
    A message that is sent again and again without being asked for.
    """

    reply: Reply
    every: float
    """Seconds."""
    times: int | None
    """How often; `None`: until the conversation ends."""


@attrs.define(eq=False)
class Rule:
    """
    When this comes, answer that.
    """

    cls: type[Message] | None
    """The message; `None`: whenever a peer connects."""
    fields: Mapping[str, Any]
    """The values that its fields must have, by dotted name."""
    header: Mapping[str, Any]
    replies: tuple[Reply | None, ...] | None
    """
    One for each time, and the last one ever after; `None` among them is no answer, and
    in their place one that is generated.
    """
    delay: tuple[float, float]
    """Seconds until the answer, and what they vary by."""
    pushes: tuple[Push, ...]
    _turn: int = attrs.field(default=0, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    def fits(self, message: Any, header: Any) -> bool:
        """
        Say whether it is for a message.
        """
        return type(message) is self.cls and all(
            _has(holder, path, expected)
            for holder, values in ((message, self.fields), (header, self.header))
            for path, expected in values.items()
        )

    def next_reply(self) -> Reply | None:
        """
        Give the next answer; `None`: there is none.
        """
        if not self.replies:
            return None
        with self._lock:
            turn, self._turn = self._turn, self._turn + 1
        return self.replies[min(turn, len(self.replies) - 1)]


def load_rules(path: Path, protocol: Protocol) -> list[Rule]:
    """
    Read a YAML script.

    Raises:
        ScriptError: it cannot be read, or says what makes no sense.
    """
    try:
        import yaml
    except ModuleNotFoundError as exc:
        raise ScriptError(
            "scripts in YAML need PyYAML; install it with pip install 'protoserve[cli]'"
        ) from exc
    try:
        content = yaml.safe_load(script_text(path))
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(exc, "problem", None) or "it is no YAML"
        raise ScriptError(f"{path}{where}: {problem}") from exc
    except RecursionError as exc:
        raise ScriptError(f"{path}: it is nested too deeply") from exc
    if isinstance(content, Mapping) and set(content) == {"rules"}:
        content = content["rules"]
    if not isinstance(content, list) or not content:
        raise ScriptError(f"{path}: expected a list of rules under rules:")
    reader = _Reader(protocol, Answers(protocol))
    found = []
    for number, entry in enumerate(content, 1):
        try:
            found.append(reader.rule(entry))
        except ProtoserveError as exc:
            raise ScriptError(f"{path}: rule {number}: {exc}") from exc
    return found


@attrs.frozen
class _Reader:
    """
    Turns what YAML gives into rules.
    """

    protocol: Protocol
    answers: Answers

    def rule(self, entry: Any) -> Rule:
        """
        Read a rule.
        """
        entry = _mapping(entry, "a rule", _RULE)
        outcomes = [name for name in _OUTCOMES if name in entry]
        if len(outcomes) > 1:
            raise ScriptError(f"it has both {outcomes[0]} and {outcomes[1]}")
        if "when" not in entry:
            raise ScriptError("it has no when")
        when = entry["when"]
        cls = None
        fields: dict[str, Any] = {}
        header: dict[str, Any] = {}
        if when != "connected":
            cls, fields, header = self._message(when, Direction.REQUEST, "when")
            self._check_paths(cls, fields, header)
        elif outcomes or "after" in entry:
            raise ScriptError("who connects has not asked anything; there is only push")
        pushes = entry.get("push", [])
        return Rule(
            cls,
            fields,
            header,
            None if cls is None else self._replies(cls, entry),
            parse_duration(str(entry["after"]), "after")
            if "after" in entry
            else (0, 0),
            tuple(map(self._push, pushes if isinstance(pushes, list) else [pushes])),
        )

    def _replies(
        self, request: type[Message], entry: Mapping[str, Any]
    ) -> tuple[Reply | None, ...] | None:
        if "nothing" in entry:
            if entry["nothing"] is not True:
                raise ScriptError(f"nothing: expected true, found {entry['nothing']!r}")
            return ()
        if "answers" in entry:
            several = entry["answers"]
            if not isinstance(several, list) or not several:
                raise ScriptError(f"answers: expected a list, found {several!r}")
            usual = self.answers.classes(request)
            return tuple(
                None if each == "nothing" else self._reply(each, f"answers[{i}]", usual)
                for i, each in enumerate(several)
            )
        for name in ("answer", "error"):
            if name in entry:
                usual = self.answers.classes(request, errors=name == "error")
                given = {} if entry[name] is True else entry[name]
                return (self._reply(given, name, usual),)
        return None

    def _reply(
        self, entry: Any, where: str, usual: tuple[type[Message], ...] = ()
    ) -> Reply:
        cls, plain, header = self._message(entry, Direction.RESPONSE, where, usual)
        try:
            return Reply(cls, self._values(cls, plain, header), header)
        except ProtoserveError as exc:
            raise ScriptError(f"{where}: {exc}") from exc

    def _values(
        self, cls: type[Message], plain: dict[str, Any], header: dict[str, Any]
    ) -> dict[str, Any]:
        """
        Read the values that are given, among others that could have been.
        """
        under = _with_values(self.answers.header(cls), header)
        nested: dict[str, Any] = {}
        for path, value in plain.items():
            assign(nested, str(path), value)
        needed = [f.name for f in cls._record.fields if f.computed is None]
        if nested.keys() >= set(needed):
            others: dict[str, Any] = {}
        else:
            chance = random.Random(0)  # noqa: S311 - repeatable
            others = to_plain(self.answers.answer(cls, chance, None))
        message = from_plain(cls, {**others, **nested}, header=under)
        values = {name: getattr(message, name) for name in nested}
        # Now, and not when somebody waits for it, it is told that they do not fit.
        self.answers.answer(cls, random.Random(0), None, fields=values)  # noqa: S311 - repeatable
        return values

    def _push(self, entry: Any) -> Push:
        entry = dict(_mapping(entry, "push", None))
        timing = {name: entry.pop(name) for name in _PUSH if name in entry}
        if "every" not in timing:
            raise ScriptError("push: it has no every, as in every: 1s")
        times = timing.get("times")
        if times is not None and (type(times) is not int or times < 1):
            raise ScriptError(
                f"push: times: expected a number above 0, found {times!r}"
            )
        every, _ = parse_duration(str(timing["every"]), "push: every")
        if every < 0.001:
            raise ScriptError(
                f"push: every: expected 1ms or more, found {timing['every']}"
            )
        return Push(self._reply(entry, "push"), every, times)

    def _message(
        self,
        entry: Any,
        direction: Direction,
        where: str,
        usual: tuple[type[Message], ...] = (),
    ) -> tuple[type[Message], dict[str, Any], dict[str, Any]]:
        """
        Take the description of a message apart: its class, fields, header.
        """
        if isinstance(entry, str):
            entry = {"message": entry}
        fields = dict(_mapping(entry, where, None))
        table = {c.__name__: c for c in self.protocol.table(direction).values()}
        name = fields.pop("message", None)
        if name is None and len(usual) == 1:
            cls = usual[0]
        elif name is None:
            known = ", ".join(c.__name__ for c in usual) or ", ".join(table)
            raise ScriptError(f"{where}: expected message: with one of {known}")
        elif name in table:
            cls = table[name]
        else:
            hint = _hint(str(name), table)
            raise ScriptError(f"{where}: there is no {direction.value} {name!r}{hint}")
        own = {field.name for field in cls._record.fields}
        header: dict[str, Any] = {}
        if "header" in fields and "header" not in own:
            header = dict(_mapping(fields.pop("header"), f"{where}: header", None))
            if self.protocol.header is None and header:
                raise ScriptError(f"{where}: {self.protocol.name} has no header")
        if "fields" in fields and "fields" not in own:
            fields.update(_mapping(fields.pop("fields"), f"{where}: fields", None))
        return cls, fields, header

    def _check_paths(
        self, cls: type[Message], fields: dict[str, Any], header: dict[str, Any]
    ) -> None:
        for holder, values in ((cls, fields), (self.protocol.header, header)):
            known = [] if holder is None else [f.name for f in holder._record.fields]
            for path in values:
                name = str(path).partition(".")[0]
                if name not in known:
                    owner = "" if holder is None else holder.__name__
                    hint = _hint(name, known)
                    raise ScriptError(f"when: {owner} has no field {name!r}{hint}")
            if holder is not None:
                _check_values(holder, values)


def _check_values(holder: type[Message], values: Mapping[str, Any]) -> None:
    """
    Refuse what a field of numbers, or of an enum of numbers, never holds.
    """
    for field in holder._record.fields:
        node = field.construct
        inner = node.subcon if isinstance(node, EnumField) else node
        if field.name not in values or not isinstance(inner, _NUMBERS):
            continue
        alone = construct.Struct(field.name / node)
        try:
            size = inner.sizeof()
        except construct.SizeofError:
            continue  # it depends on what is not known here
        if isinstance(inner, construct.BitsInteger):
            rest = construct.Padding(-size % 8)
            alone = construct.BitStruct(field.name / node, rest)
        one = Message.from_construct(holder.__name__, alone)
        try:
            bytes(from_plain(one, {field.name: values[field.name]}))
        except ProtoserveError as exc:
            raise ScriptError(f"when: {exc}") from exc


def _with_values(header: Any, values: Mapping[str, Any]) -> Any:
    """
    Copy a header with some plain values put in.
    """
    if not values:
        return header
    plain = to_plain(header)
    for path, value in values.items():
        assign(plain, str(path), value)
    read = from_plain(type(header), plain)
    names = {str(path).partition(".")[0] for path in values}
    return replaced(header, {name: getattr(read, name) for name in names})


def _mapping(
    entry: Any, where: str, known: tuple[str, ...] | None
) -> Mapping[str, Any]:
    if not isinstance(entry, Mapping):
        raise ScriptError(f"{where}: expected names with values, found {entry!r}")
    for name in entry if known is not None else ():
        if name not in (known or ()):
            raise ScriptError(
                f"there is no {name!r} in {where}{_hint(str(name), known)}"
            )
    return entry


def _hint(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, known, 1, 0.5)
    if close:
        return f"; did you mean {close[0]}?"
    return f" (known: {', '.join(known) or 'none'})"


def _has(holder: Any, path: str, expected: Any) -> bool:
    """
    Say whether a field has a plain value.
    """
    value = holder
    for name in str(path).split("."):
        try:
            if name.isdecimal() and isinstance(value, list | tuple):
                value = value[int(name)]
            elif isinstance(value, dict):
                value = value[name]
            else:
                value = getattr(value, name)
        except (AttributeError, IndexError, KeyError):
            return False
    return _is(value, expected)


def _is(value: Any, expected: Any) -> bool:
    if isinstance(expected, Mapping):
        return all(_has(value, name, inner) for name, inner in expected.items())
    if isinstance(expected, list):
        return (
            isinstance(value, list | tuple)
            and len(value) == len(expected)
            and all(map(_is, value, expected))
        )
    if isinstance(value, bytes) and isinstance(expected, str):
        digits = expected.removeprefix("hex:").replace(" ", "").lower()
        return value.hex() == digits or value == expected.removeprefix("text:").encode()
    if isinstance(value, enum.Enum) and value.value == expected:
        return True
    if isinstance(value, enum.Enum) and isinstance(expected, str):
        return str(to_plain(value)).lower() == expected.lower()
    return bool(value == expected or to_plain(value) == expected)


def script_text(path: Path) -> str:
    """
    Read a script's text.

    Raises:
        ScriptError: there is none.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        why = getattr(exc, "strerror", None) or "it is no text in UTF-8"
        raise ScriptError(f"{path}: {why}") from exc
