"""
``protoserve shell``: talk to a peer, a line at a time.

A line is a message and its fields, as for ``protoserve call``, or one of a few
commands. On a terminal prompt_toolkit edits it, completes it and keeps a history.
Otherwise lines are read as they come, so that a file of them is a script; then the
exit code says whether all went well.

The client connects anew where the connection was lost. What was asked on a lost one is
not asked again: the line says so, and the next one works.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import typer

from protoserve.cli.calling import answer_entry, ask
from protoserve.cli.connecting import Failed, TlsFiles, client_for, told
from protoserve.cli.fields import suggestions
from protoserve.cli.logs import tell
from protoserve.cli.requests import outgoing
from protoserve.cli.shown import console_for, tree, write_entry
from protoserve.cli.targets import CommandError, load
from protoserve.errors import DeclarationError, PeerTimeoutError, RemoteProtocolError
from protoserve.messages import Message
from protoserve.plain._errors import nearest
from protoserve.protocol import Direction, Protocol

if TYPE_CHECKING:
    from protoserve.client import Client

__all__ = ["Shell", "shell"]

_MOST_HISTORY = 1 << 18
"""Bytes of history; of more, the newer half is kept."""


class _Left(Exception):  # noqa: N818 - it is how a shell ends
    """
    The user has left.
    """


@attrs.define
class Shell:
    """
    Does what lines say.
    """

    client: Client
    protocol: Protocol
    as_json: bool = False
    timeout: float | None = None
    eager: bool = False
    """Whether what came by itself is shown behind each line, not before the next."""
    shown: int = 0
    """Messages that were shown as JSON."""

    def do(self, line: str) -> bool:
        """
        Do what one line says.

        Returns:
            Whether it went well.

        Raises:
            _Left: the line says to leave.
        """
        try:
            words = shlex.split(line, comments=True)
        except ValueError as exc:
            tell(f"{exc} in this line".lower())
            return False
        # What came meanwhile is receive's to show: whether it came before or after the
        # line was read must make no difference to a script.
        if words[:1] != ["receive"]:
            self.arrivals()
        if not words:
            return True
        try:
            return self._do(words)
        except (CommandError, DeclarationError, Failed) as exc:
            tell(str(exc))
            return False
        finally:
            if self.eager:
                self.arrivals()

    def _do(self, words: Sequence[str]) -> bool:
        word, *rest = words
        if word in _COMMANDS:
            return _COMMANDS[word](self, rest) is not False
        messages = {c.__name__ for c in self.protocol.classes()}
        if word not in messages:
            close = nearest(word, [*messages, *_COMMANDS])
            hint = f"did you mean {close}?" if close else "help lists what there is"
            raise CommandError(f"there is no message or command {word!r}; {hint}")
        fields, header = _taken_apart(rest)
        request = outgoing(self.protocol, word, fields, header=header)
        if not request.is_answered:
            with told(self.client.url):
                self.client.send(request.message, header=request.header)
            return True
        fine = ask(
            self.client,
            request,
            as_json=self.as_json,
            timeout=self.timeout,
            number=self.shown + 1,
        )
        self.shown += self.as_json
        return fine

    def arrivals(self, seconds: float = 0.0, *, most: int | None = None) -> int:
        """
        Show what came without having been asked for.

        Args:
            seconds: how long to wait for each.
            most: how many to wait for; what is there already is shown in any case.

        Returns:
            How many there were.
        """
        if self.client._link is None:  # nothing was said yet
            return 0
        seen = 0
        while most is None or seen < most:
            try:
                event = self.client.receive_event(timeout=max(seconds, 0.001))
            except RemoteProtocolError as error:
                tell(f"malformed: {str(error).splitlines()[0]}")
            except PeerTimeoutError:
                return seen
            except OSError:  # the next line that needs the connection tells
                return seen
            else:
                self._show(event)
            seen += 1
        return seen

    def _show(self, event: Any) -> None:
        if self.as_json:
            frame = event.frame
            self.shown += 1
            entry = answer_entry(
                self.client,
                frame.received_at,
                event.message,
                event.header,
                frame.data,
                number=self.shown,
            )
            write_entry(entry)
            return
        shown = tree(event.message, "came by itself", header=event.header, style="bold yellow")  # fmt: skip
        console_for().print(shown)


def _taken_apart(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """
    Tell a message's fields from its header's, which have ``--header`` before them.
    """
    fields: list[str] = []
    header: list[str] = []
    waiting = iter(words)
    for word in waiting:
        if word.startswith("--header="):
            header.append(word.removeprefix("--header="))
        elif word == "--header":
            header.append(next(waiting, ""))
        elif word.startswith("--"):
            raise CommandError(f"{word}: expected FIELD=VALUE or --header FIELD=VALUE")
        else:
            fields.append(word)
    return fields, header


# Commands ----------------------------------------------------------------------


def _help(shell: Shell, words: Sequence[str]) -> None:
    from protoserve.cli.described import _message_tables, _tags_table
    from protoserve.snapshots.described import messages_of

    console = console_for()
    if not words:
        console.print(_tags_table(shell.protocol))
        console.print(_USES, markup=False)
        return
    known = messages_of(shell.protocol)
    for name in words:
        if name not in known:
            close = nearest(name, known)
            hint = f"; did you mean {close}?" if close else ""
            raise CommandError(f"there is no message {name!r}{hint}")
        for table in _message_tables(known[name]):
            console.print(table)


def _send(shell: Shell, words: Sequence[str]) -> None:
    if not words:
        raise CommandError("send: expected MESSAGE FIELD=VALUE …")
    fields, header = _taken_apart(words[1:])
    message = outgoing(shell.protocol, words[0], fields, header=header)
    with told(shell.client.url):
        shell.client.send(message.message, header=message.header)


def _receive(shell: Shell, words: Sequence[str]) -> bool:
    seconds = _number(words, "receive", 5.0)
    with told(shell.client.url):
        shell.client.connect()
    if shell.arrivals(seconds, most=1):
        return True
    tell(f"nothing came within {seconds:g} s")
    return False


def _set_timeout(shell: Shell, words: Sequence[str]) -> None:
    shell.timeout = _number(words, "timeout", None)


def _set_json(shell: Shell, words: Sequence[str]) -> None:
    known = {"on": True, "off": False, "": not shell.as_json}
    word = words[0] if words else ""
    if word not in known:
        raise CommandError(f"json: expected on or off, found {word!r}")
    shell.as_json = known[word]


def _quit(_shell: Shell, _words: Sequence[str]) -> None:
    raise _Left


def _number(words: Sequence[str], name: str, default: float | None) -> float:
    text = words[0] if words else default
    try:
        seconds = float(text if text is not None else "")
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise CommandError(f"{name}: expected seconds above 0, found {text!r}")
    return seconds


_COMMANDS: dict[str, Callable[[Shell, Sequence[str]], Any]] = {
    "help": _help,
    "send": _send,
    "receive": _receive,
    "timeout": _set_timeout,
    "json": _set_json,
    "quit": _quit,
}

_USES = """\
MESSAGE FIELD=VALUE … [--header FIELD=VALUE]: ask, and show the answer
send MESSAGE FIELD=VALUE …: send it and wait for nothing
receive [SECONDS]: wait for a message that comes by itself, by default 5 s
help [MESSAGE]: what there is, or what a message consists of
timeout SECONDS: how long answers may take from now on
json [on|off]: show answers as JSON, or as trees
quit: leave; so does Ctrl-D"""


# Completion --------------------------------------------------------------------


def completions(protocol: Protocol, line: str) -> Iterator[tuple[str, str, str]]:
    """
    Say how a line may go on.

    Args:
        protocol: what is spoken.
        line: the line up to the cursor.

    Yields:
        What is replaced at its end, by what, and what is known of that.
    """
    from protoserve.snapshots.described import doc_of

    words = line.split(" ")
    typed, ahead = words[-1], [word for word in words[:-1] if word]
    asked = {c.__name__: c for c in protocol.table(Direction.REQUEST).values()}
    if not ahead or (ahead[0] in ("send", "help") and len(ahead) == 1):
        for name, cls in asked.items():
            if name.lower().startswith(typed.lower()):
                yield typed, name, doc_of(cls)
        for name in () if ahead else _COMMANDS:
            if name.startswith(typed):
                yield typed, name, ""
        return
    name = ahead[1] if ahead[0] == "send" and len(ahead) > 1 else ahead[0]
    known: type[Message] | None = asked.get(name)
    if ahead[-1] == "--header":
        known = protocol.header
    if known is not None:
        for text, doc in suggestions(known, typed, ahead):
            yield typed, text, doc


def _completer(protocol: Protocol) -> Any:
    from prompt_toolkit.completion import Completer, Completion

    class Words(Completer):
        def get_completions(self, document: Any, _event: Any) -> Iterable[Any]:
            with contextlib.suppress(Exception):  # never in the way of typing
                found = list(completions(protocol, document.text_before_cursor))
                for typed, text, doc in found:
                    yield Completion(
                        text, -len(typed), display_meta=" ".join(doc.split())
                    )

    return Words()


def _history(name: str) -> Any:
    """
    Open the history of a protocol's shells; without a file if that cannot be.
    """
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    path = Path(state) / "protoserve" / f"{name}.history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > _MOST_HISTORY:
            text = path.read_bytes()[-_MOST_HISTORY // 2 :]
            path.write_bytes(text[text.find(b"\n\n") + 1 :])
        path.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))


def _lines(protocol: Protocol) -> Iterator[str]:
    """
    Read lines: edited, on a terminal; otherwise as they come.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield from sys.stdin
        return
    try:
        from prompt_toolkit import PromptSession
    except ModuleNotFoundError:
        raise CommandError(
            "the shell needs prompt_toolkit on a terminal; install it with "
            "pip install 'protoserve[cli]'"
        ) from None
    prompt: Any = PromptSession(
        history=_history(protocol.name),
        completer=_completer(protocol),
        complete_while_typing=True,
    )
    while True:
        try:
            yield prompt.prompt(f"{protocol.name}> ")
        except KeyboardInterrupt:
            continue  # gives the line up
        except EOFError:
            return


def shell(
    target: str, url: str, *, timeout: float, retries: int, as_json: bool, tls: TlsFiles
) -> None:
    """
    Talk to a peer until the lines end.

    Raises:
        CommandError: it could not start.
        typer.Exit: with code 1, if lines that were no terminal's did not all go well.
    """
    protocol = load(target, Protocol, "protocols.dns:dns")
    client = client_for(
        protocol, url, timeout=timeout, retries=retries, tls=tls, reconnect=True
    )
    interactive = sys.stdin.isatty()
    talk = Shell(client, protocol, as_json=as_json, eager=interactive)
    failed = 0
    if interactive:
        sys.stderr.write(f"{protocol.name} with {url}; help lists what there is\n")
    try:
        for line in _lines(protocol):
            failed += not talk.do(line)
            sys.stdout.flush()
        talk.arrivals()
    except (_Left, KeyboardInterrupt):
        pass
    finally:
        client.close()
    if failed and not interactive:
        raise typer.Exit(1)
