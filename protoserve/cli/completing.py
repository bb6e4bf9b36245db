"""
Completion of protocols, messages and fields, while a command is typed in a shell.

A parameter is completed by what its help calls it: ``PROTOCOL``, ``MESSAGE``,
``FIELD=VALUE``, or the words that it may be; so every command has it. Typer does the
talking to the shells. What goes wrong here is silent: a shell that completes nothing is
better than a traceback in the middle of a line.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import sys
import typing
from collections.abc import Callable, Iterator
from typing import Any

import typer

__all__ = ["completed", "rejoin_words", "trimmed"]

_Completion = tuple[str, str]


def _protocols(_ctx: Any, incomplete: str) -> Iterator[_Completion]:
    from protoserve.cli.targets import targets_here
    from protoserve.protocol import Protocol

    for target in targets_here(Protocol):
        if target.startswith(incomplete) or target.endswith(f":{incomplete}"):
            yield target, ""


def _protocols_and_messages(ctx: Any, incomplete: str) -> Iterator[_Completion]:
    if incomplete.count(":") < 2:
        yield from _protocols(ctx, incomplete)
        return
    from protoserve.snapshots.described import doc_of, messages_of

    target, _, begun = incomplete.rpartition(":")
    for name, cls in messages_of(_load(target)).items():
        if name.startswith(begun):
            yield f"{target}:{name}", doc_of(cls)


def _services(_ctx: Any, incomplete: str) -> Iterator[_Completion]:
    from protoserve.cli.targets import targets_here
    from protoserve.service import Service

    for target in targets_here(Service):
        if target.startswith(incomplete):
            yield target, ""


def _load(target: str) -> Any:
    from protoserve.cli.targets import load
    from protoserve.protocol import Protocol

    return load(target, Protocol, "")


def _given(ctx: Any, *names: str) -> Any:
    """
    Give an argument that was typed before.
    """
    return next((ctx.params[name] for name in names if ctx.params.get(name)), None)


def _protocol(ctx: Any) -> Any:
    """
    Give the protocol that was named before.
    """
    named = _given(ctx, "protocol", "target")
    if named is None:  # behind an option without its value nothing is sorted out yet
        named = next(word for word in ctx.args if ":" in word)
    return _load(named)


def _urls(ctx: Any, incomplete: str) -> Iterator[_Completion]:
    protocol = _protocol(ctx)
    for transport, port in protocol.ports.items():
        url = f"{transport}://127.0.0.1:{port}"
        if url.startswith(incomplete):
            yield url, "its own port"


def _messages(ctx: Any, incomplete: str) -> Iterator[_Completion]:
    from protoserve.protocol import Direction
    from protoserve.snapshots.described import doc_of

    protocol = _protocol(ctx)
    for cls in protocol.table(Direction.REQUEST).values():
        if cls.__name__.lower().startswith(incomplete.lower()):
            yield cls.__name__, doc_of(cls)


def _fields(ctx: Any, incomplete: str) -> Iterator[_Completion]:
    from protoserve.cli.fields import suggestions

    protocol = _protocol(ctx)
    name = _given(ctx, "message")
    cls = next(c for c in protocol.classes() if c.__name__ == name)
    given = _given(ctx, "fields", "values") or ()
    yield from _open_ended(suggestions(cls, incomplete, given))


def _header_fields(ctx: Any, incomplete: str) -> Iterator[_Completion]:
    from protoserve.cli.fields import suggestions

    protocol = _protocol(ctx)
    if protocol.header is not None:
        yield from _open_ended(suggestions(protocol.header, incomplete))


def _faults(ctx: Any, incomplete: str) -> Iterator[_Completion]:
    from protoserve.testing.faults import KINDS

    begun, at, name = incomplete.rpartition("@")
    if at:
        for cls in _protocol(ctx).classes():
            if cls.__name__.lower().startswith(name.lower()):
                yield f"{begun}@{cls.__name__}", ""
        return
    for kind in KINDS.values():
        if kind.name.startswith(incomplete):
            yield f"{kind.name}{'=' * kind.timed}", kind.doc


def _classes_of_cases(_ctx: Any, incomplete: str) -> Iterator[_Completion]:
    from protoserve.testing.torturing import KINDS

    yield from ((kind, "") for kind in KINDS if kind.startswith(incomplete))


def _open_ended(found: list[_Completion]) -> Iterator[_Completion]:
    """
    Keep shells from taking a field's name for the end of the word.

    They add a space to what is the only way to go on, but not where there are two.
    """
    yield from found
    if len(found) == 1 and found[0][0].endswith(("=", ".", ":")):
        text, doc = found[0]
        yield f"{text}…", doc


_COMPLETERS: dict[str, Callable[[Any, str], Iterator[_Completion]]] = {
    "PROTOCOL": _protocols,
    "PROTOCOL[:MESSAGE]": _protocols_and_messages,
    "MODULE:APP": _services,
    "URL": _urls,
    "MESSAGE": _messages,
    "FIELD=VALUE": _fields,
    "[FIELD=VALUE]...": _fields,
    "HEADER=VALUE": _header_fields,
    "KIND[=VALUE][@MESSAGE]": _faults,
    "CLASS": _classes_of_cases,
}
"""By metavar."""

_WORDS = re.compile(r"[a-z0-9-]+(\|[a-z0-9-]+)+")
"""A metavar that says all words there are: ``console|json``."""


def _words(words: list[str], _ctx: Any, incomplete: str) -> Iterator[_Completion]:
    return ((word, "") for word in words if word.startswith(incomplete))


def _quiet(
    complete: Callable[[Any, str], Iterator[_Completion]],
) -> Callable[..., list[_Completion]]:
    def completion(ctx: typer.Context, incomplete: str) -> list[_Completion]:
        found: list[_Completion] = []
        silent = io.StringIO()
        with (
            contextlib.suppress(Exception, SystemExit),
            contextlib.redirect_stdout(silent),
            contextlib.redirect_stderr(silent),
        ):
            found.extend(
                (text, " ".join(doc.split())) for text, doc in complete(ctx, incomplete)
            )
        return found

    return completion


def completed(function: Callable[..., Any]) -> Callable[..., Any]:
    """
    Give a command's parameters their completion.

    Args:
        function: the command; its annotations are resolved for good, as Typer's
            description of a parameter is made anew each time they are.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    for hint in hints.values():
        for info in getattr(hint, "__metadata__", ()):
            metavar = getattr(info, "metavar", None) or ""
            complete = _COMPLETERS.get(metavar)
            if _WORDS.fullmatch(metavar):
                complete = functools.partial(_words, metavar.split("|"))
            if complete is not None and info.autocompletion is None:
                info.autocompletion = _quiet(complete)
    function.__annotations__ = hints
    return function


