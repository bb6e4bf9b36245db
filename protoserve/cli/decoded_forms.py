"""
Forms of what was decoded: lines for people, JSON lines, hexdumps, a diagram.

Each takes one message after the other and keeps none, but for the diagram, which is
bounded. Captures hold what strangers have sent, so nothing of it reaches a terminal
unless it is printable.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from protoserve.captures import Decoded, IncompleteCaptureError
from protoserve.cli import shown
from protoserve.cli.annotate import annotated
from protoserve.codec.spans import spans
from protoserve.errors import (
    CorruptedFrameError,
    FrameTooLongError,
    IncompleteFrameError,
    MalformedMessageError,
    RemoteProtocolError,
    UnknownMessageError,
)
from protoserve.plain import to_plain
from protoserve.protocol import Protocol as Spoken

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["Annotated", "Diagram", "Form", "JsonLines", "Lines", "error_as_plain"]

_MOST_TEXT = 400
"""Characters of a summary where no terminal's width says how many fit."""

_MOST_ARROWS = 400
"""Messages in a diagram: Mermaid takes 50,000 characters."""

_MOST_ENDS = 32
"""Participants of a diagram."""


class Form(Protocol):
    """
    What takes messages and writes them.
    """

    def take(self, decoded: Decoded) -> None:
        """
        Take the next message.
        """

    def finish(self) -> None:
        """
        Write what is left.
        """


# JSON --------------------------------------------------------------------------


def error_as_plain(spoken: Spoken, decoded: Decoded) -> dict[str, Any] | None:
    """
    Give what is wrong in terms of JSON: path, offset, expected and found.

    Args:
        spoken: the protocol; what is wrong with the whole of a frame, or with a
            stream, has its name as the path.
        decoded: what was decoded.
    """
    plain = shown.error_as_plain(decoded.error, spoken.name)
    match decoded.error:
        case None:
            return None
        case IncompleteCaptureError() as error:
            place = {"offset": error.offset, "expected": error.expected}
            return {"path": spoken.name, **place, "found": error.found}
        case UnknownMessageError():
            path, offset = _tag_place(spoken, decoded)
            return {**(plain or {}), "path": path, "offset": offset}
        case (
            MalformedMessageError()
            | FrameTooLongError()
            | CorruptedFrameError()
            | IncompleteFrameError()
        ):
            return plain
    if decoded.message is not None:  # not allowed in the present state
        return {**(plain or {}), "path": type(decoded.message).__name__, "offset": 0}
    return plain


def _tag_place(spoken: Spoken, decoded: Decoded) -> tuple[str, int | None]:
    """
    Find the header's field that says which message follows.
    """
    found = spans(spoken, decoded.raw, decoded.table, session=decoded.session)
    tags = [span for span in found if span.kind == "tag"]
    return (tags[0].path, tags[0].start) if tags else (spoken.name, None)


@attrs.define
class JsonLines:
    """
    One object a line.
    """

    spoken: Spoken

    def take(self, decoded: Decoded) -> None:
        """
        Write a message, at once: who reads may be waiting for it.
        """
        entry = shown.as_entry(
            decoded.number,
            time=decoded.time,  # type: ignore[arg-type] # null for what is of no capture
            transport=decoded.transport,
            src=decoded.source,
            dst=decoded.target,
            direction=decoded.direction,
            protocol=self.spoken.name,
            message=decoded.message,
            header=decoded.header,
            raw=decoded.raw,
        )
        if decoded.time is None:
            entry |= {"transport": None, "src": None, "dst": None}
        entry["error"] = error_as_plain(self.spoken, decoded)
        sys.stdout.write(json.dumps(entry) + "\n")
        sys.stdout.flush()

    def finish(self) -> None:
        """
        Nothing is left.
        """


# Lines -------------------------------------------------------------------------

_STYLES = {"request": "cyan", "response": "green", "message": "magenta"}


@attrs.define
class Lines:
    """
    A table, a line for each message.
    """

    console: Console
    _first: float | None = None
    _ends: int = 39
    """Columns of the addresses; they grow with what has come."""
    _started: bool = False

    def take(self, decoded: Decoded) -> None:
        """
        Write a message.
        """
        from rich.text import Text

        if not self._started and decoded.time is not None:
            self._started = True
            heads = f"{'#':>6}  {'seconds':>11}  {'from → to':<{self._ends}}  message"
            self._write(Text(heads, "bold"))
        self._write(self.line(decoded))

    def line(self, decoded: Decoded) -> Text:
        """
        Compose a message's line.
        """
        from rich.text import Text

        line = Text()
        line.append(f"{decoded.number:>6}  ", "dim")
        if decoded.time is not None:
            if self._first is None:
                self._first = decoded.time
            ends = f"{decoded.source} → {decoded.target}"
            self._ends = min(max(self._ends, len(ends)), 80)
            line.append(f"{decoded.time - self._first:>11.6f}  ", "dim")
            line.append(f"{ends:<{self._ends}}  ")
        if decoded.message is not None:
            name = type(decoded.message).__name__
            line.append(name, f"bold {_STYLES[decoded.direction]}")
        if decoded.answers is not None:
            took = f"{1000 * decoded.elapsed:.3f} ms"
            line.append(f" (answers {decoded.answers}, {took})", "dim")
        if decoded.error is not None:
            line.append(" " if decoded.message is not None else "")
            line.append(printable(str(decoded.error).partition("\n")[0]), "red")
        elif decoded.message is not None:
            line.append(f" {summary(decoded.message, _MOST_TEXT)}")
        return line

    def _write(self, line: Text) -> None:
        if self.console.is_terminal:
            self.console.print(line, no_wrap=True, overflow="ellipsis", crop=True)
        else:
            self.console.file.write(f"{line.plain.rstrip()}\n")

    def finish(self) -> None:
        """
        Nothing is left.
        """


