"""
Findings as files: a journal of what is sent, and a test that shows it again.

The journal is what ``protoserve replay`` sends and other tools read. The test plays
the case by `protoserve.testing.torturing.symptoms`, which judges as torture did, so
that it fails as long as the fault is there, against whatever server ``TORTURE_URL``
names.
"""

from __future__ import annotations

import pprint
import time
from pathlib import Path

import attrs

from protoserve.codec.annotated import annotated_text
from protoserve.codec.spans import spans
from protoserve.errors import ProtoserveError
from protoserve.journal import Entry, Journal
from protoserve.plain import to_plain
from protoserve.protocol import Direction, Protocol
from protoserve.testing.torturing.cases import Case, End, Pause, Send, Settle
from protoserve.testing.torturing.findings import Finding
from protoserve.urls import Address

__all__ = ["annotated", "save"]

_MOST_SHOWN = 8
"""Frames that are shown of one case."""
_MOST_LINES = 24
"""Lines for one frame."""
_LONGEST_SHOWN = 256
"""Bytes of a frame that are shown."""


def save(
    finding: Finding,
    folder: Path,
    *,
    protocol: Protocol,
    target: str,
    url: str,
    probe: bytes = b"",
) -> list[Path]:
    """
    Write what shows a finding.

    Args:
        finding: what was found.
        folder: where to; it is made.
        protocol: what is spoken.
        target: the protocol as ``MODULE:NAME``; without it no test is written.
        url: the server's.
        probe: a frame that the server answers.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name, number = finding.name, 1
    while (folder / f"{name}.jsonl").exists():
        number += 1
        name = f"{finding.name}_{number}"
    journal = folder / f"{name}.jsonl"
    cases = finding.suspects if finding.case is None else (finding.case,)
    _write_journal(journal, cases, protocol, url)
    files = [journal]
    if target and finding.case is not None:
        test = folder / f"test_{name}.py"
        test.write_text(_test(finding, finding.case, protocol, target, url, probe))
        files.append(test)
    return files


def _write_journal(
    path: Path, cases: tuple[Case, ...], protocol: Protocol, url: str
) -> None:
    address = Address.parse(url)
    now = time.time()
    with Journal(path) as journal:
        for case in cases:
            sessions: dict[int, int] = {}
            for step in case.steps:
                if isinstance(step, Pause):
                    now += step.seconds
                if not isinstance(step, Send):
                    continue
                entry = Entry(
                    time=now,
                    transport=address.transport,
                    local=f"{address.transport}://127.0.0.1:0",
                    peer=url,
                    session=sessions.get(step.on, 0),
                    role="client",
                    direction="out",
                    raw=step.data,
                )
                entry = _with_meaning(entry, protocol, address)
                number = journal.write(entry)
                sessions.setdefault(step.on, number)


def _with_meaning(entry: Entry, protocol: Protocol, address: Address) -> Entry:
    """
    Say what the bytes mean, if they are one whole frame.
    """
    found = _frames(protocol, entry.raw, stream=address.is_stream)
    if len(found) != 1:
        return attrs.evolve(entry, outcome="no whole frame")
    try:
        parsed = protocol.parse(found[0], Direction.REQUEST)
    except ProtoserveError as error:
        return attrs.evolve(entry, outcome=str(error).splitlines()[0])
    return attrs.evolve(
        entry,
        message=type(parsed.message).__name__,
        header=None if parsed.header is None else to_plain(parsed.header),
        fields=to_plain(parsed.message),
    )


def _frames(protocol: Protocol, data: bytes, *, stream: bool) -> list[bytes]:
    """
    Cut what was sent into frames, as far as that goes.
    """
    framing = protocol.framing
    if framing is None:
        return [data]
    found = []
    try:
        if not stream:
            return framing.split(data)
        framer = framing.framer()
        framer.feed(data)
        while (frame := framer.decode()) is not None:
            found.append(frame)
    except ProtoserveError:
        pass
    return found


def annotated(finding: Finding, protocol: Protocol, *, stream: bool) -> str:
    """
    Show what is sent, and the answer if that is what is wrong, field by field.
    """
    lines: list[str] = []
    cases = finding.suspects if finding.case is None else (finding.case,)
    sends = 0
    for step in (step for case in cases for step in case.steps):
        if isinstance(step, Pause):
            lines.append(f"silence for {step.seconds:g} s")
        elif isinstance(step, End):
            lines.append("the end of what is sent")
        elif isinstance(step, Send):
            sends += 1
            if sends > _MOST_SHOWN:
                continue
            where = f" on connection {step.on}" if step.on else ""
            lines.append(f"sent{where}, {len(step.data)} bytes: {_hex(step.data)}")
            for frame in _frames(protocol, step.data, stream=stream)[:4]:
                lines += _shown(protocol, frame, Direction.REQUEST)
    if sends > _MOST_SHOWN:
        lines.append(f"and {sends - _MOST_SHOWN} times more")
    if finding.answer:
        lines.append(f"answer, {len(finding.answer)} bytes:")
        lines += _shown(protocol, finding.answer, Direction.RESPONSE)
    return "\n".join(lines)


def _hex(data: bytes) -> str:
    text = data[:48].hex(" ") or "none"
    return f"{text} …" if len(data) > 48 else text


def _shown(protocol: Protocol, frame: bytes, direction: Direction) -> list[str]:
    found = spans(protocol, frame, direction)
    kept = [span for span in found if span.start < _LONGEST_SHOWN]
    if len(kept) < len(found):
        found[:] = kept
        frame = frame[: kept[-1].stop] if kept else b""
    lines = [f"  {line}" for line in annotated_text(found, frame).splitlines()]
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES - 6 : -5] = ["  …"]  # what is wrong comes last
    return lines


def _test(
    finding: Finding,
    case: Case,
    protocol: Protocol,
    target: str,
    url: str,
    probe: bytes,
) -> str:
    module, _, name = target.partition(":")
    root = name.partition(".")[0]
    stream = Address.parse(url).is_stream
    comment = annotated(finding, protocol, stream=stream).splitlines()
    names = sorted(
        {type(step).__name__ for step in case.steps}
        | {"Case", "symptoms"}
        | ({"Baseline"} if case.baseline is not None else set()),
        key=lambda word: (word.islower(), word),
    )
    steps = "".join(f"        {_step(step)},\n" for step in case.steps)
    due = "".join(
        f"            bytes.fromhex({f.hex()!r}),\n" for f in sorted(case.due)
    )
    options = ""
    if due:
        options += f"    due=frozenset(\n        {{\n{due}        }}\n    ),\n"
    if case.kept and finding.category == "closed":
        options += f"    kept=frozenset({sorted(case.kept)!r}),\n"
    if case.baseline is not None and finding.category in ("accepted", "state"):
        stable = pprint.pformat(case.baseline.stable, width=70)
        stable = stable.replace("\n", "\n        ")
        options += (
            f"    baseline=Baseline(\n        {case.baseline.message!r},\n"
            f"        {stable},\n    ),\n"
        )
    else:
        names = [word for word in names if word != "Baseline"]
    text = finding.text.replace("\\", "\\\\").replace('"""', "'''")
    return f'''"""
{finding.category}: {text}

Found by protoserve torture of {protocol.name}. TORTURE_URL names the server.
"""

import os

from {module} import {root}
from protoserve.testing.torturing import {", ".join(names)}

URL = os.environ.get("TORTURE_URL", {url!r})
PROBE = bytes.fromhex({probe.hex()!r})
"""A request that is answered."""

{"".join(f"# {line}".rstrip() + chr(10) for line in comment)}CASE = Case(
    {case.kind!r},
    (
{steps}    ),
{options})


def test_{finding.name}():
    assert [] == symptoms({name}, URL, CASE, probe=PROBE)
'''


def _step(step: object) -> str:
    if isinstance(step, Send):
        on = f", on={step.on}" if step.on else ""
        return f"Send(bytes.fromhex({step.data.hex()!r}){on})"
    if isinstance(step, Pause):
        return f"Pause({step.seconds:g})"
    assert isinstance(step, End | Settle)
    on = f"on={step.on}" if step.on else ""
    return f"{type(step).__name__}({on})"