# Bash --------------------------------------------------------------------------


def rejoin_words() -> str | None:
    """
    Undo what bash does to words: it takes them apart at colons and equals signs.

    Returns:
        The part of the word being typed that bash will not replace; `None` where the
        caller is not bash.
    """
    if os.environ.get("_PROTOSERVE_COMPLETE") != "complete_bash":
        return None
    words = os.environ.get("COMP_WORDS", "").split("\n")
    cursor = int(os.environ.get("COMP_CWORD") or 0)
    joined: list[str] = []
    place, glued = 0, False
    for i, word in enumerate(words[: cursor + 1]):
        breaks = bool(re.fullmatch("[:=]+", word))
        if joined and (breaks or (glued and word)):
            joined[-1] += word
        else:
            joined.append(word)
        glued = breaks
        place = len(joined) - 1 if i <= cursor else place
    os.environ["COMP_WORDS"] = "\n".join(joined)
    os.environ["COMP_CWORD"] = str(place)
    typed = joined[place] if joined else ""
    return typed[: max(typed.rfind(":"), typed.rfind("=")) + 1]


@contextlib.contextmanager
def trimmed(ahead: str | None) -> Iterator[None]:
    """
    Take off completions what bash leaves standing.
    """
    if not ahead:
        yield
        return
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            yield
    finally:
        for line in output.getvalue().splitlines():
            sys.stdout.write(line.removeprefix(ahead) + "\n")