@attrs.define
class Annotated:
    """
    Each message's line, and its bytes with the names of their fields.
    """

    console: Console
    spoken: Spoken
    lines: Lines = attrs.field()

    @lines.default
    def _lines(self) -> Lines:
        return Lines(self.console)

    def take(self, decoded: Decoded) -> None:
        """
        Write a message.
        """
        self.console.print(self.lines.line(decoded), soft_wrap=True)
        if decoded.raw:
            found = spans(
                self.spoken, decoded.raw, decoded.table, session=decoded.session
            )
            annotated(self.console, found, decoded.raw)
        self.console.print()

    def finish(self) -> None:
        """
        Nothing is left.
        """


_NOTHING: tuple[Any, ...] = (None, [], {}, "")
"""Values that a line has no room for."""


def summary(message: Any, most: int) -> str:
    """
    Write a message's fields on one line; what follows from others is left out.
    """
    computed = {f.name for f in type(message)._record.fields if f.computed is not None}
    plain: dict[str, Any] = to_plain(message)
    parts = []
    left = most
    for name, value in plain.items():
        if name in computed or value in _NOTHING:
            continue
        part = f"{name}={_compact(value)}"
        parts.append(part)
        left -= len(part) + 1
        if left < 0:
            break
    text = " ".join(parts)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _compact(value: Any) -> str:
    if isinstance(value, Mapping):
        said = {k: v for k, v in value.items() if v not in _NOTHING}
        return "{" + " ".join(f"{k}={_compact(v)}" for k, v in said.items()) + "}"
    if isinstance(value, list):
        more = f" … {len(value) - 32} more" if len(value) > 32 else ""
        return "[" + " ".join(map(_compact, value[:32])) + more + "]"
    if isinstance(value, str):
        return printable(value)
    return json.dumps(value)


def printable(text: str) -> str:
    """
    Escape what is not printable: it may be meant for the terminal.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "replace").decode()
        for c in text
    )


# The diagram -------------------------------------------------------------------


@attrs.define
class Diagram:
    """
    A Mermaid sequence diagram.

    A client is one participant, whichever ports it has sent from.
    """

    spoken: Spoken
    ports: Collection[int]
    _names: dict[str, str] = attrs.field(factory=dict)
    _arrows: list[str] = attrs.field(factory=list)
    _more: int = 0

    def take(self, decoded: Decoded) -> None:
        """
        Note a message.
        """
        ends = [
            self._participant(end, other)
            for end, other in (
                (decoded.source, decoded.target),
                (decoded.target, decoded.source),
            )
        ]
        if len(self._arrows) >= _MOST_ARROWS or None in ends:
            self._more += 1
            return
        arrow = "-->>" if decoded.direction == "response" else "->>"
        if decoded.message is None:
            arrow = "--x" if decoded.direction == "response" else "-x"
            label = _label(_reason(decoded.error))
        else:
            name = type(decoded.message).__name__
            label = _label(f"{name} {summary(decoded.message, 50)}")
        self._arrows.append(f"    {ends[0]}{arrow}{ends[1]}: {label}")

    def _participant(self, end: str, other: str) -> str | None:
        host, _, port = end.rpartition(":")
        serves = not port or int(port) in self.ports
        if not serves:
            name = f"client {host}"
        elif not end:
            name = "peer"
        elif int(other.rpartition(":")[2]) in self.ports:
            name = end
        else:
            name = f"server {end}"
        if name not in self._names:
            if len(self._names) == _MOST_ENDS:
                return None
            self._names[name] = f"p{len(self._names) + 1}"
        return self._names[name]

    def finish(self) -> None:
        """
        Write the diagram.
        """
        lines = ["sequenceDiagram"]
        lines += [f"    participant {p} as {n}" for n, p in self._names.items()]
        lines += self._arrows
        if self._more:
            lines.append(f"    %% {self._more} more messages are not shown")
        sys.stdout.write("\n".join(lines) + "\n")


def _reason(error: RemoteProtocolError | None) -> str:
    return str(error).partition("\n")[0]


def _label(text: str) -> str:
    """
    Write a text so that Mermaid takes it as one.
    """
    text = printable(text)
    if len(text) > 80:
        text = f"{text[:78].rpartition(' ')[0]} …"
    return text.replace("#", "#35;").replace(";", "#59;").replace("#35#59;", "#35;")
