"""
``protoserve decode``: the messages in captures, or in bytes given as hex.

What cannot be decoded is shown in its place, and decoding goes on. Where a capture
cannot be read any further, what came before has been shown.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from protoserve.captures import (
    CaptureError,
    CaptureFile,
    Conversations,
    Decoded,
    is_capture,
)
from protoserve.captures.decoded import direction_of
from protoserve.captures.links import LINKTYPES
from protoserve.cli.decoded_forms import Annotated, Diagram, Form, JsonLines, Lines
from protoserve.cli.logs import tell
from protoserve.cli.shown import console_for
from protoserve.cli.targets import CommandError, load
from protoserve.errors import MalformedMessageError, RemoteProtocolError
from protoserve.protocol import Direction, Protocol
from protoserve.session import Role, Session

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["decode_inputs"]

_LONG = 4 << 20
"""Bytes of a file that is read with a progress bar."""

_MOST_HEX = 16 << 20
"""Characters of hex that standard input may hold."""


def decode_inputs(
    target: str,
    inputs: Sequence[str],
    *,
    as_json: bool = False,
    ports: Sequence[int] = (),
    sequence: bool = False,
    annotate: bool = False,
    direction: str | None = None,
    console: Console | None = None,
) -> int:
    """
    Decode captures, or bytes given as hex.

    Args:
        target: the protocol, as ``MODULE:NAME``.
        inputs: files, ``-`` for standard input, or messages as hex.
        as_json: write one JSON object a line.
        ports: where the protocol is spoken; by default at its own ports.
        sequence: write a Mermaid sequence diagram.
        annotate: write hexdumps with the names of the fields.
        direction: of messages given as hex; by default whichever fits.
        console: where lines and hexdumps are written.

    Returns:
        The exit code: 1 if something could not be decoded.

    Raises:
        CommandError: it cannot be started.
    """
    chosen = [n for n, given in (("--json", as_json), ("--sequence", sequence), ("--annotate", annotate)) if given]  # fmt: skip
    if len(chosen) > 1:
        raise CommandError(f"{' and '.join(chosen)} exclude each other")
    spoken = load(target, Protocol, "protocols.dns:dns")
    console = console or console_for()
    form: Form = Lines(console)
    if as_json:
        form = JsonLines(spoken)
    elif sequence:
        form = Diagram(spoken, frozenset(ports or spoken.ports.values()))
    elif annotate:
        form = Annotated(console, spoken)
    ways = [Direction(direction)] if direction else list(Direction)
    sources = [_source(text) for text in inputs]
    scrolls = sys.stdout.isatty() and not sequence
    run = _Run(spoken, ports, form, scrolls=scrolls)
    count = 0
    with _quiet_when_nobody_reads(), contextlib.ExitStack() as opened:
        for name, source in sources:
            if isinstance(source, bytes):
                count += 1
                run.shown(_decoded_hex(spoken, source, ways, count))
                continue
            file = opened.enter_context(_opened(name, source))
            start = file.peek(4)[:4]  # type: ignore[attr-defined] # it is buffered
            if name == "-" and not is_capture(start):
                for line in _hex_lines(file):
                    count += 1
                    run.shown(_decoded_hex(spoken, line, ways, count))
            else:
                run.capture(file, name)
        form.finish()
        console.file.flush()
        sys.stdout.flush()
    return 1 if run.failed else 0


# What is given -----------------------------------------------------------------


def _source(text: str) -> tuple[str, bytes | None]:
    """
    Find out what an argument is: a file (or standard input), or a message.
    """
    if text == "-" or Path(text).exists():
        return text, None
    data = _from_hex(text)
    if data is not None:
        return text, data
    raise CommandError(
        f"{text!r}: expected a capture file, - or bytes as hex, found no such file and "
        f"no hex{_nearest(text)}"
    )


def _from_hex(text: str) -> bytes | None:
    digits = re.sub(r"^(hex:|0x)|[\s:]", "", text.strip(), flags=re.IGNORECASE)
    try:
        return bytes.fromhex(digits) if digits else None
    except ValueError:
        return None


def _nearest(text: str) -> str:
    folder = Path(text).parent
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except OSError:
        return ""
    close = difflib.get_close_matches(Path(text).name, names, 1, 0.6)
    return f"; did you mean {folder / close[0]}?" if close else ""


@contextlib.contextmanager
def _opened(name: str, _source: None) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        file = Path(name).open("rb")  # noqa: SIM115 - closed by the block below
    except OSError as exc:
        raise CommandError(f"cannot read {name}: {exc.strerror or exc}") from exc
    with file:
        yield file


def _hex_lines(file: BinaryIO) -> Iterator[bytes]:
    """
    Read messages as hex, one a line.
    """
    text = file.read(_MOST_HEX + 1)
    if len(text) > _MOST_HEX:
        raise CommandError(f"-: expected at most {_MOST_HEX} characters of hex")
    found = False
    for number, line in enumerate(text.decode("ascii", "replace").splitlines(), 1):
        if not line.strip():
            continue
        data = _from_hex(line)
        if data is None:
            shown = repr(line[:40])
            raise CommandError(
                f"-: line {number}: expected a capture or bytes as hex, found {shown}"
            )
        found = True
        yield data
    if not found:
        raise CommandError("-: expected a capture or bytes as hex, found nothing")


def _decoded_hex(
    spoken: Protocol, data: bytes, ways: Sequence[Direction], number: int
) -> Decoded:
    """
    Decode one message that is of no capture.
    """
    errors: list[tuple[RemoteProtocolError, Direction]] = []
    for way in ways:
        role = Role.SERVER if way is Direction.REQUEST else Role.CLIENT
        session = Session(spoken, role, stream=False)
        try:
            header, message, _ = spoken.parse(data, way, session=session)
        except RemoteProtocolError as error:
            errors.append((error, way))
        else:
            direction = direction_of(spoken, message, way)
            return Decoded(
                number, None, "", "", "", direction, way, message, header, data,
                session=session,
            )  # fmt: skip
    nearest, way = max(errors, key=_how_far)
    direction = way.value if len(ways) == 1 else "message"
    return Decoded(
        number, None, "", "", "", direction, way, None, nearest.header, data, nearest
    )  # fmt: skip


def _how_far(failure: tuple[RemoteProtocolError, Direction]) -> int:
    """
    Rate how much of a message was understood before it was given up.
    """
    error = failure[0]
    return error.offset if isinstance(error, MalformedMessageError) else -1


# Captures ----------------------------------------------------------------------


class _Run:
    """
    Decodes what is given, and remembers whether all went well.
    """

    def __init__(
        self,
        spoken: Protocol,
        ports: Sequence[int],
        form: Form,
        *,
        scrolls: bool,
    ) -> None:
        self.spoken = spoken
        self.ports = ports
        self.form = form
        self.scrolls = scrolls
        self.failed = False

    def shown(self, decoded: Decoded) -> None:
        """
        Show a message.
        """
        if decoded.error is not None:
            self.failed = True
        self.form.take(decoded)

    def capture(self, file: Any, name: str) -> None:
        """
        Show the messages of a capture.
        """
        if not self.ports and not self.spoken.ports:
            raise CommandError(
                f"{self.spoken.name} has no ports of its own; say where it is spoken "
                "with --port N"
            )
        try:
            capture = CaptureFile(file, "standard input" if name == "-" else name)
        except CaptureError as exc:
            raise CommandError(str(exc)) from exc
        conversations = Conversations(self.spoken, self.ports)
        messages = 0
        with _progress(file, scrolls=self.scrolls) as advance:
            try:
                for packet in capture:
                    for decoded in conversations.take(packet):
                        messages += 1
                        self.shown(decoded)
                    advance(packet.number)
            except CaptureError as exc:
                self.failed = True
                tell(str(exc))
            for decoded in conversations.finish():
                messages += 1
                self.shown(decoded)
        self._tell(capture, conversations, messages)

    def _tell(
        self, capture: CaptureFile, conversations: Conversations, messages: int
    ) -> None:
        """
        Tell what there is no message for.
        """
        if capture.truncated is not None:
            self.failed = True
            tell(capture.truncated)
        unknown = conversations.links.unknown
        if unknown:
            kinds = ", ".join(f"{k} ({n} packets)" for k, n in unknown.items())
            known = ", ".join(map(str, LINKTYPES))
            tell(
                f"{capture.name}: expected link types {known}, found {kinds}; these "
                "packets were left out"
            )
            self.failed = True
        elif not messages:
            ports = sorted({*(self.ports or self.spoken.ports.values())})
            tell(
                f"{capture.name}: none of its {capture.number} packets has "
                f"{self.spoken.name} at port {', '.join(map(str, ports))}; --port N "
                "names others"
            )


@contextlib.contextmanager
def _progress(file: Any, *, scrolls: bool) -> Iterator[Callable[[int], None]]:
    """
    Show how much of a long file has been read, where standard error is a terminal.

    Args:
        file: the file.
        scrolls: whether messages scroll by on that terminal, which a bar would only
            slow down.
    """
    from rich.console import Console

    console = Console(stderr=True)
    size = _size_of(file)
    if size < _LONG or scrolls or not console.is_terminal:
        yield lambda _: None
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    # Standard output is a file then: what goes there is not to be shown.
    with Progress(
        *columns, console=console, transient=True, redirect_stdout=False
    ) as bar:
        task = bar.add_task("", total=size)

        def advance(number: int) -> None:
            if number % 512 == 0:
                bar.update(task, completed=file.tell())

        yield advance


def _size_of(file: Any) -> int:
    """
    Give a file's size; 0 for what has none, such as a pipe.
    """
    try:
        status = os.fstat(file.fileno())
    except (OSError, ValueError):
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


@contextlib.contextmanager
def _quiet_when_nobody_reads() -> Iterator[None]:
    """
    End quietly if who reads has gone, as ``head`` does.
    """
    try:
        yield
    except BrokenPipeError:
        # What is buffered must go somewhere when the interpreter ends.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
